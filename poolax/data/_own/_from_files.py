"""A user's own data as a data set."""

from collections.abc import Sequence
from typing import Any, Literal

from etils import epath

from poolax._dataset import Dataset
from poolax._progress import Progress, no_progress
from poolax.data._encoded import Fit
from poolax.data._own._options import Options
from poolax.data._own._read import read
from poolax.data._own._series import Missing
from poolax.data.vision._images import IMAGE_SIZE


def from_files(
    path: Any,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    pair_columns: Sequence[str] | None = None,
    score_column: str | None = None,
    split_column: str | None = None,
    validation: epath.PathLike | float | None = None,
    test: epath.PathLike | float | None = None,
    seed: int = 0,
    name: str | None = None,
    encoding: str = "utf-8",
    quotes: bool = True,
    size: int = IMAGE_SIZE,
    fit: Fit = "crop",
    skip_bad: bool = False,
    time_column: str | None = None,
    series_column: str | None = None,
    value_column: str | None = None,
    task: Literal["forecasting", "imputation"] = "forecasting",
    context: int = 512,
    horizon: int = 96,
    stride: int = 1,
    missing: Missing = "error",
    progress: Progress = no_progress,
) -> Dataset:
    r"""A data set from a user's own files.

    What stands in ``path`` is told by its ending and its content:

    - texts: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, a row for each example;
    - images: a folder with a folder for each class, or one for each split with those of classes in it;
    - arrays: ``.npz`` with ``inputs`` and ``targets``, or ``x_train``, ``y_train``, …;
    - labelled series: a file of the UCR archive's format (``NAME_TRAIN.tsv`` finds ``NAME_TEST.tsv``),
      or a table with a row for each step and ``series_column``, ``value_column``, ``label_column``;
    - a long series: ``.csv`` with ``time_column`` and a column for each channel;
    - a folder with such tables or arrays called ``train``, ``validation`` (or ``valid``, ``val``,
      ``dev``) and ``test``, or with ``NAME_TRAIN.tsv``;
    - data sets of Hugging Face's library ``datasets``, as objects or as ``save_to_disk`` wrote them,
      where that is installed; and ``(inputs, targets)``, see :func:`from_arrays`.

    Labels are words or whole numbers. Splits that are not given are cut off the training split.

    Args:
        path: File or folder, or one of the objects above.
        text_column: Column of texts; by default one that is called ``text``, ``sentence``, …
        label_column: Column of labels; by default one that is called ``label``, ``category``, …
        pair_columns: The two columns of pairs of texts, with a score of their similarity or a label.
        score_column: Column of numbers to predict, in place of labels.
        split_column: Column with the split of each example; by default ``split``, where there is one.
        validation: File of the validation split, or the share of the training examples that is cut off
            for it; by default a tenth where no such split is given.
        test: File of the test split, or a share likewise; by default a fifth.
        seed: Seed of what is cut off, stratified by label; the data set's notes name it.
        name: Name of the data set; by default the file's or folder's.
        encoding: Of text files.
        quotes: Whether quotes hold cells of CSV together; otherwise they are text.
        size: Pixels a side that images are brought to.
        fit: How: ``"crop"`` or ``"pad"``.
        skip_bad: Whether images that cannot be decoded are left out; otherwise they are refused.
        time_column: Column of dates or numbers by which steps are ordered.
        series_column: Column that tells labelled series apart.
        value_column: Column of the values of labelled series.
        task: What a long series is used for, ``"forecasting"`` or ``"imputation"``.
        context: Steps of a window of a long series that are seen.
        horizon: Steps that are predicted.
        stride: Steps from the start of a window to that of the next.
        missing: ``"keep"`` reads gaps of labelled series, and what shorter ones lack, as NaN.
        progress: Called with a description, how much is done, and the total.

    Returns:
        The data set.

    Raises:
        ValueError: for content that does not fit, in one line that names the file, the line and
            what was expected; columns that are named and not there, with those that are; one class
            alone; labels that the training split has none of; fewer training examples than classes;
            arguments that do nothing to what stands there, such as ``size`` for texts.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "reviews.csv")
        ...     rows = [f"{word} film,{label}" for word, label in [("good", "+"), ("bad", "-")] * 9]
        ...     _ = file.write_text("\n".join(["text,label", *rows]))
        ...     dataset = from_files(file)
        >>> dataset.name, dataset.class_names, dataset.inputs[:2]
        ('reviews', ('+', '-'), array(['good film', 'bad film'], dtype=object))
        >>> {split: len(indices) for split, indices in dataset.splits.items()}
        {'train': 12, 'validation': 2, 'test': 4}
    """
    options = Options(
        text_column=text_column,
        label_column=label_column,
        pair_columns=pair_columns,
        score_column=score_column,
        split_column=split_column,
        validation=validation,
        test=test,
        seed=seed,
        encoding=encoding,
        quotes=quotes,
        size=size,
        fit=fit,
        skip_bad=skip_bad,
        time_column=time_column,
        series_column=series_column,
        value_column=value_column,
        task=task,
        context=context,
        horizon=horizon,
        stride=stride,
        missing=missing,
    )
    return read(path, options, name, progress)

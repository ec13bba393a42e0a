"""A user's own data as a data set."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from poolax._checks import check_choice, check_count
from poolax._dataset import Dataset
from poolax._files import DamagedFileError
from poolax._progress import Progress, no_progress
from poolax.data._damage import RESTORE
from poolax.data._encoded import Fit
from poolax.data._own._arrays import from_arrays, read_npz
from poolax.data._own._assemble import Splitting, labelled
from poolax.data._own._columns import Columns, choose_columns
from poolax.data._own._huggingface import (
    Parts,
    RowImages,
    is_huggingface,
    is_saved,
    load_saved,
    parts_of,
)
from poolax.data._own._images import has_images, image_folder
from poolax.data._own._series import Missing, grouped_series, is_ucr, long_series, ucr_dataset
from poolax.data._own._split import ALIASES
from poolax.data._own._table import TABLES, Table, labels_of, read_table
from poolax.data._own._texts import texts_dataset
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
            alone; labels that the training split has none of; fewer training examples than classes.

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
    check_count("seed", seed, at_least=0)
    splitting = Splitting(_share(validation), _share(test), seed)
    columns = {
        "text_column": text_column,
        "label_column": label_column,
        "pair_columns": pair_columns,
        "score_column": score_column,
        "split_column": split_column,
    }
    if is_huggingface(path):
        name = name or str((getattr(path, "info", None) and path.info.dataset_name) or "datasets")
        return _from_parts(parts_of(path, name), name, columns, splitting, size, fit, name)
    if isinstance(path, tuple) and len(path) == 2:
        return from_arrays(
            *path,
            validation=splitting.validation,
            test=splitting.test,
            seed=seed,
            name=name or "arrays",
        )
    given = _existing("path", path)
    name = name or given.stem.removesuffix("_TRAIN")
    others = {"validation": validation, "test": test}
    files = {"train": given, **{k: _existing(k, v) for k, v in others.items() if _is_path(v)}}
    source = str(given)
    if given.is_dir():
        if is_saved(given):
            parts = parts_of(load_saved(given), source)
            return _from_parts(parts, name, columns, splitting, size, fit, source)
        if has_images(given):
            options: dict[str, Any] = {"size": size, "fit": fit, "skip_bad": skip_bad}
            return image_folder(given, name, splitting, progress=progress, **options)
        files = {**_files_of_splits(given), **{k: v for k, v in files.items() if k != "train"}}
        given = files["train"]
    if given.suffix.lower() in (".npz", ".npy"):
        return read_npz(files, name, splitting)
    if series_column is None and time_column is None and is_ucr(given):
        with_test = {**files, **_beside(given), **files}
        try:
            return ucr_dataset(name, with_test, splitting, missing=missing, source=source)
        except DamagedFileError as error:
            raise ValueError(str(error).replace(f"; {RESTORE}", "")) from None
    _check_suffix(given)
    tables = {
        split: read_table(file, encoding=encoding, quotes=quotes) for split, file in files.items()
    }
    if series_column is not None:
        if value_column is None or label_column is None:
            argument = "value_column" if value_column is None else "label_column"
            raise ValueError(
                f"{argument}: expected the name of a column beside series_column, got none"
            )
        return grouped_series(
            name,
            _only(tables, "series_column"),
            splitting,
            series_column=series_column,
            value_column=value_column,
            label_column=label_column,
            time_column=time_column,
            source=source,
        )
    if time_column is not None:
        return long_series(
            name,
            _only(tables, "time_column"),
            time_column=time_column,
            task=task,
            context=context,
            horizon=horizon,
            stride=stride,
            source=source,
        )
    chosen = choose_columns(tables["train"], **columns)
    return texts_dataset(name, tables, chosen, splitting, source=source)


def _from_parts(
    parts: Parts,
    name: str,
    columns: Mapping[str, Any],
    splitting: Splitting,
    size: int,
    fit: Fit,
    source: str,
) -> Dataset:
    """A data set of Hugging Face's library."""
    # A share that is asked for takes the place of a split that is there.
    replaced = {
        split
        for split in ("validation", "test")
        if split in parts.tables and getattr(splitting, split) is not None
    }
    tables = {split: table for split, table in parts.tables.items() if split not in replaced}
    if parts.images is None:
        chosen = choose_columns(tables["train"], **columns)
    else:
        label = columns["label_column"] or next(iter(parts.class_names), "label")
        tables["train"].column("label_column", label)
        chosen = Columns((), label, None, None)
    tables, unlabelled = _with_labels(tables, chosen.label)
    names = parts.class_names.get(chosen.label or "")
    if parts.images is None:
        dataset = texts_dataset(name, tables, chosen, splitting, source=source, class_names=names)
    else:
        images = [row for split in tables for row in parts.images[split]]
        labels = [labels_of(table, "label_column", chosen.label or "") for table in tables.values()]
        ends = np.cumsum([0, *map(len, labels)])
        dataset = labelled(
            name,
            RowImages(images, source, size=size, fit=fit),
            [label for part in labels for label in part],
            {split: np.arange(*ends[i : i + 2]) for i, split in enumerate(tables)},
            splitting,
            lambda index: f"{source}, example {index}",
            source=source,
            class_names=names,
        )
    return dataclasses.replace(dataset, notes=(*dataset.notes, *unlabelled))


def _with_labels(tables: Mapping[str, Table], label: str | None):
    """The tables without test splits of leaderboards, whose labels are kept back."""
    kept = {
        split: table
        for split, table in tables.items()
        if split == "train" or label is None or any(one is not None for one in table.columns[label])
    }
    return kept, tuple(f"{split} left out: it has no labels" for split in tables if split not in kept)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _share(value: Any) -> float | None:
    return None if value is None or _is_path(value) else value


def _existing(argument: str, path: Any) -> epath.Path:
    if not _is_path(path):
        raise ValueError(
            f"{argument}: expected a file, a folder, (inputs, targets), or a data set of the library "
            f"datasets, got {type(path).__name__}"
        )
    found = epath.Path(path).expanduser()
    if not found.exists():
        raise ValueError(f"{argument}: expected a file or folder, got {path}, where there is nothing")
    return found


def _files_of_splits(folder: epath.Path) -> dict[str, epath.Path]:
    """Files that are called by their splits, or the archive's one file of a training split."""
    kinds = (*TABLES, ".npz")
    files = {
        ALIASES[file.stem.lower()]: file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in kinds and file.stem.lower() in ALIASES
    }
    archived = [file for file in sorted(folder.iterdir()) if file.stem.endswith("_TRAIN")]
    if "train" not in files and len(archived) == 1:
        return {"train": archived[0]}
    if "train" not in files:
        raise ValueError(
            "path: expected a folder of images by class, one that save_to_disk wrote, or one with a "
            f"file called train ({', '.join(kinds)}) or NAME_TRAIN.tsv, got {folder}"
        )
    return files


def _beside(path: epath.Path) -> dict[str, epath.Path]:
    """The archive's file of the other split, where it stands beside that of the first."""
    other = path.with_name(path.name.replace("_TRAIN.", "_TEST."))
    return {"test": other} if other != path and other.exists() else {}


def _check_suffix(path: epath.Path) -> None:
    kinds = (*TABLES, ".npz", ".ts", ".txt")
    check_choice(f"ending of {path}", path.suffix.lower() or "none", kinds)
    if path.suffix.lower() not in TABLES:
        raise ValueError(
            f"{path}: expected a label and the numbers of a series in every line, got another text"
        )


def _only(tables: Mapping[str, Table], argument: str) -> Table:
    if len(tables) > 1:
        raise ValueError(f"{argument}: expected one file, whose splits are cut, got {len(tables)}")
    return tables["train"]

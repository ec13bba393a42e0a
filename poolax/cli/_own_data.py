"""Data sets of the command line: one of those that are known by name, or a user's own files."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro
from etils import epath

from poolax import data
from poolax._checks import did_you_mean
from poolax._inputs import dtype_of
from poolax.cli._console import progress_bars, stderr, tell
from poolax.cli._data_options import errors_in_flags, in_flags, parse_options
from poolax.cli._program import asking
from poolax.training import task_for

_Column = Annotated[str | None, tyro.conf.arg(metavar="COLUMN")]
_Pair = Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="COLUMN COLUMN")]
# Arguments whose names mean something else on command lines.
_OTHER_NAMES = {"seed": "split_seed", "task": "series_task"}
_Part = Annotated[str | None, tyro.conf.arg(metavar="FILE|SHARE")]


@dataclasses.dataclass(frozen=True)
class FileFlags:
    """How a file or folder of one's own is read.

    Attributes:
        text_column: Column of texts; by default one called text, sentence, ….
        label_column: Column of labels; by default one called label, category, ….
        pair_columns: The two columns of pairs of texts, with a label or a score.
        score_column: Column of numbers to predict, in place of labels.
        split_column: Column with the split of each example; by default split, where there is one.
        validation: File of the validation split, or the share of the training examples for it; by
            default a tenth.
        test: File of the test split, or a share; by default a fifth.
        split_seed: Seed of the splits that are cut.
        encoding: Of text files.
        quotes: Whether quotes hold cells of CSV together.
        size: Pixels a side that images are brought to.
        skip_bad: Leave out images that cannot be decoded.
        time_column: Column of times: of a long series, or of steps.
        series_column: Column that tells labelled series apart.
        value_column: Column of the values of labelled series.
        series_task: What a long series is used for.
        context: Steps of a window of a long series.
        horizon: Steps that are predicted.
        missing: Gaps of labelled series: refuse them, or keep them as missing.
    """

    text_column: _Column = None
    label_column: _Column = None
    pair_columns: _Pair = None
    score_column: _Column = None
    split_column: _Column = None
    validation: _Part = None
    test: _Part = None
    split_seed: int = 0
    encoding: str = "utf-8"
    quotes: bool = True
    size: int = 224
    skip_bad: bool = False
    time_column: _Column = None
    series_column: _Column = None
    value_column: _Column = None
    series_task: Literal["forecasting", "imputation"] = "forecasting"
    context: int = 512
    horizon: int = 96
    missing: Literal["error", "keep"] = "error"

    def given(self) -> dict[str, Any]:
        """Flags that are not as by default."""
        fields = dataclasses.fields(self)
        return {
            one.name: getattr(self, one.name)
            for one in fields
            if getattr(self, one.name) != one.default
        }

    def arguments(self) -> dict[str, Any]:
        """Flags that are not as by default, as :func:`poolax.data.from_files` calls them."""
        names = {flag: argument for argument, flag in _OTHER_NAMES.items()}
        found = {names.get(name, name): value for name, value in self.given().items()}
        for part in ("validation", "test"):
            if part in found:
                found[part] = _file_or_share(found[part])
        return found


def is_own(name: str, *, argument: str = "name") -> bool:
    """Whether an argument is a file or folder of one's own, not the name of a data set.

    Args:
        name: What was given.
        argument: What it was given for.

    Raises:
        ValueError: where it is neither.
    """
    if name in data.names():
        return False
    # An empty path would be the current folder.
    if name and epath.Path(name).expanduser().exists():
        return True
    hint = did_you_mean(name, data.names())
    raise ValueError(
        f"{argument}: expected a data set (poolax data list) or a file or folder of your own, got "
        f"{name!r}{hint}"
    )


def load_data(
    name: str,
    files: FileFlags,
    *,
    data_dir: str | None = None,
    tfds_dir: str | None = None,
    option: Sequence[str] = (),
    argument: str = "name",
) -> tuple[data.Entry, data.Dataset, Mapping[str, Any]]:
    """A data set by its name, or from a file or folder.

    Args:
        name: What was asked for.
        files: How one's own files are read.
        data_dir: Folder of the files of a data set that has a name.
        tfds_dir: Folder of TensorFlow Datasets.
        option: ``"KEY=VALUE"`` for options of a data set that has a name.
        argument: What the name was given for.

    Returns:
        What is known of it, the data set, and the options that were given.

    Raises:
        ValueError: for flags of the other kind, and what reading it raises.
    """
    if is_own(name, argument=argument):
        if data_dir is not None or option:
            other = "data_dir" if data_dir is not None else "option"
            raise ValueError(f"{other}: expected none for a file of your own, got one")
        dataset = _read_own(name, files)
        return own_entry(dataset), dataset, files.given()
    given = files.given()
    if given:
        flag = f"--{next(iter(given)).replace('_', '-')}"
        raise ValueError(f"{flag}: expected for files of your own, got it for {name!r}")
    entry = data.entry(name)
    options = parse_options(entry, option)
    with errors_in_flags(entry):
        dataset = data.load(name, data_dir=data_dir, tfds_dir=tfds_dir, **options)
    return entry, dataset, options


def warn_of(dataset: data.Dataset) -> tuple[str, ...]:
    """Say on standard error what to look at first in a data set, and give it."""
    warnings = data.examine(dataset).warnings
    for warning in warnings:
        tell(stderr(), f"{dataset.name}: {warning}")
    return warnings


def _read_own(name: str, files: FileFlags) -> data.Dataset:
    with errors_in_file_flags(), progress_bars(stderr()) as progress:
        return data.from_files(name, progress=asking(progress), **files.arguments())


@contextlib.contextmanager
def errors_in_file_flags() -> Iterator[None]:
    """Errors of readers of files with their arguments as one writes them on the command line."""
    try:
        yield
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(_in_flags(str(error))) from error


def _in_flags(text: str) -> str:
    """A message with arguments as one writes them on the command line."""
    for argument, flag in _OTHER_NAMES.items():
        if text.startswith(f"{argument}: "):
            text = flag + text.removeprefix(argument)
    text = in_flags(text, (field.name for field in dataclasses.fields(FileFlags)))
    return text.replace("--skip-bad True", "--skip-bad").replace("--quotes False", "--no-quotes")


def _file_or_share(given: str) -> str | float:
    try:
        return float(given)
    except ValueError:
        return given


def own_entry(dataset: data.Dataset) -> data.Entry:
    """What is known of a data set of one's own."""
    inputs = dataset.inputs
    dtype = dtype_of(inputs)
    is_text = dtype is not None and dtype.kind in "OU"
    modality = "language" if is_text else "vision" if len(inputs.shape) == 4 else "series"
    return data.Entry(
        name=dataset.name,
        modality=modality,
        task=task_for(dataset).name,
        title=f"{dataset.name}, of your own",
        source=dataset.source,
        citation="",
        licence=dataset.licence,
        preprocessing="",
    )

"""Which data sets are compared on: those of a study, others of the library, and a user's own."""

from collections.abc import Mapping, Sequence

from etils import epath

from comparison._models import loaded
from comparison._options import Options
from comparison._study import Case, Study, check_backbones
from poolax.cli import check_takes, did_you_mean, own_entry
from poolax.data import Dataset, entry, names

_TASKS = ("forecasting", "imputation", "inpainting", "next_token")


def named_task(name: str) -> tuple[str, str | None]:
    """A data set and what it is used for, from a name such as ``"etth2_imputation"``.

    Example:
        >>> named_task("etth2_imputation"), named_task("etth2"), named_task("my_imputation.csv")
        (('etth2', 'imputation'), ('etth2', None), ('my_imputation.csv', None))
    """
    for task in _TASKS:
        base = name.removesuffix(f"_{task}")
        of_texts = base in names() and entry(base).modality == "language"
        if base != name and base in names() and of_texts == (task == "next_token"):
            return base, task
    return name, None


def chosen_cases(study: Study, options: Options) -> dict[str, Case]:
    """The rows that ``--datasets`` names, or all of the study.

    Args:
        study: The comparison.
        options: Its command line.

    Raises:
        ValueError: for what is neither a data set of the study's modality nor a file or folder, and for
            flags of files where there are none.
    """
    flags = options.files.given()
    if flags and not any(_is_file(study, name) for name in options.datasets):
        flag = f"--{next(iter(flags)).replace('_', '-')}"
        raise ValueError(f"{flag}: expected for files of your own, got it without one in --datasets")
    return {name: _case(study, name) for name in options.datasets or study.cases}


def check_together(study: Study, datasets: Mapping[str, Dataset]) -> None:
    """Refuse files of another modality than the study's, and two data sets of one name.

    Args:
        study: The comparison.
        datasets: What was read, by what it was asked for with.
    """
    paths: dict[str, str] = {}
    for path, data in datasets.items():
        if not _is_file(study, path):
            paths.setdefault(data.name, path)
            continue
        _check_modality(study, path, own_entry(data).modality)
        if data.name in paths:
            raise ValueError(
                f"datasets: expected files of different names, got {paths[data.name]} and {path}"
            )
        paths[data.name] = path


def check_fit(study: Study, datasets: Mapping[str, Dataset], paths: Sequence[str]) -> None:
    """Refuse backbones of another modality, and those that do not take the inputs of a data set.

    Images of data sets that have a name are brought to what a backbone takes.

    Args:
        study: The comparison.
        datasets: What is compared on, by what it was asked for with.
        paths: Of the backbones that are given.
    """
    check_backbones(paths, {study.modality})
    for path in paths:
        for name, data in datasets.items():
            if study.modality != "vision" or _is_file(study, name):
                check_takes(loaded(path), data, path, argument="backbone")


def _is_file(study: Study, name: str) -> bool:
    return name not in study.cases and named_task(name)[0] not in names()


def _case(study: Study, name: str) -> Case:
    if name in study.cases:
        return study.cases[name]
    if not _is_file(study, name):
        base, task = named_task(name)
        known = entry(base)
        _check_modality(study, name, known.modality)
        if known.task == "next_token" and task != "next_token":
            raise ValueError(f"datasets: expected {name}_next_token, since {name} has no targets")
    elif not epath.Path(name).expanduser().exists():
        others = [known for known in names() if entry(known).modality == study.modality]
        every = [*study.cases, *(known for known in others if entry(known).task != "next_token")]
        every = list(dict.fromkeys(every))
        raise ValueError(
            f"datasets: expected {', '.join(every)}, or a file or folder of your own, got {name!r}"
            f"{did_you_mean(name, every)}"
        )
    return study.other(name)


def _check_modality(study: Study, name: str, modality: str) -> None:
    if modality != study.modality:
        raise ValueError(
            f"datasets: expected those of modality {study.modality}, got {name!r}: {modality}"
        )

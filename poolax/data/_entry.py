"""What is known of a public data set: where it comes from, and how it is read."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from etils import epath

from poolax._dataset import Dataset
from poolax._files import DamagedFileError, damaged, reading
from poolax._splits import TooFewExamplesError
from poolax.data._damage import RESTORE

_PARTIAL = {"partial": "whether files may hold another number of examples than was published"}
_ANY_SIZE = "partial=True reads them as they are"

Modality = Literal["vision", "language", "series"]


class MissingFilesError(ValueError):
    """A data set is not in the folder where it was looked for."""


@dataclasses.dataclass(frozen=True)
class Download:
    """A file of a data set as its publisher offers it.

    Attributes:
        url: Address.
        sha256: Digest, where the publisher, TensorFlow Datasets or public records of a download print
            it, or a byte-identical file was read; ``None`` otherwise, and the first download writes its
            own beside the data for later ones.
        file: Name under which it is kept.
    """

    url: str
    sha256: str | None
    file: str


@dataclasses.dataclass(frozen=True)
class TFDS:
    """A builder of TensorFlow Datasets.

    Attributes:
        name: Name of the builder, with its configuration, such as ``"cifar10"``.
        needs_tensorflow: Whether *preparing* it needs TensorFlow; reading never does.
        manual: Whether its files have to be downloaded by hand first.
        read: The data set from the open builder.
        module: Module that defines it, where TensorFlow Datasets does not import that by itself.
    """

    name: str
    needs_tensorflow: bool
    manual: bool
    read: Callable[..., Dataset]
    module: str | None = None


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is prepared in place of a data set whose examples repeat each other, such as windows.

    Attributes:
        read: From a directory its records, a data set themselves, and what is to be kept beside them,
            as plain JSON.
        derive: The data set from both; keyword arguments are the options of the entry.
    """

    read: Callable[..., tuple[Dataset, Mapping[str, Any]]]
    derive: Callable[..., Dataset]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named data set.

    Attributes:
        name: As it is called on the command line and in records.
        modality: ``"vision"``, ``"language"`` or ``"series"``.
        task: What it is used for by default: the name of a task.
        title: Its full name.
        sizes: Examples of each published split; empty where no source states them.
        source: Home page or paper.
        citation: BibTeX or a full reference.
        licence: Licence, as its source states it.
        preprocessing: What is done to the inputs.
        layout: Files that ``--data-dir`` has to hold.
        read: The data set from a directory with these files; keyword arguments are ``options``.
            ``None`` where it comes with a library.
        embedded: The data set from a library, without any file; ``None`` otherwise.
        options: Names of the keyword arguments that it takes beside a directory, with what they say.
        tfds: The builder of TensorFlow Datasets, if there is one.
        downloads: Files that make up ``layout``, if they can be fetched without an account.
        holds: Splits of the data set that hold a published split; one that is not named is held by
            that of its name, train by train and validation where no validation was published.
        own_layouts: Files of layouts that are not the publisher's, whose sizes are free.
        stored: What is prepared, where that is not the data set itself.
        notes: What else is to be known before it is read, such as a download that is a mirror's.
        verified: Whether the whole of it was read and checked by the authors of this library.
    """

    name: str
    modality: Modality
    task: str
    title: str
    source: str
    citation: str
    licence: str
    preprocessing: str
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    layout: str = ""
    read: Callable[..., Dataset] | None = None
    embedded: Callable[..., Dataset] | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tfds: TFDS | None = None
    downloads: tuple[Download, ...] = ()
    holds: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    own_layouts: tuple[str, ...] = ()
    stored: Stored | None = None
    notes: tuple[str, ...] = ()
    verified: bool = False

    @property
    def all_options(self) -> Mapping[str, str]:
        """Options with the one that reads a part of what was published."""
        return {**self.options, **(_PARTIAL if self.sizes and self.read is not None else {})}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the data set does not take."""
        unknown = sorted(set(options) - set(self.all_options))
        if unknown:
            known = ", ".join(sorted(self.all_options)) or "none"
            raise ValueError(f"{unknown[0]}: expected options of {self.name!r} ({known}), got it")
        if not isinstance(options.get("partial", False), bool):
            raise ValueError(f"partial: expected True or False, got {options['partial']!r}")

    def read_files(self, data_dir: epath.PathLike, *, partial: bool = False, **options: Any) -> Dataset:
        """The data set from a folder of its files, or of a folder of its name with them.

        Args:
            data_dir: The folder.
            partial: Whether the files may hold another number of examples than was published.
            **options: Options of the data set.

        Raises:
            ValueError: if files are missing, malformed, or a part of what was published.
        """
        read = self.read
        if read is None:
            raise ValueError(f"data_dir: expected none for {self.name!r}, which comes with a library")
        if self.stored is not None and partial:
            options["partial"] = True

        def read_whole(directory: epath.Path) -> Dataset:
            whole = f"the whole of {self.layout}"
            with reading(directory, whole, RESTORE, TooFewExamplesError):
                dataset = read(directory, **options)
            others = [] if self.stored is not None else self._other_sizes(dataset, directory)
            for split, found, published in others if not partial else []:
                examples = f"{split} examples in {self.layout}"
                raise other_size(directory, examples, found, published)
            notes = tuple(
                f"{found} of the {published} published {split} examples"
                for split, found, published in others
            )
            return dataclasses.replace(dataset, notes=(*dataset.notes, *notes)) if notes else dataset

        return _in_or_below(self.name, data_dir, read_whole)

    def read_stored(
        self, data_dir: epath.PathLike, *, partial: bool = False, **options: Any
    ) -> tuple[Dataset, Mapping[str, Any]]:
        """What is prepared, from the same folders, and what is kept beside it."""
        if self.stored is None:
            return self.read_files(data_dir, partial=partial, **options), {}
        allowed = {"partial": True} if partial else {}
        return _in_or_below(self.name, data_dir, functools.partial(self.stored.read, **allowed))

    def other_sizes(self, counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
        """Published splits that a data set does not hold whole.

        Args:
            counts: Examples of each split of the data set.

        Returns:
            The name of each such split, its examples in the data set, and those that were published;
            nothing of splits that it does not hold by design.

        Example:
            >>> from poolax.data import entry
            >>> entry("stsb").other_sizes({"train": 5749, "validation": 1500, "test": 20})
            [('test', 20, 1379)]
        """
        others = []
        for split, published in self.sizes.items():
            is_cut = split == "train" and "validation" not in self.sizes
            held_by = self.holds.get(split, (split, "validation") if is_cut else (split,))
            found = sum(counts.get(name, 0) for name in held_by)
            if held_by and found != published:
                others.append((split, found, published))
        return others

    def _other_sizes(self, dataset: Dataset, directory: epath.Path) -> list[tuple[str, int, int]]:
        """Published splits of other sizes in the data set, as of files that are cut off."""
        if any((directory / file).exists() for file in self.own_layouts):
            return []
        return self.other_sizes({name: len(rows) for name, rows in dataset.splits.items()})


def other_size(where: epath.PathLike, what: str, found: int, published: int) -> DamagedFileError:
    """The error for files that do not hold what was published, to be raised."""
    return damaged(
        where, f"expected the {published} published {what}, got {found}", f"{RESTORE}; {_ANY_SIZE}"
    )


def _in_or_below(name: str, data_dir: epath.PathLike, read: Callable[[epath.Path], Any]) -> Any:
    directory = epath.Path(data_dir).expanduser()
    if not directory.is_dir():
        raise ValueError(f"data_dir: expected a folder, got {data_dir}, which is none")
    below = directory / name
    try:
        return read(directory)
    except MissingFilesError:
        if not below.is_dir():
            raise
    return read(below)


def existing(directory: epath.PathLike, file: str) -> epath.Path:
    """The path of a file of a data set, which has to be there."""
    path = epath.Path(directory) / file
    if not path.exists():
        raise MissingFilesError(f"data_dir: expected {file} in {directory}, which has none")
    return path

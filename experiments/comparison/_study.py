"""What a comparison states: its data sets, tasks and backbones."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from etils import epath

from comparison._models import loaded, name_of, pretrained_of
from comparison._options import Options
from poolax.backbones import Backbone
from poolax.cli import is_own, load_data, warn_of
from poolax.data import Dataset, entry, load
from poolax.training import Progress, Task


@dataclasses.dataclass(frozen=True)
class Context:
    """What a case is made from.

    Attributes:
        options: The command line.
        out: Folder of the comparison.
        progress: Called with a description, the number done and the total.
    """

    options: Any
    out: epath.Path
    progress: Progress

    def load(self, name: str, *, limit: int | None = None, **options: Any) -> Dataset:
        """A data set from ``--data-dir``, with at most ``limit`` examples of each split.

        Args:
            name: Its name.
            limit: Most examples of a split unless ``--num-examples`` says otherwise; ``None`` for all.
            **options: Options of the data set.
        """
        # Data sets that come with a library are in no folder.
        data_dir = None if entry(name).embedded is not None else self.options.data_dir
        return self._limited(load(name, data_dir=data_dir, **options), limit)

    def read(self, name: str, limit: int | None = None, **options: Any) -> Dataset:
        """A data set by its name, or a user's own file or folder, whose flaws are told.

        Args:
            name: Its name, or the path.
            limit: Most examples of a split unless ``--num-examples`` says otherwise; ``None`` for all.
            **options: Options of a data set that has a name.
        """
        if not is_own(name):
            return self.load(name, limit=limit, **options)
        _, data, _ = load_data(name, self.options.files)
        warn_of(data)
        return self._limited(data, limit)

    def _limited(self, data: Dataset, limit: int | None) -> Dataset:
        limit = self.options.num_examples or limit
        return data if limit is None else data.subset(limit)


class Model(NamedTuple):
    """A frozen backbone, with what it reads.

    Attributes:
        backbone: The backbone.
        name: What tables call it.
        pretrained: How it was pretrained, in words.
        data: The data set, as this backbone reads it.
    """

    backbone: Backbone
    name: str
    pretrained: str
    data: Dataset


def as_they_are(context: Context, data: Dataset, backbone: Backbone) -> tuple[Dataset, Backbone]:
    """A data set and a backbone that fit each other."""
    del context
    return data, backbone


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table: a task on a data set, with frozen backbones.

    Attributes:
        dataset: Gives the data set.
        task: What heads predict on it.
        backbone: Gives the backbone that is taken where none is given, and its name in the table.
        epochs: Passes over the training split, unless the command line says otherwise.
        batch_size: Examples a step.
        fitted: Makes a data set and a backbone fit each other.
    """

    dataset: Callable[[Context], Dataset]
    task: Callable[[Dataset], Task]
    backbone: Callable[[Context], tuple[Backbone, str]]
    epochs: int = 10
    batch_size: int = 32
    fitted: Callable[[Context, Dataset, Backbone], tuple[Dataset, Backbone]] = as_they_are

    def models(self, context: Context, data: Dataset, modality: str) -> Iterator[Model]:
        """The backbones that are given for a modality, or the case's own one.

        Args:
            context: What the case is made from.
            data: The data set.
            modality: What the data are: a backbone that reads something else is none of these.
        """
        given = {path: loaded(path) for path in context.options.backbone}
        given = {path: model for path, model in given.items() if model.modality == modality}
        named = [(model, name_of(path)) for path, model in given.items()]
        for backbone, name in named or [self.backbone(context)]:
            own, fitted = self.fitted(context, data, backbone)
            yield Model(fitted, name, pretrained_of(backbone, name), own)


def check_backbones(paths: Sequence[str], modalities: Collection[str]) -> None:
    """Load what is given, and refuse what reads something else, or two of one name.

    Args:
        paths: Directories or hub ids.
        modalities: What there are data of.

    Raises:
        ValueError: for these, and as :func:`poolax.backbones.load` raises.
    """
    names: dict[str, str] = {}
    for path in paths:
        reads = loaded(path).modality
        if reads not in modalities:
            known = " or ".join(sorted(modalities))
            raise ValueError(f"backbone: expected a backbone of modality {known}, got {reads} ({path})")
        if name_of(path) in names:
            raise ValueError(
                f"backbone: expected different names, got {names[name_of(path)]} and {path}"
            )
        names[name_of(path)] = path


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison of poolers: one table.

    Attributes:
        name: Of its files.
        modality: What its backbones read.
        title: Of its table.
        options: Its command line with all defaults.
        cases: Rows of the table by name.
        other: Gives the row for another data set by its name, or for a user's own file or folder.
        quick: What ``--quick`` makes of the command line, with the data where none are named.
        radar: Whether its tasks are drawn together as well, an axis each.
    """

    name: str
    modality: Literal["language", "vision", "series"]
    title: str
    options: Options
    cases: Mapping[str, Case]
    other: Callable[[str], Case]
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    radar: bool = False


def with_notes(data: Dataset, *notes: str) -> Dataset:
    """The data set with more notes, which stand below the table."""
    return dataclasses.replace(data, notes=(*data.notes, *notes))

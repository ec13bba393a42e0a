"""What a comparison states: its data sets, tasks and backbones."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from comparison._options import Options
from poolax.backbones import Backbone
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
        data = load(name, data_dir=data_dir, **options)
        limit = self.options.num_examples or limit
        return data if limit is None else data.subset(limit)


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table: a task on a data set, with a frozen backbone.

    Attributes:
        dataset: Gives the data set.
        task: What heads predict on it.
        backbone: Gives the backbone and its name in the table.
        epochs: Passes over the training split, unless the command line says otherwise.
        batch_size: Examples a step.
    """

    dataset: Callable[[Context], Dataset]
    task: Callable[[Dataset], Task]
    backbone: Callable[[Context], tuple[Backbone, str]]
    epochs: int = 10
    batch_size: int = 32


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison of poolers: one table.

    Attributes:
        name: Of its files.
        title: Of its table.
        options: Its command line with all defaults.
        cases: Rows of the table by name.
    """

    name: str
    title: str
    options: Options
    cases: Mapping[str, Case]


def with_notes(data: Dataset, *notes: str) -> Dataset:
    """The data set with more notes, which stand below the table."""
    return dataclasses.replace(data, notes=(*data.notes, *notes))

"""The values that the paper published."""

import csv
import dataclasses
import functools
import importlib.resources

from poolax.reporting._marks import is_share

_FILE = "paper_results.csv"
_TEXTS = ("model", "task", "dataset", "metric", "condition", "pooling")


@dataclasses.dataclass(frozen=True)
class PaperCell:
    """A value that the paper published.

    Attributes:
        table: Number of its table.
        model: What the paper calls the model.
        task: Name of the task.
        dataset: What the paper calls the data.
        metric: Name of the metric.
        condition: What else is said of it, such as ``"seq_len=16"``; empty for most.
        pooling: Name of the pooler.
        mean: The mean over seeds as printed, shares in percent.
        std: Standard deviation over seeds, likewise; ``None`` where none is printed.
    """

    table: int
    model: str
    task: str
    dataset: str
    metric: str
    condition: str
    pooling: str
    mean: float
    std: float | None

    @property
    def is_percent(self) -> bool:
        """Whether it is printed in percent."""
        return is_share(self.metric)

    @property
    def value(self) -> float:
        """The mean in the unit of records, in which shares are from 0 to 1."""
        return self.mean / 100 if self.is_percent else self.mean


@functools.cache
def paper_results() -> tuple[PaperCell, ...]:
    """All values of the tables of "Pool Me Wisely" (arXiv 2510.03339), as they are printed there.

    The package holds them beside a page on where they come from, and on values to be careful with:
    ``poolax/reporting/_paper/paper_results.md``.

    Returns:
        The values, in the order of its tables.

    Example:
        >>> len(paper_results()), paper_results()[0].dataset, paper_results()[0].mean
        (1032, 'CIFAR-10', 90.35)
    """
    text = importlib.resources.files("poolax.reporting._paper").joinpath(_FILE).read_text("utf-8")
    return tuple(
        PaperCell(
            table=int(row["table"]),
            mean=float(row["mean"]),
            std=float(row["std"]) if row["std"] else None,
            **{name: row[name] for name in _TEXTS},
        )
        for row in csv.DictReader(text.splitlines())
    )

"""Records: one JSON object a result, with what is needed to trust and to repeat it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from etils import epath

from poolax._paths import absolute_path
from poolax._processes import is_writer
from poolax.records._lines import append_lines, read_lines, replace_lines
from poolax.records._predictions import Predictions, predictions_of


class Records(Sequence):
    """A sequence of records, each a dictionary of plain JSON.

    Args:
        rows: The records.

    Attributes:
        cut_off: Number of the last line of the file that the records were read from, where that line
            is cut off and left out; ``None`` otherwise.

    Example:
        >>> records = Records([{"pooler": "avg", "test": 0.9}, {"pooler": "sum", "test": 0.8}])
        >>> [row["test"] for row in records.where(pooler="avg")]
        [0.9]
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self._rows = [dict(row) for row in rows]
        self.cut_off: int | None = None

    def __len__(self):
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Records": ...
    def __getitem__(self, index):
        return Records(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __repr__(self):
        return f"Records({len(self)} rows)"

    def where(self, **fields: Any) -> "Records":
        """The records whose fields have the given values."""
        return Records(
            row for row in self if all(row.get(name) == value for name, value in fields.items())
        )

    def predictions(self, split: str = "test") -> list[Predictions]:
        """What each head predicts of each example of a split: target, prediction, score.

        Scores of examples are kept of every head. Of classifications, of pairs of sentences and of
        single numbers targets and predictions stand beside them. What has many numbers an example, such
        as segmentations, series and pixels, is kept by its scores alone; probabilities are as long as
        all of them are at most 16,384 numbers, and of at most 256 classes.

        Args:
            split: ``"test"`` or ``"validation"``.

        Returns:
            One :class:`Predictions` for each record, in order.

        Raises:
            ValueError: for a record that holds none, as those of earlier versions.

        Example:
            >>> import numpy as np
            >>> from poolax.records import packed
            >>> kept = {"test": packed({"target": np.array([2, 0])})}
            >>> row = {"kind": "head", "id": "1a", "pooler": "avg", "seed": 0, "metric": "accuracy",
            ...        "higher_is_better": True, "test": 0.5, "test_scores": [1.0, 0.0]}
            >>> Records([row | {"predictions": kept}]).predictions()[0].target
            array([2, 0])
            >>> Records([row]).predictions()
            Traceback (most recent call last):
            ...
            ValueError: records: expected the predictions of head 1a, got none: the version that wrote \
the record did not keep them; the same sweep in a new folder does
        """
        return [predictions_of(row, split) for row in self]

    @classmethod
    def read(cls, path: epath.PathLike, *, warns: bool = True) -> "Records":
        """Read JSON lines; no file gives no records.

        Of records with the same ``id`` the last one counts. Each is compared with the digest that was
        written with it; older ones have none. A last line that is cut off is left out, with a warning
        where it ``warns``; in either case ``cut_off`` says which.

        Raises:
            ValueError: for a line that is not a JSON object, not the record that was written, or not
                as a record of its kind has to be; it is an ``OSError`` as well.
        """
        path = epath.Path(path)
        if not path.exists():
            return cls()
        lines = read_lines(path, warns=warns)
        records = cls(_latest(lines.rows))
        records.cut_off = lines.cut_off
        return records

    def write_to(self, path: epath.PathLike) -> None:
        """Add the records to a file of JSON lines; those in it with the same ``id`` count no longer.

        Each gets a digest of itself. All are written or none, and only by process 0; programs that
        write to the same folder take turns. Numbers that are not finite become null.

        Raises:
            ValueError: for a record that is not as its kind has to be; nothing is written then.
            BlockingIOError: if another program does not let go of the folder for a minute.
            OSError: where the system refuses; the file is then as it was.
        """
        if is_writer() and self._rows:
            append_lines(absolute_path(path), self._rows)

    def write_as(self, path: epath.PathLike) -> None:
        """Make the records the whole of a file of JSON lines, in place of what is there.

        What is there stays until all are written, as by :meth:`write_to`.

        Raises:
            ValueError: for a record that is not as its kind has to be; nothing is written then.
            OSError: where the system refuses; the file is then as it was.
        """
        if is_writer():
            replace_lines(absolute_path(path), self._rows)


def _latest(rows):
    """The rows without those that one with the same id follows."""
    ids = [row["id"] if isinstance(row.get("id"), str) else None for row in rows]
    last = {key: place for place, key in enumerate(ids)}
    return [row for place, row in enumerate(rows) if ids[place] is None or last[ids[place]] == place]

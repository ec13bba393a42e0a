"""Measurements that are made once, and found again by what they are of."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from poolax._processes import once, told
from poolax._signals import stop_if_asked
from poolax.records._environment import environment
from poolax.records._plain import as_written, difference, digest
from poolax.records._rows import Records


class Journal:
    """A file of measurements: what stands in it is not measured again, what does not is added.

    Where several processes run, one reads and writes the file, all measure, and all get the record of
    that one.

    Args:
        path: File of JSON lines, which may hold other records too; ``None`` keeps nothing.
        identity: What makes every measurement of this journal another one, plain JSON. It is part of
            their ids, not of their records.
        made_with: Gives what each record says of how it was made.

    Raises:
        ValueError: for a file that is damaged, as :meth:`Records.read` raises.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(f"{folder}/a.jsonl")
        ...     first = journal.measured({"of": "W"}, lambda: {"norm": 2.0})
        ...     again = Journal(f"{folder}/a.jsonl").measured({"of": "W"}, lambda: {"norm": 3.0})
        >>> first["norm"], first == again
        (2.0, True)
    """

    def __init__(
        self,
        path: epath.PathLike | None,
        *,
        identity: Mapping[str, Any] | None = None,
        made_with: Callable[[], Mapping[str, Any]] = environment,
    ):
        self._path = path
        self._identity = dict(identity or {})
        self._made_with = made_with
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None:
            once(lambda: self._read(path), f"{path}: its records")

    def _read(self, path):
        self._rows = {row["id"]: row for row in Records.read(path) if "id" in row}

    def measured(
        self,
        what: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Any]],
        *,
        is_there: Callable[[], bool] | None = None,
        formerly: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The record of a measurement: from the file, or made now and added to it.

        Args:
            what: Of what, plain JSON; part of the record.
            measure: Measures it; what it gives is the rest of the record.
            is_there: Whether that which measuring leaves behind, such as a checkpoint, still is; where
                it is not, the record does not count.
            formerly: What an earlier program called the same, whose records count as well: they keep
                their ids. Reading has to bring the rest of them up to date; see :func:`record_kind`.

        Returns:
            The record, with its ``id``, the time that it took, and how it was made.

        Raises:
            PreemptedError: if a signal has asked to stop, before the measurement.
            ValueError: for a record that is not as its kind has to be.
            BlockingIOError: as :meth:`Records.write_to` raises.
        """
        key = digest({**self._identity, **what})
        keys = [key] if formerly is None else [key, digest({**self._identity, **formerly})]
        row = told(lambda: self._found(keys, what, is_there), f"{self._path}: its records")
        if row is not None:
            return row
        stop_if_asked()
        started = time.perf_counter()
        made = {"id": key, **what, **measure()}
        made |= {"wall_s": round(time.perf_counter() - started, 3), **self._made_with()}
        return told(lambda: self._kept(key, made), f"{self._path}: its records")

    def _found(self, keys, what, is_there):
        """The record that counts, if there is one: of this measurement, and written to its end."""
        row = next((self._rows[key] for key in keys if key in self._rows), None)
        if row is None or "command" not in row or difference(row, what) is not None:
            return None
        return row if is_there is None or is_there() else None

    def _kept(self, key, made):
        row = as_written(made)
        if self._path is not None:
            Records([row]).write_to(self._path)
        self._rows[key] = row
        return row

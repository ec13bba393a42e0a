"""Records: one JSON object a result, with what is needed to trust and to repeat it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import jax
from etils import epath

from poolax._files import damaged, json_object
from poolax._locks import alone_in
from poolax._paths import absolute_path, write_atomically
from poolax.records._plain import as_written, digest

_REMEDY = "remove the line, and the run that wrote it makes it again"
# Stands in the file alone, so that a record is equal to what was written.
_SEAL = "digest"
_PATIENCE = 60.0


class Records(Sequence):
    """A sequence of records, each a dictionary of plain JSON.

    Args:
        rows: The records.

    Example:
        >>> records = Records([{"pooler": "avg", "test": 0.9}, {"pooler": "sum", "test": 0.8}])
        >>> [row["test"] for row in records.where(pooler="avg")]
        [0.9]
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self._rows = [dict(row) for row in rows]

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

    @classmethod
    def read(cls, path: epath.PathLike) -> "Records":
        """Read JSON lines; no file gives no records.

        Each record is compared with the digest that was written with it; older ones have none.

        Raises:
            ValueError: for a line that is not a JSON object, or not the record that was written; it is
                an ``OSError`` as well.
        """
        path = epath.Path(path)
        if not path.exists():
            return cls()
        return cls(
            _unsealed(json_object(line, f"{path}, line {number}", _REMEDY), f"{path}, line {number}")
            for number, line in enumerate(path.read_bytes().splitlines(), 1)
        )

    def write_to(self, path: epath.PathLike) -> None:
        """Add the records to a file of JSON lines, in place of those with the same ``id``.

        Each gets a digest of itself. All or none are written, and only by process 0; programs that
        write to the same folder take turns. Numbers that are not finite become null.

        Raises:
            BlockingIOError: if another program does not let go of the folder for a minute.
            ValueError: as :meth:`read` raises.
        """
        if jax.process_index() != 0 or not self._rows:
            return
        path = absolute_path(path)
        with alone_in(path.parent, name="records", seconds=_PATIENCE):
            new = {row["id"] for row in self if "id" in row}
            rows = [row for row in Records.read(path) if row.get("id") not in new]
            lines = [json.dumps(_sealed(row), allow_nan=False) + "\n" for row in [*rows, *self]]
            write_atomically(path, "".join(lines))


def _sealed(row):
    """A record as it is written: with a digest of all the rest."""
    plain = as_written(row)
    plain.pop(_SEAL, None)
    return plain | {_SEAL: digest(plain)}


def _unsealed(row, where):
    """A record as it was given to be written."""
    said = row.pop(_SEAL, None)
    if said is not None and said != digest(row):
        problem = f"expected the record that was written, whose digest is {said}, got another"
        raise damaged(where, problem, _REMEDY)
    return row

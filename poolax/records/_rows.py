"""Records: one JSON object a result, with what is needed to trust and to repeat it."""

import functools
import hashlib
import json
import math
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, overload

import jax
import numpy as np
from etils import epath

from poolax._files import damaged, json_object
from poolax._locks import alone_in
from poolax._paths import absolute_path, write_atomically

_REMEDY = "remove the line, and the run that wrote it makes it again"
# Stands in the file alone, so that a record is equal to what was written.
_SEAL = "digest"
_PACKAGES = ("poolax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
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


def plain_json(value: Any) -> Any:
    """Plain JSON of nested values: tuples as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {key: plain_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_written(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it would be read again: lists for tuples, null for numbers that are not finite."""
    return json.loads(json.dumps(plain_json(row), allow_nan=False))


def difference(row: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
    """The first of some fields of which a record says something else, or ``None``.

    Example:
        >>> difference({"seed": 0, "shape": [2, 3]}, {"shape": (2, 3), "seed": 1})
        'seed'
    """
    return next((name for name in fields if _plain(row.get(name)) != _plain(fields[name])), None)


def _plain(value):
    """As it would be read again: a record that was just made may hold tuples."""
    return json.loads(json.dumps(plain_json(value), default=str))


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


def digest(value: Any) -> str:
    """SHA-256 of plain JSON, shortened to 16 digits: what a record is a record of."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(*values: Any) -> str:
    """SHA-256 of arrays and plain values, shortened to 16 digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, (np.ndarray, jax.Array)):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.view(np.uint8).data if array.size else b"")
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()[:16]


@functools.cache
def environment() -> dict[str, Any]:
    """Command, versions, machine and state of the source, for a record."""
    return {
        "command": " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "git": _git_state(),
    }


def _git_state():
    """Commit of the checkout that poolax runs from, ``+`` if it is changed; None outside of one."""
    folder = pathlib.Path(__file__).parents[1]

    def git(*arguments):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A virtual environment inside some other checkout is not a checkout of poolax.
        git("ls-files", "--error-unmatch", __file__)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", str(folder)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None

"""A sweep's folder: records, heads, and what is kept of those in training."""

from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint import replace_checkpoint
from poolax._paths import absolute_path, path_component
from poolax._processes import once
from poolax.records import Records, digest
from poolax.training._sweep.identities import Heads, Run
from poolax.training.finished import recorded_heads

_RECORDS = "records.jsonl"


class Folder:
    """Where a sweep writes, if it does.

    Args:
        out: The folder; ``None`` for a sweep that writes nothing.
    """

    def __init__(self, out: epath.PathLike | None):
        self._out = None if out is None else epath.Path(absolute_path(out))

    def finished(self, heads: Heads, *, resume: bool) -> dict[tuple[str, Run], dict[str, Any]]:
        """Records of heads that need not be trained again.

        Read in any case: what is damaged is told before anything is trained.
        """
        if self._out is None:
            return {}
        self._out.mkdir(parents=True, exist_ok=True)
        expected = {key: heads.fields(*key) for key in heads.ids} if resume else {}
        out = self._out
        return recorded_heads(
            out / _RECORDS, expected, lambda row: head_directory(out, row), former=heads.former
        )

    def unfinished(self, kept: Iterable[Any]) -> epath.Path | None:
        """Where the state of heads in training is kept, by what it depends on."""
        return None if self._out is None else self._out / "unfinished" / digest(list(kept))

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add records, in place of those with the same ids."""
        if self._out is not None:
            path = self._out / _RECORDS
            once(lambda: Records(rows).write_to(path), f"{path}: its records")

    def save(self, row: Mapping[str, Any], variables: PyTree, config: Mapping[str, Any]) -> None:
        """Write a head, to which its record is added afterwards."""
        if self._out is None:
            return
        # A head that is there without a record was left behind by an interrupted run.
        replace_checkpoint(
            head_directory(self._out, row),
            variables,
            metadata=dict(config),
            is_own=lambda saved: "num_outputs" in saved,
            step=row["epochs"] if row["learning_rate"] is not None else 0,
        )


def head_directory(out: epath.PathLike, record: Mapping[str, Any]) -> epath.Path:
    """Where a sweep keeps the checkpoint of a head.

    It stands in a folder of its task and of its pooler's label, percent-encoded or cut where a label
    cannot be the name of a folder.

    Args:
        out: The sweep's folder.
        record: The head's record.

    Returns:
        The directory that :func:`load_head` takes.

    Example:
        >>> record = {"task": "sts", "pooler": "a/b", "learning_rate": 0.1, "seed": 2, "id": "1234abcd"}
        >>> str(head_directory("out", record))
        'out/heads/sts/a%2Fb/lr-0.1-seed-2-1234abcd'
    """
    parts = ("task", "pooler", "learning_rate", "seed", "id")
    if not isinstance(record, Mapping) or any(part not in record for part in parts):
        raise ValueError(f"record: expected that of a head, with {', '.join(parts)}, got {record!r}")
    # The record's id keeps heads of other configurations apart.
    rate = record["learning_rate"]
    how = "solved" if rate is None else f"lr-{rate:g}"
    name = f"{how}-seed-{record['seed']}-{record['id'][:8]}"
    task, label = str(record["task"]), str(record["pooler"])
    heads = epath.Path(out) / "heads"
    directory = heads / path_component(task) / path_component(label) / name
    if (path_component(task), path_component(label)) != (task, label) and _is_below(task, label):
        # Where runs that did not encode labels have left it.
        before = heads / task / label / name
        return before if before.exists() else directory
    return directory


def _is_below(*names):
    """Whether folders of these names are inside of the one that they are looked up in."""
    parts = [part for name in names for part in name.split("/")]
    lengths = [len(part.encode(errors="surrogatepass")) for part in parts]
    return ".." not in parts and "\0" not in "".join(names) and 1 <= min(lengths) <= max(lengths) <= 255

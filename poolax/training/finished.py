"""Which records are those of heads that are finished."""

import logging
import math
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from etils import epath

from poolax._checkpoint import has_checkpoint
from poolax._processes import told
from poolax._text import one_line
from poolax.records import Records, difference
from poolax.training.former import renewed

_log = logging.getLogger(__name__)
_Key = TypeVar("_Key", bound=Hashable)
# What training leaves after every epoch.
_CURVES = ("train_loss", "gradient_norm", "validation_loss", "validation_score")
# What else it leaves; tables get along without.
_TRAINED = ("baseline", "test_metrics", "lipschitz", "test_scores", *_CURVES)
# What heads leave that were solved.
_SOLVED = ("baseline", "test_metrics", "test_scores", "strength", "scores_tried", "gradient")


def recorded_heads(
    path: epath.Path,
    expected: Mapping[_Key, Mapping[str, Any]],
    directory_of: Callable[[Mapping[str, Any]], epath.Path],
    *,
    former: Mapping[str, Any] = MappingProxyType({}),
) -> dict[_Key, dict[str, Any]]:
    """The finished heads of a file of records, which one process reads; every process has to call.

    All have to know the same heads: one that trains waits for the others.

    Args:
        path: The file; none has no heads.
        expected: As for :func:`finished_heads`.
        directory_of: Likewise.
        former: Likewise.

    Returns:
        The records of those heads that have one.

    Raises:
        ValueError: for a file that is damaged, as :meth:`Records.read` raises.
        OSError: on the other processes.
    """

    def read():
        return list(finished_heads(Records.read(path), expected, directory_of, former=former).values())

    rows = {row["id"]: row for row in told(read, f"{path}: its records")}
    found = {key: rows.get(fields["id"]) for key, fields in expected.items()}
    return {key: row for key, row in found.items() if row is not None}


def finished_heads(
    records: Records,
    expected: Mapping[_Key, Mapping[str, Any]],
    directory_of: Callable[[Mapping[str, Any]], epath.Path],
    *,
    former: Mapping[str, Any] = MappingProxyType({}),
) -> dict[_Key, dict[str, Any]]:
    """Records of heads that need not be trained again.

    Such a record says of which head it is, holds what training gives, and agrees with itself; its head
    is there. Others are named in a warning, as if they were not there.

    Args:
        records: What a folder holds; of two with the same id the later one counts.
        expected: For each head what its record has to say of it, its ``id`` among it.
        directory_of: Gives the checkpoint directory of the head of a record.
        former: What earlier programs said of fields that are said otherwise now.

    Returns:
        The records of those heads that have one.
    """
    known = {row["id"]: row for row in records if isinstance(row.get("id"), str)}
    finished = {}
    for key, fields in expected.items():
        row = known.get(fields["id"])
        if row is None:
            continue
        row = renewed(row, fields, former)
        problem = _problem_of(row, fields) or _missing(directory_of(row))
        if problem is None:
            finished[key] = row
        else:
            _log.warning("record %s is not taken over: %s; trained again", fields["id"], problem)
    return finished


def _problem_of(row, fields):
    """Why a record of a head, as such records have to be, is not one of training to its end."""
    name = difference(row, fields)
    if name is not None:
        return f"{name}: expected {one_line(fields[name], longest=80)}, got {_shown(row, name)}"
    is_solved = fields["learning_rate"] is None
    needed = _SOLVED if is_solved else _TRAINED
    missing = next((name for name in needed if row.get(name, []) == []), None)
    if missing is not None:
        return f"{missing}: expected what training gives, got {_shown(row, missing)}"
    if row["test"] != row["test_metrics"].get(row["metric"]):
        return f"test: expected the {row['metric']} of test_metrics, got {_shown(row, 'test')}"
    if is_solved:
        return None
    num_epochs = row.get("epochs_trained", row["epochs"])
    short = next((name for name in _CURVES if len(row[name]) != num_epochs), None)
    if short is not None:
        return f"{short}: expected a number for each epoch, got {_shown(row, short)}"
    of = row.get("best_epoch", num_epochs - 1)
    if of < 0:  # as it started, before the first epoch
        return None
    last, said = row["validation_score"][of], row["validation"]
    # It is measured again after the last epoch, in batches that may be others.
    if None not in (last, said) and not math.isclose(last, said, rel_tol=1e-3, abs_tol=1e-6):
        return f"validation: expected the last of validation_score, got {_shown(row, 'validation')}"
    return None


def _shown(row, name):
    return one_line(row[name], longest=80) if name in row else "none"


def _missing(directory: epath.Path):
    return None if has_checkpoint(directory) else f"there is no head in {directory}"

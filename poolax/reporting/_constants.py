"""Records of Lipschitz constants of both kinds in one form, as tables and figures show them."""

from collections.abc import Iterable, Mapping
from typing import Any

_SAME = ("pooler", "sharp", "published", "radius", "num_inputs")
# What earlier records do not have.
_LATER = ("local", "local_around", "epsilon", "num_around", "tight")
_OF_BLOCKS = ("attention", "measured_real", "measured_adversarial", "width", "metric", "test")


def constants_of(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records of kind ``"lipschitz"`` and ``"lipschitz_at_inputs"`` with the fields of the first.

    Args:
        records: What the quickstart measured of blocks that it trained, and what ``poolax lipschitz
            --json`` prints: norms at inputs one by one, without a search or a score.

    Returns:
        For each record ``attention`` (for a backbone its name), ``pooler``, ``measured_real``,
        ``measured_adversarial``, ``local`` (the largest at the inputs), ``local_around`` (the
        largest on balls of radius ``epsilon`` around ``num_around`` of them), ``tight``, ``sharp``,
        ``published``, ``num_tokens`` as text, ``width``, ``radius``, ``num_inputs``, ``metric`` and
        ``test``; None for what was not measured.

    Raises:
        ValueError: if there is no record, or one of another kind.
    """
    found = [_constants(row) for row in records]
    if not found:
        raise ValueError("records: expected at least one lipschitz record, got none")
    return found


def _constants(row):
    kind = row.get("kind")
    if kind not in ("lipschitz", "lipschitz_at_inputs"):
        raise ValueError(f"records: expected kind 'lipschitz' or 'lipschitz_at_inputs', got {kind!r}")
    form = {name: row[name] for name in _SAME} | {name: row.get(name) for name in _LATER}
    if "measured" not in row:
        form |= {name: row[name] for name in _OF_BLOCKS}
        return form | {"num_tokens": str(row["num_tokens"])}
    # A record of norms at inputs, whatever kind earlier versions called it.
    low, high = row["num_tokens"]
    local = row.get("local")
    return form | {
        "local": max(local) if local else None,
        "attention": row.get("attention", row.get("backbone")),
        "measured_real": max(row["measured"]),
        "measured_adversarial": None,
        "num_tokens": f"{low}" if low == high else f"{low} to {high}",
        "width": row["dim"],
        "metric": None,
        "test": None,
    }

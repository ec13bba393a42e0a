"""Records of attacks and of lengths of texts in the form of heads', for the paper's Tables 9 and 10."""

from collections.abc import Iterable, Mapping
from typing import Any

import claims_records

Row = Mapping[str, Any]


def in_form_of_heads(records: Iterable[Row]) -> list[Row]:
    """Records of heads as they are, those of attacks and lengths with the condition they are under.

    Args:
        records: Of comparisons, of ``robustness.py`` and of ``sequence_length.py``.
    """
    found: list[Row] = []
    for row in records:
        make = _OF_KIND.get(row["kind"])
        found += [row] if make is None else make(row)
    return found


def _attacks(row: Row) -> list[Row]:
    """Of each attack of one step how often it succeeds."""
    return [
        {
            **one,
            "task": "robustness",
            "condition": f"eps={255 * attack['radius']:g}/255",
            "task_options": {"radius": attack["radius"]},
            "baseline": None,
            "num_examples": row.get("num_examples"),
        }
        for one, attack in zip(claims_records.attacks(row), row["attacks"], strict=False)
        if attack["name"] == "fgsm"
    ]


def _lengths(row: Row) -> list[Row]:
    """The score on texts of all lengths, cut."""
    cut = {"max_tokens": row["max_tokens"]}
    return [
        {
            **one,
            "task": row["task"],
            "condition": f"seq_len={row['max_tokens']}",
            "task_options": cut,
            "baseline": None,
            "num_examples": row["num_examples"],
        }
        for one in claims_records.lengths(row)
    ]


_OF_KIND = {"robustness": _attacks, "length_score": _lengths}

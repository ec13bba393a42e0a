"""Why a claim of the paper may not hold here: likely reasons, not tested, and what would decide."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from poolax.reporting import claims_tables


class Conjecture(NamedTuple):
    """A likely reason.

    Attributes:
        reason: In words.
        test: What would decide whether it is one.
    """

    reason: str
    test: str


_OPTIMISATION = Conjecture(
    "with as many tokens in every input sum is a multiple of average, so that what tells them apart is "
    "how far a fixed number of steps gets",
    "heads that are trained to the end, which stand beside",
)
_READ = Conjecture(
    "which state tells most follows from which one pretraining has read: the mean of a sentence "
    "encoder, the last of a causal model",
    "one model pretrained twice, with either summary in its loss",
)
_FEW = Conjecture(
    "the poolers with most parameters are fitted to a few hundred examples",
    "the same heads on ten times as many",
)
_PLACES = Conjecture(
    "a weight for each position tells nothing where what is looked for has no place of its own",
    "the same heads on inputs that are aligned",
)
#: By the names of the claims.
CONJECTURES: Mapping[str, Conjecture] = {
    "2b": Conjecture(
        "a cosine does not see lengths, by which sums and maxima tell inputs apart",
        "the same groups of sentences told apart by distances",
    ),
    "3a": Conjecture(
        "what is filled in stands at a place, and an average mixes places",
        "poolers with a query for each place on the same states",
    ),
    "4a": Conjecture(
        "CLS tells most where a loss of pretraining has read it; filling in patches has none that does",
        "the same model pretrained with a loss on CLS",
    ),
    "4b": _OPTIMISATION,
    "5a": _READ,
    "5b": _READ,
    "6": Conjecture(
        "short beginnings leave little that the last state does not share with the others",
        "the same heads by the length of the beginning",
    ),
    "7a": _FEW,
    "7b": Conjecture(
        "short series are filled up at their start, so that the last patch is real and has seen all",
        "the same heads with series that are filled up at their end",
    ),
    "7c": _OPTIMISATION,
    "8a": Conjecture(
        "of a model that fills in patches every state has seen the whole window, the last no more than "
        "others",
        "a causal model of series",
    ),
    "8b": _FEW,
    "8c": _OPTIMISATION,
    "9a": _PLACES,
    "9c": _PLACES,
    "10a": Conjecture(
        "after a fixed number of steps the spread of poolers is that of how far each of them gets, and "
        "narrow states leave all of them near the start",
        "heads that are trained to the end, which stand beside",
    ),
    "11": Conjecture(
        "large sums saturate the softmax, whose gradient, which FGSM follows, then vanishes",
        "attacks on the margin of logits, as PGD in the records of robustness.py",
    ),
}


def likely_reasons(rows: Sequence[Mapping[str, Any]]) -> str:
    """A section on the claims of the paper that are contradicted anywhere; nothing where none is.

    Args:
        rows: Verdicts.
    """
    parts = []
    for name in dict.fromkeys(row["claim"] for row in rows):
        own = [row for row in rows if row["claim"] == name and row["verdict"] == "contradicted"]
        if not own or own[0]["source"] != "paper":
            continue
        found = [[cell.text for cell in row] for row in claims_tables(own)[0].rows]
        where = "; ".join(f"{row[1]}, {row[2]}: {row[4]}, {row[5]}" for row in found)
        known = CONJECTURES.get(name)
        why = "No reason suggests itself."
        if known is not None:
            why = f"Conjecture, not tested: {known.reason}. It would be decided by {known.test}."
        parts.append(f"- {found[0][0]} Contradicted with {where}. {why}")
    return "\n".join(["## Where the paper is contradicted\n", *parts, ""]) if parts else ""

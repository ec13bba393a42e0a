"""Verdicts on claims about poolers, from records of heads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolax._checks import check_count
from poolax.records import Records, digest
from poolax.reporting._claims.evidence import Case, Drawn, cases_of, compared, weakest_in_paper
from poolax.reporting._claims.statements import Claim
from poolax.reporting._places import places_of
from poolax.statistics import Evidence, verdicts

UNTESTABLE = "not testable"


def judge_claims(
    claims: Sequence[Claim],
    records: Iterable[Mapping[str, Any]],
    *,
    pretrained: Mapping[str, str] | None = None,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.05,
    known: Iterable[Mapping[str, Any]] = (),
    about: Mapping[str, Any] | None = None,
) -> Records:
    """A verdict on each claim, for each backbone and protocol, with Holm's correction over all.

    A claim holds where all that it states of poolers holds on all of its data sets and tasks, and does
    not hold where any of it does not, see :func:`poolax.statistics.all_of`. Gains are of test examples,
    by a paired bootstrap of two levels, examples and then seeds.

    Args:
        claims: The claims.
        records: Head records of sweeps, with the scores of their test examples.
        pretrained: How each backbone was pretrained, in words.
        draws: Number of draws.
        seed: Of the draws.
        level: Up to which adjusted p-value a claim is decided.
        known: Records that this function gave before: what is stated on the same heads is taken from
            them instead of drawn again.
        about: What new records say beside, such as the environment.

    Returns:
        Records of kind ``"claim"``.

    Raises:
        ValueError: for what is no record of a head, or numbers out of range.

    Example:
        >>> from poolax.reporting import Claim, Contrast
        >>> claim = Claim(
        ...     "order", "Average is better than sum.", (Contrast("avg", "sum"),),
        ...     {"MiniLM": (("banking77", "classification"),)}, solvers=("adam",),
        ... )
        >>> [row] = judge_claims([claim], [])
        >>> row["verdict"], row["missing"]
        ('not testable', 'no records: banking77 classification')
    """
    check_count("draws", draws)
    check_count("seed", seed, at_least=0)
    whole = [row for row in records if row.get("layers", "output") == "output" and "shots" not in row]
    cases = cases_of(claims, places_of(whole))
    drawn = Drawn({name for case in cases for name in case.poolers}, draws, seed)
    before = {(row["id"], row["records"]): row for row in known}
    rows = []
    for claim in claims:
        rows += [_untested(claim)] if claim.missing else []
        for case in (case for case in cases if case.claim is claim):
            kept = before.get((_id(case), _of(case, draws, seed)))
            found = kept or _row(case, drawn, draws, seed) | dict(about or {})
            rows.append({**found, **_about(claim)})  # a claim's words may have changed
    tested = [row for row in rows if row["p_for"] is not None]
    told = verdicts([Evidence(row["p_for"], row["p_against"]) for row in tested], level=level)
    decided = {
        row["id"]: {"verdict": one.verdict, "adjusted": one.adjusted}
        for row, one in zip(tested, told, strict=True)
    }
    shared = {"level": level, "num_tested": len(tested)}
    words = pretrained or {}
    return Records(
        row
        | decided.get(row["id"], {})
        | shared
        | {"pretrained": words.get(row["backbone"] or "", "not said")}
        for row in rows
    )


def _id(case: Case) -> str:
    return digest([case.claim.name, case.backbone, case.solver])


def _of(case: Case, draws: int, seed: int) -> str:
    """What the evidence on a case follows from."""
    return digest([case.fingerprint, case.missing, draws, seed])


def _untested(claim: Claim) -> dict[str, Any]:
    return {
        **_about(claim),
        "id": digest([claim.name]),
        "backbone": None,
        "solver": None,
        "records": None,
        **_nothing(claim.missing),
        "paper": weakest_in_paper(claim, [one for where in claim.places.values() for one in where]),
    }


def _about(claim: Claim) -> dict[str, Any]:
    return {"kind": "claim", "claim": claim.name, "text": claim.text, "source": claim.source}


def _nothing(missing: str) -> dict[str, Any]:
    return {
        "verdict": UNTESTABLE,
        "missing": missing,
        "adjusted": None,
        "p_for": None,
        "p_against": None,
        "comparisons": [],
    }


def _row(case: Case, drawn: Drawn, draws: int, seed: int) -> dict[str, Any]:
    found = case.missing or compared(case, drawn)
    row = {
        **_about(case.claim),
        "id": _id(case),
        "backbone": case.backbone,
        "solver": case.solver,
        "records": _of(case, draws, seed),
        "draws": draws,
        "seed": seed,
        "paper": weakest_in_paper(case.claim, case.claim.places[case.backbone]),
    }
    if isinstance(found, str):
        return row | _nothing(found)
    comparisons, part = found
    return row | {
        "missing": "",
        "p_for": part.p_for,
        "p_against": part.p_against,
        "comparisons": comparisons,
    }

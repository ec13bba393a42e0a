"""Tables of verdicts on claims."""

from collections.abc import Iterable, Mapping
from typing import Any

from poolax.reporting._claims.judging import UNTESTABLE
from poolax.reporting._marks import score
from poolax.reporting._table import Cell, Table

_TIDY = (
    *("claim", "text", "source", "backbone", "pretrained", "solver", "verdict", "missing", "left_out"),
    *("found", "p_for", "p_against", "adjusted", "level", "num_tested", "draws", "seed", "command"),
)
_ORDER = {"contradicted": 0, "supported": 1, "undecided": 2, UNTESTABLE: 3}
_SIGNS = {"better": ">", "not_worse": "≥", "equal": "="}


def claims_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Verdicts on claims, and below them each comparison that they stand on.

    Args:
        records: Records of kind ``"claim"``, as :func:`judge_claims` gives them.

    Returns:
        Two tables; the verdicts alone where no claim could be tested.

    Raises:
        ValueError: if there is no record.
    """
    rows = list(records)
    if not rows:
        raise ValueError("records: expected at least one verdict on a claim, got none")
    tables = [_verdicts(rows)]
    return [*tables, _comparisons(rows)] if any(row["comparisons"] for row in rows) else tables


def _verdicts(rows: list[Mapping[str, Any]]) -> Table:
    cells = []
    # What is decided is read first.
    for row in sorted(rows, key=lambda row: _ORDER.get(row["verdict"], len(_ORDER))):
        worst = _deciding(row)
        where = "–" if row["backbone"] is None else f"{row['backbone']} ({row['pretrained']})"
        cells.append(
            [
                Cell(f"{row['claim']}: {row['text']}"),
                Cell(where),
                Cell(row["solver"] or "–"),
                Cell(row["verdict"], bold=row["verdict"] != UNTESTABLE),
                Cell(_where(row, worst)),
                Cell("–" if worst is None else _gain(worst)),
                Cell("–" if row["adjusted"] is None else f"{row['adjusted']:.2g}"),
                Cell(_weakest(row["paper"]) if worst is None else _paper(worst)),
            ]
        )
    tested = next((row for row in rows if row["p_for"] is not None), None)
    notes = []
    if tested is not None:
        notes.append(
            "A claim is supported where all that it states is, and contradicted where any of it is; "
            "shown is the comparison that decides. gain: of the first over the second, positive where "
            f"it is better, with its 95 % interval by {tested['draws']:,} paired draws of test "
            f"examples and seeds; p: adjusted for {tested['num_tested']} verdicts by Holm's method, "
            f"decided at {tested['level']:g}. paper: the median gain of its models, the least and the "
            "largest; of what could not be tested where it is least. A backbone is tested on the data "
            "that it has records of; without: those that it has none of."
        )
    return Table(
        title="Verdicts",
        columns=["claim", "backbone", "protocol", "verdict", "where", "gain", "p", "paper"],
        rows=cells,
        notes=notes,
        tidy=[{name: row.get(name) for name in _TIDY} for row in rows],
    )


def _comparisons(rows: list[Mapping[str, Any]]) -> Table:
    cells, tidy = [], []
    for row in rows:
        for one in row["comparisons"]:
            texts = [row["claim"], row["backbone"], row["solver"], _place(one), _gain(one), _paper(one)]
            cells.append(
                [Cell(text) for text in [*texts, f"{one['num_examples']}, {one['num_seeds']}"]]
            )
            about = {name: row[name] for name in ("claim", "backbone", "solver", "verdict")}
            tidy.append(about | {name: value for name, value in one.items() if name != "paper"})
    return Table(
        title="Comparisons",
        columns=["claim", "backbone", "protocol", "where", "gain", "paper", "examples, seeds"],
        rows=cells,
        notes=["Accuracies in points of 100; margins of = and ≥ in brackets."],
        tidy=tidy,
    )


def _deciding(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The weakest comparison, or of a claim that does not hold the strongest against it."""
    comparisons: list[Mapping[str, Any]] = row["comparisons"]
    if row["verdict"] == "contradicted":
        return min(comparisons, key=lambda one: (one["p_against"], one["gain"]), default=None)
    return max(comparisons, key=lambda one: (one["p_for"], -one["gain"]), default=None)


def _where(row: Mapping[str, Any], worst: Mapping[str, Any] | None) -> str:
    """Where a verdict was decided, and what of the claim's data have no records."""
    shown = row.get("found") or row["missing"] if worst is None else _place(worst)
    rest = row.get("left_out")
    return f"{shown} (without {rest})" if rest else shown


def _place(one: Mapping[str, Any]) -> str:
    margin = score(one["margin"], one["metric"])
    within = "" if one["relation"] == "better" else f" ({margin})"
    stated = f"{one['label']} {_SIGNS[one['relation']]} {one['other']}{within}"
    return f"{stated}, {one['dataset']} {one['task']}"


def _gain(one: Mapping[str, Any]) -> str:
    shown = [score(one[name], one["metric"], sign="+") for name in ("gain", "low", "high")]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _weakest(one: Mapping[str, Any] | None) -> str:
    """The paper's gain where a claim that is not tested holds least."""
    return "–" if one is None else f"{one['label']} over {one['other']}: {_paper(one)}"


def _paper(one: Mapping[str, Any]) -> str:
    paper = one["paper"]
    if paper is None:
        return "–"
    shown = [score(paper[name], one["metric"], sign="+") for name in ("median", "low", "high")]
    return f"{shown[0]} [{shown[1]}, {shown[2]}] of {paper['num']}, {paper['data']}"

"""Tables of the paper's values with those of records."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from poolax.reporting._marks import score, unit
from poolax.reporting._paper.beside import Beside, OwnValue
from poolax.reporting._paper.cells import PaperCell
from poolax.reporting._paper.names import TASKS
from poolax.reporting._table import Cell, Table

_POOLERS = ("last", "avg", "sum", "max", "wavg", "attn")
_OTHER = "other model or data"
_NOTE = (
    "Own rows: mean test score over seeds, and predictions that do not look at the input; difference: "
    "ours less the paper's, told only where model and data are the same."
)


def paper_counts(found: Sequence[Beside]) -> str:
    """How many of the paper's values have one of records, in a sentence."""
    attempted = sum(bool(one.own) for one in found)
    matched = sum(one.is_matched for one in found)
    return (
        f"Of the paper's {len(found):,} values {attempted} were attempted, of which {matched} with the "
        f"same model and data, and {len(found) - attempted} were skipped."
    )


def paper_tables(found: Sequence[Beside]) -> list[Table]:
    """The paper's values with those of records below them, a table for each of its data sets and tasks.

    Values that the paper prints twice stand once. The last table has the values without records, with
    the reason; ``tidy`` holds all of them, one row for each value of the paper and each of records.

    Args:
        found: What :func:`beside_paper` gives.

    Returns:
        The tables.

    Example:
        >>> from poolax.reporting import beside_paper
        >>> [table] = paper_tables(beside_paper([]))
        >>> [cell.text for cell in table.rows[0]]
        ['1, 4', 'classification', 'CIFAR-10', '18', 'no record of classification on cifar10']
    """
    groups: dict[tuple[str, str, str], list[Beside]] = {}
    for one in found:
        cell = one.cell
        groups.setdefault((cell.task, cell.dataset, cell.metric), []).append(one)
    shown = [_table(group) for group in groups.values() if any(one.own for one in group)]
    skipped = [one for one in found if not one.own]
    return [*shown, _skipped(skipped)] if skipped else shown


def _table(group: Sequence[Beside]) -> Table:
    first = group[0].cell
    by_model: dict[str, dict[str, PaperCell]] = {}
    own: dict[tuple[str, str, str, str], dict[str, OwnValue]] = {}
    for one in group:
        cell = one.cell
        label = ", ".join(filter(None, (cell.model, cell.condition)))
        by_model.setdefault(label, {}).setdefault(cell.pooling, cell)
        for value in one.own:
            key = (value.model, value.dataset, value.protocol, cell.condition)
            # What is the same as the paper's of one of its models stands before what is of none.
            known = own.setdefault(key, {})
            if cell.pooling not in known or not value.others:
                known[cell.pooling] = value
    rows = [
        [Cell(label), *(Cell(_published(cells.get(name))) for name in _POOLERS), Cell("paper")]
        for label, cells in by_model.items()
    ]
    metric, constants = TASKS[first.task, first.metric].metric, []
    for (model, dataset, protocol, condition), values in own.items():
        others = dict.fromkeys(why for value in values.values() for why in value.others)
        about = f"{_OTHER}: {'; '.join(others)}" if others else "same model and data"
        label = ", ".join(filter(None, (model, dataset, condition, protocol)))
        cells = [Cell(_mean_and_std(values.get(name), metric)) for name in _POOLERS]
        rows.append([Cell(label, bold=True), *cells, Cell(about)])
        if not others:
            apart = [_difference(values.get(name), metric) for name in _POOLERS]
            rows.append(
                [Cell(f"{label}: difference"), *map(Cell, apart), Cell("ours less the paper's")]
            )
        for name, value in next(iter(values.values())).baselines.items():
            shown = [Cell(score(value, metric))] * len(_POOLERS)
            constants.append([Cell(f"{dataset}: {name}"), *shown, Cell("")])
    # What several share stands once.
    rows += [row for place, row in enumerate(constants) if row not in constants[:place]]
    return Table(
        title=f"{first.dataset}, {first.task} ({unit(metric)})",
        columns=["model", *_POOLERS, "what it is"],
        rows=rows,
        notes=[_NOTE],
        tidy=[row for one in group if one.own for row in _tidy(one)],
    )


def _skipped(skipped: Sequence[Beside]) -> Table:
    groups: dict[tuple[str, str, str], list[PaperCell]] = {}
    for one in skipped:
        groups.setdefault((one.cell.task, one.cell.dataset, one.absent), []).append(one.cell)
    rows = []
    for (task, dataset, why), cells in groups.items():
        places = ", ".join(map(str, sorted({cell.table for cell in cells})))
        rows.append([Cell(text) for text in (places, task, dataset, str(len(cells)), why)])
    return Table(
        title="Values of the paper without records",
        columns=["tables", "task", "data", "values", "why"],
        rows=rows,
        notes=[],
        tidy=[row for one in skipped for row in _tidy(one)],
    )


def _tidy(one: Beside) -> list[Mapping[str, Any]]:
    cell = dataclasses.asdict(one.cell)
    if not one.own:
        return [cell | {"why": one.absent}]
    return [
        cell
        | {
            "own_model": own.model,
            "own_dataset": own.dataset,
            "protocol": own.protocol,
            "own_mean": own.value,
            "own_std": own.std,
            **{f"baseline: {name}": value for name, value in own.baselines.items()},
            "difference": own.difference,
            "why": f"{_OTHER}: {'; '.join(own.others)}" if own.others else "",
            "records": " ".join(own.records),
        }
        for own in one.own
    ]


def _published(cell: PaperCell | None) -> str:
    if cell is None:
        return "–"
    digits = 2 if cell.is_percent else 3
    std = "" if cell.std is None else f" ± {cell.std:.{digits}f}"
    return f"{cell.mean:.{digits}f}{std}"


def _mean_and_std(own: OwnValue | None, metric: str) -> str:
    if own is None:
        return "–"
    if own.value is None:
        return "diverged"
    text = score(own.value, metric)
    return text if own.std is None else f"{text} ± {score(own.std, metric)}"


def _difference(own: OwnValue | None, metric: str) -> str:
    return "–" if own is None else score(own.difference, metric, sign="+")

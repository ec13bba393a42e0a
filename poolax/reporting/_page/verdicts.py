"""What records recommend: an advice where there is one, otherwise what validation chose."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from poolax.reporting._advice import advice_table, plot_advice
from poolax.reporting._differences import resampled
from poolax.reporting._marks import mean_and_std_of, score, unit
from poolax.reporting._models import comparison_table
from poolax.reporting._numbers import number_text
from poolax.reporting._page.drawings import Drawing, drawn
from poolax.reporting._page.sources import Row, Source
from poolax.reporting._places import Comparison, Place, comparisons_of
from poolax.reporting._table import Cell, Table
from poolax.statistics import Resampled

_LEVEL = 0.05
_CHOSEN_NOTE = (
    "Chosen: the best mean validation score, by the way of training with most poolers. Worse "
    "beyond noise: a worse test score than the chosen one's, with p < 0.05 after Holm's correction, by "
    "a paired bootstrap over test examples and seeds; of the others this test set cannot tell. A dash: "
    "the records hold no scores of single examples."
)

_OVERVIEW_NOTE = "A dash: of what cannot be told apart the cheapest is recommended."
_TEST, _BASE = "test, 95 % interval", "baseline"
_COLUMNS = (
    *("model, data, task", "training", "chosen", "validation", "test", "baseline"),
    *("worse beyond noise", "others"),
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A recommendation.

    Attributes:
        sentence: What to take, and why.
        take: The same in a word.
        about: Model and data, for people.
        is_decided: Whether all others are worse beyond noise.
        certainty: How sure that is; may be empty.
        facts: Names and values of numbers that belong to it.
        reasons: What it stands on, a line each.
        tables: The same in numbers.
        drawings: The same to see.
    """

    sentence: str
    take: str
    about: str
    is_decided: bool = False
    certainty: str = ""
    facts: Sequence[tuple[str, str]] = ()
    reasons: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()


@dataclasses.dataclass(frozen=True)
class Choices:
    """What validation chose.

    Attributes:
        verdicts: Of each task.
        table: All tasks; ``None`` where there is none.
    """

    verdicts: Sequence[Verdict]
    table: Table | None


def verdicts_of(sources: Sequence[Source]) -> list[Verdict]:
    """What was recommended, in the words of the records."""
    found = []
    for source in sources:
        for row in source.rows:
            make = _MAKERS.get(row.get("kind", ""))
            if make is not None:
                found.append(make(row, f"advice-{len(found)}"))
    return found


def overview(verdicts: Sequence[Verdict]) -> Table:
    """Several recommendations below each other."""
    rows = []
    for verdict in verdicts:
        facts = dict(verdict.facts)
        texts = [
            "beyond noise" if verdict.is_decided else "–",
            *(facts.get(n, "–") for n in (_TEST, _BASE)),
        ]
        rows.append([Cell(verdict.about), Cell(verdict.take, bold=True), *map(Cell, texts)])
    columns = ("model and data", "take", "better than all others", _TEST, _BASE)
    return Table("All of them", columns, rows, [_OVERVIEW_NOTE], ())


def choices_of(heads: Sequence[Row]) -> Choices:
    """What validation chose of heads, task by task.

    Raises:
        ValueError: as :func:`poolax.reporting.score_tables`.
    """
    verdicts, rows = [], []
    for comparison in comparisons_of(heads):
        training, place = _most_telling(comparison)
        if place.choice is None:
            continue
        verdict, cells = _choice(comparison.name, place, place.choice)
        verdicts.append(verdict)
        rows.append([cells[0], Cell(training), *cells[1:]])
    table = Table("All tasks", _COLUMNS, rows, [_CHOSEN_NOTE], ()) if rows else None
    return Choices(verdicts, table)


def _most_telling(comparison: Comparison) -> tuple[str, Place]:
    """The way of training with most poolers; of several that which goes to the end, and its name."""
    places = comparison.protocols.items()
    return max(places, key=lambda pair: (len(pair[1].entrants), bool(pair[1].example.get("solver"))))


def _choice(name: str, place: Place, choice: str) -> tuple[Verdict, list[Cell]]:
    entrant, example = place.entrants[choice], place.example
    metric, baseline = example["metric"], example["baseline"]
    drawn_scores = resampled({label: e.sound for label, e in place.entrants.items() if e.sound})
    test = mean_and_std_of([row["test"] for row in entrant.sound], metric)
    worse, others = "–", "–"
    sentence = f"Validation chose {choice}"
    certainty = ""
    if isinstance(drawn_scores, Resampled):
        found = drawn_scores.interval(choice)
        test = _interval(dataclasses.asdict(found), metric)
        sign = 1 if drawn_scores.higher_is_better else -1
        compared = drawn_scores.against(choice) if len(drawn_scores.draws) > 1 else {}
        behind = [
            label
            for label, difference in compared.items()
            if difference.adjusted < _LEVEL and sign * difference.value < 0
        ]
        apart = [label for label in compared if label not in behind]
        worse, others = ", ".join(behind) or "none", ", ".join(apart) or "none"
        if compared:
            sentence += (
                ": better beyond noise than every other pooler"
                if not apart
                else f", which this test set cannot tell from {', '.join(apart)}"
            )
        certainty = (
            f"Paired bootstrap over {found.num_examples:,} test examples and seeds, Holm's correction."
        )
    else:
        certainty = f"No intervals: {drawn_scores}."
    validation = score(entrant.validation, metric)
    facts = [
        (f"validation {unit(metric)}", validation),
        (_TEST, test),
        (_BASE, score(baseline, metric)),
    ]
    cells = [name, choice, validation, test, score(baseline, metric), worse, others]
    verdict = Verdict(f"{sentence}.", choice, name, others == "none", certainty, facts)
    return verdict, [Cell(text, bold=place == 1) for place, text in enumerate(cells)]


def _of_advice(row: Row, name: str) -> Verdict:
    cost, pooler, metric = row["cost"], row["recommended"], row["metric"]
    test = row["test"].get(pooler)
    facts = []
    if test is not None:
        facts.append((_TEST, f"{_interval(test, metric)} {unit(metric)}"))
    if row["baseline"] is not None:
        facts.append((_BASE, score(row["baseline"], metric)))
    facts += [
        (words, number_text(cost[field].get(pooler)))
        for words, field in (("parameters", "num_parameters"), ("Lipschitz factor", "lipschitz_factor"))
        if isinstance(cost.get(field), Mapping)
    ]
    about = _about(row)
    # The sentence and the reasons stand above it.
    title = "All poolers, the best by validation first"
    table = dataclasses.replace(advice_table(row), title=title, notes=())
    figure = drawn(
        lambda path: plot_advice(row, path),
        name=name,
        title=f"Scores and noise: {about}" if about else "Scores and noise",
        words="Test scores of all poolers and their differences to the best by validation, with 95 % "
        "intervals, and how far noise moves the leading vectors; the scores stand in the table as well",
    )
    return Verdict(
        row["sentence"],
        pooler,
        about,
        row["decided"],
        row.get("certainty", ""),
        facts,
        row["reasons"],
        [table],
        [figure],
    )


def _of_comparison(row: Row, name: str) -> Verdict:
    facts = [("backbone", row["recommended"]), ("pooler", row["pooler"])]
    take = f"{row['recommended']}, {row['pooler']}"
    tables = [comparison_table(row)]
    return Verdict(row["sentence"], take, _about(row), row["decided"], facts=facts, tables=tables)


def _of_choice(row: Row, name: str) -> Verdict:
    return Verdict(row["sentence"], row["recommended"], _about(row), row["decided"], row["certainty"])


def _interval(found: Mapping[str, Any], metric: str) -> str:
    value, low, high = (score(found[name], metric) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _about(row: Row) -> str:
    about = " on ".join(str(row[field]) for field in ("model", "dataset") if row.get(field))
    return ", ".join(filter(None, (about, row.get("task"))))


_MAKERS: dict[Any, Any] = {"advice": _of_advice, "comparison": _of_comparison, "choice": _of_choice}

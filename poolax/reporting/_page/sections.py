"""What a page shows of the records of a file: tables, figures, and tables to sort and filter."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from poolax._text import one_line
from poolax.reporting._page.drawings import Drawing, drawn
from poolax.reporting._page.grids import Grid, record_grid
from poolax.reporting._page.recipes import RECIPES, Figure, Recipe
from poolax.reporting._page.sources import Row, Source
from poolax.reporting._table import Table

# What the recommendation shows at the top is not shown again.
_SHOWN = {kind for recipe in RECIPES for kind in recipe.kinds} | {"advice", "comparison", "choice"}


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading.
        lead: What it shows, in a sentence.
        tables: Its tables.
        drawings: Its figures.
        grids: Tables to sort and filter.
        problem: Why it shows nothing; empty where it shows something.
    """

    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    grids: Sequence[Grid] = ()
    problem: str = ""

    @property
    def is_something(self) -> bool:
        """Whether there is anything to show, or to be told."""
        return bool(self.tables or self.drawings or self.grids or self.problem)


def sections_of(source: Source, *, name: str) -> Iterator[Section]:
    """All sections that a file has records for.

    Args:
        source: The file.
        name: In front of the names of its figures; no other file may have it.
    """
    problems = set()
    for place, recipe in enumerate(RECIPES):
        section = _section(recipe, source.of_kind(*recipe.kinds), f"{name}-{place}")
        is_told = section.problem in problems
        problems |= {section.problem} - {""}
        if section.is_something and not is_told:
            yield section
    for kind in source.kinds:
        if kind not in _SHOWN:
            title = f"Records of kind “{one_line(kind)}”"
            yield Section(title, grids=[record_grid(source.of_kind(kind), title)])


def _section(recipe: Recipe, found: Sequence[Row], name: str) -> Section:
    try:
        rows = recipe.of(found)
        if not rows:
            return Section(recipe.title)
        return Section(
            recipe.title,
            recipe.lead,
            recipe.tables(rows),
            list(_drawings(recipe.figures, rows, name)),
            recipe.grids(rows),
        )
    except ValueError as error:  # what cannot be compared, such as the same head of two runs
        return Section(recipe.title, problem=one_line(error))


def _drawings(figures: Iterable[Figure], rows: Sequence[Row], name: str) -> Iterator[Drawing]:
    for place, figure in enumerate(figures):
        shown = figure.of(rows)
        if shown:
            yield drawn(
                lambda path, figure=figure, shown=shown: figure.plot(shown, path),
                name=f"{name}-{place}",
                title=figure.title,
                words=figure.words,
            )

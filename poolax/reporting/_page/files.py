"""The tables and figures of a page as files of their own, for a paper or slides."""

from collections.abc import Iterator

from etils import epath

from poolax._paths import absolute_path
from poolax.reporting._page.downloads import file_name
from poolax.reporting._page.recipes import RECIPES, Recipe
from poolax.reporting._page.sources import Row, Source, read_sources
from poolax.reporting._written import write_figure, write_tables


def report_files(path: epath.PathLike, folder: epath.PathLike) -> list[str]:
    """Write the tables and figures of a run as files of their own.

    They are those of the page that :func:`report_page` makes; what records cannot be compared for is
    said there, and has no file.

    Args:
        path: Folder with records, or one file of records, as for :func:`report_page`.
        folder: Where they are written, local or ``gs://``: tables as Markdown, LaTeX (booktabs) and
            CSV, figures as PNG, PDF and SVG.

    Returns:
        Names of tables and figures, without the endings of their files.

    Raises:
        ValueError: if there is no record, or no file can be read.
    """
    found = read_sources(path)
    place = absolute_path(folder)
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for source in found.sources:
        start = f"{source.name.removesuffix('.jsonl')}-" if len(found.sources) > 1 else ""
        for recipe, rows in _sections(source):
            name = file_name(f"{start}{recipe.title}".lower(), "")
            try:
                tables = recipe.tables(rows)
            except ValueError:  # such as the same head of two runs
                continue
            if tables:
                write_tables(tables, place, name)
                written.append(name)
            for figure in recipe.figures:
                shown = figure.of(rows)
                if shown:
                    written.append(file_name(f"{name}-{figure.title}".lower(), ""))
                    write_figure(figure.plot, shown, place, written[-1])
    return written


def _sections(source: Source) -> Iterator[tuple[Recipe, list[Row]]]:
    for recipe in RECIPES:
        rows = recipe.of(source.of_kind(*recipe.kinds))
        if rows:
            yield recipe, list(rows)

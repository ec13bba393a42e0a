"""Tables and figures as files, in each of the forms that readers ask for."""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from poolax._paths import absolute_path, write_atomically
from poolax.reporting._canvas import FORMATS
from poolax.reporting._score_tables import joined
from poolax.reporting._table import Table


def write_tables(tables: Sequence[Table], folder: epath.PathLike, name: str) -> None:
    r"""Write tables as Markdown and LaTeX, below each other, and their tidy rows as one CSV.

    Args:
        tables: One or more.
        folder: Where ``name.md``, ``name.tex`` and ``name.csv`` are written, local or ``gs://``.
        name: Of the files, without an ending.

    Raises:
        ValueError: if no table has a tidy row.

    Example:
        >>> import pathlib, tempfile
        >>> from poolax.reporting import Cell
        >>> table = Table("One", ["pooler"], [[Cell("avg")]], notes=(), tidy=[{"pooler": "avg"}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tables([table], folder, "scores")
        ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
        ['scores.csv', 'scores.md', 'scores.tex']
    """
    place = absolute_path(folder)
    write_atomically(place / f"{name}.md", "\n".join(table.markdown() for table in tables))
    write_atomically(place / f"{name}.tex", "\n".join(table.latex() for table in tables))
    write_atomically(place / f"{name}.csv", joined(tables).csv())


def write_figure(
    plot: Callable[[Any, list[epath.Path]], None], records: Any, folder: epath.PathLike, name: str
) -> None:
    """Write a figure, drawn once, as PNG, PDF and SVG.

    Args:
        plot: A function of this package that draws records to paths, such as ``plot_scores``.
        records: What it draws.
        folder: Where ``name.png``, ``name.pdf`` and ``name.svg`` are written, local or ``gs://``.
        name: Of the files, without an ending.

    Raises:
        ValueError: as the function raises.
    """
    place = absolute_path(folder)
    plot(records, [place / f"{name}{ending}" for ending in FORMATS])

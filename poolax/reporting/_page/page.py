"""The page: everything in one file of HTML, which asks nothing of any other place."""

import base64
import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from poolax._text import one_line
from poolax.reporting._page.downloads import Download, downloads_of, fitting
from poolax.reporting._page.grids import MOST_ROWS
from poolax.reporting._page.origins import Origin, origin_of
from poolax.reporting._page.sections import Section, sections_of
from poolax.reporting._page.sources import Found, Source, read_sources
from poolax.reporting._page.verdicts import Choices, Verdict, choices_of, overview, verdicts_of
from poolax.reporting._table import Table

#: Bytes of a page.
LARGEST = 3_000_000
_MARGIN = 1_000
# Rows of a table to sort, where the page would be too large with more.
_FEWER_ROWS = (250, 50)
_PACKAGE, _FOLDER = "poolax.reporting._page", "templates"
_NUMBER = re.compile(r"[\[<>]?[-+]?[\d.]")


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of HTML.

    Attributes:
        html: The file.
        headline: What it says first.
        remarks: What was left out of it, a line each.
        num_records: Records that it is made of.
    """

    html: str
    headline: str
    remarks: Sequence[str]
    num_records: int


@dataclasses.dataclass(frozen=True)
class _Part:
    """What a page shows of one file."""

    source: Source
    title: str
    choices: Choices
    sections: Sequence[Section]
    origin: Origin

    @property
    def is_shown(self) -> bool:
        """Whether there is anything below its heading; advice alone stands at the top."""
        return bool(self.sections)


def report_page(path: epath.PathLike) -> Page:
    """One self-contained page from the records of a run: what they recommend, tables and figures.

    The page holds all that it shows, so that it can be sent and kept; records and tables can be saved
    from it. Text of records is text in it, whatever it looks like.

    Args:
        path: Folder with records (``*.jsonl``, in folders below it as well), as quickstart, sweeps,
            advise, compare and the experiments leave it, or one file of records, such as what
            ``poolax bounds --json`` prints.

    Returns:
        The page, smaller than 3 MB.

    Raises:
        ValueError: if there is no record, or no file can be read.
    """
    found = read_sources(path)
    advice = verdicts_of(found.sources)
    parts = [_part(source, f"part-{place}") for place, source in enumerate(found.sources)]
    remarks = [
        *found.remarks,
        *(
            f"{part.source.name}: {section.title}: {section.problem}"
            for part in parts
            for section in part.sections
            if section.problem
        ),
    ]
    texts: dict[str, Any] = {**_texts(found, advice, parts), "remarks": remarks}
    grids = [
        (part.source, grid) for part in parts for section in part.sections for grid in section.grids
    ]
    downloads = downloads_of(grids, found.sources)
    shown = texts | {"most_rows": MOST_ROWS}
    room = _room(shown, downloads)
    for most_rows in _FEWER_ROWS:
        if room < 0:
            shown = texts | {"most_rows": most_rows}
            room = _room(shown, downloads)
    html = _render(shown, *fitting(downloads, room))
    if len(html.encode()) >= LARGEST:
        size = f"{len(html.encode()) / 1e6:.1f} MB"
        remarks.append(
            f"The page has {size}: a folder below, or one of its files, gives a smaller one."
        )
    return Page(html, texts["headline"], remarks, texts["num_records"])


def _part(source: Source, name: str) -> _Part:
    heads = [row for row in source.of_kind("head") if "shots" not in row]
    titles = {row["title"] for row in source.rows if isinstance(row.get("title"), str)}
    title = titles.pop() if len(titles) == 1 else source.name
    sections = list(sections_of(source, name=name))
    is_sound = not any(section.problem for section in sections)
    choices = choices_of(heads) if heads and is_sound else Choices((), None)
    return _Part(source, title, choices, sections, origin_of(source.rows))


def _texts(found: Found, advice: Sequence[Verdict], parts: Sequence[_Part]) -> dict[str, Any]:
    """What the template shows."""
    chosen = [verdict for part in parts for verdict in part.choices.verdicts]
    # One choice stands at the top; several stand in a table with the scores that they are made of.
    verdicts = advice or (chosen if len(chosen) == 1 else [])
    headline = f"Records of {found.name}"
    if len(verdicts) == 1:
        headline = verdicts[0].sentence
    elif verdicts:
        headline = f"{len(verdicts)} recommendations"
    elif chosen:
        headline = "What validation chose, task by task"
    return {
        "name": found.name,
        "headline": headline,
        "verdicts": verdicts,
        "overview": overview(verdicts) if len(verdicts) > 1 else None,
        "parts": parts,
        "shows_choices": len(chosen) > 1,
        "num_records": sum(len(part.source.rows) for part in parts),
    }


def _room(texts: dict[str, Any], downloads: Sequence[Download]) -> int:
    """Bytes that are left for what can be saved from a page, whatever of it is chosen."""
    without = len(_render(texts, [], downloads).encode())
    around = len(_render(texts, downloads, []).encode()) - sum(len(one.href) for one in downloads)
    return LARGEST - max(without, around) - _MARGIN


def _render(texts: dict[str, Any], downloads: Sequence[Download], others: Sequence[Download]) -> str:
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            **texts,
            downloads=downloads,
            others=others,
            style=Markup(_asset("page.css")),
            script=Markup(script),
            script_digest=digest,
        )
    )


@functools.cache
def _asset(name: str) -> str:
    return (resources.files(_PACKAGE) / _FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE, _FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_on_one_line,
    )
    environment.filters["columns_of_words"] = _columns_of_words
    return environment


def _columns_of_words(table: Table) -> set[int]:
    """Columns most of whose cells are no numbers: they stand to the left."""
    found = set()
    for place in range(1, len(table.columns)):
        texts = [row[place].text for row in table.rows if row[place].text not in ("", "–")]
        if 2 * sum(_NUMBER.match(text) is None for text in texts) > len(texts):
            found.add(place)
    return found


def _on_one_line(value: Any) -> Any:
    """Text of records without what would move a cursor or turn the text around it."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value

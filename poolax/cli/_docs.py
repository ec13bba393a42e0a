"""``poolax docs``."""

import dataclasses
import os
import sys
from typing import Annotated, Any, ClassVar, Literal

import rich.console
import rich.markdown
import tyro

from poolax._checks import did_you_mean
from poolax._theory import Section, contents, sections
from poolax.cli._console import COMPLETE, show


@dataclasses.dataclass(frozen=True)
class Docs:
    """The theory behind the bounds, as docstrings cite it: "Theory, section 4.3".

    Its table of contents, a chapter, or a section of one:

        poolax docs theory
        poolax docs theory 4
        poolax docs theory 4.3

    On a terminal it is laid out, page by page; with NO_COLOR, and where it is piped, it is the Markdown
    that it is written in.

    Attributes:
        page: What to read.
        chapter: Number of a chapter or section, or a chapter's name; without it, what there is.
        as_json: Print JSON lines, a record for each chapter or section asked for.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    page: Annotated[tyro.conf.Positional[Literal["theory"]], tyro.conf.arg(metavar="theory")] = "theory"
    chapter: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[CHAPTER]")] = None
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        known = sections()
        chosen = [_chosen(self.chapter, known)] if self.chapter else list(known.values())
        if self.as_json:
            show([], map(_record, chosen), as_json=True)
        else:
            _print(chosen[0].text if self.chapter else contents())
        return COMPLETE


def _chosen(asked: str, known: dict[str, Section]) -> Section:
    by_name = {_name(section): section for section in known.values() if "." not in section.number}
    found = known.get(asked) or by_name.get(asked)
    if found is None:
        listed = ", ".join(f"{section.number} ({name})" for name, section in by_name.items())
        raise ValueError(
            f"chapter: expected a chapter or the number of a section, of {listed}, got {asked!r}"
            f"{did_you_mean(asked, [*by_name, *known])}"
        )
    return found


def _name(section: Section) -> str:
    return section.page.partition("_")[2]


def _record(section: Section) -> dict[str, Any]:
    return {"kind": "section", **dataclasses.asdict(section)}


def _print(text: str) -> None:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        print(text, end="")
        return
    console = rich.console.Console()
    with console.pager(styles=True):
        console.print(rich.markdown.Markdown(text))

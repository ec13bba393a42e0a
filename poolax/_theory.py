"""The chapters of the theory, which are installed with the package, and their sections."""

import dataclasses
import importlib.resources
import re

_HEADING = re.compile(r"^(#+) (\d+(?:\.\d+)?) (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Section:
    """A chapter, or a section of one.

    Attributes:
        number: As it is cited, such as ``"4"`` or ``"4.3"``.
        title: Without the number.
        page: Name of the chapter's file, without the ending.
        text: In Markdown, with its heading and the sections in it.
    """

    number: str
    title: str
    page: str
    text: str

    @property
    def anchor(self) -> str:
        """What follows ``#`` in a link to it."""
        return re.sub(r"[^\w\- ]", "", f"{self.number} {self.title}".lower()).replace(" ", "-")


def contents() -> str:
    """The first page, which says what stands in which chapter, without its comments."""
    text = _folder().joinpath("index.md").read_text(encoding="utf-8")
    return re.sub(r"<!--.*?-->\n+", "", text)


def sections() -> dict[str, Section]:
    """All chapters and their sections by number, in the order in which they are read.

    Example:
        >>> found = sections()
        >>> found["4.3"].title, found["4.3"].page, found["4.3"].anchor
        ('Rotary positions', '04_sharp_bounds', '43-rotary-positions')
    """
    found = {}
    for path in sorted(_folder().iterdir(), key=lambda path: path.name):
        if re.fullmatch(r"\d\d_\w+\.md", path.name):
            page, text = path.name.removesuffix(".md"), path.read_text(encoding="utf-8")
            for section in _sections_of(page, text):
                found[section.number] = section
    return found


def _folder():
    return importlib.resources.files("poolax") / "docs" / "theory"


def _sections_of(page, text):
    headings = list(_HEADING.finditer(text))
    for index, heading in enumerate(headings):
        level = len(heading[1])
        after = [later.start() for later in headings[index + 1 :] if len(later[1]) <= level]
        end = after[0] if after else len(text)
        yield Section(heading[2], heading[3], page, f"{text[heading.start() : end].rstrip()}\n")

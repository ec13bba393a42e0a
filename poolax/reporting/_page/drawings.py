"""Figures as SVG within a page, several below each other, with words for those who do not see."""

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable
from xml.etree import ElementTree

from etils import epath
from markupsafe import Markup

from poolax._text import one_line, printable

_SPACE = re.compile(r"\{[^}]*\}")
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+(?=\))")
_LENGTH = re.compile(r"[\d.]+")
_PIXELS_PER_POINT = 96 / 72


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of a page.

    Attributes:
        title: Above it.
        svg: The figure.
    """

    title: str
    svg: Markup


def drawn(plot: Callable[[str], None], *, name: str, title: str, words: str) -> Drawing:
    """What a function of :mod:`poolax.reporting` draws.

    Args:
        plot: Writes the figure to a path.
        name: Of the figure in the page; no other may have it.
        title: Above it.
        words: What it shows, for those who do not see it.

    Returns:
        The figure.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "figure.svg")
        plot(path)
        text = epath.Path(path).read_text()
    return Drawing(title, inline(text, name=name, words=one_line(f"{title}. {words}")))


def inline(text: str, *, name: str, words: str) -> Markup:
    """A file of SVG as an element of HTML, whose names and styles touch nothing else in the page.

    Example:
        >>> svg = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" viewBox="0 0 72 9"><g/></svg>'
        >>> print(inline(svg, name="f", words="a < b"))
        <svg viewBox="0 0 72 9" role="img" aria-label="a &lt; b" style="--natural:96px"><g /></svg>
    """
    root = ElementTree.fromstring(text)
    for element in list(root):
        if _plain(element.tag) in ("metadata", "style", "title"):
            root.remove(element)
    for element in root.iter():
        # What is left of styles below would be the page's as well.
        element.tag = "g" if _plain(element.tag) == "style" else _plain(element.tag)
        element.text = None if element.tag == "g" else printable(element.text or "")
        element.tail = element.tail if element.tail and element.tail.strip() else None
        element.attrib = {_plain(key): value for key, value in element.attrib.items()}
    used = {found for element in root.iter() for found in _references(element)}
    for element in root.iter():
        element.attrib = {
            key: _renamed(key, value, name)
            for key, value in element.attrib.items()
            if key != "id" or value in used
        }
    width = float(_LENGTH.findall(root.get("width", "0"))[0]) * _PIXELS_PER_POINT
    kept = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": words}
    root.attrib = {**kept, "style": f"--natural:{width:.0f}px"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _plain(name: str) -> str:
    return _SPACE.sub("", name)


def _references(element: ElementTree.Element) -> list[str]:
    found = [name for value in element.attrib.values() for name in _REFERENCE.findall(value)]
    return [*found, element.get("href", "").removeprefix("#")]


def _renamed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    return _REFERENCE.sub(lambda match: f"{name}-{match[0]}", value)

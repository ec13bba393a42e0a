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
_POINT = re.compile(r"M[^A-Za-z]*")
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

    What a page does not need is left out: metadata, groups of nothing, and every style but once.

    Example:
        >>> svg = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" viewBox="0 0 72 9"><g/></svg>'
        >>> print(inline(svg, name="f", words="a < b"))
        <svg viewBox="0 0 72 9" role="img" aria-label="a &lt; b" style="--natural:96px" />
    """
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for element in list(parent):
            # What is left of styles below would be the page's as well.
            if _plain(element.tag) in ("metadata", "style", "title"):
                parent.remove(element)
    for element in root.iter():
        element.tag = _plain(element.tag)
        element.text = printable(element.text or "")
        element.tail = element.tail if element.tail and element.tail.strip() else None
        element.attrib = {_plain(key): value for key, value in element.attrib.items()}
    width = float(_LENGTH.findall(root.get("width", "0"))[0]) * _PIXELS_PER_POINT
    kept = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": words}
    root.attrib = {**kept, "style": f"--natural:{width:.0f}px"}
    _rename(root, name)
    _without_nothing(root)
    _share_styles(root, name)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _rename(root: ElementTree.Element, name: str) -> None:
    """Names that are referred to begin with the figure's; others are left out."""
    used = dict.fromkeys(found for element in root.iter() for found in _references(element))
    short = {old: f"{name}-{place}" for place, old in enumerate(used)}
    for element in root[:]:
        for one in element.iter():
            if (own := one.attrib.pop("id", "")) in short:
                one.set("id", short[own])
            for key, value in one.items():
                one.set(key, _REFERENCE.sub(lambda found: short[found[0]], value))
            if (target := one.get("href", "")).startswith("#"):
                one.set("href", f"#{short[target[1:]]}")


def _references(element: ElementTree.Element) -> list[str]:
    found = [name for value in element.attrib.values() for name in _REFERENCE.findall(value)]
    return [*found, *filter(None, [element.get("href", "").removeprefix("#")])]


def _without_nothing(element: ElementTree.Element) -> None:
    """Groups that say nothing of what is in them give way to it, and lines of one point go."""
    children = []
    for child in element:
        _without_nothing(child)
        if child.tag == "path" and _POINT.fullmatch(child.get("d", "")):
            continue
        children += child[:] if child.tag == "g" and not child.attrib else [child]
    element[:] = children


def _share_styles(root: ElementTree.Element, name: str) -> None:
    """Every style once, in a sheet.

    Its names are the figure's own: rules that ask what an element stands in do not reach copies by
    ``use`` in every browser.
    """
    styled = [one for element in root for one in element.iter() if "style" in one.attrib]
    classes = {
        style: f"{name}-s{place}"
        for place, style in enumerate(dict.fromkeys(one.attrib["style"] for one in styled))
    }
    for one in styled:
        one.set("class", classes[one.attrib.pop("style")])
    if classes:
        sheet = ElementTree.Element("style")
        sheet.text = "".join(f".{short}{{{style}}}" for style, short in classes.items())
        root.insert(0, sheet)


def _plain(name: str) -> str:
    return _SPACE.sub("", name)

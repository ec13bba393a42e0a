"""Sections of the theory, where text cites them by number, as links."""

import functools
import re
from collections.abc import Callable

from poolax import _theory

_NUMBER = r"\d+(?:\.\d+)?"
_LIST = rf"{_NUMBER}(?:(?:,?\s+and\s+|,\s+|\s+to\s+){_NUMBER})*"
#: In a docstring, and in the theory itself where it is no link yet.
IN_DOCSTRINGS = re.compile(rf"(Theory,\s+(?:sections?|chapters?)\s+)({_LIST})")
IN_THEORY = re.compile(rf"((?<!\[)\b[Ss]ections?\s+)({_LIST})")


def linked(text: str, pattern: re.Pattern[str], link: Callable[[_theory.Section], str]) -> str:
    """Text in which each number of a section that is cited is a link.

    Args:
        text: The text, in Markdown.
        pattern: What cites: the words before, and the numbers.
        link: Target of the link to a section, with its brackets.

    Returns:
        The text; numbers of sections that are not there stay as they are.
    """

    def one(match):
        section = _sections().get(match[0])
        return match[0] if section is None else f"[{match[0]}]{link(section)}"

    return pattern.sub(lambda match: match[1] + re.sub(_NUMBER, one, match[2]), text)


@functools.cache
def _sections():
    return _theory.sections()

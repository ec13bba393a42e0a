"""Docstrings as the reference shows them: cross references are links, formulas blocks of their own."""

import functools
import inspect
import re
from typing import Any

import citations
import griffe
import reference

_ROLE = re.compile(r":(?:func|class|meth|data|attr|mod):`~?([\w.]+)`")
_FORMULA = re.compile(r"(?<=\n\n)( {4,}``[^\n]*)(?=\n\n|\n?$)")


class Links(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = shown(inspect.cleandoc(obj.docstring.value), obj.path)


def shown(text: str, path: str) -> str:
    """A docstring in the Markdown of the site.

    Args:
        text: The docstring.
        path: Full name of what it describes, in whose part short names are looked up first.

    Returns:
        The text.
    """
    text = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = _ROLE.sub(lambda match: _link(match[1], path), text)
    text = citations.linked(text, citations.IN_DOCSTRINGS, lambda section: f"[{section.anchor}]")
    # Four spaces make a block of code, in which marks of code would be seen.
    return _FORMULA.sub(lambda match: match[1].replace("``", ""), text)


def _link(name: str, path: str) -> str:
    target = _resolved(name, path)
    return f"`{name}`" if target is None else f"[`{name}`][{target}]"


def _resolved(name, path):
    """The public name that a short one stands for; ``None`` where none or several may be meant."""
    if name.startswith("poolax."):
        return name if name in _public() else None
    known = _places().get(name, [])
    # Where several export it, that of the same part, and there the one that is nearest.
    homes = [module for module in known if path.startswith(f"{module}.")] or known
    return f"{max(homes, key=len)}.{name}" if homes else None


@functools.cache
def _places():
    found: dict[str, list[str]] = {}
    for module, names in reference.public_modules().items():
        for name in names:
            found.setdefault(name, []).append(module)
    return found


@functools.cache
def _public():
    return {f"{module}.{name}" for name, modules in _places().items() for module in modules}

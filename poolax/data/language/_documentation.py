"""The documentation in Python's standard library: text to pretrain on, without a download."""

import ast
import pathlib
import platform
import re
import sysconfig
from collections.abc import Iterator

import numpy as np

from poolax._checks import check_count
from poolax._dataset import Dataset
from poolax.data._entry import Entry
from poolax.data._splits import three_splits

_NAME = "documentation"
_SOURCE = "docstrings of Python's standard library"
_LICENCE = "PSF License Version 2"
# Packages of others, tests, and tables of characters.
_LEFT_OUT = {
    *("site-packages", "dist-packages", "test", "tests", "idle_test"),
    *("idlelib", "lib2to3", "encodings", "pydoc_data"),
}
_KINDS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documentation(*, min_words: int = 8) -> Dataset:
    """Docstrings of the standard library, those of a module behind one another; needs no download.

    A docstring that several modules have stands in the first of them alone, and one with a paragraph of
    :func:`topics` in none, whose test paragraphs are to be unseen. The splits are whole modules and
    fixed: 90 % train, 5 % validation, 5 % test.

    The documentation changes with Python's version, which stands in the notes.

    Args:
        min_words: Docstrings with fewer words are left out.

    Returns:
        Texts, shape ``(N,)``, one a module, without targets, which :func:`next_token` makes.

    Raises:
        ValueError: where Python came without the sources of its library.

    Example:
        >>> data = documentation()
        >>> len(data.inputs) > 200, sum(map(len, data.inputs)) > 500_000
        (True, True)
    """
    check_count("min_words", min_words)
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    texts, seen = [], set()
    known = _paragraphs_of_topics()
    for path in sorted(root.rglob("*.py")):
        if _LEFT_OUT & {*path.relative_to(root).parts}:
            continue
        found = []
        for text in _docstrings(path):
            paragraphs = {" ".join(block.split()) for block in re.split(r"\n\s*\n", text)}
            if len(text.split()) >= min_words and text not in seen and not paragraphs & known:
                seen.add(text)
                found.append(text)
        if found:
            texts.append("\n\n".join(found))
    if not texts:
        raise ValueError(f"documentation: expected modules of the standard library in {root}, got none")
    return Dataset(
        name=_NAME,
        inputs=np.array(texts, dtype=object),
        targets={},
        splits=three_splits(len(texts), 0.9),
        source=_SOURCE,
        licence=_LICENCE,
        notes=(
            f"standard library of Python {platform.python_version()}",
            f"docstrings of at least {min_words} words, one of several that are alike",
        ),
    )


def _docstrings(path: pathlib.Path) -> Iterator[str]:
    """Of a module, its classes and functions, in their order."""
    waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Module, *_KINDS)):
            text = ast.get_docstring(node)
            if text:
                yield text
            waiting += [part for part in reversed(node.body) if isinstance(part, _KINDS)]


def _paragraphs_of_topics() -> set[str]:
    from pydoc_data.topics import topics

    blocks = (block.split() for text in topics.values() for block in re.split(r"\n\s*\n", text))
    return {" ".join(words) for words in blocks if len(words) >= 8}


DOCUMENTATION = Entry(
    name=_NAME,
    modality="language",
    task="next_token",
    title="Docstrings of Python's standard library, by module",
    source=_SOURCE,
    citation='"The Python Standard Library", Python Software Foundation.',
    licence=_LICENCE,
    preprocessing="indentation removed; docstrings that are alike, or short, left out",
    embedded=documentation,
    options={"min_words": "docstrings with fewer words are left out"},
    verified=True,
)

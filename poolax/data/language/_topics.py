"""Paragraphs of Python's own documentation and the topics that they belong to."""

import collections
import platform
import re
from collections.abc import Iterator

import numpy as np

from poolax._checks import check_count
from poolax._dataset import Dataset
from poolax.data._entry import Entry
from poolax.data._splits import three_splits

_NAME = "topics"
_SOURCE = "pydoc_data.topics of Python's standard library"
_LICENCE = "PSF License Version 2"
_MIN_WORDS = 8


def topics(*, min_paragraphs: int = 20) -> Dataset:
    """Which topic of Python's documentation a paragraph comes from; needs no download.

    Paragraphs are sentences of at least eight words, in running text or in definitions, without code,
    tables and lists. Some topics quote others: a paragraph that several hold belongs to the shortest
    of them and stands only once in the data, so that no two splits share one. The splits are stratified
    by topic and fixed: 60 % train, 20 % validation, 20 % test.

    The documentation changes with Python's version, which stands in the notes.

    Args:
        min_paragraphs: Topics with fewer are left out.

    Returns:
        Paragraphs, shape ``(N,)``, white space collapsed, and their topics, sorted by name.

    Raises:
        ValueError: if fewer than two topics have that many.

    Example:
        >>> data = topics()
        >>> data.num_classes > 5, "debugger" in data.class_names, len(data.inputs) > 300
        (True, True, True)

    Reference:
        Topics of "The Python Language Reference", as ``help()`` prints them.
    """
    check_count("min_paragraphs", min_paragraphs, at_least=5)  # one of each topic in each split
    topic_of = _topic_of_paragraphs()
    counts = collections.Counter(topic_of.values())
    names = tuple(sorted(topic for topic, count in counts.items() if count >= min_paragraphs))
    if len(names) < 2:
        most = sorted(counts.values())[-2]
        raise ValueError(f"min_paragraphs: expected at most {most}, got {min_paragraphs}")
    labels = {name: label for label, name in enumerate(names)}
    kept = [(text, labels[topic]) for text, topic in topic_of.items() if topic in labels]
    targets = np.array([label for _, label in kept], np.int32)
    return Dataset(
        name=_NAME,
        inputs=np.array([text for text, _ in kept], dtype=object),
        targets=targets,
        splits=three_splits(len(kept), 0.6, targets),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=len(names),
        class_names=names,
        notes=(
            f"documentation of Python {platform.python_version()}",
            f"topics with at least {min_paragraphs} paragraphs",
        ),
    )


def _topic_of_paragraphs() -> dict[str, str]:
    from pydoc_data.topics import topics as documentation

    by_length = sorted(documentation.items(), key=lambda item: (len(item[1]), item[0]))
    topic_of: dict[str, str] = {}
    for topic, text in by_length:
        for paragraph in _paragraphs(text):
            topic_of.setdefault(paragraph, topic)
    return dict(sorted(topic_of.items(), key=lambda item: (item[1], item[0])))


def _paragraphs(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text):
        words = block.split()
        paragraph = " ".join(words)
        if len(words) >= _MIN_WORDS and paragraph[0].isupper() and paragraph.endswith("."):
            yield paragraph


TOPICS = Entry(
    name=_NAME,
    modality="language",
    task="classification",
    title="Python's documentation: the topic of a paragraph",
    source=_SOURCE,
    citation='"The Python Language Reference", Python Software Foundation.',
    licence=_LICENCE,
    preprocessing="white space collapsed; code, tables and lists left out",
    embedded=topics,
    options={"min_paragraphs": "topics with fewer paragraphs are left out"},
    verified=True,
)

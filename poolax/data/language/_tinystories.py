"""TinyStories: short stories in the words of a small child."""

import itertools
from collections.abc import Iterator

import numpy as np
from etils import epath

from poolax._checks import check_count
from poolax._dataset import Dataset
from poolax.data._damage import damaged_data
from poolax.data._entry import Download, Entry, existing
from poolax.data._splits import hold_out
from poolax.data.language._files import decode

_NAME = "tinystories"
_SOURCE = "https://huggingface.co/datasets/roneneldan/TinyStories"
_LICENCE = "CDLA-Sharing-1.0"
_FILES = {"train": "TinyStories-train.txt", "test": "TinyStories-valid.txt"}
_SEPARATOR = b"<|endoftext|>"
_CHUNK = 1 << 20


def read_tinystories(directory: epath.PathLike, *, num_stories: int | None = 100_000) -> Dataset:
    """TinyStories from its text files, as published.

    There is no published test split: ``TinyStories-valid.txt`` becomes it, and a tenth of the training
    stories validation. The training file is read no further than needed.

    Args:
        directory: Holds ``TinyStories-train.txt`` and ``TinyStories-valid.txt``.
        num_stories: How many training stories to take, from the beginning; ``None`` for all of them,
            some two million.

    Returns:
        Stories, shape ``(N,)``, without targets, which :func:`next_token` makes.

    Raises:
        ValueError: for a missing or empty file, or text that is not UTF-8.
    """
    if num_stories is not None:
        check_count("num_stories", num_stories)
    texts: list[str] = []
    splits = {}
    for split, file in _FILES.items():
        path = existing(directory, file)
        limit = num_stories if split == "train" else None
        stories = list(itertools.islice(_read_stories(path), limit))
        if not stories:
            raise damaged_data(path, "expected stories, got none")
        splits[split] = np.arange(len(texts), len(texts) + len(stories))
        texts.extend(stories)
    return Dataset(
        name=_NAME,
        inputs=np.array(texts, dtype=object),
        targets={},
        splits=hold_out(splits),
        source=_SOURCE,
        licence=_LICENCE,
        notes=(
            f"{'all' if num_stories is None else 'the first'} {len(splits['train'])} training stories",
            "test is the published validation split",
            "validation is a tenth of the training stories "
            "(sklearn train_test_split, test_size=0.1, random_state=0)",
        ),
    )


def _read_stories(path) -> Iterator[str]:
    """Stories one by one, stripped, without those that are empty; at most a chunk is held."""
    rest, line = b"", 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            *stories, rest = (rest + chunk).split(_SEPARATOR)
            if not chunk:  # the last story need not be followed by a separator
                stories.append(rest)
            for story in stories:
                text = decode(story, path, line).strip()
                line += story.count(b"\n")
                if text:
                    yield text
            if not chunk:
                return


TINYSTORIES = Entry(
    name=_NAME,
    modality="language",
    task="next_token",
    title="TinyStories: short stories in the words of a small child, by language models",
    source=_SOURCE,
    citation=(
        'Eldan and Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent '
        'English?" (2023), arXiv:2305.07759.'
    ),
    licence=_LICENCE,
    preprocessing="white space around stories removed, empty stories dropped",
    layout=", ".join(_FILES.values()),
    read=read_tinystories,
    options={"num_stories": "training stories to take, from the beginning; None for all"},
    downloads=(
        Download(
            url=f"{_SOURCE}/resolve/main/TinyStories-train.txt",
            sha256="c5cf5e22ff13614e830afbe61a99fbcbe8bcb7dd72252b989fa1117a368d401f",
            file=_FILES["train"],
        ),
        Download(
            url=f"{_SOURCE}/resolve/main/TinyStories-valid.txt",
            sha256="94e431816c4cce81ff71e4408ff8d3bda9a42e8d2663986697c3954288cb38b4",
            file=_FILES["test"],
        ),
    ),
)

"""Documents that nearly repeat one that is held out."""

import collections
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from poolax._progress import Progress, no_progress
from poolax.data.tokens._documents import Piece

# Three words in a row: one changed word of a sentence of ten leaves a Jaccard index of 5/11.
_WORDS = 3
_WORD = re.compile(r"\w+")


def repeats(
    pieces: Callable[[], Iterable[Piece]],
    held_out: np.ndarray,
    threshold: float,
    progress: Progress = no_progress,
) -> np.ndarray:
    r"""Which documents nearly repeat one that is held out.

    A document is the set of its runs of three words, in small letters; two documents with sets
    :math:`A` and :math:`B` are near copies from a Jaccard index
    :math:`|A \cap B| / |A \cup B|` of ``threshold`` on. All runs of what is held out are in memory.

    Args:
        pieces: Reads parts of documents in order, each with whether its document ends there.
        held_out: Which documents are held out, shape ``(num_documents,)``.
        threshold: Index from which on a document is a near copy, in (0, 1).
        progress: Called with a description, how many documents are compared, and how many there are.

    Returns:
        Booleans of shape ``(num_documents,)``, false for what is held out.

    Raises:
        ValueError: if no document is left.

    Example:
        >>> texts = ["my card has not come yet", "My card has not come!", "a fee on my card"]
        >>> pieces = lambda: ((text, True) for text in texts)
        >>> repeats(pieces, np.array([True, False, False]), 0.5).tolist()
        [False, True, False]
    """
    having: dict[int, list[int]] = collections.defaultdict(list)
    sizes: list[int] = []
    for runs, is_held_out in zip(_runs_of(pieces()), held_out, strict=False):
        if is_held_out:
            for run in runs:
                having[run].append(len(sizes))
            sizes.append(len(runs))
    found = np.zeros(len(held_out), bool)
    for document, runs in enumerate(_runs_of(pieces())):
        shared = collections.Counter(other for run in runs for other in having.get(run, ()))
        found[document] = any(
            count >= threshold * (len(runs) + sizes[other] - count) for other, count in shared.items()
        )
        progress("comparing documents", document + 1, len(held_out))
    if (found | held_out).all():
        raise ValueError(
            f"near_copies: expected documents that are no near copies ({threshold:g}) of what is held "
            f"out, got none among {len(held_out)}"
        )
    return found & ~held_out


def _runs_of(pieces: Iterable[Piece]) -> Iterator[set[int]]:
    """Digests of the runs of words of each document."""
    runs: set[int] = set()
    last: list[str] = []
    for text, ends in pieces:
        words = last + _WORD.findall(text.lower())
        runs.update(_digest(words[n : n + _WORDS]) for n in range(len(words) - _WORDS + 1))
        last = words[1 - _WORDS :]
        if ends:
            # A document of fewer words is one run.
            yield runs or {_digest(last)}
            runs, last = set(), []


def _digest(words: list[str]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "little")

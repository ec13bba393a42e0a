"""Lengths to which texts are padded, and where their real tokens stand."""

import numpy as np
from jaxtyping import Bool, Int

# A shorter sequence is another program: what it has to save, in tokens, to be worth compiling.
_LEAST_SAVING = 2**14
_MOST_LENGTHS = 4
_LENGTH_STEP = 8


def length_groups(
    lengths: Int[np.ndarray, " num"], num_tokens: int, *, least_saving: float | None = None
) -> list[int]:
    """Lengths to which sequences are padded, so that little is computed on padding.

    Args:
        lengths: Length of each sequence.
        num_tokens: Length that all are padded to otherwise.
        least_saving: Tokens that pay for compiling one more program; ``None`` for those of a backbone.

    Returns:
        Ascending lengths, the last ``num_tokens``'s or that of the longest; a sequence is padded to the
        first that is not below its own. There are at most four, and each saves as many tokens as
        it takes to pay for compiling one more program.

    Example:
        >>> length_groups(np.repeat([5, 30], 5_000), 32)
        [8, 32]
    """
    rounded = np.minimum(-(-np.maximum(lengths, 1) // _LENGTH_STEP) * _LENGTH_STEP, num_tokens)
    candidates, counts = np.unique(rounded, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    last = len(candidates) - 1
    # best[j]: least tokens, and the groups, of all sequences up to candidate j; one more group a turn.
    best = [(before[j + 1] * candidates[j], [int(candidates[j])]) for j in range(last + 1)]
    chosen = best[last]
    for _ in range(_MOST_LENGTHS - 1):
        best = [
            min(
                [best[j]]
                + [
                    (
                        best[i][0] + (before[j + 1] - before[i + 1]) * candidates[j],
                        [*best[i][1], int(candidates[j])],
                    )
                    for i in range(j)
                ]
            )
            for j in range(last + 1)
        ]
        if chosen[0] - best[last][0] < (_LEAST_SAVING if least_saving is None else least_saving):
            break
        chosen = best[last]
    return chosen[1]


def count_tokens(mask: Bool[np.ndarray, "*batch n"] | None, num_tokens: int) -> tuple[int, int]:
    """Fewest and most real tokens of a sequence; one without any counts as one."""
    if mask is None:
        return num_tokens, num_tokens
    lengths = np.maximum(np.asarray(mask).sum(axis=-1), 1)
    return int(lengths.min()), int(lengths.max())


def contiguous_starts(mask: Bool[np.ndarray, "*batch n"]) -> Int[np.ndarray, "*batch"] | None:
    """Where each row's real tokens start, if they stand side by side in every row."""
    mask = np.asarray(mask)
    starts = np.argmax(mask, axis=-1)
    offsets = np.arange(mask.shape[-1]) - starts[..., None]
    whole = (offsets >= 0) & (offsets < mask.sum(-1, keepdims=True))
    return starts if (mask == whole).all() else None


def to_front(
    ids: Int[np.ndarray, "rows n"], mask: Bool[np.ndarray, "rows n"], length: int
) -> tuple[Int[np.ndarray, "rows length"], Bool[np.ndarray, "rows length"]]:
    """Real tokens of sequences side by side, in front and cut, and where they stand now."""
    starts = np.argmax(mask, axis=-1)
    columns = np.minimum(starts[:, None] + np.arange(length), mask.shape[-1] - 1)
    real = np.arange(length) < mask.sum(axis=-1)[:, None]
    return np.where(real, np.take_along_axis(ids, columns, 1), 0), real

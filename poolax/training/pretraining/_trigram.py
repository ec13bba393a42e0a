"""A trigram model, which a language model has to beat, and bits a byte to compare them in."""

import dataclasses
import math
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from poolax._checks import check_count, check_number

_CHUNK = 1 << 20
# Three tokens are one number of 64 bits.
_MOST_TOKENS = 1 << 21


@dataclasses.dataclass(frozen=True, eq=False)
class _Level:
    """Counts of n-grams of one length, and what is left to shorter ones.

    Attributes:
        keys: The n-grams as numbers in base ``V``, sorted.
        shares: ``(count - discount) / total`` of each.
        contexts: Their first tokens, sorted.
        rest: Share that each context leaves to the shorter n-grams.
    """

    keys: np.ndarray
    shares: np.ndarray
    contexts: np.ndarray
    rest: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, counts: np.ndarray, vocab_size: int) -> Self:
        """From sorted n-grams and their counts."""
        discount = _discounts(counts)[np.minimum(counts, 3)]
        contexts, first = np.unique(keys // np.uint64(vocab_size), return_index=True)
        totals = np.add.reduceat(counts, first).astype(float)
        rest = np.add.reduceat(discount, first) / totals
        sizes = np.diff(np.append(first, len(keys)))
        return cls(keys, (counts - discount) / np.repeat(totals, sizes), contexts, rest)

    def probabilities(self, keys: np.ndarray, shorter: np.ndarray, vocab_size: int) -> np.ndarray:
        """Probabilities of last tokens given the others, from those by shorter n-grams."""
        own = _look_up(self.keys, self.shares, keys, 0.0)
        rest = _look_up(self.contexts, self.rest, keys // np.uint64(vocab_size), 1.0)
        return own + rest * shorter


class Trigram:
    r"""Interpolated Kneser–Ney smoothing of trigrams of tokens, with modified discounts.

    .. math::

        P(c | a b) = \frac{n(abc) - D}{\sum_{c'} n(abc')} + \gamma(ab) P(c | b)

    and likewise down to single tokens and to :math:`1 / V`; of shorter n-grams :math:`n` counts the
    different tokens in front. Discounts :math:`D` for counts of 1, 2 and more come from how many
    n-grams there are of each count; where there are too few, one for all, ``n1 / (n1 + 2 n2)``.

    Args:
        tokens: Training tokens, one behind the other, with what ends a document among them.
        vocab_size: Number ``V`` of tokens.

    Raises:
        ValueError: for fewer than three tokens, or tokens outside the vocabulary.

    Example:
        >>> import numpy as np
        >>> model = Trigram(np.array([0, 1, 0, 1, 0, 2]), vocab_size=3)
        >>> np.exp(-model.losses(np.array([1, 0, 1])))[-1].round(4)  # 5 / 12
        np.float64(0.4167)

    Reference:
        Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (Computer
        Speech and Language, 1999).
    """

    def __init__(self, tokens: Int[np.ndarray, " n"], vocab_size: int):
        check_count("vocab_size", vocab_size)
        if vocab_size > _MOST_TOKENS:
            raise ValueError(f"vocab_size: expected at most {_MOST_TOKENS}, got {vocab_size}")
        self._vocab_size = vocab_size
        ids = self._checked(tokens, 3)
        size = np.uint64(vocab_size)
        trigrams, counts = np.unique((ids[:-2] * size + ids[1:-1]) * size + ids[2:], return_counts=True)
        bigrams, in_front = np.unique(trigrams % (size * size), return_counts=True)
        single, before = np.unique(bigrams % size, return_counts=True)
        self._levels = tuple(
            _Level.of(keys, numbers, vocab_size)
            for keys, numbers in ((single, before), (bigrams, in_front), (trigrams, counts))
        )

    def losses(self, tokens: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n_minus_one"]:
        """Negative logarithm of the probability of each token but the first, in nats.

        Args:
            tokens: Tokens one behind the other, shape ``(n,)``.

        Returns:
            Shape ``(n - 1,)``; the second token has a context of one.
        """
        ids = self._checked(tokens, 2)
        found = [self._losses(ids[:2], 2)]
        for start in range(0, len(ids) - 2, _CHUNK):
            found.append(self._losses(ids[start : start + _CHUNK + 2], 3))
        return np.concatenate(found)

    def _losses(self, ids, longest):
        """Of tokens with ``longest - 1`` before them."""
        size, last = np.uint64(self._vocab_size), ids[longest - 1 :]
        probability = np.full(len(last), 1 / self._vocab_size)
        keys, factor = np.zeros(len(last), np.uint64), np.uint64(1)
        for index, level in enumerate(self._levels[:longest]):
            keys = keys + factor * ids[longest - 1 - index : len(ids) - index]
            factor = factor * size
            probability = level.probabilities(keys, probability, self._vocab_size)
        return -np.log(probability)

    def _checked(self, tokens: Any, fewest: int) -> np.ndarray:
        ids = np.asarray(tokens)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or len(ids) < fewest:
            raise ValueError(
                f"tokens: expected at least {fewest} ids, shape (n,), got {ids.dtype} {ids.shape}"
            )
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            raise ValueError(
                f"tokens: expected ids from 0 to {self._vocab_size - 1}, got {ids.min()} to {ids.max()}"
            )
        return ids.astype(np.uint64)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Discounts of counts 0, 1, 2 and more."""
    n1, n2, n3, n4 = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    one = n1 / (n1 + 2 * n2) if n1 else 0.5
    if n1 and n2 and n3 and n4:
        several = (1 - 2 * one * n2 / n1, 2 - 3 * one * n3 / n2, 3 - 4 * one * n4 / n3)
        if all(0 < discount <= count for count, discount in enumerate(several, 1)):
            return np.array([0.0, *several])
    return np.array([0.0, one, one, one])


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, otherwise: float) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], otherwise)


def bits_per_byte(
    loss: float, tokens: Int[np.ndarray, " n"], bytes_of_tokens: Int[np.ndarray, " vocab"]
) -> float:
    r"""Bits a byte of a text, from the mean loss of its tokens.

    .. math::

        \frac{\text{loss} \cdot n}{\ln 2 \sum_i \text{bytes}(t_i)}

    Losses of tokens that end a document count, and stand for no byte: models that are compared predict
    the same tokens, of the same tokenizer or of another.

    Args:
        loss: Mean loss of these tokens, in nats.
        tokens: The tokens that were predicted, such as ``batches.tokens[batches.predicted]`` of
            :class:`TokenBatches`.
        bytes_of_tokens: Bytes that each id stands for: :func:`poolax.data.tokens.bytes_of_tokens`.

    Returns:
        Bits a byte.

    Raises:
        ValueError: for a loss that is not a finite number, or tokens that stand for no byte.

    Example:
        >>> import numpy as np
        >>> bits_per_byte(np.log(256), np.array([1, 1, 1]), np.array([0, 1]))
        8.0
    """
    check_number("loss", loss, at_least=0.0)
    tokens = np.asarray(tokens)
    total = int(np.asarray(bytes_of_tokens)[tokens].sum()) if tokens.size else 0
    if not total:
        raise ValueError("tokens: expected some that stand for bytes, got none")
    return float(loss) * tokens.size / (math.log(2) * total)

"""Batches of token ids from files that are not held in memory."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from poolax import _token_files
from poolax._checks import check_choice, check_count, check_flag
from poolax._order import epoch_order, in_batches
from poolax._token_files import TokenShards
from poolax.records import digest
from poolax.training.arguments import check_seed
from poolax.training.pretraining._batches import WEIGHT

_ORDERS = ("shuffled", "random", "sequential")
_CHUNK = 1 << 22


class TokenBatches:
    """Batches of blocks of memory-mapped tokens, by step.

    A row has ``block`` tokens and ``overlap`` more, which the next row begins with: with one, as
    :class:`NextToken` needs, each token but the first is predicted once an epoch. What does not fill a
    block at the end is left out. With ``documents`` a row holds tokens of one document alone, filled up
    and with a ``"mask"``; one that is longer takes several rows, and what ends the document before it
    stands in front, for its first token to be predicted from.

    Args:
        tokens: Files of tokens, or what :func:`poolax.data.tokens.read` takes.
        block: Tokens of a row.
        batch_size: Rows of a batch.
        seed: Sets the order.
        order: ``"shuffled"``: all rows once an epoch, in a new order each, the last batch filled up
            with rows of weight 0. ``"random"``: crops from anywhere, as nanoGPT draws them, drawn anew
            each step. ``"sequential"``: all rows as they stand, which is what an evaluation reads.
        overlap: Tokens that a row shares with the next: 1, or 0 for :class:`MaskedTokens`.
        documents: Whether rows hold one document alone; the files' record has to say what ends one.
        split: Of a folder of tokens, ``"train"`` or ``"validation"``.

    Raises:
        ValueError: for fewer tokens than a row, or arguments that do not fit.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "train.bin")
        ...     np.arange(12, dtype=np.uint16).tofile(path)
        ...     batches = TokenBatches(path, block=4, batch_size=2, order="sequential")
        ...     batches.batch(0)["ids"].tolist(), batches.steps_per_epoch
        ([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]], 1)
    """

    def __init__(
        self,
        tokens: TokenShards | epath.PathLike | Sequence[epath.PathLike],
        block: int,
        batch_size: int,
        *,
        seed: int = 0,
        order: str = "shuffled",
        overlap: int = 1,
        documents: bool = False,
        split: str = "train",
    ):
        check_count("block", block)
        check_count("batch_size", batch_size)
        check_count("overlap", overlap, at_least=0)
        check_seed("seed", seed)
        check_choice("order", order, _ORDERS)
        check_flag("documents", documents)
        if overlap > 1:
            raise ValueError(f"overlap: expected 0 or 1, got {overlap}")
        if documents and order == "random":
            raise ValueError("order: expected 'shuffled' or 'sequential' with documents, got 'random'")
        if not isinstance(tokens, TokenShards):
            tokens = _token_files.read(tokens, split=split)
        self._tokens, self._block, self._batch_size = tokens, block, batch_size
        self._seed, self._order, self._overlap, self._documents = seed, order, overlap, documents
        self._width = block + overlap
        self._starts, self._lengths = self._document_rows() if documents else (None, None)
        if not documents and len(tokens) < self._width:
            raise ValueError(f"tokens: expected at least {self._width}, got {len(tokens)}")
        self._num_rows = (
            len(self._starts) if self._starts is not None else (len(tokens) - overlap) // block
        )
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def tokens(self) -> TokenShards:
        """What the rows are cut from."""
        return self._tokens

    @property
    def predicted(self) -> slice:
        """Which of :attr:`tokens` an epoch predicts, each once, where rows overlap by one.

        All others have to stay out of what a model is compared with. Of ``order="random"`` these are
        the ones that can be predicted.
        """
        if self._documents:
            return slice(1, len(self._tokens))
        stop = len(self._tokens) if self._order == "random" else self._num_rows * self._block + 1
        return slice(1, stop)

    @property
    def tokens_per_batch(self) -> int:
        """See :class:`Batches`."""
        return self._batch_size * self._block

    @property
    def steps_per_epoch(self) -> int:
        """See :class:`Batches`."""
        return -(-self._num_rows // self._batch_size)

    @property
    def fingerprint(self) -> str:
        """See :class:`Batches`."""
        told = {
            "tokens": self._tokens.fingerprint,
            "block": self._block,
            "batch_size": self._batch_size,
            "seed": self._seed,
            "order": self._order,
            "overlap": self._overlap,
            "documents": self._documents,
        }
        return digest(told)

    def batch(self, step: int) -> Mapping[str, np.ndarray]:
        """See :class:`Batches`."""
        check_count("step", step, at_least=0)
        if self._order == "random":
            rng = np.random.default_rng([self._seed, step])
            starts = rng.integers(0, len(self._tokens) - self._width + 1, self._batch_size)
            return {"ids": self._rows(starts)}
        epoch, number = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.arange(self._num_rows)
            if self._order == "shuffled":
                order = epoch_order(self._seed, epoch, self._num_rows)
            self._epoch = (epoch, *in_batches(order, self._batch_size))
        rows, weight = self._epoch[1][number], self._epoch[2][number]
        if self._starts is None or self._lengths is None:
            # Without rounding: blocks of many tokens lie beyond what 32 bits count.
            return {"ids": self._rows(rows.astype(np.int64) * self._block), WEIGHT: weight}
        lengths = self._lengths[rows]
        mask = np.arange(self._width) < lengths[:, None]
        return {"ids": self._rows(self._starts[rows], lengths), "mask": mask, WEIGHT: weight}

    def _rows(self, starts: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        ids = np.zeros((len(starts), self._width), self._tokens.dtype)
        for row, start in enumerate(starts.tolist()):
            length = self._width if lengths is None else int(lengths[row])
            ids[row, :length] = self._tokens[start : start + length]
        return ids

    def _document_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the row of each part of a document starts, and how many tokens it has."""
        end = self._tokens.end_of_text
        if end is None:
            raise ValueError(
                "documents: expected tokens whose record says what ends a document, got bare files"
            )
        total = len(self._tokens)
        found = [
            np.flatnonzero(self._tokens[start : start + _CHUNK] == end) + start
            for start in range(0, total, _CHUNK)
        ]
        ends = np.concatenate(found)
        if not len(ends) or ends[-1] != total - 1:
            ends = np.append(ends, total - 1)
        begins = np.concatenate([[0], ends[:-1] + (1 - self._overlap)])
        # Tokens that are predicted, or, where none overlap, that there are.
        counts = ends - begins + (1 - self._overlap)
        parts = -(-counts // self._block)
        part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        starts = np.repeat(begins, parts) + part * self._block
        lengths = np.minimum(np.repeat(ends, parts) - starts + 1, self._width)
        return starts, lengths

"""What pretraining reads: batches that are a function of the step alone."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array

from poolax._checks import check_count, check_flag
from poolax._order import epoch_order, in_batches
from poolax.records import digest, fingerprint
from poolax.training.arguments import check_seed

WEIGHT = "weight"


@runtime_checkable
class Batches(Protocol):
    """Batches by step: the position in the data is the step, from which a resumed run goes on.

    A batch is a mapping of names to arrays whose leading axis are the rows of the whole step: of all
    micro-batches, devices and hosts. Shapes and dtypes are those of every other step. ``"weight"``,
    where there is one, is 0 for rows that only fill up a batch and 1 for all others.
    """

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of a full batch, for tokens a second."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every example was seen."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of all that the batches depend on: with another one a run is another run."""
        ...

    def batch(self, step: int) -> Mapping[str, np.ndarray]:
        """The batch of a step, counted from 0; a function of the step alone."""
        ...


class ArrayBatches:
    """Batches of rows of arrays in memory, in a new order each epoch.

    The order of an epoch depends on seed and epoch alone. The last batch of an epoch is filled up with
    rows of weight 0.

    Args:
        arrays: Equally many rows each, by the names that the objective reads.
        batch_size: Rows of a batch.
        seed: Sets the order.
        shuffle: Whether there is a new order each epoch; otherwise rows come as they are, which is what
            an evaluation reads.
        tokens_per_row: Tokens of a row, for tokens a second; ``None`` takes the second axis of the
            first array.

    Raises:
        ValueError: for no rows, arrays of different lengths, or numbers out of range.

    Example:
        >>> import numpy as np
        >>> batches = ArrayBatches({"ids": np.arange(6).reshape(3, 2)}, batch_size=2, shuffle=False)
        >>> last = batches.batch(1)
        >>> last["ids"].tolist(), last["weight"].tolist(), batches.steps_per_epoch
        ([[4, 5], [0, 1]], [1.0, 0.0], 2)
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray | Array],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        tokens_per_row: int | None = None,
    ):
        check_count("batch_size", batch_size)
        check_seed("seed", seed)
        check_flag("shuffle", shuffle)
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values() or WEIGHT in lengths:
            raise ValueError(f"arrays: expected equally many rows, at least one, got {lengths}")
        self._num_rows = next(iter(lengths.values()))
        self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        first = next(iter(self._arrays.values()))
        tokens = (first.shape[1] if first.ndim > 1 else 1) if tokens_per_row is None else tokens_per_row
        check_count("tokens_per_row", tokens)
        self._tokens = batch_size * tokens
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._fingerprint: str | None = None

    @property
    def tokens_per_batch(self) -> int:
        """See :class:`Batches`."""
        return self._tokens

    @property
    def steps_per_epoch(self) -> int:
        """See :class:`Batches`."""
        return -(-self._num_rows // self._batch_size)

    @property
    def fingerprint(self) -> str:
        """See :class:`Batches`."""
        if self._fingerprint is None:
            told = {
                "arrays": fingerprint(self._arrays),
                "batch_size": self._batch_size,
                "seed": self._seed,
                "shuffle": self._shuffle,
            }
            self._fingerprint = digest(told)
        return self._fingerprint

    def batch(self, step: int) -> Mapping[str, np.ndarray]:
        """See :class:`Batches`."""
        check_count("step", step, at_least=0)
        epoch, number = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.arange(self._num_rows)
            if self._shuffle:
                order = epoch_order(self._seed, epoch, self._num_rows)
            self._epoch = (epoch, *in_batches(order, self._batch_size))
        _, rows, weights = self._epoch
        found = {name: array[rows[number]] for name, array in self._arrays.items()}
        return {**found, WEIGHT: weights[number]}

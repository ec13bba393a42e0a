"""Batches of a data set: deterministic, resumable, split over processes, read ahead."""

import collections
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from poolax._checks import check_choice, check_count, check_divides, check_instance
from poolax._dataset import Dataset, Targets
from poolax._order import epoch_order, in_batches


@struct.dataclass
class Batch:
    """Examples of one step, those of this process.

    Attributes:
        indices: Which examples of the data set, shape ``(batch,)``.
        inputs: Shape ``(batch, ...)``.
        targets: Shape ``(batch, ...)``, or a mapping from names to such arrays.
        mask: True at real tokens; ``None`` where the data set has no mask.
        weights: 1, or 0 where the last batch of an epoch is padded, shape ``(batch,)``.
    """

    indices: Int[np.ndarray, " batch"]
    inputs: np.ndarray
    targets: Targets
    mask: Bool[np.ndarray, "batch n"] | None
    weights: Float[np.ndarray, " batch"]


class Pipeline:
    """Batches of a split, epoch after epoch.

    The order of an epoch depends on seed and epoch alone, and is the one that training uses. Every
    example of the split comes exactly once an epoch: the last batch is padded by examples of weight
    zero. Process ``p`` of ``k`` has the ``p``-th of ``k`` equal parts of every batch, so that all of
    them together have the batches that a single one would have.

    Args:
        dataset: The data set; inputs are read when a batch is made.
        split: Name of a split.
        batch_size: Examples of a batch over all processes, which divide it.
        seed: Seed of the order.
        shuffle: Whether the order is random; otherwise that of the split.
        process_index: Which process this is, from 0.
        process_count: How many there are.
        prefetch: Batches that are made ahead of the one that is used; 0 makes each when it is asked
            for.
        num_threads: Threads that make them.

    Raises:
        ValueError: for an unknown split and numbers out of range.

    Example:
        >>> from poolax.data import load
        >>> pipeline = Pipeline(load("digits"), "train", batch_size=64)
        >>> len(pipeline), [batch.inputs.shape for batch in pipeline.epoch(0, start=15)]
        (17, [(64, 8, 8, 1), (64, 8, 8, 1)])
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        prefetch: int = 2,
        num_threads: int = 2,
    ):
        check_instance("dataset", dataset, Dataset, "a Dataset")
        check_choice("split", split, dataset.splits)
        check_count("batch_size", batch_size)
        check_count("process_count", process_count)
        check_divides("process_count", process_count, "batch_size", batch_size)
        check_count("process_index", process_index, at_least=0)
        if process_index >= process_count:
            raise ValueError(f"process_index: expected less than {process_count}, got {process_index}")
        check_count("seed", seed, at_least=0)
        check_count("prefetch", prefetch, at_least=0)
        check_count("num_threads", num_threads)
        self._dataset, self._batch_size = dataset, batch_size
        self._indices = np.asarray(dataset.splits[split])
        self._seed, self._shuffle = seed, shuffle
        per_process = batch_size // process_count
        self._columns = slice(process_index * per_process, (process_index + 1) * per_process)
        self._prefetch, self._num_threads = prefetch, num_threads

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return -(-len(self._indices) // self._batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            start: Step to start at: the batches are those that would have followed.

        Returns:
            An iterator. Where it is closed or dropped early, what was begun is finished and the rest
            is not; an error in making a batch is raised where that batch is due.

        Raises:
            ValueError: for a step beyond the epoch.
        """
        check_count("epoch", epoch, at_least=0)
        check_count("start", start, at_least=0)
        if start > len(self):
            raise ValueError(f"start: expected at most the {len(self)} steps of an epoch, got {start}")
        num_examples = len(self._indices)
        order = np.arange(num_examples)
        if self._shuffle:
            order = epoch_order(self._seed, epoch, num_examples)
        positions, weights = in_batches(order, self._batch_size)
        indices = self._indices[positions[:, self._columns]]
        weights = weights[:, self._columns]

        def make(step: int) -> Batch:
            return self._read(indices[step], weights[step])

        return _ahead(make, range(start, len(self)), self._prefetch, self._num_threads)

    def _read(self, indices: np.ndarray, weights: np.ndarray) -> Batch:
        dataset = self._dataset
        targets: Targets
        if isinstance(dataset.targets, Mapping):
            targets = {name: array[indices] for name, array in dataset.targets.items()}
        else:
            targets = dataset.targets[indices]
        return Batch(
            indices=indices,
            inputs=dataset.inputs[indices],
            targets=targets,
            mask=None if dataset.mask is None else dataset.mask[indices],
            weights=weights,
        )


def _ahead(
    make: Callable[[int], Batch], steps: range, prefetch: int, num_threads: int
) -> Iterator[Batch]:
    """Results of ``make`` in order; ``prefetch`` more wait or are in the making while one is used."""
    if prefetch == 0:
        yield from map(make, steps)
        return
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="poolax-pipeline")
    try:
        waiting, remaining = collections.deque(), iter(steps)
        while True:
            for step in remaining:
                waiting.append(executor.submit(make, step))
                if len(waiting) > prefetch:
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)

import threading
import time

import numpy as np
import pytest

from poolax.data import Dataset, Pipeline, load
from poolax.training._runs import epoch_batches


def numbers(num_examples=23, **changes):
    inputs = np.arange(num_examples, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    fields = {
        "name": "numbers",
        "inputs": inputs,
        "targets": np.arange(num_examples, dtype=np.int32) * 10,
        "splits": {"train": np.arange(2, num_examples), "test": np.array([1, 0])},
        "source": "here",
        "licence": "none",
    }
    return Dataset(**(fields | changes))


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("indices", "inputs", "targets", "weights")
    )


def test_the_order_is_that_of_training():
    data = numbers()
    pipeline = Pipeline(data, "train", batch_size=4, seed=3)
    for epoch in range(3):
        trained = epoch_batches(3, epoch, 21, 4)
        batches = list(pipeline.epoch(epoch))
        assert len(batches) == len(pipeline) == 6
        for batch, positions, weights in zip(batches, trained.indices, trained.weights, strict=True):
            assert (batch.indices == data.splits["train"][positions]).all()
            assert (batch.weights == weights).all()
            assert (batch.inputs[:, 0] == batch.indices).all()
            assert (batch.targets == 10 * batch.indices).all()
            assert batch.mask is None


def test_no_example_is_dropped_or_counted_twice():
    pipeline = Pipeline(numbers(), "train", batch_size=8)
    seen = np.concatenate([b.indices[b.weights == 1] for b in pipeline.epoch(0)])
    assert sorted(seen) == list(range(2, 23))
    assert sum(batch.weights.sum() for batch in pipeline.epoch(0)) == 21
    assert {len(batch.indices) for batch in pipeline.epoch(0)} == {8}


def test_seed_and_epoch_alone_decide():
    def order(seed, epoch):
        pipeline = Pipeline(numbers(), "train", batch_size=8, seed=seed)
        return [int(index) for batch in pipeline.epoch(epoch) for index in batch.indices]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_resumed_epoch_goes_on_with_the_same_batches(prefetch):
    pipeline = Pipeline(numbers(), "train", batch_size=4, prefetch=prefetch)
    whole = list(Pipeline(numbers(), "train", batch_size=4).epoch(2))
    for start in range(len(pipeline) + 1):
        rest = list(pipeline.epoch(2, start))
        assert len(rest) == len(whole) - start
        assert all(same(one, other) for one, other in zip(rest, whole[start:], strict=True))


def test_processes_share_the_batches_of_one():
    whole = list(Pipeline(numbers(), "train", batch_size=6).epoch(1))
    parts = [
        list(Pipeline(numbers(), "train", batch_size=6, process_index=p, process_count=3).epoch(1))
        for p in range(3)
    ]
    for batch, *pieces in zip(whole, *parts, strict=True):
        for name in ("indices", "inputs", "targets", "weights"):
            joined = np.concatenate([getattr(piece, name) for piece in pieces])
            assert (joined == getattr(batch, name)).all()


def test_without_shuffling_the_order_is_that_of_the_split():
    batches = list(Pipeline(numbers(), "test", batch_size=3, shuffle=False).epoch(5))
    assert batches[0].indices.tolist() == [1, 0, 1]
    assert batches[0].weights.tolist() == [1, 1, 0]


def test_masks_texts_and_mappings():
    mask = np.tri(23, 3, dtype=bool)
    texts = np.array([f"text {i}" for i in range(23)], dtype=object)
    targets = {"values": np.arange(46.0).reshape(23, 2), "scale": np.arange(23.0)}
    data = numbers(inputs=texts, targets=targets, mask=mask)
    batch = next(iter(Pipeline(data, "train", batch_size=5).epoch(0)))
    assert batch.inputs.tolist() == [f"text {i}" for i in batch.indices]
    assert (batch.mask == mask[batch.indices]).all()
    assert (batch.targets["scale"] == batch.indices).all()
    assert batch.targets["values"].shape == (5, 2)


class Counted:
    """Inputs that note what is read, and by which thread."""

    def __init__(self, fail_at=None):
        self.shape, self.reads, self.threads, self.fail_at = (23, 1), [], set(), fail_at

    def __len__(self):
        return 23

    def __getitem__(self, indices):
        self.reads.append(indices)
        self.threads.add(threading.current_thread().name)
        if self.fail_at is not None and self.fail_at in indices:
            raise ValueError(f"image {self.fail_at}: cannot be decoded")
        return np.asarray(indices)[:, None]


def pipeline_threads():
    return [t for t in threading.enumerate() if t.name.startswith("poolax-pipeline")]


def test_batches_are_made_ahead_but_not_without_bound():
    inputs = Counted()
    batches = Pipeline(numbers(inputs=inputs), "train", batch_size=1, prefetch=3).epoch(0)
    next(batches)
    deadline = time.monotonic() + 20
    while len(inputs.reads) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(inputs.reads) == 4  # the one in use, and three ahead
    assert all(name.startswith("poolax-pipeline") for name in inputs.threads)
    batches.close()


@pytest.mark.parametrize("how", ["close", "drop", "exhaust"])
def test_threads_end_with_the_iterator(how):
    inputs = Counted()
    batches = Pipeline(numbers(inputs=inputs), "train", batch_size=2, num_threads=3).epoch(0)
    next(batches)
    assert pipeline_threads()
    if how == "close":
        batches.close()
    elif how == "drop":
        del batches
    else:
        assert len(list(batches)) == 10
    assert not pipeline_threads()
    assert len(inputs.reads) == 11 if how == "exhaust" else len(inputs.reads) < 11


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_is_raised_where_its_batch_is_due(prefetch):
    data = numbers(inputs=Counted(fail_at=8))
    pipeline = Pipeline(data, "train", batch_size=2, shuffle=False, prefetch=prefetch)
    batches = pipeline.epoch(0)
    for _ in range(3):
        next(batches)
    with pytest.raises(ValueError, match="image 8: cannot be decoded"):
        next(batches)
    assert not pipeline_threads()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "dev"}, r"split: expected one of 'train', 'test', got 'dev'"),
        ({"batch_size": 0}, r"batch_size: expected a whole number >= 1, got 0"),
        ({"process_count": 3}, r"process_count: expected a divisor of batch_size = 4, got 3"),
        ({"process_index": 1}, r"process_index: expected less than 1, got 1"),
        ({"seed": -1}, r"seed: expected a whole number >= 0, got -1"),
        ({"prefetch": -1}, r"prefetch: expected a whole number >= 0, got -1"),
        ({"num_threads": 0}, r"num_threads: expected a whole number >= 1, got 0"),
    ],
)
def test_bad_arguments(changes, message):
    arguments = {"split": "train", "batch_size": 4} | changes
    with pytest.raises(ValueError, match=message):
        Pipeline(numbers(), arguments.pop("split"), **arguments)


def test_bad_steps():
    pipeline = Pipeline(load("digits"), "test", batch_size=100)
    assert list(pipeline.epoch(0, 4)) == []
    with pytest.raises(ValueError, match=r"start: expected at most the 4 steps of an epoch, got 5"):
        pipeline.epoch(0, 5)
    with pytest.raises(ValueError, match=r"epoch: expected a whole number >= 0, got -1"):
        pipeline.epoch(-1)

"""Texts of very different lengths: little is computed on padding, and nothing comes out otherwise."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from heads import TASK
from helpers import assert_close

from poolax import backbones, pooling
from poolax.data import Dataset
from poolax.training import (
    Classification,
    HeadModule,
    Records,
    SentenceCompletion,
    sweep,
    sweep_states,
)
from poolax.training._engine.feed import Protocol
from poolax.training._engine.programs import keeps_places
from poolax.training._engine.train import HeadGroup, train_groups
from poolax.training._runs import epoch_batches
from poolax.training._states.lengths import Lengths, Slots, note_on_lengths, plan_slots, with_max_tokens
from poolax.training._states.sources import MemorySource
from poolax.training._states.views import View
from poolax.training.token_head import TokenHead

RUNS = ((0.01, 0), (0.01, 3))
TOKENS = 32


def texts(num_examples=48, parts=(), left=False, dim=4):
    """States of which one in eight is long."""
    rng = np.random.default_rng(0)
    shape = (num_examples, *parts)
    lengths = np.where(rng.random(shape) < 1 / 8, rng.integers(20, TOKENS + 1, shape), 0)
    lengths = np.maximum(lengths, rng.integers(1, 7, shape))
    mask = np.arange(TOKENS) < lengths[..., None]
    mask = mask[..., ::-1] if left else mask
    targets = rng.integers(0, 3, num_examples)
    states = rng.normal(size=(*mask.shape, dim)) + targets.reshape(-1, *[1] * mask.ndim)
    states = np.where(mask[..., None], states, 0).astype(np.float32)
    splits = np.split(rng.permutation(num_examples), [num_examples // 2, num_examples * 3 // 4])
    return states, mask, targets, dict(zip(("train", "validation", "test"), splits, strict=True))


@pytest.fixture
def any_saving(monkeypatch):
    """Every saving is worth a program."""

    def set_to(least):
        monkeypatch.setattr("poolax.training._states.lengths._LEAST_SAVING", least)

    return set_to


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 8])
def test_every_example_has_a_place_that_is_long_enough(devices, batch_size):
    rng = np.random.default_rng(devices)
    lengths = np.where(rng.random(100) < 0.05, 300, rng.integers(1, 30, 100))
    orders = [(seed, epoch) for seed in (0, 5) for epoch in range(2)]
    slots = plan_slots(lengths, 300, orders, batch_size, heads=10**9, devices=devices)
    if batch_size == 1:
        assert slots is None  # the only place has to hold the longest
        return
    assert isinstance(slots, Slots)
    assert slots.tokens * devices < batch_size * 300
    places = np.concatenate([np.full(count, length) for count, length in slots.parts])
    assert len(places) == -(-batch_size // devices)
    for seed, epoch in orders:
        batches = epoch_batches(seed, epoch, 100, batch_size)
        own = np.where(batches.weights > 0, lengths[batches.indices], 0)
        where = slots.arrange(own)
        for row, order in zip(own, where, strict=True):
            assert sorted(order[order < batch_size]) == list(range(batch_size))
            placed = np.append(row, 0)[order].reshape(devices, -1)
            assert (placed <= places).all()


def group_of(pooler):
    return HeadGroup(HeadModule(pooling.from_name(pooler), 3), RUNS, view=View(1))


@pytest.mark.parametrize(
    ("pooler", "left", "shard"),
    [("wavg", False, "batch"), ("map", True, "heads")],
)
def test_heads_are_those_of_padded_states(pooler, left, shard, any_saving):
    states, mask, targets, splits = texts(left=left)
    group = group_of(pooler)

    def train():
        protocol = Protocol(2, 8, shard=shard)
        source = MemorySource(states, mask)
        [heads] = train_groups(source, [group], targets, TASK, protocol, splits=splits)
        return heads

    any_saving(np.inf)
    whole = train()
    any_saving(1)
    assert len(Lengths.of(mask).groups(splits["test"], passes=1)) > 1
    same(train(), whole)


def same(one, other):
    for name in ("variables", "train_loss", "validation_loss", "test_scores", "gradient_norm"):
        a, b = getattr(one, name), getattr(other, name)
        jax.tree.map(lambda a, b: assert_close(a, b, 2e-5), a, b)


def test_heads_of_several_parts_in_chunks_are_those_of_padded_states(any_saving):
    states, mask, targets, splits = texts(parts=(3,))
    targets = targets % 2
    group = HeadGroup(HeadModule(pooling.from_name("wavg"), 4), RUNS)

    def train(protocol):
        [heads] = train_groups(
            MemorySource(states, mask),
            [group],
            targets,
            SentenceCompletion(2, projection_dim=4),
            protocol,
            splits=splits,
        )
        return heads

    any_saving(np.inf)
    whole = train(Protocol(2, 8))
    any_saving(1)
    same(train(Protocol(2, 8, chunk_steps=2)), whole)


def test_a_sweep_that_goes_on_plans_lengths_by_all_of_its_runs(tmp_path, monkeypatch):
    states, mask, targets, splits = texts()
    planned = []

    def plan(lengths, num_tokens, orders, batch_size, *, heads, devices):
        planned.append((sorted(orders), heads))

    def groups(lengths, examples, *, passes):
        planned.append(passes)
        return [TOKENS]

    monkeypatch.setattr("poolax.training._engine.train.plan_slots", plan)
    monkeypatch.setattr(Lengths, "groups", groups)
    options = {"splits": splits, "poolers": ["wavg"], "seeds": 2, "epochs": 1, "out": tmp_path}
    first = sweep_states(states, mask, targets, TASK, **options)
    (tmp_path / "records.jsonl").write_text("")
    Records([first[0]]).write_to(tmp_path / "records.jsonl")
    again = sweep_states(states, mask, targets, TASK, **options)
    assert [row["heads_trained_together"] for row in again] == [2, 1]
    # By those of the first five seeds, so that others of them are trained by the same program.
    assert planned == [([(seed, 0) for seed in range(5)], 2), 2] * 2


def test_what_stands_for_tokens_stays_in_its_place():
    assert keeps_places(TokenHead(3, 4))
    assert not keeps_places(group_of("avg").module)
    assert Lengths.of(None) is None
    assert Lengths.of(np.array([[True, False, True]])) is None


def test_few_lengths_are_worth_a_program():
    rng = np.random.default_rng(0)
    even = rng.integers(29, 33, 1000)
    assert plan_slots(even, 32, [(0, 0)], 32, heads=10**9) is None
    uneven = np.where(np.arange(1000) % 100 == 0, 32, 4)
    assert plan_slots(uneven, 32, [(0, 0)], 32, heads=1) is None  # too short a training
    slots = plan_slots(uneven, 32, [(0, 0)], 32, heads=10**9)
    assert slots.tokens < 32 * 32 / 2


@pytest.fixture(scope="module")
def model(bert):
    return backbones.load(bert)


def sentences(count=40):
    rng = np.random.default_rng(0)
    words = np.array(["the", "of", "is"])
    lengths = np.where(np.arange(count) % 16 == 1, 10, 1 + np.arange(count) % 2)
    inputs = np.array([" ".join(rng.choice(words, length)) for length in lengths], object)
    parts = np.split(np.arange(count), [count // 2, count * 3 // 4])
    splits = dict(zip(("train", "validation", "test"), parts, strict=True))
    return Dataset("words", inputs, np.arange(count) % 2, splits, "a random generator", "none")


def test_a_sweep_cuts_texts(model):
    data = sentences()
    options = {"poolers": ["wavg"], "seeds": 1, "epochs": 1, "batch_size": 10}
    cut = model.replace(preprocess=dataclasses.replace(model.preprocess, max_tokens=4))
    [expected] = sweep(cut, data, Classification(2), **options)
    [found] = sweep(model, data, Classification(2), max_tokens=4, **options)
    assert found["id"] == expected["id"]
    assert found["train_loss"] == expected["train_loss"]
    [whole] = sweep(model, data, Classification(2), max_tokens=12, **options)
    assert whole["id"] != found["id"]
    for wrong, message in ((13, "at most 12"), (2, ">= 3"), (2.5, "whole number")):
        with pytest.raises(ValueError, match=rf"max_tokens: expected .*({message})"):
            sweep(model, data, Classification(2), max_tokens=wrong, **options)
    with pytest.raises(ValueError, match="max_tokens: expected None for token ids"):
        with_max_tokens(model, np.zeros((2, 3), np.int32), 4)
    vit = backbones.ViT.init(
        backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8), jax.random.key(0)
    )
    with pytest.raises(ValueError, match="max_tokens: expected None for ViT without texts"):
        with_max_tokens(vit, np.zeros((2, 8, 8, 1)), 4)


def test_records_and_log_say_where_few_texts_cost_most(model, monkeypatch, caplog):
    lengths = np.full(2000, 10)
    assert note_on_lengths(lengths, 10, 32) is None
    assert note_on_lengths(np.where(np.arange(2000) % 2, 10, 200), 200, 32) is None
    lengths[::150] = 500
    assert "max_tokens=10 cuts them" in str(note_on_lengths(lengths, 500, 32))
    monkeypatch.setattr("poolax.training._states.lengths._LONGEST", 0.2)
    monkeypatch.setattr("poolax.training._states.lengths._MOST_SHARE", 0.01)
    options = {"poolers": ["wavg"], "seeds": 1, "epochs": 1, "batch_size": 10}
    [record] = sweep(model, sentences(), Classification(2), **options)
    [note] = record["data_notes"]
    assert "max_tokens=4 cuts them" in note
    assert note in caplog.text
    [record] = sweep(model, sentences(), Classification(2), **options | {"poolers": ["avg"]})
    assert record["data_notes"] == []  # vectors have no length
    assert logging.WARNING in {entry.levelno for entry in caplog.records}

"""The second way over devices: by shard_map comes what comes by pmap, bit for bit."""

import jax
import numpy as np
import pytest
from heads import TASK, toy

from poolax import pooling
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.data import digits
from poolax.training import Classification, HeadModule, Limits, PreemptedError, sweep
from poolax.training._devices import Mapper, Trainer
from poolax.training._engine.feed import Protocol
from poolax.training._engine.keeping import Keeper
from poolax.training._engine.train import HeadGroup, train_groups
from poolax.training._shard_map import ShardMapped
from poolax.training._states.sources import MemorySource

RUNS = ((0.01, 0), (0.01, 3), (0.003, 1))


def train(mapping, shard, keeper=None):
    states, mask, targets, splits = toy()
    group = HeadGroup(HeadModule(pooling.from_name("map"), 3), RUNS)
    protocol = Protocol(3, 8, shard=shard, mapping=mapping)
    [heads] = train_groups(
        MemorySource(states, mask), [group], targets, TASK, protocol, splits=splits, keeper=keeper
    )
    return heads


def same(one, other):
    for a, b in zip(jax.tree.leaves(vars(one)), jax.tree.leaves(vars(other)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shard", ["batch", "heads"])
def test_heads_are_equal_and_go_on_by_either_way(shard, tmp_path):
    assert jax.device_count() == 4
    whole = train("auto", shard)
    assert (whole.train_loss[..., -1] < whole.train_loss[..., 0]).all()
    same(whole, train("shard_map", shard))
    for first, second in (("auto", "shard_map"), ("shard_map", "auto")):
        asked = iter([False, True])
        stopping = Keeper(tmp_path / first, every=0.0, should_stop=lambda asked=asked: next(asked))
        with pytest.raises(PreemptedError):
            train(first, shard, stopping)
        same(whole, train(second, shard, Keeper(tmp_path / first)))


def test_a_sweep_takes_the_way_of_its_limits(monkeypatch):
    vit = ViT.init(
        ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8),
        jax.random.key(0),
        ImagePreprocess(scale=1 / 16),
    )
    mapped = []
    init = ShardMapped.__init__

    def count(self, fn, *args, **options):
        mapped.append(fn)
        init(self, fn, *args, **options)

    monkeypatch.setattr(ShardMapped, "__init__", count)
    options = {"poolers": ["avg", "wavg"], "seeds": 2, "epochs": 2, "batch_size": 50}
    one = sweep(vit, digits().subset(100), Classification(10), **options)
    assert not mapped
    monkeypatch.delattr(jax, "pmap")
    limits = Limits(mapping="shard_map")
    other = sweep(vit, digits().subset(100), Classification(10), limits=limits, **options)
    # The backbone's pass, pooling, and steps and evaluation of two structures.
    assert len(mapped) == 6
    for a, b in zip(one, other, strict=True):
        for name in ("id", "train_loss", "validation_loss", "test_scores"):
            assert a[name] == b[name]


def test_without_pmap_it_is_the_only_way(monkeypatch):
    monkeypatch.delattr(jax, "pmap")
    mapper = Mapper(lambda shared, batch: shared * batch, 6)
    np.testing.assert_array_equal(mapper(np.float32(2.0), np.arange(7)), 2 * np.arange(7))
    with pytest.raises(ValueError, match="mapping: expected one of 'auto', 'shard_map', got 'vmap'"):
        Trainer(lambda *_: 0, None, mapping="vmap")

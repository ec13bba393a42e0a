"""All that is written opens with plain Orbax, by its first interface and by its next one."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from heads import TASK, toy
from orbax.checkpoint import v1

from poolax import backbones, blocks, pooling, training
from poolax.training import Limits, PreemptedError, sweep_states


def write_tree(out):
    tree = {"w": jnp.ones((2, 3), jnp.bfloat16), "n": np.arange(3), "s": [np.float64(0.5)], "b": True}
    training.save_checkpoint(out, 7, tree, metadata={"width": 3})


def write_backbone(out):
    config = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    backbones.save(backbones.ViT.init(config, jax.random.key(0)), out)


def write_block(out):
    model = blocks.TBM(num_heads=2, pooler=pooling.WeightedAveragePool(max_tokens=4))
    variables = model.init(jax.random.key(0), jnp.ones((4, 8)))
    training.save_tbm(out, model, variables)


def write_sweep(out, should_stop=lambda: False):
    states, mask, targets, splits = toy()
    options = {"poolers": ["avg", "wavg"], "seeds": 2, "epochs": 2, "batch_size": 16, "out": out}
    limits = Limits(checkpoint_every=0.0, should_stop=should_stop)
    sweep_states(states, mask, targets, TASK, splits=splits, limits=limits, **options)


def write_stopped_sweep(out):
    asked = iter([False] * 2 + [True] * 100)
    with pytest.raises(PreemptedError):
        write_sweep(out, lambda: next(asked))


WRITERS = (write_tree, write_backbone, write_block, write_sweep, write_stopped_sweep)


def assert_same(one, other):
    found, expected = jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other)
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (_, a), (_, b) in zip(found, expected, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__[6:])
def test_orbax_opens_all_that_is_written(write, tmp_path):
    write(tmp_path)
    steps = sorted(path.parent for path in tmp_path.rglob("_CHECKPOINT_METADATA"))
    assert steps
    for step in steps:
        expected = training.restore_checkpoint(step.parent, step=int(step.name))
        metadata = training.checkpoint_metadata(step.parent, step=int(step.name))
        with ocp.CheckpointManager(step.parent) as manager:
            plain = manager.restore(int(step.name))
        assert_same(plain.state, expected)
        assert plain.metadata == metadata
        assert_same(v1.load(step), expected)
        with v1.training.Checkpointer(step.parent) as checkpointer:
            assert int(step.name) in [found.step for found in checkpointer.checkpoints]
            assert_same(checkpointer.load(int(step.name)), expected)
            assert checkpointer.load_checkpointables(int(step.name))["metadata"] == metadata

"""Backbones with the switches set that few families have: all that holds for every backbone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SWITCHED, inputs, scrambled
from helpers import assert_close

from poolax import backbones


@pytest.mark.parametrize("name", SWITCHED)
def test_switches(name, tmp_path):
    backbone = scrambled(SWITCHED[name]())
    ids = inputs("bert", batch=1)
    apply = jax.jit(lambda model, ids, mask: model.apply(model.params, ids, mask).states)
    # Padding on the left, padding on the right, none of it, and nothing real at all.
    rows = np.concatenate([np.roll(np.pad(ids, ((0, 0), (0, 4))), 4, axis=1)] * 2 + [np.zeros((1, 11))])
    rows = rows.astype(int)
    rows[1] = np.pad(ids[0], (0, 4))
    mask = np.zeros(rows.shape, bool)
    mask[0, 4:], mask[1, :7] = True, True
    rows[~mask] = 10**6  # no token of any vocabulary
    states = apply(backbone, rows, mask)
    alone = apply(backbone, ids, None)[0]
    assert_close(states[0, 4:], alone, 1e-5)
    assert_close(states[1, :7], alone, 1e-5)
    assert np.all(np.isfinite(states))

    def loss(model):
        return jnp.sum(jnp.square(model.apply(model.params, rows, mask).states[0]))

    gradient = jax.jit(jax.grad(loss))(backbone)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))

    half = apply(backbone.replace(compute_dtype=jnp.bfloat16), ids, None)
    assert half.dtype == jnp.bfloat16
    assert 0 < np.abs(np.asarray(half[0], np.float32) - alone).max() < 0.1 * np.abs(alone).max()

    backbones.save(backbone, tmp_path)
    again = backbones.load(tmp_path)
    assert again.config == backbone.config
    chex.assert_trees_all_equal(again.params, backbone.params)
    try:
        stacked = backbone.stack_layers()
    except ValueError:
        assert len({backbone.block(k) for k in range(backbone.num_layers)}) > 1
    else:
        assert_close(apply(stacked, rows, mask)[0, 4:], alone, 1e-5)

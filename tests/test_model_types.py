"""What holds for every ``model_type`` that loads: written again, other devices, bounds."""

import jax
import numpy as np
import pytest
from model_types import MODEL_TYPES, inputs_of, reload, states_of, write_checkpoint

from poolax import backbones, bounds

# Written as models of their towers, as test_folders tests it.
TOWERS_OF_IMAGES = ("clip", "siglip", "siglip2")
# Other classes are lowered with the families, and what else says these in a configuration is slow.
REPRESENTATIVES = ("roberta", "gemma2", "modernbert", "umt5")


def test_none_is_left_out():
    known = [name for family in backbones.families() for name in family.checkpoints]
    assert sorted(MODEL_TYPES) == sorted(known)


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name not in TOWERS_OF_IMAGES])
def test_what_was_loaded_is_written_and_read_bit_for_bit(model_type, tmp_path):
    theirs = write_checkpoint(model_type, tmp_path / "theirs")
    backbone = backbones.load(theirs.folder)
    backbones.save(backbone, tmp_path / "ours", format="huggingface")
    again = backbones.load(tmp_path / "ours")
    assert again.config == backbone.config
    jax.tree.map(np.testing.assert_array_equal, again.params, backbone.params)
    if theirs.model is None:
        return
    inputs, mask = inputs_of(backbone)
    expected = states_of(model_type, theirs.model, inputs, mask)
    found = states_of(model_type, reload(theirs.model, tmp_path / "ours"), inputs, mask)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in REPRESENTATIVES))
        for name in MODEL_TYPES
    ],
)
def test_other_devices_and_a_ledger(model_type, tmp_path):
    backbone = backbones.load(write_checkpoint(model_type, tmp_path / "theirs").folder)
    inputs, mask = inputs_of(backbone)
    forward = jax.jit(lambda params, *given: backbone.apply(params, *given).states)
    lowered = jax.export.export(forward, platforms=["tpu", "cuda"])(backbone.params, inputs, mask)
    assert lowered.platforms == ("tpu", "cuda")
    specs = backbone.layer_specs(backbone.params)
    num_tokens = lowered.out_avals[0].shape[-2]
    table = bounds.ledger(specs, num_tokens=num_tokens, radius=5.0)
    assert [row.name for row in table.rows] == [spec.name for spec in specs]
    assert np.isfinite(table.log_lipschitz)

"""Families of time series against their reference implementations: hidden states of all layers."""

import jax
import numpy as np
import pytest
from parity import (
    TOLERANCE,
    assert_layers,
    build,
    edit_config,
    reference,
    run,
    save,
    torch,
    transformers,
)

from poolax import backbones

TIMESFM = {
    "patch_length": 4,
    "context_length": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 6,
}
TIMESFM_SWITCHES = TIMESFM | {
    "num_key_value_heads": 2,
    "attention_bias": True,
    "use_bias": True,
    "activation": "gelu",
    "rms_norm_eps": 1e-2,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0},
}


def series(*shape):
    """Random walks, far from zero."""
    rng = np.random.default_rng(0)
    return (5 + np.cumsum(rng.normal(size=shape), axis=-1)).astype(np.float32)


def step_masks(num_steps):
    """Padding that ends inside a patch, whole patches of it, gaps, none, and a patch that is missing."""
    mask = np.ones((5, num_steps), bool)
    mask[0, :6] = False
    mask[1, :8] = False
    mask[2, 9:11] = False
    mask[4, 12:16] = False
    return mask


@pytest.mark.parametrize("fields", [TIMESFM, TIMESFM_SWITCHES], ids=["timesfm", "timesfm-switches"])
def test_timesfm(fields, tmp_path):
    model = reference("TimesFm2_5", fields)
    backbone = backbones.load(save(model, tmp_path))
    mask = step_masks(24)
    x = np.where(mask, series(*mask.shape), 0)
    out = run(model, past_values=x, past_values_padding=(~mask).astype(np.int64))
    real = mask[:, 3::4]
    assert_layers(backbone, out, np.where(mask, x, np.nan), mask, real=real)
    np.testing.assert_array_equal(backbone.embed(backbone.params, x, mask)[1], real)
    if fields is not TIMESFM:
        return
    alone = x[3]
    expected = run(model, past_values=alone[None]).last_hidden_state[0].numpy()
    tolerance = TOLERANCE * np.abs(expected).max()
    apply = jax.jit(lambda params, x, mask: backbone.apply(params, x, mask).states)
    np.testing.assert_allclose(apply(backbone.params, alone, None), expected, atol=tolerance)
    # Padding on the right, which moves positions in the reference.
    later = np.pad(alone, (0, 8))
    found = apply(backbone.params, later, np.arange(32) < 24)[:6]
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_timesfm_prepares_series(tmp_path):
    backbone = backbones.load(save(reference("TimesFm2_5", TIMESFM), tmp_path))
    long = series(2, 3, 40)
    x, mask = backbone.preprocess(long)
    np.testing.assert_array_equal(x, long[..., 8:])
    assert mask.all()
    x, mask = backbone.preprocess(long[..., :9])
    assert x.shape == (2, 3, 12)
    np.testing.assert_array_equal(mask[0, 0], [False] * 3 + [True] * 9)
    assert backbone.embed(backbone.params, x, mask)[1].all()


PATCHTST = {
    "context_length": 22,
    "patch_length": 4,
    "patch_stride": 3,
    "num_input_channels": 3,
    "d_model": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 24,
}
PATCHTST_CASES = {
    "patchtst": PATCHTST,
    "patchtst-layer-post-cls": PATCHTST
    | {"norm_type": "layernorm", "norm_eps": 1e-2, "pre_norm": False, "use_cls_token": True}
    | {"scaling": "mean", "bias": False, "activation_function": "relu"},
    "patchtst-channels-cls-post": PATCHTST
    | {"share_embedding": False, "use_cls_token": True, "pre_norm": False, "scaling": None}
    | {"positional_encoding_type": "random", "context_length": 24, "patch_stride": 4},
}


def patchtst(fields):
    """A reference model whose batch norms have random statistics as well."""
    model = reference("PatchTST", fields)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn_like(buffer))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand_like(buffer))
    return model


def run_patchtst(model, x, mask=None):
    """Hidden states of every layer; channels and steps as here, gaps filled with zeros."""
    inputs = {"past_values": x.swapaxes(-1, -2).copy()}
    if mask is not None:
        inputs["past_observed_mask"] = mask.swapaxes(-1, -2).astype(np.int64)
    out = run(model, **inputs)
    return [state.numpy() for state in (*out.hidden_states, out.last_hidden_state)]


@pytest.mark.parametrize("fields", PATCHTST_CASES.values(), ids=PATCHTST_CASES)
def test_patchtst(fields, tmp_path):
    model = patchtst(fields)
    backbone = backbones.load(save(model, tmp_path))
    steps = fields["context_length"]
    mask = np.ones((2, 3, steps), bool)
    mask[0, 1, :2] = mask[1, 0, 8:10] = mask[1, 2, -1] = False
    x = np.where(mask, series(*mask.shape), 0)
    layers = range(backbone.num_layers + 1)
    apply = jax.jit(lambda p, x, mask: [backbone.apply(p, x, mask, layer=k).states for k in layers])
    expected = run_patchtst(model, x, mask)
    for found, states in zip(apply(backbone.params, x, mask), expected, strict=True):
        assert np.abs(found - states).max() <= TOLERANCE * max(np.abs(states).max(), 1.0)
    embeddings, seen = backbone.embed(backbone.params, np.where(mask, x, np.nan), mask)
    assert np.asarray(seen).all()
    np.testing.assert_allclose(embeddings, expected[0], atol=1e-5 * np.abs(expected[0]).max())
    assert backbone.num_prefix == int(fields.get("use_cls_token", False))
    if fields is not PATCHTST:
        return
    alone = jax.jit(lambda params, x: backbone.apply(params, x).states)(backbone.params, x[0])
    expected = run_patchtst(model, x[:1])[-1][0]
    np.testing.assert_allclose(alone, expected, atol=TOLERANCE * np.abs(expected).max())


def test_patchtst_leaves_out_patches_of_which_nothing_is_observed(tmp_path):
    fields = PATCHTST | {"context_length": 24, "patch_stride": 4}
    backbone = backbones.load(save(patchtst(fields), tmp_path))
    x, mask = backbone.preprocess(series(2, 3, 11))
    assert x.shape == (2, 3, 24)
    embeddings, seen = backbone.embed(backbone.params, x, mask)
    np.testing.assert_array_equal(seen[0, 0], [False] * 3 + [True] * 3)
    encode = jax.jit(lambda x, mask: backbone.encode(backbone.params, x, mask).states)
    left = encode(embeddings[..., 3:, :], None)
    found = encode(embeddings, seen)[..., 3:, :]
    np.testing.assert_allclose(found, left, atol=TOLERANCE * np.abs(left).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_attention": True}, r"channel_attention to be one of False, got True"),
        ({"scaling": "robust"}, r"scaling to be one of .*got 'robust'"),
        ({"scaling_dim": 2}, r"scaling_dim to be one of 1, got 2"),
    ],
)
def test_patchtst_that_is_not_read(change, message, tmp_path):
    save(patchtst(PATCHTST), tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        backbones.load(tmp_path)


HEADS = {
    "TimesFm2_5ModelForPrediction": TIMESFM | {"horizon_length": 4, "output_quantile_len": 8},
    # Masks what it reads, which is not done here.
    "PatchTSTForPretraining": PATCHTST,
    "PatchTSTForClassification": PATCHTST | {"num_targets": 3},
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_left_aside(head, tmp_path):
    cls = getattr(transformers, head)
    model = build(cls, cls.config_class(**HEADS[head]))
    whole = backbones.load(save(model, tmp_path / "whole"))
    alone = backbones.load(save(model.model, tmp_path / "alone"))
    assert whole.config == alone.config
    jax.tree.map(np.testing.assert_array_equal, whole.params, alone.params)

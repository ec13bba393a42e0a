"""Families of language models against their reference implementations: hidden states of all layers."""

import jax
import numpy as np
import pytest
from parity import assert_layers, reference, run, save

from poolax import backbones, bounds

NUM_TOKENS = 12
PAD_ID = 1

ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}
DISTILBERT = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 24,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}

CASES = {
    "roberta": ("Roberta", ENCODER | {"pad_token_id": PAD_ID}),
    "xlm-roberta-relu-eps": (
        "XLMRoberta",
        ENCODER | {"pad_token_id": PAD_ID, "hidden_act": "relu", "layer_norm_eps": 1e-3},
    ),
    "camembert-one-type": ("Camembert", ENCODER | {"pad_token_id": PAD_ID, "type_vocab_size": 1}),
    "electra": ("Electra", ENCODER | {"embedding_size": 8}),
    "electra-same-width": ("Electra", ENCODER | {"embedding_size": 16, "hidden_act": "gelu_new"}),
    "distilbert": ("DistilBert", DISTILBERT),
    "distilbert-sines": (
        "DistilBert",
        DISTILBERT | {"sinusoidal_pos_embds": True, "activation": "relu"},
    ),
    "mpnet": ("MPNet", ENCODER),
    "mpnet-relu-eps": ("MPNet", ENCODER | {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "nomic": ("NomicBert", ENCODER),
    "nomic-theta": (
        "NomicBert",
        ENCODER
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "hidden_act": "gelu"},
    ),
}
# They count positions themselves, from ids of padding or not at all.
COUNTING = ("Roberta", "XLMRoberta", "Camembert", "MPNet")


def masks():
    """Padding on the right, on the left, none, and a hole."""
    mask = np.ones((4, NUM_TOKENS), bool)
    mask[0, NUM_TOKENS - 3 :] = False
    mask[1, :4] = False
    mask[3, 3:5] = False
    return mask


@pytest.mark.parametrize(("name", "fields"), CASES.values(), ids=CASES)
def test_texts(name, fields, tmp_path):
    model = reference(name, fields)
    backbone = backbones.load(save(model, tmp_path))
    mask = masks()
    ids = np.random.default_rng(0).integers(2, 50, mask.shape)
    ids[~mask] = PAD_ID
    inputs = {"input_ids": ids, "attention_mask": mask.astype(int)}
    if name not in COUNTING:
        first = mask.argmax(axis=-1)[:, None]
        inputs["position_ids"] = np.maximum(np.arange(NUM_TOKENS) - first, 0)
    assert_layers(backbone, run(model, **inputs), ids, mask)
    alone = ids[2:3]
    states = np.asarray(backbone(alone).states)
    expected = run(model, input_ids=alone).last_hidden_state.numpy()
    assert np.abs(states - expected).max() <= 1e-5 * np.abs(expected).max()
    forward = jax.jit(lambda params, ids, mask: backbone.apply(params, ids, mask).states)
    lowered = jax.export.export(forward, platforms=["tpu", "cuda"])(backbone.params, ids, mask)
    assert lowered.platforms == ("tpu", "cuda")
    table = bounds.ledger(backbone.layer_specs(backbone.params), num_tokens=NUM_TOKENS, radius=5.0)
    assert np.isfinite(table.log_lipschitz)

"""Every family against its reference implementation: hidden states of all layers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from parity import (
    assert_layers,
    build,
    edit_config,
    padded_masks,
    reference,
    run,
    save,
    torch,
    transformers,
)

from poolax import backbones

NUM_TOKENS = 12

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 4,
}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 4, "vocab_size": 50, "n_positions": 20}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 1}
DECODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
}


def rope(kind, **options):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **options}}


YARN = {"factor": 4.0, "original_max_position_embeddings": 6}
LONGROPE = {
    "factor": 4.0,
    "original_max_position_embeddings": 6,
    "short_factor": [1.1, 1.3],
    "long_factor": [1.5, 3.0],
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}

IMAGE_CASES = {
    "vit": VIT,
    "vit-no-qkv-bias": VIT | {"qkv_bias": False},
    "vit-gelu-tanh": VIT | {"hidden_act": "gelu_pytorch_tanh"},
    "vit-grey-eps": VIT | {"num_channels": 1, "layer_norm_eps": 1e-3},
}
TEXT_CASES = {
    "bert": ("Bert", BERT),
    "bert-relu-eps": ("Bert", BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "bert-one-type": ("Bert", BERT | {"type_vocab_size": 1}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-inner-relu": ("GPT2", GPT2 | {"n_inner": 24, "activation_function": "relu"}),
    "gpt2-unscaled": ("GPT2", GPT2 | {"scale_attn_weights": False}),
    "gpt2-by-layer": ("GPT2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2-upcast-eps": ("GPT2", GPT2 | {"reorder_and_upcast_attn": True, "layer_norm_epsilon": 1e-3}),
    "llama": ("Llama", DECODER),
    "llama-biases": ("Llama", DECODER | {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("Llama", DECODER | {"head_dim": 6, "num_key_value_heads": 1}),
    "llama-gelu-eps": ("Llama", DECODER | {"hidden_act": "gelu", "rms_norm_eps": 1e-2}),
    "llama-full-heads": ("Llama", DECODER | {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "rope-default": ("Llama", DECODER | rope("default")),
    "rope-linear": ("Llama", DECODER | rope("linear", factor=3.0)),
    "rope-dynamic": (
        "Llama",
        DECODER | rope("dynamic", factor=3.0) | {"max_position_embeddings": 8, "head_dim": 6},
    ),
    "rope-yarn": ("Llama", DECODER | rope("yarn", **YARN)),
    "rope-yarn-mscale": (
        "Llama",
        DECODER | rope("yarn", **YARN, mscale=0.7, mscale_all_dim=0.3, beta_fast=4.0, truncate=False),
    ),
    "rope-longrope": ("Llama", DECODER | rope("longrope", **LONGROPE)),
    "rope-llama3": ("Llama", DECODER | rope("llama3", **LLAMA3)),
    "llama-sees-all": ("Llama", DECODER | {"is_causal": False}),
    "mistral": ("Mistral", DECODER | {"sliding_window": 4}),
    "mistral-no-window": ("Mistral", DECODER | {"sliding_window": None}),
    "qwen2": ("Qwen2", DECODER | {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        DECODER | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
}


@pytest.mark.parametrize("fields", IMAGE_CASES.values(), ids=IMAGE_CASES)
def test_images(fields, tmp_path):
    model = reference("ViT", fields)
    backbone = backbones.load(save(model, tmp_path))
    channels = fields.get("num_channels", 3)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, channels)).astype(np.float32)
    out = run(model, pixel_values=images.transpose(0, 3, 1, 2).copy())
    assert_layers(backbone, out, images)
    alone = images[:1]
    assert_layers(backbone, run(model, pixel_values=alone.transpose(0, 3, 1, 2).copy()), alone)


@pytest.mark.parametrize(("name", "fields"), TEXT_CASES.values(), ids=TEXT_CASES)
def test_texts(name, fields, tmp_path):
    model = reference(name, fields)
    backbone = backbones.load(save(model, tmp_path))
    ids = np.random.default_rng(0).integers(0, 50, (3, NUM_TOKENS))
    mask = padded_masks(NUM_TOKENS)
    if fields.get("rope_parameters", {}).get("rope_type") in ("dynamic", "longrope"):
        # The reference takes the longest row's length for all rows, and remembers it: row by row,
        # short ones first.
        for index in np.argsort(mask.sum(-1)):
            row, real = ids[index], mask[index]
            alone = row[real][None]
            out = run(model, input_ids=alone)
            assert_layers(backbone, out, alone)
            padded = backbone(row[None], real[None]).states[0][real]
            expected = out.last_hidden_state[0].numpy()
            np.testing.assert_allclose(padded, expected, atol=3e-5)
        return
    positions = np.maximum(np.cumsum(mask, axis=-1) - 1, 0)
    inputs = {"input_ids": ids, "attention_mask": mask.astype(int), "position_ids": positions}
    assert_layers(backbone, run(model, **inputs), ids, mask)
    alone = ids[2:]
    assert_layers(backbone, run(model, input_ids=alone), alone)


def test_token_types(tmp_path):
    model = reference("Bert", BERT)
    bert = backbones.load(save(model, tmp_path))
    ids = np.random.default_rng(0).integers(0, 50, (2, 6))
    types = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    embeddings, mask = bert.embed(bert.params, ids, token_types=types)
    out = run(model, input_ids=ids, token_type_ids=types)
    np.testing.assert_allclose(
        bert.encode(bert.params, embeddings, mask).states, out.last_hidden_state, atol=1e-5
    )


@pytest.mark.parametrize("head", ["BertForSequenceClassification", "BertForMaskedLM"])
def test_heads_of_others_are_left_aside(head, tmp_path):
    model = build(getattr(transformers, head), transformers.BertConfig(**BERT))
    bert = backbones.load(save(model, tmp_path))
    ids = np.arange(5)[None]
    out = run(model.bert, input_ids=ids)
    np.testing.assert_allclose(bert(ids).states, out.last_hidden_state, atol=1e-5)


def test_names_in_memory_and_in_older_files(tmp_path):
    model = reference("ViT", VIT)
    config = json.loads((save(model, tmp_path) / "config.json").read_text())
    in_memory = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert any(".q_proj." in name for name in in_memory)
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)
    expected = backbones.load(tmp_path)(image).states
    np.testing.assert_array_equal(backbones.from_state_dict(in_memory, config)(image).states, expected)


def test_norms_named_as_in_the_first_files(tmp_path):
    model = reference("Bert", BERT)
    config = json.loads((save(model, tmp_path) / "config.json").read_text())
    tensors = {f"bert.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    renamed = {}
    for name, tensor in tensors.items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        renamed[name] = tensor
    assert len(set(renamed) - set(tensors)) == 10
    ids = np.arange(5)[None]
    expected = backbones.load(tmp_path)(ids).states
    np.testing.assert_array_equal(backbones.from_state_dict(renamed, config)(ids).states, expected)


def test_older_fields_of_rotary_positions(tmp_path):
    model = reference("Llama", DECODER | rope("linear", factor=3.0))
    save(model, tmp_path)
    new = backbones.load(tmp_path)
    scaling = {"type": "linear", "factor": 3.0}
    edit_config(tmp_path, rope_parameters=..., rope_theta=500.0, rope_scaling=scaling)
    old = backbones.load(tmp_path)
    assert old.config == new.config
    assert old.config.rotary.theta == 500.0


def test_half_precision_files_and_targets(tmp_path):
    model = reference("Llama", DECODER)
    expected = backbones.load(save(model, tmp_path / "full"))
    save(model.to(torch.bfloat16), tmp_path / "half")
    half = backbones.load(tmp_path / "half")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    ids = np.arange(NUM_TOKENS)[None]
    assert half(ids).states.dtype == jnp.bfloat16
    cast = backbones.load(tmp_path / "half", dtype=jnp.float32)
    jax.tree.map(
        lambda one, other: np.testing.assert_array_equal(one, other.astype(jnp.bfloat16)),
        half.params,
        cast.params,
    )
    difference = np.abs(np.asarray(half(ids).states - expected(ids).states, np.float32))
    assert 0 < difference.max() < 0.2


@pytest.mark.parametrize("name", ["Bert", "Roberta", "GPT2", "Llama"])
def test_holes_of_a_mask(name, tmp_path):
    """Tokens in the middle that are not real, which no other sees."""
    fields = {"GPT2": GPT2, "Llama": DECODER}.get(name, BERT | {"pad_token_id": 1})
    model = reference(name, fields)
    backbone = backbones.load(save(model, tmp_path))
    ids = np.random.default_rng(0).integers(2, 50, (3, NUM_TOKENS))
    mask = np.ones((3, NUM_TOKENS), bool)
    mask[0, 3:5], mask[1, [2, 4, 9]] = False, False
    ids[~mask] = 1
    expected = run(model, input_ids=ids, attention_mask=mask.astype(int)).last_hidden_state.numpy()
    found = np.asarray(backbone(np.where(mask, ids, 10**6), mask).states)
    np.testing.assert_allclose(found[mask], expected[mask], atol=3e-5)


@pytest.mark.parametrize("name", ["Llama", "GPT2", "T5"])
def test_shared_tensors_that_a_writer_left_out(name, tmp_path):
    """Of the embeddings and the output that share memory the file has one, whose name comes first."""
    from safetensors.torch import save_model

    sizes = {"vocab_size": 50, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 24}
    fields = {"Llama": DECODER | {"tie_word_embeddings": True}, "GPT2": GPT2, "T5": sizes}[name]
    heads = {"Llama": "ForCausalLM", "GPT2": "LMHeadModel", "T5": "ForConditionalGeneration"}
    model = reference(name, fields, part=heads[name])
    expected = backbones.load(save(model, tmp_path))
    kept = {"Llama": "lm_head.weight", "GPT2": "lm_head.weight", "T5": "decoder.embed_tokens.weight"}
    (tmp_path / "model.safetensors").unlink()
    save_model(model, str(tmp_path / "model.safetensors"))
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert kept[name] in file.keys()  # noqa: SIM118  not a mapping
        assert not {"model.embed_tokens.weight", "transformer.wte.weight", "shared.weight"} & set(
            file.keys()
        )
    found = backbones.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)

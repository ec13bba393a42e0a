"""Checkpoints of T5's kind in Hugging Face layout: their encoders."""

from poolax._activations import activation_from_name
from poolax.backbones._t5 import T5, T5Config
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    heads_in,
    heads_out,
    norm,
    read_count,
)
from poolax.backbones.pretrained._text import read_text_preprocess


def t5_sizes(raw):
    """Fields of a configuration with T5's sizes, from a T5's configuration."""
    projection = raw.get("feed_forward_proj", "relu")
    activation = projection.removeprefix("gated-")
    activation_from_name(activation, "feed_forward_proj")
    return {
        "width": read_count(raw, "d_model"),
        "num_layers": read_count(raw, "num_layers"),
        "num_heads": read_count(raw, "num_heads"),
        "head_dim": raw.get("d_kv", 64),
        "mlp_dim": read_count(raw, "d_ff"),
        # T5 means the tanh form by this one name.
        "activation": "gelu_new" if projection == "gated-gelu" else activation,
        "use_gate": projection.startswith("gated-"),
        "num_buckets": raw.get("relative_attention_num_buckets", 32),
        "max_distance": raw.get("relative_attention_max_distance", 128),
        "norm_eps": raw.get("layer_norm_epsilon", 1e-6),
    }


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration."""
    del shapes
    check_fields(raw, {"is_decoder": (False, None)})
    by_block = raw["model_type"] == "umt5"
    return T5Config(vocab_size=read_count(raw, "vocab_size"), bias_by_block=by_block, **t5_sizes(raw))


def t5_sources(config, *, bias_by_block=False):
    """The tensor of every parameter of the blocks, of the relative bias and of the last norm."""
    found = {}
    names = {"gate": "wi_0", "hidden": "wi_1"} if config.use_gate else {"hidden": "wi"}
    heads = {"num_heads": config.num_heads, "bias": False}
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"encoder.block.{index}"
        attention = f"{theirs}.layer.0.SelfAttention"
        for part in ("query", "key", "value"):
            found |= heads_in(f"{ours}/attention/{part}", f"{attention}.{part[0]}", **heads)
        found |= heads_out(f"{ours}/attention/out", f"{attention}.o", **heads)
        found |= norm(f"{ours}/norm1", f"{theirs}.layer.0.layer_norm", bias=False)
        for part, name in {**names, "out": "wo"}.items():
            found |= dense(f"{ours}/ffn/{part}", f"{theirs}.layer.1.DenseReluDense.{name}", bias=False)
        found |= norm(f"{ours}/norm2", f"{theirs}.layer.1.layer_norm", bias=False)
        bias = Source((f"{attention}.relative_attention_bias.weight",))
        if bias_by_block:
            found[f"{ours}/relative_bias"] = bias
        elif index == 0:
            found["encoder/relative_bias"] = bias
    return found | norm("encoder/norm", "encoder.final_layer_norm", bias=False)


def sources(config):
    """Every parameter's tensor."""
    # Whoever wrote the file left out one of the two, which are one tensor.
    token = Source(("shared.weight", "encoder.embed_tokens.weight"))
    return {"embeddings/token": token} | t5_sources(config, bias_by_block=config.bias_by_block)


T5_CHECKPOINT = Architecture(
    names=("t5", "mt5", "umt5"),
    backbone=T5,
    read_config=read_config,
    sources=sources,
    prefixes=("transformer.",),
    ignored=(
        r"decoder\..*",
        r"(lm_head|classifier|classification_head)\..*",
        r"encoder\.embed_tokens\.weight",
    ),
    read_preprocess=read_text_preprocess,
)

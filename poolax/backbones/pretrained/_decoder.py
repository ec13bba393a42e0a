"""Llama, Mistral and Qwen2 checkpoints in Hugging Face layout."""

from poolax.backbones._decoder import Decoder, DecoderConfig
from poolax.backbones.pretrained._rotary import read_rotary
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    heads_in,
    heads_out,
    norm,
    read_count,
    read_field,
)
from poolax.backbones.pretrained._text import read_text_preprocess

_SLIDING, _FULL = "sliding_attention", "full_attention"


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration."""
    del shapes
    causal = raw.get("is_causal", True)
    check_fields({"is_causal": causal}, {"is_causal": (True, False)})
    if raw.get("quantization_config") is not None:
        raise ValueError("config: expected weights that are not quantized, got quantization_config")
    qwen = raw["model_type"] == "qwen2"
    num_layers = read_count(raw, "num_hidden_layers")
    num_heads = read_count(raw, "num_attention_heads")
    window, full_layers = _windows(raw, num_layers)
    if window is not None and not causal:
        raise ValueError("config: expected no sliding window where is_causal is false, got one")
    head_dim = raw.get("head_dim") or read_count(raw, "hidden_size") // num_heads
    use_bias = raw.get("attention_bias", False)
    return DecoderConfig(
        vocab_size=read_count(raw, "vocab_size"),
        width=read_count(raw, "hidden_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=raw.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        mlp_dim=read_count(raw, "intermediate_size"),
        rotary=read_rotary(raw),
        window=window,
        full_layers=full_layers,
        causal=causal,
        use_qkv_bias=qwen or use_bias,
        use_out_bias=use_bias and not qwen,
        use_mlp_bias=raw.get("mlp_bias", False),
        activation=raw.get("hidden_act", "silu"),
        norm_eps=read_field(raw, "rms_norm_eps"),
    )


def _windows(raw, num_layers):
    """The sliding window, or ``None``, and the blocks without it."""
    family = raw["model_type"]
    in_use = raw.get("use_sliding_window", False) if family == "qwen2" else family == "mistral"
    window = raw.get("sliding_window") if in_use else None
    if window is None:
        return None, ()
    types = raw.get("layer_types")
    if types is None:
        first = raw.get("max_window_layers", 28) if family == "qwen2" else 0
        types = [_FULL] * min(first, num_layers) + [_SLIDING] * max(num_layers - first, 0)
    for kind in types:
        check_fields({"layer_types": kind}, {"layer_types": (_SLIDING, _FULL)})
    full = tuple(index for index, kind in enumerate(types) if kind == _FULL)
    return (None, ()) if len(full) == num_layers else (window, full)


def sources(config):
    """Every parameter's tensor."""
    found = {"embeddings/token": Source(("embed_tokens.weight",))}
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"layers.{index}"
        for part, num_heads in (
            ("query", config.num_heads),
            ("key", config.num_kv_heads),
            ("value", config.num_kv_heads),
        ):
            found |= heads_in(
                f"{ours}/attention/{part}",
                f"{theirs}.self_attn.{part[0]}_proj",
                num_heads=num_heads,
                bias=config.use_qkv_bias,
            )
        found |= heads_out(
            f"{ours}/attention/out",
            f"{theirs}.self_attn.o_proj",
            num_heads=config.num_heads,
            bias=config.use_out_bias,
        )
        for part, name in (("gate", "gate"), ("hidden", "up"), ("out", "down")):
            theirs_name = f"{theirs}.mlp.{name}_proj"
            found |= dense(f"{ours}/ffn/{part}", theirs_name, bias=config.use_mlp_bias)
        found |= norm(f"{ours}/norm1", f"{theirs}.input_layernorm", bias=False)
        found |= norm(f"{ours}/norm2", f"{theirs}.post_attention_layernorm", bias=False)
    return found | norm("encoder/norm", "norm", bias=False)


DECODER = Architecture(
    names=("llama", "mistral", "qwen2"),
    backbone=Decoder,
    read_config=read_config,
    sources=sources,
    prefixes=("model.",),
    ignored=(r"lm_head\..*", r"score\..*", r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
    read_preprocess=read_text_preprocess,
)

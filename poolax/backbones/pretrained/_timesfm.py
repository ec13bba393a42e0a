"""TimesFM 2.5 checkpoints in Hugging Face layout."""

from poolax.backbones._series_context import SeriesContext
from poolax.backbones._timesfm import TimesFM, TimesFMConfig
from poolax.backbones.pretrained._rotary import read_rotary
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    dense,
    heads_in,
    heads_out,
    norm,
    read_count,
)

_NORMS = {
    "norm1": "input_layernorm",
    "out_norm1": "post_attention_layernorm",
    "norm2": "pre_feedforward_layernorm",
    "out_norm2": "post_feedforward_layernorm",
}
# On disk, then in memory.
_FFN = {"hidden": ("ff0", "fc1"), "out": ("ff1", "fc2")}
_EMBEDDINGS = {"hidden": "input_layer", "out": "output_layer", "skip": "residual_layer"}


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration; those left out are of the released model."""
    del shapes
    own = TimesFMConfig()
    num_heads = raw.get("num_attention_heads", own.num_heads)
    return TimesFMConfig(
        num_steps=raw.get("context_length", own.num_steps),
        patch_len=raw.get("patch_length", own.patch_len),
        width=read_count(raw, "hidden_size"),
        num_layers=read_count(raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=raw.get("num_key_value_heads", own.num_kv_heads),
        head_dim=raw.get("head_dim", own.head_dim),
        mlp_dim=read_count(raw, "intermediate_size"),
        activation=raw.get("activation", own.activation),
        rotary=read_rotary(raw),
        norm_eps=raw.get("rms_norm_eps", own.norm_eps),
        use_attention_bias=raw.get("attention_bias", False),
        use_mlp_bias=raw.get("use_bias", False),
    )


def sources(config):
    """Every parameter's tensor."""
    found = {}
    for ours, theirs in _EMBEDDINGS.items():
        found |= dense(f"embeddings/{ours}", f"input_ff_layer.{theirs}")
    counts = {"query": config.num_heads, "key": config.num_kv_heads, "value": config.num_kv_heads}
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"layers.{index}"
        attention, bias = f"{theirs}.self_attn", config.use_attention_bias
        for part, count in counts.items():
            name = f"{attention}.{part[0]}_proj"
            found |= heads_in(f"{ours}/attention/{part}", name, num_heads=count, bias=bias)
        out = f"{attention}.o_proj"
        found |= heads_out(f"{ours}/attention/out", out, num_heads=config.num_heads, bias=bias)
        for part in ("query", "key"):
            found |= norm(f"{ours}/attention/{part}_norm", f"{attention}.{part[0]}_norm", bias=False)
        found[f"{ours}/attention/query_scale"] = Source((f"{attention}.scaling",))
        for part, names in _FFN.items():
            names = [f"{theirs}.mlp.{name}" for name in names]
            found |= dense(f"{ours}/ffn/{part}", *names, bias=config.use_mlp_bias)
        for part, name in _NORMS.items():
            found |= norm(f"{ours}/{part}", f"{theirs}.{name}", bias=False)
    return found


def read_preprocess(directory, raw, config):
    """The last steps of long series, and short ones padded to whole patches."""
    del directory, raw
    return SeriesContext(config.num_steps, config.patch_len)


TIMESFM = Architecture(
    names=("timesfm2_5",),
    backbone=TimesFM,
    read_config=read_config,
    sources=sources,
    prefixes=("model.",),
    ignored=(r"output_projection_(point|quantiles)\..*", r"rotary_emb\..*"),
    read_preprocess=read_preprocess,
)

"""GPT-2 checkpoints in Hugging Face layout."""

from poolax.attention import DotProduct
from poolax.backbones._gpt2 import GPT2, GPT2Config
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    joint_heads,
    norm,
    read_count,
)
from poolax.backbones.pretrained._text import read_text_preprocess


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration."""
    del shapes
    check_fields(raw, {"add_cross_attention": (False, None), "is_causal": (True, None)})
    width = read_count(raw, "n_embd")
    scaled = raw.get("scale_attn_weights", True)
    return GPT2Config(
        vocab_size=read_count(raw, "vocab_size"),
        max_tokens=read_count(raw, "n_positions"),
        width=width,
        num_layers=read_count(raw, "n_layer"),
        num_heads=read_count(raw, "n_head"),
        mlp_dim=raw.get("n_inner") or 4 * width,
        kind=DotProduct() if scaled else DotProduct(1.0),
        activation=raw.get("activation_function", "gelu_new"),
        norm_eps=raw.get("layer_norm_epsilon", 1e-5),
        scale_by_layer=raw.get("scale_attn_by_inverse_layer_idx", False),
    )


def sources(config):
    """Every parameter's tensor; weights of linear layers stand in x out already."""
    found = {
        "embeddings/token": Source(("wte.weight",)),
        "embeddings/position": Source(("wpe.weight",)),
    }
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"h.{index}"
        found |= joint_heads(
            f"{ours}/attention",
            f"{theirs}.attn.c_attn",
            num_heads=config.num_heads,
            inputs_first=True,
        )
        out = Source((f"{theirs}.attn.c_proj.weight",), _split_inputs(config.num_heads))
        found[f"{ours}/attention/out/kernel"] = out
        found[f"{ours}/attention/out/bias"] = Source((f"{theirs}.attn.c_proj.bias",))
        for part, name in (("hidden", "c_fc"), ("out", "c_proj")):
            found[f"{ours}/ffn/{part}/kernel"] = Source((f"{theirs}.mlp.{name}.weight",))
            found[f"{ours}/ffn/{part}/bias"] = Source((f"{theirs}.mlp.{name}.bias",))
        found |= norm(f"{ours}/norm1", f"{theirs}.ln_1") | norm(f"{ours}/norm2", f"{theirs}.ln_2")
    return found | norm("encoder/norm", "ln_f")


def _split_inputs(num_heads):
    return lambda x: x.reshape(num_heads, -1, x.shape[-1])


GPT2_CHECKPOINT = Architecture(
    names=("gpt2",),
    backbone=GPT2,
    read_config=read_config,
    sources=sources,
    prefixes=("transformer.",),
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\..*", r"score\..*"),
    read_preprocess=read_text_preprocess,
)

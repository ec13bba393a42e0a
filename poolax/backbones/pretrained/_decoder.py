"""Checkpoints of decoders, and of encoders made of their parts, in Hugging Face layout."""

import dataclasses
import functools

from poolax.backbones._decoder import Decoder, RotaryEncoder
from poolax.backbones.pretrained._decoder_configs import TOWERS, read_config, read_tower
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    dense,
    fused_dense,
    fused_heads,
    heads_in,
    heads_out,
    norm,
)
from poolax.backbones.pretrained._text import read_text_preprocess


@dataclasses.dataclass(frozen=True)
class _Names:
    """What a family calls its tensors; those of a block stand behind ``layers`` and its number."""

    token: str = "embed_tokens"
    embedding_norm: str = ""
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    fused_heads: str = ""  # queries, keys and values in one
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    out: str = "self_attn.o_proj"
    gate: str = "mlp.gate_proj"
    hidden: str = "mlp.up_proj"
    fused_ffn: str = ""  # gate and hidden layer in one
    ffn_out: str = "mlp.down_proj"
    norm1: str = "input_layernorm"
    out_norm1: str = ""
    norm2: str = "post_attention_layernorm"
    out_norm2: str = ""
    norm: str = "norm"
    norms_from_one: bool = False


_LLAMA = _Names()
_PHI = _Names(fused_heads="self_attn.qkv_proj", fused_ffn="mlp.gate_up_proj")
_GEMMA = _Names(
    out_norm1="post_attention_layernorm",
    norm2="pre_feedforward_layernorm",
    out_norm2="post_feedforward_layernorm",
    norms_from_one=True,
)
_MODERNBERT = _Names(
    token="embeddings.tok_embeddings",
    embedding_norm="embeddings.norm",
    fused_heads="attn.Wqkv",
    out="attn.Wo",
    fused_ffn="mlp.Wi",
    ffn_out="mlp.Wo",
    norm1="attn_norm",
    norm2="mlp_norm",
    norm="final_norm",
)


# Where the text's tower stands among the others, and those.
_IN_TOWERS = ("language_model.model.", "model.language_model.")
_OTHER_TOWERS = r"(model\.)?(vision_tower|multi_modal_projector)\..*"


def sources(names, config):
    """Every parameter's tensor."""
    norms = {"bias": config.use_norm_bias, "from_one": _adds_one(names, config)}
    found = {"embeddings/token": Source((f"{names.token}.weight",))}
    if config.use_embedding_norm:
        found |= norm("embeddings/norm", names.embedding_norm, **norms)
    for index in range(config.num_layers):
        found |= _block(names, config, f"encoder/block_{index}", f"layers.{index}")
        parts = ["norm1", "norm2"] + ["out_norm1", "out_norm2"] * config.use_out_norms
        if config.use_embedding_norm and index == 0:
            parts.remove("norm1")
        for part in parts:
            theirs = f"layers.{index}.{getattr(names, part)}"
            found |= norm(f"encoder/block_{index}/{part}", theirs, **norms)
    return found | norm("encoder/norm", names.norm, **norms)


def _block(names, config, ours, theirs):
    counts = {"query": config.num_heads, "key": config.num_kv_heads, "value": config.num_kv_heads}
    bias, ffn_bias = config.use_qkv_bias, config.use_mlp_bias
    attention = f"{ours}/attention"
    if names.fused_heads:
        found = fused_heads(
            attention,
            f"{theirs}.{names.fused_heads}",
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            bias=bias,
        )
    else:
        found = {}
        for part, count in counts.items():
            name = f"{theirs}.{getattr(names, part)}"
            found |= heads_in(f"{attention}/{part}", name, num_heads=count, bias=bias)
    if config.use_query_key_norm:
        for part in ("query_norm", "key_norm"):
            name = f"{theirs}.{getattr(names, part)}"
            found |= norm(f"{attention}/{part}", name, bias=False, from_one=_adds_one(names, config))
    out = f"{theirs}.{names.out}"
    found |= heads_out(f"{attention}/out", out, num_heads=config.num_heads, bias=config.use_out_bias)
    entering = ("gate", "hidden")
    if names.fused_ffn:
        paths = tuple(f"{ours}/ffn/{part}" for part in entering)
        name = f"{theirs}.{names.fused_ffn}"
        found |= fused_dense(paths, name, width=config.mlp_dim, bias=ffn_bias)
    else:
        for part in entering:
            found |= dense(f"{ours}/ffn/{part}", f"{theirs}.{getattr(names, part)}", bias=ffn_bias)
    return found | dense(f"{ours}/ffn/out", f"{theirs}.{names.ffn_out}", bias=ffn_bias)


def _adds_one(names, config):
    """Whether scales that are stored less one are whole here, as earlier versions kept them."""
    return names.norms_from_one and not config.norms_from_one


def _architecture(*model_types, names=_LLAMA, backbone=Decoder, heads=("score",)):
    has_towers = bool(set(model_types) & set(TOWERS))
    return Architecture(
        names=model_types,
        backbone=backbone,
        read_config=read_config,
        sources=functools.partial(sources, names),
        prefixes=("model.", *(_IN_TOWERS if has_towers else ())),
        ignored=(
            r"(language_model\.)?lm_head\..*",
            *(rf"{head}\..*" for head in heads),
            r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
            *((_OTHER_TOWERS,) if has_towers else ()),
        ),
        read_preprocess=read_text_preprocess,
        read_tower=read_tower,
    )


DECODER_FAMILIES = (
    _architecture("llama", "mistral", "ministral3", "mistral3", "qwen2", "qwen3"),
    _architecture("phi3", names=_PHI),
    _architecture("gemma2", "gemma3_text", "gemma3", names=_GEMMA),
    _architecture(
        "modernbert",
        names=_MODERNBERT,
        backbone=RotaryEncoder,
        heads=("head", "decoder", "classifier"),
    ),
    _architecture("eurobert", backbone=RotaryEncoder, heads=("dense", "classifier")),
)

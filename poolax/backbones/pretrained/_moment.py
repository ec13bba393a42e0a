"""MOMENT checkpoints as the authors' code writes them."""

from typing import Any

from poolax._activations import activation_from_name
from poolax.backbones._moment import Moment, MomentConfig
from poolax.backbones._series import SeriesPreprocess
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    first,
    heads_in,
    heads_out,
    norm,
    read_field,
)

_POSITION = "patch_embedding.position_embedding.pe"
_T5_SIZES = ("d_model", "num_layers", "num_heads", "d_kv", "d_ff")
_FLAN_T5 = {
    "google/flan-t5-small": (512, 8, 6, 64, 1024),
    "google/flan-t5-base": (768, 12, 12, 64, 2048),
    "google/flan-t5-large": (1024, 24, 16, 64, 2816),
}


def read_config(raw, shapes):
    """From the fields of the authors' configuration and of the T5 configuration inside it."""
    patch_len = raw.get("patch_len", 8)
    implemented = {
        "transformer_type": ("encoder_only",),
        "patch_stride_len": (patch_len,),
        "add_positional_embedding": (True,),
    }
    check_fields(raw, implemented)
    t5: Any = raw.get("t5_config") or _flan_t5(raw)
    projection = t5.get("feed_forward_proj", "relu")
    activation = projection.removeprefix("gated-")
    activation_from_name(activation, "feed_forward_proj")
    width = read_field(t5, "d_model")
    check_fields(raw, {"d_model": (None, width)})
    _, max_patches, _ = shapes.get(_POSITION, (1, MomentConfig.max_patches, width))
    return MomentConfig(
        num_steps=raw.get("seq_len", MomentConfig.num_steps),
        patch_len=patch_len,
        max_patches=max_patches,
        width=width,
        num_layers=read_field(t5, "num_layers"),
        num_heads=read_field(t5, "num_heads"),
        head_dim=t5.get("d_kv", 64),
        mlp_dim=read_field(t5, "d_ff"),
        # T5 means the tanh form by this one name.
        activation="gelu_new" if projection == "gated-gelu" else activation,
        use_gate=projection.startswith("gated-"),
        num_buckets=t5.get("relative_attention_num_buckets", 32),
        max_distance=t5.get("relative_attention_max_distance", 128),
        norm_eps=t5.get("layer_norm_epsilon", 1e-6),
        use_value_bias=raw.get("value_embedding_bias", False),
        use_revin_affine=raw.get("revin_affine", False),
        use_head=raw.get("task_name") in (None, "reconstruction", "pre-training"),
    )


def _flan_t5(raw):
    """The T5 configuration that a configuration without one means by the name of the model."""
    name = raw.get("transformer_backbone")
    if name not in _FLAN_T5:
        listed = ", ".join(_FLAN_T5)
        raise ValueError(
            f"config: expected a t5_config or a transformer_backbone of {listed}, got {name!r}"
        )
    return dict(zip(_T5_SIZES, _FLAN_T5[name], strict=True), feed_forward_proj="gated-gelu")


def sources(config):
    """Every parameter's tensor."""
    found = dense("embeddings/value", "patch_embedding.value_embedding", bias=config.use_value_bias)
    found["embeddings/mask_embedding"] = Source(("patch_embedding.mask_embedding",))
    found["embeddings/position"] = Source((_POSITION,), first)
    if config.use_revin_affine:
        for ours, theirs in {"scale": "affine_weight", "bias": "affine_bias"}.items():
            found[f"embeddings/revin/{ours}"] = Source(
                (f"normalizer.{theirs}",), lambda x: x.reshape(())
            )
    if config.use_head:
        found |= dense("head", "head.linear")
    names = {"gate": "wi_0", "hidden": "wi_1"} if config.use_gate else {"hidden": "wi"}
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"encoder.block.{index}"
        attention = f"{theirs}.layer.0.SelfAttention"
        for part in ("query", "key", "value"):
            found |= heads_in(
                f"{ours}/attention/{part}",
                f"{attention}.{part[0]}",
                num_heads=config.num_heads,
                bias=False,
            )
        found |= heads_out(
            f"{ours}/attention/out", f"{attention}.o", num_heads=config.num_heads, bias=False
        )
        found |= norm(f"{ours}/norm1", f"{theirs}.layer.0.layer_norm", bias=False)
        for part, name in {**names, "out": "wo"}.items():
            found |= dense(f"{ours}/ffn/{part}", f"{theirs}.layer.1.DenseReluDense.{name}", bias=False)
        found |= norm(f"{ours}/norm2", f"{theirs}.layer.1.layer_norm", bias=False)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found["encoder/relative_bias"] = Source((bias,))
    found |= norm("encoder/norm", "encoder.final_layer_norm", bias=False)
    return found


def read_preprocess(directory, raw, config):
    """What brings series to the length that the model was trained on."""
    del directory, raw
    return SeriesPreprocess(config.num_steps, config.patch_len)


def recognizes(raw, shapes):
    """Whether it says so itself, or has a tensor that no other family has."""
    return raw.get("model_name") == "MOMENT" or "patch_embedding.mask_embedding" in shapes


MOMENT = Architecture(
    names=("moment",),
    backbone=Moment,
    read_config=read_config,
    sources=sources,
    ignored=(r"encoder\.embed_tokens\.weight", r"head\..*"),
    read_preprocess=read_preprocess,
    recognizes=recognizes,
    tested="momentfm",
)

"""MOMENT checkpoints as the authors' code writes them."""

from poolax.backbones._moment import Moment, MomentConfig
from poolax.backbones._series import SeriesPreprocess
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    first,
    read_field,
)
from poolax.backbones.pretrained._t5 import t5_sizes, t5_sources

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
    t5 = raw.get("t5_config") or _flan_t5(raw)
    width = read_field(t5, "d_model")
    check_fields(raw, {"d_model": (None, width)})
    _, max_patches, _ = shapes.get(_POSITION, (1, MomentConfig.max_patches, width))
    return MomentConfig(
        num_steps=raw.get("seq_len", MomentConfig.num_steps),
        patch_len=patch_len,
        max_patches=max_patches,
        **t5_sizes(t5),
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
    return found | t5_sources(config)


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

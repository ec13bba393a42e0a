"""timm's state dicts of Vision Transformers."""

import re

from poolax.backbones._images import ImagePreprocess
from poolax.backbones._vit import ViT
from poolax.backbones._vit_config import ViTConfig
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    dense,
    first,
    heads_out,
    joint_heads,
    norm,
)
from poolax.backbones.pretrained._vit import patch_kernel

# What a name's model may be told otherwise, and shapes of tensors or heads show.
_TIMM_ARGUMENTS = {
    *("depth", "embed_dim", "img_size", "in_chans", "num_classes", "num_heads", "patch_size"),
}

# Published sizes of timm's models by width; their state dicts do not say how many heads there are.
_TIMM_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}


def read_timm_config(raw, shapes):
    """From a timm model's name and the shapes of its tensors."""
    prefix = _timm_prefix(shapes)

    def shape(name):
        if prefix + name not in shapes:
            raise ValueError(f"tensors: expected all of a timm ViT, got no {prefix + name}")
        return shapes[prefix + name]

    width, channels, patch_size, _ = shape("patch_embed.proj.weight")
    num_patches = shape("pos_embed")[-2] - 1
    side = round(num_patches**0.5)
    if side**2 != num_patches or prefix + "cls_token" not in shapes:
        raise ValueError(
            "tensors: expected a timm ViT with a CLS token and positions of a square of patches, got "
            f"pos_embed {shape('pos_embed')}"
        )
    blocks = {match[1] for name in shapes if (match := re.match(r".*\bblocks\.(\d+)\.", name))}
    overrides = raw.get("model_args") or {}
    unknown = sorted(set(overrides) - _TIMM_ARGUMENTS)
    if unknown:
        raise ValueError(
            f"config: expected model_args of {', '.join(sorted(_TIMM_ARGUMENTS))} alone, got "
            f"{', '.join(unknown)}"
        )
    num_heads = overrides.get("num_heads", raw.get("num_heads", _TIMM_HEADS.get(width)))
    if num_heads is None:
        raise ValueError(
            f"config: expected num_heads, which is not known for a timm ViT of width {width}, got none"
        )
    return ViTConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        num_channels=channels,
        width=width,
        num_layers=len(blocks),
        num_heads=num_heads,
        mlp_dim=shape("blocks.0.mlp.fc1.weight")[0],
        norm_eps=1e-6,
        use_qkv_bias=prefix + "blocks.0.attn.qkv.bias" in shapes,
    )


def _timm_prefix(shapes):
    return "model." if "model.patch_embed.proj.weight" in shapes else ""


def timm_sources(config):
    """Every parameter's tensor."""
    found = {
        "embeddings/patch/kernel": Source(("patch_embed.proj.weight",), patch_kernel),
        "embeddings/patch/bias": Source(("patch_embed.proj.bias",)),
        "embeddings/cls_token": Source(("cls_token",), first),
        "embeddings/position": Source(("pos_embed",), first),
    }
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"blocks.{index}"
        heads = {"num_heads": config.num_heads}
        found |= joint_heads(
            f"{ours}/attention", f"{theirs}.attn.qkv", bias=config.use_qkv_bias, **heads
        )
        found |= heads_out(f"{ours}/attention/out", f"{theirs}.attn.proj", **heads)
        found |= dense(f"{ours}/ffn/hidden", f"{theirs}.mlp.fc1")
        found |= dense(f"{ours}/ffn/out", f"{theirs}.mlp.fc2")
        found |= norm(f"{ours}/norm1", f"{theirs}.norm1") | norm(f"{ours}/norm2", f"{theirs}.norm2")
    return found | norm("encoder/norm", "norm")


def read_timm_preprocess(directory, raw, config):
    """From the ``pretrained_cfg`` of a timm configuration; pixel values to -1..1 if there is none."""
    del directory, config
    fields = raw.get("pretrained_cfg") or {}
    mean, std = fields.get("mean", [0.5] * 3), fields.get("std", [0.5] * 3)
    return ImagePreprocess(mean=tuple(mean), std=tuple(std))


def _is_timm_vit(raw, shapes):
    named = str(raw.get("architecture", "")).startswith("vit_")
    return named or (
        any(name.endswith("blocks.0.attn.qkv.weight") for name in shapes)
        and any(name.removeprefix("model.") == "cls_token" for name in shapes)
    )


TIMM_VIT = Architecture(
    names=("timm_vit",),
    backbone=ViT,
    read_config=read_timm_config,
    sources=timm_sources,
    prefixes=("model.",),
    ignored=(r"head\..*", r"fc_norm\..*", r"pre_logits\..*"),
    read_preprocess=read_timm_preprocess,
    recognizes=_is_timm_vit,
    tested="its Hugging Face form",
)

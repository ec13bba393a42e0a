"""ViT checkpoints: Hugging Face layout and timm's state dicts."""

import re

from poolax.backbones._preprocess import ImagePreprocess
from poolax.backbones._vit import ViT, ViTConfig
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    first,
    heads_in,
    heads_out,
    joint_heads,
    norm,
    read_count,
    read_field,
    read_json_object,
)

# What a name's model may be told otherwise, and shapes of tensors or heads show.
_TIMM_ARGUMENTS = {
    *("depth", "embed_dim", "img_size", "in_chans", "num_classes", "num_heads", "patch_size"),
}

# Published sizes of timm's models by width; their state dicts do not say how many heads there are.
_TIMM_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration."""
    del shapes
    return ViTConfig(
        image_size=square_side(raw, "image_size"),
        patch_size=square_side(raw, "patch_size"),
        num_channels=read_count(raw, "num_channels"),
        width=read_count(raw, "hidden_size"),
        num_layers=read_count(raw, "num_hidden_layers"),
        num_heads=read_count(raw, "num_attention_heads"),
        mlp_dim=read_count(raw, "intermediate_size"),
        norm_eps=read_field(raw, "layer_norm_eps"),
        use_qkv_bias=raw.get("qkv_bias", True),
        activation=read_field(raw, "hidden_act"),
    )


def square_side(raw, field):
    """Height and width of what has to be square: one number, or two equal ones."""
    size = read_field(raw, field)
    if isinstance(size, list) and size:
        check_fields({field: size}, {field: ([size[0]] * 2,)})
        size = size[0]
    return read_count({field: size}, field)


def sources(config):
    """Every parameter's tensor."""
    found = {
        "embeddings/patch/kernel": Source(
            ("embeddings.patch_embeddings.projection.weight",), patch_kernel
        ),
        "embeddings/patch/bias": Source(("embeddings.patch_embeddings.projection.bias",)),
        "embeddings/cls_token": Source(("embeddings.cls_token",), first),
        "embeddings/position": Source(("embeddings.position_embeddings",), first),
    }
    for index in range(config.num_layers):
        ours, disk, memory = f"encoder/block_{index}", f"encoder.layer.{index}", f"layers.{index}"
        heads = {"num_heads": config.num_heads}
        for part in ("query", "key", "value"):
            found |= heads_in(
                f"{ours}/attention/{part}",
                f"{disk}.attention.attention.{part}",
                f"{memory}.attention.{part[0]}_proj",
                bias=config.use_qkv_bias,
                **heads,
            )
        out = (f"{disk}.attention.output.dense", f"{memory}.attention.o_proj")
        found |= heads_out(f"{ours}/attention/out", *out, **heads)
        found |= dense(f"{ours}/ffn/hidden", f"{disk}.intermediate.dense", f"{memory}.mlp.fc1")
        found |= dense(f"{ours}/ffn/out", f"{disk}.output.dense", f"{memory}.mlp.fc2")
        for ours_norm, theirs in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
            found |= norm(f"{ours}/{ours_norm}", f"{disk}.{theirs}", f"{memory}.{theirs}")
    return found | norm("encoder/norm", "layernorm")


def patch_kernel(x):
    """From a convolution's (d, channels, row, column) to (row column channels, d)."""
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def read_preprocess(directory, raw, config):
    """From ``preprocessor_config.json``; pixel values to -1..1 if there is none."""
    del raw, config
    fields = read_json_object(directory / "preprocessor_config.json")
    if not fields:
        return ImagePreprocess()
    scale = fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 1.0
    if not fields.get("do_normalize", True):
        return ImagePreprocess(scale=scale, mean=0.0, std=1.0)
    mean, std = read_field(fields, "image_mean"), read_field(fields, "image_std")
    return ImagePreprocess(scale=scale, mean=tuple(mean), std=tuple(std))


VIT = Architecture(
    names=("vit",),
    backbone=ViT,
    read_config=read_config,
    sources=sources,
    prefixes=("vit.",),
    ignored=(
        r"pooler\..*",
        r"classifier\..*",
        r"decoder\..*",
        r"(vit\.)?embeddings\.mask_token",
    ),
    read_preprocess=read_preprocess,
)


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
)

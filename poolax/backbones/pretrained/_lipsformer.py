"""LipsFormer-Swin checkpoints: state dicts of the authors' code."""

import math
import re

from poolax.backbones._images import ImagePreprocess
from poolax.backbones._lipsformer import LipsFormer, LipsFormerConfig
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    heads_out,
    joint_heads,
    norm,
    read_field,
    transposed,
)
from poolax.backbones.pretrained._vit_names import patch_kernel

_PREFIXES = ("module.", "model.")


def read_config(raw, shapes):
    """From the arguments of the authors' model; all but ``img_size`` also from shapes of tensors."""
    check_fields(raw, {"ape": (False,), "patch_norm": (True,), "qkv_bias": (True,)})
    raw = _from_shapes(shapes) | {key: value for key, value in raw.items() if value is not None}
    return LipsFormerConfig(
        image_size=read_field(raw, "img_size"),
        patch_size=read_field(raw, "patch_size"),
        num_channels=read_field(raw, "in_chans"),
        width=read_field(raw, "embed_dim"),
        depths=tuple(read_field(raw, "depths")),
        num_heads=tuple(read_field(raw, "num_heads")),
        window_size=read_field(raw, "window_size"),
        mlp_ratio=raw.get("mlp_ratio", 4.0),
    )


def _from_shapes(shapes):
    """What shapes say of the configuration; the side of the images they do not."""
    for prefix in _PREFIXES:
        shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    tables = {}
    for name, shape in shapes.items():
        match = re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\..*relative_position_bias_table", name)
        if match:
            tables.setdefault(int(match[1]), []).append(shape)
    patch = shapes.get("patch_embed.proj.weight")
    if not tables or patch is None:
        return {}
    stages = [tables[stage] for stage in sorted(tables)]
    # The largest: stages whose grid is smaller than a window have smaller tables.
    num_offsets = max(blocks[0][0] for blocks in stages)
    return {
        "embed_dim": patch[0],
        "in_chans": patch[1],
        "patch_size": patch[2],
        "depths": [len(blocks) for blocks in stages],
        "num_heads": [blocks[0][1] for blocks in stages],
        "window_size": (math.isqrt(num_offsets) + 1) // 2,
    }


def sources(config):
    """Every parameter's tensor."""
    found = {
        "embeddings/patch/kernel": Source(("patch_embed.proj.weight",), patch_kernel),
        "embeddings/patch/bias": Source(("patch_embed.proj.bias",)),
    }
    found |= norm("embeddings/norm", "patch_embed.norm")
    for stage, depth in enumerate(config.depths):
        ours, theirs = f"encoder/stage_{stage}", f"layers.{stage}"
        for index in range(depth):
            found |= _block_sources(
                config.num_heads[stage], f"{ours}/block_{index}", f"{theirs}.blocks.{index}"
            )
        if stage + 1 < config.num_stages:
            found |= norm(f"{ours}/merge/norm", f"{theirs}.downsample.norm")
            reduction = f"{theirs}.downsample.reduction.weight"
            found[f"{ours}/merge/kernel"] = Source((reduction,), transposed)
    return found | norm("encoder/norm", "norm")


def _block_sources(num_heads, ours, theirs):
    found = joint_heads(f"{ours}/attention", f"{theirs}.attn.qkv", num_heads=num_heads)
    found |= heads_out(f"{ours}/attention/out", f"{theirs}.attn.proj", num_heads=num_heads)
    names = {
        "relative_bias": "attn.relative_position_bias_table",
        "conv1_scale": "scale_layers.0.scale",
        "conv2_scale": "scale_layers.1.scale",
        "attention_scale": "alpha1.scale",
        "ffn_scale": "alpha2.scale",
        "conv1/depthwise/bias": "dwconv_layers.0.bias",
        "conv2/depthwise/bias": "dwconv_layers.1.bias",
        "conv1/pointwise/bias": "nin.bias",
    }
    found |= {f"{ours}/{name}": Source((f"{theirs}.{other}",)) for name, other in names.items()}
    for index in (0, 1):
        found[f"{ours}/conv{index + 1}/depthwise/kernel"] = Source(
            (f"{theirs}.dwconv_layers.{index}.weight",), _depthwise_kernel
        )
    found[f"{ours}/conv1/pointwise/kernel"] = Source((f"{theirs}.nin.weight",), patch_kernel)
    found |= dense(f"{ours}/ffn/hidden", f"{theirs}.mlp.fc1")
    found |= dense(f"{ours}/ffn/out", f"{theirs}.mlp.fc2")
    return found | norm(f"{ours}/norm1", f"{theirs}.norm1") | norm(f"{ours}/norm2", f"{theirs}.norm2")


def _depthwise_kernel(x):
    return x[:, 0].transpose(1, 2, 0)


def read_preprocess(directory, raw, config):
    """The mean and deviation of ImageNet, which the authors train and test with."""
    del directory, raw, config
    return ImagePreprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _is_lipsformer(raw, shapes):
    del raw
    return any(".dwconv_layers." in name for name in shapes)


LIPSFORMER = Architecture(
    names=("lipsformer_swin",),
    backbone=LipsFormer,
    read_config=read_config,
    sources=sources,
    prefixes=_PREFIXES,
    ignored=(r".*\.relative_position_index", r".*\.attn_mask", r"head\..*"),
    read_preprocess=read_preprocess,
    tested="a plain forward pass",
    recognizes=_is_lipsformer,
)

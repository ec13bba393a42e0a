"""timm's state dicts of BEiTs."""

import dataclasses
import math
import re

from poolax.backbones._vit_config import ViTConfig
from poolax.backbones.pretrained._sources import Source
from poolax.backbones.pretrained._timm import TIMM_VIT, check_overrides, timm_prefix, timm_sources


def read_timm_beit_config(raw, shapes):
    """From the shapes of tensors of a timm BEiT, whose table of offsets says how large its grid is."""
    prefix = timm_prefix(shapes)
    width, channels, patch_size, _ = shapes[prefix + "patch_embed.proj.weight"]
    tables = [name for name in shapes if name.endswith("relative_position_bias_table")]
    if not tables:
        raise ValueError("tensors: expected a timm BEiT with a table of offsets, got none")
    num_offsets, num_heads = shapes[tables[0]]
    side = (math.isqrt(num_offsets - 3) + 1) // 2
    blocks = {match[1] for name in shapes if (match := re.match(r".*\bblocks\.(\d+)\.", name))}
    check_overrides(raw)
    return ViTConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        num_channels=channels,
        width=width,
        num_layers=len(blocks),
        num_heads=num_heads,
        mlp_dim=shapes[prefix + "blocks.0.mlp.fc1.weight"][0],
        norm_eps=1e-6,
        use_qkv_bias=("query", "value"),
        interpolation="bicubic-antialias",
        layer_scale=1e-5 if prefix + "blocks.0.gamma_1" in shapes else None,
        use_positions=prefix + "pos_embed" in shapes,
        use_final_norm=prefix + "norm.weight" in shapes,
        use_relative_bias=any(".attn." in name for name in tables),
        use_shared_relative_bias=any("rel_pos_bias." in name for name in tables),
    )


def timm_beit_sources(config):
    """Every parameter's tensor."""
    found = timm_sources(config)
    table, heads = "relative_position_bias_table", config.num_heads
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"blocks.{index}"
        for part in ("query", "value"):
            found[f"{ours}/attention/{part}/bias"] = Source(
                (f"{theirs}.attn.{part[0]}_bias",), lambda x: x.reshape(heads, -1)
            )
        if config.use_relative_bias:
            found[f"encoder/relative_bias/block_{index}"] = Source((f"{theirs}.attn.{table}",))
    if config.use_shared_relative_bias:
        found["encoder/relative_bias/shared"] = Source((f"rel_pos_bias.{table}",))
    return found


def _is_timm_beit(raw, shapes):
    return str(raw.get("architecture", "")).startswith("beit") or any(
        name.endswith("blocks.0.attn.relative_position_bias_table") for name in shapes
    )


TIMM_BEIT = dataclasses.replace(
    TIMM_VIT,
    names=("timm_beit",),
    read_config=read_timm_beit_config,
    sources=timm_beit_sources,
    ignored=(*TIMM_VIT.ignored, r".*relative_position_index", r".*\.k_bias"),
    recognizes=_is_timm_beit,
)

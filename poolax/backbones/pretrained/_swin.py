"""Swin checkpoints in Hugging Face layout."""

import math

from poolax.backbones._swin import Swin, SwinConfig
from poolax.backbones.pretrained._image_settings import read_preprocess
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    as_is,
    dense,
    first,
    heads_in,
    heads_out,
    norm,
    read_field,
    transposed,
)
from poolax.backbones.pretrained._vit import square_side
from poolax.backbones.pretrained._vit_names import patch_kernel


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration."""
    del shapes
    return SwinConfig(
        image_size=square_side(raw, "image_size"),
        patch_size=square_side(raw, "patch_size"),
        num_channels=read_field(raw, "num_channels"),
        width=read_field(raw, "embed_dim"),
        depths=tuple(read_field(raw, "depths")),
        num_heads=tuple(read_field(raw, "num_heads")),
        window_size=read_field(raw, "window_size"),
        mlp_ratio=read_field(raw, "mlp_ratio"),
        use_qkv_bias=read_field(raw, "qkv_bias"),
        use_positions=read_field(raw, "use_absolute_embeddings"),
        activation=read_field(raw, "hidden_act"),
        norm_eps=read_field(raw, "layer_norm_eps"),
    )


def sources(config):
    """Every parameter's tensor."""
    patch = "embeddings.patch_embeddings.projection"
    found = {
        "embeddings/patch/kernel": Source((f"{patch}.weight",), patch_kernel),
        "embeddings/patch/bias": Source((f"{patch}.bias",)),
    }
    found |= norm("embeddings/norm", "embeddings.norm")
    if config.use_positions:
        found["embeddings/position"] = Source(("embeddings.position_embeddings",), first)
    for stage, depth in enumerate(config.depths):
        ours, theirs = f"encoder/stage_{stage}", f"encoder.layers.{stage}"
        for index in range(depth):
            found |= _block_sources(config, stage, f"{ours}/block_{index}", f"{theirs}.blocks.{index}")
        if stage + 1 < config.num_stages:
            found |= norm(f"{ours}/merge/norm", f"{theirs}.downsample.norm")
            reduction = f"{theirs}.downsample.reduction.weight"
            found[f"{ours}/merge/kernel"] = Source((reduction,), transposed)
    return found | norm("encoder/norm", "layernorm")


def _block_sources(config, stage, ours, theirs):
    """Names on disk come first, then those that transformers 5 has in memory."""
    num_heads = config.num_heads[stage]
    found = {}
    for part in ("query", "key", "value"):
        found |= heads_in(
            f"{ours}/attention/{part}",
            f"{theirs}.attention.self.{part}",
            f"{theirs}.attention.{part[0]}_proj",
            num_heads=num_heads,
            bias=config.use_qkv_bias,
        )
    out = (f"{theirs}.attention.output.dense", f"{theirs}.attention.o_proj")
    found |= heads_out(f"{ours}/attention/out", *out, num_heads=num_heads)
    found[f"{ours}/relative_bias"] = Source(
        (
            f"{theirs}.attention.self.relative_position_bias_table",
            f"{theirs}.attention.relative_position_bias.relative_position_bias_table",
        ),
        central_offsets(config.window(stage)),
    )
    found |= dense(f"{ours}/ffn/hidden", f"{theirs}.intermediate.dense", f"{theirs}.mlp.fc1")
    found |= dense(f"{ours}/ffn/out", f"{theirs}.output.dense", f"{theirs}.mlp.fc2")
    found |= norm(f"{ours}/norm1", f"{theirs}.layernorm_before")
    return found | norm(f"{ours}/norm2", f"{theirs}.layernorm_after")


def central_offsets(window):
    """Rows for the offsets inside a window, from a table that may be for a larger one."""
    span = 2 * window - 1

    def convert(table):
        num_offsets, num_heads = table.shape
        side = math.isqrt(num_offsets)
        edge = (side - span) // 2
        if edge <= 0:
            return as_is(table)
        table = table.reshape(side, side, num_heads)[edge:-edge, edge:-edge]
        return table.reshape(span**2, num_heads)

    return convert


SWIN = Architecture(
    names=("swin",),
    backbone=Swin,
    read_config=read_config,
    sources=sources,
    prefixes=("swin.",),
    ignored=(
        r".*\.relative_position_index",
        r"(swin\.)?embeddings\.mask_token",
        r"pooler\..*",
        r"classifier\..*",
        r"decoder\..*",
    ),
    read_preprocess=read_preprocess,
)

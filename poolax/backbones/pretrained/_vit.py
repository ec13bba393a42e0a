"""Vision Transformers in Hugging Face layout: names by family, and readers of their configurations."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from poolax.backbones._images import ImagePreprocess
from poolax.backbones._vit import ViT, ViTConfig
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    Sources,
    check_fields,
    dense,
    first,
    heads_in,
    heads_out,
    joint_dense,
    norm,
    read_count,
    read_field,
    read_json_object,
)


@dataclasses.dataclass(frozen=True)
class ViTNames:
    """What a family calls its tensors, ``{}`` for the number of a block.

    Names on disk come first, then those that the library has in memory, where they differ.

    Attributes:
        patch: Projection of patches.
        position: Table of positions.
        query: Projection to queries; ``key`` and ``value`` have the word in its place.
        out: Output projection of the attention.
        norms: The two norms of a block.
        hidden: First feed-forward layer.
        ffn_out: Second one.
        gates: Gate and first layer of a gated one.
        joint_gates: Both side by side.
        gated_out: Second layer of a gated one.
        scales: The two layer scales of a block.
        norm: Norm behind the blocks.
    """

    patch: tuple[str, ...] = ("embeddings.patch_embeddings.projection",)
    position: tuple[str, ...] = ("embeddings.position_embeddings",)
    query: tuple[str, ...] = ()
    out: tuple[str, ...] = ()
    norms: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    hidden: tuple[str, ...] = ()
    ffn_out: tuple[str, ...] = ()
    gates: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    joint_gates: str = ""
    gated_out: tuple[str, ...] = ()
    scales: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    norm: tuple[str, ...] = ("layernorm",)


_BLOCK, _MEMORY = "encoder.layer.{}", "layers.{}"
_VIT = ViTNames(
    query=(f"{_BLOCK}.attention.attention.query", f"{_MEMORY}.attention.q_proj"),
    out=(f"{_BLOCK}.attention.output.dense", f"{_MEMORY}.attention.o_proj"),
    norms=(
        (f"{_BLOCK}.layernorm_before", f"{_MEMORY}.layernorm_before"),
        (f"{_BLOCK}.layernorm_after", f"{_MEMORY}.layernorm_after"),
    ),
    hidden=(f"{_BLOCK}.intermediate.dense", f"{_MEMORY}.mlp.fc1"),
    ffn_out=(f"{_BLOCK}.output.dense", f"{_MEMORY}.mlp.fc2"),
)
_DINOV2 = ViTNames(
    query=(f"{_BLOCK}.attention.attention.query", f"{_BLOCK}.attention.q_proj"),
    out=(f"{_BLOCK}.attention.output.dense", f"{_BLOCK}.attention.o_proj"),
    norms=((f"{_BLOCK}.norm1",), (f"{_BLOCK}.norm2",)),
    hidden=(f"{_BLOCK}.mlp.fc1",),
    ffn_out=(f"{_BLOCK}.mlp.fc2",),
    gates=((f"{_BLOCK}.mlp.gate_proj",), (f"{_BLOCK}.mlp.up_proj",)),
    joint_gates=f"{_BLOCK}.mlp.weights_in",
    gated_out=(f"{_BLOCK}.mlp.weights_out", f"{_BLOCK}.mlp.down_proj"),
    scales=((f"{_BLOCK}.layer_scale1.lambda1",), (f"{_BLOCK}.layer_scale2.lambda1",)),
)


def sources_by(names: ViTNames) -> Callable[[ViTConfig], Sources]:
    """Every parameter's tensor, for a configuration of a family with these names."""

    def sources(config):
        found = dense("embeddings/patch", *names.patch)
        found["embeddings/patch/kernel"] = Source(
            tuple(f"{name}.weight" for name in names.patch), patch_kernel
        )
        found["embeddings/cls_token"] = Source(("embeddings.cls_token",), first)
        found["embeddings/position"] = Source(names.position, first)
        for index in range(config.num_layers):
            found |= _block_sources(config, names, index)
        return found | norm("encoder/norm", *names.norm)

    return sources


def _block_sources(config, names, index):
    def called(templates):
        return [template.format(index) for template in templates]

    ours, heads = f"encoder/block_{index}", {"num_heads": config.num_heads}
    found = {}
    for part in ("query", "key", "value"):
        theirs = [_in_place_of_query(name, part) for name in called(names.query)]
        found |= heads_in(f"{ours}/attention/{part}", *theirs, bias=config.use_qkv_bias, **heads)
    found |= heads_out(f"{ours}/attention/out", *called(names.out), **heads)
    if config.use_gate:
        for number, part in enumerate(("gate", "hidden")):
            found |= joint_dense(
                f"{ours}/ffn/{part}",
                *called(names.gates[number]),
                joint=names.joint_gates.format(index),
                index=number,
                width=config.mlp_dim,
            )
        found |= dense(f"{ours}/ffn/out", *called(names.gated_out))
    else:
        found |= dense(f"{ours}/ffn/hidden", *called(names.hidden))
        found |= dense(f"{ours}/ffn/out", *called(names.ffn_out))
    for number in (1, 2):
        found |= norm(f"{ours}/norm{number}", *called(names.norms[number - 1]))
        if config.layer_scale is not None:
            found[f"{ours}/scale{number}"] = Source(tuple(called(names.scales[number - 1])))
    return found


def _in_place_of_query(name, part):
    return name.replace("q_proj", f"{part[0]}_proj").replace("query", part)


def patch_kernel(x):
    """From a convolution's (d, channels, row, column) to (row column channels, d)."""
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def square_side(raw, field):
    """Height and width of what has to be square: one number, or two equal ones."""
    size = read_field(raw, field)
    if isinstance(size, list) and size:
        check_fields({field: size}, {field: ([size[0]] * 2,)})
        size = size[0]
    return read_count({field: size}, field)


def _read_sizes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that all families name alike."""
    return {
        "image_size": square_side(raw, "image_size"),
        "patch_size": square_side(raw, "patch_size"),
        "num_channels": read_count(raw, "num_channels"),
        "width": read_count(raw, "hidden_size"),
        "num_layers": read_count(raw, "num_hidden_layers"),
        "num_heads": read_count(raw, "num_attention_heads"),
        "norm_eps": read_field(raw, "layer_norm_eps"),
        "activation": read_field(raw, "hidden_act"),
    }


def _read_vit(raw, shapes):
    del shapes
    return ViTConfig(
        **_read_sizes(raw),
        mlp_dim=read_count(raw, "intermediate_size"),
        use_qkv_bias=raw.get("qkv_bias", True),
    )


def _read_dinov2(raw, shapes):
    del shapes
    sizes = _read_sizes(raw)
    mlp_dim = int(sizes["width"] * read_field(raw, "mlp_ratio"))
    use_gate = raw.get("use_swiglu_ffn", False)
    if use_gate:
        # Two thirds of it, rounded up to a multiple of 8; the activation is fixed.
        mlp_dim = (int(mlp_dim * 2 / 3) + 7) // 8 * 8
        sizes["activation"] = "silu"
    return ViTConfig(
        **sizes,
        mlp_dim=mlp_dim,
        use_qkv_bias=raw.get("qkv_bias", True),
        use_gate=use_gate,
        layer_scale=raw.get("layerscale_value", 1.0),
    )


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


def _family(name, names, read_config, *prefixes) -> Architecture:
    prefixes = (f"{name}.", *prefixes)
    inside = "|".join(prefix.replace(".", r"\.") for prefix in prefixes)
    return Architecture(
        names=(name,),
        backbone=ViT,
        read_config=read_config,
        sources=sources_by(names),
        prefixes=prefixes,
        ignored=(
            r"pooler\..*",
            r"classifier\..*",
            r"decoder\..*",
            rf"({inside})?embeddings\.mask_token",
        ),
        read_preprocess=read_preprocess,
    )


VIT_FAMILIES = (
    _family("vit", _VIT, _read_vit),
    _family("dinov2", _DINOV2, _read_dinov2),
)

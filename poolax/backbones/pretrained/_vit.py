"""Vision Transformers in Hugging Face layout: names by family, and readers of their configurations."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from poolax.backbones._images import ImagePreprocess
from poolax.backbones._vit import ViT
from poolax.backbones._vit_config import ViTConfig
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    Sources,
    check_fields,
    dense,
    heads_in,
    heads_out,
    joint_dense,
    joint_heads,
    norm,
    read_count,
    read_field,
    read_json_object,
)
from poolax.pooling import QueryAttentionPool


@dataclasses.dataclass(frozen=True)
class ViTNames:
    """What a family calls its tensors, ``{}`` for the number of a block.

    Names on disk come first, then those that the library has in memory, where they differ.

    Attributes:
        query: Projection to queries; ``key`` and ``value`` have the word in its place.
        out: Output projection of the attention.
        norms: The two norms of a block.
        hidden: First feed-forward layer.
        ffn_out: Second one.
        patch: Projection of patches.
        cls_token: CLS token.
        registers: Further tokens in front.
        position: Table of positions.
        embedding_norm: Norm in front of the blocks.
        norm: Norm behind the blocks.
        gates: Gate and first layer of a gated feed-forward layer.
        joint_gates: Both side by side.
        gated_out: Second layer of a gated one.
        scales: The two layer scales of a block.
    """

    query: tuple[str, ...]
    out: tuple[str, ...]
    norms: tuple[tuple[str, ...], tuple[str, ...]]
    hidden: tuple[str, ...]
    ffn_out: tuple[str, ...]
    patch: tuple[str, ...] = ("embeddings.patch_embeddings.projection",)
    cls_token: str = "embeddings.cls_token"
    registers: str = "embeddings.register_tokens"
    position: str = "embeddings.position_embeddings"
    embedding_norm: str = ""
    norm: str = "layernorm"
    gates: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    joint_gates: str = ""
    gated_out: tuple[str, ...] = ()
    scales: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


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
_DEIT = dataclasses.replace(_VIT, registers="embeddings.distillation_token")
_BEIT = dataclasses.replace(
    _VIT,
    scales=(
        (f"{_BLOCK}.lambda_1", f"{_MEMORY}.lambda_1"),
        (f"{_BLOCK}.lambda_2", f"{_MEMORY}.lambda_2"),
    ),
)
_OFFSETS = "relative_position_bias.relative_position_bias_table"
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
_DINOV3_BLOCKS = ("layer.{}", "model.layer.{}")
_DINOV3 = ViTNames(
    patch=("embeddings.patch_embeddings",),
    query=tuple(f"{block}.attention.q_proj" for block in _DINOV3_BLOCKS),
    out=tuple(f"{block}.attention.o_proj" for block in _DINOV3_BLOCKS),
    norms=(
        tuple(f"{block}.norm1" for block in _DINOV3_BLOCKS),
        tuple(f"{block}.norm2" for block in _DINOV3_BLOCKS),
    ),
    hidden=tuple(f"{block}.mlp.up_proj" for block in _DINOV3_BLOCKS),
    ffn_out=tuple(f"{block}.mlp.down_proj" for block in _DINOV3_BLOCKS),
    gates=(
        tuple(f"{block}.mlp.gate_proj" for block in _DINOV3_BLOCKS),
        tuple(f"{block}.mlp.up_proj" for block in _DINOV3_BLOCKS),
    ),
    gated_out=tuple(f"{block}.mlp.down_proj" for block in _DINOV3_BLOCKS),
    scales=(
        tuple(f"{block}.layer_scale1.lambda1" for block in _DINOV3_BLOCKS),
        tuple(f"{block}.layer_scale2.lambda1" for block in _DINOV3_BLOCKS),
    ),
    norm="norm",
)
_TOWER_BLOCK = "encoder.layers.{}"
_TOWER = ViTNames(
    patch=("embeddings.patch_embedding",),
    cls_token="embeddings.class_embedding",
    position="embeddings.position_embedding.weight",
    query=(f"{_TOWER_BLOCK}.self_attn.q_proj",),
    out=(f"{_TOWER_BLOCK}.self_attn.out_proj",),
    norms=((f"{_TOWER_BLOCK}.layer_norm1",), (f"{_TOWER_BLOCK}.layer_norm2",)),
    hidden=(f"{_TOWER_BLOCK}.mlp.fc1",),
    ffn_out=(f"{_TOWER_BLOCK}.mlp.fc2",),
    embedding_norm="pre_layrnorm",
    norm="post_layernorm",
)


def sources_by(names: ViTNames) -> Callable[[ViTConfig], Sources]:
    """Every parameter's tensor, for a configuration of a family with these names."""

    def sources(config):
        found = dense("embeddings/patch", *names.patch, bias=config.use_patch_bias)
        found["embeddings/patch/kernel"] = Source(
            tuple(f"{name}.weight" for name in names.patch), patch_kernel
        )
        if config.use_cls_token:
            found["embeddings/cls_token"] = Source((names.cls_token,), table_rows)
        if config.num_registers:
            found["embeddings/registers"] = Source((names.registers,), table_rows)
        if config.use_positions:
            found["embeddings/position"] = Source((names.position,), table_rows)
        if config.use_embedding_norm:
            found |= norm("embeddings/norm", names.embedding_norm)
        for index in range(config.num_layers):
            found |= _block_sources(config, names, index)
        return found | (norm("encoder/norm", names.norm) if config.use_final_norm else {})

    return sources


def _block_sources(config, names, index):
    def called(templates):
        return [template.format(index) for template in templates]

    ours, heads = f"encoder/block_{index}", {"num_heads": config.num_heads}
    found, biased = {}, config.use_qkv_bias
    for part in ("query", "key", "value"):
        theirs = [_in_place_of_query(name, part) for name in called(names.query)]
        bias = biased if isinstance(biased, bool) else part in biased
        found |= heads_in(f"{ours}/attention/{part}", *theirs, bias=bias, **heads)
    out = called(names.out)
    found |= heads_out(f"{ours}/attention/out", *out, bias=config.use_out_bias, **heads)
    if config.use_gate and names.joint_gates:
        for number, part in enumerate(("gate", "hidden")):
            found |= joint_dense(
                f"{ours}/ffn/{part}",
                *called(names.gates[number]),
                joint=names.joint_gates.format(index),
                index=number,
                width=config.mlp_dim,
            )
        layers = {"out": names.gated_out}
    elif config.use_gate:
        layers = {"gate": names.gates[0], "hidden": names.gates[1], "out": names.gated_out}
    else:
        layers = {"hidden": names.hidden, "out": names.ffn_out}
    for part, templates in layers.items():
        found |= dense(f"{ours}/ffn/{part}", *called(templates), bias=config.use_mlp_bias)
    for number in (1, 2):
        found |= norm(f"{ours}/norm{number}", *called(names.norms[number - 1]))
        if config.layer_scale is not None:
            found[f"{ours}/scale{number}"] = Source(tuple(called(names.scales[number - 1])))
    return found


def _in_place_of_query(name, part):
    return name.replace("q_proj", f"{part[0]}_proj").replace("query", part)


def patch_kernel(x):
    """From a convolution's (d, channels, row, column), or (d, row column channels), to (…, d)."""
    return x.T if x.ndim == 2 else x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def table_rows(x):
    """From (d,), (n, d) or (1, n, d) to (n, d)."""
    return x.reshape(-1, x.shape[-1])


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


def _read_vit(raw, **switches):
    return ViTConfig(
        **_read_sizes(raw),
        mlp_dim=read_count(raw, "intermediate_size"),
        **{"use_qkv_bias": raw.get("qkv_bias", True), **switches},
    )


def _read_deit(raw):
    return _read_vit(raw, num_registers=1, num_prefix_positions=2)


def _read_beit(raw):
    layer_scale = raw.get("layer_scale_init_value", 0.1)
    return _read_vit(
        raw,
        use_qkv_bias=("query", "value"),
        use_positions=raw.get("use_absolute_position_embeddings", False),
        use_relative_bias=raw.get("use_relative_position_bias", False),
        use_shared_relative_bias=raw.get("use_shared_relative_position_bias", False),
        layer_scale=layer_scale if layer_scale > 0 else None,
        # Means over patches are normalised instead, by the head.
        use_final_norm=not raw.get("use_mean_pooling", True),
    )


def _beit_sources(config):
    found = sources_by(_BEIT)(config)
    tables = {}
    if config.use_relative_bias:
        for index in range(config.num_layers):
            disk = f"{_BLOCK.format(index)}.attention.attention.{_OFFSETS}"
            tables[f"block_{index}"] = (disk, f"{_MEMORY.format(index)}.{_OFFSETS}")
    if config.use_shared_relative_bias:
        memory = "shared_position_bias.relative_position_bias_table"
        tables["shared"] = (f"encoder.{_OFFSETS}", memory)
    return found | {f"encoder/relative_bias/{name}": Source(names) for name, names in tables.items()}


def _read_dinov2(raw):
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


def _read_dinov2_with_registers(raw):
    return dataclasses.replace(
        _read_dinov2(raw),
        num_registers=read_count(raw, "num_register_tokens"),
        interpolation="bicubic-antialias",
    )


def _read_dinov3(raw):
    parts = {"query": True, "key": False, "value": True}
    biased = tuple(part for part, usual in parts.items() if raw.get(f"{part}_bias", usual))
    return _read_vit(
        raw,
        use_qkv_bias=len(biased) == len(parts) or biased,
        use_out_bias=raw.get("proj_bias", True),
        use_mlp_bias=raw.get("mlp_bias", True),
        use_gate=raw.get("use_gated_mlp", False),
        layer_scale=raw.get("layerscale_value", 1.0),
        num_registers=raw.get("num_register_tokens", 0),
        use_positions=False,
        rotary_theta=float(raw.get("rope_theta", 100.0)),
    )


# What is left out of the towers of whole models is as the library has it.
_TOWER_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
_CLIP_DEFAULTS = {
    **_TOWER_DEFAULTS,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def _tower(raw, defaults):
    """Fields of the vision tower, alone or of a whole model."""
    whole = "vision_config" in raw or "vision_config_dict" in raw
    given = {**(raw.get("vision_config") or {}), **(raw.get("vision_config_dict") or {})}
    return {**defaults, **(given if whole else raw)}


_SIGLIP_DEFAULTS = {
    **_TOWER_DEFAULTS,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
    "num_patches": 256,
}


def _read_siglip(raw, **switches):
    return _read_vit(_tower(raw, _SIGLIP_DEFAULTS), use_cls_token=False, **switches)


def _read_siglip2(raw):
    tower = _tower(raw, _SIGLIP_DEFAULTS)
    side = math.isqrt(read_count(tower, "num_patches")) * square_side(tower, "patch_size")
    return _read_siglip({**tower, "image_size": side}, interpolation="bilinear-antialias")


def _read_siglip_head(raw, config):
    if not _tower(raw, _SIGLIP_DEFAULTS)["vision_use_head"]:
        return None
    pooler = QueryAttentionPool(
        num_heads=config.num_heads,
        full=True,
        mlp_dim=config.mlp_dim,
        activation=config.activation,
        norm_eps=config.norm_eps,
    )
    ours, theirs = "pooler/head", "head.attention"
    found = {f"{ours}/probe": Source(("head.probe",), lambda x: x.reshape(-1))}
    found |= joint_heads(f"{ours}", f"{theirs}.in_proj", num_heads=config.num_heads, joined_by="_")
    # A bias of the keys adds the same to all logits.
    del found[f"{ours}/key/bias"]
    found |= heads_out(f"{ours}/out", f"{theirs}.out_proj", num_heads=config.num_heads)
    found |= norm(f"{ours}/norm", "head.layernorm")
    found |= dense(f"{ours}/mlp_in", "head.mlp.fc1")
    return pooler, found | dense(f"{ours}/mlp_out", "head.mlp.fc2")


def _read_clip(raw):
    return _read_vit(
        _tower(raw, _CLIP_DEFAULTS),
        use_patch_bias=False,
        use_embedding_norm=True,
        use_final_norm=False,
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


# Heads, and what only pretraining has.
_HEADS = (
    r"pooler\..*",
    r"classifier\..*",
    r"decoder\..*",
    r"(\w+\.)?embeddings\.(mask_token|position_ids)",
)
# Whole models hold a text tower as well.
_TEXT_TOWER = (r"(visual|text)_projection\..*", r"text_model\..*", r"logit_(scale|bias)")


def _family(name, names, read_config, *, prefix=None, more=(), ignored=()) -> Architecture:
    return Architecture(
        names=(name, *more),
        backbone=ViT,
        read_config=lambda raw, shapes: read_config(raw),
        sources=sources_by(names),
        prefixes=(prefix or f"{name}.",),
        ignored=(*_HEADS, *ignored),
        read_preprocess=read_preprocess,
    )


VIT_FAMILIES = (
    _family("vit", _VIT, _read_vit),
    _family("deit", _DEIT, _read_deit),
    _family("vit_mae", _VIT, _read_vit, prefix="vit."),
    _family("vit_msn", _VIT, _read_vit, prefix="vit."),
    dataclasses.replace(
        _family(
            "beit",
            _BEIT,
            _read_beit,
            ignored=(
                r".*relative_position_index",
                r"(layernorm|lm_head|decode_head|auxiliary_head|fpn\d)\..*",
            ),
        ),
        sources=_beit_sources,
    ),
    _family("dinov2", _DINOV2, _read_dinov2),
    _family("dinov2_with_registers", _DINOV2, _read_dinov2_with_registers),
    # Without registers there is a table of none.
    _family("dinov3_vit", _DINOV3, _read_dinov3, ignored=(r"embeddings\.register_tokens",)),
    _family(
        "clip_vision_model",
        _TOWER,
        _read_clip,
        more=("clip",),
        prefix="vision_model.",
        ignored=(r"(vision_model\.)?post_layernorm\..*", *_TEXT_TOWER),
    ),
    *(
        dataclasses.replace(
            _family(
                f"{name}_vision_model",
                _TOWER,
                read_config,
                more=(name,),
                prefix="vision_model.",
                ignored=(r"head\..*", *_TEXT_TOWER),
            ),
            read_pooler=_read_siglip_head,
        )
        for name, read_config in (("siglip", _read_siglip), ("siglip2", _read_siglip2))
    ),
)

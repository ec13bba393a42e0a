"""Vision Transformers in Hugging Face layout: readers of their configurations, and the families."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from poolax.backbones._vit import ViT
from poolax.backbones._vit_config import ViTConfig
from poolax.backbones.pretrained._image_settings import read_preprocess
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    has_tensor,
    norm,
    read_count,
    read_field,
)
from poolax.backbones.pretrained._vit_names import (
    BEIT,
    BLOCK,
    DEIT,
    DINOV2,
    DINOV3,
    MEMORY,
    TOWER,
    VIT,
    sources_by,
)
from poolax.backbones.pretrained._vit_towers import (
    CLIP_DEFAULTS,
    SIGLIP_DEFAULTS,
    read_clip_pooler,
    read_siglip_head,
    read_tower,
    tower_fields,
)
from poolax.pooling import AveragePool, NormPool, SkipPool


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


def _read_beit_pooler(raw, config, shapes):
    """The mean over the patches and its norm; a model for pretraining has none."""
    if not raw.get("use_mean_pooling", True):
        return None
    if not has_tensor(shapes, "pooler.layernorm.weight", ("beit.",)):
        return None
    pooler = NormPool(SkipPool(AveragePool(), config.num_prefix), config.norm_eps)
    return pooler, norm("pooler/norm", "pooler.layernorm")


_OFFSETS = "relative_position_bias.relative_position_bias_table"


def _beit_sources(config):
    found = sources_by(BEIT)(config)
    tables = {}
    if config.use_relative_bias:
        for index in range(config.num_layers):
            disk = f"{BLOCK.format(index)}.attention.attention.{_OFFSETS}"
            tables[f"block_{index}"] = (disk, f"{MEMORY.format(index)}.{_OFFSETS}")
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


def _read_siglip(raw, **switches):
    return _read_vit(tower_fields(raw, SIGLIP_DEFAULTS), use_cls_token=False, **switches)


def _read_siglip2(raw):
    tower = tower_fields(raw, SIGLIP_DEFAULTS)
    side = math.isqrt(read_count(tower, "num_patches")) * square_side(tower, "patch_size")
    return _read_siglip({**tower, "image_size": side}, interpolation="bilinear-antialias")


def _read_clip(raw):
    return _read_vit(
        tower_fields(raw, CLIP_DEFAULTS),
        use_patch_bias=False,
        use_embedding_norm=True,
        use_final_norm=False,
    )


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
    _family("vit", VIT, _read_vit),
    _family("deit", DEIT, _read_deit),
    _family("vit_mae", VIT, _read_vit, prefix="vit."),
    _family("vit_msn", VIT, _read_vit, prefix="vit."),
    dataclasses.replace(
        _family(
            "beit",
            BEIT,
            _read_beit,
            ignored=(
                r".*relative_position_index",
                r"(layernorm|lm_head|decode_head|auxiliary_head|fpn\d)\..*",
            ),
        ),
        sources=_beit_sources,
        read_pooler=_read_beit_pooler,
    ),
    _family("dinov2", DINOV2, _read_dinov2),
    _family("dinov2_with_registers", DINOV2, _read_dinov2_with_registers),
    # Without registers there is a table of none.
    _family("dinov3_vit", DINOV3, _read_dinov3, ignored=(r"embeddings\.register_tokens",)),
    dataclasses.replace(
        _family(
            "clip_vision_model",
            TOWER,
            _read_clip,
            more=("clip",),
            prefix="vision_model.",
            ignored=_TEXT_TOWER,
        ),
        read_pooler=read_clip_pooler,
        read_tower=read_tower,
    ),
    *(
        dataclasses.replace(
            _family(
                f"{name}_vision_model",
                TOWER,
                read_config,
                more=(name,),
                prefix="vision_model.",
                ignored=(r"head\..*", *_TEXT_TOWER),
            ),
            read_pooler=read_siglip_head,
            in_part=(r"head\.attention\.in_proj_bias$",),
            read_tower=read_tower,
        )
        for name, read_config in (("siglip", _read_siglip), ("siglip2", _read_siglip2))
    ),
)

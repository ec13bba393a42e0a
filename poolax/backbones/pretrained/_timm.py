"""timm's state dicts of Vision Transformers."""

import math
import re

from poolax.backbones._geometry import ImageGeometry
from poolax.backbones._images import ImagePreprocess
from poolax.backbones._vit import ViT
from poolax.backbones._vit_config import ViTConfig
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    first,
    fused_dense,
    has_tensor,
    heads_in,
    heads_out,
    joint_heads,
    norm,
    paired_heads,
    within,
)
from poolax.backbones.pretrained._vit_names import patch_kernel
from poolax.pooling import AveragePool, FirstPool, MaxPool, NormPool, QueryAttentionPool, SkipPool

PREFIXES = ("model.",)

# What is cut out of an edge where a configuration does not say it.
_USUAL_CROP = 0.875

# What a name's model may be told otherwise, and shapes of tensors or heads show.
_TIMM_ARGUMENTS = {
    *("depth", "embed_dim", "img_size", "in_chans", "num_classes", "num_heads", "patch_size"),
}

# Published sizes of timm's models by width; their state dicts do not say how many heads there are.
TIMM_HEADS = {192: 3, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16}
TIMM_HEADS |= {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}
_GATED_HEADS = {1536: 24}

# What names say of activations; all others are exact GELU.
_ACTIVATIONS = {
    r".*_quickgelu_.*": "quick_gelu",
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip_.*": "gelu_pytorch_tanh",
    r"vit_large_patch16_siglip_(gap_)?512": "gelu_pytorch_tanh",
}


def read_timm_config(raw, shapes):
    """From a timm model's name and the shapes of its tensors."""
    prefix = timm_prefix(shapes)

    def shape(name):
        if prefix + name not in shapes:
            raise ValueError(f"tensors: expected all of a timm ViT, got no {prefix + name}")
        return shapes[prefix + name]

    def has(name):
        return prefix + name in shapes

    width, channels, patch_size, _ = shape("patch_embed.proj.weight")
    blocks = {match[1] for name in shapes if (match := re.match(r".*\bblocks\.(\d+)\.", name))}
    overrides = check_overrides(raw)
    num_registers = shape("reg_token")[1] if has("reg_token") else int(has("dist_token"))
    num_prefix = has("cls_token") + num_registers
    side, num_positioned = grid_of_positions(raw, shape("pos_embed"), num_prefix, patch_size)
    mlp_dim = shape("blocks.0.mlp.fc2.weight")[1]
    # Gate and first layer stand side by side.
    use_gate = shape("blocks.0.mlp.fc1.weight")[0] == 2 * mlp_dim
    usual = _GATED_HEADS if use_gate and width in _GATED_HEADS else TIMM_HEADS
    num_heads = heads_of(raw, overrides, usual, width)
    has_norm_in_front = has("norm_pre.weight")
    return ViTConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        num_channels=channels,
        width=width,
        num_layers=len(blocks),
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        norm_eps=1e-5 if has_norm_in_front else 1e-6,
        use_qkv_bias=has("blocks.0.attn.qkv.bias"),
        activation="silu" if use_gate else _activation(raw),
        interpolation="bicubic-antialias",
        layer_scale=1e-5 if has("blocks.0.ls1.gamma") else None,
        use_gate=use_gate,
        use_cls_token=has("cls_token"),
        num_registers=num_registers,
        num_prefix_positions=None if num_positioned == has("cls_token") else num_positioned,
        use_patch_bias=has("patch_embed.proj.bias"),
        use_embedding_norm=has_norm_in_front,
        # Otherwise means over patches are normalised, by fc_norm.
        use_final_norm=has("norm.weight"),
    )


def check_overrides(raw):
    """What the configuration has the model be told otherwise; refuse what no tensor shows."""
    overrides = raw.get("model_args") or {}
    unknown = sorted(set(overrides) - _TIMM_ARGUMENTS)
    if unknown:
        raise ValueError(
            f"config: expected model_args of {', '.join(sorted(_TIMM_ARGUMENTS))} alone, got "
            f"{', '.join(unknown)}"
        )
    return overrides


def heads_of(raw, overrides, usual, width):
    """Number of heads: as told, or else the usual one for a width."""
    num_heads = overrides.get("num_heads", raw.get("num_heads", usual.get(width)))
    if num_heads is None:
        raise ValueError(
            f"config: expected num_heads, which is not known for a timm ViT of width {width}, got none"
        )
    return num_heads


def _activation(raw):
    name = str(raw.get("architecture", ""))
    found = (act for pattern, act in _ACTIVATIONS.items() if re.fullmatch(pattern, name))
    return next(found, "gelu")


def grid_of_positions(raw, shape, num_prefix, patch_size):
    """Side of the square of patches that have positions, and how many tokens in front have one."""
    rows = shape[-2]
    sides = {
        count: math.isqrt(rows - count)
        for count in (num_prefix, 0)
        if rows > count and math.isqrt(rows - count) ** 2 == rows - count
    }
    if len(sides) > 1:
        size = (raw.get("pretrained_cfg") or {}).get("input_size") or (0, 0, 0)
        sides = {count: side for count, side in sides.items() if side == size[-1] // patch_size}
    if len(sides) != 1:
        raise ValueError(
            "tensors: expected a timm ViT with positions of a square of patches, those in front with "
            f"{num_prefix} or none, got pos_embed {shape}"
        )
    ((count, side),) = sides.items()
    return side, count


def timm_prefix(shapes):
    """What stands in front of all names."""
    return "model." if "model.patch_embed.proj.weight" in shapes else ""


def timm_sources(config):
    """Every parameter's tensor."""
    found = dense("embeddings/patch", "patch_embed.proj", bias=config.use_patch_bias)
    found["embeddings/patch/kernel"] = Source(("patch_embed.proj.weight",), patch_kernel)
    if config.use_positions:
        found["embeddings/position"] = Source(("pos_embed",), first)
    if config.use_cls_token:
        found["embeddings/cls_token"] = Source(("cls_token",), first)
    if config.num_registers:
        found["embeddings/registers"] = Source(("reg_token", "dist_token"), first)
    if config.use_embedding_norm:
        found |= norm("embeddings/norm", "norm_pre")
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"blocks.{index}"
        heads = {"num_heads": config.num_heads}
        found |= joint_heads(
            f"{ours}/attention", f"{theirs}.attn.qkv", bias=config.use_qkv_bias is True, **heads
        )
        found |= heads_out(f"{ours}/attention/out", f"{theirs}.attn.proj", **heads)
        if config.use_gate:
            paths = (f"{ours}/ffn/gate", f"{ours}/ffn/hidden")
            found |= fused_dense(paths, f"{theirs}.mlp.fc1", width=config.mlp_dim)
        else:
            found |= dense(f"{ours}/ffn/hidden", f"{theirs}.mlp.fc1")
        found |= dense(f"{ours}/ffn/out", f"{theirs}.mlp.fc2")
        for number in (1, 2):
            found |= norm(f"{ours}/norm{number}", f"{theirs}.norm{number}")
            if config.layer_scale is not None:
                scales = (f"{theirs}.ls{number}.gamma", f"{theirs}.gamma_{number}")
                found[f"{ours}/scale{number}"] = Source(scales)
    return found | (norm("encoder/norm", "norm") if config.use_final_norm else {})


def read_timm_pooler(raw, config, shapes):
    """What stands between states and classes: the pooling of the configuration, and ``fc_norm``.

    Where there is no configuration, the tensors of a pooling say which it is. ``None`` for one that is
    not known here, and for the two tokens of a distilled model.
    """
    has_norm = has_tensor(shapes, "fc_norm.weight", PREFIXES)
    told = "avg" if has_norm else None
    told = "map" if has_tensor(shapes, "attn_pool.latent", PREFIXES) else told
    name = raw.get("global_pool", told)
    is_distilled = has_tensor(shapes, "dist_token", PREFIXES)
    if name not in ("token", "avg", "max", "map") or is_distilled:
        return None
    pooler, found = _attention_pool(config) if name == "map" else (_POOLERS[name], {})
    if name in ("avg", "max") and config.num_prefix:
        pooler = SkipPool(pooler, config.num_prefix)
    if not has_norm:
        return pooler, found
    return NormPool(pooler, config.norm_eps), within(found) | norm("pooler/norm", "fc_norm")


_POOLERS = {"token": FirstPool(), "avg": AveragePool(), "max": MaxPool()}


def _attention_pool(config):
    pooler = QueryAttentionPool(
        num_heads=config.num_heads,
        full=True,
        mlp_dim=config.mlp_dim,
        activation=config.activation,
        norm_eps=config.norm_eps,
    )
    ours, heads = "pooler/head", {"num_heads": config.num_heads}
    found = {f"{ours}/probe": Source(("attn_pool.latent",), lambda x: x.reshape(-1))}
    found |= heads_in(f"{ours}/query", "attn_pool.q", **heads)
    found |= paired_heads((f"{ours}/key", f"{ours}/value"), "attn_pool.kv", **heads)
    # A bias of the keys adds the same to all logits.
    del found[f"{ours}/key/bias"]
    found |= heads_out(f"{ours}/out", "attn_pool.proj", **heads)
    found |= norm(f"{ours}/norm", "attn_pool.norm") | dense(f"{ours}/mlp_in", "attn_pool.mlp.fc1")
    return pooler, found | dense(f"{ours}/mlp_out", "attn_pool.mlp.fc2")


def read_timm_preprocess(directory, raw, config):
    """From the ``pretrained_cfg`` of a timm configuration; pixel values to -1..1 if there is none."""
    del directory, config
    fields = raw.get("pretrained_cfg") or {}
    mean, std = fields.get("mean", [0.5] * 3), fields.get("std", [0.5] * 3)
    return ImagePreprocess(mean=tuple(mean), std=tuple(std), geometry=_geometry(fields))


def _geometry(fields) -> ImageGeometry | None:
    """The shorter edge, or both, to a little more than the size that is then cut out."""
    if not fields.get("input_size"):
        return None
    check_fields(fields, {"crop_mode": ("center", "squash")})
    _, height, width = fields["input_size"]
    share = fields.get("crop_pct") or _USUAL_CROP
    edges = math.floor(height / share), math.floor(width / share)
    by_shorter = height == width and fields.get("crop_mode", "center") == "center"
    return ImageGeometry(
        resize=edges[0] if by_shorter else edges,
        crop=(height, width),
        resample=fields.get("interpolation") or "bicubic",
        rounds_to_even=True,
    )


def _is_timm_vit(raw, shapes):
    named = str(raw.get("architecture", "")).startswith("vit_")
    return named or (
        any(name.endswith("blocks.0.attn.qkv.weight") for name in shapes)
        and any(name.removeprefix("model.") == "pos_embed" for name in shapes)
    )


TIMM_VIT = Architecture(
    names=("timm_vit",),
    backbone=ViT,
    read_config=read_timm_config,
    sources=timm_sources,
    prefixes=PREFIXES,
    ignored=(r"head(_dist)?\..*", r"fc_norm\..*", r"pre_logits\..*", r"attn_pool\..*"),
    read_preprocess=read_timm_preprocess,
    read_pooler=read_timm_pooler,
    in_part=(r"attn_pool\.kv\.bias$",),
    recognizes=_is_timm_vit,
    tested="its Hugging Face form",
)

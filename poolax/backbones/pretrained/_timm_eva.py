"""timm's state dicts of EVA, EVA-02 and DINOv3, which are one class there."""

import dataclasses
import re
from typing import Any

from poolax.backbones._vit_config import ViTConfig
from poolax.backbones.pretrained._sources import Source, dense, heads_out, joint_dense, norm
from poolax.backbones.pretrained._timm import (
    PREFIXES,
    TIMM_HEADS,
    TIMM_VIT,
    check_overrides,
    grid_of_positions,
    heads_of,
    timm_prefix,
)
from poolax.backbones.pretrained._vit_names import patch_kernel, table_rows


@dataclasses.dataclass(frozen=True)
class _Positions:
    """How the positions of a kind of models turn, which no tensor says.

    Attributes:
        theta: Base of rotary positions; ``None`` for none.
        grid: As in :class:`ViTConfig`.
        in_pairs: Whether features that turn together stand side by side, instead of half a head apart.
        norm_eps: What their norms add to the variance.
    """

    theta: float | None
    grid: int | None
    in_pairs: bool
    norm_eps: float


_EVA02 = _Positions(theta=1e4, grid=16, in_pairs=True, norm_eps=1e-6)
# By the names of models, without their tags.
_KINDS = {
    r"vit_\w+_patch16_dinov3(_qkvb)?": _Positions(100.0, None, in_pairs=False, norm_eps=1e-5),
    r"eva02_(tiny|small|base|large)_\w+": _EVA02,
    r"vit_\w+_patch16_rope_reg\d_gap_256": _EVA02,
    r"eva_giant_\w+": _Positions(None, None, in_pairs=False, norm_eps=1e-6),
}
_KNOWN = "vit_*_dinov3, eva02_tiny to eva02_large, vit_*_rope_reg*_gap_256 or eva_giant"
_HEADS_OF_DINOV3 = {1280: 20, 4096: 32}
# Patches a side where neither positions nor the configuration say so.
_USUAL_GRID = 16


def read_eva_config(raw, shapes):
    """From a model's name, which says how positions turn, and the shapes of its tensors."""
    positions, prefix = _positions_of(raw), timm_prefix(shapes)

    def shape(name):
        if prefix + name not in shapes:
            raise ValueError(f"tensors: expected all of a timm EVA, got no {prefix + name}")
        return shapes[prefix + name]

    def has(name):
        return prefix + name in shapes

    width, channels, patch_size, _ = shape("patch_embed.proj.weight")
    blocks = {match[1] for name in shapes if (match := re.match(r".*\bblocks\.(\d+)\.", name))}
    mlp_dim = shape("blocks.0.mlp.fc2.weight")[1]
    num_registers = shape("reg_token")[1] if has("reg_token") else 0
    usual = TIMM_HEADS if positions.in_pairs else TIMM_HEADS | _HEADS_OF_DINOV3
    side, num_positioned = _USUAL_GRID, None
    size = (raw.get("pretrained_cfg") or {}).get("input_size")
    if has("pos_embed"):
        num_prefix = has("cls_token") + num_registers
        side, count = grid_of_positions(raw, shape("pos_embed"), num_prefix, patch_size)
        num_positioned = None if count == has("cls_token") else count
    elif size:
        side = size[-1] // patch_size
    use_gate = has("blocks.0.mlp.fc1_g.weight") or shape("blocks.0.mlp.fc1.weight")[0] == 2 * mlp_dim
    biased = has("blocks.0.attn.q_bias") or has("blocks.0.attn.q_proj.bias")
    return ViTConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        num_channels=channels,
        width=width,
        num_layers=len(blocks),
        num_heads=heads_of(raw, check_overrides(raw), usual, width),
        mlp_dim=mlp_dim,
        norm_eps=positions.norm_eps,
        use_qkv_bias=("query", "value") if biased else False,
        activation="silu" if use_gate else "gelu",
        interpolation="bicubic-antialias",
        layer_scale=1e-5 if has("blocks.0.gamma_1") else None,
        use_gate=use_gate,
        use_cls_token=has("cls_token"),
        num_registers=num_registers,
        use_positions=has("pos_embed"),
        num_prefix_positions=num_positioned,
        use_final_norm=has("norm.weight"),
        rotary_theta=positions.theta,
        rotary_grid=positions.grid,
        use_attention_norm=has("blocks.0.attn.norm.weight"),
        use_mlp_norm=has("blocks.0.mlp.norm.weight"),
    )


def _name_of(raw) -> str:
    return str(raw.get("architecture") or "").split(".")[0]


def _positions_of(raw) -> _Positions:
    name = _name_of(raw)
    found = next((kind for pattern, kind in _KINDS.items() if re.fullmatch(pattern, name)), None)
    if found is None:
        raise ValueError(
            f"config: expected architecture to be {_KNOWN}, whose positions are known, got {name!r}"
        )
    return found


def eva_sources(config):
    """Every parameter's tensor."""
    found = dense("embeddings/patch", "patch_embed.proj")
    found["embeddings/patch/kernel"] = Source(("patch_embed.proj.weight",), patch_kernel)
    tables = {"cls_token": config.use_cls_token, "registers": config.num_registers}
    names = {"cls_token": "cls_token", "registers": "reg_token", "position": "pos_embed"}
    for ours, is_there in (tables | {"position": config.use_positions}).items():
        if is_there:
            found[f"embeddings/{ours}"] = Source((names[ours],), table_rows)
    for index in range(config.num_layers):
        found |= _block_sources(config, f"encoder/block_{index}", f"blocks.{index}")
    return found | (norm("encoder/norm", "norm") if config.use_final_norm else {})


def _block_sources(config, ours, theirs):
    # Where positions are counted, features that turn together stand side by side.
    in_pairs = config.rotary_grid is not None
    found = {}
    for number, part in enumerate(("query", "key", "value")):
        kernel, vector = _heads(number, config, in_pairs=in_pairs and part != "value")
        names = (f"{theirs}.attn.qkv.weight", f"{theirs}.attn.{part[0]}_proj.weight")
        found[f"{ours}/attention/{part}/kernel"] = Source(names, kernel)
        if config.use_qkv_bias and part != "key":
            names = (f"{theirs}.attn.{part[0]}_bias", f"{theirs}.attn.{part[0]}_proj.bias")
            found[f"{ours}/attention/{part}/bias"] = Source(names, vector)
    found |= heads_out(f"{ours}/attention/out", f"{theirs}.attn.proj", num_heads=config.num_heads)
    if config.use_gate:
        for number, (part, name) in enumerate((("gate", "fc1_g"), ("hidden", "fc1_x"))):
            found |= joint_dense(
                f"{ours}/ffn/{part}",
                f"{theirs}.mlp.{name}",
                joint=f"{theirs}.mlp.fc1",
                index=number,
                width=config.mlp_dim,
            )
    else:
        found |= dense(f"{ours}/ffn/hidden", f"{theirs}.mlp.fc1")
    found |= dense(f"{ours}/ffn/out", f"{theirs}.mlp.fc2")
    if config.use_attention_norm:
        found |= norm(f"{ours}/attention/inner_norm", f"{theirs}.attn.norm")
    if config.use_mlp_norm:
        found |= norm(f"{ours}/ffn/inner_norm", f"{theirs}.mlp.norm")
    for number in (1, 2):
        found |= norm(f"{ours}/norm{number}", f"{theirs}.norm{number}")
        if config.layer_scale is not None:
            found[f"{ours}/scale{number}"] = Source((f"{theirs}.gamma_{number}",))
    return found


def _heads(number, config, *, in_pairs):
    """Rows of one projection, alone or the ``number``-th of three, by head."""
    width, num_heads = config.width, config.num_heads

    def apart(x: Any) -> Any:
        if not in_pairs:
            return x
        return x.reshape(*x.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(x.shape)

    def rows(x):
        return x if len(x) == width else x[number * width : (number + 1) * width]

    def kernel(x):
        return apart(rows(x).T.reshape(x.shape[1], num_heads, -1))

    return kernel, lambda x: apart(x.reshape(num_heads, -1))


def _is_timm_eva(raw, shapes):
    if raw.get("architecture"):
        return re.match(r"eva|vit_\w*(dinov3|rope|pe_(core|lang|spatial))", _name_of(raw)) is not None
    names = [name.removeprefix(PREFIXES[0]) for name in shapes]
    return any(name in names for name in ("blocks.0.attn.q_bias", "blocks.0.attn.q_proj.weight")) or (
        "blocks.0.attn.qkv.weight" in names and "pos_embed" not in names
    )


TIMM_EVA = dataclasses.replace(
    TIMM_VIT,
    names=("timm_eva",),
    read_config=read_eva_config,
    sources=eva_sources,
    ignored=(*TIMM_VIT.ignored, r"rope\..*", r".*\.k_bias", r"mask_token", r"lm_head\..*"),
    recognizes=_is_timm_eva,
    # DINOv3 with its Hugging Face form as well.
    tested="a plain forward pass",
)

"""What families of Vision Transformers call their tensors, in Hugging Face layout."""

import dataclasses
from collections.abc import Callable

from poolax.backbones._vit_config import ViTConfig
from poolax.backbones.pretrained._sources import (
    Source,
    Sources,
    dense,
    heads_in,
    heads_out,
    joint_dense,
    norm,
)


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


BLOCK, MEMORY = "encoder.layer.{}", "layers.{}"
VIT = ViTNames(
    query=(f"{BLOCK}.attention.attention.query", f"{MEMORY}.attention.q_proj"),
    out=(f"{BLOCK}.attention.output.dense", f"{MEMORY}.attention.o_proj"),
    norms=(
        (f"{BLOCK}.layernorm_before", f"{MEMORY}.layernorm_before"),
        (f"{BLOCK}.layernorm_after", f"{MEMORY}.layernorm_after"),
    ),
    hidden=(f"{BLOCK}.intermediate.dense", f"{MEMORY}.mlp.fc1"),
    ffn_out=(f"{BLOCK}.output.dense", f"{MEMORY}.mlp.fc2"),
)
DEIT = dataclasses.replace(VIT, registers="embeddings.distillation_token")
BEIT = dataclasses.replace(
    VIT,
    scales=(
        (f"{BLOCK}.lambda_1", f"{MEMORY}.lambda_1"),
        (f"{BLOCK}.lambda_2", f"{MEMORY}.lambda_2"),
    ),
)
DINOV2 = ViTNames(
    query=(f"{BLOCK}.attention.attention.query", f"{BLOCK}.attention.q_proj"),
    out=(f"{BLOCK}.attention.output.dense", f"{BLOCK}.attention.o_proj"),
    norms=((f"{BLOCK}.norm1",), (f"{BLOCK}.norm2",)),
    hidden=(f"{BLOCK}.mlp.fc1",),
    ffn_out=(f"{BLOCK}.mlp.fc2",),
    gates=((f"{BLOCK}.mlp.gate_proj",), (f"{BLOCK}.mlp.up_proj",)),
    joint_gates=f"{BLOCK}.mlp.weights_in",
    gated_out=(f"{BLOCK}.mlp.weights_out", f"{BLOCK}.mlp.down_proj"),
    scales=((f"{BLOCK}.layer_scale1.lambda1",), (f"{BLOCK}.layer_scale2.lambda1",)),
)
_DINOV3_BLOCKS = ("layer.{}", "model.layer.{}")
DINOV3 = ViTNames(
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
TOWER = ViTNames(
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

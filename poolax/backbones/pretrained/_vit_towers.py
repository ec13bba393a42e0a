"""Vision towers of CLIP and SigLIP: their configurations in whole models, and their poolers."""

from poolax.backbones.pretrained._sources import Source, dense, heads_out, joint_heads, norm
from poolax.pooling import FirstPool, NormPool, QueryAttentionPool

# What is left out of the towers of whole models is as the library has it.
_TOWER_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
CLIP_DEFAULTS = {
    **_TOWER_DEFAULTS,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


SIGLIP_DEFAULTS = {
    **_TOWER_DEFAULTS,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
    "num_patches": 256,
}


def tower_fields(raw, defaults):
    """Fields of the vision tower, alone or of a whole model."""
    whole = "vision_config" in raw or "vision_config_dict" in raw
    given = {**(raw.get("vision_config") or {}), **(raw.get("vision_config_dict") or {})}
    return {**defaults, **(given if whole else raw)}


def read_tower(raw):
    """The configuration of the vision tower of a whole model, as the reference writes it."""
    if "vision_config" not in raw and "vision_config_dict" not in raw:
        return None
    name = raw["model_type"]
    dtype = {field: raw[field] for field in ("dtype", "torch_dtype") if field in raw}
    stem = "CLIP" if name == "clip" else name.capitalize()
    told = {"model_type": f"{name}_vision_model", "architectures": [f"{stem}VisionModel"]}
    return {**tower_fields(raw, {}), **dtype, **told}


def read_siglip_head(raw, config, shapes):
    """The head that pools by attention, where there is one."""
    del shapes
    if not tower_fields(raw, SIGLIP_DEFAULTS)["vision_use_head"]:
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


def read_clip_pooler(raw, config, shapes):
    """The norm behind the CLS token; what projects both towers to one space is another model's."""
    del raw, shapes
    return NormPool(FirstPool(), config.norm_eps), norm("pooler/norm", "post_layernorm")

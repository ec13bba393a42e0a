"""timm's state dicts against the same models in Hugging Face layout, which the reference computes."""

import json
import re

import jax
import numpy as np
import pytest
from parity import save, torch
from safetensors.numpy import save_file
from test_parity_vision import DINOV2, VIT, images, reference

from poolax import backbones


def timm_names(backbone):
    """A ViT's parameters in timm's names and layouts."""
    p = jax.tree.map(np.asarray, backbone.params)
    config, e = backbone.config, p["embeddings"]
    side, channels = config.patch_size, config.num_channels
    kernel = e["patch"]["kernel"].reshape(side, side, channels, config.width)
    flat = {"patch_embed.proj.weight": kernel.transpose(3, 2, 0, 1)}
    if "position" in e:
        flat["pos_embed"] = e["position"][None]
    if "bias" in e["patch"]:
        flat["patch_embed.proj.bias"] = e["patch"]["bias"]
    for ours, theirs in (("cls_token", "cls_token"), ("registers", "reg_token")):
        if ours in e:
            flat[theirs] = e[ours][None]

    def put_norm(name, norm):
        flat[f"{name}.weight"], flat[f"{name}.bias"] = norm["scale"], norm["bias"]

    def put_dense(name, *layers):
        flat[f"{name}.weight"] = np.concatenate([layer["kernel"].T for layer in layers])
        flat[f"{name}.bias"] = np.concatenate([layer["bias"] for layer in layers])

    def put_heads(name, *parts):
        flat[f"{name}.weight"] = np.concatenate(
            [part["kernel"].reshape(config.width, -1).T for part in parts]
        )
        # Keys of a pooling head have no bias here.
        zeros = np.zeros(config.width, np.float32)
        flat[f"{name}.bias"] = np.concatenate([part.get("bias", zeros).ravel() for part in parts])

    def put_out(name, part):
        flat[f"{name}.weight"] = part["kernel"].reshape(-1, config.width).T
        flat[f"{name}.bias"] = part["bias"]

    for index in range(config.num_layers):
        block, name = p["encoder"][f"block_{index}"], f"blocks.{index}"
        put_heads(f"{name}.attn.qkv", *(block["attention"][k] for k in ("query", "key", "value")))
        put_out(f"{name}.attn.proj", block["attention"]["out"])
        first = ("gate", "hidden") if config.use_gate else ("hidden",)
        put_dense(f"{name}.mlp.fc1", *(block["ffn"][part] for part in first))
        put_dense(f"{name}.mlp.fc2", block["ffn"]["out"])
        for number in (1, 2):
            put_norm(f"{name}.norm{number}", block[f"norm{number}"])
            if config.layer_scale is not None:
                flat[f"{name}.ls{number}.gamma"] = block[f"scale{number}"]
    if config.use_embedding_norm:
        put_norm("norm_pre", e["norm"])
    if config.use_final_norm:
        put_norm("norm", p["encoder"]["norm"])
    else:
        put_norm("fc_norm", p["pooler"]["norm"])
    if "head" in p.get("pooler", {}):
        head = p["pooler"]["head"]
        flat["attn_pool.latent"] = head["probe"][None, None]
        put_heads("attn_pool.q", head["query"])
        put_heads("attn_pool.kv", head["key"], head["value"])
        put_out("attn_pool.proj", head["out"])
        put_norm("attn_pool.norm", head["norm"])
        put_dense("attn_pool.mlp.fc1", head["mlp_in"])
        put_dense("attn_pool.mlp.fc2", head["mlp_out"])
    flat["head.weight"] = np.zeros((5, config.width), np.float32)
    # safetensors writes memory as it lies.
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in flat.items()}


def normed(x, tensors, eps):
    """What timm's ``fc_norm`` makes of pooled vectors, before the classes."""
    weight, bias = (torch.tensor(tensors[f"fc_norm.{part}"]) for part in ("weight", "bias"))
    return torch.nn.functional.layer_norm(torch.tensor(x), x.shape[-1:], weight, bias, eps).numpy()


CASES = {
    "vit": ("ViT", VIT | {"layer_norm_eps": 1e-6}, "vit_tiny_patch4_16", "token"),
    "distilled": ("DeiT", VIT | {"layer_norm_eps": 1e-6}, "vit_deit_patch4_16", "token"),
    "dinov2": ("Dinov2", DINOV2, "vit_small_patch4_dinov2", "token"),
    "dinov2-gate": ("Dinov2", DINOV2 | {"use_swiglu_ffn": True}, "vit_giant_patch4_dinov2", "token"),
    "registers": (
        "Dinov2WithRegisters",
        DINOV2 | {"num_register_tokens": 3},
        "vit_small_patch4_reg4_dinov2",
        "token",
    ),
    "clip-fc-norm": ("CLIPVision", VIT, "vit_base_patch4_clip_quickgelu_16", "avg"),
    "beit": (
        "Beit",
        VIT | {"use_relative_position_bias": True, "layer_norm_eps": 1e-6},
        "beit_base_patch4_16",
        "avg",
    ),
    "beit-shared": (
        "Beit",
        VIT
        | {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True}
        | {"use_mean_pooling": False, "layer_norm_eps": 1e-6},
        "beitv2_base_patch4_16",
        "token",
    ),
    "no-class-token": (
        "SiglipVision",
        VIT | {"hidden_act": "gelu"},
        "vit_base_patch4_siglip_16",
        "map",
    ),
    "no-class-token-tanh": ("SiglipVision", VIT, "vit_so400m_patch16_siglip_16", "map"),
}


@pytest.mark.parametrize(("name", "fields", "architecture", "pool"), CASES.values(), ids=CASES)
def test_state_dicts(name, fields, architecture, pool, tmp_path):
    backbone = backbones.load(save(reference(name, fields), tmp_path / "hub"))
    tensors = timm_names(backbone)
    if name == "DeiT":
        tensors["dist_token"] = tensors.pop("reg_token")
        tensors["head_dist.weight"] = tensors["head.weight"]
    if name == "Dinov2WithRegisters":
        # Positions of the patches alone: that of CLS is in the token already.
        tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:].copy()
    if name == "Beit":
        for key in [key for key in tensors if key.endswith("attn.qkv.bias")]:
            stem = key.removesuffix("qkv.bias")
            tensors[f"{stem}q_bias"], _, tensors[f"{stem}v_bias"] = np.split(tensors.pop(key), 3)
        renamed = {key: re.sub(r"ls(\d)\.gamma", r"gamma_\1", key) for key in tensors}
        tensors = {renamed[key]: tensor for key, tensor in tensors.items()}
        for key, table in backbone.params["encoder"]["relative_bias"].items():
            place = "rel_pos_bias" if key == "shared" else f"blocks.{key[-1]}.attn"
            tensors[f"{place}.relative_position_bias_table"] = np.asarray(table)
    config = {
        "architecture": architecture,
        "global_pool": pool,
        "model_args": {"num_heads": 4},
        "pretrained_cfg": {"mean": [0.1] * 3, "std": [2.0] * 3, "input_size": [3, 16, 16]},
    }
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    loaded = backbones.load(folder)
    assert loaded.preprocess.mean == (0.1, 0.1, 0.1)
    x = images(fields, (16, 16), count=1)
    np.testing.assert_allclose(loaded(x).states, backbone(x).states, atol=1e-5)
    states = np.asarray(backbone(x).states)
    expected = {
        "token": lambda: states[:, 0],
        "map": lambda: backbone.pool(backbone.params, backbone(x)),
    }
    expected["avg"] = lambda: normed(states[:, 1:].mean(1), tensors, backbone.config.norm_eps)
    if name == "DeiT":
        assert loaded.pooler is None
    else:
        pooled = loaded.pool(loaded.params, loaded(x))
        np.testing.assert_allclose(pooled, expected[pool](), atol=1e-5)
    if name == "CLIPVision":
        # Without a configuration the tensors say what pools.
        assert backbones.from_state_dict(tensors, {"num_heads": 4}).pooler == loaded.pooler
    # Of another size: as the reference has it that interpolates with antialiasing.
    wide = images(fields, (12, 20), count=1)
    antialiased = backbone.replace(
        config=type(backbone.config)(**vars(backbone.config) | {"interpolation": "bicubic-antialias"})
    )
    np.testing.assert_allclose(loaded(wide).states, antialiased(wide).states, atol=1e-5)


def test_names_and_shapes_alone(tmp_path):
    fields = VIT | {"hidden_size": 192, "num_attention_heads": 3, "layer_norm_eps": 1e-6}
    backbone = backbones.load(save(reference("ViT", fields), tmp_path / "hub"))
    (tmp_path / "timm").mkdir()
    save_file(timm_names(backbone), tmp_path / "timm" / "vit_tiny.safetensors")
    x = images(fields, (16, 16), count=1)
    alone = backbones.load(tmp_path / "timm" / "vit_tiny.safetensors")
    np.testing.assert_array_equal(alone(x).states, backbone(x).states)
    config = {"architecture": "vit_tiny_patch4_16"}
    config["model_args"] = {"num_heads": 3, "act_layer": "quick_gelu"}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model_args of .*num_heads, patch_size alone, got act_layer"):
        backbones.load(tmp_path / "timm")


def test_positions_that_may_mean_two_grids():
    # A square of 9 with none in front, or of 4 with five.
    shapes = {"patch_embed.proj.weight": (16, 3, 4, 4), "pos_embed": (1, 9, 16)}
    shapes |= {"cls_token": (1, 1, 16), "reg_token": (1, 4, 16)}
    from poolax.backbones.pretrained._timm import read_timm_config

    shapes |= {"blocks.0.mlp.fc1.weight": (24, 16), "blocks.0.mlp.fc2.weight": (16, 24)}
    with pytest.raises(ValueError, match=r"positions of a square .*got pos_embed \(1, 9, 16\)"):
        read_timm_config({"num_heads": 4}, shapes)
    for size, side, positioned in ((12, 3, 0), (8, 2, 5)):
        raw = {"num_heads": 4, "pretrained_cfg": {"input_size": [3, size, size]}}
        config = read_timm_config(raw, shapes)
        assert (config.grid, config.num_positioned) == ((side, side), positioned)

"""timm's EVA class: DINOv3 against its Hugging Face form, EVA and EVA-02 against a plain forward pass."""

import json
import math

import jax
import numpy as np
import pytest
from parity import save, torch
from safetensors.numpy import load_file, save_file
from test_parity_timm import normed, timm_names
from test_parity_vision import VIT, images, reference

from poolax import backbones, pooling

WIDTH, HEADS, HIDDEN, PATCH, LAYERS, GRID = 16, 2, 24, 4, 2, 4


def write(folder, tensors, **config):
    folder.mkdir()
    arrays = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    save_file(arrays, folder / "model.safetensors")
    fields = {"pretrained_cfg": {"input_size": [3, 16, 16]}, "model_args": {"num_heads": HEADS}}
    (folder / "config.json").write_text(json.dumps(fields | config))
    return folder


def eva_names(tensors, *, gates="apart"):
    """Names of timm's EVA class, from those of its Vision Transformers."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith("attn.qkv.bias"):
            query, _, value = np.split(tensor, 3)
            stem = name.removesuffix("qkv.bias")
            if query.any():
                found |= {f"{stem}q_bias": query, f"{stem}v_bias": value}
        elif gates == "apart" and ".mlp.fc1." in name and len(tensor) == 2 * HIDDEN:
            for part, half in zip("gx", np.split(tensor, 2), strict=True):
                found[name.replace("fc1", f"fc1_{part}")] = half
        else:
            found[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = tensor
    return found


DINOV3 = {
    "plain": {"query_bias": False, "value_bias": False},
    "biases-gates": {"use_gated_mlp": True, "hidden_act": "silu"},
}


@pytest.mark.parametrize("fields", DINOV3.values(), ids=DINOV3)
def test_dinov3(fields, tmp_path):
    fields = VIT | {"num_register_tokens": 2, "num_attention_heads": HEADS} | fields
    backbone = backbones.load(save(reference("DINOv3ViT", fields), tmp_path / "hub"))
    tensors = eva_names(timm_names(backbone))
    loaded = backbones.load(
        write(tmp_path / "timm", tensors, architecture="vit_small_patch16_dinov3.x", global_pool="avg")
    )
    for size in ((16, 16), (12, 22)):
        x = images(fields, size, count=1)
        states = np.asarray(backbone(x).states)
        np.testing.assert_allclose(loaded(x).states, states, atol=1e-5)
    assert loaded.pooler == pooling.SkipPool(pooling.AveragePool(), 3)
    pooled = loaded.pool(loaded.params, loaded(x))
    np.testing.assert_allclose(pooled, states[:, 3:].mean(1), atol=1e-5)
    backbones.save(loaded, tmp_path / "again", format="huggingface")
    written = load_file(tmp_path / "again" / "model.safetensors")
    assert written.keys() == tensors.keys() - {"head.weight"}
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, tensors[name])


def eva_tensors(kind):
    """Random tensors of an EVA by timm's names, with what ``kind`` has."""
    rng = np.random.default_rng(0)
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + GRID**2, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,)}
    norms = ["fc_norm" if "mean" in kind else "norm"]
    for k in range(LAYERS):
        name = f"blocks.{k}"
        shapes |= {f"{name}.attn.proj.weight": (WIDTH, WIDTH), f"{name}.attn.proj.bias": (WIDTH,)}
        if "fused" in kind:
            shapes[f"{name}.attn.qkv.weight"] = (3 * WIDTH, WIDTH)
            shapes |= {f"{name}.attn.{part}_bias": (WIDTH,) for part in "qv"}
        else:
            shapes |= {f"{name}.attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkv"}
            shapes |= {f"{name}.attn.{part}_proj.bias": (WIDTH,) for part in "qv"}
        layers = {"fc1": 2 * HIDDEN} if "joint" in kind else {"fc1_g": HIDDEN, "fc1_x": HIDDEN}
        layers = {"fc1": HIDDEN} if "plain" in kind else layers
        shapes |= {f"{name}.mlp.{part}.weight": (rows, WIDTH) for part, rows in layers.items()}
        shapes |= {f"{name}.mlp.{part}.bias": (rows,) for part, rows in layers.items()}
        shapes |= {f"{name}.mlp.fc2.weight": (WIDTH, HIDDEN), f"{name}.mlp.fc2.bias": (WIDTH,)}
        norms += [f"{name}.norm1", f"{name}.norm2"]
        norms += [f"{name}.attn.norm"] if "inner" in kind else []
        if "scaled" in kind:
            shapes |= {f"{name}.mlp.norm.{part}": (HIDDEN,) for part in ("weight", "bias")}
    shapes |= {f"{name}.{part}": (WIDTH,) for name in norms for part in ("weight", "bias")}
    return {
        name: rng.normal(size=shape) / (shape[-1] ** 0.5 if len(shape) > 1 else 2)
        for name, shape in shapes.items()
    }


def turned(x, rows, columns):
    """Pairs side by side, by rows and then by columns, both counted as if there were 16 of each."""
    count = x.shape[-1] // 4
    bands = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    y, z = torch.arange(rows) * 16 / rows, torch.arange(columns) * 16 / columns
    angles = torch.cat(
        [
            (y[:, None, None] * bands).expand(rows, columns, count),
            (z[None, :, None] * bands).expand(rows, columns, count),
        ],
        dim=-1,
    ).reshape(rows * columns, -1)
    even, odd = x[..., ::2], x[..., 1::2]
    real, imaginary = (
        even * angles.cos() - odd * angles.sin(),
        odd * angles.cos() + even * angles.sin(),
    )
    return torch.stack([real, imaginary], dim=-1).reshape(x.shape)


def plain_forward(tensors, kind, x):
    """EVA and EVA-02 as their papers have them, on images of the size that positions are of."""
    t = {name: torch.tensor(tensor, dtype=torch.float64) for name, tensor in tensors.items()}
    pixels = torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2)

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)

    def norm(x, name):
        weight = t[f"{name}.weight"]
        return torch.nn.functional.layer_norm(x, weight.shape, weight, t[f"{name}.bias"], 1e-6)

    def attend(x, name):
        if "fused" in kind:
            parts = torch.split(t[f"{name}.qkv.weight"], WIDTH)
        else:
            parts = [t[f"{name}.{part}_proj.weight"] for part in "qkv"]
        bias = "{}.{}_bias" if "fused" in kind else "{}.{}_proj.bias"
        biases = [t[bias.format(name, "q")], 0, t[bias.format(name, "v")]]
        query, key, value = (
            (x @ part.T + bias).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part, bias in zip(parts, biases, strict=True)
        )
        if "rotary" in kind:
            query, key = (
                torch.cat([rows[:, :, :1], turned(rows[:, :, 1:], GRID, GRID)], dim=2)
                for rows in (query, key)
            )
        shares = torch.softmax(query @ key.mT / math.sqrt(WIDTH // HEADS), dim=-1)
        out = (shares @ value).transpose(1, 2).flatten(2)
        return linear(norm(out, f"{name}.norm") if "inner" in kind else out, f"{name}.proj")

    def feed(x, name):
        if "plain" in kind:
            hidden = torch.nn.functional.gelu(linear(x, f"{name}.fc1"))
        else:
            if "joint" in kind:
                gate, hidden = linear(x, f"{name}.fc1").chunk(2, dim=-1)
            else:
                gate, hidden = linear(x, f"{name}.fc1_g"), linear(x, f"{name}.fc1_x")
            hidden = torch.nn.functional.silu(gate) * hidden
        return linear(norm(hidden, f"{name}.norm") if "scaled" in kind else hidden, f"{name}.fc2")

    patches = torch.nn.functional.conv2d(
        pixels, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=PATCH
    )
    tokens = patches.flatten(2).mT
    tokens = torch.cat([t["cls_token"].expand(len(x), 1, -1), tokens], dim=1) + t["pos_embed"]
    for k in range(LAYERS):
        tokens = tokens + attend(norm(tokens, f"blocks.{k}.norm1"), f"blocks.{k}.attn")
        tokens = tokens + feed(norm(tokens, f"blocks.{k}.norm2"), f"blocks.{k}.mlp")
    return (tokens if "mean" in kind else norm(tokens, "norm")).numpy()


EVA = {
    "eva_giant_patch14_224": "fused plain mean",
    "eva02_tiny_patch14_224": "rotary fused joint mean",
    "eva02_base_patch14_448": "rotary scaled mean",
    "eva02_base_patch16_clip_224": "rotary scaled inner",
}


@pytest.mark.parametrize(("architecture", "kind"), EVA.items(), ids=EVA)
def test_eva(architecture, kind, tmp_path):
    kind, tensors = kind.split(), eva_tensors(kind.split())
    pool = "avg" if "mean" in kind else "token"
    eva = backbones.load(write(tmp_path / "timm", tensors, architecture=architecture, global_pool=pool))
    x = images({}, (16, 16), count=2)
    expected = plain_forward(tensors, kind, x)
    states = np.asarray(jax.jit(lambda eva, x: eva(x).states)(eva, x))
    np.testing.assert_allclose(states, expected, atol=1e-5 * np.abs(expected).max())
    pooled = expected[:, 0] if pool == "token" else normed(expected[:, 1:].mean(1), tensors, 1e-6)
    np.testing.assert_allclose(eva.pool(eva.params, eva(x)), pooled, atol=1e-5 * np.abs(pooled).max())
    backbones.save(eva, tmp_path / "again", format="huggingface")
    written = load_file(tmp_path / "again" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, tensors[name].astype(np.float32))


@pytest.mark.parametrize(
    "name",
    [
        None,
        "eva02_enormous_patch14_clip_224",
        "vit_pe_core_base_patch16_224",
        "vit_small_patch16_rope_224",
    ],
)
def test_what_turns_in_ways_that_are_not_known(name):
    tensors = eva_tensors(["fused", "plain"])
    with pytest.raises(ValueError, match=r"architecture to be vit_\*_dinov3, .* eva_giant, .*got '"):
        backbones.from_state_dict(tensors, {} if name is None else {"architecture": name})

"""Loading and saving: files, dtypes, devices, tokenizers, and everything that can be wrong."""

import json
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from families import ALL_FAMILIES, FAMILIES, KEY, STACKABLE, scrambled
from helpers import assert_close
from safetensors.numpy import save_file

from poolax import backbones
from poolax._checkpoint import save_checkpoint
from poolax._files import DamagedFileError
from poolax.backbones import ImagePreprocess, TextPreprocess, _layers
from poolax.backbones.pretrained._tensors import find_tensors

CONFIG = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "rms_norm_eps": 1e-6,
}
IDS = np.arange(6)[None]


def llama_tensors(dtype=np.float32, layers=3):
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (40, 16),
        "model.norm.weight": (16,),
        "lm_head.weight": (40, 16),
    }
    for k in range(layers):
        name = f"model.layers.{k}"
        for part, rows in (("q", 16), ("k", 8), ("v", 8), ("o", 16)):
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (rows, 16)
        shapes |= {f"{name}.mlp.{part}_proj.weight": (24, 16) for part in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (16, 24)
        shapes |= {
            f"{name}.{norm}.weight": (16,) for norm in ("input_layernorm", "post_attention_layernorm")
        }
    return {name: rng.normal(size=shape).astype(dtype) / 4 for name, shape in shapes.items()}


def write(directory, tensors=None, config=CONFIG, shards=1):
    tensors = llama_tensors() if tensors is None else tensors
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    index = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[shard::shards]}
        save_file(part, directory / name)
        index |= dict.fromkeys(part, name)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (directory / "model.safetensors.index.json").write_text(text)
    return directory


def test_shards_are_one_checkpoint(tmp_path):
    whole = backbones.load(write(tmp_path / "whole"))
    parts = backbones.load(write(tmp_path / "parts", shards=3))
    chex.assert_trees_all_equal(whole.params, parts.params)
    assert whole.preprocess is None
    assert whole.config.head_dim == 4


def test_stacked_and_cast_while_read(tmp_path):
    path = write(tmp_path / "a")
    plain = backbones.load(path)
    stacked = backbones.load(str(path), stacked=True)
    chex.assert_trees_all_equal(stacked.params, plain.stack_layers().params)
    half = backbones.load(path, dtype=jnp.bfloat16)
    expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), plain.params)
    chex.assert_trees_all_equal(half.params, expected)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("num_devices", [2, 4])
def test_weights_over_a_mesh_give_the_same(tmp_path, stacked, num_devices):
    path = write(tmp_path / "a")
    mesh = jax.make_mesh((num_devices,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = backbones.tensor_parallel(mesh)
    sharded = backbones.load(path, sharding=sharding, stacked=stacked)
    flat = jax.tree_util.tree_leaves_with_path(sharded.params)
    split = {
        jax.tree_util.keystr(key, simple=True, separator="/")
        for key, leaf in flat
        if not leaf.sharding.is_fully_replicated
    }
    # Everything but norms, and keys and values where there are fewer heads of them than devices.
    per_block = 7 if num_devices == 2 else 5
    assert len(split) == 1 + per_block * (1 if stacked else 3)
    apply = jax.jit(lambda params, ids: sharded.apply(params, ids).states)
    assert_close(apply(sharded.params, IDS), backbones.load(path)(IDS).states, 1e-5)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    everywhere = backbones.load(path, sharding=replicated)
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(everywhere.params))
    with pytest.raises(ValueError, match=r"axis: expected one of 'model', got 'data'"):
        backbones.tensor_parallel(mesh, "data")


def test_what_does_not_divide_is_on_every_device():
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = backbones.tensor_parallel(mesh)
    assert sharding("encoder/block_0/attention/key/kernel", (16, 2, 4)).is_fully_replicated
    assert sharding("encoder/blocks/attention/query/kernel", (3, 16, 4, 4)).spec[2] == "model"


@pytest.mark.parametrize("num_devices", [1, 4])
def test_seven_billion_parameters_compile_without_weights(num_devices):
    config = backbones.DecoderConfig(
        32_000,
        width=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        mlp_dim=14_336,
        window=4096,
    )
    mesh = jax.make_mesh((num_devices,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = backbones.tensor_parallel(mesh)
    model = jax.eval_shape(lambda: backbones.Decoder.init(config, KEY).stack_layers())

    def half(path, leaf):
        place = sharding(path, leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=place)

    params = _layers.map_with_path(half, model.params)
    assert 7.0e9 < model.num_parameters < 7.2e9
    batch = (8, 512)
    arguments = jax.ShapeDtypeStruct(batch, jnp.int32), jax.ShapeDtypeStruct(batch, jnp.bool_)
    forward = jax.jit(lambda params, ids, mask: model.apply(params, ids, mask).states)
    memory = forward.lower(params, *arguments).compile().memory_analysis()
    # On each device: the weights' share, and what the CPU's bfloat16 emulation needs besides.
    assert memory.argument_size_in_bytes < 1.05 * 2 * model.num_parameters / num_devices
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < 70e9 / num_devices


SAVED = [(name, False) for name in ALL_FAMILIES] + [(name, True) for name in STACKABLE]


@pytest.mark.parametrize(("name", "stacked"), SAVED)
def test_save_and_load(name, stacked, tmp_path):
    backbone = scrambled(ALL_FAMILIES[name]())
    if name == "vit":
        backbone = backbone.replace(preprocess=ImagePreprocess(mean=(0.1, 0.2, 0.3), std=0.7))
    backbone = backbone.stack_layers() if stacked else backbone
    backbones.save(backbone.replace(compute_dtype=jnp.dtype(jnp.bfloat16)), tmp_path)
    again = backbones.load(tmp_path)
    assert again.config == backbone.config
    assert again.preprocess == backbone.preprocess
    assert again.compute_dtype == jnp.bfloat16
    chex.assert_trees_all_equal(again.params, backbone.params)
    half = backbones.load(tmp_path, dtype=jnp.float16, stacked=name in STACKABLE)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.float16)}
    expected = backbone.stack_layers() if name in STACKABLE else backbone
    chex.assert_trees_all_equal(
        half.params, jax.tree.map(lambda leaf: leaf.astype(jnp.float16), expected.params)
    )
    if name not in STACKABLE:
        with pytest.raises(ValueError, match=r"stacked: expected False for .*whose blocks differ"):
            backbones.load(tmp_path, stacked=True)
    with pytest.raises(ValueError, match=r"step: expected above 0"):
        backbones.save(backbone, tmp_path)


def test_a_saved_backbone_goes_to_any_devices(tmp_path):
    backbone = scrambled(FAMILIES["decoder"]())
    backbones.save(backbone, tmp_path)
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = backbones.load(tmp_path, sharding=backbones.tensor_parallel(mesh))
    kernel = sharded.params["encoder"]["block_0"]["attention"]["query"]["kernel"]
    assert kernel.sharding.spec[1] == "model"
    chex.assert_trees_all_equal(jax.device_get(sharded.params), jax.device_get(backbone.params))


def test_only_own_preprocessing_is_saved(tmp_path):
    backbone = FAMILIES["vit"]().replace(preprocess=lambda images: images)
    with pytest.raises(ValueError, match=r"preprocess: expected .* poolax.codec, got <function"):
        backbones.save(backbone, tmp_path)


def test_a_saved_backbone_of_other_parameters_is_refused(tmp_path):
    backbone = FAMILIES["bert"]()
    del backbone.params["encoder"]["block_1"]["norm2"]
    backbones.save(backbone, tmp_path)
    with pytest.raises(ValueError, match=r"parameters of Bert .*2 others: encoder/block_1/norm2/"):
        backbones.load(tmp_path)


def without(*names):
    return {name: tensor for name, tensor in llama_tensors().items() if name not in names}


def reshaped(name, *shape):
    return llama_tensors() | {name: np.zeros(shape, np.float32)}


ALL_KEYS = [name for name in llama_tensors() if ".k_proj" in name or ".v_proj" in name]


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (
            without("model.layers.1.mlp.up_proj.weight"),
            {},
            r"tensors: expected all of Decoder, got none for 1: model.layers.1.mlp.up_proj.weight;",
        ),
        (
            llama_tensors(layers=1),
            {},
            r"got none for 18: model.layers.1.*, .* and 8 more;",
        ),
        (
            llama_tensors() | {"model.layers.3.extra": np.zeros(2), "other": np.zeros(1)},
            {},
            r"tensors: expected those of Decoder alone, got 2: model.layers.3.extra, other;",
        ),
        (
            llama_tensors(layers=5),
            {},
            r"alone, got 18: model.layers.3.*and 8 more;",
        ),
        (
            reshaped("model.layers.0.mlp.up_proj.weight", 16, 16),
            {},
            r"1: model.layers.0.mlp.up_proj.weight \(16, 16\) for encoder/block_0/ffn/hidden/kernel \(16, 24\);",
        ),
        (
            reshaped("model.norm.weight", 3, 5, 7),
            {},
            r"model.norm.weight \(3, 5, 7\) for encoder/norm/scale",
        ),
        (
            reshaped("model.layers.0.self_attn.q_proj.weight", 15, 16),
            {},
            r"1: model.layers.0.self_attn.q_proj.weight \(15, 16\) for .*query/kernel \(16, 4, 4\);",
        ),
        (
            None,
            {"model_type": "lama2"},
            r"config: expected a model_type that .* lists, got 'lama2'; did you mean 'llama'\?",
        ),
        (
            None,
            {"model_type": "t5", "architectures": ["Chronos2Model"]},
            r"got 'Chronos2Model', which the reference library does not have; .*'timesfm2_5'",
        ),
        (None, {"model_type": None}, r"config: expected a model_type that .* lists, got None"),
        (None, {"hidden_act": "mish"}, r"activation: expected one of 'gelu', .*got 'mish'"),
        (
            None,
            {"rope_scaling": {"type": "spiral", "factor": 2}},
            r"config: expected rope_type to be one of 'default', 'linear', .*got 'spiral'",
        ),
        (None, {"rope_scaling": {"type": "linear"}}, r"config: expected a field 'factor', got type"),
        (
            None,
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            r"config: expected partial_rotary_factor to be one of 1, None, got 0.5",
        ),
        (
            None,
            {
                "max_position_embeddings": 8,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0],
                    "long_factor": [2.0, 3.0],
                },
            },
            r"short_factors: expected d_h / 2 = 2 numbers, got 1",
        ),
        (
            None,
            {"rope_scaling": {"type": "yarn", "factor": 2}},
            r"a field 'original_max_position_embeddings'",
        ),
        (None, {"num_attention_heads": 0}, r"num_attention_heads to be a whole number >= 1, got 0"),
        (
            None,
            {"num_attention_heads": "32"},
            r"num_attention_heads to be a whole number >= 1, got '32'",
        ),
        (
            None,
            {"rope_scaling": "llama3"},
            r"rope_parameters to be one object for all layers, got 'llama3'",
        ),
        (
            None,
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            r"rope_parameters to be one object for all layers",
        ),
        (None, {"rope_scaling": {"type": "linear", "factor": "4"}}, r"factor: expected a number"),
        (None, {"partial_rotary_factor": 0.5}, r"partial_rotary_factor to be one of 1, None, got 0.5"),
        (
            None,
            {"quantization_config": {"bits": 4}},
            r"config: expected weights that are not quantized",
        ),
        (
            None,
            {"model_type": "mistral", "sliding_window": 4, "is_causal": False},
            r"config: expected no sliding window where is_causal is false",
        ),
        (None, {"hidden_size": None}, r"config: expected a field 'hidden_size'"),
        (
            None,
            {"model_type": "mistral", "sliding_window": 4, "layer_types": ["chunked_attention"] * 3},
            r"config: expected layer_types to be one of 'sliding_attention', 'full_attention', got 'chunked",
        ),
        (
            None,
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            r"config: expected position_embedding_type to be one of 'absolute', None, got 'relative_key'",
        ),
        (None, {"model_type": "gpt2", "add_cross_attention": True}, r"add_cross_attention .*got True"),
        (
            None,
            {"model_type": "vit", "image_size": [8, 16]},
            r"config: expected image_size to be one of \[8, 8\], got \[8, 16\]",
        ),
    ],
)
def test_bad_checkpoints_are_named(tensors, config, message, tmp_path):
    config = {key: value for key, value in (CONFIG | config).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        backbones.load(write(tmp_path / "a", tensors, config))(IDS)


def test_half_a_file(tmp_path):
    path = write(tmp_path / "a") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        DamagedFileError, match=r"model.safetensors: expected a whole safetensors file, got: .*; fetch"
    ):
        backbones.load(tmp_path / "a")
    path.write_bytes(b"\x80\x04not a tensor")
    with pytest.raises(ValueError, match=r"expected a whole safetensors file"):
        backbones.load(tmp_path / "a")


def test_bytes_behind_the_last_tensor(tmp_path):
    path = write(tmp_path / "a") / "model.safetensors"
    with path.open("ab") as file:
        file.write(bytes(8))
    with pytest.raises(DamagedFileError, match=r"model.safetensors: expected a whole safetensors file"):
        backbones.load(tmp_path / "a")


def test_half_of_the_shards(tmp_path):
    write(tmp_path / "a", shards=4)
    for number in (1, 3):
        (tmp_path / "a" / f"model-{number:05d}-of-00004.safetensors").unlink()
    message = r"expected the 4 files .* got no model-00001-of-00004.safetensors, model-00003-of-00004"
    with pytest.raises(DamagedFileError, match=message):
        backbones.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mpnet", "relative_attention_num_buckets": 8}, r"to be one of 32, got 8"),
        (
            {"model_type": "roberta", "pad_token_id": -1},
            r"pad_token_id to be a whole number >= 0, got -1",
        ),
        ({"model_type": "nomic_bert", "prenorm": True}, r"prenorm to be one of False, got True"),
        (
            {"model_type": "gemma2", "use_bidirectional_attention": True},
            r"bidirectional_attention .*True",
        ),
        ({"model_type": "t5", "d_model": 16, "feed_forward_proj": "gated-mish"}, r"got 'mish'"),
        (
            {"model_type": "mistral3", "text_config": {**CONFIG, "model_type": "qwen2"}},
            r"model_type to be one of 'mistral', 'ministral3', .*'qwen2'",
        ),
        ({"model_type": "mistral3"}, r"expected a field 'text_config'"),
        ({"model_type": "deberta"}, r"got 'deberta'; did you mean 'bert'\?"),
        ({"model_type": "qwen4"}, r"got 'qwen4'; did you mean 'qwen3'\?"),
    ],
)
def test_configurations_of_other_kinds_are_named(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        backbones.load(write(tmp_path / "a", None, CONFIG | config))


def test_files_of_fused_projections_have_as_many_rows_as_the_configuration_says(tmp_path):
    config = CONFIG | {"model_type": "phi3", "num_hidden_layers": 1}
    tensors = {name: tensor for name, tensor in llama_tensors(layers=1).items() if "_proj" not in name}
    layer = "model.layers.0"
    for name, shape in {"self_attn.qkv_proj": (33, 16), "self_attn.o_proj": (16, 16)}.items():
        tensors[f"{layer}.{name}.weight"] = np.zeros(shape, np.float32)
    for name, shape in {"gate_up_proj": (49, 16), "down_proj": (16, 24)}.items():
        tensors[f"{layer}.mlp.{name}.weight"] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=r"5: .*qkv_proj.weight \(33, 16\) .*gate_up_proj.weight"):
        backbones.load(write(tmp_path / "a", tensors, config))


def test_scales_stored_less_one_are_rounded_once(tmp_path):
    # In bfloat16 1 + 0.0037 would be 1 or 1.0078: they are kept as they are stored.
    fields = {"model_type": "gemma2", "num_hidden_layers": 1, "head_dim": 4}
    fields["sliding_window"] = 4
    tensors = llama_tensors(ml_dtypes.bfloat16, layers=1)
    for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
        tensors[f"model.layers.0.{name}.weight"] = np.full(16, 0.0037, ml_dtypes.bfloat16)
    write(tmp_path / "a", tensors, CONFIG | fields)
    scale = backbones.load(tmp_path / "a", dtype=jnp.float32).params["encoder"]["block_0"]["norm2"]
    expected = np.float32(ml_dtypes.bfloat16(0.0037))
    np.testing.assert_array_equal(scale["scale"], np.full(16, expected))
    half = backbones.load(tmp_path / "a").params["encoder"]["block_0"]["norm2"]["scale"]
    assert half.dtype == jnp.bfloat16


def test_missing_files(tmp_path):
    write(tmp_path / "a", shards=3)
    (tmp_path / "a" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected the 3 files .* got no model-00002-of-00003"):
        backbones.load(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"expected model.safetensors in .*b, got no safetensors file"):
        backbones.load(tmp_path / "b")
    save_file({"a": np.ones(1)}, tmp_path / "b" / "one.safetensors")
    save_file({"a": np.ones(1)}, tmp_path / "b" / "two.safetensors")
    with pytest.raises(ValueError, match=r"got one.safetensors, two.safetensors"):
        backbones.load(tmp_path / "b")
    write(tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: expected a JSON object, got: .*; fetch"):
        backbones.load(tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config.json: expected a JSON object, got \[\]; fetch"):
        backbones.load(tmp_path / "c")
    (tmp_path / "a" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index.json: expected a weight_map, got None; fetch"):
        backbones.load(tmp_path / "a")


@pytest.mark.parametrize(
    "entry",
    ["../../model.safetensors", "/tmp/model.safetensors", "..\\model.safetensors", "C:model.safetensors",
     "a/../../model.safetensors", "model.bin", "model.safetensors\0", 3, None, ["model.safetensors"]],
)  # fmt: skip
def test_an_index_names_files_of_its_folder_alone(entry, tmp_path):
    (tmp_path / "a").mkdir()
    folder = write(tmp_path / "a" / "b", shards=2)
    save_file({"a": np.ones(1)}, tmp_path / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = entry
    index.write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match=r"index.json: expected safetensors files of its folder"):
        backbones.load(folder)


def test_whether_a_tensor_is_there_is_told_without_reading_it(tmp_path):
    write(tmp_path / "a", {"a": np.ones(2, np.float32)})
    tensors = find_tensors(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    assert "a" in tensors
    assert "b" not in tensors
    assert tensors.get("b") is None


def test_an_index_lists_what_its_files_hold(tmp_path):
    folder = write(tmp_path / "a", shards=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["more"] = next(iter(content["weight_map"].values()))
    index.write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match=r"index.json: expected the \d+ tensors .* got no more;"):
        backbones.load(folder)


@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin"])
def test_pickles_are_refused_with_a_command_that_converts(name, tmp_path):
    directory = tmp_path / "a"
    directory.mkdir()
    (directory / name).write_bytes(b"\x80\x04K\x01.")
    for path in (directory, directory / name):
        with pytest.raises(
            ValueError, match=r"pickled .*never opened here; convert it with: python -c"
        ):
            backbones.load(path)


def test_the_command_that_converts(tmp_path):
    torch = pytest.importorskip("torch", reason="install with tests/install_parity.sh")
    path = write(tmp_path / "a")
    expected = backbones.load(path)
    (path / "model.safetensors").unlink()
    tensors = {name: torch.tensor(tensor) for name, tensor in llama_tensors().items()}
    torch.save({"model": tensors, "epoch": 3}, path / "checkpoint.pth")
    with pytest.raises(ValueError, match="convert it with") as caught:
        backbones.load(path)
    command = str(caught.value).split("convert it with: python")[1]
    subprocess.run(f"{sys.executable}{command}", shell=True, check=True, timeout=300)
    chex.assert_trees_all_equal(backbones.load(path).params, expected.params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": jnp.int8}, r"dtype: expected a floating dtype, got"),
        ({"dtype": "nonsense"}, r"dtype: expected a floating dtype, got 'nonsense'"),
        ({"dtype": jnp.float64}, r"dtype: expected one that JAX has enabled, got float64"),
        ({"revision": "main"}, r"revision: expected None for local files, got 'main'"),
    ],
)
def test_bad_options_are_named(arguments, message, tmp_path):
    write(tmp_path / "hub")
    backbones.save(FAMILIES["bert"](), tmp_path / "own")
    for path in ("hub", "own"):
        with pytest.raises(ValueError, match=message):
            backbones.load(tmp_path / path, **arguments)


@pytest.mark.parametrize("path", [None, "", 3])
def test_no_path_at_all(path):
    with pytest.raises(ValueError, match=r"path_or_hub_id: expected a path or a hub id, got"):
        backbones.load(path)


def test_blocks_that_differ_are_not_stacked(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    tensors = llama_tensors()
    for k in range(3):
        for part, rows in (("q", 16), ("k", 8), ("v", 8)):
            tensors[f"model.layers.{k}.self_attn.{part}_proj.bias"] = np.zeros(rows, np.float32)
    path = write(tmp_path / "a", tensors, CONFIG | window | {"model_type": "qwen2"})
    assert backbones.load(path).config.full_layers == (0,)
    with pytest.raises(ValueError, match=r"layers: expected equal blocks to stack, got block 1"):
        backbones.load(path, stacked=True)


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    bert = FAMILIES["bert"]()
    fields = {"type": "BertConfig", "window": 3}
    settings = {"family": "Bert", "config": fields, "preprocess": None, "compute_dtype": None}
    save_checkpoint(tmp_path, 0, bert.params, metadata={"backbone": settings | {"remat": False}})
    with pytest.raises(ValueError, match=r"config: options of 'bert': expected .*, got window"):
        backbones.load(tmp_path)


@pytest.mark.parametrize("name", ["no/such/place", "./nothing", "/nowhere/at-all", "a b"])
def test_neither_a_place_nor_a_hub_id(name):
    with pytest.raises(ValueError, match=r"path_or_hub_id: .*where there is nothing"):
        backbones.load(name)


def test_a_hub_id_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"expected a directory or a hub id that can be reached .*'some/model'"
    ):
        backbones.load("some/model")


def test_a_hub_id_in_the_cache(monkeypatch, tmp_path):
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    write(snapshot)
    refs = tmp_path / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = backbones.load("some/model")
    chex.assert_trees_all_equal(loaded.params, backbones.load(snapshot).params)


def test_what_is_fetched_from_the_hub(monkeypatch, tmp_path):
    """The files of one format, and a word about pickles where there is nothing else."""
    asked = []

    def fetch(hub_id, *, revision, allow_patterns, ignore_patterns):
        asked.append((allow_patterns, ignore_patterns))
        return str(tmp_path / hub_id)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr(
        "huggingface_hub.list_repo_files",
        lambda hub_id, *, revision: ["config.json", "pytorch_model.bin"],
    )
    write(tmp_path / "whole")
    backbones.load("whole")
    assert asked == [(["*.json"], ["*/*"]), (["model.safetensors"], ["*/*"])]
    asked.clear()
    shards = sorted(path.name for path in write(tmp_path / "shards", shards=2).glob("*.safetensors"))
    backbones.load("shards")
    assert asked[1] == (shards, ["*/*"])
    (tmp_path / "pickled").mkdir()
    with pytest.raises(
        ValueError, match=r"got the pickled pytorch_model.bin, which is never opened here"
    ):
        backbones.load("pickled")


def test_image_preprocessing_beside_the_weights(tmp_path):
    vit = FAMILIES["vit"]()
    raw = {
        "do_rescale": True,
        "rescale_factor": 0.5,
        "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [1.0, 2.0, 4.0],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
    from poolax.backbones.pretrained._image_settings import read_preprocess

    prepare = read_preprocess(tmp_path, {}, vit.config)
    assert_close(prepare(np.full((1, 1, 3), 2, np.uint8)), [[[0.9, 0.4, 0.175]]], 1e-6)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    assert_close(read_preprocess(tmp_path, {}, None)(np.full((1, 3), 255.0)), np.ones((1, 3)), 1e-6)


def word_tokenizer():
    import tokenizers

    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5, "</s>": 6}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    words.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=special
    )
    words.enable_padding(length=128)
    words.enable_truncation(3)
    return words


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncate_then_end_then_pad(side):
    prepare = TextPreprocess(
        word_tokenizer().to_str(), 4, suffix=("</s>",), padding_side=side, pad_id=9
    )
    ids, mask = prepare(["a b a b a", b"b", ""])
    rows = {
        "right": [[4, 5, 4, 6], [5, 6, 9, 9], [6, 9, 9, 9]],
        "left": [[4, 5, 4, 6], [9, 9, 5, 6], [9, 9, 9, 6]],
    }
    np.testing.assert_array_equal(ids, rows[side])
    np.testing.assert_array_equal(mask, ids != 9)
    fixed = TextPreprocess(word_tokenizer().to_str(), 4, pad_to=6)
    assert fixed(["a"])[0].shape == (1, 6)
    assert not fixed([""])[1].any()
    assert fixed([])[0].shape == (0, 6)


def test_the_tokenizer_beside_the_weights(tmp_path):
    path = write(tmp_path / "a", config=CONFIG | {"max_position_embeddings": 5, "pad_token_id": 7})
    (path / "tokenizer.json").write_text(word_tokenizer().to_str())
    prepare = backbones.load(path).preprocess
    assert (prepare.prefix, prepare.suffix) == (("[CLS]",), ("[SEP]",))
    assert (prepare.max_tokens, prepare.padding_side, prepare.pad_id) == (5, "right", 7)
    settings = {"model_max_length": 10**30, "padding_side": "left", "pad_token": {"content": "[PAD]"}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    prepare = backbones.load(path).preprocess
    assert (prepare.max_tokens, prepare.padding_side, prepare.pad_id) == (5, "left", 0)
    ids, _ = prepare(["a", "a b a b a"])
    np.testing.assert_array_equal(ids, [[0, 0, 1, 4, 2], [1, 4, 5, 4, 2]])
    (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": "512"}))
    with pytest.raises(ValueError, match=r"model_max_length: expected a number, got '512'"):
        backbones.load(path)
    settings |= {
        "add_bos_token": False,
        "bos_token": "[CLS]",
        "add_eos_token": True,
        "eos_token": "</s>",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    prepare = backbones.load(path).preprocess
    assert (prepare.prefix, prepare.suffix) == ((), ("[SEP]", "</s>"))
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        DamagedFileError, match=r"tokenizer.json: expected a tokenizer, got: .* expected what tokenizer"
    ):
        backbones.load(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: TextPreprocess(t, 4)("a text"), r"texts: expected a sequence of texts, got str"),
        (lambda t: TextPreprocess(t, 4)(["a", None]), r"texts: expected str or bytes, got None"),
        (lambda t: TextPreprocess(t, 4)(["a", 3]), r"texts: expected str or bytes, got 3"),
        (
            lambda t: TextPreprocess(t, 4, suffix="</s>"),
            r"suffix: expected a tuple of tokens, got '</s>'",
        ),
        (
            lambda t: TextPreprocess("{}", 4)(["a"]),
            r"tokenizer_json: expected what tokenizer.json holds",
        ),
        (lambda t: TextPreprocess(t, 4, suffix=("<eos>",))(["a"]), r"suffix: .*tokenizer, got <eos>"),
        (lambda t: TextPreprocess(t, 1, suffix=("</s>",)), r"max_tokens: .* >= 2, got 1"),
        (
            lambda t: TextPreprocess(t, 4, padding_side="top"),
            r"padding_side: .*'right', 'left', got 'top'",
        ),
        (lambda t: TextPreprocess(t, 4, pad_to=3), r"pad_to: .* >= 4, got 3"),
    ],
)
def test_bad_text_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(word_tokenizer().to_str())


def test_a_tokenizer_is_saved_with_its_backbone(tmp_path):
    prepare = TextPreprocess(word_tokenizer().to_str(), 4, prefix=("[CLS]",))
    bert = FAMILIES["bert"]().replace(preprocess=prepare)
    backbones.save(bert, tmp_path)
    again = backbones.load(tmp_path)
    texts = ["a b", "b"]
    np.testing.assert_array_equal(again.preprocess(texts)[0], prepare(texts)[0])
    assert again.preprocess == prepare


STREAM = """
import sys
import jax
import jax.numpy as jnp
from poolax import backbones

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
backbone = backbones.load(sys.argv[1], dtype=jnp.dtype(sys.argv[2]), stacked=sys.argv[3] == "stacked")
target = sum(leaf.nbytes for leaf in jax.tree.leaves(backbone.params))
print((status("VmHWM") - before) / target, target)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stacked", ["stacked", "plain", "saved"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_memory_of_loading_two_gigabytes(dtype, stacked, tmp_path):
    width, hidden, layers = 2048, 8192, 8
    fields = {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers}
    config = (
        CONFIG | fields | {"vocab_size": 32000, "num_attention_heads": 16, "num_key_value_heads": 8}
    )
    rows = {"q": width, "k": width // 2, "v": width // 2, "o": width}
    shapes = [{"model.embed_tokens.weight": (32000, width), "model.norm.weight": (width,)}]
    for k in range(layers):
        name = f"model.layers.{k}"
        shapes.append({f"{name}.self_attn.{part}_proj.weight": (n, width) for part, n in rows.items()})
        shapes[-1] |= {f"{name}.mlp.{part}_proj.weight": (hidden, width) for part in ("gate", "up")}
        shapes[-1][f"{name}.mlp.down_proj.weight"] = (width, hidden)
        shapes[-1] |= {
            f"{name}.{norm}.weight": (width,)
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
    index = {}
    for shard, parts in enumerate(np.array_split(np.arange(len(shapes)), 3)):
        names = {name: shape for part in parts for name, shape in shapes[part].items()}
        tensors = {name: np.full(shape, 0.01, np.float32) for name, shape in names.items()}
        save_file(tensors, tmp_path / f"{shard}.safetensors")
        index |= dict.fromkeys(tensors, f"{shard}.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    if stacked == "saved":
        backbones.save(backbones.load(tmp_path), tmp_path / "own")
        tmp_path = tmp_path / "own"
    command = [sys.executable, "-c", STREAM, str(tmp_path), dtype, stacked]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500).stdout
    ratio, target = map(float, out.split())
    print(f"peak {ratio:.3f} of {target / 1e9:.2f} GB")
    assert target > (2e9 if dtype == "float32" else 1e9)
    assert ratio < 1.3

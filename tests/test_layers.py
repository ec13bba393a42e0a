"""What heads read: layers, one, side by side or mixed; prefix tokens and prompts left out."""

import dataclasses

import jax
import numpy as np
import pytest
import tokenizers
from helpers import assert_close

from poolax import pooling
from poolax.backbones import Bert, BertConfig, ImagePreprocess, TextPreprocess, ViT, ViTConfig
from poolax.data import Dataset, digits
from poolax.training import (
    Classification,
    Layers,
    Limits,
    PreemptedError,
    export_sentence_transformers,
    extract_states,
    few_shot,
    few_shot_states,
    head_directory,
    load_head,
    sweep,
    sweep_states,
)
from poolax.training._states.features import FeaturePass
from poolax.training.token_head import TokenHead

TASK = Classification(10)
OPTIONS = {"seeds": 1, "epochs": 2, "learning_rates": (0.01,)}
READINGS = [1, (1, -1), "mix:1+output"]


@pytest.fixture(scope="module")
def vit():
    config = ViTConfig(8, 4, 1, width=8, num_layers=2, num_heads=2, mlp_dim=8)
    return ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))


@pytest.fixture(scope="module")
def data():
    return digits().subset(100)


def passes(monkeypatch):
    """Counts the inputs that a backbone reads."""
    rows, whole = [], FeaturePass.batches

    def counted(self, *arguments, **options):
        for positions, batch in whole(self, *arguments, **options):
            rows.extend(positions)
            yield positions, batch

    monkeypatch.setattr(FeaturePass, "batches", counted)
    return rows


def test_layers_of_one_pass_are_those_read_alone(vit, data, tmp_path, monkeypatch):
    rows = passes(monkeypatch)
    options = {"poolers": ["avg", "wavg"], **OPTIONS}
    records = sweep(vit, data, TASK, layers=READINGS, out=tmp_path, **options)
    num_used = sum(map(len, data.splits.values()))
    assert len(rows) == num_used
    assert [row["layers"] for row in records] == [
        name for name in ("1", "1+output", "mix:1+output") for _ in range(2)
    ]
    by_layer = {k: extract_states(vit, data.inputs, layer=k).states for k in (1, -1)}
    alone = sweep_states(
        by_layer, None, data.targets, TASK, splits=data.splits, layers=READINGS, **options
    )
    test = data.splits["test"]
    for row, other in zip(records, alone, strict=True):
        assert (row["pooler"], row["layers"]) == (other["pooler"], other["layers"])
        assert_close(row["train_loss"], other["train_loss"], 1e-4)
        assert_close(row["lipschitz"], other["lipschitz"], 1e-4)
        head = load_head(head_directory(tmp_path, row))
        states = extract_states(vit, data.inputs[test], layer=head.layer).states
        right = np.argmax(head.predict(states), -1) == data.targets[test]
        assert_close(right.mean(), row["test"])
    mixed = load_head(head_directory(tmp_path, records[-1]))
    assert mixed.layer == (1, -1)
    assert np.ptp(mixed.variables["params"]["pooler"]["mixture"]) > 0
    # What is there is taken over; the output alone is the head that it was before there were layers.
    again = sweep(vit, data, TASK, layers=[*READINGS, "output"], out=tmp_path, **options)
    assert list(again)[:6] == list(records)
    assert "layers" not in again[6]
    [plain, _] = sweep(vit, data, TASK, **options)
    assert plain["id"] == again[6]["id"]
    assert_close(plain["train_loss"], again[6]["train_loss"], 1e-4)
    with pytest.raises(ValueError, match="width 8, got shape"):
        load_head(head_directory(tmp_path, records[0])).predict(states)


@pytest.mark.parametrize(
    ("features", "asks"), [pytest.param("disk", 4, marks=pytest.mark.slow), ("stream", 1)]
)
def test_layers_from_disk_and_from_the_backbone_are_those_in_memory(
    vit, data, tmp_path, features, asks
):
    options = {"poolers": ["max", "wavg"], "layers": READINGS, **OPTIONS, "seeds": [0]}
    memory = sweep(vit, data, TASK, **options)
    asked = iter([False] * asks + [True] + [False] * 1000)
    limits = Limits(should_stop=lambda: next(asked), checkpoint_every=0)
    with pytest.raises(PreemptedError):
        sweep(vit, data, TASK, features=features, out=tmp_path, limits=limits, **options)
    resumed = sweep(vit, data, TASK, features=features, out=tmp_path, **options)
    whole = sweep(vit, data, TASK, features=features, out=tmp_path / "whole", **options)
    for one, other, kept in zip(resumed, whole, memory, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert one["test_scores"] == other["test_scores"]
        assert_close(one["train_loss"], kept["train_loss"], 1e-4)


def test_converged_heads_of_layers_take_raw_states(vit, data, tmp_path):
    records = sweep(
        vit, data, TASK, poolers=["avg"], layers=[(0, 1), "mix:0+1"], seeds=1, solver="converged", out=tmp_path,
    )  # fmt: skip
    test = data.splits["test"]
    states = extract_states(vit, data.inputs[test], layer=(0, 1)).states
    assert {row["layers"]: row["learning_rate"] is None for row in records} == {
        "0+1": True,
        "mix:0+1": False,
    }
    for row in records:
        head = load_head(head_directory(tmp_path, row))
        assert_close((np.argmax(head.predict(states), -1) == data.targets[test]).mean(), row["test"])


def test_prefix_tokens_of_ones_own_states(vit, data):
    states = extract_states(vit, data.inputs).states
    options = {"poolers": ["first", "avg"], "solver": "converged", **OPTIONS}
    first, average = sweep_states(
        states,
        None,
        data.targets,
        TASK,
        splits=data.splits,
        num_prefix=1,
        include_prefix=False,
        **options,
    )
    ours = sweep(vit, data, TASK, include_prefix=False, **options)
    assert_close(first["test"], ours[0]["test"])
    assert_close(average["test_scores"], ours[1]["test_scores"])
    cut, _ = sweep_states(
        states[:, 1:],
        None,
        data.targets,
        TASK,
        splits=data.splits,
        **{**options, "poolers": ["avg", "max"]},
    )
    assert cut["test_scores"] == average["test_scores"]
    assert average["num_prefix"] == 1


@pytest.fixture(scope="module")
def bert():
    words = ["[UNK]", "[CLS]", "[SEP]", "find:", *"abcdefgh"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    prepare = TextPreprocess(tokenizer.to_str(), 10, ("[CLS]",), ("[SEP]",), include_prompt=False)
    config = BertConfig(len(words), 10, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    return Bert.init(config, jax.random.key(1), prepare)


def test_tokens_of_a_prompt_are_left_out_of_the_pool(bert, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    texts = [
        " ".join(rng.choice(list("abcd" if label else "efgh"), 1 + i % 5))
        for i, label in enumerate(labels)
    ]
    splits = dict(zip(("train", "validation", "test"), np.split(np.arange(40), [24, 32]), strict=True))
    data = Dataset("own", np.array(texts, object), labels, splits, source="made here", licence="CC0")
    options = {"poolers": ["cls", "avg", "wavg"], **OPTIONS}
    task = Classification(2)
    records = sweep(bert, data, task, prompt="find: ", out=tmp_path / "all", **options)
    ids, mask = bert.preprocess(texts, prompt="find: ")
    states = np.asarray(bert(ids, mask).states)
    # [CLS] and the prompt are not pooled; "cls" is the first token all the same.
    real = mask.copy()
    real[:, :2] = False
    own = {"splits": splits, **OPTIONS}
    [cls] = sweep_states(states, mask, labels, task, poolers=["first"], **own)
    [average] = sweep_states(states, real, labels, task, poolers=["avg"], **own)
    assert_close(records[0]["train_loss"], cls["train_loss"], 1e-4)
    assert_close(records[1]["train_loss"], average["train_loss"], 1e-4)
    pooled_too = bert.replace(preprocess=dataclasses.replace(bert.preprocess, include_prompt=True))
    [all_real] = sweep_states(states, mask, labels, task, poolers=["avg"], **own)
    [included] = sweep(pooled_too, data, task, prompt="find: ", **{**options, "poolers": ["avg"]})
    assert_close(included["train_loss"], all_real["train_loss"], 1e-4)
    plain = sweep(bert, data, task, **options)
    assert len({row["id"] for row in (*plain, *records)}) == 6
    few = {"shots": 3, "draws": 1, "poolers": ["avg"]}
    of_few = tmp_path / "few"
    [drawn] = few_shot(bert, data, task, prompt="find: ", max_tokens=10, out=of_few, **few)
    [same] = few_shot_states(states, real, labels, task, splits=splits, **few)
    # Where the penalty is weak, few examples leave heads to rounding.
    ours, theirs = (
        dict(zip(row["strengths_tried"], row["losses_tried"], strict=True)) for row in (drawn, same)
    )
    assert_close(ours[0.1], theirs[0.1], 1e-4)
    assert records[0]["preprocess"]["options"]["default_prompt"] == "given"
    # Saved heads leave out what the sweep did.
    test = splits["test"]
    for folder, row in [*((tmp_path / "all", row) for row in records), (of_few, drawn)]:
        head = load_head(head_directory(folder, row))
        assert head.num_skipped == (0 if row["pooler"] == "cls" else 2)
        outputs = head.predict(states[test], mask[test])
        assert_close(task.score(outputs, labels[test]), row["test_scores"])
        vectors = head.pool(states[test], mask[test])
        assert_close(
            vectors @ head.variables["params"]["output"]["kernel"],
            outputs - head.variables["params"]["output"]["bias"],
            1e-4,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "layer: expected -1 to 2, got 3"),
        ({"layers": []}, "layers: expected at least one, got none"),
        ({"layers": [1, "1"]}, "layers: expected each once, got 1, 1"),
        ({"layers": "top"}, "layers: expected a layer, .*, got 'top'"),
        ({"layers": 1.5}, r"layers: expected a layer, .*, got 1.5"),
        ({"layers": [(1, 1)]}, r"layers: expected numbers from -1, each once, got \(1, 1\)"),
        ({"layers": "mix:1"}, r"layers: expected several to mix, got \(1,\)"),
        ({"prompt": "find: "}, "prompt: expected None for ViT without texts, got 'find: '"),
        ({"poolers": [TokenHead(10, 2)], "layers": "mix:all"}, "layers: expected no mixture for 'TokenHead'"),
    ],
)  # fmt: skip
def test_bad_readings_are_named(vit, data, changes, message):
    with pytest.raises(ValueError, match=message):
        sweep(vit, data, TASK, **{"poolers": ["avg"], **changes})


def test_bad_layers_of_states_are_named(vit, data):
    states = np.ones((100, 2, 3), np.float32)
    own = {"splits": data.splits, "poolers": ["avg"]}
    for given, layers, message in [
        (states, 1, "layers: expected None for states that are one array, got 1"),
        ({1: states}, 2, r"layers: expected some of \[1\], got 2"),
        ({}, None, "states: expected at least one layer, got none"),
        ({1: states, 2: states[:, :1]}, None, r"states\[2\]: expected shape .* of all layers"),
    ]:
        with pytest.raises(ValueError, match=message):
            sweep_states(given, None, data.targets, TASK, layers=layers, **own)


def test_heads_of_other_layers_are_not_exported(bert, tmp_path):
    head = load_head_of_layer(bert, tmp_path)
    assert head.layer == 0
    with pytest.raises(ValueError, match="head: expected one that reads the output"):
        export_sentence_transformers(head, bert, tmp_path / "folder")


def load_head_of_layer(bert, tmp_path):
    texts = np.array(["a b", "c d e"] * 10, object)
    splits = dict(zip(("train", "validation", "test"), np.split(np.arange(20), [10, 15]), strict=True))
    data = Dataset("own", texts, np.arange(20) % 2, splits, source="made here", licence="CC0")
    [row] = sweep(bert, data, Classification(2), poolers=["avg"], layers=0, out=tmp_path, **OPTIONS)
    return load_head(head_directory(tmp_path, row))


def test_texts_of_layers():
    for layers in (Layers(), Layers((0, 3)), Layers((3, -1), mixed=True)):
        assert Layers.parse(str(layers)) == layers
    mixed = pooling.LayerMixPool(pooling.MaxPool(), 3)
    with pytest.raises(ValueError, match="z: expected the width of 3 layers side by side, got 4"):
        mixed.init(jax.random.key(0), np.ones((2, 4), np.float32))

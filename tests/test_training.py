import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from heads import one_at_a_time, toy
from helpers import assert_close

from poolax import pooling
from poolax.backbones import (
    Bert,
    BertConfig,
    ImagePreprocess,
    Moment,
    MomentConfig,
    SeriesPreprocess,
    TextPreprocess,
    ViT,
    ViTConfig,
)
from poolax.data import Dataset, digits
from poolax.training import (
    Classification,
    HeadModule,
    Records,
    extract_states,
    head_directory,
    load_head,
    sweep,
    sweep_states,
    train_heads,
)
from poolax.training._devices import Mapper, put, take
from poolax.training._runs import epoch_batches
from poolax.training._states.prefixes import leave_out, prefix_of

CONFIG = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8, use_mask_token=True)
TASK = Classification(3)


@pytest.mark.parametrize("name", ["avg", "wavg", "attn"])
def test_heads_trained_together_on_four_devices_equal_one_at_a_time_on_one(name):
    states, mask, targets, splits = toy()
    pooler = pooling.from_name(name, **({"num_latents": 4, "num_heads": 2} if name == "attn" else {}))
    module = HeadModule(pooler, 3)
    runs = [(0.01, 0), (0.01, 3), (0.003, 0)]
    heads = train_heads(
        module, states[None], mask, targets, TASK, splits=splits, runs=runs, epochs=2, batch_size=8
    )
    assert jax.local_device_count() == 4
    for index, (rate, seed) in enumerate(runs):
        alone = one_at_a_time(module, states, mask, targets, splits["train"], rate, seed, 2, 8)
        together = jax.tree.map(lambda leaf, k=index: leaf[0, k], heads.variables["params"])
        for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert_close(one, other, 2e-5)
    outputs = module.apply({"params": alone}, states[splits["test"]], mask[splits["test"]])
    accuracy = (np.argmax(outputs, -1) == targets[splits["test"]]).mean()
    assert_close(heads.test_metrics["accuracy"][0, -1], accuracy)


def test_epochs_compile_once():
    states, mask, targets, splits = toy()

    def traces(epochs):
        counter = []

        # A class of its own each time: programs of an equal task would be kept.
        class CountingTask(Classification):
            def loss(self, outputs, targets):
                counter.append(outputs.shape)
                return super().loss(outputs, targets)

        train_heads(
            HeadModule(pooling.AveragePool(), 3),
            states[None],
            mask,
            targets,
            CountingTask(3),
            splits=splits,
            runs=[(0.01, 0), (0.01, 1)],
            epochs=epochs,
            batch_size=8,
        )
        return len(counter)

    assert traces(4) == traces(1) > 0


def test_batches_cover_every_example_once():
    for num_examples in (1, 7, 8, 9):
        batches = epoch_batches(3, 1, num_examples, 8)
        assert batches.indices.shape == batches.weights.shape
        real = batches.indices[batches.weights > 0]
        assert sorted(real) == list(range(num_examples))
    one, other = (epoch_batches(3, epoch, 50, 8).indices for epoch in (0, 1))
    assert (one != other).any()
    assert (epoch_batches(3, 0, 50, 8).indices == one).all()


@pytest.mark.parametrize("num_examples", [1, 4, 10, 13])
def test_mapping_pads_and_cuts(num_examples):
    arrays = {"x": np.arange(num_examples * 3.0).reshape(num_examples, 3)}
    seen = []
    mapper = Mapper(lambda shared, batch: {"y": shared * batch["x"]}, 6)
    assert mapper.batch_size == 8
    out = mapper(jnp.float32(2.0), arrays, lambda *a: seen.append(a), "doubling")
    np.testing.assert_array_equal(out["y"], 2 * arrays["x"])
    assert seen[-1] == ("doubling", num_examples, num_examples)


def test_put_and_take():
    tree = {"a": np.arange(3.0), "b": (np.ones(2),)}
    placed = put(tree)
    assert placed["a"].shape == (4, 3)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), take(placed), tree))


@pytest.fixture(scope="module")
def vit():
    return ViT.init(CONFIG, jax.random.key(0), ImagePreprocess(scale=1 / 16))


def test_features_equal_the_model_and_leave_it_alone(vit):
    images = digits().inputs[:37]
    before = jax.tree.map(np.array, vit.params)
    out = extract_states(vit, images, batch_size=16)
    assert_close(out.states, vit(vit.preprocess(images)).states)
    assert out.num_prefix == 1
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == np.asarray(b)).all(), before, vit.params))
    with pytest.raises(ValueError, match=r"inputs: expected at least one, got none"):
        extract_states(vit, images[:0])


SWEEP = {"poolers": ["last", "avg", "wavg", "map"], "seeds": 2, "epochs": 2, "batch_size": 64}


def test_features_of_texts():
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    prepare = TextPreprocess(words.to_str(), 4)
    config = BertConfig(3, 4, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    bert = Bert.init(config, jax.random.key(0), prepare)
    texts = ["a", "b a b", "a a a a a", "b"]
    tokens = extract_states(bert, texts, batch_size=2)
    ids, mask = prepare(texts)
    np.testing.assert_array_equal(tokens.mask, mask)
    assert_close(tokens.states, bert(ids, mask).states, 1e-5)
    with pytest.raises(ValueError, match=r"mask: expected None for texts"):
        extract_states(bert, texts, mask)
    # Token ids are not tokenised again; their mask is theirs, or all of them are real.
    given = extract_states(bert, ids, mask, batch_size=2)
    np.testing.assert_array_equal(given.mask, mask)
    assert_close(given.states, tokens.states, 1e-6)
    assert_close(extract_states(bert, ids).states, bert(ids).states, 1e-5)
    # Two parts an example, as ids and as texts; and some of the examples alone.
    both = extract_states(bert, np.array(texts, object).reshape(2, 2))
    assert_close(both.states.reshape(tokens.states.shape), tokens.states, 1e-5)
    some = extract_states(bert, np.array(texts, object), indices=np.array([3, 1]))
    width = some.states.shape[1]
    assert_close(some.states, tokens.states[[3, 1], :width] * some.mask[..., None], 1e-5)
    pairs = extract_states(bert, ids.reshape(2, 2, -1), mask.reshape(2, 2, -1))
    assert_close(pairs.states.reshape(tokens.states.shape), tokens.states, 1e-5)


def test_features_and_records_of_series():
    config = MomentConfig(16, 4, 8, width=8, num_layers=1, num_heads=2, head_dim=4, mlp_dim=8)
    moment = Moment.init(config, jax.random.key(0), SeriesPreprocess(16, 4))
    rng = np.random.default_rng(0)
    series = rng.normal(size=(20, 24)).astype(np.float32)
    series[3, :9] = np.nan
    tokens = extract_states(moment, series, batch_size=8)
    inputs, mask = moment.preprocess(series)
    assert_close(tokens.states, moment(inputs, mask).states, 1e-5)
    np.testing.assert_array_equal(tokens.mask[3], [False, False, True, True])
    parts = dict(zip(("train", "validation", "test"), np.split(np.arange(20), [10, 15]), strict=True))
    data = Dataset("waves", series, np.arange(20) % 3, parts, "a random generator", "none")
    options = {"poolers": ["avg"], "seeds": 1, "epochs": 1, "batch_size": 5}
    record = sweep(moment, data, Classification(3), **options)[0]
    assert record["preprocess"] == {"steps": 24, "resampled_to": 16}
    assert (record["data_source"], record["data_notes"]) == ("a random generator", [])
    # Of examples in no split nothing is computed, and what is trained on others does not change.
    shuffled = {name: indices + 3 for name, indices in parts.items()}
    padded = np.concatenate([np.full((3, 24), np.nan, np.float32), series])
    more = dataclasses.replace(
        data, inputs=padded, targets=np.r_[[0] * 3, data.targets], splits=shuffled
    )
    assert sweep(moment, more, Classification(3), **options)[0]["test"] == record["test"]
    channels = dataclasses.replace(data, inputs=np.stack([series, series], axis=1))
    with pytest.raises(ValueError, match=r"states: expected .*channels are samples of their own"):
        sweep(moment, channels, Classification(3), **options)


def test_sweep(vit, tmp_path):
    data = digits()
    records = sweep(vit, data, Classification(10), out=tmp_path, **SWEEP)
    assert [(row["pooler"], row["seed"]) for row in records] == [
        (name, seed) for name in SWEEP["poolers"] for seed in range(2)
    ]
    first = records[0]
    assert first["pooler"] == "last"
    assert first["resolved"] == {"name": "first", "options": {}}
    assert first["baseline"] == pytest.approx(0.1, abs=0.03)
    assert len(first["train_loss"]) == len(first["validation_loss"]) == 2
    assert first["versions"]["jax"] == jax.__version__
    assert json.dumps(first)
    assert not any(row["diverged"] for row in records)
    assert len(Records.read(tmp_path / "records.jsonl")) == len(records)

    # The checkpoint of a head predicts what its record says.
    row = records.where(pooler="map")[1]
    head = load_head(head_directory(tmp_path, row))
    assert head.pooler == pooling.QueryAttentionPool()
    test = data.splits["test"]
    states = extract_states(vit, data.inputs[test]).states
    accuracy = (np.argmax(head.predict(states), -1) == data.targets[test]).mean()
    assert_close(row["test"], accuracy)
    with pytest.raises(ValueError, match=r"states: expected width 8, got shape \(3, 4, 9\)"):
        head.predict(np.zeros((3, 4, 9), np.float32))
    with pytest.raises(ValueError, match=r"directory: expected one with a checkpoint"):
        load_head(tmp_path / "heads")


def test_a_sweep_takes_over_what_is_finished(vit, tmp_path):
    data = digits()

    def run(progress=lambda *a: None, **changes):
        options = SWEEP | {"poolers": ["avg", "wavg"]} | changes
        return sweep(vit, data, Classification(10), out=tmp_path, progress=progress, **options)

    first = run()
    seen = []
    again = run(progress=lambda *a: seen.append(a))
    assert list(again) == list(first)
    assert not seen
    more = run(seeds=3)
    assert list(more.where(seed=0)) == list(first.where(seed=0))
    # Seeds do not depend on what is trained beside them.
    whole = sweep(vit, data, Classification(10), **SWEEP | {"poolers": ["avg"], "seeds": 3})
    for one, other in zip(more.where(pooler="avg"), whole, strict=True):
        assert_close(one["train_loss"], other["train_loss"])
    renamed = sweep(
        vit, data, Classification(10), out=tmp_path, **SWEEP | {"poolers": {"a": "avg", "b": "avg"}}
    )
    assert [row["pooler"] for row in renamed] == ["a", "a", "b", "b"]
    longer = run(epochs=3)
    assert {row["epochs"] for row in longer} == {3}
    fresh = run(resume=False)
    assert fresh[0]["train_loss"] == pytest.approx(first[0]["train_loss"], rel=1e-6)


def test_learning_rates_and_prefix(vit):
    data = digits()
    options = SWEEP | {"poolers": {"mean": "avg", "cls": "last"}, "seeds": [7]}
    both = sweep(vit, data, Classification(10), learning_rates=(1e-3, 1e-2), **options)
    assert [(row["pooler"], row["learning_rate"]) for row in both] == [
        ("mean", 1e-3),
        ("mean", 1e-2),
        ("cls", 1e-3),
        ("cls", 1e-2),
    ]
    without = sweep(vit, data, Classification(10), include_prefix=False, **options)
    assert without[0]["train_loss"] != both[0]["train_loss"]
    assert without[1]["train_loss"] == pytest.approx(both[2]["train_loss"], rel=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_prefix_tokens_are_left_out_wherever_padding_puts_them(masked):
    states = np.arange(10.0).reshape(2, 5, 1)
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool) if masked else None
    kept, real = leave_out(jnp.asarray(states), None if mask is None else jnp.asarray(mask), 1)
    pooled = pooling.average_pool(kept, real)
    expected = [[3.5], [6.5]] if masked else [[2.5], [7.5]]
    assert_close(pooled, np.array(expected))
    assert prefix_of(pooling.AveragePool(), 1, include_prefix=False) == 1
    assert prefix_of(pooling.AveragePool(), 1, include_prefix=True) == 0
    assert prefix_of(pooling.FirstPool(), 1, include_prefix=False) == 0


def test_sweep_of_states_with_a_mask():
    states, mask, targets, splits = toy(120)
    garbled = np.where(mask[..., None], states, np.nan)
    options = {"splits": splits, "poolers": ["avg", "max", "wavg"], "seeds": 1, "epochs": 20}
    options["learning_rates"] = (0.01,)
    records = sweep_states(garbled, mask, targets, TASK, **options)
    assert min(row["test"] for row in records) > 0.7
    other = {**splits, "train": splits["train"][:-5]}
    assert (
        sweep_states(garbled, mask, targets, TASK, **options | {"splits": other})[0]["id"]
        != records[0]["id"]
    )
    with pytest.raises(ValueError, match=r"states: expected finite values at real tokens"):
        sweep_states(garbled, None, targets, TASK, **options)


class HalfPool(pooling.Pooler):
    """A pooler of a user's own, without a name."""

    def __call__(self, z, mask=None):
        return 0.5 * pooling.average_pool(z, mask)


def test_vectors_of_several_widths_are_pooled_in_one_pass(vit):
    poolers = {"avg": "avg", "both": pooling.ConcatPool(), "max": "max"}
    data, options = digits().subset(200), {"seeds": 1, "epochs": 1}
    together = sweep(vit, data, Classification(10), poolers=poolers, **options)
    states = extract_states(vit, data.inputs).states
    for row, pooler in zip(together, poolers.values(), strict=True):
        alone = sweep_states(
            states, None, data.targets, Classification(10), splits=data.splits,
            poolers={row["pooler"]: pooler}, **options,
        )  # fmt: skip
        assert_close(row["train_loss"], alone[0]["train_loss"], 1e-4)


def test_a_pooler_of_ones_own(tmp_path):
    states, mask, targets, splits = toy()
    records = sweep_states(
        states,
        mask,
        targets,
        TASK,
        splits=splits,
        poolers=[HalfPool()],
        seeds=1,
        epochs=1,
        out=tmp_path,
    )
    assert records[0]["pooler"] == "HalfPool"
    directory = head_directory(tmp_path, records[0])
    assert load_head(directory, pooler=HalfPool()).pooler == HalfPool()
    with pytest.raises(ValueError, match=r"pooler: expected the pooler of .*, which has no name"):
        load_head(directory)


def test_a_diverged_head_stops_nobody_else():
    states, mask, targets, splits = toy()
    heads = train_heads(
        HeadModule(pooling.SumPool(), 3),
        states[None],
        mask,
        targets,
        TASK,
        splits=splits,
        runs=[(0.01, 0), (np.inf, 0)],
        epochs=2,
        batch_size=8,
    )
    assert heads.diverged.tolist() == [[False, True]]
    assert np.isfinite(heads.train_loss[0, 0]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poolers": ["mean"]}, r"name: expected one of cls, .*got 'mean'"),
        ({"poolers": []}, r"poolers: expected at least one, got none"),
        ({"poolers": ["avg", "avg"]}, r"poolers: expected distinct labels, got avg, avg"),
        ({"seeds": 0}, r"seeds: expected a whole number >= 1, got 0"),
        ({"seeds": []}, r"seeds: expected at least one, got none"),
        ({"epochs": 0}, r"epochs: expected a whole number >= 1, got 0"),
        ({"batch_size": 0}, r"batch_size: expected a whole number >= 1, got 0"),
        ({"learning_rates": (-1.0,)}, r"learning_rates: expected a finite number > 0, got -1"),
        ({"targets": np.full(50, 3)}, r"targets: expected labels from 0 to 2, got 3 to 3"),
        ({"targets": np.zeros(50)}, r"targets: expected whole numbers of shape \(N,\), got float64"),
        ({"targets": np.zeros(49, int)}, r"states: expected one row for each of 49 targets"),
        ({"mask": np.ones((50, 4), bool)}, r"mask: expected bool\[50, 5\], got bool\[50, 4\]"),
        ({"mask": np.ones((50, 5))}, r"mask: expected bool\[50, 5\], got float64"),
        ({"states": np.zeros((50, 0, 8))}, r"states: .*n = 0"),
        (
            {"splits": {"train": [0], "test": [1]}},
            r"splits: expected train, validation and test, got train, test",
        ),
        (
            {"splits": {"train": [0], "validation": [], "test": [1]}},
            r"splits: expected indices from 0 to 49 for 'validation'",
        ),
        (
            {"splits": {"train": [50], "validation": [0], "test": [1]}},
            r"splits: .* for 'train', got array\(\[50\]\)",
        ),
    ],
)
def test_bad_sweeps_are_named(changes, message):
    states, mask, targets, splits = toy()
    arguments = {"states": states, "mask": mask, "targets": targets, "splits": splits}
    arguments |= {"poolers": ["avg"], "seeds": 1, "epochs": 1} | changes
    positional = [arguments.pop(name) for name in ("states", "mask", "targets")]
    with pytest.raises(ValueError, match=message):
        sweep_states(*positional, TASK, **arguments)


def test_bad_backbone_and_features(vit):
    with pytest.raises(ValueError, match=r"backbone: expected a Backbone, got 'vit'"):
        sweep("vit", digits(), Classification(10), poolers=["avg"])
    with pytest.raises(
        ValueError, match=r"feature_dir: expected a folder for states on disk, got neither"
    ):
        sweep(vit, digits(), Classification(10), poolers=["avg"], features="disk")
    with pytest.raises(ValueError, match=r"num_classes: expected a whole number >= 2, got 1"):
        Classification(1)


DEVICES = """
import sys, json, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.data import digits
from poolax.training import (Classification, Converged, Schedule, pretrain_masked_patches, sweep,
                             sweep_states)
assert jax.local_device_count() == int(sys.argv[1])
config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8, use_mask_token=True)
vit = pretrain_masked_patches(config, digits().inputs[:100], Schedule(epochs=2, batch_size=30),
                              preprocess=ImagePreprocess(1 / 16))
rows = sweep(vit, digits(), Classification(10), poolers=["last", "max", "wavg", "attn"], seeds=2,
             epochs=2, batch_size=50)
curves = [row["train_loss"] + row["validation_loss"] for row in rows]
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 240)
states = (rng.normal(size=(240, 4, 6)) + np.eye(3, 6)[labels][:, None]).astype(np.float32)
parts = dict(zip(("train", "validation", "test"), np.split(np.arange(240), [120, 180])))
solved, *learned = sweep_states(states, None, labels, Classification(3), splits=parts, seeds=1,
                                poolers=["avg", "wavg"],
                                solver=Converged(learning_rates=[0.02], max_epochs=4))
curves += [solved["scores_tried"][:4] for _ in range(2)]
curves += [(row["train_loss"] + row["validation_loss"])[:4] for row in learned]
json.dump(curves, sys.stdout)
"""


def losses_on(devices):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": str(2 * devices)}
    command = [sys.executable, "-c", DEVICES, str(devices)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


# The suite itself has four.
@pytest.mark.parametrize("devices", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_one_and_more_devices_give_the_same(devices):
    np.testing.assert_allclose(losses_on(devices), losses_on(1), rtol=1e-5)

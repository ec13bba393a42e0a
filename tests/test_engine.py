"""The sweep's engine: where states come from, what is trained together, and what survives."""

import dataclasses
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heads import TASK, one_at_a_time, toy
from helpers import assert_close

from poolax import empirical, pooling
from poolax.backbones import Bert, BertConfig, ImagePreprocess, ViT, ViTConfig
from poolax.data import digits
from poolax.training import (
    Classification,
    HeadModule,
    Limits,
    PreemptedError,
    Records,
    extract_states,
    head_directory,
    load_head,
    stop_on_sigterm,
    sweep,
    sweep_states,
)
from poolax.training._engine import feed
from poolax.training._engine.feed import Feed, Protocol
from poolax.training._engine.keeping import Keeper
from poolax.training._engine.memory import HeadCost, split_runs
from poolax.training._engine.programs import Tokens
from poolax.training._engine.train import HeadGroup, train_groups
from poolax.training._runs import epoch_batches
from poolax.training._states.features import FeaturePass
from poolax.training._states.padding import length_groups
from poolax.training._states.sources import MemorySource, StreamedSource
from poolax.training._states.store import open_store
from poolax.training._sweep.rows import steps_to_share

RUNS = ((0.01, 0), (0.01, 3), (0.003, 0))
POOLERS = ["last", "avg", "max", "wavg", "map"]


@pytest.fixture(scope="module")
def vit():
    config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    return ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))


@pytest.fixture(scope="module")
def bert():
    return Bert.init(BertConfig(50, 24, 8, 1, 2, 16), jax.random.key(0))


def texts(count, num_tokens=24, left=False):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 50, (count, num_tokens))
    mask = np.arange(num_tokens) < rng.choice([1, 3, 9, 17, num_tokens], count)[:, None]
    mask = mask[:, ::-1] if left else mask
    return np.where(mask, ids, 0), mask


def run(backbone, **options):
    defaults = {"poolers": POOLERS, "seeds": 2, "epochs": 2, "batch_size": 50}
    return sweep(backbone, digits().subset(300), Classification(10), **defaults | options)


def group(pooler="avg", runs=RUNS):
    return HeadGroup(HeadModule(pooling.from_name(pooler), 3), runs)


def trained(source, targets, splits, protocol=None, keeper=None, groups=None):
    return train_groups(
        source, groups or [group()], targets, TASK, protocol or Protocol(2, 8), splits=splits,
        keeper=keeper,
    )  # fmt: skip


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("left", [False, True])
def test_sorted_by_length_states_are_the_padded_ones(bert, left, monkeypatch):
    monkeypatch.setattr("poolax.training._states.padding._LEAST_SAVING", 1)
    ids, mask = texts(90, left=left)
    assert len(length_groups(mask.sum(-1), 24)) > 1
    expected = np.asarray(bert(ids, mask).states)
    states = extract_states(bert, ids, mask, batch_size=16)
    assert_close(np.where(mask[..., None], states.states - expected, 0), 0)
    assert (states.states[~mask] == 0).all()
    assert (states.mask == mask).all()
    pairs = extract_states(bert, ids.reshape(45, 2, -1), mask.reshape(45, 2, -1), batch_size=7)
    assert_close(pairs.states, states.states.reshape(45, 2, *states.states.shape[1:]))


@pytest.mark.parametrize("left", [False, True])
def test_texts_that_are_streamed_are_those_of_the_whole_pass(bert, left, monkeypatch):
    monkeypatch.setattr("poolax.training._states.padding._LEAST_SAVING", 1)
    ids, mask = texts(40, left=left)
    ids, mask = ids.reshape(20, 2, -1), mask.reshape(20, 2, -1)
    features = FeaturePass(bert, ids, mask, batch_size=8)
    whole = features.collect()
    positions = np.array([19, 3, 3, 0, 7])
    some = features.of_examples(positions)
    assert_close(some.states, whole.states[positions])
    assert (some.mask == mask[positions]).all()


def test_lengths_are_few_and_cover_all():
    lengths = np.random.default_rng(0).integers(1, 513, 20_000)
    groups = length_groups(lengths, 512)
    assert len(groups) <= 4
    assert groups[-1] == 512
    assert groups == sorted(groups)
    assert length_groups(np.full(20_000, 30), 512) == [32]
    assert length_groups(np.array([1, 512]), 512) == [512]  # nothing to save


def test_weights_on_a_mesh_stay_there(bert):
    from poolax.backbones import tensor_parallel

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    place = tensor_parallel(mesh)

    def put(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.device_put(leaf, place(name, leaf.shape))

    split = dataclasses.replace(bert, params=jax.tree.map_with_path(put, bert.params))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(split.params))
    ids, mask = texts(20)
    assert_close(extract_states(split, ids, mask).states, extract_states(bert, ids, mask).states)


def test_an_epoch_in_chunks_draws_each_order_once(monkeypatch):
    states, mask, targets, splits = toy()
    train = splits["train"]
    drawn = []

    def draw(seed, epoch, *sizes):
        drawn.append((seed, epoch))
        return epoch_batches(seed, epoch, *sizes)

    monkeypatch.setattr("poolax.training._engine.feed.epoch_batches", draw)
    feed = Feed(MemorySource(states, mask), targets, train, Protocol(2, 4, chunk_steps=3))
    member = SimpleNamespace(group=group(), slots=None)
    assert feed.num_chunks == 3
    for epoch in range(2):
        parts = [batches for chunk in range(3) for _, _, batches in feed.chunk([member], epoch, chunk)]
        for number, (_, seed) in enumerate(RUNS):
            whole = epoch_batches(seed, epoch, len(train), 4)
            for name in ("examples", "weights", "keys"):
                joined = np.concatenate([getattr(part, name)[number] for part in parts])
                np.testing.assert_array_equal(joined[: feed.num_steps], getattr(whole, name))
                assert name == "keys" or not joined[feed.num_steps :].any()
    assert sorted(drawn) == [(seed, epoch) for seed in (0, 3) for epoch in range(2)]


def test_states_in_memory_and_on_disk_give_the_same_heads(vit, tmp_path):
    memory, disk, half = (
        run(vit, **options)
        for options in (
            {"features": "memory"},
            {"features": "disk", "feature_dir": tmp_path},
            {"features": "disk", "feature_dir": tmp_path, "feature_dtype": "bfloat16"},
        )
    )
    for one, other, rough in zip(memory, disk, half, strict=True):
        for name in ("train_loss", "validation_loss", "gradient_norm", "lipschitz"):
            assert_close(other[name], one[name])
        assert other["test_scores"] == one["test_scores"]
        assert_close(rough["train_loss"], one["train_loss"], 1e-2)
        assert rough["id"] != other["id"]
    assert len(stores(tmp_path)) == 2


def test_fixed_poolers_alone_keep_vectors_for_states(vit, tmp_path):
    options = {"poolers": ["last", "avg", "max"], "features": "disk", "feature_dir": tmp_path}
    with pytest.raises(PreemptedError, match="backbone"):
        run(vit, limits=Limits(should_stop=Stopper(2)), **options)
    batches = []
    fixed = run(vit, **options, progress=lambda name, *done: batches.append(name))
    assert batches.count("features") == 2
    [store] = stores(tmp_path)
    assert np.load(store / "states-00000.npy").shape == (512 * 3, vit.config.width)
    memory = run(vit)
    for row in fixed:
        [other] = memory.where(pooler=row["pooler"], seed=row["seed"])
        assert_close(row["train_loss"], other["train_loss"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fixed_poolers_see_the_same_states_whatever_is_trained_beside_them(vit, tmp_path, dtype):
    options = {"features": "disk", "feature_dir": tmp_path, "feature_dtype": dtype, "epochs": 1}
    half = vit.replace(compute_dtype=jnp.bfloat16) if dtype == "float32" else vit
    [alone] = run(half, poolers=["avg"], seeds=1, **options)
    beside, _ = run(half, poolers=["avg", "wavg"], seeds=1, **options)
    for name in ("id", "train_loss", "validation_loss", "test_scores"):
        assert alone[name] == beside[name]


def test_streamed_heads_share_an_order_and_are_otherwise_the_same(vit):
    rows = run(vit, features="stream", seeds=[0, 4])
    memory = run(vit, seeds=[0, 4])
    assert {row["batch_order"] for row in rows} == {"shared by all heads"}
    assert {row["batch_order"] for row in memory} == {"of each seed"}
    for one, other in zip(rows, memory, strict=True):
        assert (one["pooler"], one["seed"]) == (other["pooler"], other["seed"])
        assert one["id"] != other["id"]
        if one["seed"] == 0:  # whose order is the shared one
            assert_close(one["train_loss"], other["train_loss"])
            assert_close(one["validation_loss"], other["validation_loss"])
        else:
            assert not np.allclose(one["train_loss"], other["train_loss"], rtol=1e-6)


def test_the_backbone_runs_once_for_all_streamed_heads(vit, monkeypatch):
    rows = []
    whole = FeaturePass.of_examples

    def counted(self, positions):
        rows.append(len(positions))
        return whole(self, positions)

    monkeypatch.setattr(FeaturePass, "of_examples", counted)
    run(vit, features="stream", epochs=1)
    data = digits().subset(300)
    splits = {name: len(indices) for name, indices in data.splits.items()}
    assert sum(rows) <= splits["train"] + splits["validation"] + splits["test"] + 50


def stores(directory):
    return [path for path in directory.iterdir() if not path.name.startswith(".")]


def store_of(model, directory, count=40, **key):
    ids, mask = texts(count)
    return open_store(directory, FeaturePass(model, ids, mask), key), ids, mask


def test_a_store_is_written_once_and_never_used_damaged(bert, tmp_path, caplog):
    store, ids, mask = store_of(bert, tmp_path)
    rows = np.array([3, 3, 39, 0])
    expected = np.where(mask[..., None], np.asarray(bert(ids, mask).states), 0)
    assert_close(store.fetch(rows).states, expected[rows])
    assert (store.fetch(rows).mask == mask[rows]).all()
    [folder] = stores(tmp_path)
    [shard] = folder.glob("states-*")
    written = shard.stat().st_mtime_ns
    store_of(bert, tmp_path)
    assert shard.stat().st_mtime_ns == written
    assert not caplog.records
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    again, _, _ = store_of(bert, tmp_path)
    assert "has another checksum" in caplog.text
    assert_close(again.fetch(rows).states, expected[rows])
    # Other weights, other data or another program are another store.
    store_of(bert, tmp_path, backbone="other")
    store_of(bert, tmp_path, count=41)
    assert len(stores(tmp_path)) == 3


def test_a_half_written_store_is_not_used(bert, tmp_path, monkeypatch):
    ids, mask = texts(40)
    broken = FeaturePass(bert, ids, mask)
    whole = broken.batches

    def dies(progress, first):
        yield next(iter(whole(progress, first=first)))
        raise KeyboardInterrupt

    monkeypatch.setattr(broken, "batches", dies)
    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path, broken, {})
    assert [path.name.split(".")[0] for path in stores(tmp_path)] == ["incomplete"]
    store, _, _ = store_of(bert, tmp_path)
    assert len(stores(tmp_path)) == 1
    assert_close(store.fetch(np.arange(40)).states[:, 0], bert(ids, mask).states[:, 0])


def test_states_on_disk_are_finite(bert, tmp_path):
    ids, mask = texts(10)
    broken = jax.tree.map(lambda leaf: leaf, bert.params)
    broken["embeddings"]["token"] = broken["embeddings"]["token"].at[:].set(jnp.inf)
    with pytest.raises(ValueError, match="finite"):
        open_store(tmp_path, FeaturePass(dataclasses.replace(bert, params=broken), ids, mask), {})
    assert not [path for path in stores(tmp_path) if not path.name.startswith("incomplete")]


@pytest.mark.parametrize("pooler", ["avg", "wavg", "attn"])
def test_devices_share_heads_or_batches(pooler):
    states, mask, targets, splits = toy()
    source = MemorySource(states, mask)
    options = {"num_latents": 4, "num_heads": 2} if pooler == "attn" else {}
    module = HeadModule(pooling.from_name(pooler, **options), 3)
    for runs in (RUNS[:1], RUNS, RUNS * 2):  # fewer and more than devices
        batch, heads = (
            trained(
                source, targets, splits, Protocol(2, 8, shard=shard), None, [HeadGroup(module, runs)]
            )
            for shard in ("batch", "heads")
        )
        assert_close(heads[0].train_loss, batch[0].train_loss)
        fields = [(h[0].variables, h[0].test_scores, h[0].gradient_norm) for h in (heads, batch)]
        for one, other in zip(*map(jax.tree.leaves, fields), strict=True):
            assert_close(one, other, 2e-5)


def test_in_double_precision_heads_are_those_trained_alone():
    with jax.enable_x64(True):
        states, mask, targets, splits = toy()
        states = states.astype(np.float64)
        for pooler in ("avg", "wavg", "attn"):
            options = {"num_latents": 4, "num_heads": 2} if pooler == "attn" else {}
            module = HeadModule(pooling.from_name(pooler, **options), 3)
            group = HeadGroup(module, RUNS)
            source = MemorySource(states, mask)
            [heads] = trained(source, targets, splits, Protocol(1, 8), groups=[group])
            init = functools.partial(group.structure.init, Tokens.of(source))
            initial = jax.vmap(init)(np.array([seed for _, seed in RUNS]))
            for index, (rate, seed) in enumerate(RUNS):
                params = jax.tree.map(lambda leaf, index=index: leaf[index], initial)
                alone = one_at_a_time(
                    module, states, mask, targets, splits["train"], rate, seed, 1, 8, params
                )
                for one, other in zip(
                    jax.tree.leaves(heads.variables["params"]), jax.tree.leaves(alone), strict=True
                ):
                    assert one.dtype == np.float64
                    assert_close(one[0, index], other, 1e-9)


def test_a_budget_splits_heads_and_changes_nothing(caplog):
    caplog.set_level(logging.INFO, logger="poolax")
    states, mask, targets, splits = toy()
    options = {"splits": splits, "poolers": ["avg", "wavg"], "seeds": 5, "epochs": 2, "batch_size": 8}
    whole = sweep_states(states, mask, targets, TASK, **options)
    small = sweep_states(states, mask, targets, TASK, **options, limits=Limits(memory_budget=4_000))
    assert max(row["heads_trained_together"] for row in small) < 5
    assert "at once in" in caplog.text
    for one, other in zip(whole, small, strict=True):
        assert_close(one["train_loss"], other["train_loss"])
        assert one["id"] == other["id"]


def test_budgets_are_kept():
    for count in range(1, 9):
        for budget in range(1, 50):
            parts = split_runs(tuple(range(count)), HeadCost(3, 2), 2, budget)
            assert [run for part in parts for run in part] == list(range(count))
            assert all(len(part) * 10 <= budget or len(part) == 1 for part in parts)


def test_a_diverged_head_stands_still_where_it_failed():
    states, mask, targets, splits = toy()
    states = states.copy()
    runs = ((0.01, 0), (1e38, 0))
    [heads] = trained(MemorySource(states, mask), targets, splits, groups=[group("sum", runs)])
    assert heads.diverged.tolist() == [[False, True]]
    assert heads.diverged_step[0, 0] == -1
    assert heads.diverged_step[0, 1] >= 1
    kernel = heads.variables["params"]["output"]["kernel"]
    assert np.isfinite(kernel[0, 0]).all()
    [alone] = trained(MemorySource(states, mask), targets, splits, groups=[group("sum", runs[:1])])
    assert_close(heads.train_loss[0, 0], alone.train_loss[0, 0])


class Stopper:
    """Asks to stop at a call."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def __call__(self):
        self.calls += 1
        return self.calls == self.at


@pytest.mark.parametrize("stream", [False, True])
def test_resumed_is_uninterrupted_bit_for_bit(stream, vit, tmp_path):
    data = digits().subset(200)
    images = data.inputs[np.concatenate(list(data.splits.values()))]
    targets = data.targets[np.concatenate(list(data.splits.values()))] % 3
    sizes = np.cumsum([len(part) for part in data.splits.values()])[:-1]
    splits = dict(zip(data.splits, np.split(np.arange(len(images)), sizes), strict=True))
    features = FeaturePass(vit, images)
    source = MemorySource(features.collect().states)
    protocol = Protocol(3, 20)
    if stream:
        source, protocol = StreamedSource(features), Protocol(3, 20, 4, shared_order=True)
    groups = [group("wavg"), group("map")] if stream else [group("wavg")]
    whole = trained(source, targets, splits, protocol, groups=groups)
    for at in (1, 2, 5) if stream else (1, 2):
        directory = tmp_path / str(at)
        keeper = Keeper(directory, should_stop=Stopper(at))
        with pytest.raises(PreemptedError, match="saved in"):
            trained(source, targets, splits, protocol, keeper, groups)
        resumed = trained(source, targets, splits, protocol, Keeper(directory), groups)
        for one, other in zip(whole, resumed, strict=True):
            same(one.variables, other.variables)
            same(
                [one.train_loss, one.validation_score, one.gradient_norm, one.test_scores],
                [other.train_loss, other.validation_score, other.gradient_norm, other.test_scores],
            )


def test_a_run_in_memory_stops_within_an_epoch(tmp_path, monkeypatch):
    states, mask, targets, splits = toy()
    source, protocol = MemorySource(states, mask), Protocol(2, 4)
    [at_once] = trained(source, targets, splits, protocol)
    monkeypatch.setattr(feed, "_MOST_STEPS", 3)
    steps = protocol.steps_at_once(len(splits["train"]))
    parts = -(-at_once.num_steps // steps)
    assert parts > 1
    [whole] = trained(source, targets, splits, protocol)
    same(whole.variables, at_once.variables)
    for at in (1, parts + 1):  # within the first epoch, and within the second one
        keeper = Keeper(tmp_path / str(at), should_stop=Stopper(at))
        with pytest.raises(PreemptedError, match=f"stopped after step {at}, saved in"):
            trained(source, targets, splits, protocol, keeper)
        [resumed] = trained(source, targets, splits, protocol, Keeper(tmp_path / str(at)))
        same(resumed.variables, whole.variables)
        same([resumed.train_loss, resumed.test_scores], [whole.train_loss, whole.test_scores])
        same(resumed.answers, whole.answers)


@pytest.mark.parametrize(
    ("name", "told"), [(None, "nothing was saved"), ("run", "goes on from what was saved before")]
)
def test_a_run_that_is_stopped_in_its_evaluation_says_what_is_left(tmp_path, name, told):
    keeper = Keeper(name and tmp_path / name, should_stop=lambda: True)
    with pytest.raises(PreemptedError, match=f"^stopped while heads are evaluated; {told}$"):
        keeper.ask()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    states, mask, targets, splits = toy()
    source, protocol = MemorySource(states, mask), Protocol(4, 8)
    [whole] = trained(source, targets, splits, protocol)
    keeper = Keeper(tmp_path, every=0.0, should_stop=Stopper(3))
    with pytest.raises(PreemptedError):
        trained(source, targets, splits, protocol, keeper)
    steps = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert steps == [2, 3]
    for path in (tmp_path / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    [resumed] = trained(source, targets, splits, protocol, Keeper(tmp_path))
    assert "checkpoint 3" in caplog.text
    same(whole.variables, resumed.variables)


def test_a_run_that_goes_on_from_disk_does_not_take_what_memory_left(vit, tmp_path):
    options = {"poolers": ["wavg"], "seeds": 1, "epochs": 4, "batch_size": 2, "out": tmp_path}
    with pytest.raises(PreemptedError):
        run(vit, features="memory", limits=Limits(should_stop=Stopper(6)), **options)
    [resumed] = run(vit, features="disk", **options)
    [whole] = run(vit, features="memory", **options | {"out": None})
    assert_close(resumed["train_loss"], whole["train_loss"])


def test_a_sweep_that_is_stopped_goes_on(vit, tmp_path):
    whole = run(vit)
    with pytest.raises(PreemptedError):
        run(vit, out=tmp_path, limits=Limits(should_stop=Stopper(8)))
    assert list((tmp_path / "unfinished").iterdir())
    resumed = run(vit, out=tmp_path)
    for one, other in zip(whole, resumed, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert one["test_scores"] == other["test_scores"]
    assert not list((tmp_path / "unfinished").iterdir())


def test_a_streamed_sweep_stops_while_it_is_evaluated(vit, tmp_path):
    options = {"features": "stream", "poolers": ["wavg"], "seeds": 1, "epochs": 1, "out": tmp_path}
    with pytest.raises(PreemptedError, match="evaluated"):
        run(vit, limits=Limits(should_stop=Stopper(1)), **options)
    assert not (tmp_path / "records.jsonl").exists()
    [resumed] = run(vit, **options)
    assert resumed["epochs"] == 1


def test_sigterm_asks_to_stop():
    before = signal.getsignal(signal.SIGTERM)
    heard = []

    def listen():
        with stop_on_sigterm() as should_stop:
            heard.append(should_stop())
            os.kill(os.getpid(), signal.SIGTERM)
            heard.append(should_stop())

    with pytest.raises(PreemptedError):
        listen()
    assert heard == [False, True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_records_say_what_training_was_like(vit):
    for row in run(vit):
        assert len(row["test_scores"]) == 300
        assert np.mean(row["test_scores"]) == pytest.approx(row["test"])
        for name in ("train_loss", "gradient_norm", "validation_loss", "validation_score", "lipschitz"):
            assert len(row[name]) == 2
            assert np.isfinite(row[name]).all()
        assert row["validation_score"][-1] == row["validation"]
        assert row["steps_to_95_percent"] in (6, 12)
        assert row["diverged_step"] is None


@pytest.mark.parametrize("include_prefix", [True, False])
def test_lipschitz_constants_of_heads_bound_their_jacobians(vit, tmp_path, include_prefix):
    poolers = ["last", "avg", "sum", "max", "wavg", "attn", "map", "hybrid"]
    rows = run(vit, poolers=poolers, seeds=1, out=tmp_path, include_prefix=include_prefix)
    states = jnp.asarray(extract_states(vit, digits().inputs[:3]).states)
    for row in rows:
        head = load_head(head_directory(tmp_path, row))

        def outputs(z, head=head):
            return head.predict(z)

        # Of tokens that are not pooled it is 0.
        measured = [empirical.jacobian_norm(outputs, z) for z in states]
        assert max(measured) <= row["lipschitz"][-1] * (1 + 1e-5), row["pooler"]
        if row["pooler"] in ("last", "avg", "sum"):  # whose bounds are attained
            assert_close(max(measured), row["lipschitz"][-1], 1e-3)


def test_steps_to_a_share():
    rising = np.array([0.1, 0.94, 0.96, 1.0])
    assert steps_to_share(rising, 7, higher_is_better=True) == 21
    assert steps_to_share(1 / rising, 7, higher_is_better=False) == 21
    assert steps_to_share(np.array([1.0, np.nan]), 7, higher_is_better=True) is None
    assert steps_to_share(np.array([-0.5, -0.1]), 1, higher_is_better=True) == 2


class OwnPool(pooling.Pooler):
    @nn.compact
    def __call__(self, z, mask=None):
        return pooling.average_pool(z, mask) * self.param("scale", nn.initializers.ones, ())


def test_a_pooler_without_a_known_bound_has_no_constant(vit):
    [row] = run(vit, poolers={"own": OwnPool()}, seeds=1, epochs=1)
    assert np.isnan(row["lipschitz"]).all()


PROCESS = """
import sys, json, jax
import numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2 if len(sys.argv) > 4 else 4)
if len(sys.argv) > 4:
    jax.distributed.initialize(f"localhost:{sys.argv[3]}", 2, int(sys.argv[4]))
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.data import digits
from poolax.training import Classification, Limits, sweep
config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
vit = ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))
assert jax.device_count() == 4
for shard in ("batch", "heads"):
    for mode in ("memory", "disk", "stream"):
        sweep(vit, digits().subset(100), Classification(10), poolers=["avg", "wavg"], seeds=5,
              epochs=2, batch_size=20, out=f"{sys.argv[1]}/{shard}-{mode}", features=mode,
              limits=Limits(shard=shard))
print("done", sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "8"}
    environment.pop("XLA_FLAGS", None)

    def start(name, *arguments):
        command = [sys.executable, "-c", PROCESS, str(tmp_path / name), name, *arguments]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    both = [start("two", port, "0"), start("two", port, "1")]
    for process in both:
        _, problems = process.communicate(timeout=500)
        assert process.returncode == 0, problems
    alone = start("one")
    _, problems = alone.communicate(timeout=500)
    assert alone.returncode == 0, problems
    for shard in ("batch", "heads"):
        for mode in ("memory", "disk", "stream"):
            one, two = (
                Records.read(tmp_path / name / f"{shard}-{mode}" / "records.jsonl")
                for name in ("one", "two")
            )
            assert len(one) == len(two) == 10
            for a, b in zip(one, two, strict=True):
                assert a["id"] == b["id"]
                assert_close(b["train_loss"], a["train_loss"])
                assert_close(b["validation_loss"], a["validation_loss"])


KILLED = """
import sys, jax
jax.config.update("jax_platforms", "cpu")
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.data import digits
from poolax.training import Classification, Limits, sweep
config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
vit = ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))
def tell(description, done, total):
    print(description, done, flush=True)
sweep(vit, digits(), Classification(10), poolers=["wavg"], seeds=1, epochs=30, batch_size=4,
      out=sys.argv[1], limits=Limits(checkpoint_every=0.0), progress=tell)
"""


@pytest.mark.slow
def test_kill_at_any_moment_loses_an_interval_at_most(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start(name):
        command = [sys.executable, "-c", KILLED, str(tmp_path / name)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    with start("whole") as whole:
        whole.communicate(timeout=300)
    with start("killed") as killed:
        for line in killed.stdout:
            if line.startswith("wavg 11"):
                killed.kill()
                break
    with start("killed") as resumed:
        lines, _ = resumed.communicate(timeout=300)
    epochs = [int(line.split()[1]) for line in lines.splitlines() if line.startswith("wavg")]
    assert 1 < epochs[0] <= 12
    one, two = (Records.read(tmp_path / name / "records.jsonl")[0] for name in ("whole", "killed"))
    assert one["train_loss"] == two["train_loss"]
    assert one["test_scores"] == two["test_scores"]

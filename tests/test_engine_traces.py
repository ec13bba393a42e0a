"""The engine's programs are compiled once, whatever the number of epochs, chunks, seeds and batches."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from heads import TASK, toy

from poolax import data, pooling
from poolax._programs import kept_program
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.training import Classification, HeadModule, sweep
from poolax.training._devices import Mapper, Trainer
from poolax.training._engine.feed import Feed, Protocol
from poolax.training._engine.flat import Flat
from poolax.training._engine.keeping import Keeper
from poolax.training._engine.programs import evaluation_program, head_programs
from poolax.training._engine.train import HeadGroup, Member, train_groups
from poolax.training._states.sources import MemorySource

RUNS = ((0.01, 0), (0.01, 3))


def group(pooler="wavg", runs=RUNS):
    return HeadGroup(HeadModule(pooling.from_name(pooler), 3), runs)


@pytest.fixture
def at_most(monkeypatch):
    """Every function that is mapped over devices is traced so often at most."""
    pmap = jax.pmap
    chex.clear_trace_counter()  # which knows functions by a number that another one may have had

    def limit(most):
        def limited(fn, **options):
            return pmap(chex.assert_max_traces(fn, n=most), **options)

        monkeypatch.setattr("poolax.training._devices.jax.pmap", limited)
        # Kept, but of this test alone.
        for module, build in (("train", head_programs), ("evaluation", evaluation_program)):
            kept = kept_program(inspect.unwrap(build))
            monkeypatch.setattr(f"poolax.training._engine.{module}.{build.__name__}", kept)

    return limit


@pytest.mark.parametrize("shard", ["batch", "heads"])
def test_steps_and_evaluation_are_traced_once(at_most, shard, tmp_path):
    at_most(1)
    states, mask, targets, splits = toy()  # splits of other sizes, last batches that are not full
    runs = (*RUNS, (0.003, 1), (0.01, 0))
    protocol = Protocol(3, 4, chunk_steps=3, shard=shard)
    source = MemorySource(states, mask)
    train_groups(
        source,
        [group(runs=runs)],
        targets,
        TASK,
        protocol,
        splits=splits,
        keeper=Keeper(tmp_path, every=0.0),
    )


def test_a_second_call_traces_nothing(at_most):
    at_most(1)
    states, mask, targets, splits = toy()
    for seed in (0, 1):  # other runs, and as many, are the same programs
        source = MemorySource(states + np.float32(seed), mask)
        runs = ((0.01, seed), (0.1, 5))
        train_groups(source, [group(runs=runs)], targets, TASK, Protocol(2, 4), splits=splits)


def test_a_second_sweep_compiles_nothing():
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    def run(vit):
        poolers = {"avg": "avg", "map": pooling.QueryAttentionPool()}
        return sweep(
            vit, digits, Classification(10), poolers=poolers, seeds=1, epochs=1, learning_rates=(0.01,)
        )

    config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    digits = data.digits().subset(64)
    # Other weights, equal structure.
    one, other = (ViT.init(config, jax.random.key(k), ImagePreprocess(scale=1 / 16)) for k in (0, 1))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first = run(one)
        assert compiled
        compiled.clear()
        second = run(other)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
    assert [row["test_scores"] for row in first] != [row["test_scores"] for row in second]


def test_a_resumed_state_is_no_other_program(at_most):
    at_most(1)
    states, mask, targets, splits = toy()
    source = MemorySource(states, mask)
    member = Member(group(), source, TASK, Protocol(2, 8))
    data, batches = one_chunk(member, source, targets, splits)
    member.train(data, batches)
    member.resume(member.keep())
    member.train(data, batches)


def one_chunk(member, source, targets, splits):
    [(_, data, batches)] = Feed(source, targets, splits["train"], Protocol(2, 8)).chunk([member], 0, 0)
    return data, batches


def test_lengths_are_one_trace_each(at_most, monkeypatch):
    monkeypatch.setattr("poolax.training._states.lengths._LEAST_SAVING", 1)
    at_most(3)  # lengths of evaluation; the steps have one program for all of theirs
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(60) < 0.2, 24, rng.integers(1, 16, 60))
    mask = np.arange(24) < lengths[:, None]
    states = np.where(mask[..., None], rng.normal(size=(60, 24, 4)), 0).astype(np.float32)
    splits = dict(zip(("train", "validation", "test"), np.split(np.arange(60), [30, 45]), strict=True))
    train_groups(
        MemorySource(states, mask),
        [group()],
        rng.integers(0, 3, 60),
        TASK,
        Protocol(3, 6),
        splits=splits,
    )


def test_batches_of_a_map_are_traced_once(at_most):
    at_most(1)
    mapper = Mapper(lambda shared, batch: shared * batch, 6)
    for count in (1, 8, 13):
        np.testing.assert_array_equal(mapper(jnp.float32(2.0), np.arange(count)), 2 * np.arange(count))


def test_a_state_without_its_axes_is_refused():
    trainer = Trainer(lambda params, *_: params, optax.inject_hyperparams(optax.sgd)(0.1))
    with pytest.raises(AssertionError, match="learning_rate"):
        trainer.init(jnp.zeros((3, 2)), learning_rate=jnp.zeros(2))
    states, mask, _, _ = toy()
    member = Member(group(), MemorySource(states, mask), TASK, Protocol(2, 8))
    kept = member.keep()
    kept["state"] = kept["state"].replace(params=kept["state"].params[..., :-1])
    with pytest.raises(AssertionError):
        member.resume(kept)


def test_one_flat_array_is_trained_as_its_tree():
    rng = np.random.default_rng(0)
    tree = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2), "scale": rng.normal(size=())}
    tree = jax.tree.map(jnp.float32, tree)
    flat = Flat(tree)
    chex.assert_trees_all_equal(flat.split(flat.join(tree)), tree)
    optimizer = optax.adam(0.01)
    x = jnp.float32(rng.normal(size=(8, 3)))

    def loss(tree):
        return jnp.mean(jnp.tanh(x @ tree["kernel"] * tree["scale"] + tree["bias"]) ** 2)

    @functools.partial(jax.jit, static_argnums=1)
    def steps(params, loss):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=50)[0][0]

    joined = steps(flat.join(tree), lambda params: loss(flat.split_to_learn(params)))
    chex.assert_trees_all_close(flat.split(joined), steps(tree, loss), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="shapes: expected arrays of one dtype, got float16, float32"):
        Flat({"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.float16)})

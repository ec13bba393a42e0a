"""Arguments that are wrong are refused by name, whatever they are."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heads import toy

from poolax import attention, blocks, data, pooling, training
from poolax.backbones import ViT, ViTConfig
from poolax.reporting import score_table, summarize_scores

STATES, MASK, TARGETS, SPLITS = toy(30)
Z, M = STATES[:2], np.ones((2, 5), bool)
TASK = training.Classification(3)
NOTHING = (0, -1, 1.5, np.nan, np.inf, "1", None, True, 1j, [1.0], np.ones(3), b"x", {}, object())


def without(*good):
    """What is wrong for an argument that may be one of these."""
    return [value for value in NOTHING if not any(value is one for one in good)]


def sweep_states(**changed):
    given = {
        "states": STATES, "mask": None, "targets": TARGETS, "task": TASK, "splits": SPLITS,
        "poolers": ["avg"], "seeds": 1, "epochs": 1,
    } | changed  # fmt: skip
    positional = [given.pop(name) for name in ("states", "mask", "targets", "task")]
    return training.sweep_states(*positional, **given)


@functools.cache
def vit():
    sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
    config = ViTConfig(8, 4, 1, **sizes, use_mask_token=True)
    return ViT.init(config, jax.random.key(0))


@functools.cache
def digits():
    return data.digits().subset(8)


def sweep(**changed):
    given = {"backbone": vit(), "dataset": digits(), "task": TASK, "poolers": ["avg"]} | changed
    positional = [given.pop(name) for name in ("backbone", "dataset", "task")]
    return training.sweep(*positional, **given)


def dataset(**changed):
    fields = {
        "name": "d", "inputs": np.zeros((6, 2)), "targets": np.zeros(6, int), "source": "s",
        "splits": {"train": np.arange(4), "test": np.array([4, 5])}, "licence": "l",
    }  # fmt: skip
    return data.Dataset(**fields | changed)


# What no array of tokens is.
NO_TOKENS = {
    "list": Z.tolist(), "objects": Z.astype(object), "whole": Z.astype(int), "bool": Z > 0,
    "complex": Z.astype(complex), "text": "abc", "texts": np.array([["a", "b"]]), "none": None,
    "no axes": np.float32(1), "one axis": Z[0, 0], "no token": Z[:, :0], "no width": Z[..., :0],
    "eight bits": jnp.asarray(Z, jnp.float8_e4m3fn), "masked array": np.ma.masked_array(Z),
    "times": Z.astype("m8[s]"), "nan": np.full_like(Z, np.nan), "inf": np.full_like(Z, np.inf),
}  # fmt: skip
NO_MASK = {
    "whole": M.astype(int), "float": M * 1.0, "list": M.tolist(), "text": "x", "short": M[:, :3],
    "objects": M.astype(object), "rank 3": M[..., None], "empty": np.zeros(0, bool),
}  # fmt: skip
POOLERS = {
    name: pooling.from_name(name, **options)
    for name, options in {
        "first": {}, "last": {}, "avg": {}, "sum": {}, "max": {}, "wavg": {}, "map": {}, "hybrid": {},
        "attn": {"num_latents": 4, "num_heads": 2},
    }.items()
}  # fmt: skip
WEIGHTS = np.ones(5, np.float32)


def of_tokens():
    functions = ("first_pool", "last_pool", "average_pool", "sum_pool", "max_pool")
    for name in functions:
        pool = getattr(pooling, name)
        for what, z in NO_TOKENS.items():
            yield f"{name} z {what}", "z", lambda pool=pool, z=z: pool(z)
        for what, mask in NO_MASK.items():
            yield f"{name} mask {what}", "mask", lambda pool=pool, mask=mask: pool(Z, mask)
    for what, z in NO_TOKENS.items():
        yield f"weighted z {what}", "z", lambda z=z: pooling.weighted_average_pool(z, WEIGHTS)
    for name, pooler in POOLERS.items():
        variables = jax.eval_shape(pooler.init, jax.random.key(0), Z)
        variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)
        for what, z in NO_TOKENS.items():
            yield f"{name} z {what}", "z", lambda p=pooler, v=variables, z=z: p.apply(v, z)
        for what, mask in NO_MASK.items():
            yield f"{name} mask {what}", "mask", lambda p=pooler, v=variables, m=mask: p.apply(v, Z, m)
        if name in ("attn", "map"):
            for width in (1, 2, 4, 16):
                other = np.ones((2, 5, width), np.float32)
                names = ("z", "num_heads")
                yield (
                    f"{name} width {width}",
                    names,
                    lambda p=pooler, v=variables, z=other: p.apply(v, z),
                )


def of_attention():
    def mask(**changed):
        return attention.attention_mask(**{"num_tokens": 5, "causal": True} | changed)

    for name, good in {"num_tokens": (), "window": (None,), "causal": (True,)}.items():
        for value in without(*good):
            yield f"attention_mask {name} {value!r}", name, lambda n=name, v=value: mask(**{n: v})
    for what, value in NO_MASK.items():
        yield f"attention_mask mask {what}", "mask", lambda v=value: mask(mask=v)
    numbers = np.ones((2, 5), int)
    for what, value in {
        "float": numbers * 1.0, "short": numbers[:, :3], "list": [1] * 5, "text": "x", "bool": M,
    }.items():  # fmt: skip
        yield f"attention_mask segments {what}", "segments", lambda v=value: mask(segments=v)
    segments = np.ones((3, 5), int)
    yield "attention_mask together", "segments", lambda: mask(mask=M, segments=segments)
    for value in without(True):
        module = attention.MultiHeadAttention(2, causal=value)
        yield f"attention causal {value!r}", "causal", lambda m=module: m.init(jax.random.key(0), Z)
    for value in (None, "relu"):
        tbm = blocks.TBM(2, pooling.AveragePool(), activation=value)
        yield f"TBM activation {value!r}", "activation", lambda m=tbm: m.init(jax.random.key(0), Z)


def of_configurations():
    for value in (*NOTHING, "AVG", ["avg"], pooling.AveragePool):
        yield f"from_name {value!r}", "name", lambda v=value: pooling.from_name(v)
    for value in (
        *NOTHING, [], "avg", {"name": "avg"}, {"options": {}}, {"name": "avg", "options": []},
        {"name": "avg", "options": None}, {"name": "avg", "options": {}, "more": 1},
    ):  # fmt: skip
        yield f"from_config {value!r}", "config", lambda v=value: pooling.from_config(v)
    for value in (["avg"], "avg", [None], None, 1, {}):
        config = {"name": "hybrid", "options": {"poolers": value}}
        names = ("config", "options of 'hybrid'")
        yield f"from_config poolers {value!r}", names, lambda c=config: pooling.from_config(c)
    yield "from_config name", "name", lambda: pooling.from_config({"name": ["a"], "options": {}})
    yield "to_config", "pooler", lambda: pooling.to_config(None)


def of_sweeps():
    wrong = {
        "seeds": (*without(True), "23", [1.7], ["a"], [], [0, 0], [-1], [2**40], [True], [[1]], None),
        "epochs": without(),
        "batch_size": without(),
        "learning_rates": (*without(NOTHING[9]), 1e-3, "ab", [0], [-1], [np.nan], [1e300], [1e-3] * 2),
        "poolers": (*NOTHING[:-1], "avg", [], ["x"], ["avg", "avg"], [pooling.AveragePool], {1: "avg"}),
        "task": (*NOTHING, "classification", training.Classification),
        "splits": (*NOTHING, {**SPLITS, "test": "abc"}, {**SPLITS, "test": np.ones(30, bool)}),
        "limits": without(None),
        "resume": without(True),
        "out": (*without(None, "1"), ""),
        "name": (*without(None, "1"), ""),
        "progress": NOTHING,
    }
    states = {k: v for k, v in NO_TOKENS.items() if k not in ("list",)}
    for value in (*states.values(), STATES[:5]):
        yield f"sweep_states states {np.shape(value)}", "states", lambda v=value: sweep_states(states=v)
    for name, values in wrong.items():
        for value in values:
            call = lambda n=name, v=value: sweep_states(**{n: v})  # noqa: E731
            yield f"sweep_states {name} {value!r:.40}", name, call
    for name, values in {
        "backbone": NOTHING, "dataset": NOTHING, "features": NOTHING, "include_prefix": without(True),
        "feature_dir": (*without(None, "1"), ""), "feature_dtype": NOTHING, "task": NOTHING,
        "out": ("", 1), "limits": ("x",), "name": (1, ""),
    }.items():  # fmt: skip
        for value in values:
            yield f"sweep {name} {value!r:.40}", name, lambda n=name, v=value: sweep(**{n: v})
    for cls, name, values in (
        (training.Limits, "memory_budget", without(None)),
        (training.Limits, "shard", NOTHING),
        (training.Limits, "mapping", NOTHING),
        (training.Limits, "checkpoint_every", without(0, 1.5, True)),
        (training.Limits, "should_stop", NOTHING),
        (training.Schedule, "epochs", NOTHING),
        (training.Schedule, "batch_size", NOTHING),
        (training.Schedule, "learning_rate", without(1.5, True)),
        (training.Schedule, "seed", without(0)),
        (training.Schedule, "checkpoint_every", NOTHING),
        (training.Schedule, "out", (*without(None, "1"), "")),
        (training.Schedule, "progress", NOTHING),
        (training.Classification, "num_classes", NOTHING),
        (training.SentenceSimilarity, "projection_dim", NOTHING),
        (training.Forecasting, "horizon", NOTHING),
    ):
        for value in values:
            if isinstance(value, bool) and name in ("memory_budget",):
                continue
            yield f"{cls.__name__} {name} {value!r}", name, lambda c=cls, n=name, v=value: c(**{n: v})


def of_heads():
    module = training.HeadModule(pooling.AveragePool(), 3)

    def train_heads(**changed):
        given = {
            "module": module, "states": STATES[None], "mask": None, "targets": TARGETS, "task": TASK,
            "splits": SPLITS, "runs": [(1e-3, 0)], "epochs": 1, "batch_size": 8,
        } | changed  # fmt: skip
        positional = [given.pop(name) for name in ("module", "states", "mask", "targets", "task")]
        return training.train_heads(*positional, **given)

    def extract(**changed):
        given = {"backbone": vit(), "inputs": np.zeros((4, 8, 8, 1), np.float32)} | changed
        return training.extract_states(given.pop("backbone"), given.pop("inputs"), **given)

    def pretrain(**changed):
        schedule = training.Schedule(epochs=1, batch_size=4)
        given = {"config": vit().config, "images": np.zeros((8, 8, 8, 1)), "schedule": schedule}
        return training.pretrain_masked_patches(**given | changed)

    def save_tbm(**changed):
        model = blocks.TBM(2, pooling.AveragePool())
        return training.save_tbm(**{"directory": "x", "model": model, "variables": {}} | changed)

    def head(**changed):
        given = {"pooler": pooling.AveragePool(), "num_outputs": 3} | changed
        return training.HeadModule(**given).init(jax.random.key(0), Z)

    for call, name, values in (
        (train_heads, "module", NOTHING),
        (train_heads, "states", NOTHING),
        (train_heads, "targets", NOTHING),
        (train_heads, "task", (*NOTHING, training.Classification)),
        (train_heads, "splits", NOTHING),
        (train_heads, "runs", (*NOTHING, [], [1], [("a", 0)], [(1e-3, 1.5)], [(-1.0, 0)], [(1, 2, 3)])),
        (train_heads, "epochs", NOTHING),
        (train_heads, "batch_size", NOTHING),
        (extract, "backbone", NOTHING),
        (extract, "inputs", (*without(NOTHING[9], NOTHING[10]), [])),
        (extract, "indices", (*without(None), [99], [-1])),
        (extract, "batch_size", NOTHING),
        (pretrain, "config", NOTHING),
        (pretrain, "images", without()[:3]),
        (pretrain, "schedule", NOTHING),
        (save_tbm, "directory", (*without("1"), "")),
        (save_tbm, "model", NOTHING),
        (head, "pooler", NOTHING),
        (head, "num_outputs", NOTHING),
        (training.load_head, "directory", (*without("1"), "", "/nowhere")),
    ):
        for value in values:
            what = f"{call.__name__} {name} {value!r:.40}"
            yield what, (name, "path"), lambda c=call, n=name, v=value: c(**{n: v})


def of_data():
    for name, values in {
        "inputs": NOTHING, "name": without("1"),
        # A set of which nothing is to be predicted has no targets: an empty mapping.
        "targets": [value for value in NOTHING if not isinstance(value, dict)],
        "splits": (*NOTHING[:-2], {"train": np.arange(4), "test": "x"}, {"train": [0.5], "test": [1]}),
    }.items():  # fmt: skip
        for value in values:
            if isinstance(value, np.ndarray) and name == "inputs":
                continue
            names = (name, "targets", "inputs")
            yield f"Dataset {name} {value!r}", names, lambda n=name, v=value: dataset(**{n: v})
    for value in without():
        yield f"subset {value!r}", "num_examples", lambda v=value: dataset().subset(v)
    for value in without(0):
        yield f"subset seed {value!r}", "seed", lambda v=value: dataset().subset(2, seed=v)
    for value in (*NOTHING, "mnist"):
        yield f"load {value!r}", "name", lambda v=value: data.load(v)
        yield f"entry {value!r}", "name", lambda v=value: data.entry(v)
    for name, good in {"batch_size": (), "seed": (0,), "process_count": (), "num_threads": ()}.items():
        for value in without(*good):
            given = {"batch_size": 2, name: value}
            yield (
                f"Pipeline {name} {value!r}",
                name,
                lambda g=given: data.Pipeline(dataset(), "train", **g),
            )
    for value in NOTHING:
        yield (
            f"Pipeline split {value!r}",
            "split",
            lambda v=value: data.Pipeline(dataset(), v, batch_size=2),
        )
        yield (
            f"Pipeline dataset {value!r}", "dataset",
            lambda v=value: data.Pipeline(v, "train", batch_size=2),
        )  # fmt: skip


def of_reports():
    for value in ([{}], [{"kind": "lipschitz"}], [1], ["x"], [None]):
        for report in (score_table, summarize_scores):
            yield f"{report.__name__} {value!r}", "records", lambda r=report, v=value: r(v)
    for value in ({}, {"task": "t"}, None, "x"):
        yield f"head_directory {value!r}", "record", lambda v=value: training.head_directory("out", v)


def outcome(what, names, call):
    names = (names,) if isinstance(names, str) else names
    try:
        found = call()
    except ValueError as error:
        message = str(error)
        named = message.startswith(names)
        return None if named and "\n" not in message else f"{what}: {message}"
    except Exception as error:
        return f"{what}: {type(error).__name__}: {error}"
    return f"{what}: taken, gives {found!r:.60}"


@pytest.mark.parametrize(
    "kind", [of_tokens, of_attention, of_configurations, of_sweeps, of_heads, of_data, of_reports]
)
def test_arguments(kind: types.FunctionType, attack):
    name = f"wrong arguments {kind.__name__.replace('_', ' ')}"
    attack(name, [outcome(*case) for case in kind()])

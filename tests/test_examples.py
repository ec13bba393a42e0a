"""Examples run, reduced to seconds."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import chex
import numpy as np
import pytest
import tyro

EXAMPLES = pathlib.Path(__file__).parents[1] / "experiments" / "examples"


@pytest.fixture(scope="module")
def example():
    """An example by its name, as a module; each is read once."""
    read = {}
    sys.path.insert(0, str(EXAMPLES))  # for what stands beside it, as where it is run

    def of(name):
        if name not in read:
            spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
            read[name] = importlib.util.module_from_spec(spec)
            sys.modules[name] = read[name]  # where dataclasses look their annotations up
            spec.loader.exec_module(read[name])
        return read[name]

    yield of
    sys.path.remove(str(EXAMPLES))
    for name in read:
        del sys.modules[name]


@pytest.fixture(scope="module")
def regularize(example):
    return example("regularize")


@pytest.fixture(scope="module")
def regularize_training(example):
    return example("regularize_training")


def test_tokens_keep_distances_and_the_domain_holds_them(regularize_training):
    from poolax import bounds

    images = np.random.default_rng(0).integers(0, 2, (20, 8, 8)).astype(np.float32)
    images = np.concatenate([images, np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)])
    tokens = np.asarray(regularize_training.to_tokens(images, 24))
    assert tokens.shape == (22, 16, 24)
    np.testing.assert_allclose(
        np.linalg.norm(tokens[0] - tokens[1]), np.linalg.norm(images[0] - images[1]), rtol=1e-5
    )
    assert (tokens[0, 1, :4] == images[0, :2, 2:4].reshape(-1)).all()
    domain, found = regularize_training.domain_of_images(), bounds.domain_of(tokens)
    np.testing.assert_allclose([found.radius, found.spread], [domain.radius, domain.spread], rtol=1e-4)


def test_capped_blocks_keep_to_the_cap(regularize_training):
    rng = np.random.default_rng(0)
    block = {
        "attention": {"query": {"kernel": 3 * rng.normal(size=(8, 2, 4)).astype(np.float32)}},
        "norm1": {"scale": np.array([0.5, -3.0], np.float32), "bias": np.array([4.0, 4.0])},
    }
    params = {"pooler": block, "output": {"kernel": 9 * np.eye(8, dtype=np.float32)}}
    found = regularize_training.capped(params, 1.5)
    kernel = found["pooler"]["attention"]["query"]["kernel"].reshape(8, 8)
    np.testing.assert_allclose(np.linalg.norm(kernel, 2), 1.5, rtol=1e-4)
    np.testing.assert_array_equal(found["pooler"]["norm1"]["scale"], [0.5, -1.5])
    chex.assert_trees_all_equal(found["output"], params["output"])
    chex.assert_trees_all_equal(regularize_training.capped(params, np.inf), params)


def test_a_model_that_gives_one_class_to_all_is_not_chosen(regularize):
    """Nothing changes its class, so that its radius is infinite."""
    accuracies, radii = np.array([0.1, 0.93, 0.97, 0.91]), np.array([9.0, 0.3, 0.1, 0.8])
    assert regularize.best_of(accuracies, radii) == 1


@pytest.mark.slow
def test_regularize(regularize, tmp_path, capsys, monkeypatch):
    arguments = "--quick --kinds l2 --out"
    monkeypatch.setattr(sys, "argv", ["regularize.py", *arguments.split(), str(tmp_path)])
    regularize.main()
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "regularize.jsonl").read_text().splitlines()]
    assert [row["way"] for row in rows] == list(regularize.WAYS)
    assert [bool(row["strength"]) for row in rows] == [False, True, False, False]
    for record in rows:
        for name in ("measured_real", "measured_adversarial"):
            assert (np.array(record[name]) <= record["sharp"]).all()
        certified = np.array(record["certified"])
        attacked = np.array(
            [[np.inf if one is None else one for one in of] for of in record["attacked"]]
        )
        assert certified.shape == attacked.shape
        assert (certified <= attacked * (1 + 1e-5)).all()
        # Validation chose, of all that was tried.
        least = max(one["validation_accuracy"] for one in record["tried"]) - 0.05
        best = max(
            (one for one in record["tried"] if one["validation_accuracy"] >= least),
            key=lambda one: one["validation_radius"],
        )
        assert all(
            record[name] == best[name] for name in ("learning_rate", "strength", "cap", "margin")
        )
        # Of what is wrong nothing is certified, and nothing has to be attacked.
        assert ((certified == 0) == (attacked == 0)).all()
        assert f"{100 * np.mean(record['accuracy']):.1f}" in printed
    plain, penalised, capped, margin = (np.array(row["sharp"]) for row in rows)
    assert (penalised < plain).all()
    assert (margin < capped).all()


def test_a_wrong_option_is_one_line(pytestconfig):
    script = pytestconfig.rootpath / "experiments" / "examples" / "regularize.py"
    done = subprocess.run(
        [sys.executable, script, "--width", "19"], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: width: expected a whole number >= 20, got 19\n"


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Token states, padded on both sides, and heads of all poolers that need no library."""
    from poolax import training

    rng = np.random.default_rng(0)
    states = rng.normal(size=(40, 6, 8)).astype(np.float32)
    labels = np.arange(40) % 2
    states[:, 1] += labels[:, None]
    places = np.arange(6)
    starts, ends = rng.integers(0, 2, (40, 1)), rng.integers(4, 7, (40, 1))
    mask = (places >= starts) & (places < ends)
    splits = {"train": np.arange(20), "validation": np.arange(20, 30), "test": np.arange(30, 40)}
    out = tmp_path_factory.mktemp("heads")
    records = training.sweep_states(
        states, mask, labels, training.Classification(2),
        splits=splits, poolers=["first", "last", "avg", "sum", "max", "wavg"], seeds=1, epochs=1,
        num_prefix=1, include_prefix=False, out=out,
    )  # fmt: skip
    return states, mask, {row["pooler"]: training.head_directory(out, row) for row in records}


def test_heads_reload_without_poolax(heads, tmp_path):
    """All of them in one process, in which neither poolax nor Flax can be imported."""
    from poolax import training

    states, mask, directories = heads
    np.savez(tmp_path / "inputs.npz", states=states, mask=mask)
    program = f"""
import runpy, sys
sys.modules["poolax"] = sys.modules["flax"] = None
import numpy as np
example = runpy.run_path({str(EXAMPLES / "reload_head.py")!r})
given = np.load("inputs.npz")
for directory in sys.argv[1:]:
    print(example["predict"](directory, given["states"], given["mask"]).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, directories.values())],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    for line, (name, directory) in zip(lines, directories.items(), strict=True):
        expected = training.load_head(directory).predict(states, mask)
        np.testing.assert_allclose(json.loads(line), expected, atol=1e-4, err_msg=name)


def run(module, capsys, *arguments):
    """What a script prints that ends well."""
    kinds = (kind for kind in vars(module).values() if isinstance(kind, type) and hasattr(kind, "run"))
    [command] = [kind for kind in kinds if kind.__module__ == module.__name__]
    assert tyro.cli(command, args=[*map(str, arguments)]).run() == 0
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnx", "equinox", "arrays"])
def test_modules_of_others_stay_below_their_bounds(name, example, capsys):
    if name == "equinox":
        pytest.importorskip("equinox")
    printed = run(example("own_module"), capsys, "--modules", name, "--steps", 5, "--json")
    row = json.loads(printed)
    assert row["measured"] <= row["found"] * (1 + 1e-5)
    assert row["found"] <= row["bound"]


@pytest.mark.slow
def test_a_pooler_of_ones_own(example, capsys, tmp_path):
    module = example("own_pooler")
    arguments = ["--poolers", "avg", "--seeds", 1, "--epochs", 2, "--out", tmp_path]
    printed = run(module, capsys, *arguments)
    assert "Loaded by its name: ClippedAveragePool" in printed
    assert "clipped_average" in printed


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["padding", "rows", "dtype", "bound"])
def test_the_suite_of_the_pooler_finds_faults(fault, example):
    """Each of them is one that somebody has written."""
    import jax.numpy as jnp

    from poolax import bounds, pooling

    def of(z, mask):
        average = pooling.average_pool(z, mask)
        if fault == "padding":
            return jnp.mean(z, axis=-2)
        if fault == "rows":
            return average / (1 + jnp.max(jnp.abs(z), where=jnp.isfinite(z), initial=0))
        return average.astype(jnp.float32) if fault == "dtype" else 3 * average

    class Faulty(pooling.Pooler):
        def __call__(self, z, mask=None):
            return of(z, mask)

    @bounds.register_pooler(Faulty)
    def _(pooler, variables, *, num_tokens, dim, spread):
        return bounds.PoolerBound(l2=1 / jnp.sqrt(num_tokens.low), l1=1.0)

    with pytest.raises(AssertionError):
        example("own_pooler").check(Faulty(), {}, 4, 0)


@pytest.mark.slow
def test_few_images_of_each_class(example, capsys, tmp_path):
    from PIL import Image

    for name, grey in (("dark", 60), ("light", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            image = np.random.default_rng(number).integers(grey - 50, grey + 50, (9, 12, 3))
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    module, out = example("few_shot_images"), tmp_path / "out"
    arguments = ["--draws", 2, "--poolers", "avg", "max"]
    given = ["--images", tmp_path / "photos", "--shots", 1, 3]
    printed = run(module, capsys, *arguments, *given, "--out", out)
    assert "random ViT, photos" in printed
    rows = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert {(row["shots"], row["seed"]) for row in rows} == {(1, 0), (1, 1), (3, 0), (3, 1)}
    # Light and dark are told apart by any features.
    assert all(row["test"] == 1.0 for row in rows if row["pooler"] == "avg")
    assert {path.suffix for path in out.glob("scores.*")} == {
        ".md",
        ".tex",
        ".csv",
        ".png",
        ".pdf",
        ".svg",
    }
    assert "digits" in run(module, capsys, *arguments, "--shots", 2, "--out", tmp_path / "digits")


@pytest.mark.slow
def test_states_of_torch(example, capsys, tmp_path):
    pytest.importorskip("torch")
    arguments = ["--num-examples", 40, "--length", 24, "--poolers", "avg", "max", "--out", tmp_path]
    printed = run(example("torch_states"), capsys, *arguments)
    assert "random encoder" in printed
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 2

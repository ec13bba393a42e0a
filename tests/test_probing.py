"""Scripts that look into heads, and their tables and figures, on heads whose curves are known."""

import importlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from poolax import reporting
from poolax.records import TokenStates
from poolax.training import (
    Classification,
    Records,
    head_directory,
    load_head,
    sweep_states,
)

SCRIPTS = ("optimisation", "data_size", "weights")


@pytest.fixture(scope="module")
def experiments(pytestconfig):
    """Imports modules of the experiments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module


def head(pooler, seed=0, test=0.7, **fields):
    row = {
        "kind": "head",
        "id": f"{pooler}{seed}{fields}",
        "task": "classification",
        "metric": "accuracy",
    }
    row |= {"higher_is_better": True, "pooler": pooler, "resolved": {"name": pooler, "options": {}}}
    row |= {"learning_rate": 1e-3, "seed": seed, "validation": test, "test": test, "baseline": 0.1}
    row |= {"diverged": False, "dataset": "digits", "model": "net", "batch_size": 32, "epochs": 3}
    row |= {"num_examples": {"train": 100, "validation": 20, "test": 20}, "wall_s": 2.0}
    return row | fields


SOLVED = {"solver": {"name": "converged", "options": {}}, "learning_rate": None, "convex": True}


def test_optimisation_is_told_from_curves(tmp_path):
    curves = {"validation_score": [0.4, 0.6, 0.7], "steps_to_95_percent": 12}
    rows = [head("avg", seed, 0.7, **curves) for seed in range(3)]
    rows += [head("wavg", 0, 0.6, **(curves | {"steps_to_95_percent": 8}))]
    rows += [head("avg", 0, 0.8, **SOLVED, num_steps=40, wall_s=5.0)]
    rows += [head("wavg", 0, 0.65, solver=SOLVED["solver"], epochs_trained=20)]
    [table] = reporting.optimisation_tables(rows)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["avg", "70.00", "12 of 12", "2.00", "80.00", "40", "5.00", "+10.00"],
        ["wavg", "60.00", "8 of 12", "2.00", "65.00", "80", "2.00", "+5.00"],
    ]
    assert [row["gap"] for row in table.tidy] == pytest.approx([0.1, 0.05])
    [alone] = reporting.optimisation_tables(rows[:4])
    assert [cell.text for cell in alone.rows[0]][4:] == ["–", "–", "–", "–"]
    reporting.plot_training_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="records: expected heads with curves of validation, got none"):
        reporting.plot_training_curves(rows[4:], tmp_path / "none.png")
    with pytest.raises(ValueError, match="records: expected at least one head record, got none"):
        reporting.optimisation_tables([])


def test_only_heads_of_the_rates_that_validation_chose_are_looked_into(experiments):
    """The first seed tries all rates: no mean over seeds may take those that were not chosen."""
    solver = SOLVED["solver"]
    rows = [head("wavg", 0, 0.5, learning_rate=rate, solver=solver) for rate in (1e-3, 1e-2)]
    rows += [head("wavg", seed, 0.8, learning_rate=3e-3, solver=solver) for seed in range(3)]
    rows += [head("avg", 0, 0.4, **SOLVED)]
    found = experiments("probing").chosen(Records(rows))
    assert [(row["pooler"], row["learning_rate"], row["seed"]) for row in found] == [
        *(("wavg", 3e-3, seed) for seed in range(3)),
        ("avg", None, 0),
    ]


def test_sizes_are_those_of_the_training_examples(tmp_path):
    few = {**SOLVED, "shots": 2, "task_options": {"num_classes": 10}}
    rows = [head("avg", draw, score, **few) for draw, score in enumerate((0.5, 0.6))]
    rows += [head("max", draw, 0.79, **few) for draw in range(2)]
    rows += [head("avg", 0, 0.8, **SOLVED), head("max", 0, 0.7, **SOLVED)]
    [table] = reporting.size_tables(rows)
    assert table.columns == ["pooler", "20 examples", "100 examples", "examples to 95 %"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["avg", "55.00 ± 7.07", "80.00", "100"],
        ["max", "79.00 ± 0.00", "70.00", "20"],
    ]
    assert [row["train"] for row in table.tidy] == [20, 100, 20, 100]
    reporting.plot_sizes(rows, tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="records: expected the number of training examples"):
        reporting.size_tables([{k: v for k, v in rows[-1].items() if k != "num_examples"}])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Heads on tokens of which the second one alone says the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    states = rng.normal(size=(120, 4, 6)).astype(np.float32)
    states[:, 1, 0] = 4 * labels - 2
    mask = np.ones((120, 4), bool)
    mask[::3, 3] = False
    splits = {"train": np.arange(60), "validation": np.arange(60, 90), "test": np.arange(90, 120)}
    out = tmp_path_factory.mktemp("heads")
    records = sweep_states(
        states,
        mask,
        labels,
        Classification(2),
        splits=splits,
        poolers=["avg", "sum", "max", "wavg"],
        seeds=1,
        epochs=30,
        learning_rates=(0.05,),
        out=out,
    )
    return records, out, TokenStates(states[90:], mask[90:], 0)


def test_heads_give_their_pooled_vectors(trained):
    records, out, tokens = trained
    for row in records:
        found = load_head(head_directory(out, row))
        vectors = found.pool(tokens.states, tokens.mask)
        output = found.variables["params"]["output"]
        expected = found.predict(tokens.states, tokens.mask)
        np.testing.assert_allclose(vectors @ output["kernel"] + output["bias"], expected, atol=1e-5)


def test_agreement_and_weights_of_trained_heads(experiments, trained, tmp_path):
    records, out, tokens = trained
    script = experiments("weights")
    rows = [row | {"model": "net", "dataset": "own"} for row in records]
    found = Records(script.compare(Records(rows), tokens, out))
    by_pooler = {row["other"]: row for row in found.where(kind="agreement")}
    assert list(by_pooler) == ["avg", "sum", "max"]
    # Sums and averages differ by a factor, which no cosine sees.
    for field in ("mean", "low", "high"):
        assert by_pooler["avg"][field] == pytest.approx(by_pooler["sum"][field], abs=1e-5)
    [weights] = found.where(kind="position_weights")
    [wavg] = [row for row in records if row["pooler"] == "wavg"]
    learned = load_head(head_directory(out, wavg)).variables["params"]["pooler"]["weights"]
    np.testing.assert_allclose(weights["weights"], jax.nn.softmax(learned), rtol=1e-5)
    assert int(np.argmax(weights["weights"])) == 1
    assert weights["reached"] == pytest.approx([1, 1, 1, 2 / 3])
    # By hand: each row's softmax over its real tokens.
    logits = np.where(tokens.mask, np.asarray(learned, np.float64), -np.inf)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = np.einsum("bn,bnd->bd", shares, tokens.states)
    real = tokens.mask[..., None]
    average = (tokens.states * real).sum(1) / real.sum(1)
    norms = np.linalg.norm(own, axis=-1) * np.linalg.norm(average, axis=-1)
    assert by_pooler["avg"]["mean"] == pytest.approx(np.mean((own * average).sum(-1) / norms), abs=1e-5)
    cosines, positions = reporting.weight_tables(found)
    assert [row[3].text for row in cosines.rows] == ["avg", "sum", "max"]
    [shown] = positions.rows
    assert shown[3].text == "4"
    assert float(shown[4].text) < 0.99
    assert shown[6].text == "2"
    reporting.plot_weights(found, tmp_path / "weights.png")
    assert (tmp_path / "weights.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="records: expected some of kind 'position_weights', got none"):
        reporting.weight_tables(found.where(kind="agreement"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("optimisation", ["--datasets", "mnist"], "optimisation: datasets: expected one of"),
        (
            "optimisation",
            ["--backbone", "./nowhere"],
            "optimisation: path_or_hub_id: expected a directory",
        ),
        ("optimisation", ["--limit", "0"], "num_examples: expected a whole number >= 1"),
        ("data_size", ["--solver", "adam"], "data_size: solvers: expected converged alone, got adam"),
        ("data_size", ["--shots", "0"], "data_size: shots: expected a whole number >= 1"),
        ("weights", ["--poolers", "avg"], "weights: poolers: expected wavg and others, got avg"),
        ("weights", ["--solver", "converged"], "weights: solvers: expected adam alone"),
    ],
)
def test_usage_errors_are_one_line(experiments, tmp_path, capsys, name, arguments, message):
    script = experiments(name).SCRIPT
    assert experiments("probing").main(script, [*arguments, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_their_records_are_taken_over(experiments, tmp_path):
    summary, probing = experiments("summary"), experiments("probing")
    source, results = tmp_path / "out", tmp_path / "results"
    source.mkdir()
    about = {"command": "optimisation.py --out /tmp/some/out", "devices": "1 x cpu", "predictions": {}}
    for test in (0.5, 0.7):
        rows = [probing.published(head("avg", 0, test, validation_score=[0.1, 0.7], **about))]
        Records(rows).write_as(source / "optimisation.jsonl")
        for name in ("records.jsonl", "attacks.jsonl"):
            (source / name).write_text("{}\n")
        summary.take_over(source, results)
    [row] = Records.read(results / "optimisation" / "optimisation.jsonl")
    assert "predictions" not in row
    (tmp_path / "README.md").write_text(f"{summary.BEGIN}\n{summary.END}\n")
    found = summary.documents(tmp_path, [])
    page = found[results / "optimisation" / "optimisation.md"]
    assert page.startswith("# How fast poolers train\n\n## net, digits, classification (accuracy in %)")
    assert "| avg | 70.00 |" in page
    assert "python experiments/optimisation.py --out out\n" in page
    link = "- [How fast poolers train](results/optimisation/optimisation.md)"
    assert link in found[tmp_path / "README.md"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_runs_quickly(experiments, tmp_path, capsys, name):
    script = experiments(name).SCRIPT
    arguments = ["--quick", "--out", str(tmp_path), "--poolers", "avg", "max", "wavg"]
    assert experiments("probing").main(script, arguments) == 0
    first = (tmp_path / f"{name}.md").read_text()
    assert first.startswith(f"# {script.title}\n")
    assert "ViT of digits (2 epochs)" in first
    assert (tmp_path / f"{name}.csv").read_text().count("\n") > 2
    assert len(list(tmp_path.glob("*.png"))) == 1
    # From what is finished.
    assert experiments("probing").main(script, [*arguments, "--json"]) == 0
    assert (tmp_path / f"{name}.md").read_text() == first
    capsys.readouterr()


ON_DEVICES = {
    "optimisation": ("--solver", "adam"),
    "data_size": (),
    "weights": (),
    "expressivity": ("--datasets", "digits", "--num-inputs", "8"),
}
SAME = ("test", "validation", "train_loss", "validation_score", "mean", "low", "high", "weights")


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_DEVICES)
def test_eight_devices_find_what_one_does(pytestconfig, tmp_path, name):
    """From the pass over the backbone to what is measured of heads."""
    found = {}
    for devices in ("1", "8"):
        out = tmp_path / devices
        command = [sys.executable, f"experiments/{name}.py", "--quick", "--poolers", "avg", "wavg"]
        command += [*ON_DEVICES[name], "--devices", devices, "--out", str(out)]
        subprocess.run(command, check=True, cwd=pytestconfig.rootpath, capture_output=True)
        rows = Records.read(out / f"{name}.jsonl")
        assert {row["devices"].split()[0] for row in rows} == {devices}
        about = ("kind", "pooler", "other", "seed", "shots", "learning_rate")
        found[devices] = {tuple(row.get(part) for part in about): row for row in rows}
        assert len(found[devices]) == len(rows)
    assert found["1"].keys() == found["8"].keys()
    compared = 0
    for key, one in found["1"].items():
        for field in (field for field in SAME if one.get(field) is not None):
            np.testing.assert_allclose(found["8"][key][field], one[field], atol=1e-5, rtol=1e-5)
            compared += 1
    assert compared >= len(found["1"])

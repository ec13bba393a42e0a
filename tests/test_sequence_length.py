"""Scores by the number of tokens: which examples count as short, and what stands in tables."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from poolax import reporting
from poolax.data import Dataset
from poolax.records import Records, check_record, packed


@pytest.fixture(scope="module")
def experiments(pytestconfig):
    """Imports modules of the experiments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module


def row(pooler="avg", seed=0, score=0.5, max_tokens=16, **fields):
    about = {"kind": "length_score", "id": f"{pooler}{seed}{max_tokens}{fields}", "head": "h"}
    about |= {"model": "net", "dataset": "own", "task": "classification", "metric": "accuracy"}
    about |= {"higher_is_better": True, "pooler": pooler, "solver": "adam", "seed": seed}
    about |= {"trained_on": "all", "tested_on": "all", "max_tokens": max_tokens, "score": score}
    about |= {"num_examples": {"train": 10, "test": 4}, "command": "sequence_length.py"}
    about |= {"lengths": {"mean": 9.5, "median": 9.0, "longest": 16.0, "filled": 0.25}}
    return about | fields


def test_tables_have_lengths_and_pairs_of_lengths(tmp_path):
    rows = [row(seed=seed, score=score) for seed, score in enumerate((0.5, 0.7))]
    rows += [row(max_tokens=128, score=0.9), row("sum", score=0.25)]
    pairs = {("short", "short"): 0.8, ("short", "long"): 0.1, ("long", "long"): 0.6}
    for (trained, tested), score in pairs.items():
        about = {"trained_on": trained, "tested_on": tested, "threshold": 12}
        rows.append(row(score=score, max_tokens=128, **about))
    for one in rows:
        check_record(one)
    cut, across, paper = reporting.length_tables(rows)
    assert cut.columns == ["pooler", "adam, 16 tokens", "adam, 128 tokens"]
    assert [[cell.text for cell in cells] for cells in cut.rows] == [
        ["avg", "60.00 ± 14.14", "90.00"],
        ["sum", "25.00", "–"],
    ]
    assert "16: 9.5 on average, 25 % of the texts fill them" in cut.notes[1]
    assert across.columns[1:3] == ["adam, short → short", "adam, long → short"]
    assert [cell.text for cell in across.rows[0]] == ["avg", "80.00", "–", "60.00", "10.00"]
    assert "at most, and above, 12 tokens" in across.notes[0]
    assert [cell.text for cell in paper.rows[0]][:2] == ["last", "0.454 ± 0.003"]
    assert "Mistral-7B: no record without its weights" in paper.notes[0]
    reporting.plot_lengths(rows, tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="records: expected some of kind 'length_score', got none"):
        reporting.length_tables([])
    with pytest.raises(ValueError, match="records: expected some of heads that were trained on all"):
        reporting.plot_lengths(rows[-1:], tmp_path / "none.png")


def test_short_and_long_are_as_many_and_no_example_is_of_both(experiments):
    script = experiments("sequence_length")
    totals = np.arange(40) % 10
    splits = {"train": np.arange(20), "validation": np.arange(20, 30), "test": np.arange(30, 40)}
    texts = np.array([f"text {index}" for index in range(40)])
    data = Dataset("own", texts, np.arange(40), splits, "made up", "none")
    short, long = (script.only(data, totals, 2, group) for group in ("short", "long"))
    for split, size in (("train", 6), ("validation", 3)):
        assert len(short.splits[split]) == len(long.splits[split]) == size
        assert totals[short.splits[split]].max() <= 2 < totals[long.splits[split]].min()
    for part in (short, long):
        np.testing.assert_array_equal(part.splits["test"], splits["test"])
    threshold, groups = script.by_length(data, totals[:, None])
    assert (threshold, list(groups)) == (4, ["short", "long"])
    # Of texts that are cut those that are cut are long.
    assert script.by_length(data, np.minimum(totals, 4)[:, None])[0] == 3
    with pytest.raises(ValueError, match=r"^lengths: .* each split of own has shorter and longer"):
        script.by_length(data, np.full((40, 1), 4))


def test_scores_of_some_examples(experiments):
    script = experiments("sequence_length")
    target, prediction = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1])
    kept = {"score": target == prediction, "target": target, "prediction": prediction}
    head = {"kind": "head", "pooler": "avg", "seed": 0, "metric": "accuracy", "id": "h"}
    head |= {"higher_is_better": True, "test": 0.5, "validation": 0.5}
    kept = {name: array.astype(np.int8) for name, array in kept.items()}
    head |= {"predictions": {"test": packed(kept)}}
    assert script.score_of(head, np.array([True, True, True, False])) == pytest.approx(2 / 3)
    assert script.score_of(head, np.array([False, False, True, True])) == 0
    assert script.score_of(head, np.zeros(4, bool)) is None


def test_published_records_keep_scores_of_examples_for_claims(experiments):
    script, probing = experiments("sequence_length"), experiments("probing")
    claims = experiments("claims_records")
    kept = {"score": [1, 0, 1], "target": [0, 1, 1], "prediction": [0, 0, 1]}
    kept = {name: np.array(values, np.int8) for name, values in kept.items()}
    head = {"kind": "head", "id": "h", "pooler": "avg", "seed": 0, "metric": "accuracy"}
    head |= {"dataset": "own", "task": "classification", "higher_is_better": True, "test": 2 / 3}
    head |= {"diverged": False, "num_examples": {"train": 3}, "command": "sequence_length.py"}
    head |= {"validation": 0.5, "predictions": {"test": packed(kept)}}
    splits = {"train": np.array([3]), "validation": np.array([4]), "test": np.arange(3)}
    data = Dataset("own", np.array(list("abcde")), np.arange(5), splits, "made up", "none")
    setup = probing.Setup("own", data, None, None, "net", 1, 1)
    row = probing.published(script.scored(head, setup, np.full((5, 1), 9), 8))
    [found] = claims.scored([row])
    assert (found["task"], found["model"]) == ("classification at 8 tokens", "net")
    assert found["test"] == pytest.approx(2 / 3)
    np.testing.assert_array_equal(Records([found]).predictions()[0].score, kept["score"])
    of_some = script.scored(head, setup, np.full((5, 1), 9), 8, np.array([True, False, True]))
    assert "examples" not in of_some


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "digits"], "datasets: expected texts, got digits"),
        (["--lengths", "0"], "lengths: expected a whole number >= 1"),
        (["--max-tokens", "8"], "max_tokens: expected lengths instead, got 8"),
        (["--learning-rates", "0.1", "0.2"], "learning_rates: expected one, got 2"),
    ],
)
def test_usage_errors_are_one_line(experiments, tmp_path, capsys, arguments, message):
    script = experiments("sequence_length").SCRIPT
    assert experiments("probing").main(script, [*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_records_of_several_models_stay(experiments, tmp_path):
    summary = experiments("summary")
    source, results = tmp_path / "out", tmp_path / "results"
    source.mkdir()
    devices = {"devices": "1 x cpu", "command": "python experiments/sequence_length.py"}
    for model, score in (("one", 0.1), ("two", 0.2), ("one", 0.3)):
        Records([row(score=score, model=model, **devices)]).write_as(source / "sequence_length.jsonl")
        summary.take_over(source, results)
    path = results / "sequence_length" / "sequence_length.jsonl"
    assert {found["model"]: found["score"] for found in Records.read(path)} == {"one": 0.3, "two": 0.2}
    (tmp_path / "README.md").write_text(f"{summary.BEGIN}\n{summary.END}\n")
    page = summary.documents(tmp_path, [])[path.with_suffix(".md")]
    assert page.startswith("# Scores by the number of tokens\n\n## one, own, classification")
    assert "## two, own, classification" in page


@pytest.mark.slow
def test_eight_devices_give_the_scores_of_one(pytestconfig, tmp_path):
    found = {}
    for devices in (1, 8):
        out = tmp_path / str(devices)
        arguments = ["--quick", "--poolers", "avg", "wavg", "--solver", "adam", "--out", str(out)]
        command = [sys.executable, "experiments/sequence_length.py", *arguments]
        command += ["--lengths", "8", "16", "--num-examples", "40", "--devices", str(devices)]
        subprocess.run(
            command, check=True, cwd=pytestconfig.rootpath, env=os.environ, capture_output=True
        )
        lines = (out / "sequence_length.jsonl").read_text().splitlines()
        rows = list(map(json.loads, lines))
        assert {one["devices"].split()[0] for one in rows} == {str(devices)}
        assert {one["trained_on"] for one in rows} == {"all", "short", "long"}
        found[devices] = {
            tuple(
                one[name] for name in ("pooler", "seed", "max_tokens", "trained_on", "tested_on")
            ): one
            for one in rows
        }
    assert found[1].keys() == found[8].keys()
    for key, one in found[1].items():
        assert found[8][key]["score"] == pytest.approx(one["score"], abs=1e-5)

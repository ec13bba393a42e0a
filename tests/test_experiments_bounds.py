"""experiments/bounds.py on the smallest grid, and its tables."""

import importlib
import json
import shutil

import jax
import numpy as np
import pytest

from poolax import cli
from poolax.records import Journal, Records


@pytest.fixture(scope="module")
def script(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module("bounds")


QUICK = ["--quick", "--restarts", "2"]


def test_random_suite(script, tmp_path, capsys):
    arguments = [*QUICK, "--suites", "random", "--kinds", "dot", "--targets", "avg"]
    script.main([*arguments, "--out", str(tmp_path), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kind"] for row in rows] == ["bounds_inputs", "bounds_weights"]
    for row in rows:
        assert 0 < row["found"] <= min(row["local"], row["tight"]) * (1 + 1e-5)
        assert row["tight"] <= row["sharp"] <= row["published"]
    # What holds for all weights with these norms holds for those that were found.
    assert rows[1]["tight"] <= rows[1]["tight_of_norms"] * (1 + 1e-4)
    before = (tmp_path / "bounds.jsonl").read_bytes()
    script.main([*arguments, "--out", str(tmp_path)])
    assert (tmp_path / "bounds.jsonl").read_bytes() == before
    assert "found" in capsys.readouterr().out
    # Tables are of the records alone, whatever grid is asked for.
    table = (tmp_path / "bounds.md").read_text()
    script.main(["--tables-only", "--out", str(tmp_path)])
    assert (tmp_path / "bounds.md").read_text() == table
    capsys.readouterr()
    assert script.main(["--tables-only"]) == cli.USAGE
    assert capsys.readouterr().err.startswith("bounds: tables_only: expected --out to be a folder")
    assert script.main(["--suites", "random", "minlim"]) == cli.USAGE
    assert (
        "suites: expected one of 'random', 'lengths', 'geometry', 'minilm', got 'minlim'"
        in capsys.readouterr().err
    )
    # Ratios of no searches would be no numbers.
    with pytest.raises(ValueError, match="searched: expected 1 to num_sentences = 64, got 0"):
        script.main(["--tables-only", "--searched", "0"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "bounds.jsonl", "bounds.md", "bounds_inputs.csv", "bounds_weights.csv",
        "bounds_inputs_summary.csv", "bounds_weights_summary.csv", ".poolax.lock",
    }  # fmt: skip


def test_suite_of_lengths(script, tmp_path, capsys):
    arguments = ["--quick", "--suites", "lengths", "--kinds", "dot", "--out", str(tmp_path), "--json"]
    script.main(arguments)
    few, more = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (few["num_tokens"], more["num_tokens"]) == (2, 4)
    for row in (few, more):
        assert row["tight"] <= row["sharp"] <= row["published"]
    assert more["tight"] < few["tight"]
    assert "| dot | 2 |" in (tmp_path / "bounds.md").read_text()


def test_tables_of_the_results_are_what_their_records_give(script, pytestconfig, tmp_path):
    results = pytestconfig.rootpath / "experiments" / "results" / "bounds"
    shutil.copy(results / "bounds.jsonl", tmp_path)
    script.main(["--tables-only", "--out", str(tmp_path)])
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for path in results.iterdir()}
    for name in written:
        assert (tmp_path / name).read_text() == (results / name).read_text()


def test_results_of_earlier_programs_are_found_again(script, pytestconfig, tmp_path):
    """By what each is of: kinds of attention had labels in place of names then."""
    former = importlib.import_module("bounds_records").former
    path = tmp_path / "bounds.jsonl"
    shutil.copy(pytestconfig.rootpath / "experiments" / "results" / "bounds" / "bounds.jsonl", path)
    content, journal = path.read_bytes(), Journal(path)
    random = [row for row in Records.read(path) if row["suite"] == "random"]
    assert {row["attention"] for row in random} == {"dot", "l2", "cosine"}
    fields = ("kind", "suite", "attention", "target", "num_tokens", "dim", "num_heads", "seed")
    fields += ("restarts", "steps", "scale", "norm")
    for row in random:
        what = {name: row[name] for name in fields if name in row}
        assert journal.measured(what, dict, formerly=former(what)) == row
    assert path.read_bytes() == content


def test_what_the_minilm_suite_measures(script, bert):
    options = script.Options(suites=("minilm",), backbone=str(bert), quick=True).resolved()
    rows = [what for what, _ in script.work(options)]
    assert [row.get("layer", row.get("pooler")) for row in rows] == [
        0, 1, "first", "last", "avg", "sum", "max",
    ]  # fmt: skip
    assert {row["backbone"] for row in rows} == {bert.name}
    subject = importlib.import_module("bounds_minilm").Subject(options)
    embeddings, mask = subject.embedded
    assert embeddings.shape == (4, 12, 8)
    assert mask.any(axis=1).all()
    assert subject.branch.kind == script.KINDS["dot"]


@pytest.mark.slow
def test_minilm_suite(script, bert, tmp_path):
    arguments = ["--quick", "--suites", "minilm", "--backbone", str(bert), "--out", str(tmp_path)]
    script.main(arguments)
    rows = Records.read(tmp_path / "bounds.jsonl")
    layers, whole = rows.where(kind="bounds_layer"), rows.where(kind="bounds_backbone")
    assert [row["layer"] for row in layers] == [0, 1]
    assert [row["pooler"] for row in whole] == ["first", "last", "avg", "sum", "max"]
    for row in layers:
        found = row["per_sentence"]
        assert len(found["measured"]) == 4
        for method in ("local", "tight", "sharp"):
            assert np.all(np.asarray(found["measured"]) <= np.asarray(found[method]) * (1 + 1e-4))
        # The search starts at the sentence.
        assert len(found["found"]) == 1
        assert found["measured"][0] * (1 - 1e-3) <= found["found"][0] <= found["tight"][0] * (1 + 1e-4)
        ratio = np.median(np.divide(found["sharp"], found["local"]))
        assert row["sharp_over_local"] == pytest.approx(ratio)
    text = (tmp_path / "bounds.md").read_text()
    assert "Attention layers of model" in text
    assert "from embeddings to pooled vectors" in text


def test_weights_have_the_norms_that_are_asked_for(script):
    cases = importlib.import_module("bounds_cases")
    case = cases.Case("dot", "avg", 4, 8, 2)
    params = cases.with_norms(case.variables(1.0, jax.random.key(0))["params"], 3.0)["params"]
    for name in ("query", "key", "value"):
        heads = np.moveaxis(np.asarray(params["attention"][name]["kernel"]), 1, 0)
        np.testing.assert_allclose(np.linalg.norm(heads, ord=2, axis=(1, 2)), 3.0, rtol=1e-5)
    out = np.asarray(params["attention"]["out"]["kernel"]).reshape(8, 8)
    np.testing.assert_allclose(np.linalg.norm(out, ord=2), 3.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(params["ffn"]["kernel"], ord=2), 3.0, rtol=1e-5)


def test_sentences_of_both_sources(script, tmp_path):
    read = importlib.import_module("bounds_minilm").read_sentences
    (tmp_path / "stsb").mkdir()
    row = 'a\tb\tc\t1\t2.5\tA girl sings.\tA "woman" sings.\n'
    (tmp_path / "stsb" / "sts-test.csv").write_text(row)
    assert read(str(tmp_path), 2)[0] == ["A girl sings.", 'A "woman" sings.']
    assert len(read(None, 3)[0]) == 3

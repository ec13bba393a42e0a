"""The page of advices says what its records say."""

import importlib
import json

import pytest

from poolax.records import Records


@pytest.fixture(scope="module")
def script(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module("advice")


def test_the_page_is_what_the_records_give(script):
    assert script.main(["--check"]) == 0


def test_the_front_pages_have_what_the_records_give(script, pytestconfig):
    root, summary = pytestconfig.rootpath, importlib.import_module("summary")
    pages = summary.front_pages(root, root / "experiments" / "results" / "advice" / "advice.jsonl")
    assert set(pages) == {root / name for name in summary.FRONT_PAGES}
    assert all(path.read_text() == text for path, text in pages.items())


def interval(value, low, high, **more):
    return {"value": value, "low": low, "high": high, **more}


RECORD = {
    "kind": "advice",
    "sentence": "Take last: better beyond noise than every other pooler.",
    "recommended": "last",
    "runner_up": "avg",
    "decided": True,
    "best": "last",
    "equals": ["last"],
    "metric": "accuracy",
    "higher_is_better": True,
    "baseline": 0.5,
    "curves": {},
    "validation": {"avg": 0.7, "max": 0.5, "last": 0.9},
    "test": {
        "avg": interval(0.75, 0.7, 0.8), "max": interval(0.5, 0.4, 0.6), "last": interval(0.9, 0.8, 1.0),
    },
    "comparisons": {
        "avg": interval(-0.15, -0.25, -0.05, adjusted=0.004),
        "max": interval(-0.4, -0.5, -0.3, adjusted=0.0004),
    },
    "reasons": ["last has the best validation accuracy"],
    "cost": {
        "features_seconds": 1.0,
        "heads_seconds": {"avg": 1.0, "max": 2.0, "last": 3.0},
        "num_parameters": {"avg": 0, "max": 0, "last": 0},
        "lipschitz_factor": {"avg": 0.5, "max": 1.0, "last": 1.0},
    },
    "case": "series-ecg200",
    "model": "a model",
    "dataset": "ecg200",
    "num_examples": {"train": 200, "validation": 40, "test": 60},
    "num_tested": 50,
    "data_warnings": ["one label is * rare"],
    "max_tokens": 16,
    "image_size": None,
    "minutes": 1.0,
    "wall_s": 8.2,
    "devices": "1 x cpu",
    "versions": {},
    "git": None,
    "command": "python experiments/advice.py --cases series-ecg200",
}  # fmt: skip


def test_a_section_says_how_sure_an_advice_is(script, tmp_path, capsys):
    records, page = tmp_path / "advice.jsonl", tmp_path / "advice.md"
    files = ["--records", str(records), "--page-file", str(page)]
    undecided = {**RECORD, "case": "minilm-banking77", "equals": ["last", "max"], "decided": False}
    Records([RECORD, undecided]).write_as(records)
    assert script.main([*files, "--check"]) == 1
    assert "advice.md: it is not what advice.jsonl gives" in capsys.readouterr().err
    assert script.main([*files, "--page"]) == 0
    assert script.main([*files, "--check"]) == 0
    text = page.read_text()
    # Sections stand in the order of the cases.
    _, first, second = text.split("## a model on ecg200")
    assert "## a model on ecg200\n\n**Take last: better beyond noise than every other pooler.**" in text
    assert (
        "How sure: last was best by validation; on 50 test examples 2 of 2 others are worse beyond "
        "noise, the closest of them avg by 0.15 (interval -0.250 to -0.050, adjusted p 0.004)."
    ) in second
    assert "1 of 2 others are worse beyond noise" in first
    assert "no difference beyond noise from last has max: their intervals reach 0.5 at most" in first
    assert "| a model | ecg200 | last | no |" in text
    assert r"one label is \* rare" in first
    assert "Cost: 8 s on 1 x cpu, 1 s of them for token states and 6 s for heads" in first
    assert "texts cut to 16 tokens" in first
    assert "```sh\npython experiments/advice.py --cases series-ecg200\n```" in first


def test_errors_are_one_line(script, tmp_path, capsys):
    files = ["--records", str(tmp_path / "a.jsonl"), "--page-file", str(tmp_path / "a.md")]
    assert script.main([*files, "--cases", "minilm-nothing"]) == 2
    assert "cases: expected one of 'minilm-banking77'," in capsys.readouterr().err


@pytest.mark.slow
def test_a_case_is_recorded_once(script, test_data, tmp_path):
    records = tmp_path / "advice.jsonl"
    arguments = ["--cases", "series-ecg200", "--data-dir", test_data, "--out", tmp_path / "out"]
    arguments += ["--pretrain-epochs", "1", "--poolers", "avg", "max"]
    arguments += ["--records", records, "--page-file", tmp_path / "advice.md"]
    assert script.main(list(map(str, arguments))) == 0
    [record] = [json.loads(line) for line in records.read_text().splitlines()]
    assert record["case"] == "series-ecg200"
    assert record["model"] == "patch transformer (1 epochs)"
    assert set(record["validation"]) == {"avg", "max"}
    assert record["head"] is None
    assert str(tmp_path) not in records.read_text().replace(record["command"], "")
    before = records.read_bytes()
    assert script.main(list(map(str, arguments))) == 0
    assert records.read_bytes() == before
    assert "## patch transformer (1 epochs) on ecg200" in (tmp_path / "advice.md").read_text()

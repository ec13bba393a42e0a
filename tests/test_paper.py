"""The paper's values beside those of records."""

import csv
import importlib

import numpy as np
import pytest

from poolax import data
from poolax.data import entry
from poolax.records import Records, packed
from poolax.reporting import beside_paper, paper_counts, paper_results, paper_tables
from poolax.reporting._paper.names import DATA, TASKS

COUNTS = {"train": 90, "validation": 10, "test": 100}


def head(pooler="avg", seed=0, test=0.7, **fields):
    row = {
        "kind": "head",
        "id": f"{pooler}{seed}{fields}",
        "task": "classification",
        "metric": "accuracy",
    }
    row |= {"higher_is_better": True, "pooler": pooler, "resolved": {"name": pooler, "options": {}}}
    row |= {"learning_rate": 1e-3, "seed": seed, "validation": test, "test": test, "baseline": 0.64}
    row |= {"diverged": False, "dataset": "ecg200", "model": "MOMENT-1-small", "num_examples": COUNTS}
    return row | fields


def of(found, model, dataset, pooling="avg", task="classification", condition=""):
    wanted = (model, dataset, pooling, task, condition)
    return [
        one
        for one in found
        if (one.cell.model, one.cell.dataset, one.cell.pooling, one.cell.task, one.cell.condition)
        == wanted
    ]


def test_every_value_of_the_paper_is_there_and_known():
    cells = paper_results()
    assert len(cells) == 1032
    assert {cell.table for cell in cells} == set(range(1, 11))
    assert {cell.pooling for cell in cells} == {"last", "avg", "sum", "max", "wavg", "attn"}
    names = set(data.names())
    for cell in cells:
        assert {DATA[cell.dataset].name, *DATA[cell.dataset].near} <= names
        assert TASKS[cell.task, cell.metric].metric
        assert np.isfinite(cell.mean)
        assert (cell.std is None) == (cell.table == 10)
        assert cell.is_percent == (cell.mean > 3)
        assert cell.value <= 1 or not cell.is_percent


def test_same_model_and_data_have_a_difference():
    rows = [head(seed=seed, test=test) for seed, test in enumerate((0.7, 0.72))]
    found = beside_paper(rows)
    small = of(found, "MOMENT-small", "ECG200")
    assert [one.cell.table for one in small] == [3, 5]
    for one in small:
        [own] = one.own
        assert own.value == pytest.approx(0.71)
        assert own.std == pytest.approx(np.std([0.7, 0.72], ddof=1))
        assert own.difference == pytest.approx(0.71 - one.cell.mean / 100)
        assert own.records == tuple(row["id"] for row in rows)
        assert own.others == ()
        assert own.baselines == {"baseline": 0.64}
    # The same records beside values of other models.
    [_, large] = of(found, "MOMENT-large", "ECG200")
    assert large.own[0].others == ("model: MOMENT-1-small",)
    assert large.own[0].difference is None
    assert sum(one.is_matched for one in found) == 2
    expected = (
        "Of the paper's 1,032 values 6 were attempted, of which 2 with the same model and data, and"
    )
    assert paper_counts(found) == f"{expected} 1026 were skipped."


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"num_examples": {**COUNTS, "test": 20}}, "data: 20 of the 100 published test examples"),
        ({"num_examples": None}, "data: the record does not say how many examples each split has"),
        ({"model": "moment"}, "model: moment"),
    ],
)
def test_other_model_or_data_have_none(fields, why):
    [one, _] = of(beside_paper([head(**fields)]), "MOMENT-small", "ECG200")
    assert one.own[0].others == (why,)
    assert one.own[0].difference is None
    assert not one.is_matched
    text = paper_tables(beside_paper([head(**fields)]))[0].markdown()
    assert f"other model or data: {why}" in text
    assert "difference |" not in text


def test_what_the_paper_does_not_say_is_never_the_same():
    series = {"task": "forecasting", "metric": "mse", "higher_is_better": False, "dataset": "etth1"}
    found = beside_paper([head(test=0.3, **series)])
    [one, _] = of(found, "MOMENT-small", "ETTh1", task="forecasting")
    assert one.own[0].others == ("data: the paper does not say which windows it took",)
    tweets = beside_paper([head(dataset="tweet_emotion")])
    [one] = of(tweets, "BERT", "Tweet")
    assert one.own[0].others == ("model: MOMENT-1-small", "data: tweet_emotion")


def test_a_model_may_be_said_to_be_the_papers():
    counts = {"train": 9002, "validation": 1001, "test": 3080}
    rows = [head(dataset="banking77", model="bert-base-uncased", num_examples=counts, test=0.86)]
    assert not of(beside_paper(rows), "BERT", "Banking")[0].is_matched
    [one] = of(beside_paper(rows, models={"BERT": "bert-base-uncased"}), "BERT", "Banking")
    assert one.own[0].difference == pytest.approx(0.86 - 0.85142)
    with pytest.raises(ValueError, match=r"models: expected names of BERT, .* got 'RoBERTa'"):
        beside_paper(rows, models={"RoBERTa": "roberta"})


def test_conditions_layers_and_protocols():
    completion = {"task": "sentence_completion", "metric": "macro_f1", "dataset": "hellaswag"}
    cut = {"preprocess": {"name": "text", "options": {"max_tokens": 32}}}
    found = beside_paper([head(**completion, **cut)])
    where = {"task": "sentence_completion"}
    assert of(found, "Mistral-7B", "HellaSwag", condition="seq_len=32", **where)[0].own
    [other] = of(found, "Mistral-7B", "HellaSwag", condition="seq_len=64", **where)
    assert other.absent == "no record of sentence_completion on hellaswag with seq_len=64"
    # Other layers and few examples are no value of the paper's.
    assert not any(one.own for one in beside_paper([head(layers="6"), head(shots=4)]))
    solved = head(solver={"name": "converged", "options": {}}, learning_rate=None, convex=True)
    [one, _] = of(beside_paper([head(), solved]), "MOMENT-small", "ECG200")
    assert [own.protocol for own in one.own] == ["adam", "converged"]


def test_attacks_and_lengths_stand_beside_tables_9_and_10(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        script = importlib.import_module("paper_records")
    about = {"id": "x", "model": "dinov2-small", "pooler": "sum", "seed": 0, "solver": "adam"}
    clean, attacked = [1, 1, 1, 1, 0], [[1, 0], [1, 0], [1, 1], [0, 0], [0, 0]]
    kept = {"clean": np.array(clean, np.uint8), "attacked": np.array(attacked, np.uint8)}
    attack = {**about, "kind": "robustness", "dataset": "cifar10", "examples": packed(kept)}
    attack |= {"attacks": [{"name": name, "radius": 3 / 255} for name in ("fgsm", "pgd")]}
    cut = {**about, "kind": "length_score", "dataset": "hellaswag", "task": "sentence_completion"}
    cut |= {"metric": "macro_f1", "higher_is_better": True, "tested_on": "all", "max_tokens": 16}
    cut |= {"num_examples": {"train": 300, "test": 300}, "score": 0.4}
    cut |= {"examples": packed({"score": np.array([0, 1, 1], np.int8)})}
    found = beside_paper(script.in_form_of_heads([attack, cut]))
    shown = {(one.cell.table, one.cell.condition): one.own for one in found if one.own}
    assert set(shown) == {(10, "eps=3/255"), (9, "seq_len=16")}
    [own] = shown[10, "eps=3/255"]
    assert (own.value, own.baselines) == (0.25, {})
    assert own.others == (
        "model: dinov2-small",
        "data: the record does not say how many examples each split has",
    )
    [own] = shown[9, "seq_len=16"]
    assert own.value == 0.4
    assert own.others[:2] == ("model: dinov2-small", "data: 300 of the 39905 published train examples")
    [table] = [
        table for table in paper_tables(found) if table.title.startswith("CIFAR-10, robustness (")
    ]
    rows = [row for row in table.rows if row[0].bold]
    assert [row[0].text for row in rows] == ["dinov2-small, cifar10, eps=3/255, adam"]
    assert rows[0][3].text == "25.00"


def test_every_value_is_a_number_with_its_records_or_a_reason():
    rows = [head(), head("attn", test=0.9), head("sum", diverged=True)]
    tables = paper_tables(beside_paper(rows, absent={"voc": "not at hand"}))
    tidy = [row for table in tables for row in table.tidy]
    assert len(tidy) == 1032
    for row in tidy:
        has_number = row.get("own_mean") is not None
        assert has_number == bool(row.get("records"))
        assert has_number or row["why"] or row["pooling"] == "sum"
    assert {row["why"] for row in tidy if row["dataset"].startswith("PascalVOC")} == {"not at hand"}
    [table] = [table for table in tables if table.title.startswith("ECG200")]
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert shown["MOMENT-1-small, ecg200, adam"][:6] == ["–", "70.00", "diverged", "–", "–", "90.00"]
    assert shown["MOMENT-1-small, ecg200, adam: difference"][1] == "+4.81"
    assert shown["ecg200: baseline"][0] == "64.00"
    sizes = sum(int(row[3].text) for row in tables[-1].rows)
    assert sizes == sum(not one.own for one in beside_paper(rows))


def test_sizes_of_other_splits():
    assert entry("hellaswag").other_sizes({"train": 3000, "validation": 1000, "test": 1000}) == [
        ("train", 4000, 39905),
        ("validation", 1000, 10042),
    ]
    assert entry("banking77").other_sizes({"train": 9002, "validation": 1001, "test": 3080}) == []


def test_the_script(pytestconfig, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        script = importlib.import_module("paper_table")
        Records([head()]).write_to(tmp_path / "heads.jsonl")
        out = tmp_path / "out"
        assert script.main(["--records", str(tmp_path / "heads.jsonl"), "--out", str(out)]) == 0
        assert "6 were attempted, of which 2" in capsys.readouterr().out
        assert "6 were attempted, of which 2" in (out / "paper.md").read_text()
        tidy = list(csv.DictReader((out / "paper.csv").read_text().splitlines()))
        assert [row["records"] for row in tidy if row["difference"]] == [head()["id"]] * 2
        assert script.main(["--models", "BERT", "--out", str(out)]) == 2
        assert "models: expected NAME=MODEL, got BERT" in capsys.readouterr().err

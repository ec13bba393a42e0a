"""Verdicts on claims about poolers, where the truth is known."""

import importlib

import numpy as np
import pytest

from poolax.records import Records, packed
from poolax.reporting import Claim, Contrast, claims_tables, judge_claims

POOLERS = {"avg": 0.9, "sum": 0.6, "max": 0.6, "last": 0.5, "wavg": 0.895, "attn": 0.9}


def heads(
    shares, *, dataset="ecg200", solver="adam", seeds=2, num=300, error=False, model="net", **fields
):
    """Heads that are right on these shares of the examples, the same ones for all as far as they go."""
    easy = np.random.default_rng(0).permutation(num) / num
    rows = []
    for pooler, share in shares.items():
        for seed in range(seeds):
            score = (easy < share).astype(np.int8)
            score = (1 - score) * 0.5 if error else score
            test = float(np.mean(score))
            row = {"kind": "head", "id": f"{model}{dataset}{solver}{pooler}{seed}", "model": model}
            row |= {"task": "forecasting" if error else "classification", "dataset": dataset}
            row |= {"metric": "mse" if error else "accuracy", "higher_is_better": not error}
            row |= {"pooler": pooler, "resolved": {"name": pooler, "options": {}}, "seed": seed}
            row |= {"learning_rate": 1e-3, "validation": test, "test": test, "baseline": 0.4}
            row |= {"diverged": False, "predictions": {"test": packed({"score": score})}}
            if solver != "adam":
                row |= {"solver": {"name": solver, "options": {}}}
            rows.append(row | fields)
    return rows


def claim(*contrasts, places=(("ecg200", "classification"),), solvers=("adam",), **fields):
    return Claim(
        "1", "So it is.", tuple(Contrast(*one) for one in contrasts), {"net": places}, solvers, **fields
    )


def judged(claims, rows, draws=500, **options):
    return judge_claims(claims, rows, draws=draws, **options)


@pytest.mark.parametrize(
    ("contrasts", "verdict"),
    [
        ([("avg", "sum"), ("avg", "last")], "supported"),
        ([("avg", "sum"), ("last", "avg")], "contradicted"),
        ([("avg", "sum"), ("avg", "attn")], "undecided"),
        ([("avg", "attn", "equal")], "supported"),
        ([("avg", "last", "equal")], "contradicted"),
        ([("attn", "avg", "not_worse")], "supported"),
        ([("max", "avg", "not_worse")], "contradicted"),
        ([("attn", "best fixed", "not_worse")], "supported"),
    ],
)
def test_verdicts_on_classes_and_on_errors(contrasts, verdict):
    for error, places in (
        (False, (("ecg200", "classification"),)),
        (True, (("etth1", "forecasting"),)),
    ):
        dataset = places[0][0]
        rows = heads(POOLERS, error=error, dataset=dataset)
        [row] = judged([claim(*contrasts, places=places)], rows, pretrained={"net": "by heart"})
        assert row["verdict"] == verdict
        assert (row["backbone"], row["solver"], row["pretrained"]) == ("net", "adam", "by heart")
        for one, stated in zip(row["comparisons"], contrasts, strict=True):
            other = "avg" if stated[1] == "best fixed" else stated[1]
            gain = (POOLERS[stated[0]] - POOLERS[other]) * (0.5 if error else 1)
            assert one["gain"] == pytest.approx(gain, abs=0.01)
            assert one["low"] <= one["gain"] <= one["high"]
            # Of errors a share of that of the constant prediction.
            wanted = 0.01 * (0.4 if error else 1)
            assert one["margin"] == pytest.approx(0 if len(stated) == 2 else wanted)


def test_each_backbone_and_protocol_has_a_verdict_of_its_own():
    rows = [*heads(POOLERS), *heads({**POOLERS, "avg": 0.6}, solver="converged")]
    rows += heads({"avg": 0.5, "sum": 0.9}, model="other")
    stated = Claim(
        "1",
        "So it is.",
        (Contrast("avg", "sum"),),
        {"net": (("ecg200", "classification"),), "other": (("ecg200", "classification"),)},
    )
    found = judged([stated], rows)
    assert [(row["backbone"], row["solver"], row["verdict"]) for row in found] == [
        ("net", "adam", "supported"),
        ("net", "converged", "undecided"),
        ("other", "adam", "contradicted"),
        ("other", "converged", "not testable"),
    ]
    assert found[3]["missing"] == "no records: ecg200 classification"
    assert {row["num_tested"] for row in found} == {3}
    # By Holm's method over the three.
    assert found[0]["adjusted"] == pytest.approx(3 * 2 * found[0]["p_for"])


def test_what_cannot_be_tested_says_what_is_missing():
    both = (("ecg200", "classification"), ("swedish_leaf", "classification"))
    bare = [{k: v for k, v in row.items() if k != "predictions"} for row in heads(POOLERS)]
    for rows, why in (
        (heads(POOLERS), "no records: swedish_leaf classification"),
        (
            bare,
            "records without scores of single examples: ecg200 classification; no records: swedish_leaf",
        ),
        (heads({"avg": 0.9}), "no heads of sum: ecg200 classification; no records: swedish_leaf"),
        (heads(POOLERS, diverged=True), "no heads of avg, sum: ecg200 classification; no records:"),
        (
            [*heads(POOLERS), *heads(POOLERS, epochs=3)],
            "records of 2 kinds: ecg200 classification; no records",
        ),
    ):
        [row] = judged([claim(("avg", "sum"), places=both)], rows)
        assert row["verdict"] == "not testable"
        assert row["missing"].startswith(why)
        assert row["adjusted"] is None
        # What the paper has stands there all the same: average is worst by 23 points.
        assert row["paper"]["dataset"] == "swedish_leaf"
        assert row["paper"]["paper"]["median"] < -0.2
        assert row["paper"]["paper"]["num"] == 3
    [row] = judged([Claim("2", "Giants.", missing="giants")], heads(POOLERS))
    assert (row["verdict"], row["missing"], row["backbone"]) == ("not testable", "giants", None)
    with pytest.raises(ValueError, match="missing: expected contrasts and places of '3'"):
        Claim("3", "Nothing.")
    with pytest.raises(ValueError, match="relation: expected one of"):
        Contrast("avg", "sum", "worse")


def test_verdicts_on_the_same_heads_are_taken_over(monkeypatch):
    rows = heads(POOLERS)
    stated = [claim(("avg", "sum"))]
    first = judged(stated, rows, about={"command": "one"})
    monkeypatch.setattr("poolax.reporting._claims.evidence.resampled", None)
    again = judged(stated, rows, known=first, about={"command": "two"})
    assert list(again) == list(first)
    for others in ([*heads({**POOLERS, "avg": 0.8})], rows):
        options = {"draws": 400} if others is rows else {}
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            judged(stated, others, known=first, **options)


def test_tables_show_the_comparison_that_decides():
    found = judged(
        [
            Claim("2", "Giants.", missing="giants"),
            claim(("avg", "sum"), ("last", "avg"), ("avg", "wavg", "equal")),
        ],
        heads(POOLERS),
        pretrained={"net": "by heart"},
    )
    verdicts, comparisons = claims_tables(found)
    first, second = ([cell.text for cell in row] for row in verdicts.rows)
    assert first[:5] == [
        "1: So it is.",
        "net (by heart)",
        "adam",
        "contradicted",
        "last > avg, ecg200 classification",
    ]
    assert first[5].startswith("-40.00 [-4")
    assert first[7] == "+7.10 [+5.82, +7.48] of 3, ECG200"
    assert second == ["2: Giants.", "–", "–", "not testable", "giants", "–", "–", "–"]
    assert [row[3].text.split(",")[0] for row in comparisons.rows] == [
        "avg > sum",
        "last > avg",
        "avg = wavg (1.00)",
    ]
    assert "adjusted for 1 verdicts" in verdicts.notes[0]
    with pytest.raises(ValueError, match="records: expected at least one verdict"):
        claims_tables([])


@pytest.fixture
def script(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module("claims")


def test_the_script(script, tmp_path, capsys):
    cases = importlib.import_module("claims_cases")
    rows = [
        row
        for name, _ in cases.UCR
        for solver in ("adam", "converged")
        for row in heads(POOLERS, dataset=name, solver=solver, model=cases.SERIES)
    ]
    Records(rows).write_to(tmp_path / "series.jsonl")
    out = [
        "--records",
        str(tmp_path / "series.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "--draws",
        "30000",
    ]
    assert script.main([*out, "--check"]) == 1
    assert "claims.jsonl, claims.md, claims.csv, comparisons.csv: not what" in capsys.readouterr().err
    assert script.main([*out, "--quick"]) == 0
    found = Records.read(tmp_path / "out" / "claims.jsonl")
    verdicts = {(row["claim"], row["solver"]): row["verdict"] for row in found if row["backbone"]}
    assert verdicts["7c", "adam"] == "contradicted"
    assert verdicts["A", "converged"] == "contradicted"
    assert verdicts["5a", "adam"] == "not testable"
    assert {row["draws"] for row in found if row["p_for"] is not None} == {3000}
    assert script.main([*out, "--quick", "--check"]) == 0
    assert script.main([*out, "--check"]) == 1  # of other draws
    text = (tmp_path / "out" / "claims.md").read_text()
    assert "filling in patches; no summary is read by a loss" in text
    shown = text[text.index("## Where the paper is contradicted") : text.index("## Comparisons")]
    assert "- 7c: Sum beats average in classifying series. Contradicted with patch transformer" in shown
    assert "Conjecture, not tested: with as many tokens in every input sum is a multiple" in shown
    assert "- 5a:" not in shown
    [computed] = [row for row in found if row["claim"] == "B"]
    assert computed["verdict"] == "supported"
    assert "for each: avg 1, last 1, max 8, sum 64" in computed["found"]


def test_every_claim_of_the_list_is_told_once(script):
    cases = importlib.import_module("claims_cases")
    comparison = importlib.import_module("comparison._models")
    names = [one.name for one in (*cases.PAPER, *cases.OWN)]
    assert len(set(names)) == len(names)
    assert {name.rstrip("abc") for name in names} == {*map(str, range(1, 12)), "A"}
    for one in (*cases.PAPER, *cases.OWN):
        assert set(one.places) <= {
            *comparison.FORMER,
            cases.DINOV2,
            cases.GPT2,
            cases.SMOLLM2,
            cases.NONE,
        }


def test_claims_are_tested_on_every_backbone_that_has_records(script):
    cases = importlib.import_module("claims_cases")
    last = {"pooler": "last", "resolved": {"name": "last", "options": {}}}
    cls = {"pooler": "last", "resolved": {"name": "first", "options": {}}}
    texts = [
        {"backbone": "gpt", "dataset": name, "task": task, **last} for name, task in cases.SENTENCES
    ]
    objects = dict(zip(("dataset", "task"), cases.OBJECTS, strict=True))
    images = [{"backbone": "swin", **objects, **last}, {"backbone": "dino", **objects, **cls}]
    heads = [
        *texts,
        *images,
        {"backbone": "half", "dataset": "stsb", "task": "sentence_similarity", **last},
    ]
    tested = script.widened(cases.PAPER, heads)
    found = {one.name: set(one.places) for one in tested}
    # Those that are named stand there where no other has records.
    assert found["5a"] == {"gpt", "half"}
    assert found["4a"] == {"dino"}
    assert found["4b"] == {"dino", "swin"}
    assert found["1"] == set(cases.NOISED)
    [half] = [one.places["half"] for one in tested if one.name == "5a"]
    assert half == (("stsb", "sentence_similarity"),)
    rest = script.left_out(cases.PAPER, tested)
    assert rest["5a", "half"] == "banking77 classification, tweet_emotion classification"
    assert ("5a", "gpt") not in rest
    own = {"backbone": cases.CIFAR10, **objects, **cls}
    found = {one.name: set(one.places) for one in script.widened(cases.PAPER, [*heads, own])}
    assert found["4a"] == {cases.CIFAR10, "dino"}


ABOUT = {"id": "x", "model": "net", "pooler": "sum", "seed": 0, "solver": "adam"}


def test_attacks_as_scores_of_images(script):
    """Of two images that were right one is wrong after the first attack, none after the second."""
    of = importlib.import_module("claims_records")
    kept = {"clean": [1, 1, 0], "attacked": [[0, 1], [1, 1], [0, 0]]}
    row = {**ABOUT, "kind": "robustness", "dataset": "cifar10"}
    row |= {"examples": packed({name: np.array(values, np.uint8) for name, values in kept.items()})}
    row |= {"attacks": [{"name": name, "radius": 3 / 255} for name in ("fgsm", "pgd")]}
    one, other = of.scored([row])
    assert (one["task"], other["task"]) == ("fgsm at 3/255", "pgd at 3/255")
    assert (one["test"], other["test"]) == (0.5, 0.0)
    assert not one["higher_is_better"]


def test_noise_and_sentences_as_scores_of_inputs_and_groups(script):
    of = importlib.import_module("claims_records")
    distance = np.array([[1.0, 10.0], [100.0, 1000.0]], np.float32)
    noise = {**ABOUT, "kind": "noise_curve", "dataset": "digits", "task": "noise"}
    [row] = of.scored([noise | {"by_input": packed({"distance": distance})}])
    assert row["test"] == pytest.approx((0.5 + 2.5) / 2)
    assert of.scored([noise]) == []  # of one that holds means alone
    variants = {"group": [0, 0, 1, 1], "similar": [1, 0, 1, 0], "distance": [1.0, 3.0, 2.0, 2.0]}
    variants |= {"cosine": [0.9, 0.5, 0.4, 0.6]}
    told = {**ABOUT, "kind": "sentence_distances", "dataset": "sentences", "num_groups": 3}
    told |= {"variants": packed({name: np.array(values) for name, values in variants.items()})}
    near, far, auc = of.scored([told])
    assert (near["pooler"], far["pooler"]) == ("sum, similar", "sum, dissimilar")
    # The third group has no variants, and says nothing.
    assert (near["test"], far["test"], auc["test"]) == (0.75, 1.25, 0.5)
    assert auc["higher_is_better"]


def test_claims_on_attacks_noise_sentences_and_sizes(script, tmp_path):
    cases = importlib.import_module("claims_cases")
    rng = np.random.default_rng(0)
    rows, poolers = [], ("last", "avg", "sum", "max", "wavg", "attn")
    for pooler in poolers:
        own = {**ABOUT, "id": pooler, "pooler": pooler}
        clean = np.ones(300, np.uint8)
        right = rng.random((300, 2)) < (0.9 if pooler == "sum" else 0.5)
        attacks = [{"name": "fgsm", "radius": radius} for radius in cases.BUDGETS]
        kept = packed({"clean": clean, "attacked": right.astype(np.uint8)})
        image = {"kind": "robustness", "dataset": "cifar10", "attacks": attacks, "examples": kept}
        size = {"avg": 0.1, "sum": 10.0}.get(pooler, 1.0) * np.exp(0.1 * rng.normal(size=(40, 3)))
        noise = {"kind": "noise_curve", "dataset": "banking77", "model": cases.MINILM}
        noise |= {"by_input": packed({"distance": size})}
        groups = {"group": np.repeat(np.arange(40), 2), "similar": np.tile([1, 0], 40)}
        groups |= {"distance": 1.0 + np.tile([0.0, 1.0], 40), "cosine": np.tile([0.9, 0.5], 40)}
        told = {"kind": "sentence_distances", "dataset": "sentences", "num_groups": 40}
        rows += [own | image, own | noise, own | told | {"variants": packed(groups)}]
    for width, gap in ((64, 0.3), (128, 0.2), (192, 0.1)):
        shares = {"avg": 0.9, "last": 0.9 - gap}
        rows += heads(shares, dataset="banking77", model=f"pretrain-gpt2-{width}")
    found = script.judged(rows, tmp_path, draws=2000)
    verdicts = {(row["claim"], row["backbone"], row["solver"]): row["verdict"] for row in found}
    assert verdicts["11", "net", "adam"] == "supported"
    assert verdicts["1", cases.MINILM, "adam"] == "supported"
    assert verdicts["2a", "net", "adam"] == "supported"
    assert verdicts["2b", "net", "adam"] == "undecided"
    assert verdicts["10a", cases.GPT2, "adam"] == "supported"
    missing = {(row["claim"], row["backbone"], row["solver"]): row["missing"] for row in found}
    assert missing["1", cases.DINOV2, "adam"] == "no records: cifar10 noise"
    assert missing["11", "net", "converged"].startswith("no records: cifar10 fgsm at 3/255")
    assert missing["9c", cases.MINILM, "adam"].startswith(
        "no records: hellaswag sentence_completion at"
    )


@pytest.mark.slow
def test_stored_verdicts_come_out_again(script, tmp_path):
    results = script.HERE / "results"
    verdicts = Records.read(results / "claims" / "claims.jsonl")
    rows = [row for path in script.read_by_claims(results) for row in Records.read(path)]
    anew = script.judged(rows, tmp_path)  # where nothing is known
    assert [row["id"] for row in anew] == [row["id"] for row in verdicts]
    for one, other in zip(anew, verdicts, strict=True):
        assert (one["verdict"], one["records"]) == (other["verdict"], other["records"])
        for mine, kept in zip(one["comparisons"], other["comparisons"], strict=True):
            for field in ("gain", "low", "high", "p_for", "p_against"):
                assert mine[field] == pytest.approx(kept[field], abs=1e-6)

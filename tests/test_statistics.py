"""Metrics beside scikit-learn's, and intervals and p-values where the truth is known."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as reference

from poolax.records import Predictions
from poolax.statistics import (
    METRICS,
    all_of,
    compare,
    evidence,
    holm,
    measure,
    resample,
    verdicts,
)
from poolax.statistics._draws import example_weights

RNG = np.random.default_rng(0)


def choices(num_classes, num=200, seed=0, decimals=12):
    """Predictions of a classifier that is better than chance."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, num)
    logits = rng.normal(size=(num, num_classes)) + 1.5 * np.eye(num_classes)[target]
    log_probability = np.round(special.log_softmax(logits, axis=-1), decimals)
    prediction = logits.argmax(-1)
    return Predictions(
        {
            "score": (prediction == target).astype(float),
            "target": target,
            "prediction": prediction,
            "log_probability": log_probability,
            "confidence": np.exp(log_probability.max(-1)),
        },
        metric="accuracy",
        value=float(np.mean(prediction == target)),
    )


def numbers(num=200, seed=0):
    rng = np.random.default_rng(seed)
    target = np.round(rng.normal(size=num), 1)
    prediction = np.round(target + rng.normal(size=num), 1)
    return Predictions({"score": prediction, "target": target, "prediction": prediction})


def only(found, rows):
    return {name: array[rows] for name, array in found.kept.items()}


def auroc_of(kept):
    probability = np.exp(kept["log_probability"])
    if probability.shape[1] == 2:
        return reference.roc_auc_score(kept["target"], probability[:, 1])
    if np.ptp(probability.sum(-1)) > 1e-9:  # where they are rounded, scikit-learn takes one class alone
        areas = [
            reference.roc_auc_score(kept["target"] == c, kept["log_probability"][:, c])
            for c in range(probability.shape[1])
        ]
        return np.mean(areas)
    return reference.roc_auc_score(kept["target"], probability, multi_class="ovr", average="macro")


def calibration_of(kept):
    total = 0.0
    for b in range(15):
        inside = (kept["confidence"] > b / 15) & (kept["confidence"] <= (b + 1) / 15)
        if inside.any():
            right = np.mean((kept["prediction"] == kept["target"])[inside])
            total += inside.mean() * abs(right - kept["confidence"][inside].mean())
    return total


REFERENCE = {
    "accuracy": lambda k: reference.accuracy_score(k["target"], k["prediction"]),
    "balanced_accuracy": lambda k: reference.balanced_accuracy_score(k["target"], k["prediction"]),
    "macro_f1": lambda k: reference.f1_score(k["target"], k["prediction"], average="macro"),
    "f1_of_1": lambda k: reference.f1_score(k["target"] == 1, k["prediction"] == 1),
    "mcc": lambda k: reference.matthews_corrcoef(k["target"], k["prediction"]),
    "auroc": auroc_of,
    "calibration_error": calibration_of,
    "spearman": lambda k: np.corrcoef(stats.rankdata(k["target"]), stats.rankdata(k["prediction"]))[
        0, 1
    ],
    "pearson": lambda k: np.corrcoef(k["target"], k["prediction"])[0, 1],
    "mse": lambda k: reference.mean_squared_error(k["target"], k["prediction"]),
    "mae": lambda k: reference.mean_absolute_error(k["target"], k["prediction"]),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_metrics_are_those_of_scikit_learn_on_every_resampling(name):
    is_number = name in ("spearman", "pearson", "mse", "mae")
    for found in (numbers(),) if is_number else (choices(2), choices(4), choices(4, decimals=0)):
        assert measure(found, [name]).values[name] == pytest.approx(REFERENCE[name](found.kept))
        draws = resample({"one": [found]}, name, draws=5).draws["one"]
        weights = np.concatenate(list(example_weights(len(found), 5, 0)), axis=1)
        for draw, counts in zip(draws, weights.T.astype(int), strict=True):
            rows = np.repeat(np.arange(len(found)), counts)
            assert draw == pytest.approx(REFERENCE[name](only(found, rows)), abs=1e-10)
    assert set(REFERENCE) | {"score"} == set(METRICS) | {"f1_of_1"}


def test_metrics_that_are_not_defined_say_why():
    one = np.zeros(6, int)
    sure = {"log_probability": np.log(np.full((6, 2), 0.5)), "confidence": np.full(6, 0.5)}
    found = Predictions({"score": np.ones(6), "target": one, "prediction": one, **sure})
    values, undefined = measure(found, ["accuracy", "balanced_accuracy", "mcc", "auroc", "f1_of_1"])
    assert values == {"accuracy": 1.0}
    assert undefined == {
        "balanced_accuracy": "the targets are of one class",
        "mcc": "targets or predictions are the same for every example",
        "auroc": "the targets are of one class",
        "f1_of_1": "class 1 neither occurs nor is predicted",
    }
    target = np.arange(6.0)
    constant = Predictions({"score": one, "target": target, "prediction": np.full(6, 0.1)})
    assert set(measure(constant, ["spearman", "pearson"]).undefined) == {"spearman", "pearson"}
    lost = Predictions({"score": one, "target": target, "prediction": np.full(6, np.nan)})
    assert measure(lost, ["pearson", "mse"]).undefined == {
        "pearson": "predictions are not finite",
        "mse": "nothing is scored",
    }
    wide = Predictions({"score": np.ones(2)}, {"log_probability": "too many"})
    assert measure(wide, ["auroc"]).undefined == {"auroc": "target is not kept"}
    with pytest.raises(ValueError, match=r"metric: expected one of score, accuracy, .*, got 'acc'"):
        measure(found, ["acc"])


def test_examples_with_nothing_scored_count_for_nothing():
    kept = {"score": np.array([1.0, 3.0, np.nan]), "num_scored": np.array([3, 1, 0])}
    kept["absolute_error"] = np.array([0.5, 1.0, np.nan])
    found = Predictions(kept, metric="mse", value=1.5, higher_is_better=False)
    assert measure(found, ["mse", "mae"]).values == {"mse": 1.5, "mae": 0.625}
    assert resample({"one": [found]}, draws=50).observed == {"one": 1.5}


def test_holm_of_known_values():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"), and ties, and values that pass 1.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.02, 0.02, 0.6, 0.9]), [0.08, 0.08, 1, 1])
    assert holm([]).shape == (0,)
    for wrong in ([1.5], [np.nan], [[0.1]]):
        with pytest.raises(ValueError, match="p_values: expected numbers from 0 to 1"):
            holm(wrong)


def test_the_interval_of_a_paired_difference_is_scipys():
    one = RNG.normal(size=300)
    other = one + RNG.normal(0.1, 0.5, size=300)
    found = resample({"a": one, "b": other}).difference("a", "b")

    def difference(x, y, axis):
        return np.mean(x, axis) - np.mean(y, axis)

    options = {"paired": True, "method": "percentile", "random_state": 0, "n_resamples": 5000}
    expected = stats.bootstrap((one, other), difference, vectorized=True, **options)
    width = found.high - found.low
    assert found.value == pytest.approx(np.mean(one - other))
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.04 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.04 * width)
    assert found.draws == 10_000
    # As wide as the normal interval, of scores that are normal.
    assert width == pytest.approx(3.92 * np.std(one - other) / np.sqrt(300), rel=0.05)


def covers(make, truth, num=400, draws=400):
    inside, rejected = 0, 0
    for k in range(num):
        found = resample(make(np.random.default_rng(k)), draws=draws, seed=k).difference("a", "b")
        inside += found.low <= truth <= found.high
        rejected += found.p_value <= 0.05
    return inside / num, rejected / num


def test_intervals_cover_and_null_is_rejected_as_often_as_is_said():
    def paired(gain):
        def make(rng):
            easy = rng.random(150)  # what both find easy
            return {"a": rng.random(150) < easy * (1 - gain) + gain, "b": rng.random(150) < easy}

        return make

    # Of 2,000 data sets 0.953 and 0.942, and a level of 0.041; 400 are three errors away from these bounds.
    coverage, level = covers(paired(0), 0)
    assert 0.91 < coverage < 0.98
    assert 0.01 < level < 0.08
    coverage, power = covers(paired(0.2), 0.1)
    assert 0.91 < coverage < 0.98
    assert power > 0.4


@pytest.mark.parametrize("metric", ["macro_f1", "spearman"])
def test_null_of_metrics_that_are_no_means(metric):
    def make(rng):
        """Two heads that are alike, and find the same examples easy."""
        target, easy = rng.choice(3, size=120, p=[0.6, 0.3, 0.1]), rng.normal(size=120)
        found = {}
        for label in "ab":
            prediction = target + easy + rng.normal(size=120)
            if metric == "macro_f1":
                prediction = np.clip(np.rint(prediction), 0, 2).astype(int)
            kept = {"score": easy, "target": target, "prediction": prediction}
            found[label] = [Predictions(kept)]
        return found

    # Of 400 data sets with either metric about 0.04.
    num = 200
    drawn = (resample(make(np.random.default_rng(k)), metric, draws=200, seed=k) for k in range(num))
    level = np.mean([found.difference("a", "b").p_value <= 0.05 for found in drawn])
    assert 0.005 < level < 0.1


def test_draws_in_which_a_metric_is_not_defined_are_left_out():
    rng = np.random.default_rng(0)
    target = np.r_[np.ones(3, int), np.zeros(37, int)]
    logs = special.log_softmax(rng.normal(size=(40, 2)), axis=-1)
    found = Predictions({"score": target * 1.0, "target": target, "log_probability": logs})
    interval = resample({"a": [found]}, "auroc", draws=2000).interval("a")
    # No positive example is drawn with probability (37 / 40)^40.
    assert interval.draws == pytest.approx(2000 * (1 - 0.925**40), abs=40)
    assert interval.low < interval.value < interval.high


def test_seeds_are_the_second_level():
    def make(rng, spread=0.1):
        """Scores of six seeds, each with a level of its own, and another for the other pooler."""
        levels = rng.normal(0, spread, size=(2, 6, 1))
        scores = levels + rng.normal(size=(2, 6, 40)) * 0.02
        return {"a": scores[0], "b": scores[1]}

    coverage, level = covers(make, 0, num=200)
    assert 0.80 < coverage < 0.94  # of 2,000 data sets 0.87: six seeds are few
    assert level < 0.2
    scores = make(np.random.default_rng(0))
    # Examples alone would know nothing of it.
    alone = {label: rows.mean(0) for label, rows in scores.items()}
    wide, narrow = (resample(one).difference("a", "b") for one in (scores, alone))
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)
    assert (wide.num_seeds, narrow.num_seeds) == (6, 1)
    # Seeds of both poolers are drawn together, so that what a seed does to both is no difference.
    both = {"a": scores["a"], "b": scores["a"] - 0.01}
    same = resample(both).difference("a", "b")
    assert same.low == pytest.approx(0.01)
    assert same.high == pytest.approx(0.01)


def test_draws_depend_on_their_seed_alone(monkeypatch):
    found = {"a": [choices(3)], "b": [choices(3, seed=0)]}
    one, again, other = (resample(found, "mcc", draws=60, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.draws["a"], again.draws["a"])
    assert not np.array_equal(one.draws["a"], other.draws["a"])
    monkeypatch.setattr("poolax.statistics._draws._AT_ONCE", 200 * 7)
    np.testing.assert_array_equal(resample(found, "mcc", draws=60).draws["a"], one.draws["a"])
    # Equal predictions are no difference, and no draw says otherwise.
    tie = one.difference("a", "b")
    assert (tie.value, tie.low, tie.high, tie.p_value) == (0, 0, 0, 1)


def test_compare_corrects_for_all_comparisons():
    rng = np.random.default_rng(1)
    scores = {
        name: rng.random(300) < share for name, share in zip("abcd", (0.8, 0.8, 0.7, 0.5), strict=True)
    }
    found = compare(scores, "a", draws=2000)
    assert list(found) == ["b", "c", "d"]
    np.testing.assert_allclose(
        [d.adjusted for d in found.values()], holm([d.p_value for d in found.values()])
    )
    assert found["d"].high < 0
    assert found["d"].p_less == pytest.approx(found["d"].adjusted / 3 / 2, rel=1e-6)
    assert found["d"].p_greater > 0.99
    one = resample(scores, draws=2000).interval("a")
    assert one.low < one.value < one.high


def test_what_cannot_be_compared_is_said():
    found = choices(3)
    wrong = {
        "groups: expected at least one, got none": ({}, None),
        "b: expected predictions of the same 200 test examples": (
            {"a": [found], "b": [choices(3, num=100)]}, None,
        ),
        "b: expected the same targets in every group": (
            {"a": [found], "b": [choices(3, seed=1)]}, None,
        ),
        "a: expected each seed once": ({"a": [found, found]}, None),
        "a: expected the predictions of at least one head": ({"a": []}, None),
        "a: expected scores of shape": ({"a": np.zeros((2, 2, 2))}, None),
        "a: expected predictions that have mcc, got none: target is not kept": (
            {"a": np.zeros(5)}, "mcc",
        ),
        "a: expected a metric that is defined, got nothing is scored": (
            {"a": np.full(5, np.nan)}, "score",
        ),
    }  # fmt: skip
    for message, (groups, metric) in wrong.items():
        with pytest.raises(ValueError, match=message):
            resample(groups, metric, draws=5)
    with pytest.raises(ValueError, match="got 'mean_iou', which is no mean"):
        resample({"a": [Predictions({"score": np.ones(3)}, metric="mean_iou", value=0.2)]}, draws=5)
    with pytest.raises(ValueError, match="label: expected one of a, got 'b'"):
        resample({"a": [found]}, draws=5).interval("b")
    with pytest.raises(ValueError, match="chosen: expected one of a, got 'b'"):
        compare({"a": [found]}, "b", draws=5)
    with pytest.raises(ValueError, match="confidence: expected"):
        resample({"a": [found]}, draws=5).interval("a", confidence=1.0)


def simulated(rng, gains, num=60):
    """Poolers whose scores lie these gains above those of "b", all on the same easy and hard examples."""
    easy = rng.normal(size=num)
    found = {label: easy + gain + rng.normal(size=num) for label, gain in gains.items()}
    return resample(
        {"b": easy + rng.normal(size=num), **found}, draws=400, seed=int(rng.integers(2**31))
    )


def decided(make, num=150):
    """For each of these data sets the verdicts on its statements."""
    return [[one.verdict for one in verdicts(make(np.random.default_rng(k)))] for k in range(num)]


def test_the_error_of_a_family_of_verdicts_is_at_most_the_level():
    def null(rng):
        """Five claims: two of one difference that is none, three of two of which one or both are none."""
        drawn = [simulated(rng, {"a": 0.0, "c": 0.0, "d": 2.0}) for _ in range(5)]
        first = [evidence(one, "a", "b") for one in drawn[:2]]
        both = [all_of([evidence(one, "a", "b"), evidence(one, "c", "b")]) for one in drawn[2:4]]
        return [*first, *both, all_of([evidence(drawn[4], "a", "b"), evidence(drawn[4], "d", "b")])]

    # Of 1,000 data sets 0.045; 150 are within three errors of the bound.
    wrong = [set(found) != {"undecided"} for found in decided(null)]
    assert np.mean(wrong) < 0.11
    # Of the weakest of two that are none hardly anything is left.
    assert all("supported" not in found[2:4] for found in decided(null, 30))


def test_verdicts_say_which_way_it_is():
    def make(rng):
        drawn = simulated(rng, {"a": 0.9, "c": 0.9, "d": 0.0, "e": -0.9})
        return [
            all_of([evidence(drawn, "a", "b"), evidence(drawn, "c", "b")]),
            all_of([evidence(drawn, "a", "b"), evidence(drawn, "e", "b")]),
            all_of([evidence(drawn, "a", "b"), evidence(drawn, "d", "b")]),
            evidence(drawn, "a", "c", "equal", margin=0.9),
            evidence(drawn, "a", "b", "equal", margin=0.2),
            evidence(drawn, "d", "b", "not_worse", margin=0.8),
        ]

    found = np.array(decided(make, 60))
    right = ["supported", "contradicted", "undecided", "supported", "contradicted", "supported"]
    shares = (found == right).mean(0)
    assert (shares > [0.9, 0.9, 0.85, 0.9, 0.6, 0.9]).all(), shares
    opposite = {"supported": "contradicted", "contradicted": "supported", "undecided": ""}
    assert (found == [opposite[one] for one in right]).mean() < 0.01


def test_gains_follow_the_metric_and_what_is_stated_is_checked():
    error = Predictions(
        {"score": np.r_[np.zeros(30), np.ones(30)]}, metric="mse", higher_is_better=False
    )
    less = dataclasses.replace(error, kept={"score": error.score * 0.5})
    drawn = resample({"a": [less], "b": [error]}, draws=200)
    assert drawn.higher_is_better is False
    np.testing.assert_allclose(drawn.gain("a", "b"), drawn.draws["b"] - drawn.draws["a"])
    assert evidence(drawn, "a", "b").p_for == pytest.approx(1 / 201)
    assert evidence(drawn, "b", "a").p_against == pytest.approx(1 / 201)
    for arguments, message in (
        (("a", "b", "worse"), "relation: expected one of 'better', 'not_worse', 'equal', got 'worse'"),
        (("a", "b", "equal"), "margin: expected a number above 0 for an equivalence, got 0"),
        (("a", "c"), "label: expected one of a, b, got 'c'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            evidence(drawn, *arguments)
    with pytest.raises(
        ValueError, match="parts: expected evidence of at least one statement, got none"
    ):
        all_of([])

"""What heads predict of each example, in their records."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heads import TASK, toy
from scipy import special, stats
from sklearn import metrics as reference

from poolax.backbones import Moment, MomentConfig, SeriesPreprocess
from poolax.data.series import Series, forecasting
from poolax.records import Predictions, Records, packed, unpacked
from poolax.statistics import resample
from poolax.training import (
    Classification,
    Converged,
    Forecasting,
    Inpainting,
    NextToken,
    Regression,
    Segmentation,
    SentenceCompletion,
    SentenceSimilarity,
    head_directory,
    load_head,
    sweep,
    sweep_states,
)
from poolax.training._sweep.kept import kept_of

STATES, MASK, TARGETS, SPLITS = toy(150)


@pytest.mark.parametrize("solver", ["adam", Converged(learning_rates=(0.01,), max_epochs=3)])
def test_predictions_are_those_of_the_saved_heads(solver, tmp_path):
    options = {"splits": SPLITS, "poolers": ["avg", "wavg"], "seeds": 1, "epochs": 2, "solver": solver}
    records = sweep_states(STATES, MASK, TARGETS, TASK, **options, out=tmp_path)
    read = Records.read(tmp_path / "records.jsonl")
    for split in ("validation", "test"):
        found, again = records.predictions(split), read.predictions(split)
        assert len(found) == len(again) == len(records)
        for row, one, other in zip(records, found, again, strict=True):
            own = SPLITS[split]
            outputs = load_head(head_directory(tmp_path, row)).predict(
                *map(jnp.asarray, (STATES[own], MASK[own]))
            )
            np.testing.assert_array_equal(one.target, TARGETS[own])
            np.testing.assert_array_equal(one.prediction, np.argmax(outputs, -1))
            np.testing.assert_array_equal(one.score, one.prediction == one.target)
            expected = special.log_softmax(outputs, axis=-1)
            np.testing.assert_allclose(one["log_probability"], expected, rtol=2e-3, atol=1e-4)
            np.testing.assert_allclose(one["confidence"], np.exp(expected.max(-1)), rtol=2e-3)
            assert np.mean(one.score) == pytest.approx(row[split]) == one.value
            for name, array in one.kept.items():
                np.testing.assert_array_equal(array, other[name])
            assert (one.pooler, one.seed, one.id) == (row["pooler"], row["seed"], row["id"])
    # A second call takes over what is there, predictions included.
    taken = sweep_states(STATES, MASK, TARGETS, TASK, **options, out=tmp_path)
    assert json.dumps(taken[0]["predictions"]) == json.dumps(records[0]["predictions"])


@pytest.mark.parametrize("solver", ["adam", "converged"])
def test_records_hold_all_metrics_of_both_splits_and_of_the_majority_class(solver):
    [row] = sweep_states(
        STATES, MASK, TARGETS, TASK, splits=SPLITS, poolers=["avg"], seeds=1, epochs=2, solver=solver
    )
    train = TARGETS[SPLITS["train"]]
    frequent = np.bincount(train).argmax()
    assert row["num_examples"] == {"train": 90, "validation": 30, "test": 30}
    for split in ("validation", "test"):
        [found] = Records([row]).predictions(split)
        values = row[f"{split}_metrics"]
        expected = expected_metrics(found.target, found.prediction)
        assert {name: values[name] for name in expected} == pytest.approx(expected)
        assert values["accuracy"] == row[split]
        probability = np.exp(found["log_probability"].astype(float))
        areas = [reference.roc_auc_score(found.target == c, probability[:, c]) for c in range(3)]
        assert values["auroc"] == pytest.approx(np.mean(areas))
        assert 0 < values["calibration_error"] < 1
        baseline = dict(row["baselines"][split]["majority class"])
        constant = expected_metrics(found.target, np.full(30, frequent))
        del constant["mcc"]  # which is not defined
        assert baseline.pop("auroc") == 0.5
        share = np.mean(train == frequent)
        calibration = abs(share - constant["accuracy"])
        assert baseline.pop("calibration_error") == pytest.approx(calibration, abs=1e-3)
        assert baseline == pytest.approx(constant)
    assert row["baseline"] == row["baselines"]["test"]["majority class"]["accuracy"]
    assert row["undefined_metrics"] == {}
    assert not row["is_constant"]


def expected_metrics(target, prediction):
    return {
        "accuracy": reference.accuracy_score(target, prediction),
        "balanced_accuracy": reference.balanced_accuracy_score(target, prediction),
        "macro_f1": reference.f1_score(target, prediction, average="macro", zero_division=0),
        "mcc": reference.matthews_corrcoef(target, prediction),
    }


def test_a_head_that_sees_nothing_is_the_majority_class():
    labels = np.minimum(TARGETS, 1)
    [row] = sweep_states(
        np.zeros_like(STATES), MASK, labels, Classification(2), splits=SPLITS, poolers=["avg"],
        solver="converged",
    )  # fmt: skip
    assert row["is_constant"]
    assert row["test"] == pytest.approx(row["baseline"])
    why = "targets or predictions are the same for every example"
    assert row["undefined_metrics"] == {"validation": {"mcc": why}, "test": {"mcc": why}}
    assert "mcc" not in row["test_metrics"]
    assert row["test_metrics"]["auroc"] == 0.5
    assert row["test_metrics"]["f1_of_1"] == pytest.approx(
        reference.f1_score(labels[SPLITS["test"]], np.ones(30))
    )
    # Of a test split of one class little is defined.
    order = np.argsort(labels, kind="stable")
    splits = {"train": order[30:120], "validation": order[120:], "test": order[:30]}
    [row] = sweep_states(
        STATES, MASK, labels, Classification(2), splits=splits, poolers=["avg"], solver="converged"
    )
    assert set(row["undefined_metrics"]["test"]) >= {"auroc", "balanced_accuracy"}


def test_constants_of_numbers_and_grids():
    values = np.array([[1.0, np.nan], [3.0, 4.0], [np.nan, np.nan]], np.float32)
    mean = Inpainting(2).constants(values, values[:2])["training mean"]
    np.testing.assert_allclose(mean.scores, [[1, 1, 1], [1, 1, 2]])  # means 2 and 4
    np.testing.assert_allclose(mean.answers["absolute_error"], [1, 0.5])

    series = {"values": values[:2], "shift": np.array([1.0, 3.0]), "scale": np.ones(2)}
    found = Forecasting(2).constants(series, series)
    assert list(found) == ["training mean", "mean of each window"]
    np.testing.assert_allclose(found["mean of each window"].scores, [[0, 0, 1], [1, 1, 2]])

    inputs = np.array([[1.0, 2.0, np.nan], [0.0, 5.0, 4.0]])
    last = Forecasting(2).rules(lambda: inputs, series)["last value"]
    np.testing.assert_allclose(last.scores, [[1, 1, 1], [1, 1, 2]])  # 2 and 4

    grid = np.array([[[0, 1], [2, 255]], [[0, 1], [1, 0]], [[0, 2], [1, 0]]])
    cells = Segmentation(3, output_grid=2).constants(grid, grid[:1])["majority class of each cell"]
    np.testing.assert_array_equal(cells.scores[0], [[1, 0, 0], [0, 1, 0], [0, 1, 0]])

    scores = np.array([0.0, 1.0, 0.5])
    similar = SentenceSimilarity().constants(scores, scores[:2])["training mean"]
    np.testing.assert_array_equal(similar.answers["prediction"], [0.5, 0.5])


def test_a_split_that_was_trained_on_has_no_predictions():
    values = STATES.mean(axis=(1, 2), keepdims=True)[..., 0]
    records = sweep_states(
        STATES, MASK, values, Regression(), splits=SPLITS, poolers=["avg"],
        solver=Converged(refit=True),
    )  # fmt: skip
    assert "validation_metrics" not in records[0]
    assert records[0]["test_metrics"]["pearson"] > 0
    assert len(records.predictions()[0].prediction) == 30
    with pytest.raises(ValueError, match="it was trained on the validation split as well"):
        records.predictions("validation")


def test_records_of_before_say_that_none_were_kept():
    [row] = sweep_states(
        STATES, MASK, TARGETS, TASK, splits=SPLITS, poolers=["avg"], solver="converged"
    )
    old = {name: value for name, value in row.items() if name != "predictions"}
    for record in (old, {"kind": "lipschitz"}):
        with pytest.raises(ValueError, match=r"expected the predictions of .*, got none"):
            Records([record]).predictions()
    with pytest.raises(ValueError, match="split: expected 'validation' or 'test', got 'train'"):
        Records([row]).predictions("train")
    broken = {**row, "predictions": {"test": {"target": {"dtype": "|u1", "shape": [2], "data": "?"}}}}
    with pytest.raises(ValueError, match="expected dtype, shape and data of 'target'"):
        Records([broken]).predictions()


def answers_of(task, outputs, targets):
    found = task.answer(jnp.asarray(outputs), jax.tree.map(jnp.asarray, targets))
    return {name: np.asarray(array) for name, array in found.items()}


def test_answers_of_each_task():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 300)).astype(np.float32)
    labels = rng.integers(0, 300, 5)
    # Of very many classes only the predicted one.
    assert set(answers_of(Classification(300), outputs, labels)) == {"prediction", "confidence"}
    tokens = answers_of(NextToken(300), outputs, labels)
    np.testing.assert_array_equal(tokens["prediction"], outputs.argmax(-1))

    pairs = rng.normal(size=(5, 2, 8)).astype(np.float32)
    similar = SentenceSimilarity(8)
    np.testing.assert_array_equal(
        answers_of(similar, pairs, labels / 300)["prediction"],
        similar.score(jnp.asarray(pairs), labels / 300),
    )
    endings = rng.normal(size=(5, 5, 8)).astype(np.float32)
    chosen = answers_of(SentenceCompletion(projection_dim=8), endings, labels % 4)
    assert chosen["log_probability"].shape == (5, 4)
    np.testing.assert_array_equal(chosen["prediction"], chosen["log_probability"].argmax(-1))

    grid = rng.integers(0, 3, (5, 2, 2))
    grid[0, 0] = 255
    cells = answers_of(Segmentation(3, output_grid=2), outputs[:, :12], grid)
    np.testing.assert_array_equal(cells["num_scored"], [2, 4, 4, 4, 4])


def test_answers_of_numbers_are_in_their_units():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(6, 3)).astype(np.float32)
    values[1, 0] = np.nan
    outputs = rng.normal(size=(6, 3)).astype(np.float32)
    task = Inpainting(3)
    found = answers_of(task, outputs, values)
    np.testing.assert_array_equal(found["num_scored"], [3, 2, 3, 3, 3, 3])
    np.testing.assert_allclose(
        found["absolute_error"], np.nanmean(np.abs(outputs - values), -1), rtol=1e-6
    )
    assert "prediction" not in found
    assert task.single_targets(values) is None

    series = {"values": values[:, :1], "shift": values[:, 2], "scale": np.full(6, 2.0, np.float32)}
    one = answers_of(Forecasting(1), outputs[:, :1], series)
    expected = np.where(np.isnan(values[:, 0]), np.nan, outputs[:, 0] * 2 + values[:, 2])
    np.testing.assert_allclose(one["prediction"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(Forecasting(1).single_targets(series), values[:, 0])


def test_what_is_packed_is_small_and_comes_back():
    rng = np.random.default_rng(0)
    arrays = {
        "target": rng.integers(0, 77, 3000),
        "score": rng.normal(size=3000).astype(np.float32),
        "log_probability": rng.normal(size=(3000, 5)).astype(np.float16),
        "wide": rng.normal(size=(3000, 77)),
        "empty": np.zeros(0, np.int64),
    }
    arrays["score"][3] = np.nan
    plain = json.loads(json.dumps(packed(arrays), allow_nan=False))
    assert len(json.dumps(plain["target"])) < 4000
    found, left_out = unpacked(plain)
    for name in ("target", "score", "log_probability", "empty"):
        np.testing.assert_array_equal(found[name], arrays[name])
    assert (found["target"][:10] - 77 < 0).all()
    assert left_out == {
        "wide": "77 numbers for each of 3000 examples are more than the 16384 that are kept"
    }
    kept = Predictions({"score": found["score"]}, left_out)
    with pytest.raises(ValueError, match=r"wide: expected one that was kept, got none: 77 numbers"):
        kept["wide"]
    for wrong in ({"target": np.zeros(3)}, {"score": np.zeros((3, 1))}):
        with pytest.raises(ValueError, match="kept: expected"):
            Predictions(wrong)


def test_similarities_keep_what_their_rank_correlation_is_made_of():
    rng = np.random.default_rng(0)
    targets = rng.uniform(size=60).astype(np.float32)
    states = rng.normal(size=(60, 2, 3, 8)).astype(np.float32)
    ends = {"train": (0, 30), "validation": (30, 45), "test": (45, 60)}
    parts = {name: np.arange(*own) for name, own in ends.items()}
    task = SentenceSimilarity(4)
    records = sweep_states(
        states, None, targets, task, splits=parts, poolers=["avg"], seeds=1, epochs=1
    )
    [found] = records.predictions()
    ranks = [stats.rankdata(found[name]) for name in ("target", "prediction")]
    assert np.corrcoef(*ranks)[0, 1] == pytest.approx(records[0]["test"], abs=1e-6)


def test_the_last_value_is_a_baseline_of_forecasts():
    walk = np.cumsum(np.random.default_rng(0).normal(size=(160, 1)), axis=0)
    data = forecasting(Series("walk", walk, ("x",), (90, 125, 160), "", ""), context=16, horizon=4)
    config = MomentConfig(16, 4, 8, width=8, num_layers=1, num_heads=2, head_dim=4, mlp_dim=8)
    moment = Moment.init(config, jax.random.key(0), SeriesPreprocess(16, 4))
    [row] = sweep(moment, data, Forecasting(4), poolers=["avg"], solver="converged")
    for split in ("validation", "test"):
        inputs = data.inputs[data.splits[split]]
        values = data.targets["values"][data.splits[split]]
        expected = {
            "last value": inputs[:, -1:],
            "mean of each window": inputs.mean(axis=1, keepdims=True),
            "training mean": data.targets["values"][data.splits["train"]].mean(axis=0),
        }
        found = row["baselines"][split]
        assert set(found) == set(expected)
        for name, prediction in expected.items():
            errors = prediction - values
            both = {"mse": np.mean(errors**2), "mae": np.mean(np.abs(errors))}
            assert found[name] == pytest.approx(both, rel=1e-4)


def of_random_outputs(task, targets, shape, seed=0):
    """Predictions of a head whose outputs are random, and the metrics of its task."""
    outputs = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    scores = np.asarray(task.score(jnp.asarray(outputs), jax.tree.map(jnp.asarray, targets)))
    metrics = task.metrics(scores, targets)
    kept = kept_of(task, scores, answers_of(task, outputs, targets), targets)
    value = metrics[task.metric]
    found = Predictions(unpacked(packed(kept))[0], metric=task.metric, value=value)
    return found, metrics


def test_first_metrics_of_all_tasks_are_made_of_what_is_kept():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    values = rng.normal(size=(50, 3)).astype(np.float32)
    values[rng.random((50, 3)) < 0.3] = np.nan
    series = {"values": values, "shift": values[:, 0] * 0, "scale": np.full(50, 2, np.float32)}
    grid = rng.integers(0, 3, (50, 2, 2))
    grid[rng.random((50, 2, 2)) < 0.3] = 255
    tried = [
        (Classification(4), labels, (50, 4), ("balanced_accuracy", "mcc", "auroc")),
        (NextToken(20, top_k=3), labels, (50, 20), ("accuracy",)),
        (SentenceSimilarity(8), labels / np.float32(3), (50, 2, 8), ("mse", "pearson", "mae")),
        (SentenceCompletion(projection_dim=8), labels, (50, 5, 8), ("accuracy", "mcc")),
        (Regression(), values[:, :1], (50, 1), ("mae", "spearman", "pearson")),
        (Inpainting(3), values, (50, 3), ("mae",)),
        (Forecasting(3), {**series, "shift": np.zeros(50, np.float32)}, (50, 3), ("mae",)),
        (Segmentation(3, output_grid=2), grid, (50, 12), ()),
    ]
    for task, targets, shape, others in tried:
        found, metrics = of_random_outputs(task, targets, shape)
        # Of what is kept again as it was, and in draws as well.
        drawn = resample({"head": [found]}, draws=50)
        assert drawn.observed["head"] == pytest.approx(metrics[task.metric], rel=1e-4), task
        assert np.isfinite(drawn.draws["head"]).all()
        for name in others:
            whole = resample({"head": [found]}, name, draws=50)
            assert np.isfinite(whole.draws["head"]).all(), (task, name)
            if name in metrics:
                assert whole.observed["head"] == pytest.approx(metrics[name], rel=1e-4), (task, name)
        assert set(others) <= set(metrics) | set(task.further_metrics)

"""What heads predict of each example, in their records."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heads import TASK, toy
from scipy import special, stats

from poolax.records import Predictions, Records, packed, unpacked
from poolax.training import (
    Classification,
    Forecasting,
    Inpainting,
    NextToken,
    Segmentation,
    SentenceCompletion,
    SentenceSimilarity,
    head_directory,
    load_head,
    sweep_states,
)

STATES, MASK, TARGETS, SPLITS = toy(150)


@pytest.mark.parametrize("solver", ["adam", "converged"])
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

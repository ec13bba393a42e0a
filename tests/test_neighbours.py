"""Nearest neighbours among pooled vectors: those of scikit-learn, and what records say of them."""

from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from poolax.training import Classification, neighbour_votes, sweep_states
from poolax.training import neighbours as module

NUM, CLASSES = 300, 3
SPLITS = dict(zip(("train", "validation", "test"), np.split(np.arange(NUM), [200, 250]), strict=True))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, NUM)
    states = rng.normal(size=(NUM, 3, 6)) + 0.7 * np.eye(CLASSES, 6)[labels][:, None]
    return states.astype(np.float32), labels


def reference(vectors, labels, queries, k=20):
    weights: Any = lambda distances: np.exp((1 - distances) / 0.07)  # noqa: E731
    model = KNeighborsClassifier(k, metric="cosine", weights=weights)
    return model.fit(vectors, labels).predict_proba(queries)


@pytest.mark.parametrize("rows", [8192, 32])
def test_votes_are_those_of_the_reference(data, rows, monkeypatch):
    """In one stretch of vectors and in several."""
    monkeypatch.setattr(module, "_MOST_ROWS", rows)
    vectors = data[0].mean(axis=1)
    known, asked = vectors[:200], vectors[200:]
    votes = neighbour_votes(known, data[1][:200], asked, CLASSES)
    np.testing.assert_allclose(votes, reference(known, data[1][:200], asked), atol=1e-4)


def test_of_equal_ones_the_first_are_taken():
    known, labels = np.ones((5, 2)), np.array([1, 0, 0, 2, 2])
    votes = neighbour_votes(known, labels, np.ones((1, 2)), 3, num_neighbours=2)
    np.testing.assert_allclose(votes, [[0.5, 0.5, 0.0]])
    # All of fewer vote; nothing is near a vector of length zero, whose neighbours are the first.
    np.testing.assert_allclose(neighbour_votes(known, labels, np.ones((1, 2)), 3), [[0.4, 0.2, 0.4]])
    zero = neighbour_votes(known, labels, np.zeros((1, 2)), 3, num_neighbours=1)
    np.testing.assert_allclose(zero, [[0.0, 1.0, 0.0]])
    for odd, message in (
        ({"num_neighbours": 0}, "num_neighbours"),
        ({"temperature": 0}, "temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            neighbour_votes(known, labels, np.ones((1, 2)), 3, **odd)
    with pytest.raises(ValueError, match="vectors: expected at least one"):
        neighbour_votes(known[:0], labels[:0], known, 3)


@pytest.mark.parametrize("solver", ["adam", "converged"])
def test_records_hold_the_score_of_neighbours(data, solver):
    states, labels = data
    options = {"splits": SPLITS, "poolers": ["avg", "wavg"], "seeds": 1, "epochs": 1, "solver": solver}
    task = Classification(CLASSES)
    rows = sweep_states(states, None, labels, task, neighbours="all", **options)
    vectors = states.mean(axis=1)
    train, test = SPLITS["train"], SPLITS["test"]
    expected = reference(vectors[train], labels[train], vectors[test]).argmax(axis=1)
    found = rows[0]["knn"]
    assert found["test"] == pytest.approx((expected == labels[test]).mean())
    assert (found["neighbours"], found["temperature"]) == (20, 0.07)
    assert all(0.4 < row["knn"]["test"] <= 1 for row in rows)
    fixed = sweep_states(states, None, labels, task, **options)
    assert [("knn" in row) for row in fixed] == [row["pooler"] == "avg" for row in fixed]
    [none] = sweep_states(
        states, None, labels, task, neighbours="none", **{**options, "poolers": ["avg"]}
    )
    assert "knn" not in none

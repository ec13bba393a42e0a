"""Labels of pairs: one linear layer on both pooled vectors, whatever is pooled, saved and exported."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from poolax import data, training
from poolax.training import Converged, PairClassification, tasks

RNG = np.random.default_rng(0)
NUM, DIM = 240, 5
LABELS = RNG.integers(0, 2, NUM)
SPLITS = {"train": np.arange(120), "validation": np.arange(120, 180), "test": np.arange(180, NUM)}


def pairs():
    """Whether two texts point the same way, which no sum of what is read of each of them tells."""
    first = RNG.normal(size=(NUM, DIM))
    second = np.where(LABELS[:, None] > 0, first, -first)
    states = np.stack([first, second], 1)[:, :, None] + 0.3 * RNG.normal(size=(NUM, 2, 4, DIM))
    mask = np.ones((NUM, 2, 4), bool)
    mask[::2, 1, 2:] = False
    states[~mask] = np.nan
    return states.astype(np.float32), mask


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Heads of a fixed and of a learned pooler, and where they are saved."""
    out = tmp_path_factory.mktemp("pairs")
    states, mask = pairs()
    task = PairClassification(2)
    options = {"splits": SPLITS, "seeds": 1, "out": out}
    solver = Converged(learning_rates=(1e-2,), max_epochs=20, tolerance=1e-6)
    records = training.sweep_states(
        states, mask, LABELS, task, poolers=["avg", "wavg"], solver=solver, **options
    )
    return records, out, np.where(mask[..., None], states, 0), mask


def head_of(found, pooler):
    records, out, *_ = found
    [row] = records.where(pooler=pooler)
    return row, training.load_head(training.head_directory(out, row))


def test_a_solved_head_is_that_of_scikit_learn_on_the_same_features(found):
    row, head = head_of(found, "avg")
    *_, states, mask = found
    vectors = states.sum(-2) / mask.sum(-1, keepdims=True)
    left, right = vectors[:, 0], vectors[:, 1]
    features = np.concatenate([left, right, np.abs(left - right), left * right], -1)
    train, test = SPLITS["train"], SPLITS["test"]
    scaler = StandardScaler().fit(features[train])
    # poolax: mean loss + strength / 2 |kernel|^2 on two outputs, whose halves are those of one.
    reference = LogisticRegression(C=2 / (row["strength"] * len(train)), tol=1e-9, max_iter=5000)
    reference.fit(scaler.transform(features[train]), LABELS[train])
    expected = reference.predict_proba(scaler.transform(features[test]))
    outputs = head.predict(states[test], mask[test])
    np.testing.assert_allclose(jax.nn.softmax(outputs), expected, atol=1e-4)
    accuracy = reference.score(scaler.transform(features[test]), LABELS[test])
    assert row["test"] == pytest.approx(accuracy, abs=1e-6)
    assert row["test"] > 0.95 > 0.65 > row["baseline"]
    assert row["converged"]
    assert row["method"] == "lbfgs"
    assert row["width"] == 4 * DIM


@pytest.mark.parametrize("pooler", ["avg", "wavg"])
def test_saved_heads_take_both_sequences(found, pooler):
    row, head = head_of(found, pooler)
    *_, states, mask = found
    test = SPLITS["test"]
    outputs = head.predict(states[test], mask[test])
    assert outputs.shape == (len(test), 2)
    assert np.mean(np.argmax(outputs, -1) == LABELS[test]) == pytest.approx(row["test"])
    assert row["test"] > 0.9
    with pytest.raises(ValueError, match="states: expected width 5, got shape"):
        head.predict(states[..., :3], mask)


@pytest.mark.parametrize("pooler", ["avg", "wavg"])
def test_artefacts_take_both_sequences(found, pooler, tmp_path):
    _, head = head_of(found, pooler)
    *_, states, mask = found
    training.export_head(head, tmp_path / "head.jax")
    exported = jax.export.deserialize(bytearray((tmp_path / "head.jax").read_bytes()))
    for part in (slice(0, 1), slice(0, 7)):
        expected = head.predict(states[part], mask[part])
        got = exported.call(states[part], mask[part])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_own_pairs_with_labels_have_a_task(tmp_path):
    rows = [f"a {i},b {i},{label}" for i in range(12) for label in ("entailed", "neutral", "other")]
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join(["premise,hypothesis,gold", *rows]))
    dataset = data.from_files(file, pair_columns=("premise", "hypothesis"), label_column="gold")
    assert dataset.inputs.shape == (36, 2)
    assert dataset.class_names == ("entailed", "neutral", "other")
    assert training.task_for(dataset) == PairClassification(3)


def test_both_arrays_join_alike():
    vectors = RNG.normal(size=(3, 2, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        tasks.joined_pair(vectors), tasks.joined_pair(jax.numpy.array(vectors))
    )
    with pytest.raises(ValueError, match=r"vectors: expected shape \(\*batch, 2, d\)"):
        tasks.joined_pair(vectors[:, :1])

"""Data that leave a head open: said in words, and never a NaN; what poolings have to agree on."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from poolax.training import Classification, Converged, Inpainting, sweep_states
from poolax.training._scaling import Scaling

TOKENS, WIDTH = 4, 6


def _splits(num, *ends):
    return dict(zip(("train", "validation", "test"), np.split(np.arange(num), ends), strict=True))


def _sweep(states, targets, task, splits, poolers=("avg",), **options):
    options = {"learning_rates": [0.05], "max_epochs": 3, **options}
    return sweep_states(
        states, None, targets, task, splits=splits, poolers=list(poolers), seeds=1,
        solver=Converged(**options),
    )  # fmt: skip


def _states(num, seed=0):
    return np.random.default_rng(seed).normal(size=(num, TOKENS, WIDTH)).astype(np.float32)


def _is_finite(row):
    numbers = [row["train"], row["validation"], row["test"], row["gradient"], *row["scores_tried"]]
    return np.isfinite(numbers).all() and np.isfinite(row["test_scores"]).all()


@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_a_singular_system_is_said(task, caplog):
    """Constant entries, entries that are copies, and fewer examples than entries."""
    states = _states(200)
    states[..., 0] = 7.5
    states[..., 1] = states[..., 2]
    labels = (states[..., 3].mean(-1) > 0).astype(np.int64)
    values = states[..., 3:5].mean(1)
    targets, kind = (labels, Classification(2)) if task == "classes" else (values, Inpainting(2))
    with caplog.at_level(logging.WARNING, "poolax"):
        [row] = _sweep(states, targets, kind, _splits(200, 100, 150))
    assert _is_finite(row)
    assert row["converged"]
    assert (row["rank"], row["width"]) == (4, 6)
    said = "inputs vary in 4 of 6 directions: in the others the penalty alone decides"
    assert said in row["notes"]
    assert said in caplog.text
    if task == "classes":
        return
    # Four examples, of which three directions are left without their mean.
    few = _splits(200, 4, 150)
    [row] = _sweep(states, targets, kind, few)
    assert _is_finite(row)
    assert row["rank"] == 3


def test_a_class_with_one_example_and_more_classes_than_examples():
    states = _states(120)
    labels = np.arange(120) % 2
    labels[5] = 2
    # Few for validation: folds, of which one has the only example of its class.
    [row] = _sweep(states, labels, Classification(4), _splits(120, 60, 80))
    assert _is_finite(row)
    assert row["chosen_by"] == "cross-validation"
    assert row["notes"][:2] == [
        "1 of 4 classes has no training example",
        "1 of 4 classes has one training example alone",
    ]
    labels = np.arange(120) % 100
    [row] = _sweep(states, labels, Classification(100), _splits(120, 30, 90))
    assert _is_finite(row)
    assert "70 of 100 classes have no training example" in row["notes"]


def test_states_that_say_nothing_are_the_best_constant():
    states = np.full((150, TOKENS, WIDTH), 3.25, np.float32)
    labels = (np.arange(150) % 3 == 0).astype(np.int64)
    for row in _sweep(states, labels, Classification(2), _splits(150, 50, 100), ["avg", "wavg"]):
        assert row["test"] == pytest.approx(row["baseline"])
        assert "its test score is that of the best constant prediction" in row["notes"]
        assert np.isfinite(row["test_scores"]).all()


def test_what_does_not_converge_says_so(caplog):
    states = _states(200, seed=1)
    labels = (states[..., 0].mean(-1) > 0).astype(np.int64)
    splits = _splits(200, 100, 150)
    with caplog.at_level(logging.WARNING, "poolax"):
        [solved] = _sweep(states, labels, Classification(2), splits, max_steps=1, strengths=[1e-3])
        # Far from where training is to start, and no time to get there.
        values = states.mean(axis=1)[:, :2] + 10
        [learned] = _sweep(
            states, values, Inpainting(2), splits, ["wavg"], learning_rates=[0.5], max_epochs=4
        )
    assert not solved["converged"]
    assert solved["gradient"] > 1e-5
    assert any(note.startswith("not converged: the gradient is") for note in solved["notes"])
    assert not learned["converged"]
    assert learned["best_epoch"] == 3
    assert "not converged: validation still improved at the last epoch" in learned["notes"]
    assert "not converged" in caplog.text
    # Data, as divergence is.
    assert [solved["diverged"], learned["diverged"]] == [False, False]


def _loss(kernel, bias, inputs, targets, classes):
    outputs = inputs @ kernel + bias
    if not classes:
        return np.square(outputs - targets).mean()
    outputs = outputs - outputs.max(axis=1, keepdims=True)
    return -(outputs[np.arange(len(targets)), targets] - np.log(np.exp(outputs).sum(1))).mean()


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_average_sum_and_moved_states_are_one_head_and_that_of_the_reference(kind, tmp_path):
    """In score to 1e-3 and in loss to 1e-4, at a strength that is the same."""
    from poolax.training import head_directory, load_head

    states = _states(400, seed=2)
    noise = np.random.default_rng(3).normal(size=(400, 3)) / 4
    signal = states.mean(1)[:, :3] + noise
    classes = kind == "classes"
    task = Classification(3) if classes else Inpainting(3)
    targets = signal.argmax(1) if classes else signal.astype(np.float32)
    splits = _splits(400, 200, 300)
    rng = np.random.default_rng(4)
    moved = states * 10.0 ** rng.uniform(-2, 2, WIDTH) + rng.normal(size=WIDTH) * 3
    train, found = splits["train"], []
    for name, own in (("plain", states), ("moved", moved.astype(np.float32))):
        for row in sweep_states(
            own, None, targets, task, splits=splits, poolers=["avg", "sum"], seeds=1,
            solver=Converged(strengths=[1e-4, 1e-3, 1e-2]), out=tmp_path / name,
        ):  # fmt: skip
            head = load_head(head_directory(tmp_path / name, row))
            # By hand, since sums of large states lose digits in float32.
            output = head.variables["params"]["output"]
            kernel, bias = (np.asarray(output[part], np.float64) for part in ("kernel", "bias"))
            pool = np.mean if row["pooler"] == "avg" else np.sum
            vectors = pool(own.astype(np.float64), axis=1)[train]
            found.append((row, _loss(kernel, bias, vectors, targets[train], classes)))
    first, loss = found[0]
    for row, other in found[1:]:
        assert row["strength"] == first["strength"]
        assert row["test"] == pytest.approx(first["test"], abs=1e-3)
        assert row["validation"] == pytest.approx(first["validation"], abs=1e-3)
        assert other == pytest.approx(loss, abs=1e-4)
        assert row["gradient"] <= 1e-5
    inputs = states.mean(1)[train]
    inputs = Scaling.of(inputs).apply(inputs).astype(np.float64)
    strength = first["strength"]
    if classes:
        reference = LogisticRegression(C=1 / (strength * len(train)), tol=1e-8, max_iter=1000)
    else:
        reference = Ridge(alpha=strength * len(train) * 3 / 2)
    reference.fit(inputs, targets[train])
    theirs = _loss(reference.coef_.T, reference.intercept_, inputs, targets[train], classes)
    assert loss == pytest.approx(theirs, abs=1e-4)

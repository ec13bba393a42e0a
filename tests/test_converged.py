"""Heads that are trained to the end: the least of the loss, whatever units the states have."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from poolax.training import (
    Classification,
    Converged,
    Forecasting,
    Inpainting,
    Limits,
    PreemptedError,
    SentenceSimilarity,
    head_directory,
    load_head,
    sweep_states,
)
from poolax.training._convex.choose import solve_head
from poolax.training._convex.descent import descend_path
from poolax.training._convex.ridge import ridge_path
from poolax.training._convex.rule import HeldOut, best_of
from poolax.training._scaling import Scaling

NUM, TOKENS, WIDTH, CLASSES = 240, 4, 6, 3
SPLITS = dict(zip(("train", "validation", "test"), np.split(np.arange(NUM), [120, 180]), strict=True))


@pytest.fixture(scope="module")
def states():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, NUM)
    directions = np.eye(CLASSES, WIDTH)[labels]
    return (rng.normal(size=(NUM, TOKENS, WIDTH)) + directions[:, None]).astype(np.float32), labels


def _inputs(states):
    vectors, labels = states[0].mean(axis=1), states[1]
    return Scaling.of(vectors).apply(vectors), labels


def _objective(path, place, inputs, labels):
    logits = inputs @ path.kernel[place] + path.bias[place]
    logits = logits - logits.max(axis=1, keepdims=True)
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    penalty = path.strengths[place] / 2 * np.square(path.kernel[place]).sum()
    return -log_shares[np.arange(len(labels)), labels].mean() + penalty


def test_logistic_regression_is_that_of_the_reference(states):
    inputs, labels = _inputs(states)
    strengths = np.array([1e-3, 1e-1, 1e-2])
    task = Classification(CLASSES)
    path = descend_path(inputs, labels, task.loss, CLASSES, strengths, tolerance=1e-5)
    assert path.strengths.tolist() == [1e-1, 1e-2, 1e-3]
    assert path.converged.all()
    assert (path.gradient <= 1e-5).all()
    for place, strength in enumerate(path.strengths):
        reference = LogisticRegression(C=1 / (strength * NUM), tol=1e-8, max_iter=1000)
        reference.fit(inputs.astype(np.float64), labels)
        other = path._replace(
            kernel=reference.coef_.T[None], bias=reference.intercept_[None], strengths=[strength]
        )
        ours, theirs = (
            _objective(head, at, inputs, labels) for head, at in ((path, place), (other, 0))
        )
        assert ours == pytest.approx(theirs, abs=1e-6)
        # No head has a lower one.
        assert ours >= theirs - 1e-7


def test_many_classes_take_few_steps():
    """The bias is curved as little as the softmax of many classes is: left in its own units it lags."""
    rng = np.random.default_rng(8)
    labels = np.arange(600) % 60
    inputs = rng.normal(size=(600, 8)) + 2 * rng.normal(size=(60, 8))[labels]
    inputs = Scaling.of(inputs).apply(inputs)
    task, strengths = Classification(60), np.array([1e-3, 1e-2, 1e-1])
    path = descend_path(inputs, labels, task.loss, 60, strengths)
    assert path.converged.all()
    assert path.num_steps.max() <= 60, path.num_steps


@pytest.mark.parametrize("num", [NUM, 4], ids=["primal", "dual"])
@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_are_those_of_the_reference(states, num, weighted):
    inputs, _ = _inputs(states)
    inputs = inputs[:num]
    rng = np.random.default_rng(1)
    values = rng.normal(size=(num, 5)) + 3
    weights = rng.uniform(0.1, 4, num) if weighted else None
    path = ridge_path(inputs, values, np.array([1e-6, 1e-2, 1.0]), weights=weights)
    assert path.converged.all()
    for place, strength in enumerate(path.strengths):
        reference = Ridge(alpha=strength * num * 5 / 2).fit(inputs, values, sample_weight=weights)
        # At the least strength four examples leave the kernel nearly free.
        assert np.abs(path.kernel[place] - reference.coef_.T).max() <= 1e-4
        predicted = inputs @ path.kernel[place] + path.bias[place]
        assert np.abs(predicted - reference.predict(inputs)).max() <= 1e-5


def test_a_convex_loss_that_is_no_least_squares_gets_there_too(states):
    """Where values are missing L-BFGS solves what the closed form would solve column by column."""
    inputs, _ = _inputs(states)
    rng = np.random.default_rng(2)
    values = rng.normal(size=(NUM, 2)).astype(np.float32)
    values[:100, 1] = np.nan
    task = Inpainting(2)
    assert task.least_squares(values) is None
    path = descend_path(inputs, values, task.loss, 2, np.array([0.01]), tolerance=1e-6)
    # Of the first 100 the mean over their scored values is the error of the first alone.
    first = np.where(np.arange(NUM) < 100, 1.0, 0.5)
    reference = Ridge(alpha=0.01 * NUM / 2).fit(inputs, values[:, 0], sample_weight=first)
    assert np.abs(path.kernel[0][:, 0] - reference.coef_).max() <= 1e-4


def test_series_are_least_squares_in_their_own_units():
    rng = np.random.default_rng(3)
    targets = {
        "values": rng.normal(size=(5, 2)) * 10,
        "shift": rng.normal(size=5),
        "scale": rng.uniform(0.5, 3, 5),
    }
    task, outputs = Forecasting(2), rng.normal(size=(5, 2))
    squares = task.least_squares(targets)
    assert squares is not None
    assert squares.weights is not None
    expected = squares.weights * np.square(outputs - squares.values).mean(axis=-1)
    np.testing.assert_allclose(task.loss(outputs, targets), expected, rtol=1e-5)
    targets["values"][0, 0] = np.nan
    assert task.least_squares(targets) is None


def test_units_and_origin_of_the_states_do_not_matter(states):
    """Average and sum are one head in other units, and so are entries that are shifted and rescaled."""
    vectors, labels = states[0].mean(axis=1), states[1]
    rng = np.random.default_rng(4)
    moved = vectors * 10.0 ** rng.uniform(-3, 3, WIDTH) + rng.normal(size=WIDTH)
    heads = [
        solve_head(rows, labels, Classification(CLASSES), SPLITS, Converged())
        for rows in (vectors, vectors * np.float32(TOKENS), moved)
    ]
    outputs = [
        rows[SPLITS["test"]] @ head.kernel + head.bias
        for rows, head in zip((vectors, vectors * TOKENS, moved), heads, strict=True)
    ]
    assert len({head.strength for head in heads}) == 1
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], atol=2e-3)
        assert (other.argmax(-1) == outputs[0].argmax(-1)).all()


def test_strengths_go_on_beyond_an_edge(states):
    vectors, labels = states[0].mean(axis=1), states[1]
    task = Classification(CLASSES)
    head = solve_head(vectors, labels, task, SPLITS, Converged(strengths=[1e-9]))
    assert head.tried[0] == 1e-9
    assert len(head.tried) > 1
    # It goes on until a stronger penalty is no better.
    assert head.tried[0] < head.strength < head.tried[-1]
    assert not head.at_edge
    losses = dict(zip(head.tried, head.tried_losses, strict=True))
    assert losses[head.strength] == min(losses.values())


def _held(*rights, losses):
    """What heads of strengths 1, 2, … are worth that get the first so many of 200 examples right."""
    right = np.arange(200) < np.array(rights)[:, None]
    return {
        float(strength): HeldOut(float(own.mean()), loss, own.astype(float))
        for strength, (own, loss) in enumerate(zip(right, losses, strict=True), 1)
    }


def test_one_example_more_does_not_choose():
    """Scores a few examples apart are one: the loss, which does not jump, tells them apart."""
    task = Classification(CLASSES)
    for rights in ((180, 181, 179), (181, 180, 179), (179, 180, 181), (180, 180, 180)):
        assert best_of(_held(*rights, losses=(0.4, 0.3, 0.35)), task) == 2.0
    # What is worse by more than noise is out of the choice, whatever its loss.
    assert best_of(_held(181, 150, 180, losses=(0.4, 0.3, 0.35)), task) == 3.0
    # Of what is equal up to rounding the strongest, and never what is no number.
    assert best_of(_held(180, 180, 180, losses=(0.3, 0.3 * (1 + 1e-7), 0.31)), task) == 2.0
    assert best_of(_held(180, 180, 180, losses=(np.nan, 0.4, 0.5)), task) == 2.0
    broken = {1.0: HeldOut(np.nan, 0.1), 2.0: HeldOut(0.5, 0.7), 3.0: HeldOut(0.4, 0.2)}
    assert best_of(broken, task) == 2.0


def test_few_validation_examples_make_it_cross_validation(states):
    vectors, labels = states[0].mean(axis=1), states[1]
    few = {"train": SPLITS["train"], "validation": SPLITS["validation"][:20]}
    head = solve_head(vectors, labels, Classification(CLASSES), few, Converged())
    assert head.chosen_by == "cross-validation"
    whole = solve_head(vectors, labels, Classification(CLASSES), SPLITS, Converged())
    assert whole.chosen_by == "validation"


def test_what_a_system_cannot_tell_is_no_nan(states):
    """An entry that is constant, two that are one, a class with one example."""
    vectors, labels = states[0].mean(axis=1), states[1].copy()
    vectors = np.concatenate([vectors, np.full((NUM, 1), 7.5, np.float32), vectors[:, :1]], axis=1)
    labels[labels == 2] = 0
    labels[3] = 2
    head = solve_head(vectors, labels, Classification(CLASSES), SPLITS, Converged())
    assert head.converged
    assert np.isfinite(head.kernel).all()
    assert np.isfinite(head.bias).all()
    values = np.random.default_rng(5).normal(size=(NUM, 2)).astype(np.float32)
    head = solve_head(vectors, values, Inpainting(2), SPLITS, Converged())
    assert head.converged
    assert np.isfinite(head.kernel).all()


def test_losses_that_are_not_convex_have_several_starts(states):
    rng = np.random.default_rng(6)
    pairs = rng.normal(size=(NUM, 2, 3, WIDTH)).astype(np.float32)
    scores = rng.uniform(size=NUM).astype(np.float32)
    records = sweep_states(
        pairs,
        None,
        scores,
        SentenceSimilarity(projection_dim=4),
        splits=SPLITS,
        poolers=["avg"],
        seeds=2,
        solver=Converged(strengths=[1e-2, 1e-1], max_steps=200),
    )
    assert [row["seed"] for row in records] == [0, 1]
    assert len({row["test"] for row in records}) == 2


def _sweep(states, out=None, *, should_stop=None, poolers=("avg", "sum", "wavg"), **options):
    tokens, labels = states
    mask = np.arange(TOKENS) < np.random.default_rng(7).integers(2, TOKENS + 1, NUM)[:, None]
    solver = Converged(learning_rates=[0.05], max_epochs=12, patience=3)
    limits = Limits(
        checkpoint_every=0.0, **({} if should_stop is None else {"should_stop": should_stop})
    )
    records = sweep_states(
        tokens,
        mask,
        labels,
        Classification(CLASSES),
        splits=SPLITS,
        poolers=poolers,
        seeds=2,
        solver=solver,
        out=out,
        limits=limits,
        **options,
    )
    return records, mask


def _told(records):
    """What records say, but how long it took."""
    return [
        {k: v for k, v in row.items() if k not in ("wall_s", "heads_trained_together")}
        for row in records
    ]


def test_sweep_to_the_end(states, tmp_path):
    records, mask = _sweep(states, tmp_path)
    assert [(row["pooler"], row["learning_rate"], row["seed"]) for row in records] == [
        ("avg", None, 0),
        ("sum", None, 0),
        ("wavg", 0.05, 0),
        ("wavg", 0.05, 1),
    ]
    assert all(row["solver"]["name"] == "converged" for row in records)
    for row in records:
        head = load_head(head_directory(tmp_path, row))
        test = SPLITS["test"]
        chosen = np.argmax(head.predict(states[0][test], mask[test]), axis=-1)
        # A saved head takes raw states.
        assert np.mean(chosen == states[1][test]) == pytest.approx(row["test"], abs=1e-6)
        if row["learning_rate"] is None:
            assert row["converged"]
            assert row["gradient"] <= 1e-5
            assert len(row["losses_tried"]) == len(row["strengths_tried"])
            assert row["rule"].startswith("least loss")
            continue
        curve = row["validation_score"]
        assert len(curve) == row["epochs_trained"] == len(row["train_loss"])
        assert row["validation"] == pytest.approx(max(curve)) == curve[row["best_epoch"]]
    again, _ = _sweep(states, tmp_path)
    assert list(again) == list(records)
    # Heads of Adam's protocol are others, in the same folder.
    tokens, labels = states
    plain = sweep_states(
        tokens, mask, labels, Classification(CLASSES),
        splits=SPLITS, poolers=["avg"], seeds=1, epochs=1, out=tmp_path,
    )  # fmt: skip
    assert {row["id"] for row in plain}.isdisjoint(row["id"] for row in records)
    assert "solver" not in plain[0]


def test_resumed_is_uninterrupted(states, tmp_path):
    whole, _ = _sweep(states)
    stops = iter([False] * 4 + [True] + [False] * 3 + [True])
    tries = 0
    while True:
        try:
            records, _ = _sweep(states, tmp_path, should_stop=lambda: next(stops, False))
            break
        except PreemptedError:
            tries += 1
    assert tries == 2
    assert _told(records) == _told(whole)


def test_a_run_comes_out_the_same_alone(states):
    both, _ = _sweep(states, poolers=["wavg"])
    tokens, labels = states
    mask = np.arange(TOKENS) < np.random.default_rng(7).integers(2, TOKENS + 1, NUM)[:, None]
    alone = sweep_states(
        tokens, mask, labels, Classification(CLASSES), splits=SPLITS, poolers=["wavg"], seeds=[1],
        solver=Converged(learning_rates=[0.05], max_epochs=12, patience=3),
    )  # fmt: skip
    assert alone[0]["best_epoch"] == both[1]["best_epoch"]
    assert alone[0]["test"] == both[1]["test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": []}, "strengths: expected at least one, got none"),
        ({"strengths": [0.0]}, "strengths: expected"),
        ({"tolerance": 0.0}, "tolerance: expected"),
        ({"max_steps": 0}, "max_steps: expected"),
        ({"learning_rates": [-1.0]}, "learning_rates: expected"),
        ({"patience": 0}, "patience: expected"),
        ({"warmup": 1.0}, "warmup: expected"),
        ({"refit": 1}, "refit: expected"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Converged(**options)


def test_an_unknown_solver_is_named(states):
    with pytest.raises(ValueError, match="solver: expected one of 'adam', 'converged', got 'lbfgs'"):
        sweep_states(
            states[0], None, states[1], Classification(CLASSES),
            splits=SPLITS, poolers=["avg"], solver="lbfgs",
        )  # fmt: skip


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_a_descent_of_cosines_does_not_stand_still_where_the_loss_is_curved_otherwise(power):
    """With what L-BFGS remembered of the way these stopped after 1,000 steps, at gradients to 6e-3."""
    dim, width, num = 48, 16, 300
    rng = np.random.default_rng(0 if power == 1.0 else 1)
    share = rng.uniform(size=(num, 1))
    one = rng.normal(size=(num, dim))
    other = share * one + np.sqrt(1 - share**2) * rng.normal(size=(num, dim))
    turned = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    spectrum = np.arange(1, dim + 1.0) ** -power
    pairs = (np.stack([one, other], axis=1) * spectrum @ turned).astype(np.float32)
    targets = np.clip(share[:, 0] + 0.1 * rng.normal(size=num), 0, 1).astype(np.float32)
    start = rng.normal(size=(dim, width)) / np.sqrt(dim)
    task = SentenceSimilarity(width)
    inputs = Scaling.of(pairs).apply(pairs)
    strengths = np.array([0.1, 0.01, 0.001])
    path = descend_path(inputs, targets, task.loss, width, strengths, start=start)
    assert path.converged.all(), path.gradient
    assert path.num_steps.max() < 900, path.num_steps

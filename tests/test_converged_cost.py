"""Heads that cost too much to solve: planned, said, and trained along the schedule instead."""

import logging

import numpy as np
import pytest

from poolax.training import (
    Classification,
    Converged,
    SentenceSimilarity,
    head_directory,
    load_head,
    sweep_states,
)
from poolax.training._convex.cost import cost_of_descent, cost_of_squares

NUM, TOKENS, WIDTH, CLASSES = 200, 4, 6, 3
SPLITS = dict(zip(("train", "validation", "test"), np.split(np.arange(NUM), [100, 150]), strict=True))
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, NUM)
STATES = (RNG.normal(size=(NUM, TOKENS, WIDTH)) * 3 + np.eye(CLASSES, WIDTH)[LABELS][:, None]).astype(
    np.float32
)


def test_a_language_models_head_costs_hours_and_a_classifier_seconds():
    one = {"num_solves": 5, "num_folds": 1, "max_steps": 1000}
    assert cost_of_descent(20_000, 384, 30_000, **one).flops > Converged().max_flops
    assert cost_of_descent(10_000, 384, 77, **one).flops < Converged().max_flops / 10
    # More of anything costs more, and of one size a closed form costs less.
    assert cost_of_descent(10_000, 384, 154, **one) > cost_of_descent(10_000, 384, 77, **one)
    squares = cost_of_squares(10_000, 384, 77, num_solves=5, num_folds=1)
    assert squares.flops < cost_of_descent(10_000, 384, 77, **one).flops / 10


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"max_flops": 1.0}, "FLOP, more than max_flops=1"), ({"max_bytes": 1e3}, "max_bytes=1000")],
)
def test_too_large_a_problem_takes_the_schedule(tmp_path, caplog, limit, reason):
    solver = Converged(learning_rates=[0.05], max_epochs=20, **limit)
    with caplog.at_level(logging.INFO, "poolax"):
        records = sweep_states(
            STATES, None, LABELS, Classification(CLASSES),
            splits=SPLITS, poolers=["avg", "sum"], seeds=2, solver=solver, out=tmp_path,
        )  # fmt: skip
    assert "FLOP" in caplog.text
    assert [(row["pooler"], row["seed"]) for row in records] == [
        ("avg", 0), ("avg", 1), ("sum", 0), ("sum", 1),
    ]  # fmt: skip
    for row in records:
        assert row["method"] == "schedule"
        assert reason in row["reason"]
        assert row["cost_of_solving"].keys() == {"flops", "bytes", "seconds"}
        assert row["learning_rate"] == 0.05
        # A saved head takes raw states, and says how much it lets its outputs move.
        head = load_head(head_directory(tmp_path, row))
        test = SPLITS["test"]
        chosen = np.argmax(head.predict(STATES[test]), axis=-1)
        assert np.mean(chosen == LABELS[test]) == pytest.approx(row["test"], abs=1e-6)
        kernel = np.asarray(head.variables["params"]["output"]["kernel"])
        factor = TOKENS ** (-0.5 if row["pooler"] == "avg" else 0.5)
        assert row["lipschitz"][row["best_epoch"]] >= np.linalg.norm(kernel, 2) * factor * (1 - 1e-5)
    # Inputs in units of their spread: the sum is the average.
    assert [row["test"] for row in records[:2]] == [row["test"] for row in records[2:]]
    assert records[0]["train_loss"] == pytest.approx(records[2]["train_loss"], abs=1e-4)


def test_records_say_how_a_head_was_found():
    solver = Converged(learning_rates=[0.05], max_epochs=2)
    fixed, learned = sweep_states(
        STATES, None, LABELS, Classification(CLASSES),
        splits=SPLITS, poolers=["avg", "wavg"], seeds=1, solver=solver,
    )  # fmt: skip
    assert (fixed["method"], fixed["reason"]) == ("lbfgs", "a convex loss")
    assert 0 < fixed["cost_of_solving"]["flops"] < solver.max_flops
    assert (learned["method"], learned["reason"]) == ("schedule", "the pooler has parameters")
    assert "cost_of_solving" not in learned


def test_of_several_starts_the_lowest_is_taken_and_all_are_told():
    rng = np.random.default_rng(6)
    pairs = rng.normal(size=(NUM, 2, 3, WIDTH)).astype(np.float32)
    scores = rng.uniform(size=NUM).astype(np.float32)
    options = {"strengths": [1e-1, 1e-2], "max_steps": 60}
    row, alone = (
        sweep_states(
            pairs, None, scores, SentenceSimilarity(projection_dim=4),
            splits=SPLITS, poolers=["avg"], seeds=1, solver=Converged(**options, num_starts=number),
        )[0]
        for number in (3, 1)
    )  # fmt: skip
    objectives = [start["objective"] for start in row["starts"]]
    assert len(set(objectives)) == 3
    [chosen] = [start for start in row["starts"] if start["is_chosen"]]
    assert chosen["objective"] == min(objectives)
    assert chosen["score"] == pytest.approx(row["validation"], abs=1e-5)
    # The first start is that of a sweep that has no other.
    assert alone["starts"][0]["objective"] == objectives[0]
    assert row["scores_tried"] == alone["scores_tried"]


def test_a_refitted_head_has_the_score_it_was_chosen_by():
    options = {"splits": SPLITS, "poolers": ["avg"], "seeds": 1}
    refitted, plain = (
        sweep_states(
            STATES, None, LABELS, Classification(CLASSES), solver=Converged(refit=refit), **options
        )[0]
        for refit in (True, False)
    )
    assert (refitted["refitted"], plain["refitted"]) == (True, False)
    assert refitted["strength"] == plain["strength"]
    # Trained on more, but said to be no better on what was trained on.
    assert refitted["validation"] == pytest.approx(plain["validation"], abs=1e-6)
    assert refitted["test_scores"] != plain["test_scores"] or refitted["train"] != plain["train"]

"""Poolers compared on few examples of each class, drawn several times."""

import numpy as np
import pytest

from poolax.records import Records
from poolax.reporting import summarize_scores
from poolax.training import (
    Classification,
    Converged,
    Limits,
    PreemptedError,
    few_shot_states,
    head_directory,
    load_head,
    sweep_states,
)
from poolax.training._convex.choose import solve_head
from poolax.training._convex.descent import descend_draws, descend_path
from poolax.training._convex.draws import solve_draws
from poolax.training._scaling import Scaling
from poolax.training._sweep.drawing import draw_examples

NUM, CLASSES = 300, 3
TASK = Classification(CLASSES)
SPLITS = dict(zip(("train", "validation", "test"), np.split(np.arange(NUM), [160, 230]), strict=True))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, NUM)
    states = rng.normal(size=(NUM, 3, 24)) + 0.8 * np.eye(CLASSES, 24)[labels][:, None]
    return states.astype(np.float32), labels


def run(data, **options):
    given = {"splits": SPLITS, "shots": [2, 5], "draws": 3, "poolers": ["avg", "max"], **options}
    return few_shot_states(data[0], None, data[1], TASK, **given)


def test_draws_hold_as_many_of_each_class_and_those_of_fewer():
    labels = np.arange(NUM) % CLASSES
    drawn = draw_examples(labels, SPLITS["train"], TASK, [2, 5], 3, seed=1)
    for few, more in zip(drawn[2], drawn[5], strict=True):
        assert np.bincount(labels[few]).tolist() == [2] * CLASSES
        assert np.bincount(labels[more]).tolist() == [5] * CLASSES
        assert set(few) <= set(more) <= set(SPLITS["train"])
    assert len({tuple(part) for part in drawn[5]}) == 3


def test_heads_of_all_draws_at_once_are_those_one_by_one(data):
    """Of fewer examples than entries: directions in which nothing varies are left out."""
    vectors, labels = data[0].mean(axis=1), data[1]
    [parts] = draw_examples(labels, SPLITS["train"], TASK, 5, 3, seed=0).values()
    inputs = np.stack([Scaling.of(vectors[part]).apply(vectors[part]) for part in parts])
    own, strengths = np.stack([labels[part] for part in parts]), np.array([1e-2, 1e-1, 1.0])
    together = descend_draws(inputs, own, TASK.loss, CLASSES, strengths, tolerance=1e-6)
    for path, rows, targets in zip(together, inputs, own, strict=True):
        alone = descend_path(rows, targets, TASK.loss, CLASSES, strengths, tolerance=1e-6)
        assert path.converged.all()
        np.testing.assert_allclose(path.objective, alone.objective, atol=1e-5)
        np.testing.assert_allclose(path.kernel, alone.kernel, atol=1e-3)
        np.testing.assert_allclose(path.bias, alone.bias, atol=1e-3)
    solver = Converged()
    heads = solve_draws(vectors, labels, TASK, parts, SPLITS["validation"], solver)
    for head, part in zip(heads, parts, strict=True):
        assert head.converged
        # Scores of neighbours are one up to noise.
        assert head.score_tried >= max(head.tried_scores) - 0.1
        one = solve_head(vectors, labels, TASK, {**SPLITS, "train": part}, solver)
        assert abs(head.score_tried - one.score_tried) < 0.03
        assert set(solver.strengths) <= set(head.tried)


def test_records_are_of_draws_and_go_on_where_they_stopped(data, tmp_path):
    whole = run(data, out=tmp_path / "whole")
    assert [(row["shots"], row["seed"], row["pooler"]) for row in whole] == [
        (shots, draw, pooler) for shots in (2, 5) for draw in range(3) for pooler in ("avg", "max")
    ]
    asked = iter([False] * 4 + [True] * 100)
    with pytest.raises(PreemptedError):
        run(data, out=tmp_path / "part", limits=Limits(should_stop=lambda: next(asked)))
    assert len(Records.read(tmp_path / "part" / "records.jsonl")) == 4
    resumed = run(data, out=tmp_path / "part")
    for one, other in zip(whole, resumed, strict=True):
        assert one["id"] == other["id"]
        assert one["test_scores"] == other["test_scores"]
        ours, theirs = (load_head(head_directory(tmp_path / of, one)) for of in ("whole", "part"))
        kernels = [head.variables["params"]["output"]["kernel"] for head in (ours, theirs)]
        np.testing.assert_array_equal(*kernels)
    # More examples help, and deviations over draws are what a table shows.
    scores = {k: [row["test"] for row in whole.where(shots=k, pooler="avg")] for k in (2, 5)}
    assert np.mean(scores[2]) < np.mean(scores[5])
    summaries = summarize_scores(whole)
    assert len(summaries) == 4
    assert all(entry["std"] is not None and entry["num_seeds"] == 3 for entry in summaries)
    for entry in summaries:
        assert "shots 2" in entry["variant"] or "shots 5" in entry["variant"]


def test_learned_poolers_and_few_validation_examples(data):
    """What is learned sees the draw alone, as a sweep on it does; strengths by cross-validation."""
    splits = {**SPLITS, "validation": SPLITS["validation"][:20]}
    solver = Converged(max_epochs=3, learning_rates=[1e-2])
    poolers = ["wavg", "avg"]
    records = run(data, splits=splits, shots=3, draws=1, poolers=poolers, solver=solver)
    [[drawn]] = draw_examples(data[1], SPLITS["train"], TASK, 3, 1, seed=0).values()
    alone = sweep_states(
        data[0], None, data[1], TASK, splits={**splits, "train": drawn}, poolers=poolers,
        seeds=1, solver=solver, batch_size=9,
    )  # fmt: skip
    for row in records:
        [other] = alone.where(pooler=row["pooler"], learning_rate=row["learning_rate"])
        assert row["test_scores"] == other["test_scores"]
    assert records.where(pooler="avg")[0]["chosen_by"] == "cross-validation"


def test_what_cannot_be_drawn_is_named(data):
    fewest = np.bincount(data[1][SPLITS["train"]]).min()
    with pytest.raises(ValueError, match=r"shots: expected at most .*, as many examples as class"):
        run(data, shots=int(fewest) + 1)
    for name, value in (("shots", 0), ("draws", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            run(data, **{name: value})

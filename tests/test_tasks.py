import os
import subprocess
import sys

import counting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy import stats
from sklearn import metrics as reference

from poolax.training import (
    Classification,
    Forecasting,
    Imputation,
    Inpainting,
    NextToken,
    Segmentation,
    SentenceCompletion,
    SentenceSimilarity,
    TokenHead,
    head_directory,
    load_head,
    sweep_states,
)

RNG = np.random.default_rng(0)


def metrics_of(task, outputs, targets):
    scores = jax.vmap(task.score)(jnp.asarray(outputs), jax.tree.map(jnp.asarray, targets))
    return task.metrics(np.asarray(scores), targets)


def test_next_token_counts_the_k_largest_and_ties_against_it():
    task = NextToken(6, top_k=2)
    outputs = np.array([[5, 4, 3, 2, 1, 0]] * 3 + [[1, 1, 1, 0, 0, 0], [np.nan] * 6], np.float32)
    targets = np.array([0, 1, 2, 0, 0])
    assert metrics_of(task, outputs, targets) == pytest.approx(
        {"top_2_accuracy": 2 / 5, "accuracy": 1 / 5}
    )
    train = np.array([3, 3, 3, 5, 5, 1])
    assert task.baseline(train, np.array([3, 5, 1, 0])) == 0.5


def test_similarity_is_the_rank_correlation_of_cosines():
    task = SentenceSimilarity(projection_dim=8)
    outputs = RNG.normal(size=(40, 2, 8)).astype(np.float32)
    targets = RNG.uniform(size=40).astype(np.float32)
    left, right = outputs[:, 0], outputs[:, 1]
    cosines = np.sum(left * right, -1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)
    found = metrics_of(task, outputs, targets)
    assert_close(found["spearman"], stats.spearmanr(cosines, targets).statistic, 1e-6)
    assert_close(found["mse"], np.mean((cosines - targets) ** 2), 1e-5)
    assert_close(np.mean(task.loss(outputs, targets)), found["mse"], 1e-5)
    assert metrics_of(task, np.ones((5, 2, 8), np.float32), targets[:5])["spearman"] == 0
    gradient = jax.grad(lambda o: task.loss(o, targets).sum())(jnp.zeros((40, 2, 8)))
    assert np.isfinite(gradient).all()


def test_completion_agrees_with_the_reference_metrics():
    task = SentenceCompletion(projection_dim=4)
    assert task.num_parts == 5
    outputs = RNG.normal(size=(60, 5, 4)).astype(np.float32)
    targets = RNG.integers(0, 4, 60)
    unit = outputs / np.linalg.norm(outputs, axis=-1, keepdims=True)
    chosen = np.einsum("nd,ned->ne", unit[:, 0], unit[:, 1:]).argmax(-1)
    found = metrics_of(task, outputs, targets)
    assert_close(found["macro_f1"], reference.f1_score(targets, chosen, average="macro"))
    assert_close(found["accuracy"], reference.accuracy_score(targets, chosen))
    expected = reference.f1_score(targets, np.full(60, 2), average="macro", zero_division=0)
    assert_close(task.baseline(np.array([2, 2, 1]), targets), expected)


def test_segmentation_agrees_with_the_reference_metrics_and_skips_void():
    task = Segmentation(3, output_grid=4)
    outputs = RNG.normal(size=(7, 4 * 4 * 3)).astype(np.float32)
    targets = RNG.integers(0, 3, (7, 4, 4))
    targets[0] = 255
    targets[3, :2] = 255
    chosen = outputs.reshape(7, 4, 4, 3).argmax(-1)
    valid = targets != 255
    found = metrics_of(task, outputs, targets)
    assert_close(found["pixel_accuracy"], np.mean(chosen[valid] == targets[valid]))
    jaccard = reference.jaccard_score(targets[valid], chosen[valid], average="macro")
    assert_close(found["mean_iou"], jaccard)
    losses = np.asarray(task.loss(jnp.asarray(outputs), jnp.asarray(targets)))
    assert losses[0] == 0
    expected = reference.log_loss(
        targets[3][valid[3]],
        jax.nn.softmax(outputs[3].reshape(16, 3)[valid[3].ravel()]),
        labels=[0, 1, 2],
    )
    assert_close(losses[3], expected, 1e-5)


@pytest.mark.parametrize("kind", ["inpainting", "forecasting", "imputation"])
def test_regression_skips_what_is_not_scored(kind):
    values = RNG.normal(size=(6, 5)).astype(np.float32)
    values[1, 2:] = np.nan
    values[2] = np.nan
    outputs = RNG.normal(size=(6, 5)).astype(np.float32)
    predictions = outputs
    task, targets = Inpainting(5), values
    if kind != "inpainting":
        shift = RNG.normal(size=6).astype(np.float32)
        scale = RNG.uniform(0.5, 2, 6).astype(np.float32)
        task = Forecasting(5) if kind == "forecasting" else Imputation(5)
        targets = {"values": values, "shift": shift, "scale": scale}
        predictions = outputs * scale[:, None] + shift[:, None]
    task.check_targets(targets)
    scored = ~np.isnan(values)
    found = metrics_of(task, outputs, targets)
    assert_close(found["mse"], np.mean((predictions - values)[scored] ** 2), 1e-6)
    assert_close(found["mae"], np.mean(np.abs(predictions - values)[scored]), 1e-6)
    losses, gradient = jax.value_and_grad(
        lambda o: task.loss(o, jax.tree.map(jnp.asarray, targets)).sum()
    )(jnp.asarray(outputs))
    assert np.isfinite(losses)
    assert np.isfinite(gradient).all()
    assert not gradient[~scored].any()
    by_place = np.nanmean(values, axis=0)
    assert_close(task.baseline(targets, targets), np.nanmean((values - by_place) ** 2), 1e-6)


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        (NextToken(5), np.array([5]), r"targets: expected labels from 0 to 4, got 5 to 5"),
        (
            SentenceSimilarity(),
            np.array([1.5]),
            r"targets: expected scores from 0 to 1, got 1.5 to 1.5",
        ),
        (SentenceSimilarity(), np.array([np.nan]), r"targets: expected scores from 0 to 1, got nan"),
        (
            SentenceSimilarity(),
            np.array([1]),
            r"targets: expected float scores of shape \(N,\), got int",
        ),
        (SentenceCompletion(), np.array([4]), r"targets: expected labels from 0 to 3, got 4 to 4"),
        (Inpainting(3), np.zeros((2, 4)), r"targets: expected 3 values an example, got 4"),
        (Inpainting(3), np.zeros(3), r"targets: expected float values of shape \(N, 3\), got float64"),
        (Inpainting(1), np.full((2, 1), np.nan), r"targets: expected finite values, NaN where not"),
        (Forecasting(3), np.zeros((2, 3)), r"targets: expected a mapping with values, shift and scale"),
        (
            Forecasting(1),
            {"values": np.zeros((1, 1)), "shift": np.zeros(1), "scale": np.zeros(1)},
            r"targets\['scale'\]: expected numbers > 0",
        ),
        (Segmentation(2, 2), np.zeros((1, 3, 3), int), r"targets: expected 2 by 2 cells, got 3 by 3"),
        (
            Segmentation(2, 1),
            np.full((1, 1, 1), 2),
            r"targets: expected labels from 0 to 1, got 2 to 2",
        ),
        (Segmentation(2, 1), np.full((1, 1, 1), 255), r"targets: .* got void alone"),
    ],
)
def test_targets_that_do_not_fit_are_named(task, targets, message):
    with pytest.raises(ValueError, match=message):
        task.check_targets(targets)


def parts_of(num_examples):
    cuts = [num_examples // 2, num_examples * 3 // 4]
    names = ("train", "validation", "test")
    return dict(zip(names, np.split(np.arange(num_examples), cuts), strict=True))


def test_pairs_are_pooled_alike_and_masked():
    """Sentences of a pair that share a direction are similar; a sweep finds it, for every pooler."""
    targets = RNG.integers(0, 2, 80).astype(np.float32)
    first = RNG.normal(size=(80, 1, 6))
    second = np.where(targets[:, None, None] > 0, first, RNG.normal(size=(80, 1, 6)))
    states = np.stack([first, second], 1) + 0.1 * RNG.normal(size=(80, 2, 4, 6))
    mask = np.ones((80, 2, 4), bool)
    mask[::2, 1, 2:] = False
    states[~mask] = np.nan
    arguments = {"splits": parts_of(80), "poolers": ["last", "avg", "wavg"], "seeds": 2, "epochs": 3}
    records = sweep_states(
        states.astype(np.float32),
        mask,
        targets,
        SentenceSimilarity(projection_dim=6),
        learning_rates=(0.01,),
        **arguments,
    )
    assert all(row["test"] > 0.6 > row["baseline"] == 0 for row in records)
    assert all(row["test_metrics"]["spearman"] == row["test"] for row in records)
    with pytest.raises(
        ValueError, match=r"states: expected shape \(N, 2, n, d\) for sentence_similari"
    ):
        sweep_states(states[:, 0], None, targets, SentenceSimilarity(), **arguments)


def test_forecasts_train_in_units_of_the_series():
    level = RNG.normal(size=(60, 1)).astype(np.float32) * 5
    states = np.repeat(level[:, None], 3, axis=1) * 0 + RNG.normal(size=(60, 3, 1)).astype(np.float32)
    values = level + 2 * states.mean(1)
    targets = {"values": values, "shift": level[:, 0], "scale": np.full(60, 2, np.float32)}
    record = sweep_states(
        states, None, targets, Forecasting(1), splits=parts_of(60), poolers=["avg"], seeds=1,
        epochs=150, learning_rates=(0.05,),
    )[0]  # fmt: skip
    assert record["test"] < 1e-4 < record["baseline"]
    assert not record["higher_is_better"]


def test_token_head_reads_single_patches_and_reloads(tmp_path):
    """Which class a cell has shows in its own patch alone: pooling loses it, a token head does not."""
    targets = RNG.integers(0, 2, (80, 4, 4))
    states = np.where(targets.reshape(80, 16, 1) > 0, 1.0, -1.0) * np.ones(3, np.float32)
    states = states.astype(np.float32)
    records = sweep_states(
        states,
        None,
        targets,
        Segmentation(2, output_grid=4),
        splits=parts_of(80),
        poolers={"avg": "avg", "tokens": TokenHead(2, 4)},
        seeds=1,
        epochs=10,
        learning_rates=(0.05,),
        out=tmp_path,
    )
    assert records[1]["test"] == 1.0 > records[0]["test"]
    head = load_head(head_directory(tmp_path, records[1]))
    assert head.pooler == TokenHead(2, 4)
    logits = head.predict(jnp.asarray(states[60:])).reshape(20, 4, 4, 2)
    assert (np.argmax(logits, -1) == targets[60:]).all()


def test_token_head_fills_each_cell_from_the_patch_at_its_centre():
    head = TokenHead(num_classes=1, output_grid=4)
    z = jnp.arange(4.0)[:, None]
    variables = {"params": {"output": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}}
    grid = head.apply(variables, z).reshape(4, 4)
    assert_close(grid, np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]))
    with pytest.raises(ValueError, match=r"z: expected a square number of patch tokens, got n = 3"):
        head.init(jax.random.key(0), z[:3])
    with pytest.raises(ValueError, match=r"mask: expected None"):
        head.init(jax.random.key(0), z, jnp.ones(4, bool))


@pytest.mark.parametrize(
    ("task", "targets"), [pytest.param(*case, id=case[0].name) for case in counting.cases()]
)
def test_every_example_counts_once(task, targets):
    counting.check(task, targets)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_every_example_counts_once_on_other_numbers_of_devices(devices):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": str(2 * devices)}
    # The same poolax as here, wherever it was installed.
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, counting.__file__, str(devices)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


def test_constants_that_no_task_has_are_refused():
    for make, message in (
        (lambda: Classification(1), r"num_classes: expected"),
        (lambda: NextToken(10, top_k=0), r"top_k: expected"),
        (lambda: SentenceCompletion(temperature=0.0), r"temperature: expected"),
        (lambda: Forecasting(0), r"horizon: expected"),
        (lambda: Imputation(0), r"context: expected"),
        (lambda: Inpainting(0), r"num_pixels: expected"),
        (lambda: Segmentation(2, 0), r"output_grid: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("exponent", [-100, -60, 60, 100])
def test_cosines_of_vectors_of_any_length(exponent):
    task = SentenceSimilarity(projection_dim=8)
    outputs = RNG.normal(size=(20, 2, 8)).astype(np.float32)
    scaled = outputs * np.float32(2.0**exponent)
    targets = RNG.uniform(size=20).astype(np.float32)
    np.testing.assert_array_equal(task.score(scaled, targets), task.score(outputs, targets))
    np.testing.assert_array_equal(task.loss(scaled, targets), task.loss(outputs, targets))
    longest = np.stack([outputs[:, 0], 3e37 * np.ones((20, 8), np.float32)], axis=1)
    assert np.isfinite(task.score(longest, targets)).all()


@pytest.mark.parametrize(
    ("task", "targets", "scores"),
    [
        (Classification(3), np.zeros(0, int), np.zeros(0)),
        (NextToken(6), np.zeros(0, int), np.zeros((0, 2))),
        (Segmentation(3, output_grid=2), np.full((2, 2, 2), 255), np.zeros((2, 3, 3))),
        (Inpainting(2), np.full((2, 2), np.nan), np.zeros((2, 3))),
    ],
)
def test_nothing_to_score_is_refused_by_name(task, targets, scores):
    with pytest.raises(ValueError, match="scores: expected at least one"):
        task.metrics(scores, targets)
    some = np.zeros_like(targets)[:1] if len(targets) else np.zeros(1, int)
    with pytest.raises(ValueError, match="test_targets: expected at least one"):
        task.baseline(some, targets)
    with pytest.raises(ValueError, match="train_targets: expected at least one"):
        task.baseline(targets, some)


def test_a_split_with_nothing_to_score_is_refused_before_training():
    states = np.zeros((12, 3, 4), np.float32)
    targets = np.zeros((12, 2, 2), np.int64)
    splits = {"train": np.arange(6), "validation": np.arange(6, 9), "test": np.arange(9, 12)}
    targets[splits["validation"]] = 255
    with pytest.raises(ValueError, match="validation: targets: expected labels from 0 to 2, got void"):
        sweep_states(
            states, None, targets, Segmentation(3, output_grid=2), splits=splits, poolers=["avg"]
        )

"""On real data with outputs by the dozen, the average and the sum of as many tokens are one head."""

import numpy as np
import pytest

from poolax import data
from poolax.data.vision import digits, inpainting
from poolax.training import Converged, Forecasting, Inpainting, sweep_states


def _features(tokens, width=24):
    """Token states of a random layer: what a window is pooled to is no linear function of it."""
    kernel = np.random.default_rng(0).normal(size=(tokens.shape[-1], width))
    return np.tanh(tokens @ kernel).astype(np.float32)


def _both(states, targets, task, splits, **options):
    rows = sweep_states(
        states, None, targets, task, splits=splits, poolers=["avg", "sum"], seeds=1, **options
    )
    return {row["pooler"]: row for row in rows}


def _agree(rows):
    average, total = rows["avg"], rows["sum"]
    assert average["method"] == total["method"] == "closed form"
    assert average["strength"] == total["strength"]
    for name in ("train", "validation", "test"):
        assert total[name] == pytest.approx(average[name], abs=1e-4)
    # And they have learned something, as the best constant has not.
    assert average["test"] < 0.9 * average["baseline"]


def test_forecasts_of_etth1(test_data):
    entry = data.load("etth1", data_dir=test_data, context=96, horizon=24)
    chosen = {name: part[:: len(part) // 300][:300] for name, part in entry.splits.items()}
    used = np.concatenate(list(chosen.values()))
    windows = np.stack([entry.inputs[index] for index in used])
    targets = {name: np.asarray(values)[used] for name, values in entry.targets.items()}
    level, scale = targets["shift"][:, None], targets["scale"][:, None]
    states = _features(((windows - level) / scale).reshape(len(used), 12, 8) / 2)
    splits = dict(zip(chosen, np.split(np.arange(900), [300, 600]), strict=True))
    rows = _both(states, targets, Forecasting(24), splits, solver=Converged())
    _agree(rows)


def test_hidden_pixels_of_digits():
    """Where ten epochs of Adam leave the sum behind the mean of the training split."""
    entry = inpainting(digits(), output_grid=8)
    images = np.asarray(entry.inputs[:]).reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
    states = _features(images / 16)
    task = Inpainting(entry.targets.shape[1])
    rows = _both(states, entry.targets, task, entry.splits, solver=Converged())
    assert rows["sum"]["test"] == pytest.approx(rows["avg"]["test"], abs=1e-3)
    assert rows["sum"]["test"] < rows["sum"]["baseline"]
    steps = _both(states, entry.targets, task, entry.splits, epochs=10)
    assert steps["sum"]["test"] > 1.5 * steps["avg"]["test"]

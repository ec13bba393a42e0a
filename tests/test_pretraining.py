import dataclasses
import signal
from functools import partial

import chex
import jax
import numpy as np
import pytest

from poolax.attention import L2
from poolax.backbones import (
    GPT2Config,
    ImagePreprocess,
    MomentConfig,
    SeriesPreprocess,
    ViTConfig,
)
from poolax.data import digits
from poolax.training import (
    PreemptedError,
    Schedule,
    pretrain_masked_patches,
    pretrain_masked_series,
    pretrain_next_token,
)

VIT = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8, use_mask_token=True)
MOMENT = MomentConfig(16, 4, 8, width=8, num_layers=1, num_heads=2, head_dim=4, mlp_dim=8)
GPT2 = GPT2Config(12, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8, kind=L2())
SCHEDULE = Schedule(epochs=4, batch_size=32, checkpoint_every=2, learning_rate=0.01)


def waves():
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (90, 1))
    series = 5 + np.sin(phase + np.arange(16)).astype(np.float32)
    series[::7, :3] = np.nan
    return series


def counting():
    """Texts of which every token but the first is known from the one before."""
    start = np.random.default_rng(0).integers(0, 12, (90, 1))
    ids = (start + np.arange(8)) % 12
    mask = np.ones((90, 8), bool)
    mask[::5, 6:] = False
    return ids, mask


OBJECTIVES = {
    "images": partial(
        pretrain_masked_patches, VIT, digits().inputs[:90], preprocess=ImagePreprocess(1 / 16)
    ),
    "series": partial(pretrain_masked_series, MOMENT, waves(), preprocess=SeriesPreprocess(16, 4)),
    "texts": partial(pretrain_next_token, GPT2, counting()[0], mask=counting()[1]),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretraining_resumes_bit_for_bit(objective, tmp_path):
    pretrain = OBJECTIVES[objective]
    whole = pretrain(schedule=SCHEDULE)

    def stop(description, done, total):
        assert total == 4
        if done > 2:
            raise KeyboardInterrupt

    # Interrupted after the checkpoint of the second epoch.
    with pytest.raises(KeyboardInterrupt):
        pretrain(schedule=dataclasses.replace(SCHEDULE, out=tmp_path, progress=stop))
    done = []
    going_on = dataclasses.replace(SCHEDULE, out=tmp_path, progress=lambda d, k, n: done.append(k))
    resumed = pretrain(schedule=going_on)
    assert min(done) >= 2
    assert done[-1] == 4
    for one, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(one, other)
    done.clear()
    pretrain(schedule=going_on)
    assert not done
    with pytest.raises(ValueError, match=r"out: .*configuration in .* differs in seed"):
        pretrain(schedule=dataclasses.replace(going_on, seed=1))


def test_sigterm_saves_the_epoch_that_runs(tmp_path):
    pretrain, done = OBJECTIVES["images"], []

    def stop(description, epoch, total):
        done.append(epoch)
        if len(done) == 1:
            signal.raise_signal(signal.SIGTERM)

    schedule = dataclasses.replace(SCHEDULE, out=tmp_path, progress=stop)
    with pytest.raises(PreemptedError, match=r"stopped after step [3-5], saved in"):
        pretrain(schedule=schedule)
    assert done == [1]
    resumed = pretrain(schedule=schedule)
    assert done[-1] == 4
    chex.assert_trees_all_equal(resumed.params, pretrain(schedule=SCHEDULE).params)


def test_other_inputs_are_another_run(tmp_path):
    schedule = dataclasses.replace(SCHEDULE, epochs=1, out=tmp_path)
    OBJECTIVES["images"](schedule=schedule)
    with pytest.raises(ValueError, match=r"out: .*configuration in .* differs in inputs"):
        OBJECTIVES["images"](schedule=schedule, preprocess=ImagePreprocess(1 / 8))


def test_a_language_model_learns_what_can_be_known():
    schedule = Schedule(epochs=60, batch_size=30, learning_rate=0.02)
    gpt2 = OBJECTIVES["texts"](schedule=schedule)
    ids = (np.arange(12)[:, None] + np.arange(7)) % 12
    logits = gpt2(ids).states @ gpt2.params["embeddings"]["token"].T
    assert np.mean(np.argmax(logits, -1) == (ids + 1) % 12) > 0.95


def test_hidden_steps_of_series_are_filled_in_and_missing_ones_never_seen():
    schedule = Schedule(epochs=150, batch_size=30, learning_rate=0.01)
    moment = OBJECTIVES["series"](schedule=schedule)
    series = waves()
    hidden = np.zeros_like(series, bool)
    hidden[:, 8:12] = True
    whole = ~np.isnan(series).any(1)
    inputs = np.where(hidden, 1e6, series)[whole]
    found = moment.reconstruct(moment.params, inputs, hidden=hidden[whole])
    error = np.square(found - series[whole])[:, 8:12].mean()
    assert error < 0.3 * np.nanvar(series)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(epochs=0), r"epochs: .* >= 1, got 0"),
        (lambda: Schedule(learning_rate=-1.0), r"learning_rate: expected a finite number > 0, got -1"),
        (
            lambda: OBJECTIVES["images"](schedule=SCHEDULE, hidden_fraction=1.0),
            r"hidden_fraction: expected a finite number > 0 and < 1, got 1",
        ),
        (
            lambda: OBJECTIVES["images"](schedule=SCHEDULE, preprocess=lambda x: x[:, :4]),
            r"images: expected shape \('N', 8, 8, 1\)",
        ),
        (
            lambda: pretrain_masked_patches(
                dataclasses.replace(VIT, use_mask_token=False), digits().inputs, SCHEDULE
            ),
            r"config: expected use_mask_token=True",
        ),
        (
            lambda: pretrain_masked_series(
                dataclasses.replace(MOMENT, use_head=False), waves(), SCHEDULE
            ),
            r"config: expected use_head=True",
        ),
        (
            lambda: pretrain_masked_series(MOMENT, waves()[:, :15], SCHEDULE),
            r"series: expected shape \(N, steps\), steps in patches of 4, at most 8, got \(32, 15\)",
        ),
        (
            lambda: pretrain_next_token(GPT2, np.zeros((3, 1), int), SCHEDULE),
            r"ids: expected shape \(rows, n\) with n >= 2, got \(32, 1\)",
        ),
        (
            lambda: pretrain_next_token(GPT2, np.full((3, 4), 12), SCHEDULE),
            r"ids: expected numbers from 0 to 11, got 12 to 12",
        ),
    ],
)
def test_bad_pretraining_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_step_is_a_step():
    def embeddings(learning_rate):
        schedule = Schedule(epochs=1, batch_size=90, learning_rate=learning_rate)
        return np.asarray(OBJECTIVES["texts"](schedule=schedule).params["embeddings"]["token"])

    assert np.isfinite(embeddings(1e-2)).all()
    assert not np.array_equal(embeddings(1e-2), embeddings(1e-3))


def test_pretraining_that_diverges_says_so():
    schedule = dataclasses.replace(SCHEDULE, learning_rate=1e30, epochs=8)
    with pytest.raises(
        FloatingPointError, match=r"pretraining diverged in step \d+ at learning rate 1e\+30"
    ):
        OBJECTIVES["images"](schedule=schedule)

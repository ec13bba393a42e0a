"""Time series: a small patch transformer on sunspots and atmospheric carbon dioxide."""

import jax.numpy as jnp
import numpy as np
from etils import epath

from poolax._progress import Progress
from poolax.data.series import co2, forecasting, imputation, sunspots, windows
from poolax.quickstart._recipes import pretrain_moment, pretraining_schedule
from poolax.quickstart._settings import Settings
from poolax.quickstart._study import Noisy, Study, Tokens
from poolax.training import Forecasting, Imputation

_CONTEXT = 64
_PATCH = 4
# Half a year ahead, and most of a cycle of the sun.
_WEEKS, _YEARS = 26, 8


def series(out: epath.Path, settings: Settings, progress: Progress) -> Study:
    """Forecasts of carbon dioxide and sunspots, and hidden spans of both filled in."""
    weekly, yearly = co2(), sunspots()
    unlabelled = [
        windows(weekly, context=_CONTEXT, split="train", missing="drop")[:],
        windows(yearly, context=_CONTEXT, split="train")[:],
    ]
    schedule = pretraining_schedule(
        settings.pretrain_epochs, seed=settings.seed, out=out / "pretraining", progress=progress
    )
    moment = pretrain_moment(np.concatenate(unlabelled), schedule, num_steps=_CONTEXT, patch_len=_PATCH)
    weekly_forecast = forecasting(weekly, context=_CONTEXT, horizon=_WEEKS, missing="drop")
    yearly_forecast = forecasting(yearly, context=_CONTEXT // 2, horizon=_YEARS)
    hidden = imputation(weekly, context=_CONTEXT, span=2 * _PATCH, missing="drop")
    tasks = (
        (weekly_forecast, Forecasting(_WEEKS)),
        (yearly_forecast, Forecasting(_YEARS)),
        (hidden, Imputation(_CONTEXT)),
    )
    test = weekly_forecast.splits["test"]
    chosen = test[np.linspace(0, len(test) - 1, min(settings.num_inputs, len(test))).astype(int)]
    tokens, _ = moment.embed(moment.params, jnp.asarray(weekly_forecast.inputs[:]))
    return Study(
        backbone=moment,
        tasks=tasks,
        noisy=Noisy(weekly_forecast.inputs[chosen], None, moment),
        tokens=Tokens(
            np.asarray(tokens),
            weekly_forecast.targets,
            dict(weekly_forecast.splits),
            Forecasting(_WEEKS),
        ),
        noise_sizes=(0.0, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0),
    )

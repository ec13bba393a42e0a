"""Poolers on series with a small patch transformer that is pretrained first, without labels.

    python experiments/time_series.py --data-dir DIR

DIR holds ucr/ or folders of its four sets, and ett/, see "poolax data list". The transformer learns to
fill in hidden patches of the training splits of all data sets together. Records, heads, the table
(Markdown, CSV, LaTeX) and the figure stand in --out; the same command goes on from what is there.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("time_series")

import dataclasses
import functools
import sys

import comparison
import numpy as np

from poolax import quickstart, training
from poolax.backbones import SeriesPreprocess

NUM_STEPS, PATCH_LEN, HORIZON = 512, 8, 96
# One window in eight of ETTh1, every eighth hour.
STRIDE = 8


@dataclasses.dataclass(frozen=True)
class Options(comparison.PretrainingOptions):
    """Compare poolers on series with a small patch transformer that is pretrained first."""

    out: str = "poolax-time-series"
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)


def classification(name):
    """A row with the classes of a UCR set."""
    return comparison.Case(
        dataset=lambda context: context.load(name),
        task=lambda data: training.Classification(data.num_classes),
        backbone=backbone,
        epochs=20,
        batch_size=64,
    )


def forecasts(context):
    """ETTh1: what follows a window."""
    return context.load("etth1", task="forecasting", context=NUM_STEPS, horizon=HORIZON, stride=STRIDE)


def gaps(context):
    """ETTh1: hidden spans of a window."""
    return context.load("etth1", task="imputation", context=NUM_STEPS, stride=STRIDE)


UCR = ("ecg200", "italy_power_demand", "small_kitchen_appliances", "swedish_leaf")


@functools.cache
def backbone(context):
    """A patch transformer pretrained on the training splits of all data sets, and its name."""
    prepare = SeriesPreprocess(NUM_STEPS, PATCH_LEN)
    series = []
    for data in (*map(context.load, UCR), forecasts(context)):
        values, observed = prepare(data.inputs[data.splits["train"]])
        series.append(np.where(observed, values, np.float32(np.nan)))
    options = context.options
    schedule = quickstart.pretraining_schedule(
        options.pretrain_epochs,
        seed=options.pretrain_seed,
        out=context.out / "pretraining",
        progress=context.progress,
    )
    moment = quickstart.pretrain_moment(
        np.concatenate(series), schedule, num_steps=NUM_STEPS, patch_len=PATCH_LEN
    )
    return moment, f"patch transformer ({options.pretrain_epochs} epochs)"


STUDY = comparison.Study(
    name="time_series",
    title="Time series: poolers on a small patch transformer, pretrained by filling in patches",
    options=Options(),
    cases={
        **{name: classification(name) for name in UCR},
        "etth1_forecasting": comparison.Case(
            dataset=forecasts,
            task=lambda _: training.Forecasting(HORIZON),
            backbone=backbone,
            batch_size=64,
        ),
        "etth1_imputation": comparison.Case(
            dataset=gaps,
            task=lambda _: training.Imputation(NUM_STEPS),
            backbone=backbone,
            batch_size=64,
        ),
    },
)

if __name__ == "__main__":
    sys.exit(comparison.main(STUDY))

"""Poolers on series with a small patch transformer that is pretrained first, without labels.

    python experiments/time_series.py --data-dir DIR
    python experiments/time_series.py --quick

DIR holds ucr/ or folders of its four sets, and ett/, see "poolax data list". The transformer learns to
fill in hidden patches of the training splits of all data sets together. Records, heads, the table
(Markdown, CSV, LaTeX) and the figure stand in --out; the same command goes on from what is there.
Other data sets of that list (long series with NAME_forecasting or NAME_imputation) and your own files
are named in place of these, each with a transformer of its own, or the model of --backbone:

    python experiments/time_series.py --datasets etth2 meters.csv --time-column date

The paper reports MOMENT in three sizes on classification, forecasting and imputation: the small one on
SwedishLeaf from 55.5 % (average) to 79.4 % (sum), on ETTh1 errors from 0.082 (last) to 0.106 in
forecasting and from 0.076 (attention) to 0.106 (sum) in imputation.

Duration (estimate, two CPU cores): an hour, a quarter of it for pretraining; --quick a minute.
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
from poolax.data import entry, names

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
    datasets = (*map(context.load, UCR), forecasts(context))
    return pretrained(context, datasets, context.out / "pretraining", "patch transformer")


def pretrained(context, datasets, out, name):
    """A patch transformer pretrained on the training splits of some data sets, and its name."""
    prepare = SeriesPreprocess(NUM_STEPS, PATCH_LEN)
    series = []
    for data in datasets:
        values, observed = prepare(data.inputs[data.splits["train"]])
        series.append(np.where(observed, values, np.float32(np.nan)))
    options = context.options
    schedule = quickstart.pretraining_schedule(
        options.pretrain_epochs,
        seed=options.pretrain_seed,
        out=out,
        progress=context.progress,
    )
    moment = quickstart.pretrain_moment(
        np.concatenate(series), schedule, num_steps=NUM_STEPS, patch_len=PATCH_LEN
    )
    return moment, f"{name} ({options.pretrain_epochs} epochs)"


def other(name):
    """A row for another data set, or for one's own series."""
    base, task = comparison.named_task(name)
    is_long = base in names() and entry(base).task != "classification"

    def dataset(context):
        if not is_long:
            return context.read(base)
        if entry(base).embedded is not None:
            return context.read(base, task=task or "forecasting")
        steps = {} if task == "imputation" else {"horizon": HORIZON}
        options = {"task": task or "forecasting", "context": NUM_STEPS, "stride": STRIDE, **steps}
        return context.read(base, **options)

    def own_backbone(context):
        data = dataset(context)
        out = context.out / "pretraining" / data.name
        return pretrained(context, [data], out, f"patch transformer of {data.name}")

    return comparison.Case(
        dataset=dataset,
        task=training.task_for,
        backbone=own_backbone,
        epochs=10 if is_long else 20,
        batch_size=64,
    )


STUDY = comparison.Study(
    name="time_series",
    modality="series",
    title="Time series: poolers on frozen patch transformers",
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
    other=other,
    quick={**comparison.QUICK, "datasets": ("sunspots",), "pretrain_epochs": 2},
)

if __name__ == "__main__":
    sys.exit(comparison.main(STUDY))

"""All poolers and seeds on BANKING77 with MiniLM, beside the same work in PyTorch.

The reference does it in two ways: as the paper's authors do, with the frozen backbone in every step of
every run, and with its token states kept, one head after the other. Of the former, steps are timed and
extrapolated to all steps; of the latter, heads of one seed are trained to the end, validated after
every epoch and tested, as ours are. Our seconds count compilation. "Steps alone" leaves out everything
else on both sides: what the ratio comes to where there is more to train.

Needs the reference libraries and weights of ``tests/install_parity.sh``.
"""

import dataclasses
import multiprocessing
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import converged, sweep_torch
from benchmarks.banking77 import (
    FIXED,
    LEARNING_RATE,
    POOLERS,
    TOKENS,
    Plan,
    on_states,
    prepare,
    tokenized,
)
from benchmarks.timing import peak_mebibytes
from poolax.training.profile import Clocks, profile

COLUMNS = {
    **converged.COLUMNS,
    "case": "{}",
    "poolax_seconds": "{:.1f}",
    "reference_seconds": "{:.1f}",
    "ratio": "{:.2f}",
    "poolax_accuracy": "{:.3f}",
    "reference_accuracy": "{:.3f}",
    "parameters": "{}",
    "milliseconds_per_step": "{:.3f}",
    "least": "{:.3f}",
    "most": "{:.3f}",
    "percent_of_step": "{:.0f}",
    "seconds": "{:.1f}",
    "percent_of_sweep": "{:.0f}",
    "peak_mebibytes": "{:.0f}",
}
_PARTS = {"fixed": FIXED, "wavg": ("wavg",), "attn": ("attn",)}
_DISK_BUDGET = 2**29


def ours(plan: Plan) -> dict[str, Any]:
    """Seconds of the feature pass and of all heads, compilation included."""
    from poolax.records import environment
    from poolax.training import Classification, extract_states, sweep_states

    minilm, ids, mask, targets, splits, num_classes = tokenized(plan)
    start = time.perf_counter()
    states = extract_states(minilm, ids, mask).states
    features = time.perf_counter() - start
    names = on_states()

    def train(poolers, seeds):
        start = time.perf_counter()
        records = sweep_states(
            states,
            mask,
            targets,
            Classification(num_classes),
            splits=splits,
            poolers={name: names[name] for name in poolers},
            seeds=seeds,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            learning_rates=(LEARNING_RATE,),
        )
        return records, time.perf_counter() - start

    seconds, accuracy, phases = {}, {}, {}
    for label, group in _PARTS.items():
        _, seconds[group, 1] = train(group, 1)
        clocks = Clocks()
        with clocks.running():
            records, seconds[group, plan.seeds] = train(group, plan.seeds)
        phases[label] = dict(clocks.seconds)
        for name in group:
            accuracy[name] = float(np.mean([row["test"] for row in records.where(pooler=name)]))
    width = states.shape[-1]
    peak = peak_mebibytes()
    train_split = splits["train"]
    profiles = {
        label: profile(
            states[train_split],
            mask[train_split],
            targets[train_split],
            [names[name] for name in group],
            num_classes=num_classes,
            num_runs=plan.seeds,
            batch_size=plan.batch_size,
            learning_rate=LEARNING_RATE,
        )
        for label, group in _PARTS.items()
    }
    return {
        "features": features,
        "seconds": seconds,
        "profiles": profiles,
        "phases": phases,
        "accuracy": accuracy,
        "parameters": {name: _count(names[name], width, num_classes) for name in POOLERS},
        "peak_mebibytes": peak,
        "environment": environment(),
    }


def on_disk(plan: Plan) -> float:
    """Peak MiB of an epoch of all heads on token states that are kept on disk."""
    from poolax.training import Classification, Limits, sweep

    minilm, dataset = prepare(plan)
    with tempfile.TemporaryDirectory() as folder:
        sweep(
            minilm,
            dataset,
            Classification(dataset.num_classes),
            poolers=POOLERS,
            seeds=plan.seeds,
            epochs=1,
            batch_size=plan.batch_size,
            learning_rates=(LEARNING_RATE,),
            features="disk",
            feature_dir=folder,
            limits=Limits(memory_budget=_DISK_BUDGET),
        )
    return peak_mebibytes()


def _count(name, width, num_classes):
    import jax
    import jax.numpy as jnp

    from poolax.pooling import from_name
    from poolax.training import HeadModule

    module = HeadModule(from_name(name), num_classes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, TOKENS, width)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def run(plan: Plan) -> list[dict[str, object]]:
    """Both sides, each in a process of its own, and their ratios."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        us = pool.apply(ours, (plan,))
    with context.Pool(1) as pool:
        disk_peak = pool.apply(on_disk, (plan,))
    with context.Pool(1) as pool:
        them = pool.apply(sweep_torch.reference, (plan,))
    if us["parameters"] != them["parameters"]:
        raise SystemExit(
            f"expected equal numbers of parameters, got {us['parameters']} and {them['parameters']}"
        )
    common = {
        "kind": "benchmark",
        "suite": "sweep",
        **dataclasses.asdict(plan),
        "poolax_features_seconds": us["features"],
        "reference_features_seconds": them["features"],
        "torch": them["torch"],
        "torch_device": them["device"],
        **us["environment"],
    }
    # The path says nothing about the measurement.
    del common["data_dir"]
    groups = {
        "all six": tuple(_PARTS.values()),
        "without attention": (FIXED, ("wavg",)),
        "fixed": (FIXED,),
    }
    labels = {part: label for label, part in _PARTS.items()}
    records = converged.run(plan)
    for label, parts in groups.items():
        heads = sum(us["seconds"][part, plan.seeds] for part in parts)
        steps = sum(us["phases"][labels[part]]["steps"] for part in parts)
        names = [name for part in parts for name in part]
        for case, own, key in (
            ("backbone each step", us["features"] + heads, "online"),
            ("kept states", heads, "cached"),
            ("kept states, steps alone", steps, "steps"),
        ):
            theirs = sum(them[key][name] for name in names)
            row = {"case": f"{label}, {case}", "poolax_seconds": own, "reference_seconds": theirs}
            records.append({**common, **row, "ratio": theirs / own})
    for label, part in _PARTS.items():
        one, all_seeds = us["seconds"][part, 1], us["seconds"][part, plan.seeds]
        row = {"case": f"{label}, {plan.seeds} seeds / 1"}
        records.append({**common, **row, "poolax_seconds": all_seeds, "ratio": all_seeds / one})
        end_to_end = (us["features"] + all_seeds) / (us["features"] + one)
        row = {"case": f"{label}, {plan.seeds} seeds / 1, end to end"}
        records.append({**common, **row, "ratio": end_to_end})
    for name in POOLERS:
        records.append(
            {
                **common,
                "case": f"{name}: accuracy",
                "poolax_accuracy": us["accuracy"][name],
                "reference_accuracy": them["accuracy"][name],
                "parameters": us["parameters"][name],
            }
        )
    for label in _PARTS:
        of_step, of_sweep = us["profiles"][label], us["phases"][label]
        whole = sum(median for median, _, _ in of_step.values())
        for stage, (median, least, most) in of_step.items():
            records.append(
                {
                    **common,
                    "case": f"{label}, {plan.seeds} seeds, a step: {stage}",
                    "milliseconds_per_step": 1e3 * median,
                    "least": 1e3 * least,
                    "most": 1e3 * most,
                    "percent_of_step": 100 * median / whole,
                }
            )
        whole = sum(of_sweep.values())
        for stage, seconds in of_sweep.items():
            records.append(
                {
                    **common,
                    "case": f"{label}, {plan.seeds} seeds, the sweep: {stage}",
                    "seconds": seconds,
                    "percent_of_sweep": 100 * seconds / whole,
                }
            )
    for case, peak in (
        ("states in memory, ours", us["peak_mebibytes"]),
        (f"states on disk, budget {_DISK_BUDGET >> 20} MiB, an epoch, ours", disk_peak),
        ("states in memory, PyTorch", them["peak_mebibytes"]),
    ):
        records.append({**common, "case": f"peak memory: {case}", "peak_mebibytes": peak})
    return records

"""Heads that are trained to the end on BANKING77 with MiniLM: beside scikit-learn's, and beside Adam's.

Fixed poolers: the logistic regressions of all strengths of the penalty, ours with their choice, records
and compilation, scikit-learn's on the same standardised vectors and over the strengths that ours tried,
to the same largest entry of the gradient; accuracies are those at the strength that ours took. All six
poolers: a sweep to the end and one of the paper's protocol, each with compilation, on the same token
states.
"""

import dataclasses
import multiprocessing
import time
import warnings
from typing import Any

import numpy as np

from benchmarks.banking77 import FIXED, LEARNING_RATE, POOLERS, Plan, on_states, tokenized

COLUMNS = {
    "case": "{}",
    "poolax_seconds": "{:.1f}",
    "sklearn_seconds": "{:.1f}",
    "adam_seconds": "{:.1f}",
    "ratio": "{:.2f}",
    "poolax_accuracy": "{:.4f}",
    "sklearn_accuracy": "{:.4f}",
    "adam_accuracy": "{:.4f}",
}


def both_solvers(plan: Plan) -> dict[str, Any]:
    """Seconds and accuracies of sweeps by both solvers, and of scikit-learn on the same vectors."""
    from poolax.records import environment
    from poolax.training import Classification, Converged, extract_states, sweep_states

    minilm, ids, mask, targets, splits, num_classes = tokenized(plan)
    states = np.asarray(extract_states(minilm, ids, mask).states)
    task, names = Classification(num_classes), on_states()

    def train(poolers, **options):
        start = time.perf_counter()
        records = sweep_states(
            states,
            mask,
            targets,
            task,
            splits=splits,
            poolers={name: names[name] for name in poolers},
            seeds=plan.seeds,
            batch_size=plan.batch_size,
            **options,
        )
        return records, time.perf_counter() - start

    learned = [name for name in POOLERS if name not in FIXED]
    seconds: dict[str, Any] = {"adam": {}, "converged": {}}
    kept: dict[str, list] = {"adam": [], "converged": []}
    for label, poolers in (("fixed", FIXED), ("learned", learned)):
        for solver, options in (
            ("adam", {"epochs": plan.epochs, "learning_rates": (LEARNING_RATE,)}),
            ("converged", {"solver": Converged()}),
        ):
            records, seconds[solver][label] = train(poolers, **options)
            kept[solver] += list(records)
    solved = {row["pooler"]: row for row in kept["converged"] if "strength" in row}
    theirs = {name: _theirs(names[name], states, mask, targets, splits, solved[name]) for name in FIXED}
    return {
        "seconds": seconds,
        "accuracy": {solver: _accuracies(rows) for solver, rows in kept.items()},
        "sklearn": theirs,
        "environment": environment(),
    }


def _accuracies(rows):
    """Mean test accuracy of each pooler, of the learning rate that most of its heads have."""
    found = {}
    for name in POOLERS:
        own = [row for row in rows if row["pooler"] == name]
        rates = [row["learning_rate"] for row in own]
        rate = max(rates, key=rates.count)
        found[name] = float(np.mean([row["test"] for row in own if row["learning_rate"] == rate]))
    return found


def _theirs(pooler, states, mask, targets, splits, ours):
    """Seconds of scikit-learn for the strengths that ours tried, test accuracy at the one it took."""
    import sklearn.linear_model
    import sklearn.preprocessing

    from poolax.pooling import from_name
    from poolax.training import Converged

    vectors = np.asarray(from_name(pooler).apply({}, states, mask), np.float64)
    train, test = (splits[name] for name in ("train", "test"))
    scaler = sklearn.preprocessing.StandardScaler().fit(vectors[train])
    inputs = np.asarray(scaler.transform(vectors), np.float32)
    start, models = time.perf_counter(), {}
    for strength in ours["strengths_tried"]:
        model = sklearn.linear_model.LogisticRegression(
            C=1 / (strength * len(train)), tol=Converged().tolerance, max_iter=Converged().max_steps
        )
        with warnings.catch_warnings():  # of heads that do not get there
            warnings.simplefilter("ignore")
            model.fit(inputs[train], targets[train])
        models[strength] = model
    seconds = time.perf_counter() - start
    # At one strength heads are compared; which one is taken hangs on single examples.
    accuracy = float(models[ours["strength"]].score(inputs[test], targets[test]))
    return {"seconds": seconds, "accuracy": accuracy, "strength": ours["strength"]}


def records_of(plan: Plan, found: dict[str, Any]) -> list[dict[str, object]]:
    """What is printed and kept of both solvers."""
    common = {
        "kind": "benchmark",
        "suite": "sweep",
        **dataclasses.asdict(plan),
        **found["environment"],
    }
    # The path says nothing about the measurement.
    del common["data_dir"]
    ours, adam, theirs = found["seconds"]["converged"], found["seconds"]["adam"], found["sklearn"]
    in_sklearn = sum(own["seconds"] for own in theirs.values())
    rows: list[dict[str, object]] = [
        {
            "case": "fixed, to the end, beside scikit-learn",
            "poolax_seconds": ours["fixed"],
            "sklearn_seconds": in_sklearn,
            "ratio": in_sklearn / ours["fixed"],
        }
    ]
    parts = {"all six": ("fixed", "learned"), "fixed": ("fixed",), "learned": ("learned",)}
    for label, names in parts.items():
        mine, protocol = (sum(own[name] for name in names) for own in (ours, adam))
        rows.append(
            {
                "case": f"{label}, to the end / Adam",
                "poolax_seconds": mine,
                "adam_seconds": protocol,
                "ratio": mine / protocol,
            }
        )
    for name in POOLERS:
        row: dict[str, object] = {
            "case": f"{name}: accuracy to the end",
            "poolax_accuracy": found["accuracy"]["converged"][name],
            "adam_accuracy": found["accuracy"]["adam"][name],
        }
        if name in theirs:
            row["sklearn_accuracy"] = theirs[name]["accuracy"]
        rows.append(row)
    return [{**common, **row} for row in rows]


def run(plan: Plan) -> list[dict[str, object]]:
    """Both solvers and scikit-learn, in a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(both_solvers, (plan,))
    return records_of(plan, found)

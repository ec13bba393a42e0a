"""From records of heads to records that can be published, and to the tables."""

import dataclasses
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from comparison._models import FORMER, name_of
from comparison._study import Model, Study
from comparison._worth import worth_of_series
from poolax.records import Records, packed
from poolax.reporting import FEWEST_TASKS, Table, notes_once, score_tables
from poolax.statistics import METRICS

# Curves and probabilities stay with the sweep's own records.
_FIELDS = (
    *("id", "dataset", "task", "task_options", "metric", "higher_is_better", "pooler", "resolved"),
    *("learning_rate", "seed", "epochs", "batch_size", "validation", "test", "test_metrics"),
    *(
        "layers",
        "knn",
        "solver",
        "convex",
        "strength",
        "learning_rates_tried",
        "chosen_by",
        "at_edge",
        "converged",
        "epochs_trained",
        "best_epoch",
        "baseline",
        "best_constant",
        "baselines",
        "num_examples",
        "is_constant",
        "duplicates",
        "backbone_fingerprint",
        "data_fingerprint",
        "diverged",
        "diverged_step",
        "batch_order",
        "backbone_config",
        "data_source",
        "versions",
        "devices",
        "git",
    ),
)
# Options that are paths, one or several, and what stands in their place.
_PATHS = {
    "--data-dir": "DIR",
    "--out": None,
    "--beside": None,
    **dict.fromkeys(("--backbone", "--vision-backbone", "--series-backbone")),
    **dict.fromkeys(("--minilm", "--smollm2", "--dinov2"), "MODEL"),
}


def published(row: Mapping[str, Any], *, study: Study, model: Model) -> dict[str, Any]:
    """What a table needs of a head's record, without paths of the machine.

    Args:
        row: Record of a sweep.
        study: The comparison.
        model: The backbone and its data.
    """
    return {
        "kind": "head",
        "study": study.name,
        "title": study.title,
        "backbone": model.name,
        "pretrained": model.pretrained,
        **{name: row[name] for name in _FIELDS if name in row},
        "predictions": {"test": packed(examples_of(row))},
        "data_notes": list(model.data.notes),
        "command": portable_command(row["command"]),
    }


def examples_of(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What intervals take of each test example: its score, and the answer where no mean is reported."""
    kept = Records([row]).predictions()[0].kept
    names = ("score", "num_scored")
    if not _is_mean(row["metric"], kept["score"], row["test"]):
        names += ("target", "prediction")
    found = {name: kept[name] for name in names if name in kept}
    is_whole = bool((found["score"] == np.round(found["score"])).all())
    return {**found, "score": found["score"].astype(np.int8 if is_whole else np.float32)}


def _is_mean(metric, scores, value):
    """Whether a metric is the mean of scores: by its name, where it has one, as others may equal it."""
    if metric in METRICS:
        return metric == "accuracy" or not METRICS[metric].needs
    return not metric.startswith("f1_of_") and np.isclose(np.mean(scores), value, rtol=1e-4)


def portable_command(command: str) -> str:
    """The command with names in place of paths, as typed in the root of the repository.

    Example:
        >>> portable_command("language.py --data-dir /some/where --out=/tmp/run")
        'python experiments/language.py --data-dir DIR --out=run'
        >>> portable_command("certificates.py --poolers 'query attention' max")
        "python experiments/certificates.py --poolers 'query attention' max"
    """
    words, expected = [], None
    for word in _words(command):
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        if option in _PATHS and equals:
            words.append(f"{option}={_portable(option, value)}")
        elif word.startswith("--"):
            expected = option if option in _PATHS else None
            words.append(word)
        else:
            words.append(word if expected is None else _portable(expected, word))
    return shlex.join(["python", f"experiments/{words[0]}", *words[1:]])


def _words(command):
    """Its arguments; of earlier records, which quote none of them, what stands between spaces."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _portable(option, path):
    named = name_of(path) if option == "--backbone" else pathlib.Path(path).name
    return _PATHS[option] or named


def model_of(row: Mapping[str, Any]) -> str:
    """What a record calls its backbone."""
    return row.get("model") or row["backbone"]


def pretrained(row: Mapping[str, Any]) -> str | None:
    """How the backbone of a record was pretrained; ``None`` where neither it nor anything else says."""
    return row.get("pretrained") or FORMER.get(model_of(row))


def tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """The tables of a comparison, one for each task, with the protocol and the data's notes below it.

    Args:
        records: Published records.
    """
    records = list(records)
    by_task: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in records:
        by_task.setdefault((model_of(row), row["dataset"], row["task"]), []).append(row)
    shown, worth = [], worth_of_series(records)
    for table in score_tables(records):
        rows = by_task[table.tidy[0]["backbone"], table.tidy[0]["dataset"], table.tidy[0]["task"]]
        notes = [*table.notes, f"{_protocol(rows)}."]
        if rows[0]["task"] == "classification" and model_of(rows[0]) in worth:
            notes.append(f"{model_of(rows[0])}: {worth[model_of(rows[0])]}.")
        shown.append(dataclasses.replace(table, notes=notes))
    return notes_once(shown)


def markdown(tables: Sequence[Table], *, title: str, level: int = 2) -> str:
    """Tables of a comparison below its title, which is a heading of this level."""
    shown = (table.markdown(level=level + 1) for table in tables)
    return "\n".join([f"{'#' * level} {title}\n", *shown])


def has_radar(records: Iterable[Mapping[str, Any]]) -> bool:
    """Whether records are of as many tasks as a radar needs, and of no layers beside the output."""
    sound = [row for row in records if not row["diverged"]]
    tasks = {(row["dataset"], row["task"]) for row in sound}
    return len(tasks) >= FEWEST_TASKS and not any("layers" in row for row in sound)


def commands(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The commands that gave the records, in order of appearance."""
    return list(dict.fromkeys(row["command"] for row in records))


def _protocol(rows):
    first = rows[0]
    by_solver = {}
    for row in rows:
        by_solver.setdefault(repr(row.get("solver")), []).append(row)
    training = "; ".join(map(_training, by_solver.values()))
    orders = dict.fromkeys(row.get("batch_order", "of each seed") for row in rows)
    shared = [f"order of batches {order}" for order in orders if order != "of each seed"]
    how = pretrained(first)
    words = [] if how is None else [f"backbone pretrained: {how}".replace("; ", ", ")]
    return "; ".join([training, *shared, *first["data_notes"], *words])


def _training(rows):
    """How the heads of one solver were trained."""
    first = rows[0]
    found = dict.fromkeys(row["learning_rate"] for row in rows)
    rates = " or ".join(f"{rate:g}" for rate in found if rate is not None)
    epochs = f"{first['epochs']} epoch" + "s" * (first["epochs"] > 1)
    steps = f"Adam at {rates}, batches of {first['batch_size']}"
    if first.get("solver") is None:
        return f"{steps}, {epochs}"
    solved = "solved to the least loss" if None in found else ""
    trained = f"{steps}, until validation no longer improves, at most {epochs}" if rates else ""
    left = sum(not row["converged"] for row in rows)
    told = f"{left} of {len(rows)} heads still improved" if left else ""
    parts = (solved, trained, _from_average(rows), told)
    return "converged: " + ", ".join(part for part in parts if part)


def _from_average(rows):
    """That heads started as the average, and how many of them validation left there."""
    if not rows[0]["solver"]["options"].get("from_average"):
        return ""
    epochs = [row["best_epoch"] for row in rows if row.get("best_epoch") is not None]
    stayed = sum(epoch < 0 for epoch in epochs)
    return f"heads that can be the average start as it ({stayed} of {len(epochs)} heads stayed there)"

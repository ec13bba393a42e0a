"""All stages of the quickstart, for one modality."""

import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from poolax._checks import check_path
from poolax._paths import absolute_path
from poolax._processes import once
from poolax._progress import Progress, no_progress
from poolax.backbones import is_saved_backbone
from poolax.backbones import save as save_backbone
from poolax.quickstart._language import language
from poolax.quickstart._sensitivity import noise_curves, trained_blocks
from poolax.quickstart._series import series
from poolax.quickstart._settings import CHEAP_POOLERS, POOLERS, Settings
from poolax.quickstart._study import Study
from poolax.quickstart._vision import vision
from poolax.records import Journal, digest
from poolax.reporting import (
    Table,
    notes_once,
    plot_noise_curves,
    plot_scores,
    plot_sensitivity,
    score_tables,
    sensitivity_table,
    summarize_scores,
    write_figure,
    write_tables,
)
from poolax.training import (
    Choice,
    Limits,
    Records,
    checkpoint_metadata,
    choose_pooler,
    extract_states,
    head_directory,
    load_head,
    stop_on_sigterm,
    sweep,
)
from poolax.training.holding import holding

RECORDS = "records.jsonl"
MODALITIES: Mapping[str, Callable[[epath.Path, Settings, Progress], Study]] = {
    "vision": vision,
    "language": language,
    "series": series,
}
# Test examples at which the Lipschitz factors of poolers are taken.
_NUM_PRICED = 64
# What earlier programs say.
_FORMER = {"time_series": "series"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What the quickstart leaves behind.

    Attributes:
        records: All records.
        scores: Tables of scores, one for each task, with both ways of training side by side.
        sensitivity: Table of measured constants and bounds.
        cls_token_trained: Whether the pretraining trained the backbone's CLS token; ``None`` if it has
            none.
        example_head: Checkpoint of one trained head.
        advice: Which pooler to take for the first task, by its heads that were trained to the end.
    """

    records: Records
    scores: Sequence[Table]
    sensitivity: Table
    cls_token_trained: bool | None
    example_head: epath.Path
    advice: Choice

    @property
    def num_diverged(self) -> int:
        """Number of heads whose loss did not stay finite."""
        return sum(row["diverged"] for row in self.records.where(kind="head"))


def run(
    out: epath.PathLike,
    settings: Settings | None = None,
    *,
    modality: str = "vision",
    progress: Progress = no_progress,
) -> Report:
    """Run all stages and write records, tables, figures and checkpoints.

    Args:
        out: Folder to write to, local or ``gs://``.
        settings: Sizes; ``None`` takes the defaults.
        modality: ``"vision"``, ``"language"`` or ``"series"``, also called ``"time_series"``.
        progress: Called with a description, the number done and the total.

    Returns:
        The report.

    Raises:
        ValueError: if ``out`` cannot be written or holds a run with other settings.
        BlockingIOError: if another program writes to ``out``.
        RuntimeError: if a measured constant exceeds its bound.
        FloatingPointError: if pretraining or all heads diverge.
        PreemptedError: if SIGTERM or Ctrl-C asks to stop; what is finished is saved.
    """
    settings = Settings() if settings is None else settings
    settings.check()
    modality = _FORMER.get(modality, modality)
    if modality not in MODALITIES:
        raise ValueError(f"modality: expected one of {', '.join(MODALITIES)}, got {modality!r}")
    out = _writable_folder(out)
    with holding(out):
        return _run(out, settings, modality, progress)


def _run(out, settings, modality, progress) -> Report:
    study = MODALITIES[modality](out, settings, progress)
    # Saving takes all processes: one may see a file that another one does not see yet.
    if not once(lambda: int(is_saved_backbone(out / "backbone")), f"{out}: whether it has a backbone"):
        save_backbone(study.backbone, out / "backbone")
    heads = []
    for index, (dataset, task) in enumerate(study.tasks):
        for solver in ("adam", settings.solver):
            is_cheap = index == 0 or solver == "adam"
            with stop_on_sigterm() as should_stop:
                heads += sweep(
                    study.backbone,
                    dataset,
                    task,
                    poolers=POOLERS if is_cheap else CHEAP_POOLERS,
                    seeds=settings.seeds,
                    epochs=study.epochs(settings, index),
                    learning_rates=settings.learning_rates,
                    solver=solver,
                    out=out,
                    limits=Limits(should_stop=should_stop),
                    progress=progress,
                )
    # Noise is measured on heads of the first task, trained by the paper's protocol.
    first = {name: heads[0][name] for name in ("dataset", "task")}
    best = _best_heads(Records(row for row in heads if row.get("solver") is None).where(**first))
    identity = {"backbone": heads[0]["backbone_fingerprint"], **settings.sizes()}
    journal = Journal(out / RECORDS, identity=identity)
    curves = noise_curves(study, out, best, settings, journal, progress)
    constants = trained_blocks(study.tokens, out / "blocks", settings, journal, progress)

    solved = Records(row for row in heads if row.get("solver")).where(**first)
    advice = _advice(study, out, solved)
    what = {"kind": "choice", **first, "heads": digest([row["id"] for row in solved])}
    choice = journal.measured(what, lambda: _told(advice))

    scores = notes_once(score_tables(heads))
    sensitivity = sensitivity_table(constants, title="Sensitivity: measured and bounded")
    for name, tables in (("scores", scores), ("sensitivity", [sensitivity])):
        write_tables(tables, out, name)
    write_figure(plot_scores, heads, out, "scores")
    write_figure(plot_noise_curves, curves, out, "noise_curves")
    write_figure(plot_sensitivity, constants, out, "sensitivity")
    return Report(
        records=Records([*heads, *curves, *constants, choice]),
        scores=scores,
        sensitivity=sensitivity,
        cls_token_trained=checkpoint_metadata(out / "pretraining").get("cls_token_trained"),
        example_head=head_directory(out, next(iter(best.values()))),
        advice=advice,
    )


def _advice(study: Study, out: epath.Path, heads: Records) -> Choice:
    """What the heads of the first task say, without any more of them."""
    dataset, _ = study.tasks[0]
    some = np.sort(dataset.splits["test"])[:_NUM_PRICED]
    tokens = extract_states(study.backbone, dataset.inputs, dataset.mask, indices=some)
    loaded = {row["pooler"]: load_head(head_directory(out, row)) for row in heads}
    mask = None if tokens.mask is None else np.asarray(tokens.mask)
    return choose_pooler(heads, loaded, np.asarray(tokens.states), mask)


def _told(advice: Choice) -> dict[str, Any]:
    """What a record says of a recommendation."""
    names = ("recommended", "runner_up", "decided", "sentence", "certainty", "best")
    return {name: getattr(advice, name) for name in names}


def _best_heads(heads: Records):
    """A sound head of each pooler at its best learning rate."""
    rates = {entry["pooler"]: entry["learning_rate"] for entry in summarize_scores(heads)}
    sound = {
        name: heads.where(pooler=name, learning_rate=rates[name], diverged=False) for name in POOLERS
    }
    best = {name: rows[0] for name, rows in sound.items() if rows}
    if not best:
        raise FloatingPointError("all heads diverged")
    return best


def _writable_folder(out):
    check_path("out", out)
    path = absolute_path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".poolax-writable.{uuid.uuid4().hex}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"out: expected a folder that can be written, got {out} ({reason})") from None
    return path

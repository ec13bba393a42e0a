"""Pretraining in few words: AdamW on a cosine schedule, by epochs of examples in memory."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from poolax._checks import check_count, check_instance, check_number, check_path
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone
from poolax.records import fingerprint
from poolax.training.arguments import check_seed
from poolax.training.pretraining._batches import ArrayBatches
from poolax.training.pretraining._objective import Objective
from poolax.training.pretraining._optimisation import Optimisation, Plan
from poolax.training.pretraining._run import Run, run_to_end

_OPTIMISATION = Optimisation(
    weight_decay=0.01, decay_vectors=True, b2=0.999, clip=None, final_fraction=0.0
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is pretrained, and where its checkpoints stand.

    AdamW with a weight decay of 0.01; the learning rate rises over a twentieth of all steps and then
    falls on a cosine to zero.

    Attributes:
        epochs: Passes over the examples.
        batch_size: Examples a step.
        learning_rate: Peak learning rate.
        seed: Sets initialisation, batch order and what is hidden.
        out: Folder for checkpoints; a run that finds one there goes on from it, and gives what an
            uninterrupted run would have given. SIGTERM or Ctrl-C then ends the step, saves and stops.
            ``None`` writes nothing.
        checkpoint_every: Epochs between checkpoints.
        progress: Called with a description, the number of epochs done and the total.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    out: epath.PathLike | None = None
    checkpoint_every: int = 20
    progress: Progress = no_progress

    def __post_init__(self):
        """Refuse numbers out of range."""
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size)
        check_count("checkpoint_every", self.checkpoint_every)
        check_number("learning_rate", self.learning_rate, above=0.0)
        check_seed("seed", self.seed)
        if self.out is not None:
            check_path("out", self.out)
        check_instance("progress", self.progress, Callable, "a function of description, number, total")


def run_schedule(
    schedule: Schedule,
    objective: Objective,
    arrays: Mapping[str, np.ndarray],
    preprocess: Any = None,
) -> Backbone:
    """Train a model on examples in memory, or go on from a checkpoint of the same run.

    Args:
        schedule: How long and how fast.
        objective: What is learned.
        arrays: What the objective reads, one row an example.
        preprocess: Maps raw inputs to the model's; kept in the model.

    Returns:
        The trained model.

    Raises:
        ValueError: for arrays that do not fit, or a checkpoint of another run.
        FloatingPointError: if the loss does not stay finite.
        BlockingIOError: if another program writes to the schedule's folder.
        PreemptedError: for SIGTERM or Ctrl-C, once the state is saved.
    """
    batches = ArrayBatches(arrays, schedule.batch_size, seed=schedule.seed)
    per_epoch = batches.steps_per_epoch
    steps = schedule.epochs * per_epoch
    plan = Plan(
        steps,
        dataclasses.replace(_OPTIMISATION, learning_rate=schedule.learning_rate),
        seed=schedule.seed,
        checkpoint_every=schedule.checkpoint_every * per_epoch,
    )
    told = [0]

    def progress(description, step, total):
        del total
        if step // per_epoch > told[0]:
            told[0] = step // per_epoch
            schedule.progress(description, told[0], schedule.epochs)

    # In the words of checkpoints that were written before there was a plan.
    identity = {
        "num_examples": len(next(iter(arrays.values()))),
        "inputs": fingerprint(dict(arrays)),
        "epochs": schedule.epochs,
        "batch_size": schedule.batch_size,
        "learning_rate": schedule.learning_rate,
        "seed": schedule.seed,
    }
    run = Run(
        objective,
        batches,
        plan,
        identity,
        out=schedule.out,
        preprocess=preprocess,
        progress=progress,
        takes_notes=False,
    )
    return run_to_end(run).backbone

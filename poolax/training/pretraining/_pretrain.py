"""The entrance of the trainer: checks of arguments, and what makes a run another one."""

from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree

from poolax import codec
from poolax._checks import check_instance, check_path
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone
from poolax.records import fingerprint
from poolax.training.pretraining._batches import Batches
from poolax.training.pretraining._objective import Objective
from poolax.training.pretraining._optimisation import Plan
from poolax.training.pretraining._run import Observer, Pretrained, Run, run_to_end


def pretrain(
    objective: Objective,
    batches: Batches,
    plan: Plan,
    *,
    evaluation: Batches | None = None,
    out: epath.PathLike | None = None,
    init: Backbone | PyTree | None = None,
    preprocess: Any = None,
    observers: Sequence[Observer] = (),
    progress: Progress = no_progress,
) -> Pretrained:
    """Pretrain a backbone, or go on from where a run stopped.

    Rows of a step are split over all devices of all hosts, and on each of them into micro-batches. Sums
    of losses and gradients add up over both and are divided once, and random keys belong to rows: the
    result is that of one large batch on one device, up to rounding. With ``out`` a run that finds
    checkpoints of its own there goes on from the newest, bit for bit as if it had not been interrupted;
    they are written in the background, and for SIGTERM or Ctrl-C within a second or a step.

    On several hosts every process calls ``jax.distributed.initialize()`` before anything else of JAX,
    and then makes the same call, with batches of all rows and an ``out`` that all of them see. One
    process writes; where one is asked to stop, all of them save together and stop.

    Args:
        objective: What is learned, and by a model of which sizes.
        batches: What it is learned from.
        plan: How long, by what and how fast; when records and checkpoints are made.
        evaluation: Batches held out, all of which are evaluated with what is hidden in them the same
            each time; ``None`` evaluates nothing.
        out: Folder for checkpoints and ``records.jsonl``; ``None`` writes nothing.
        init: What training goes on from in place of random parameters: a backbone of the objective's
            configuration, or all parameters, such as ``Pretrained.params``.
        preprocess: Maps raw inputs to the model's; kept in the model.
        observers: Functions of step and backbone, called wherever the model is evaluated; what they
            give, plain JSON, stands under ``observed`` in the record.
        progress: Called with a description, the number of steps done and the total.

    Returns:
        Backbone, all parameters, and records: losses since the one before, norms of gradients, learning
        rates, losses of ``evaluation``, tokens a second and the share of the devices' measured matrix
        rate that the model's matrix products come to.

    Raises:
        ValueError: for batches that do not fit the objective, or a checkpoint of another run.
        FloatingPointError: if the loss does not stay finite.
        BlockingIOError: if another program writes to ``out``.
        PreemptedError: for SIGTERM or Ctrl-C, once the state is saved.

    Example:
        >>> import numpy as np
        >>> from poolax.backbones import GPT2Config
        >>> from poolax.training.pretraining import ArrayBatches, NextToken, Optimisation
        >>> objective = NextToken(GPT2Config(12, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8))
        >>> ids = (np.arange(24)[:, None] + np.arange(8)) % 12
        >>> plan = Plan(steps=4, optimisation=Optimisation(accumulation=2), evaluate_every=2)
        >>> batches = ArrayBatches({"ids": ids}, batch_size=8)
        >>> found = pretrain(objective, batches, plan, evaluation=batches)
        >>> found.backbone(ids[:2, :5]).states.shape, [row["step"] for row in found.records]
        ((2, 5, 8), [0, 1, 2, 3, 4])
    """
    check_instance("objective", objective, Objective, "an Objective")
    check_instance("plan", plan, Plan, "a Plan")
    for name, given in (("batches", batches), ("evaluation", evaluation)):
        if given is not None or name == "batches":
            check_instance(name, given, Batches, "Batches")
    if out is not None:
        check_path("out", out)
    identity = {
        "data": batches.fingerprint,
        "steps": plan.steps,
        "seed": plan.seed,
        "optimisation": codec.to_plain(plan.optimisation, of="optimisation"),
        "init": None if init is None else fingerprint(jax.tree.leaves(_params_of(init))),
    }
    run = Run(
        objective,
        batches,
        plan,
        identity,
        evaluation,
        out,
        init,
        preprocess,
        tuple(observers),
        progress,
    )
    return run_to_end(run)


def _params_of(init):
    return init.params if isinstance(init, Backbone) else init

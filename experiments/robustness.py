"""Attacks on images through backbone and head: accuracy by budget and pooler (Table 10, and beyond).

    python experiments/robustness.py --datasets cifar10 --backbone MODEL --data-dir DIR
    python experiments/robustness.py --datasets cifar10 --data-dir DIR       # a ViT pretrained here
    python experiments/robustness.py --quick

Heads are trained by the paper's protocol and to the end; then the same test images are attacked for
each of them, in pixels from 0 to 1 before the model normalises them: one step (FGSM) and projected
ascent with restarts (PGD) at each budget. MODEL is a folder or hub id, DINOv2-small or what pretrain.py
made ("OUT/backbone"). The paper reports FGSM's success on a ViT, for CIFAR-10 at 3/255 from 10.92 %
(sum) to 20.32 % (max), and at 8/255 from 10.92 % (sum) to 29.38 % (last). Records,
tables and figure stand in --out; the same command goes on from what is finished.

Duration (estimate, two CPU cores): a day with DINOv2-small, about an hour with --attack-seeds 1
--num-inputs 80 --restarts 1; --quick some minutes.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("robustness")

import dataclasses
import sys

import numpy as np
import probing
import vision

from poolax import backbones, bounds
from poolax.cli import OptionalCount, check_count
from poolax.records import Journal, Records, packed
from poolax.reporting import plot_robustness, robustness_tables
from poolax.training import (
    Classification,
    PixelAttack,
    attack_head,
    extract_states,
    head_directory,
    load_head,
    pixel_norms,
)

#: What is measured of each head.
ATTACKS = "attacks.jsonl"
_IMAGES = tuple(name for name in vision.STUDY.cases if not name.endswith("_inpainting"))


@dataclasses.dataclass(frozen=True)
class Options(probing.Options):
    """Attack heads on frozen backbones of images.

    Attributes:
        image_size: Pixels a side that images are brought to, before they are attacked, for a backbone
            that is given and was made for other sizes than theirs.
        budgets: Largest change of a value of a pixel, in 255ths of their range.
        steps: Steps of PGD.
        restarts: Starts of PGD, the first from FGSM's point.
        num_inputs: Most test images that are attacked.
        num_norms: Of these, the images at which the logits' Jacobian is measured.
        attack_seeds: Most heads of a pooler and solver that are attacked; by default all.
        attack_batch: Images that are attacked at a time.
    """

    out: str = "poolax-robustness"
    poolers: tuple[str, ...] = (*probing.POOLERS, "map", "hybrid", "ep")
    image_size: int = vision.Options.image_size
    budgets: tuple[float, ...] = (3.0, 8.0)
    steps: int = 20
    restarts: int = 2
    num_inputs: int = 200
    num_norms: int = 16
    attack_seeds: OptionalCount = None
    attack_batch: int = 32

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        for name in self.datasets:
            if name not in _IMAGES:
                raise ValueError(f"datasets: expected {', '.join(_IMAGES)}, got {name}")
        super().check()
        counts = ("steps", "restarts", "num_inputs", "num_norms", "attack_batch", "image_size")
        for field in (*counts, "attack_seeds"):
            if getattr(self, field) is not None:
                check_count(field, getattr(self, field))
        self.attacks()
        if len(self.learning_rates) > 1:
            raise ValueError(f"learning_rates: expected one, got {len(self.learning_rates)}")

    def attacks(self) -> tuple[PixelAttack, ...]:
        """FGSM of the cross-entropy at each budget, then PGD of the margin, whose gradient stays."""
        if not self.budgets:
            raise ValueError("budgets: expected at least one, got none")
        radii = [budget / 255 for budget in self.budgets]
        strong = [PixelAttack(radius, self.steps, self.restarts, loss="margin") for radius in radii]
        return (*map(PixelAttack, radii), *strong)


def measure(options, out, progress, limits):
    """What attacks leave of each head."""
    rows = []
    for setup in probing.setups(options, out, progress):
        if not isinstance(setup.task, Classification):
            raise ValueError(f"datasets: expected classifications, got {setup.name}")
        heads = []
        for solver in dict.fromkeys(options.solvers):
            how = options.solving(solver)
            heads += probing.chosen(probing.trained(setup, options, out, progress, limits, **how))
        rows += attacked(options, setup, heads, out, progress)
    return Records(rows)


def attacked(options, setup, heads, out, progress):
    """The record of each head that did not diverge, measured once."""
    chosen = np.asarray(setup.data.splits["test"])[: options.num_inputs]
    images, labels = np.asarray(setup.data.inputs[chosen]), np.asarray(setup.data.targets)[chosen]
    backbone = setup.backbone
    if isinstance(backbone, backbones.ViT):
        # One block's program in place of all: it compiles in a fraction of the time.
        backbone = backbone.stack_layers()
    some = slice(0, options.num_norms)
    tokens = extract_states(setup.backbone, images[some], progress=progress)
    journal = Journal(out / ATTACKS, identity={"images": [int(index) for index in chosen]})
    rows = []
    for row in heads:
        if row["diverged"] or row["seed"] >= (options.attack_seeds or options.seeds):
            continue
        what = about(options, setup, row, images)

        def measured(row=row):
            head = load_head(head_directory(out, row))
            found = attack_head(
                backbone, head, images, labels, options.attacks(), batch_size=options.attack_batch,
                progress=progress, description=f"attacks on {row['pooler']}",
            )  # fmt: skip
            norms = pixel_norms(backbone, head, images[some], progress=progress)
            factor = factor_of(head, tokens)
            return summary(options, found) | {"norm": float(np.mean(norms)), "factor": factor}

        counts = {**row["num_examples"], "test": len(images)}
        rows.append({**journal.measured(what, measured), "num_examples": counts})
    return rows


def about(options, setup, row, images):
    """What a record is of: the head, and how it is attacked."""
    solver = row.get("solver")
    return {
        "kind": "robustness",
        "head": row["id"],
        "model": setup.model,
        "pretrained": setup.pretrained,
        **{name: row[name] for name in ("dataset", "task", "pooler", "seed")},
        "solver": "adam" if solver is None else solver["name"],
        "num_inputs": len(images),
        "num_norms": min(options.num_norms, len(images)),
        "image_shape": list(images.shape[1:]),
        "budgets": list(options.budgets),
        "steps": options.steps,
        "restarts": options.restarts,
    }


def summary(options, found):
    """Shares of right images, before and after each attack, and which they are."""
    attacks = []
    for attack, right, loss, moved in zip(
        options.attacks(), found.attacked, found.attacked_loss, found.moved, strict=True
    ):
        success = float(np.mean(~right[found.clean])) if found.clean.any() else None
        attacks.append(
            {
                "name": attack.name,
                **dataclasses.asdict(attack),
                "accuracy": float(np.mean(right)),
                "success": success,
                "cross_entropy": float(np.mean(loss)),
                "unmoved": float(np.mean(~moved)),
            }
        )
    kept = {"clean": found.clean.astype(np.uint8), "attacked": found.attacked.T.astype(np.uint8)}
    return {
        "clean": float(np.mean(found.clean)),
        "clean_loss": float(np.mean(found.clean_loss)),
        "margin": float(np.mean(found.margin)),
        "attacks": attacks,
        "examples": packed(kept),
    }


def factor_of(head, tokens):
    """The pooler's Lipschitz factor at the spread of these tokens; ``None`` where there is no bound."""
    states, scaling = np.asarray(tokens.states), head.variables.get("scaling")
    if scaling is not None:
        states = (states - np.asarray(scaling["mean"])) / np.asarray(scaling["deviation"])
    spread = float(bounds.domain_of(states, tokens.mask).spread)
    inner = head.variables["params"].get("pooler", {})
    size = {"num_tokens": states.shape[-2], "dim": states.shape[-1]}
    try:
        return float(bounds.pooler(head.pooler, {"params": inner}, spread=spread, **size).l2)
    except bounds.NoBoundError:
        return None


SCRIPT = probing.Script(
    name="robustness",
    title="Attacks through backbone and head",
    options=Options(),
    measure=measure,
    tables=robustness_tables,
    figures={"robustness": plot_robustness},
    quick={**probing.QUICK, "steps": 5, "num_inputs": 40, "num_norms": 4},
)

if __name__ == "__main__":
    sys.exit(probing.main(SCRIPT))

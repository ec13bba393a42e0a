"""Training for certificates: bounds in the loss, caps on norms, a margin, and what each of them buys.

    python experiments/examples/regularize.py --out regularize
    python experiments/examples/regularize.py --quick

One pooled block and a linear head learn scikit-learn's handwritten digits in four ways:

- plain: cross entropy;
- penalised: cross entropy + strength * log L, where L is the sharp bound of the map from images to
  logits, that of ``bounds.tbm`` times the head's spectral norm;
- capped: after each step singular values of the block's kernels, and scales of its norms, are cut;
- margin: capped, and the loss asks for a margin: all other classes' logits are raised by sqrt(2) c L,
  the most that a change of length c may bring them nearer to the label's (Lipschitz-margin training of
  Tsuzuku, Sato and Sugiyama, NeurIPS 2018), and by no more than a share of the leads that there are.

Learning rate, strength, cap and margin of a way are chosen on validation images with the first seed, as
those of the largest mean radius that the bound of all images certifies, 0 where the class is wrong, of
candidates that are nearly as accurate as the best of their way: a model that gives one class to all has
an infinite radius. Test images are looked at for what is chosen alone. All that is tried for one
attention trains in one compiled step, and so do all ways and seeds of what is chosen. Test accuracy
stands beside the constant that is measured (at test images, and by adversarial search among all
images), the bound, the radius that it certifies, and for the first test images what ``bounds.certify``
certifies by bounds on balls around them, and what an attack finds. Lengths are Euclidean, in grey
levels of the 17 that a pixel has; constants are per unit of the whole range.

Duration (estimate, one CPU core): an hour, --quick two minutes.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("regularize")

import dataclasses
import itertools
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import regularize_records  # noqa: F401, declares the kind of what is written
import tyro
from regularize_measures import GREY_LEVELS, constants, radii, radii_by_constant
from regularize_training import NUM_TOKENS, PATCH, Plan, Way, to_tokens, train

from poolax import attention, blocks, pooling
from poolax.cli import check_choice, check_count
from poolax.data import digits
from poolax.records import Records, environment
from poolax.reporting import regularized_table
from poolax.training import HeadModule

KINDS = {
    "dot": attention.DotProduct(),
    "l2": attention.L2(),
    "cosine": attention.Cosine(tau=1.0, nu=1.0, eps=0.01),
}
WAYS = ("plain", "penalised", "capped", "margin")
_SCORES = ("validation_accuracy", "validation_radius")
# A candidate may be less accurate than the best of its way by so much.
_ACCURACY_LOST = 0.05
_SETTINGS = ("learning_rates", "strengths", "caps", "margins")


@dataclasses.dataclass(frozen=True)
class Options:
    """Training for certificates, on handwritten digits.

    Attributes:
        poolers: Names of the poolers; a fixed one has a bound.
        kinds: Kinds of attention.
        ways: Ways of training.
        learning_rates: Of Adam; validation chooses of these as of all that follows.
        strengths: Weights of log L in the loss.
        caps: Largest singular values of the block's kernels, and largest scales of its norms.
        margins: Lengths of changes, in grey levels, that the margin is for.
        seeds: Models of each way.
        epochs: Passes over the training images.
        batch_size: Images a step.
        width: Width of a token: its four pixels, its position, and zeros.
        num_heads: Attention heads.
        num_inputs: Test images whose Jacobian is measured, and which are certified and attacked.
        search_restarts: Restarts of the adversarial search.
        search_steps: Steps of each restart.
        attack_steps: Steps of each attack.
        quick: One kind, seed and restart, few epochs, images and steps.
        out: Folder to which records are appended; nothing is written by default.
        json: Print records instead of a table.
    """

    poolers: tuple[str, ...] = ("avg",)
    kinds: tuple[str, ...] = tuple(KINDS)
    ways: tuple[str, ...] = WAYS
    learning_rates: tuple[float, ...] = (3e-3, 1e-2)
    strengths: tuple[float, ...] = (0.005, 0.02, 0.08)
    caps: tuple[float, ...] = (1.5, 2.0, 3.0)
    margins: tuple[float, ...] = (0.5, 1.0)
    seeds: int = 3
    epochs: int = 60
    batch_size: int = 64
    width: int = 32
    num_heads: int = 4
    num_inputs: int = 24
    search_restarts: int = 4
    search_steps: int = 50
    attack_steps: int = 40
    quick: bool = False
    out: str | None = None
    json: bool = False

    def resolved(self) -> "Options":
        """The options, made small if that is asked for; refused where one of them is none."""
        least = dict.fromkeys(("seeds", "epochs", "batch_size", "num_inputs", "attack_steps"), 1)
        for name, low in {**least, "width": NUM_TOKENS + PATCH**2}.items():
            check_count(name, getattr(self, name), at_least=low)
        for name in _SETTINGS:
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one, got none")
            for value in getattr(self, name):
                if not 0 < value < math.inf:
                    raise ValueError(f"{name}: expected numbers > 0, got {value}")
        for field, choices in (("kinds", tuple(KINDS)), ("ways", WAYS)):
            for name in getattr(self, field):
                check_choice(field, name, choices)
        if not self.quick:
            return self
        small = {"seeds": 1, "epochs": 5, "num_inputs": 4, "search_restarts": 1, "search_steps": 10}
        few = {"learning_rates": self.learning_rates[-1:], "strengths": self.strengths[-2:]}
        few |= {"caps": self.caps[:2], "margins": self.margins[-1:]}
        return dataclasses.replace(self, **small, **few, kinds=self.kinds[:1], attack_steps=10)


def candidates(name: str, options: Options) -> list[Way]:
    """What may be asked of training by the name of its way.

    Example:
        >>> [way.cap for way in candidates("capped", Options(caps=(1.5, 2.0), learning_rates=(0.01,)))]
        [1.5, 2.0]
    """
    strengths = options.strengths if name == "penalised" else (0.0,)
    caps = options.caps if name in ("capped", "margin") else (math.inf,)
    margins = options.margins if name == "margin" else (0.0,)
    return [
        Way(rate, strength, cap, margin / GREY_LEVELS)
        for rate, strength, cap, margin in itertools.product(
            options.learning_rates, strengths, caps, margins
        )
    ]


def described(way: Way) -> dict[str, float | None]:
    """A way of training as records have it."""
    return {
        "learning_rate": way.learning_rate,
        "strength": way.strength,
        "cap": way.cap if math.isfinite(way.cap) else None,
        "margin": GREY_LEVELS * way.margin,
    }


def chosen(
    module: HeadModule, tokens, labels, validation, options: Options
) -> tuple[list[Way], list[list[dict[str, float | None]]]]:
    """Of each way what :func:`best_of` chooses on validation images, and all candidates."""
    tried = {name: candidates(name, options) for name in options.ways}
    flat = [way for own in tried.values() for way in own]
    params = train(module, tokens, labels, flat, Plan(1, options.epochs, options.batch_size))
    inputs, targets = to_tokens(validation[0], options.width), validation[1]

    def score(params):
        logits = module.apply({"params": params}, inputs)
        radius = radii_by_constant(module, params, logits, targets)
        return jnp.mean(jnp.argmax(logits, axis=-1) == targets), GREY_LEVELS * jnp.mean(radius)

    scores = np.asarray(jax.jit(jax.vmap(score))(at(params, slice(None), 0)), np.float64).T
    best, found = [], []
    for own in tried.values():
        parts, scores = scores[: len(own)], scores[len(own) :]
        best.append(own[best_of(*parts.T)])
        found.append(
            [
                described(way) | dict(zip(_SCORES, map(float, part), strict=True))
                for way, part in zip(own, parts, strict=True)
            ]
        )
    return best, found


def best_of(accuracies: np.ndarray, radii: np.ndarray) -> int:
    """Number of the candidate of the largest radius, of those that are accurate enough.

    Example:
        >>> best_of(np.array([0.96, 0.94, 0.1]), np.array([0.01, 0.3, 2.0]))
        1
    """
    accurate = accuracies >= np.max(accuracies) - _ACCURACY_LOST
    return int(np.argmax(np.where(accurate, radii, -np.inf)))


def at(params, way: int, seed: int):
    """The parameters of one of the models that are trained together."""
    return jax.tree.map(lambda leaf: leaf[way, seed], params)


def run(options: Options) -> Iterator[dict[str, object]]:
    """One record for each pooler, kind of attention and way, with a value for each seed."""
    given, options = dataclasses.asdict(options), options.resolved()
    dataset = digits()
    images = jnp.asarray(dataset.inputs[..., 0] / GREY_LEVELS)
    labels = jnp.asarray(dataset.targets)
    parts = {name: (images[part], labels[part]) for name, part in dataset.splits.items()}
    train_images, train_labels = parts["train"]
    tokens = np.asarray(to_tokens(train_images, options.width))
    plan = Plan(options.seeds, options.epochs, options.batch_size)
    for kind, pooler in itertools.product(options.kinds, options.poolers):
        started = time.perf_counter()
        block = blocks.TBM(options.num_heads, pooling.from_name(pooler), KINDS[kind])
        module = HeadModule(block, dataset.num_classes)
        ways, tried = chosen(module, tokens, train_labels, parts["validation"], options)
        params = train(module, tokens, train_labels, ways, plan)
        of_seeds = jax.vmap(constants(module, parts["validation"], parts["test"], options))
        measured = jax.jit(jax.vmap(of_seeds, in_axes=(0, None)))(params, jnp.arange(options.seeds))
        values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), measured)
        for index, (name, way) in enumerate(zip(options.ways, ways, strict=True)):
            found = [
                radii(module, at(params, index, seed), parts["test"], seed, options)
                for seed in range(options.seeds)
            ]
            yield {
                "kind": "regularize",
                "dataset": dataset.name,
                "pooler": pooler,
                "attention": kind,
                "way": name,
                **described(way),
                "tried": tried[index],
                **{field: value[index].tolist() for field, value in values.items()},
                **{field: [one[field] for one in found] for field in found[0]},
                "options": given,
                "wall_s": round(time.perf_counter() - started, 3),
                **environment(),
            }


def main() -> None:
    """Train, measure, print and record."""
    # Batched SVDs wait inside XLA's CPU threads for others of them: as many SVDs as threads never end.
    os.environ.setdefault("PJRT_NPROC", "32")
    options = tyro.cli(Options)
    records = []
    try:
        for record in run(options):
            records.append(record)
            if options.out is not None:
                folder = pathlib.Path(options.out)
                folder.mkdir(parents=True, exist_ok=True)
                Records([record]).write_to(folder / "regularize.jsonl")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.json:
        print("\n".join(json.dumps(record) for record in records))
    else:
        print(regularized_table(records))


if __name__ == "__main__":
    main()

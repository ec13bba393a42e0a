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

All ways and seeds of one attention train in one compiled step. Test accuracy stands beside the constant
that is measured (at test images, and by adversarial search among all images), the bound, the radius
that it certifies, and for the first test images what ``bounds.certify`` certifies by bounds on balls
around them, and what an attack finds. Lengths are Euclidean, in grey levels of the 17 that a pixel has;
constants are per unit of the whole range.

Duration (estimate, one CPU core): twenty minutes.
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
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import regularize_records  # noqa: F401, declares the kind of what is written
import tyro
from regularize_training import PATCH, REACH, Plan, Way, log_lipschitz, to_tokens, train

from poolax import attention, blocks, bounds, empirical, measure, pooling
from poolax.cli import check_choice, check_count
from poolax.data import digits
from poolax.records import Records, environment
from poolax.reporting import regularized_table
from poolax.training import HeadModule

GREY_LEVELS = 16
NUM_TOKENS = (8 // PATCH) ** 2
CERTIFIED_LEVELS = 0.5
KINDS = {
    "dot": attention.DotProduct(),
    "l2": attention.L2(),
    "cosine": attention.Cosine(tau=1.0, nu=1.0, eps=0.01),
}
WAYS = ("plain", "penalised", "capped", "margin")


@dataclasses.dataclass(frozen=True)
class Options:
    """Training for certificates, on handwritten digits.

    Attributes:
        poolers: Names of the poolers; a fixed one has a bound.
        kinds: Kinds of attention.
        ways: Ways of training.
        strength: Weight of log L in the loss; compare strengths by validation accuracy, as all that
            follows.
        cap: Largest singular value of the block's kernels, and largest scale of its norms.
        margin: Length of changes, in grey levels, that the margin is for.
        seeds: Models of each way.
        epochs: Passes over the training images.
        learning_rate: Of Adam.
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
    strength: float = 0.02
    cap: float = 2.0
    margin: float = 1.0
    seeds: int = 2
    epochs: int = 60
    learning_rate: float = 1e-2
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
        for name in ("strength", "cap", "margin"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)}")
        for field, choices in (("kinds", tuple(KINDS)), ("ways", WAYS)):
            for name in getattr(self, field):
                check_choice(field, name, choices)
        if not self.quick:
            return self
        small = {"seeds": 1, "epochs": 5, "num_inputs": 4, "search_restarts": 1, "search_steps": 10}
        return dataclasses.replace(self, **small, kinds=self.kinds[:1], attack_steps=10)


def way_of(name: str, options: Options) -> Way:
    """What is asked of training by the name of its way."""
    return Way(
        strength=options.strength if name == "penalised" else 0.0,
        cap=options.cap if name in ("capped", "margin") else math.inf,
        margin=options.margin / GREY_LEVELS if name == "margin" else 0.0,
    )


def at(params, way: int, seed: int):
    """The parameters of one of the models that are trained together."""
    return jax.tree.map(lambda leaf: leaf[way, seed], params)


def radii(module: HeadModule, params, test, seed: int, options: Options) -> dict[str, list]:
    """Certified and attacked radii of the first test images, in grey levels."""
    images, labels = (part[: options.num_inputs] for part in test)
    tokens = to_tokens(images, options.width)
    variables = {"params": {**params["pooler"], "output": params["output"]}}

    def logits(image, _=None):
        return module.apply({"params": params}, to_tokens(image, options.width))

    certificate = bounds.certify(module.pooler, variables, tokens, labels)
    by_constant = radii_by_constant(module, params, logits(images), labels)
    certificate = dataclasses.replace(certificate, radius=jnp.maximum(certificate.radius, by_constant))
    # Pixels move, codes of positions do not; that images stay images is asked of neither side.
    attacked = measure.attacked(
        certificate, logits, images, jax.random.key(seed), steps=options.attack_steps, restarts=1
    )
    levels = {
        "certified": GREY_LEVELS * np.asarray(attacked.radius, np.float64),
        "attacked": GREY_LEVELS * np.asarray(attacked.attacked, np.float64),
    }
    return {
        name: [float(one) if np.isfinite(one) else None for one in of] for name, of in levels.items()
    }


def radii_by_constant(module: HeadModule, params, logits, labels):
    """What the bound of the whole domain certifies."""
    constant = jnp.exp(log_lipschitz(module, params, NUM_TOKENS))
    return jnp.minimum(bounds.certified_radius(logits, labels, constant), REACH)


def constants(module: HeadModule, validation, test, options: Options) -> Callable:
    """A function of one model's parameters and seed: accuracy, constants, and what they certify."""
    images, labels = test

    def of_model(params, seed):
        def logits(image):
            return module.apply({"params": params}, to_tokens(image, options.width))

        outputs = logits(images)
        inputs = images[: options.num_inputs]
        local = jax.lax.map(lambda image: empirical.jacobian_norm(logits, image), inputs)
        found = empirical.maximize_jacobian_norm(
            logits,
            inputs[jnp.argmax(local)],
            project=empirical.project_to_cube(1.0),
            key=jax.random.key(seed),
            num_restarts=options.search_restarts,
            num_steps=options.search_steps,
        )
        by_constant = GREY_LEVELS * radii_by_constant(module, params, outputs, labels)
        return {
            "accuracy": jnp.mean(jnp.argmax(outputs, axis=-1) == labels),
            "validation_accuracy": jnp.mean(
                jnp.argmax(logits(validation[0]), axis=-1) == validation[1]
            ),
            "measured_real": jnp.max(local),
            "measured_adversarial": found.value,
            "sharp": jnp.exp(log_lipschitz(module, params, NUM_TOKENS)),
            "median_radius": jnp.median(by_constant),
            "share_certified": jnp.mean(by_constant > CERTIFIED_LEVELS),
        }

    return of_model


def run(options: Options) -> list[dict[str, object]]:
    """One record for each pooler, kind of attention and way, with a value for each seed."""
    given, options = dataclasses.asdict(options), options.resolved()
    dataset = digits()
    images = jnp.asarray(dataset.inputs[..., 0] / GREY_LEVELS)
    labels = jnp.asarray(dataset.targets)
    parts = {name: (images[part], labels[part]) for name, part in dataset.splits.items()}
    train_images, train_labels = parts["train"]
    tokens = np.asarray(to_tokens(train_images, options.width))
    ways = [way_of(name, options) for name in options.ways]
    plan = Plan(options.seeds, options.epochs, options.batch_size, options.learning_rate)
    records = []
    for kind, pooler in itertools.product(options.kinds, options.poolers):
        started = time.perf_counter()
        block = blocks.TBM(options.num_heads, pooling.from_name(pooler), KINDS[kind])
        module = HeadModule(block, dataset.num_classes)
        params = train(module, tokens, train_labels, ways, plan)
        of_seeds = jax.vmap(constants(module, parts["validation"], parts["test"], options))
        measured = jax.jit(jax.vmap(of_seeds, in_axes=(0, None)))(params, jnp.arange(options.seeds))
        values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), measured)
        for index, (name, way) in enumerate(zip(options.ways, ways, strict=True)):
            found = [
                radii(module, at(params, index, seed), parts["test"], seed, options)
                for seed in range(options.seeds)
            ]
            records.append(
                {
                    "kind": "regularize",
                    "dataset": dataset.name,
                    "pooler": pooler,
                    "attention": kind,
                    "way": name,
                    "strength": way.strength,
                    "cap": way.cap if math.isfinite(way.cap) else None,
                    "margin": GREY_LEVELS * way.margin,
                    **{field: value[index].tolist() for field, value in values.items()},
                    **{field: [one[field] for one in found] for field in found[0]},
                    "options": given,
                    "wall_s": round(time.perf_counter() - started, 3),
                    **environment(),
                }
            )
    return records


def main() -> None:
    """Train, measure, print and record."""
    # Batched SVDs wait inside XLA's CPU threads for others of them: as many SVDs as threads never end.
    os.environ.setdefault("PJRT_NPROC", "32")
    options = tyro.cli(Options)
    try:
        records = run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.out is not None:
        folder = pathlib.Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        Records(records).write_to(folder / "regularize.jsonl")
    if options.json:
        print("\n".join(json.dumps(record) for record in records))
    else:
        print(regularized_table(records))


if __name__ == "__main__":
    main()

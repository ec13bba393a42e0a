"""A Lipschitz bound as a regulariser: its gradient makes a pooled block robust, at what price?

    python experiments/examples/regularize.py --out regularize

One pooled block and a linear head learn scikit-learn's handwritten digits, with the loss

    cross entropy + strength * log L,    L = L(block) |W_head|

for strengths 0 and ``--strength``, where ``L`` is the sharp bound of ``bounds.tbm`` times the head's
spectral norm. All seeds of both train in one compiled step. The table sets test accuracy beside the
constant that is measured (at test images, and by adversarial search among all images), the bound, and
the radius within which the bound certifies the class. Lengths are Euclidean, in grey levels of the 17
that a pixel has; constants are per unit of the whole range.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("regularize")

import dataclasses
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float

from poolax import attention, blocks, bounds, empirical, pooling
from poolax.data import digits
from poolax.records import Records, environment, record_kind
from poolax.reporting import regularized_table
from poolax.training import HeadModule

GREY_LEVELS = 16
CERTIFIED_LEVELS = 0.5
PATCH = 2
KINDS = {
    "l2": attention.L2(),
    "cosine": attention.Cosine(tau=1.0, nu=1.0, eps=0.01),
    "dot": attention.DotProduct(),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """A Lipschitz bound as a regulariser, on handwritten digits.

    Attributes:
        poolers: Names of the poolers; a fixed one has a bound.
        attention: Kind of attention.
        strength: Weight of log L in the loss, beside 0; compare strengths by validation accuracy.
        seeds: Models of each strength.
        epochs: Passes over the training images.
        learning_rate: Of Adam.
        batch_size: Images a step.
        width: Width of a token: its four pixels, its position, and zeros.
        num_heads: Attention heads.
        num_inputs: Test images whose Jacobian is measured.
        search_restarts: Restarts of the adversarial search.
        search_steps: Steps of each restart.
        out: Folder to which records are appended; nothing is written by default.
        json: Print records instead of a table.
    """

    poolers: tuple[str, ...] = ("avg",)
    attention: Literal["l2", "cosine", "dot"] = "l2"
    strength: float = 0.02
    seeds: int = 5
    epochs: int = 60
    learning_rate: float = 3e-3
    batch_size: int = 64
    width: int = 32
    num_heads: int = 4
    num_inputs: int = 64
    search_restarts: int = 4
    search_steps: int = 50
    out: str | None = None
    json: bool = False


@record_kind("regularize")
class Regularized(TypedDict):
    """One pooler and strength, with a number for each seed."""

    pooler: str
    strength: float
    accuracy: list[float]
    measured_real: list[float]
    measured_adversarial: list[float]
    sharp: list[float]


def to_tokens(images: Float[Array, "*batch 8 8"], width: int) -> Float[Array, "*batch n d"]:
    """Patches beside a code of their position: distances of images are distances of tokens."""
    *batch, size, _ = images.shape
    side = size // PATCH
    patches = images.reshape(*batch, side, PATCH, side, PATCH)
    patches = jnp.swapaxes(patches, -3, -2).reshape(*batch, side**2, PATCH**2)
    positions = jnp.broadcast_to(jnp.eye(side**2), (*batch, side**2, side**2))
    tokens = jnp.concatenate([patches, positions], axis=-1)
    return jnp.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, width - tokens.shape[-1])])


def domain_of_images() -> bounds.Domain:
    """The domain of all images with pixels from 0 to 1, certified images and their neighbours alike."""
    return bounds.Domain(radius=(PATCH**2 + 1) ** 0.5, spread=(PATCH**2 + 2) ** 0.5 / 2)


def log_lipschitz(module: HeadModule, params, num_tokens: int) -> Float[Array, ""]:
    """Logarithm of the bound of the map from images to logits."""
    domain = domain_of_images()
    block = bounds.tbm(
        module.pooler,
        {"params": params["pooler"]},
        num_tokens=num_tokens,
        radius=domain.radius,
        spread=domain.spread,
    )
    return block.log_lipschitz + jnp.log(bounds.spectral_norm(params["output"]["kernel"]))


def train(module: HeadModule, tokens, labels, strengths: tuple[float, ...], options: Options):
    """Parameters with leading axes (strength, seed), all trained at once."""
    tokens, labels = jnp.asarray(tokens), jnp.asarray(labels)
    batch_size = min(options.batch_size, len(tokens))
    optimizer = optax.adam(options.learning_rate)

    def loss(params, indices, strength):
        logits = module.apply({"params": params}, tokens[indices])
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels[indices])
        return jnp.mean(errors) + strength * log_lipschitz(module, params, tokens.shape[1])

    def step(state, indices, strength):
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, indices, strength), opt_state)
        return optax.apply_updates(params, updates), opt_state

    def of_seed(seed, strength):
        init_key, order_key = jax.random.split(jax.random.key(seed))
        params = module.init(init_key, tokens[:1])["params"]

        def epoch(state, key):
            order = jax.random.permutation(key, len(tokens))
            # A batch that is not full is left out; the next epoch has another order.
            num_steps = len(tokens) // batch_size
            batches = order[: num_steps * batch_size].reshape(num_steps, batch_size)
            return jax.lax.scan(
                lambda state, batch: (step(state, batch, strength), None), state, batches
            )

        keys = jax.random.split(order_key, options.epochs)
        (params, _), _ = jax.lax.scan(epoch, (params, optimizer.init(params)), keys)
        return params

    of_seeds = jax.vmap(of_seed, in_axes=(0, None))
    of_all = jax.jit(jax.vmap(of_seeds, in_axes=(None, 0)))
    return of_all(jnp.arange(options.seeds), jnp.asarray(strengths))


def measure(module: HeadModule, validation, test, options: Options) -> Callable:
    """A function of one model's parameters and seed: accuracy, constants, and certified radii."""
    images, labels = test

    def of_model(params, seed):
        def logits(image):
            return module.apply({"params": params}, to_tokens(image, options.width))

        outputs = logits(images)
        num_tokens = to_tokens(images, options.width).shape[-2]
        constant = jnp.exp(log_lipschitz(module, params, num_tokens))
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
        radii = GREY_LEVELS * bounds.certified_radius(outputs, labels, constant)
        return {
            "accuracy": jnp.mean(jnp.argmax(outputs, axis=-1) == labels),
            "validation_accuracy": jnp.mean(
                jnp.argmax(logits(validation[0]), axis=-1) == validation[1]
            ),
            "measured_real": jnp.max(local),
            "measured_adversarial": found.value,
            "sharp": constant,
            "median_radius": jnp.median(radii),
            "share_certified": jnp.mean(radii > CERTIFIED_LEVELS),
        }

    return of_model


def run(options: Options) -> list[dict[str, object]]:
    """One record for each pooler and strength, with a value for each seed."""
    least = {"seeds": 1, "epochs": 1, "batch_size": 1, "num_inputs": 1}
    least["width"] = (8 // PATCH) ** 2 + PATCH**2
    for name, low in least.items():
        if getattr(options, name) < low:
            got = getattr(options, name)
            raise ValueError(f"{name}: expected a whole number >= {low}, got {got}")
    if not 0 < options.strength < math.inf:
        raise ValueError(f"strength: expected a number > 0, got {options.strength}")
    dataset = digits()
    images = jnp.asarray(dataset.inputs[..., 0] / GREY_LEVELS)
    labels = jnp.asarray(dataset.targets)
    parts = {name: (images[part], labels[part]) for name, part in dataset.splits.items()}
    train_images, train_labels = parts["train"]
    tokens = np.asarray(to_tokens(train_images, options.width))
    strengths = (0.0, options.strength)
    records = []
    for name in options.poolers:
        started = time.perf_counter()
        block = blocks.TBM(options.num_heads, pooling.from_name(name), KINDS[options.attention])
        module = HeadModule(block, dataset.num_classes)
        params = train(module, tokens, train_labels, strengths, options)
        of_seeds = jax.vmap(measure(module, parts["validation"], parts["test"], options))
        measured = jax.jit(jax.vmap(of_seeds, in_axes=(0, None)))(params, jnp.arange(options.seeds))
        values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), measured)
        for index, strength in enumerate(strengths):
            records.append(
                {
                    "kind": "regularize",
                    "dataset": dataset.name,
                    "pooler": name,
                    "strength": strength,
                    **{field: value[index].tolist() for field, value in values.items()},
                    "options": dataclasses.asdict(options),
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

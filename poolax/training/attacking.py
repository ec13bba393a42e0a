"""Attacks on heads through their frozen backbone: images, changed a little, that they get wrong."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from poolax._checks import check_choice, check_count, check_instance, check_number
from poolax._numerics import at_highest_precision
from poolax._programs import kept_program
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone, ImagePreprocess
from poolax.empirical import fgsm, jacobian_norm, pgd
from poolax.training._devices import Mapper
from poolax.training._engine.heads import Head
from poolax.training._states.prefixes import leave_out, prefix_of
from poolax.training.tasks import Classification

LOSSES = ("cross_entropy", "margin")
_RANGE = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class PixelAttack:
    """What an attack may do: change every pixel value by so much, within the range of pixels.

    Attributes:
        radius: Largest change of a value, in units of the range of pixels, which is from 0 to 1 before
            a model normalises them.
        steps: Steps of :func:`poolax.empirical.pgd`; 0 for :func:`poolax.empirical.fgsm`, one to the
            edge.
        restarts: Walks of as many steps, see there.
        loss: What is climbed: ``"cross_entropy"`` of the label, as the paper's attack does, whose
            gradient vanishes where a head is very sure; or ``"margin"``, the largest other logit less
            the label's, whose does not, and which is above zero where the prediction is wrong.
    """

    radius: float
    steps: int = 0
    restarts: int = 1
    loss: str = "cross_entropy"

    def __post_init__(self):
        """Refuse numbers out of range."""
        check_number("radius", self.radius, at_least=0.0)
        check_count("steps", self.steps, at_least=0)
        check_count("restarts", self.restarts)
        check_choice("loss", self.loss, LOSSES)

    @property
    def name(self) -> str:
        """``"fgsm"`` or ``"pgd"``."""
        return "pgd" if self.steps else "fgsm"


@dataclasses.dataclass(frozen=True)
class AttackedHead:
    """What becomes of a head's predictions.

    Attributes:
        clean: Whether each image is predicted as its label says.
        attacked: The same of each image as each attack leaves it.
        clean_loss: Cross-entropy at each image.
        attacked_loss: The same of each image as each attack leaves it.
        moved: Whether each attack changed each image: where it did not, no change that it tried raised
            its loss, or there was no gradient to follow.
        margin: By how much the label's logit is above the largest other one.
    """

    clean: Bool[np.ndarray, " N"]
    attacked: Bool[np.ndarray, "attacks N"]
    clean_loss: Float[np.ndarray, " N"]
    attacked_loss: Float[np.ndarray, "attacks N"]
    moved: Bool[np.ndarray, "attacks N"]
    margin: Float[np.ndarray, " N"]


def attack_head(
    backbone: Backbone,
    head: Head,
    images: Float[np.ndarray, "N h w c"] | Int[np.ndarray, "N h w c"],
    labels: Int[np.ndarray, " N"],
    attacks: Sequence[PixelAttack],
    *,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = no_progress,
    description: str = "attacks",
) -> AttackedHead:
    """Attack a classification through head and backbone, in the space of pixels.

    Many images are attacked at a time, in one program for all heads of one structure, batches split
    over the devices; each image has a random key of its own, so that neither batches nor devices change
    what is found.

    Args:
        backbone: The backbone that the head was trained on, with an :class:`ImagePreprocess`.
        head: The head of a classification.
        images: Raw images of one size, as the backbone's ``preprocess`` takes them.
        labels: Their classes.
        attacks: What to try.
        seed: Sets the random starts.
        batch_size: Images at a time over the local devices.
        progress: Called with the description, the number done and the total.
        description: For ``progress``.

    Returns:
        Which images are right, before and after.

    Raises:
        ValueError: for a backbone that does not say what a white pixel is, a head of another task,
            images outside the range of pixels, or labels that do not fit.

    Example:
        >>> from poolax.backbones import ViT, ViTConfig
        >>> from poolax.training import Classification, head_directory, load_head, sweep
        >>> from poolax.data import digits
        >>> import tempfile
        >>> config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit = ViT.init(config, jax.random.key(0), preprocess=ImagePreprocess(scale=1 / 16))
        >>> data = digits().subset(40)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     [row] = sweep(
        ...         vit, data, Classification(10), poolers=["avg"], seeds=1, epochs=1, out=out
        ...     )
        ...     head = load_head(head_directory(out, row))
        >>> test = data.splits["test"]
        >>> found = attack_head(vit, head, data.inputs[test], data.targets[test], [PixelAttack(0.1)])
        >>> found.attacked.shape, bool((found.attacked_loss >= found.clean_loss).all())
        ((1, 40), True)
    """
    pixels = _pixels(backbone, images)
    labels = np.asarray(labels)
    num_outputs = _num_classes(head)
    if labels.shape != pixels.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(pixels)} images, got {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_outputs:
        raise ValueError(
            f"labels: expected classes from 0 to {num_outputs - 1}, got {labels.min()} to "
            f"{labels.max()}"
        )
    if not attacks:
        raise ValueError("attacks: expected at least one, got none")
    check_count("batch_size", batch_size)
    structure = _structure(backbone, head)
    program = _attack_program((), *structure, tuple(attacks), min(batch_size, len(pixels)))
    shared = {
        "params": backbone.params,
        "variables": head.variables,
        "key": jax.random.key_data(jax.random.key(seed)),
    }
    batch = {"pixels": pixels, "labels": labels, "examples": np.arange(len(pixels))}
    found = program(shared, batch, progress, description)
    return AttackedHead(
        clean=found["right"][:, 0],
        attacked=found["right"][:, 1:].T,
        clean_loss=found["loss"][:, 0],
        attacked_loss=found["loss"][:, 1:].T,
        moved=found["moved"].T,
        margin=found["margin"],
    )


def pixel_norms(
    backbone: Backbone,
    head: Head,
    images: Float[np.ndarray, "N h w c"] | Int[np.ndarray, "N h w c"],
    *,
    batch_size: int = 8,
    progress: Progress = no_progress,
) -> Float[np.ndarray, " N"]:
    """Norm of the Jacobian of a head's logits by the pixels, from 0 to 1, at each image.

    Args:
        backbone: As for :func:`attack_head`.
        head: As there.
        images: As there.
        batch_size: Images at a time over the local devices.
        progress: Called with a description, the number done and the total.

    Returns:
        The norms: local Lipschitz constants in the Euclidean norms of pixels and of logits.

    Raises:
        ValueError: as :func:`attack_head` raises.
    """
    pixels = _pixels(backbone, images)
    _num_classes(head)
    check_count("batch_size", batch_size)
    program = _norm_program((), *_structure(backbone, head), min(batch_size, len(pixels)))
    shared = {"params": backbone.params, "variables": head.variables}
    return program(shared, {"pixels": pixels}, progress, "norms")["norm"]


def _pixels(backbone, images):
    """Images in the range of pixels, which an attack and its budget are told in."""
    check_instance("backbone", backbone, Backbone, "a Backbone")
    prepare = backbone.preprocessing
    if not isinstance(prepare, ImagePreprocess):
        kind = type(prepare).__name__
        raise ValueError(f"backbone: expected one with an ImagePreprocess, got {kind}")
    images = np.asarray(images)
    if not images.size:
        raise ValueError("images: expected at least one, got none")
    if images.ndim != 4:
        raise ValueError(f"images: expected shape (N, h, w, c), got {images.shape}")
    pixels = images.astype(np.float64) * prepare.scale
    if not (pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6):
        white = 1 / prepare.scale
        raise ValueError(
            f"images: expected values from 0 to {white:g}, got {images.min()} to {images.max()}"
        )
    return np.clip(pixels, *_RANGE).astype(np.float32)


def _num_classes(head):
    check_instance("head", head, Head, "a Head")
    if head.config.get("task", Classification.name) != Classification.name or head.joins_parts:
        raise ValueError(f"head: expected one of a classification, got {head.config.get('task')}")
    return head.config["num_outputs"]


def _structure(backbone, head):
    """What a program depends on beside weights: the rest may be of many heads."""
    prepare = dataclasses.replace(backbone.preprocessing, scale=1.0, geometry=None)
    bare = dataclasses.replace(backbone, params=None, preprocess=prepare)
    include = head.config.get("include_prefix", True)
    skipped = prefix_of(head.pooler, backbone.num_prefix, include_prefix=include)
    return bare, head.pooler, head.config["num_outputs"], head.layer, skipped


def _logits(backbone, pooler, num_outputs, layer, skipped, shared, pixels):
    """Logits of one image."""
    inputs, _ = backbone.prepare(pixels[None])
    tokens = backbone.apply(shared["params"], inputs, layer=layer)
    states, mask = leave_out(tokens.states, tokens.mask, skipped)
    head = Head(pooler, shared["variables"], {"num_outputs": num_outputs})
    return head.predict(states, mask)[0].astype(jnp.float32)


def _cross_entropy(logits, label):
    return -jax.nn.log_softmax(logits)[label]


def _margin(logits, label):
    return logits[label] - jnp.max(jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits))


def _attacked(logits_of, attacks, shared, batch):
    """Right or wrong, loss and margin of a batch, first as it is and then by each attack."""
    key = jax.random.wrap_key_data(shared["key"])

    def of_image(pixels, label, example) -> Any:
        losses = {
            "cross_entropy": lambda x: _cross_entropy(logits_of(shared, x), label),
            "margin": lambda x: -_margin(logits_of(shared, x), label),
        }

        def attack(given):
            loss, about = losses[given.loss], {"radius": given.radius, "clip": _RANGE}
            if not given.steps:
                return fgsm(loss, pixels, **about).x
            own = jax.random.fold_in(key, example)
            return pgd(loss, pixels, own, steps=given.steps, restarts=given.restarts, **about).x

        points = jnp.stack([pixels, *map(attack, attacks)])
        logits = jax.lax.map(functools.partial(logits_of, shared), points)
        return {
            "right": jnp.argmax(logits, axis=-1) == label,
            "loss": jax.vmap(_cross_entropy, in_axes=(0, None))(logits, label),
            "moved": jnp.any(points[1:] != pixels, axis=(1, 2, 3)),
            "margin": _margin(logits[0], label),
        }

    return jax.vmap(of_image)(batch["pixels"], batch["labels"], batch["examples"])


@kept_program
def _attack_program(backbone, pooler, num_outputs, layer, skipped, attacks, batch_size):
    logits_of = functools.partial(_logits, backbone, pooler, num_outputs, layer, skipped)
    return Mapper(at_highest_precision(functools.partial(_attacked, logits_of, attacks)), batch_size)


@kept_program
def _norm_program(backbone, pooler, num_outputs, layer, skipped, batch_size):
    logits_of = functools.partial(_logits, backbone, pooler, num_outputs, layer, skipped)

    def norms(shared, batch):
        def norm(pixels):
            # Logits are few: one pass backwards for each.
            return jacobian_norm(lambda x: logits_of(shared, x), pixels, mode="reverse")

        return {"norm": jax.vmap(norm)(batch["pixels"])}

    return Mapper(norms, batch_size)

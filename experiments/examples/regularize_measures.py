"""What is measured of trained blocks: accuracy, constants, and what they certify."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from regularize_training import NUM_TOKENS, REACH, log_lipschitz, to_tokens

from poolax import bounds, empirical, measure
from poolax.training import HeadModule

GREY_LEVELS = 16
CERTIFIED_LEVELS = 0.5


def radii(module: HeadModule, params, test, seed: int, options: Any) -> dict[str, list]:
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


def constants(module: HeadModule, validation, test, options: Any) -> Callable:
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

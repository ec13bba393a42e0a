"""Slopes of activations."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from poolax import _activations
from poolax.bounds._no_bound import NoBoundError

# Largest slopes c, rounded up: at sqrt(2) for exact GELU, near 1.42 and 2.40 for the next two. Since
# act(t) - act(-t) = t for those that are not monotone, their smallest slopes are 1 - c, as for the
# others.
ACTIVATIONS = {
    "relu": 1.0,
    "tanh": 1.0,
    "gelu (exact)": 1.1289042,
    "gelu (tanh)": 1.1289931,
    "silu": 1.0998394,
    "quick gelu": 1.0998394,  # silu with the argument and the value on another scale
}


def activation_lipschitz(activation) -> float:
    """Lipschitz constant of an activation with ``act(0) = 0``; unknown ones raise."""
    name = activation_name(activation)
    if name not in ACTIVATIONS:
        raise NoBoundError(
            f"activation: expected one whose Lipschitz constant is known "
            f"({', '.join(ACTIVATIONS)}), got {activation!r}"
        )
    return ACTIVATIONS[name]


def activation_name(activation):
    options = {}
    if isinstance(activation, functools.partial) and not activation.args:
        activation, options = activation.func, activation.keywords
    if activation in (nn.gelu, jax.nn.gelu) and set(options) <= {"approximate"}:
        return "gelu (tanh)" if options.get("approximate", True) else "gelu (exact)"
    if options:
        return None
    known = {
        "gelu (exact)": (_activations.gelu,),
        "gelu (tanh)": (_activations.gelu_tanh,),
        "quick gelu": (_activations.quick_gelu,),
        "relu": (nn.relu, jax.nn.relu),
        "tanh": (nn.tanh, jnp.tanh),
        "silu": (nn.silu, nn.swish, jax.nn.silu, jax.nn.swish),
    }
    return next((name for name, functions in known.items() if activation in functions), None)

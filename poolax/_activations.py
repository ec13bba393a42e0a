"""Activations of pretrained models, by the names that their configurations use."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import check_choice


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Exact GELU, ``x Phi(x)``; by erf, which costs half as much as ``jax.nn.gelu``'s erfc."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU with ``tanh`` in place of erf, as GPT-2 and T5 have it."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU with a logistic function in place of erf, ``x / (1 + exp(-1.702 x))``."""
    return x * jax.nn.sigmoid(1.702 * x)


relu = jax.nn.relu
silu = jax.nn.silu
tanh = jnp.tanh

_BY_NAME: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": silu,
    "swish": silu,
    "tanh": tanh,
}


def activation_from_name(name: str, field: str = "activation") -> Callable[[Array], Array]:
    """The activation that a configuration's ``field`` names."""
    check_choice(field, name, _BY_NAME)
    return _BY_NAME[name]

"""Projections to the domains that bounds hold on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from poolax._checks import check_number, is_concrete
from poolax._numerics import safe_norm

Projection = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def project_to_ball(radius: float) -> Projection:
    """Projection of each token, a row of the last axis, to the ball of the given radius.

    ``x_i -> x_i min(1, radius / |x_i|)``.

    Args:
        radius: At least 0.

    Returns:
        The projection of tokens ``(*batch, n, d)``, for :func:`maximize_jacobian_norm`.

    Raises:
        ValueError: if ``radius`` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> project_to_ball(1.0)(jnp.array([[3.0, 4.0], [0.0, 0.5]]))
        Array([[0.6, 0.8],
               [0. , 0.5]], dtype=float32)

    Reference:
        Theory, sections 1.2 and 10.3.
    """
    return _Ball(_number("radius", radius))


@dataclasses.dataclass(frozen=True)
class _Ball:
    radius: Any

    def __call__(self, x):
        norm = safe_norm(x, axis=-1)[..., None]
        return x * jnp.minimum(1, self.radius / jnp.where(norm > 0, norm, 1))


def project_to_cube(high: float) -> Projection:
    """Projection of each entry to the interval from 0 to ``high``.

    ``x_ij -> min(max(x_ij, 0), high)``.

    Args:
        high: At least 0.

    Returns:
        The projection of arrays of any shape, for :func:`maximize_jacobian_norm`.

    Raises:
        ValueError: if ``high`` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> project_to_cube(1.0)(jnp.array([-1.0, 0.5, 2.0]))
        Array([0. , 0.5, 1. ], dtype=float32)

    Reference:
        The cube of "Pool Me Wisely" (Ennadir et al., NeurIPS 2025); Theory, sections 1.2 and 10.3.
    """
    return _Interval(0, _number("high", high))


@dataclasses.dataclass(frozen=True)
class _Interval:
    low: Any
    high: Any

    def __call__(self, x):
        return jnp.clip(x, self.low, self.high)


def project_to_box(radius: float) -> Projection:
    """Projection of each entry to the interval from ``-radius`` to ``radius``.

    ``x_ij -> min(max(x_ij, -radius), radius)``: the ball of the largest entry.

    Args:
        radius: At least 0.

    Returns:
        The projection of arrays of any shape, for :func:`pgd`.

    Raises:
        ValueError: if ``radius`` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> project_to_box(1.0)(jnp.array([-3.0, 0.5, 2.0]))
        Array([-1. ,  0.5,  1. ], dtype=float32)
    """
    checked = _number("radius", radius)
    return _Interval(-checked, checked)


def project_to_frobenius_ball(radius: float) -> Projection:
    """Projection of all entries together to the ball of the given radius.

    ``x -> x min(1, radius / |x|)``, in the Frobenius norm.

    Args:
        radius: At least 0.

    Returns:
        The projection of arrays of any shape, for :func:`pgd`.

    Raises:
        ValueError: if ``radius`` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> project_to_frobenius_ball(1.0)(jnp.array([[3.0], [4.0]]))
        Array([[0.6],
               [0.8]], dtype=float32)
    """
    return _FrobeniusBall(_number("radius", radius))


@dataclasses.dataclass(frozen=True)
class _FrobeniusBall:
    radius: Any

    def __call__(self, x):
        norm = safe_norm(x)
        return x * jnp.minimum(1, self.radius / jnp.where(norm > 0, norm, 1))


def project_to_domain(radius: float, spread: float) -> Projection:
    """Map to the domain of the bounds: ``|x_i| <= radius`` and ``|x_i - x_j| <= 2 spread``.

    Tokens outside the ball of the radius go to its surface. If two of the sequence are then too far
    apart, all tokens shrink towards their mean until the farthest two are ``2 spread`` apart; as means
    of tokens of the ball they stay in it. What lies in the domain stays as it is; for what does not,
    the result is in the domain but need not be the nearest point of it.

    Args:
        radius: Largest token norm, at least 0.
        spread: Half of the largest distance between two tokens of a sequence, at least 0.

    Returns:
        The map of tokens ``(*batch, n, d)``, for :func:`maximize_jacobian_norm`.

    Raises:
        ValueError: if a number is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> project_to_domain(5.0, 2.0)(jnp.array([[5.0, 0.0], [0.0, 0.0]])).round(3)
        Array([[4.5, 0. ],
               [0.5, 0. ]], dtype=float32)

    Reference:
        Theory, sections 1.2 and 10.3; this library's own.
    """
    return _Domain(_number("radius", radius), _number("spread", spread))


@dataclasses.dataclass(frozen=True)
class _Domain:
    radius: Any
    spread: Any

    def __call__(self, x):
        x = _Ball(self.radius)(x)
        mean = jnp.mean(x, axis=-2, keepdims=True)
        from_mean = x - mean
        diameter = _diameter(from_mean)[..., None, None]
        # More than rounding adds to the farthest distance.
        limit = 2 * self.spread * (1 - 32 * jnp.finfo(x.dtype).eps)
        shrunk = mean + from_mean * (limit / jnp.where(diameter > 0, diameter, 1))
        return jnp.where(diameter > 2 * self.spread, shrunk, x)


def _number(name, value):
    """The number itself where it is known, so that equal projections are equal, and one program."""
    check_number(name, value, at_least=0.0)
    return float(value) if is_concrete(value) else value


def _diameter(from_mean: Float[Array, "*batch n d"]) -> Float[Array, "*batch"]:
    """Largest distance between two tokens, whose mean is zero.

    No token is farther from the mean than from the token farthest from it, so that the differences of
    squares, which a product of matrices gives, lose few digits where it counts.
    """
    largest = jnp.max(jnp.abs(from_mean), axis=(-2, -1), keepdims=True)
    scaled = from_mean / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(jnp.square(scaled), axis=-1)
    product = jnp.einsum("...id,...jd->...ij", scaled, scaled, precision="highest")
    distance = square[..., :, None] + square[..., None, :] - 2 * product
    farthest = jnp.sqrt(jnp.maximum(jnp.max(distance, axis=(-2, -1)), 0))
    return largest[..., 0, 0] * farthest

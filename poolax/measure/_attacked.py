"""Changes that alter a class, beside a certificate that smaller ones do not."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from poolax import bounds, empirical
from poolax._checks import broadcast_mask, check_count, check_instance, check_tokens
from poolax._geometry import dual_size

_PROJECTIONS = {
    "frobenius": empirical.project_to_frobenius_ball,
    "tokens": empirical.project_to_ball,
}
# Radii of attacks, from the certified one on, and halvings of the way back to the input.
_GROWTH, _RADII, _HALVINGS = 1.3, 12, 30


def attacked(
    certificate: bounds.Certificate,
    logits: Callable[..., Float[Array, " k"]],
    x: Float[ArrayLike, "*batch n d"],
    key: jax.Array,
    *,
    mask: Bool[ArrayLike, "*#batch n"] | None = None,
    steps: int = 40,
    restarts: int = 4,
) -> bounds.Certificate:
    """Look for the smallest change that alters the class, so that the truth lies between two numbers.

    :func:`poolax.empirical.pgd` climbs the lead of another class in balls that grow from the certified
    radius on, or from half of what is needed to first order, if that is more; what is found is followed
    back towards the input for as long as the class is another.

    Args:
        certificate: What :func:`poolax.bounds.certify` returned for ``x``.
        logits: The classifier, called with one sequence ``(n, d)`` and its mask ``(n,)``.
        x: The inputs, shape ``(*batch, n, d)``.
        key: Random key.
        mask: True at real tokens, which alone move; ``None`` if all are real.
        steps: Steps of each walk.
        restarts: Walks in each ball.

    Returns:
        The certificate with ``attacked``, the smallest norm found; infinite where nothing was.

    Raises:
        ValueError: for arguments of the wrong type or shape.

    Example:
        >>> from poolax import pooling
        >>> variables = {"params": {"output": {"kernel": jnp.array([[1.0, -1.0]])}}}
        >>> states = jnp.array([[[3.0], [1.0]]])
        >>> found = bounds.certify(pooling.AveragePool(), variables, states, jnp.array([0]))
        >>> def logits(z, mask):
        ...     return pooling.average_pool(z, mask) @ variables["params"]["output"]["kernel"]
        >>> found = attacked(found, logits, states, jax.random.key(0))
        >>> bool((found.radius <= found.attacked).all() & (found.attacked < 1.01 * found.radius).all())
        True
    """
    check_instance("certificate", certificate, bounds.Certificate, "a Certificate")
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_tokens("x", x)
    x = jnp.asarray(x)
    mask = broadcast_mask(mask, x.shape[:-1])
    real = jnp.ones(x.shape[:-1], bool) if mask is None else mask
    radius = jnp.asarray(certificate.radius)
    if radius.shape != x.shape[:-2]:
        raise ValueError(f"x: expected shape {(*radius.shape, 'n', 'd')}, got {x.shape}")
    options = {"steps": steps, "restarts": restarts, "project": _PROJECTIONS[certificate.geometry]}

    def norm(change):
        sizes = jnp.linalg.norm(change, axis=-1)
        return jnp.linalg.norm(sizes) if certificate.geometry == "frobenius" else jnp.max(sizes)

    @jax.jit
    def smallest(x, real, radius, label, key):
        def lead(z):
            outputs = logits(z, real)
            others = jnp.where(jnp.arange(outputs.shape[0]) == label, -jnp.inf, outputs)
            return jnp.max(others) - outputs[label]

        # Of deep models far less is certified than what could be needed to first order.
        outward = dual_size(certificate.geometry, jax.grad(lead)(x))
        needed = -lead(x) / jnp.where(outward > 0, outward, jnp.inf) / 2
        start = jnp.maximum(radius, jnp.where(jnp.isfinite(needed), needed, 0))
        start = jnp.where(jnp.isfinite(start) & (start > 0), start, 1)

        def at(number):
            size = start * _GROWTH**number
            step_key = jax.random.fold_in(key, number)
            change = empirical.pgd(lead, x, step_key, radius=size, mask=real, **options).x - x

            def halve(_, ends):
                low, high = ends
                middle = (low + high) / 2
                crossed = lead(x + middle * change) >= 0
                return jnp.where(crossed, low, middle), jnp.where(crossed, middle, high)

            share = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros(()), jnp.ones(())))[1]
            return jnp.where(lead(x + change) >= 0, share * norm(change), jnp.inf)

        found = jnp.min(jax.lax.map(at, jnp.arange(_RADII)))
        return jnp.where(lead(x) >= 0, 0, found)

    flat = (
        jnp.where(real[..., None], x, 0).reshape(-1, *x.shape[-2:]),
        real.reshape(-1, x.shape[-2]),
        radius.reshape(-1),
        jnp.asarray(certificate.labels).reshape(-1),
    )
    keys = jax.random.split(key, flat[2].shape[0])
    found = [smallest(*one) for one in zip(*flat, keys, strict=True)]
    return dataclasses.replace(certificate, attacked=jnp.stack(found).reshape(radius.shape))

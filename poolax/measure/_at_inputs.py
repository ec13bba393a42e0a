"""One-block models at inputs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from poolax import bounds, empirical
from poolax._checks import check_choice, check_tokens
from poolax._compilation import compile_quickly
from poolax._geometry import GEOMETRIES
from poolax._threads import on_one_thread
from poolax.blocks import TBM
from poolax.bounds import Domain
from poolax.measure._blocks import block_bounds
from poolax.measure._constants import constant_fields
from poolax.measure._methods import known


@struct.dataclass
class AtInputs:
    """Norms of Jacobians at inputs, and their bounds there.

    Attributes:
        measured: Norms, shape ``(N,)``.
        local: Bounds that hold at these inputs alone, shape ``(N,)``.
    """

    measured: Float[Array, " N"]
    local: Float[Array, " N"]


@on_one_thread
def block_at_inputs(
    model: TBM,
    variables: Mapping[str, Any],
    inputs: Float[Array, "N n d"],
    *,
    geometry: str = "frobenius",
) -> AtInputs:
    """Jacobian norms of a one-block model at inputs, and their local bounds.

    Frobenius norms are exact. Those of the largest token are hard to compute and what
    :func:`poolax.empirical.power_iteration` finds, from below.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        inputs: Token sequences, shape ``(N, n, d)``.
        geometry: Norm of changes of the tokens: ``"frobenius"``, or ``"tokens"`` for the largest norm
            of a token's change.

    Returns:
        Both, a number an input.

    Raises:
        ValueError: for inputs that are not ``(N, n, d)`` or not finite, or as
            :func:`poolax.bounds.local_tbm` raises.
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_tokens("inputs", inputs)
    if jnp.ndim(inputs) != 3:
        raise ValueError(f"inputs: expected shape (N, n, d), got {jnp.shape(inputs)}")

    def at_inputs(variables, inputs):
        def at(x):
            measured = _norm(lambda x: jnp.asarray(model.apply(variables, x)), x, geometry)
            return measured, bounds.local_tbm(model, variables, x, geometry=geometry).lipschitz

        return jax.lax.map(at, inputs)

    compiled = jax.jit(at_inputs, compiler_options=compile_quickly())
    return AtInputs(*compiled(variables, jnp.asarray(inputs)))


@on_one_thread
def block_local(
    model: TBM,
    variables: Mapping[str, Any],
    inputs: Float[Array, "N n d"],
    *,
    epsilon: float = 0.0,
    geometry: str = "frobenius",
) -> Float[Array, " N"] | None:
    """Bounds of a one-block model that hold at inputs alone, or on balls around them.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        inputs: Token sequences, shape ``(N, n, d)``.
        epsilon: Radius of the balls; 0 for the inputs alone.
        geometry: As for :func:`block_at_inputs`.

    Returns:
        A number an input; ``None`` for a pooler or activation without a bound on balls.

    Raises:
        ValueError: as :func:`poolax.bounds.local_tbm` raises.

    Example:
        >>> from poolax.pooling import AveragePool
        >>> model, inputs = TBM(2, AveragePool()), jnp.eye(4, 8)[None]
        >>> variables = model.init(jax.random.key(0), inputs)
        >>> at, around = (block_local(model, variables, inputs, epsilon=e) for e in (0.0, 0.1))
        >>> bool(at[0] <= around[0])
        True
    """
    inputs = jnp.asarray(inputs)

    def at(x):
        own = {"epsilon": epsilon, "geometry": geometry}
        return bounds.local_tbm(model, variables, x, **own).lipschitz

    # Its own programs, which other models share.
    return known(lambda: jnp.asarray([at(x) for x in inputs]))


def _norm(fn, x, geometry):
    if geometry == "frobenius":
        return empirical.jacobian_norm(fn, x)
    return empirical.power_iteration(fn, x, key=jax.random.key(0), geometry=geometry).value


def measure_block(
    model: TBM,
    variables: Mapping[str, Any],
    inputs: Float[Array, "N n d"],
    *,
    domain: Domain | None = None,
    geometry: str = "frobenius",
) -> dict[str, Any]:
    """Jacobian norms of a one-block model at inputs, their local bounds, and its other bounds.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        inputs: Token sequences, shape ``(N, n, d)``.
        domain: Where the bounds hold; ``None`` takes the smallest that holds the inputs.
        geometry: As for :func:`block_at_inputs`.

    Returns:
        ``measured`` and ``local``, a number an input, and the :func:`constant_fields` of
        :func:`block_bounds`, as a record of kind ``"lipschitz_at_inputs"`` holds them.

    Raises:
        ValueError: for inputs that are not ``(N, n, d)`` or not finite, or as the bounds raise.

    Example:
        >>> from poolax.pooling import AveragePool
        >>> model, inputs = TBM(2, AveragePool()), jnp.eye(4, 8)[None]
        >>> row = measure_block(model, model.init(jax.random.key(0), inputs), inputs)
        >>> row["measured"][0] <= row["local"][0]
        True
    """
    at = block_at_inputs(model, variables, inputs, geometry=geometry)
    domain = bounds.domain_of(inputs) if domain is None else domain
    row = {"measured": at.measured.tolist(), "local": at.local.tolist()}
    on_domain = block_bounds(model, variables, inputs.shape[1], domain, geometry=geometry)
    return row | constant_fields(on_domain)

"""Local bounds of backbones with poolers behind them: at inputs, and there alone."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax import bounds
from poolax._checks import is_concrete
from poolax._progress import Progress, no_progress
from poolax._threads import on_one_thread
from poolax.backbones import Backbone
from poolax.bounds import NoBoundError
from poolax.measure._methods import known
from poolax.pooling import FIXED_POOLERS, Pooler, from_name


@on_one_thread
def local_at_inputs(
    backbone: Backbone,
    embeddings: Float[Array, "N n d"],
    mask: Bool[Array, "N n"] | None = None,
    *,
    poolers: Sequence[str] = FIXED_POOLERS,
    epsilon: float = 0.0,
    geometry: str = "frobenius",
    progress: Progress = no_progress,
) -> list[list[float | None]]:
    """Local bounds from embeddings to pooled vectors, each at one input or on a ball around it.

    Args:
        backbone: The backbone.
        embeddings: What ``backbone.embed`` gives, shape ``(N, n, d)``.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        poolers: Names of poolers without parameters.
        epsilon: Radius of the balls; 0 for the inputs alone.
        geometry: Norm of changes of the embeddings: ``"frobenius"``, or ``"tokens"`` for the largest
            norm of a token's change.
        progress: Called with a description, the number done and the total.

    Returns:
        Decimal logarithms, a list for each pooler with a number for each input: ``log10_local`` of
        :func:`measure_backbone`. ``None`` where no local bound is known, as for windowed attention, or
        where the states at an input are beyond the precision.

    Raises:
        ValueError: as :func:`poolax.bounds.local_ledger` raises.
    """
    modules = [from_name(name) for name in poolers]
    own: Any = backbone
    bound = LocalBounds(own.replace(params=None), modules, geometry, epsilon)(
        backbone.params, embeddings, mask
    )
    found = []
    for at in range(len(embeddings)):
        progress("inputs", at, len(embeddings))
        found.append(known(bound, at) or [None] * len(modules))
    progress("inputs", len(embeddings), len(embeddings))
    return [list(logs) for logs in zip(*found, strict=True)]


class LocalBounds:
    """The programs of local bounds, which take the parameters of each backbone of one configuration.

    Args:
        backbone: Without parameters.
        poolers: Poolers without parameters.
        geometry: Norm of changes of the embeddings.
        epsilon: Radius of the balls around them.
    """

    def __init__(
        self,
        backbone: Backbone,
        poolers: Sequence[Pooler],
        geometry: str = "frobenius",
        epsilon: float = 0.0,
    ):
        self._local = _local(backbone, poolers, geometry, epsilon)
        self._num_poolers = len(poolers)

    def __call__(
        self, params: Any, embeddings: Float[Array, "N n d"], mask: Bool[Array, "N n"] | None
    ) -> Callable[[int], list[float | None]]:
        """What bounds the input of an index: a decimal logarithm for each pooler, or ``None``.

        It raises ``NoBoundError`` where states are beyond the precision.
        """

        def inputs(at):
            return params, embeddings[at], None if mask is None else mask[at]

        # Traced alone, it says whether a local bound is known before anything is computed.
        if known(jax.eval_shape, self._local, *inputs(0)) is None:
            return lambda at: [None] * self._num_poolers
        return lambda at: [log / math.log(10) for log in self._local(*inputs(at)).tolist()]


def _local(backbone, poolers, geometry, epsilon):
    """The logarithms of the local bounds by pooler; tracing it raises where none is known."""
    # Compiled by itself; the bound has programs of its own, one for all layers of one shape.
    encode = jax.jit(functools.partial(backbone.encode, return_weights=True))

    def local(params, x, mask):
        weights = encode(params, x, mask).weights
        concrete = [leaf for leaf in jax.tree.leaves(weights) if is_concrete(leaf)]
        if not all(jnp.isfinite(leaf).all() for leaf in concrete):
            raise NoBoundError("x: expected states that this precision holds")
        specs = backbone.layer_specs(params)

        options = {"poolers": poolers, "branches": False, "epsilon": epsilon, "geometry": geometry}
        tables = bounds.local_ledgers(specs, x, weights, mask, **options)
        return jnp.stack([table.log_lipschitz for table in tables])

    return local

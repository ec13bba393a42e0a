"""Backbones with poolers behind them, at inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax import empirical
from poolax._checks import check_tokens
from poolax._progress import Progress, no_progress
from poolax._threads import on_one_thread
from poolax.backbones import Backbone
from poolax.measure._constants import constant_fields
from poolax.measure._ledgers import (
    backbone_ledgers,
    embeddings_domain,
    pooled_ledgers,
    pooled_sizes,
)
from poolax.measure._local import LocalBounds
from poolax.pooling import FIXED_POOLERS, from_name


def measure_backbone(
    backbone: Backbone,
    embeddings: Float[Array, "N n d"],
    mask: Bool[Array, "N n"] | None = None,
    *,
    poolers: Sequence[str] = FIXED_POOLERS,
    key: jax.Array,
    geometry: str = "frobenius",
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """Jacobian norms from embeddings to pooled vectors at inputs, beside local, tight and sharp bounds.

    Args:
        backbone: The backbone.
        embeddings: What ``backbone.embed`` gives, shape ``(N, n, d)``.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        poolers: Names of poolers without parameters.
        key: Random key of the iteration: Lanczos's, or power iteration for ``geometry="tokens"``.
        geometry: Norm of changes of the embeddings: ``"frobenius"``, or ``"tokens"`` for the largest
            norm of a token's change.
        progress: Called with a description, the number done and the total.

    Returns:
        One dictionary for each pooler, with what a record of kind ``"lipschitz_at_inputs"`` holds:
        ``measured`` and ``log10_local``, a number an input, whether all measurements ``converged``, and
        the :func:`constant_fields` of :func:`pooled_ledgers` on the smallest domain that holds the
        embeddings. ``log10_local`` is null where no local bound is known, as for windowed attention.

    Raises:
        ValueError: for a wrong shape, an unknown pooler, or as the bounds raise.
    """
    return PooledNorms(poolers, key, geometry)(backbone, embeddings, mask, progress)


class PooledNorms:
    """What :func:`measure_backbone` measures, of one set of parameters after the other.

    Programs are compiled for the first backbone, and again for one of another configuration.

    Args:
        poolers: Names of poolers without parameters.
        key: Random key of the iteration.
        geometry: Norm of changes of the embeddings.
    """

    def __init__(self, poolers: Sequence[str], key: Array, geometry: str = "frobenius"):
        self._names, self._key, self._geometry = list(poolers), key, geometry
        self._modules = [from_name(name) for name in poolers]
        self._programs: tuple[Any, Callable, LocalBounds] | None = None

    @on_one_thread
    def __call__(
        self,
        backbone: Backbone,
        embeddings: Float[Array, "N n d"],
        mask: Bool[Array, "N n"] | None = None,
        progress: Progress = no_progress,
    ) -> list[dict[str, Any]]:
        """Arguments, result and errors are those of :func:`measure_backbone`."""
        modules = self._modules
        check_tokens("embeddings", embeddings)
        for module in modules:
            tokens = jnp.zeros(jnp.shape(embeddings)[-2:])
            if jax.tree.leaves(jax.eval_shape(module.init, self._key, tokens)):
                name = type(module).__name__
                raise ValueError(f"poolers: expected ones without parameters, got {name}")
        if jnp.ndim(embeddings) != 3:
            raise ValueError(f"embeddings: expected shape (N, n, d), got {jnp.shape(embeddings)}")
        embeddings = jnp.asarray(embeddings)
        num_tokens, domain = embeddings_domain(embeddings, mask)
        geometry = self._geometry
        ledgers = backbone_ledgers(backbone, num_tokens, domain, geometry=geometry, progress=progress)
        sizes = pooled_sizes(backbone, embeddings.shape[1:], num_tokens)
        rows: list[dict[str, Any]] = [
            {"pooler": name, "measured": [], "log10_local": [], "converged": True}
            for name in self._names
        ]
        measure, local = self._of(backbone)
        bound = local(backbone.params, embeddings, mask)
        total, done = len(embeddings) * len(rows), 0
        # The first of them waits for programs to be compiled, one for all inputs and poolers each.
        progress("inputs", done, total)
        for at, x in enumerate(embeddings):
            real = None if mask is None else mask[at]
            logs = bound(at)
            for index, row in enumerate(rows):
                found = measure(backbone.params, x, real, index)
                row["measured"].append(float(found.value))
                row["converged"] &= bool(found.converged)
                row["log10_local"].append(logs[index])
                done += 1
                progress("inputs", done, total)
        for row, module in zip(rows, modules, strict=True):
            found = pooled_ledgers(ledgers, module, *sizes, geometry=geometry)
            row |= constant_fields(found)
        return rows

    def _of(self, backbone):
        """The programs, which take the parameters of each backbone of this configuration."""
        told = (type(backbone), backbone.config)
        if self._programs is None or self._programs[0] != told:
            own = backbone.replace(params=None)
            measure = jax.jit(_measure(own, self._modules, self._key, self._geometry))
            self._programs = (told, measure, LocalBounds(own, self._modules, self._geometry))
        return self._programs[1:]


def _measure(backbone, poolers, key, geometry):
    """The Jacobian's norm from embeddings to one of several poolers, in one program for all of them."""
    method = "lanczos" if geometry == "frobenius" else "power"

    def measure(params, x, mask, index):
        def pooled(x):
            tokens = backbone.encode(params, x, mask)
            branches = [lambda z, pooler=pooler: pooler(z, tokens.mask) for pooler in poolers]
            return jax.lax.switch(index, branches, tokens.states)

        return empirical.power_iteration(pooled, x, key=key, method=method, geometry=geometry)

    return measure

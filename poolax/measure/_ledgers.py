"""Bounds of backbones with poolers behind them, on the domain of their embeddings."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poolax import bounds
from poolax._progress import Progress, no_progress
from poolax._threads import on_one_thread
from poolax.backbones import Backbone
from poolax.bounds import PROVED, Domain, Ledger, TokenRange
from poolax.measure._constants import Constant
from poolax.measure._precision import without_overflow
from poolax.pooling import Pooler


def embeddings_domain(
    embeddings: Float[Array, "N n d"], mask: Bool[Array, "N n"] | None = None
) -> tuple[TokenRange, Domain]:
    """Numbers of real tokens and the smallest domain of embeddings.

    Args:
        embeddings: Shape ``(N, n, d)``.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.

    Returns:
        Fewest and most tokens, and the domain.

    Raises:
        ValueError: for a wrong shape or a sequence without real tokens.
    """
    lengths = jnp.full(len(embeddings), embeddings.shape[1]) if mask is None else jnp.sum(mask, axis=-1)
    if int(lengths.min()) < 1:
        raise ValueError("mask: expected at least one real token in every sequence, got none")
    return TokenRange(int(lengths.min()), int(lengths.max())), bounds.domain_of(embeddings, mask)


@on_one_thread
def backbone_ledgers(
    backbone: Backbone,
    num_tokens: TokenRange,
    domain: Domain,
    *,
    geometry: str = "frobenius",
    progress: Progress = no_progress,
) -> dict[str, Ledger]:
    """Sharp and tight ledger of a backbone.

    Args:
        backbone: The backbone.
        num_tokens: Fewest and most tokens.
        domain: Of its embeddings.
        geometry: Norm of changes of embeddings and of token states: ``"frobenius"``, or ``"tokens"``
            for the largest norm of a token's change.
        progress: Called with a description, the number done and the total.

    Returns:
        The ledgers by method.

    Raises:
        ValueError: as :func:`poolax.bounds.ledger` raises.
    """
    sizes: dict[str, Any] = {"num_tokens": num_tokens, "geometry": geometry}
    sizes |= {"radius": domain.radius, "spread": domain.spread}

    def ledger(method):
        return without_overflow(
            lambda params: bounds.ledger(backbone.layer_specs(params), **sizes, method=method),
            backbone.params,
        )

    ledgers = {}
    for method in PROVED:
        progress("bounds", len(ledgers), len(PROVED))
        ledgers[method] = ledger(method)
    progress("bounds", len(ledgers), len(PROVED))
    return ledgers


def pooled_sizes(
    backbone: Backbone, shape: tuple[int, ...], num_tokens: TokenRange
) -> tuple[TokenRange, int]:
    """Numbers of tokens that a pooler sees, and their width.

    These are the tokens that came in, but for backbones that merge tokens.

    Args:
        backbone: The backbone.
        shape: Shape of the embeddings of one input, ``(n, d)``.
        num_tokens: Fewest and most real tokens.

    Returns:
        Fewest and most tokens behind the backbone, and the width there.
    """
    states = jax.eval_shape(backbone.encode, backbone.params, jnp.zeros(shape)).states
    number, dim = states.shape[-2:]
    return (num_tokens if number == shape[0] else TokenRange(number, number)), dim


def pooled_ledgers(
    ledgers: Mapping[str, Ledger],
    pooler: Pooler,
    num_tokens: TokenRange,
    dim: int,
    *,
    geometry: str = "frobenius",
) -> dict[str, Constant | None]:
    """Bounds of a backbone with a pooler behind it.

    Args:
        ledgers: What :func:`backbone_ledgers` gave.
        pooler: A pooler without parameters.
        num_tokens: Fewest and most tokens that it sees.
        dim: Width of these.
        geometry: That of the ledgers.

    Returns:
        Constants by method; nothing is published of backbones.
    """
    constants: dict[str, Constant | None] = {"published": None}
    for method, ledger in ledgers.items():
        reads = bounds.pooler(pooler, num_tokens=num_tokens, dim=dim, method=method)
        factor = reads.l2 if geometry == "frobenius" else reads.l1
        constants[method] = Constant(float(ledger.log_lipschitz + jnp.log(jnp.asarray(factor))))
    return constants

"""Measured Lipschitz constants beside all bounds: of one-block models and of backbones, at inputs."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from threadpoolctl import threadpool_limits

from poolax import bounds, empirical
from poolax._checks import check_tokens
from poolax._layer_specs import AttentionSpec, ConvolutionSpec, MergeSpec
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone
from poolax.blocks import TBM
from poolax.bounds import Domain, Ledger, TokenRange
from poolax.pooling import FIXED_POOLERS, Pooler, from_name, to_config

METHODS = ("published", "sharp", "tight")

_LARGEST_LOG = 700.0
# LAPACK's threads wait for each other without sleeping: a matrix of 384 by 384, as most are here, takes
# two of them on two cores up to 60 times the time that one takes.
_one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


def constant(name: str, log: Any = None, value: Any = None) -> dict[str, float | None]:
    """A constant and its decimal logarithm, as a record holds them.

    Args:
        name: Its name.
        log: Its natural logarithm; ``None`` if there is no such constant.
        value: The constant itself, where it is known better than by its logarithm.

    Returns:
        ``{name: ..., "log10_" + name: ...}``; null where there is no constant, where it is beyond the
        range of numbers, and for the logarithm of zero.
    """
    if log is None:
        return {name: None, f"log10_{name}": None}
    log = float(log)
    value = math.exp(min(log, _LARGEST_LOG)) if value is None else float(value)
    in_range = math.isfinite(value) and log < _LARGEST_LOG
    return {
        name: value if in_range else None,
        f"log10_{name}": log / math.log(10) if math.isfinite(log) else None,
    }


def without_overflow(evaluate: Callable[..., Any], *arrays: Any) -> Any:
    """``evaluate(*arrays)``, in double precision where single precision overflows on the way.

    Args:
        evaluate: Gives a tree of numbers; one that is infinite or undefined, but for the logarithm of
            zero, says that something overflowed.
        arrays: Trees of arrays; double precision from the start where one of them is.

    Returns:
        What ``evaluate`` gave; from double precision as NumPy arrays.
    """
    if not any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(arrays)):
        # Numbers that do not fit show in what they lead to.
        with np.errstate(over="ignore"):
            found = evaluate(*arrays)
        if all(np.all(np.asarray(leaf) < np.inf) for leaf in jax.tree.leaves(found)):
            return found
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, evaluate(*jax.tree.map(_double, arrays)))


def _double(leaf):
    if isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.asarray(leaf, np.float64)
    return leaf


def block_bounds(
    model: TBM, variables: Mapping[str, Any], num_tokens: int | TokenRange, domain: Domain
) -> dict[str, Any]:
    """Bounds of a one-block model by all methods, as a record holds them.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        num_tokens: Number of tokens, or a :class:`TokenRange`.
        domain: Where the bounds hold.

    Returns:
        :func:`constant` for ``"published"``, ``"sharp"`` and ``"tight"``.

    Raises:
        ValueError: as :func:`poolax.bounds.tbm` raises for sharp bounds.
    """
    pooler: Any = model.pooler
    with_variables = (pooler, {"params": variables["params"].get("pooler", {})})
    return next(pooler_bounds(model, variables, [with_variables], num_tokens, domain))


def pooler_bounds(
    model: TBM,
    variables: Mapping[str, Any],
    poolers: Iterable[tuple[Pooler, Mapping[str, Any]]],
    num_tokens: int | TokenRange,
    domain: Domain,
) -> Iterator[dict[str, Any]]:
    """Bounds of one block with one pooler after another on top, the block bounded once for all.

    Args:
        model: A model of the block; its own pooler does not count.
        variables: What its ``init`` returned.
        poolers: Poolers, and what their ``init`` returned.
        num_tokens: Number of tokens, or a :class:`TokenRange`.
        domain: Where the bounds hold.

    Yields:
        :func:`block_bounds` for each pooler.

    Raises:
        ValueError: as :func:`poolax.bounds.tbm` raises for sharp bounds.
    """
    sizes = {"num_tokens": num_tokens, "radius": domain.radius, "spread": domain.spread}

    def block(method):
        return without_overflow(
            lambda variables: bounds.block(model, variables, **sizes, method=method), variables
        )

    def reads(block, pooler, parameters):
        sizes = {"num_tokens": block.num_tokens, "dim": block.dim, "spread": block.spread}
        return bounds.pooler(pooler, parameters, **sizes, method=block.attention.method)

    def pooled(method, pooler, parameters):
        block = blocks[method]
        if method == "published":
            bound = without_overflow(lambda block: bounds.with_pooler(block, pooler), block)
        else:
            known = without_overflow(
                lambda block, parameters: reads(block, pooler, parameters), block, parameters
            )
            bound = without_overflow(bounds.with_pooler, block, known)
        return constant(method, bound.log_lipschitz, bound.lipschitz)

    blocks = {method: block(method) for method in ("sharp", "tight")}
    # Nothing was published for some blocks and poolers.
    with contextlib.suppress(bounds.NoBoundError):
        blocks["published"] = block("published")
    for pooler, parameters in poolers:
        row = pooled("sharp", pooler, parameters) | pooled("tight", pooler, parameters)
        row |= constant("published")
        if "published" in blocks:
            with contextlib.suppress(bounds.NoBoundError):
                row |= pooled("published", pooler, parameters)
        yield row


@_one_thread
def measure_block(
    model: TBM,
    variables: Mapping[str, Any],
    inputs: Float[Array, "N n d"],
    *,
    domain: Domain | None = None,
) -> dict[str, Any]:
    """Exact Jacobian norms of a one-block model at inputs, their local bounds, and its other bounds.

    Args:
        model: The model.
        variables: What its ``init`` returned.
        inputs: Token sequences, shape ``(N, n, d)``.
        domain: Where the bounds hold; ``None`` takes the smallest that holds the inputs.

    Returns:
        ``measured`` and ``local``, a number an input, and :func:`block_bounds`.

    Raises:
        ValueError: for inputs that are not ``(N, n, d)`` or not finite, or as the bounds raise.
    """
    check_tokens("inputs", inputs)
    if jnp.ndim(inputs) != 3:
        raise ValueError(f"inputs: expected shape (N, n, d), got {jnp.shape(inputs)}")
    inputs = jnp.asarray(inputs)
    domain = bounds.domain_of(inputs) if domain is None else domain

    @jax.jit
    def at_inputs(variables, inputs):
        def at(x):
            exact = empirical.jacobian_norm(lambda x: jnp.asarray(model.apply(variables, x)), x)
            return exact, bounds.local_tbm(model, variables, x).lipschitz

        return jax.lax.map(at, inputs)

    measured, local = at_inputs(variables, inputs)
    row = {"measured": measured.tolist(), "local": local.tolist()}
    return row | block_bounds(model, variables, inputs.shape[1], domain)


@_one_thread
def measure_backbone(
    backbone: Backbone,
    embeddings: Float[Array, "N n d"],
    mask: Bool[Array, "N n"] | None = None,
    *,
    poolers: Sequence[str] = FIXED_POOLERS,
    key: jax.Array,
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """Jacobian norms from embeddings to pooled vectors at inputs, beside local and sharp bounds.

    Args:
        backbone: The backbone.
        embeddings: What ``backbone.embed`` gives, shape ``(N, n, d)``.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        poolers: Names of poolers without parameters.
        key: Random key of the Lanczos iteration.
        progress: Called with a description, the number done and the total.

    Returns:
        One dictionary for each pooler: ``measured`` and ``log10_local``, a number an input, whether
        all measurements ``converged``, and :func:`constant` for ``"sharp"`` and ``"tight"`` on the
        smallest domain that holds the embeddings. ``log10_local`` is null where no local bound is
        known, as for windowed attention.

    Raises:
        ValueError: for a wrong shape, an unknown pooler, or as the bounds raise.
    """
    modules = [from_name(name) for name in poolers]
    for module in modules:
        if to_config(module)["options"]:
            raise ValueError(f"poolers: expected ones without parameters, got {type(module).__name__}")
    check_tokens("embeddings", embeddings)
    if jnp.ndim(embeddings) != 3:
        raise ValueError(f"embeddings: expected shape (N, n, d), got {jnp.shape(embeddings)}")
    embeddings = jnp.asarray(embeddings)
    num_tokens, domain = embeddings_domain(embeddings, mask)
    ledgers = backbone_ledgers(backbone, num_tokens, domain, progress=progress)
    num_pooled = pooled_tokens(backbone, embeddings.shape[1:], num_tokens)
    rows: list[dict[str, Any]] = [
        {"pooler": name, "measured": [], "log10_local": [], "converged": True} for name in poolers
    ]
    measure, local = jax.jit(_measure(backbone, modules, key)), _local(backbone, modules)
    total, done = len(embeddings) * len(rows), 0
    # The first of them waits for programs to be compiled, one for all inputs and poolers each.
    progress("inputs", done, total)
    for at, x in enumerate(embeddings):
        real = None if mask is None else mask[at]
        logs = [None] * len(rows) if local is None else local(backbone.params, x, real).tolist()
        for index, row in enumerate(rows):
            found = measure(backbone.params, x, real, index)
            row["measured"].append(float(found.value))
            row["converged"] &= bool(found.converged)
            log = logs[index]
            row["log10_local"].append(None if log is None else log / math.log(10))
            done += 1
            progress("inputs", done, total)
    for row, module in zip(rows, modules, strict=True):
        row |= pooled_ledgers(ledgers, module, num_pooled)
    return rows


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


@_one_thread
def backbone_ledgers(
    backbone: Backbone,
    num_tokens: TokenRange,
    domain: Domain,
    *,
    progress: Progress = no_progress,
) -> dict[str, Ledger]:
    """Sharp and tight ledger of a backbone.

    Args:
        backbone: The backbone.
        num_tokens: Fewest and most tokens.
        domain: Of its embeddings.
        progress: Called with a description, the number done and the total.

    Returns:
        The ledgers by method.

    Raises:
        ValueError: as :func:`poolax.bounds.ledger` raises.
    """
    sizes = {"num_tokens": num_tokens, "radius": domain.radius, "spread": domain.spread}

    def ledger(method):
        return without_overflow(
            lambda params: bounds.ledger(backbone.layer_specs(params), **sizes, method=method),
            backbone.params,
        )

    methods, ledgers = METHODS[1:], {}
    for method in methods:
        progress("bounds", len(ledgers), len(methods))
        ledgers[method] = ledger(method)
    progress("bounds", len(ledgers), len(methods))
    return ledgers


def pooled_tokens(backbone: Backbone, shape: tuple[int, ...], num_tokens: TokenRange) -> TokenRange:
    """Numbers of tokens that a pooler sees: those that came in, but for backbones that merge tokens.

    Args:
        backbone: The backbone.
        shape: Shape of the embeddings of one input, ``(n, d)``.
        num_tokens: Fewest and most real tokens.

    Returns:
        Fewest and most tokens behind the backbone.
    """
    states = jax.eval_shape(backbone.encode, backbone.params, jnp.zeros(shape)).states
    return num_tokens if states.shape[-2] == shape[0] else TokenRange(*states.shape[-2:-1] * 2)


def pooled_ledgers(
    ledgers: Mapping[str, Ledger], pooler: Pooler, num_tokens: TokenRange
) -> dict[str, Any]:
    """Bounds of a backbone with a pooler behind it, as a record holds them.

    Args:
        ledgers: What :func:`backbone_ledgers` gave.
        pooler: A pooler without parameters.
        num_tokens: Fewest and most tokens that it sees.

    Returns:
        :func:`constant` for ``"published"``, which is null, and for each ledger.
    """
    row = constant("published")
    for method, ledger in ledgers.items():
        # The width counts for l1 alone.
        factor = bounds.pooler(pooler, num_tokens=num_tokens, dim=1, method=method).l2
        row |= constant(method, ledger.log_lipschitz + jnp.log(jnp.asarray(factor)))
    return row


def _measure(backbone, poolers, key):
    """The Jacobian's norm from embeddings to one of several poolers, in one program for all of them."""

    def measure(params, x, mask, index):
        def pooled(x):
            tokens = backbone.encode(params, x, mask)
            branches = [lambda z, pooler=pooler: pooler(z, tokens.mask) for pooler in poolers]
            return jax.lax.switch(index, branches, tokens.states)

        return empirical.power_iteration(pooled, x, key=key, method="lanczos")

    return measure


class _Selection(Pooler):
    """A weighted sum of poolers, of which weights of zero and one select one."""

    poolers: tuple[Pooler, ...]

    @nn.compact
    def __call__(self, z, mask=None):
        weights = self.param("weights", nn.initializers.zeros, (len(self.poolers),))
        pooled = jnp.stack([pooler(z, mask) for pooler in self.poolers])
        return jnp.tensordot(weights.astype(pooled.dtype), pooled, axes=1)


def _local(backbone, poolers):
    """The compiled local bounds by pooler, or None where none is known: for windows, merged tokens."""
    for spec in backbone.layer_specs(backbone.params):
        branch = spec.branch
        if isinstance(branch, ConvolutionSpec | MergeSpec):
            return None
        if isinstance(branch, AttentionSpec) and branch.partition is not None:
            return None

    # Compiled by itself; the bound has programs of its own, one for all layers of one shape.
    encode = jax.jit(functools.partial(backbone.encode, return_weights=True))

    def local(params, x, mask):
        weights: Any = encode(params, x, mask).weights
        specs = backbone.layer_specs(params)

        # Nothing but the pooler depends on what vmap runs over, so that the layers are computed once.
        def pooled(selected):
            options = {"pooler": _Selection(tuple(poolers)), "variables": {"params": selected}}
            options["branches"] = False
            return bounds.local_ledger(specs, x, weights, mask, **options).log_lipschitz

        return jax.vmap(pooled)({"weights": jnp.eye(len(poolers))})

    return local

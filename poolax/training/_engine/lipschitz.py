"""How much a head lets its output move: its pooler's bound times the norm of its linear layer."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from poolax import bounds
from poolax._compilation import compile_quickly
from poolax._decompositions import spectral_norm
from poolax._programs import kept_program
from poolax._threads import on_one_thread


def head_factors(
    poolers: Sequence[nn.Module],
    *,
    token_counts: Sequence[tuple[int, int]],
    dims: Sequence[int],
    spread: float | None = None,
) -> Callable[[PyTree], np.ndarray] | None:
    """A function from the parameters of heads to their Lipschitz constants.

    ``|W| l2``: Euclidean norm of the output against the Frobenius norm of a change of the token states,
    whatever number of tokens a sequence has.

    Args:
        poolers: The pooler of each group.
        token_counts: Fewest and most tokens of a sequence that each pooler sees.
        dims: Width of the tokens that each pooler sees.
        spread: Half of the largest distance of two tokens of a sequence, which query attention needs.

    Returns:
        From parameters with leading axes (group, run) to constants of that shape; ``None`` where a
        pooler has no bound.

    Example:
        >>> from poolax.pooling import AveragePool
        >>> factors = head_factors([AveragePool()], token_counts=[(4, 9)], dims=[2])
        >>> factors({"output": {"kernel": 3 * jnp.eye(2)[None, None]}}).round(4).tolist()
        [[1.5]]

    Reference:
        This library's theory, section 6.
    """
    rules = tuple(map(bounds.rules_of, poolers))
    if not all(rules):
        return None
    compiled = _factors_program((), tuple(poolers), tuple(token_counts), tuple(dims), rules)

    @on_one_thread
    def factors(params):
        return np.asarray(compiled(params, spread))

    return factors


@kept_program
def _factors_program(poolers, token_counts, dims, rules):
    """The constants of heads, which are computed after every epoch."""
    del rules  # which ``bounds.pooler`` looks up; with others it is another program

    def of_pooler(pooler, counts, dim, spread, params):
        bound = bounds.pooler(
            pooler,
            {"params": params["pooler"]} if "pooler" in params else None,
            num_tokens=bounds.TokenRange(*counts),
            dim=dim,
            spread=spread,
        )
        return jnp.asarray(bound.l2)

    def of_all(params, spread):
        with jax.default_matmul_precision("highest"):
            norms = spectral_norm(params["output"]["kernel"])  # of all heads in one program
            rows = []
            for group, sizes in enumerate(zip(poolers, token_counts, dims, strict=True)):
                own = jax.tree.map(lambda leaf, group=group: leaf[group], params)
                bound = functools.partial(of_pooler, *sizes, spread)
                reads = jax.vmap(bound)(own) if "pooler" in own else bound({})
                rows.append(reads * norms[group])
            return jnp.stack(rows)

    return jax.jit(of_all, compiler_options=compile_quickly())

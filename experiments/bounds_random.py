"""Suite "random" of bounds.py: layers and one-block models with random weights, on the unit ball."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from bounds_cases import BALL, Case, constants, split_free, with_norms

from poolax import measure


def suite(options: Any) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is measured, and how: one record a scale of the weights, and one a norm."""
    key = jax.random.key(options.seed)
    for case in _cases(options):
        what = {"suite": "random", **dataclasses.asdict(case), "seed": options.seed}
        what["restarts"] = options.restarts
        by_inputs, by_weights = search_inputs(case, options), search_weights(case, options)

        def over_inputs(scale, case=case, search=by_inputs):
            variables = case.variables(scale, key)
            found = search(variables, key)
            return constants(case, variables, found.x)

        def over_weights(norm, case=case, search=by_weights):
            # With one pooler, which is not searched over.
            starts = case.aligned(key), case.apart(key)
            aligned = with_norms(starts[0]["params"], norm)
            found = search(starts, norm, key)
            row = {f"{method}_of_norms": case.bound(aligned, method) for method in ("tight", "sharp")}
            return {name: float(bound) for name, bound in row.items()} | constants(case, *found)

        for scale in options.scales:
            row = {"kind": "bounds_inputs", **what, "scale": scale, "steps": options.steps}
            yield row, functools.partial(over_inputs, scale)
        for norm in options.norms:
            row = {"kind": "bounds_weights", **what, "norm": norm, "steps": options.weight_steps}
            yield row, functools.partial(over_weights, norm)


def _cases(options) -> list[Case]:
    """The grid."""
    grid = itertools.product(
        options.num_tokens, options.dims, options.heads, options.kinds, options.targets
    )
    return [
        Case(kind, target, num_tokens, dim, num_heads)
        for num_tokens, dim, num_heads, kind, target in grid
        if dim % num_heads == 0
    ]


def search_inputs(
    case: Case, options: Any, geometry: str = "frobenius"
) -> Callable[[Any, jax.Array], Any]:
    """The compiled search over inputs, from a random one."""

    @jax.jit
    def search(variables, key):
        start_key, search_key = jax.random.split(key)
        return measure.find(
            functools.partial(case.apply, variables),
            case.draw(start_key),
            BALL,
            key=search_key,
            num_restarts=options.restarts,
            num_steps=options.steps,
            geometry=geometry,
        )

    return search


def search_weights(case: Case, options: Any) -> Callable[..., Any]:
    """The search over inputs and weights of given norms, compiled once.

    From weights that line up and from weights that read different entries; and from what is found from
    either at half the norm, for larger norms have more local maxima.
    """

    @jax.jit
    def search(variables, x, norm, key):
        free, fixed = split_free(variables)
        found = measure.find(
            lambda free, x: case.apply(with_norms({**fixed, **free}, norm), x),
            x,
            BALL,
            key=key,
            num_restarts=options.restarts,
            num_steps=options.weight_steps,
            variables=free,
        )
        return found.value, with_norms({**fixed, **found.variables}, norm), found.x

    def best(starts, norm, key):
        start_key, *keys = jax.random.split(key, 4)
        x = case.draw(start_key)
        found = []
        for start in starts:
            _, *half = search(start, x, norm / 2, keys[0])
            found += [search(start, x, norm, keys[1]), search(*half, norm, keys[2])]
        return max(found, key=lambda result: result[0])[1:]

    return best

"""Suite "geometry" of bounds.py: tokens of one-block models share a budget, or each has its own."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from bounds_cases import Case, constants
from bounds_random import search_inputs

_POOLERS = ("last", "avg", "sum", "max")
_GEOMETRIES = ("frobenius", "tokens")
# Of the random suite, too: its searches are of the first geometry.
_DIM, _NUM_HEADS, _SCALE = 16, 4, 1.0


def suite(options: Any) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is searched and bounded, and how: one record for each block, pooler and geometry."""
    key, num_tokens = jax.random.key(options.seed), max(options.num_tokens)
    for kind in options.kinds:
        for pooler in _POOLERS:
            if pooler not in options.targets:
                continue
            case = Case(kind, pooler, num_tokens, _DIM, _NUM_HEADS)
            for geometry in _GEOMETRIES:
                what = {"kind": "bounds_geometry", "suite": "geometry", **dataclasses.asdict(case)}
                what |= {"seed": options.seed, "scale": _SCALE, "geometry": geometry}
                what |= {"restarts": options.restarts, "steps": options.steps}
                yield what, functools.partial(_constants, case, geometry, options, key)


def _constants(case, geometry, options, key):
    variables = case.variables(_SCALE, key)
    found = search_inputs(case, options, geometry)(variables, key)
    return constants(case, variables, found.x, geometry)

"""Suite "lengths" of bounds.py: one-block models with random weights, at more and more tokens."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from bounds_cases import Case

from poolax import measure

# Of the random suite, too: at its numbers of tokens the same weights are searched.
_TARGET, _DIM, _NUM_HEADS, _SCALE = "avg", 16, 4, 1.0


def suite(options: Any) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is bounded, and how: one record for each kind of attention and number of tokens."""
    key = jax.random.key(options.seed)
    for kind in options.kinds:
        for num_tokens in options.lengths:
            case = Case(kind, _TARGET, num_tokens, _DIM, _NUM_HEADS)
            what = {"kind": "bounds_lengths", "suite": "lengths", **dataclasses.asdict(case)}
            what |= {"seed": options.seed, "scale": _SCALE}
            yield what, functools.partial(_bounds, case, case.variables(_SCALE, key))


def _bounds(case, variables):
    return measure.by_method(lambda method: float(case.bound(variables, method)))

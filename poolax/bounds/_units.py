"""Attention in units of its own, in which kernels are about one.

Norms of kernels and powers of the radius that are far from one cancel in a bound, but not before they
have left the range of floats. With ``W_Q = q W_Q'``, ``W_K = k W_K'``, ``W_V = v W_V'`` and ``W_O = o
W_O'``, attention to tokens ``x`` is ``v o / s`` times that of the kernels with a dash to ``s x``, where
``s^2 = q k``; so a bound for them on the domain times ``s`` is one for ``x`` if it is multiplied by ``v
o``. All of these are powers of two, so that nothing is rounded.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from poolax._numerics import exponent_of, times_power
from poolax.attention import L2, Kind
from poolax.bounds._kernels import Kernels
from poolax.records import AttentionBound


@struct.dataclass
class Units:
    """Exponents of the powers of two that attention is measured in.

    Attributes:
        query: Of the queries' kernels.
        key: Of the keys' kernels; even together with that of the queries.
        value: Of the values' kernels.
        out: Of the output's kernels.
        bound: Of bounds of the layer.
    """

    query: Int[Array, ""]
    key: Int[Array, ""]
    value: Int[Array, ""]
    out: Int[Array, ""]
    bound: Int[Array, ""]

    def kernels(self, kernels: Kernels) -> Kernels:
        """The kernels in these units."""
        turn = (self.key - self.query) // 2
        exponents = {
            "query": -self.query,
            "key": -self.key,
            "value": -self.value,
            "out": -self.out,
            "query_bias": turn,
            "key_bias": -turn,
        }
        arrays = {name: getattr(kernels, name) for name in exponents}
        scaled = {
            name: times_power(array, exponents[name])
            for name, array in arrays.items()
            if array is not None
        }
        return dataclasses.replace(kernels, **scaled)

    def length(self, length: Any) -> Any:
        """Lengths of tokens in these units."""
        return None if length is None else times_power(length, (self.query + self.key) // 2)

    def restored(self, bound: AttentionBound, kernels: Kernels, attends: Any) -> AttentionBound:
        """A bound of the layer itself; never 0 by underflow alone."""
        moves = jnp.any(kernels.value != 0) & jnp.any(kernels.out != 0)
        attends = attends & jnp.any(kernels.query != 0) & jnp.any(kernels.key_or_query != 0)
        names = ("sequence", "per_token", "mixing", "own", "mixing_largest", "mixing_entries")
        numbers = {name: getattr(bound, name) for name in names}
        restored = {
            name: _not_zero(
                times_power(number, self.bound), moves & attends if name == "own" else moves
            )
            for name, number in numbers.items()
            if number is not None
        }
        return dataclasses.replace(bound, **restored)


def units_of(kernels: Kernels, kind: Kind, *, values: bool) -> Units:
    """Units for the kernels of dot-product or L2 attention; those of values stay without ``values``."""
    query, key = exponent_of(kernels.query), exponent_of(kernels.key_or_query)
    key = key + (query + key) % 2
    nothing = jnp.zeros_like(query)
    value, out = (
        (exponent_of(kernels.value), exponent_of(kernels.out)) if values else (nothing, nothing)
    )
    through_metric = isinstance(kind, L2) and not kind.plain_values
    if through_metric and not values:
        query = key = nothing
    bound = value + out + (query + key if through_metric else 0)
    return Units(query, key, value, out, bound)


def _not_zero(number, moves):
    return jnp.where(moves & (number == 0), jnp.finfo(number.dtype).tiny, number)

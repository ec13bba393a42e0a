"""Pooled vectors of poolers that have nothing to learn: d numbers an example, made once."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from poolax._programs import kept_program
from poolax._progress import Progress, no_progress
from poolax.training._devices import Mapper
from poolax.training._states.features import FeaturePass
from poolax.training._states.host import HostStates
from poolax.training._states.sources import TokenSource, check_finite_states
from poolax.training._states.store import open_store
from poolax.training._states.views import View
from poolax.training.token_head import TokenHead

_POOL_BATCH = 1024


def is_fixed(pooler: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a pooler has no parameters, for token states of a shape ``(N, *parts, n, d)``."""
    if isinstance(pooler, TokenHead):
        return False
    example = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    variables = jax.eval_shape(pooler.init, jax.random.key(0), example)
    return not jax.tree.leaves(variables)


def pool(
    poolers: Mapping[str, nn.Module],
    views: Mapping[str, View],
    source: TokenSource,
    mapping: str = "auto",
) -> dict[str, np.ndarray]:
    """Vectors of poolers without parameters, of all examples in one pass; shape (N, *parts, d)."""
    if not poolers:
        return {}

    def fetch(start, stop):
        tokens = source.fetch(np.arange(start, stop))
        batch = {"states": tokens.states}
        return batch if tokens.mask is None else {**batch, "mask": tokens.mask}

    mapper = _pooling(poolers, views, mapping)
    pieces = list(mapper.batches((), fetch, source.shape[0]))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)


def pool_features(
    poolers: Mapping[str, nn.Module],
    views: Mapping[str, View],
    features: FeaturePass,
    progress: Progress,
    directory: epath.PathLike | None = None,
    key: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> dict[str, np.ndarray]:
    """The same from the backbone as it runs, so that token states are never kept.

    Args:
        poolers: Poolers without parameters.
        views: What each sees of the states.
        features: The pass of the backbone.
        progress: Called with a description, the number done and the total.
        directory: Local folder of stores, where a pass that is stopped goes on; ``None`` keeps nothing.
        key: What the states depend on, as for :func:`open_store`.
        dtype: As for :class:`PooledPass`; ``directory`` asks for one.
    """
    passed = PooledPass(poolers, views, features, dtype)
    if directory is not None:
        if dtype is None:
            raise ValueError("dtype: expected that of kept states beside a directory, got None")
        store = open_store(directory, passed, dict(key or {}), progress=progress)
        vectors = store.fetch(np.arange(features.num_examples)).states
    else:
        vectors = None
        for positions, batch in passed.batches(progress):
            if vectors is None:
                vectors = np.zeros(passed.shape, batch.states.dtype)
            vectors[positions] = batch.states
    if vectors is None:
        raise ValueError("inputs: expected at least one, got none")
    return passed.split(vectors)


class PooledPass:
    """A pass whose token states are pooled vectors, so that what is kept of it is small.

    Args:
        poolers: Poolers without parameters.
        views: What each sees of the states.
        features: The pass of the backbone.
        dtype: In which a store would keep the states: they are rounded as if they came from there, so
            that vectors are the same whatever is trained beside them; ``None`` for states as they are.
    """

    num_prefix = 0

    def __init__(
        self,
        poolers: Mapping[str, nn.Module],
        views: Mapping[str, View],
        features: FeaturePass,
        dtype: Any = None,
    ):
        self._features = features
        self._what = [(repr(pooler), *_plain(views[label])) for label, pooler in poolers.items()]
        self._dtype = None if dtype is None else jnp.dtype(dtype)
        self._mapper = _pooling(poolers, views, features.mapping)
        self._widths = {
            label: _width(pooler, views[label].shape(features.shape))
            for label, pooler in poolers.items()
        }
        # Vectors of several widths in rows of one, which are as long as all of them allow.
        self._unit = math.gcd(*self._widths.values())
        self.num_examples, self.layout = features.num_examples, features.layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all vectors, ``(N, group, *parts, d)``; wide ones are several groups."""
        num_examples, *parts, _, _ = self._features.shape
        groups = sum(self._widths.values()) // self._unit
        return (num_examples, groups, *parts, self._unit)

    def split(self, vectors: Float[np.ndarray, "N group *parts d"]) -> dict[str, np.ndarray]:
        """Vectors of each pooler, shape (N, *parts, d), of all that this pass gave."""
        stops = np.cumsum([width // self._unit for width in self._widths.values()])
        own = np.split(vectors, stops[:-1], axis=1)
        return {
            label: part[:, 0]
            if part.shape[1] == 1
            else np.concatenate(np.moveaxis(part, 1, 0), axis=-1)
            for label, part in zip(self._widths, own, strict=True)
        }

    def program(self) -> str:
        """The program of the backbone, the poolers, and how states are rounded between them."""
        rounded = "" if self._dtype in (None, np.float32) else self._dtype.name
        return f"{self._features.program()}{self._what}{rounded}"

    def batches(
        self, progress: Progress = no_progress, *, first: int = 0
    ) -> Iterator[tuple[Int[np.ndarray, " num"], HostStates]]:
        """Vectors batch by batch, and the positions of their inputs, as of :class:`FeaturePass`."""
        for positions, tokens in self._features.batches(progress, first=first):
            check_finite_states(tokens.states, tokens.mask)
            states = tokens.states
            if self._dtype is not None:  # a store gives float32 back
                states = states.astype(self._dtype).astype(np.float32)
            batch = {"states": states}
            pooled = self._mapper((), batch if tokens.mask is None else {**batch, "mask": tokens.mask})
            rows = [
                row
                for label, width in self._widths.items()
                for row in np.split(pooled[label], width // self._unit, axis=-1)
            ]
            vectors = np.stack(rows, axis=1)
            yield positions, HostStates(vectors, None)


def _plain(view):
    """A view in the words that stores of before there were several layers are known by."""
    return (view.num_prefix, view.columns) if view.columns else (view.num_prefix,)


def _width(pooler, shape):
    example = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    return jax.eval_shape(lambda states: pooler.apply({}, states), example).shape[-1]


def _pooling(poolers, views, mapping) -> Mapper:
    parts = tuple((label, poolers[label], views[label]) for label in poolers)
    return _pooling_program((), parts, mapping)


@kept_program
def _pooling_program(poolers, mapping):
    """Pools token states by each of ``(label, pooler, view)``."""

    def pool_all(_, batch):
        pooled = {}
        for label, pooler, view in poolers:
            states, mask = view.apply(batch["states"], batch.get("mask"))
            pooled[label] = pooler.apply({}, states, mask)
        return pooled

    return Mapper(pool_all, _POOL_BATCH, mapping=mapping)

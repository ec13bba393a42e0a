"""Pooled vectors of poolers that have nothing to learn: d numbers an example, made once."""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Int

from poolax._programs import kept_program
from poolax._progress import Progress, no_progress
from poolax.training._devices import Mapper
from poolax.training._states.features import FeaturePass
from poolax.training._states.host import HostStates
from poolax.training._states.prefixes import leave_out
from poolax.training._states.sources import TokenSource, check_finite_states
from poolax.training._states.store import open_store
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
    prefixes: Mapping[str, int],
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

    mapper = _pooling(poolers, prefixes, mapping)
    pieces = list(mapper.batches((), fetch, source.shape[0]))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)


def pool_features(
    poolers: Mapping[str, nn.Module],
    prefixes: Mapping[str, int],
    features: FeaturePass,
    progress: Progress,
    directory: epath.PathLike | None = None,
    key: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> dict[str, np.ndarray]:
    """The same from the backbone as it runs, so that token states are never kept.

    Args:
        poolers: Poolers without parameters.
        prefixes: Real tokens in front that each does not see.
        features: The pass of the backbone.
        progress: Called with a description, the number done and the total.
        directory: Local folder of stores, where a pass that is stopped goes on; ``None`` keeps nothing.
        key: What the states depend on, as for :func:`open_store`.
        dtype: As for :class:`PooledPass`; ``directory`` asks for one.
    """
    passed = PooledPass(poolers, prefixes, features, dtype)
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
    return {label: vectors[:, group] for group, label in enumerate(poolers)}


class PooledPass:
    """A pass whose token states are pooled vectors, so that what is kept of it is small.

    Args:
        poolers: Poolers without parameters.
        prefixes: Real tokens in front that each does not see.
        features: The pass of the backbone.
        dtype: In which a store would keep the states: they are rounded as if they came from there, so
            that vectors are the same whatever is trained beside them; ``None`` for states as they are.
    """

    num_prefix = 0

    def __init__(
        self,
        poolers: Mapping[str, nn.Module],
        prefixes: Mapping[str, int],
        features: FeaturePass,
        dtype: Any = None,
    ):
        self._features = features
        self._labels = list(poolers)
        self._what = [(repr(pooler), prefixes[label]) for label, pooler in poolers.items()]
        self._dtype = None if dtype is None else jnp.dtype(dtype)
        self._mapper = _pooling(poolers, prefixes, features.mapping)
        self.num_examples, self.layout = features.num_examples, features.layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all vectors, ``(N, group, *parts, d)``."""
        num_examples, *parts, _, dim = self._features.shape
        return (num_examples, len(self._what), *parts, dim)

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
            vectors = np.stack([pooled[label] for label in self._labels], axis=1)
            yield positions, HostStates(vectors, None)


def _pooling(poolers, prefixes, mapping) -> Mapper:
    parts = tuple((label, poolers[label], prefixes[label]) for label in poolers)
    return _pooling_program((), parts, mapping)


@kept_program
def _pooling_program(poolers, mapping):
    """Pools token states by each of ``(label, pooler, num_prefix)``."""

    def pool_all(_, batch):
        pooled = {}
        for label, pooler, num_prefix in poolers:
            states, mask = leave_out(batch["states"], batch.get("mask"), num_prefix)
            pooled[label] = pooler.apply({}, states, mask)
        return pooled

    return Mapper(pool_all, _POOL_BATCH, mapping=mapping)

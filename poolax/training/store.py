"""Token states on disk: written once, in shards that are whole or not there, read by memory map."""

import dataclasses
import hashlib
import json
import logging
import math
import mmap
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from poolax._files import json_object, writing_to
from poolax._paths import absolute_path, write_atomically
from poolax._text import one_line
from poolax.training.features import FeaturePass, HostStates, count_tokens
from poolax.training.step import Progress, no_progress

_MANIFEST = "manifest.json"
_SHARD_BYTES = 2**26
_log = logging.getLogger(__name__)
_LONGEST_REASON = 300


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """Token states of all examples in a folder; only what is read is in memory.

    States of padding tokens are not kept, and read as zeros.

    Attributes:
        shape: Shape of all states, padding included, ``(N, *parts, n, d)``.
        num_prefix: Number of tokens in front that stand for no part of the input.
    """

    shape: tuple[int, ...]
    num_prefix: int
    _mask: np.ndarray | None
    _shards: tuple[np.ndarray, ...]
    _places: np.ndarray  # (N, 3): shard of each example, its first row there and the one after its last

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the states that are fetched."""
        kept = self._shards[0].dtype
        return np.dtype(np.float32) if kept == np.uint16 else kept

    @property
    def token_counts(self) -> tuple[int, int]:
        """Fewest and most real tokens of a sequence, at least one."""
        return count_tokens(self._mask, self.shape[-2])

    def fetch(self, positions: Int[np.ndarray, " num"]) -> HostStates:
        """States of some examples, as float32 if they are kept as bfloat16.

        Args:
            positions: Which examples.

        Returns:
            States of shape ``(num, *parts, n, d)`` and their mask.
        """
        kept = self._shards[0].dtype
        kept = jnp.bfloat16 if kept == np.uint16 else kept
        out = np.zeros((len(positions), *self.shape[1:]), self.dtype)
        mask = None if self._mask is None else self._mask[positions]
        for row, (shard, start, stop) in enumerate(self._places[positions]):
            values = self._shards[shard][start:stop].view(kept)
            if mask is None:
                out[row] = values.reshape(self.shape[1:])
            else:
                out[row][mask[row]] = values
        self._release()
        return HostStates(out, mask)

    def _release(self):
        """Give back the pages that were read: they would count as this process's memory for ever."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for shard in self._shards:
                cast(mmap.mmap, shard.base).madvise(mmap.MADV_DONTNEED)


def open_store(
    directory: Any,
    features: FeaturePass,
    key: dict[str, Any],
    *,
    dtype: Any = np.float32,
    progress: Progress = no_progress,
) -> FeatureStore:
    """The store of these token states below a folder; written first if it is not there.

    A store is known by a hash of its key, of the dtype and of the lowered forward program. One whose
    content does not have the checksums that it was written with, or that was not finished, is written
    again.

    Args:
        directory: Local folder of all stores.
        features: The pass that gives the states.
        key: What else the states depend on, plain JSON: fingerprints of weights and data.
        dtype: ``float32`` or ``bfloat16``.
        progress: Called with a description, the number done and the total.

    Returns:
        The store.

    Raises:
        ValueError: for states that are not finite.
    """
    dtype = jnp.dtype(dtype)
    program = hashlib.sha256(features.program().encode()).hexdigest()
    key = {**key, "dtype": dtype.name, "program": program, "num_examples": features.num_examples}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = pathlib.Path(absolute_path(directory)) / name
    problem = _problem(folder, key, features)
    if problem is not None:
        if folder.exists():
            _log.warning("feature store %s is written again: %s", folder, problem)
        if jax.process_index() == 0:
            with writing_to(folder.parent):
                _write(folder, features, key, dtype, progress)
        else:  # takes its turns in the pass
            for _ in features.batches():
                pass
        _wait_for_all(name)
    return _open(folder)


def _write(folder, features, key, dtype, progress):
    incomplete = folder.with_name(f"incomplete.{folder.name}")
    if incomplete.exists():
        shutil.rmtree(incomplete)
    incomplete.mkdir(parents=True)
    places = np.zeros((features.num_examples, 3), np.int64)
    shape, masks, checksums = None, None, {}
    for number, (piece, rows) in enumerate(_shards(features, dtype, progress)):
        name = f"states-{number:05d}.npy"
        np.save(incomplete / name, piece)
        checksums[name] = _checksum(incomplete / name)
        for positions, tokens, starts in rows:
            shape = (features.num_examples, *tokens.states.shape[1:])
            places[positions] = np.stack(
                [np.full(len(positions), number), starts[:-1], starts[1:]], axis=-1
            )
            if tokens.mask is not None:
                masks = np.zeros(shape[:-1], np.bool_) if masks is None else masks
                masks[positions] = tokens.mask
    for name, array in {"places.npy": places, "mask.npy": masks}.items():
        if array is not None:
            np.save(incomplete / name, array)
            checksums[name] = _checksum(incomplete / name)
    manifest = {
        "key": key,
        "shape": shape,
        "num_prefix": features.num_prefix,
        "checksums": checksums,
    }
    write_atomically(incomplete / _MANIFEST, json.dumps(manifest, indent=1))
    if folder.exists():
        shutil.rmtree(folder)
    incomplete.rename(folder)


@dataclasses.dataclass(frozen=True)
class _Indexed:
    """Where the rows of a batch stand in their shard; states themselves are not held."""

    states: jax.ShapeDtypeStruct
    mask: np.ndarray | None


def _shards(features, dtype, progress) -> Iterator[tuple[np.ndarray, list]]:
    """Rows of tokens in pieces of bounded size, with the positions of their examples."""
    pieces, rows, held, size = [], [], 0, 0
    for positions, tokens in features.batches(progress):
        values = np.asarray(tokens.states)
        if tokens.mask is None:
            counts = np.full(len(values), math.prod(values.shape[1:-1]))
            flat = values.reshape(-1, values.shape[-1])
        else:
            counts = tokens.mask.reshape(len(values), -1).sum(-1)
            flat = values[tokens.mask]
        if not np.isfinite(flat).all():
            raise ValueError("states: expected finite values at real tokens, got some that are not")
        starts = held + np.concatenate([[0], np.cumsum(counts)])
        # NumPy's files know no bfloat16: its bits are kept as whole numbers.
        flat = flat.astype(dtype)
        pieces.append(flat.view(np.uint16) if dtype == jnp.bfloat16 else flat)
        indexed = _Indexed(jax.ShapeDtypeStruct(values.shape, values.dtype), tokens.mask)
        rows.append((positions, indexed, starts))
        held, size = held + len(flat), size + flat.nbytes
        if size >= _SHARD_BYTES:
            yield np.concatenate(pieces), rows
            pieces, rows, held, size = [], [], 0, 0
    if pieces:
        yield np.concatenate(pieces), rows


def _problem(folder, key, features):
    """Why a store cannot be used; ``None`` if it can."""
    try:
        manifest = _manifest(folder)
        if manifest.get("key") != key:
            return "it holds other states"
        # The manifest has no checksum of its own: what else it says is known beforehand.
        if (manifest.get("shape"), manifest.get("num_prefix")) != (
            list(features.shape),
            features.num_prefix,
        ):
            return "it holds states of another shape"
        checksums = manifest.get("checksums")
        if not isinstance(checksums, dict) or "places.npy" not in checksums:
            return "its manifest lists no files"
        for name, checksum in checksums.items():
            if _checksum(folder / name) != checksum:
                return f"{name} has another checksum than it was written with"
    except OSError as error:
        return one_line(error, longest=_LONGEST_REASON)
    return None


def _manifest(folder):
    content = (folder / _MANIFEST).read_bytes()
    return json_object(content, folder / _MANIFEST, "the store is written again")


def _open(folder):
    manifest = _manifest(folder)
    names = sorted(name for name in manifest["checksums"] if name.startswith("states-"))
    shards = tuple(np.load(folder / name, mmap_mode="r") for name in names)
    mask = np.load(folder / "mask.npy") if "mask.npy" in manifest["checksums"] else None
    places = np.load(folder / "places.npy")
    return FeatureStore(tuple(manifest["shape"]), manifest["num_prefix"], mask, shards, places)


def _checksum(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wait_for_all(name):
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"feature store {name}")

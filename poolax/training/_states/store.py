"""Token states on disk: written once, in shards that are whole or not there, read by memory map."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import mmap
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import filelock
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from poolax._files import json_object, writing_to
from poolax._locks import locked
from poolax._paths import absolute_path
from poolax._progress import Progress, no_progress
from poolax._signals import stop_if_asked
from poolax._text import one_line
from poolax.training._states.host import HostStates
from poolax.training._states.padding import count_tokens
from poolax.training._states.shards import MANIFEST, Pass, ShardWriter, file_checksum

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

    has_groups: ClassVar[bool] = False
    is_resident = False
    is_computed = False

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

    @property
    def mask(self) -> Bool[np.ndarray, "N *parts n"] | None:
        """True at real tokens of all examples."""
        return self._mask

    @property
    def has_masks(self) -> bool:
        """Whether states are fetched with a mask."""
        return self.mask is not None

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
    features: Pass,
    key: dict[str, Any],
    *,
    dtype: Any = np.float32,
    progress: Progress = no_progress,
) -> FeatureStore:
    """The store of these token states below a folder; written first if it is not there.

    A store is known by a hash of its key, of the dtype and of the lowered forward program. One whose
    content does not have the checksums that it was written with is written again. One that was not
    finished goes on after the last shard that is whole.

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
        PreemptedError: if the pass is asked to stop; what it has given is kept.
    """
    dtype = jnp.dtype(dtype)
    program = hashlib.sha256(features.program().encode()).hexdigest()
    key = {**key, "dtype": dtype.name, "program": program, "num_examples": features.num_examples}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = pathlib.Path(absolute_path(directory)) / name
    writer, num_batches = None, -1
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0 and _problem(folder, key, features) is not None:
            stack.enter_context(_turn(folder))
            problem = _problem(folder, key, features)
            if problem is not None:  # nor has another program written it meanwhile
                if folder.exists():
                    _log.warning("feature store %s is written again: %s", folder, problem)
                stack.enter_context(writing_to(folder.parent))
                writer = ShardWriter(folder, features, key, dtype)
                num_batches = writer.num_batches
                if num_batches:
                    _log.info("going on after batch %d of feature store %s", num_batches, folder)
        num_batches = _of_process_0(num_batches)
        if writer is not None:
            writer.write(progress)
        elif num_batches >= 0:  # takes its turns in the pass
            for _ in features.batches(first=num_batches):
                pass
    _wait_for_all(name)
    return _open(folder)


@contextlib.contextmanager
def _turn(folder) -> Iterator[None]:
    """Wait for another program that writes the same store."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = str(folder.with_name(f".{folder.name}.lock"))
    with contextlib.ExitStack() as stack:
        for attempt in itertools.count():
            try:
                stack.enter_context(locked(path, seconds=1.0))
                break
            except filelock.Timeout:
                if attempt == 0:
                    _log.warning("feature store %s is written by another program: waiting", folder)
                stop_if_asked()
        yield


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
            if file_checksum(folder / name) != checksum:
                return f"{name} has another checksum than it was written with"
    except OSError as error:
        return one_line(error, longest=_LONGEST_REASON)
    return None


def _manifest(folder):
    content = (folder / MANIFEST).read_bytes()
    return json_object(content, folder / MANIFEST, "the store is written again")


def _open(folder):
    manifest = _manifest(folder)
    names = sorted(name for name in manifest["checksums"] if name.startswith("states-"))
    shards = tuple(np.load(folder / name, mmap_mode="r") for name in names)
    mask = np.load(folder / "mask.npy") if "mask.npy" in manifest["checksums"] else None
    places = np.load(folder / "places.npy")
    return FeatureStore(tuple(manifest["shape"]), manifest["num_prefix"], mask, shards, places)


def _of_process_0(number):
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _wait_for_all(name):
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"feature store {name}")

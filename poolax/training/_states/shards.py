"""Token states written to disk in shards; a pass that is stopped goes on where it was."""

import dataclasses
import hashlib
import json
import math
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from poolax._files import json_object
from poolax._paths import write_atomically
from poolax._progress import Progress
from poolax._signals import PreemptedError
from poolax.training._states.host import HostStates

MANIFEST = "manifest.json"
_SHARD_BYTES = 2**26


class Pass(Protocol):
    """A pass over data whose batches are the same each time; see :class:`FeaturePass`."""

    num_examples: int
    num_prefix: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states."""
        ...

    @property
    def layout(self) -> list[int]:
        """What decides which examples are in which batch."""
        ...

    def program(self) -> str:
        """What is computed, as text."""
        ...

    def batches(
        self, progress: Progress = ..., *, first: int = ...
    ) -> Iterator[tuple[np.ndarray, HostStates]]:
        """States and the positions of their inputs, from a batch on."""
        ...


def file_checksum(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Some batches of a pass.

    Attributes:
        states: Their tokens, shape ``(rows, d)``.
        positions: Which examples, shape ``(num,)``.
        places: First row of each example and the one after its last, shape ``(num, 2)``.
        mask: True at real tokens; ``None`` if all are real.
        batches: Number of the first batch and of the one after the last.
    """

    states: np.ndarray
    positions: np.ndarray
    places: np.ndarray
    mask: np.ndarray | None
    batches: tuple[int, int]


class ShardWriter:
    """Writes one feature store, at first beside the place where it will stand.

    Each shard is known by a file that is written after it, with its checksum and the batches that it
    holds. Those of a pass with the same key and the same batches that was not finished are taken over.

    Args:
        folder: Where the store will stand.
        features: The pass that gives the states.
        key: What the store is known by.
        dtype: ``float32`` or ``bfloat16``.
    """

    def __init__(self, folder: pathlib.Path, features: Pass, key: dict[str, Any], dtype: Any):
        self._folder, self._features, self._dtype = folder, features, dtype
        self._key = {**key, "batches": features.layout}
        batches = hashlib.sha256(json.dumps(features.layout).encode()).hexdigest()[:8]
        # Other devices make other batches: what those have given stays until a store is whole.
        self._incomplete = folder.with_name(f"{_prefix(folder)}{batches}")
        self._manifest = {"key": key, "num_prefix": features.num_prefix}
        self._finished = self._read_finished()
        self._incomplete.mkdir(parents=True, exist_ok=True)

    @property
    def num_batches(self) -> int:
        """Number of batches whose states are written."""
        return self._finished[-1]["batches"][1] if self._finished else 0

    def write(self, progress: Progress) -> None:
        """Write what is missing, and put the store in its place.

        Raises:
            ValueError: for states that are not finite.
            PreemptedError: if the pass is asked to stop; what it has given is written.
        """
        for shard in _shards(self._features, self._dtype, self.num_batches, progress):
            self._add(shard)
        kept = {MANIFEST, *self._close()}
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._incomplete.rename(self._folder)
        for path in list(self._folder.iterdir()):
            if path.name not in kept:
                path.unlink()
        for path in self._folder.parent.glob(f"{_prefix(self._folder)}*"):
            shutil.rmtree(path)

    def _read_finished(self):
        finished, first = [], 0
        while (shard := self._read(len(finished), first)) is not None:
            finished.append(shard)
            first = shard["batches"][1]
        return finished

    def _read(self, number, first):
        """What is known of a shard; ``None`` unless it is whole and begins with that batch."""
        path = self._incomplete / _shard_name(number)
        try:
            shard = json_object(path.read_bytes(), path, "the shard is written again")
            start, stop = shard["batches"]
            if shard["key"] != self._key or start != first or stop <= start:
                return None
            for name in (_states_name(number), _rows_name(number)):
                if file_checksum(self._incomplete / name) != shard["checksums"][name]:
                    return None
        except (OSError, KeyError, TypeError, ValueError):
            return None
        return shard

    def _add(self, shard):
        number = len(self._finished)
        states, rows = (self._incomplete / name(number) for name in (_states_name, _rows_name))
        np.save(states, shard.states)
        masks = {} if shard.mask is None else {"mask": shard.mask}
        np.savez(rows, positions=shard.positions, places=shard.places, **masks)
        known = {
            "key": self._key,
            "batches": list(shard.batches),
            "checksums": {path.name: file_checksum(path) for path in (states, rows)},
        }
        write_atomically(self._incomplete / _shard_name(number), json.dumps(known))
        self._finished.append(known)

    def _close(self):
        num_examples = self._features.num_examples
        places, masks = np.zeros((num_examples, 3), np.int64), None
        checksums = {}
        for number, known in enumerate(self._finished):
            checksums[_states_name(number)] = known["checksums"][_states_name(number)]
            with np.load(self._incomplete / _rows_name(number)) as rows:
                positions = rows["positions"]
                places[positions, 0], places[positions, 1:] = number, rows["places"]
                if "mask" in rows:
                    if masks is None:
                        masks = np.zeros((num_examples, *rows["mask"].shape[1:]), np.bool_)
                    masks[positions] = rows["mask"]
        for name, array in {"places.npy": places, "mask.npy": masks}.items():
            if array is not None:
                np.save(self._incomplete / name, array)
                checksums[name] = file_checksum(self._incomplete / name)
        manifest = self._manifest | {"shape": self._features.shape, "checksums": checksums}
        write_atomically(self._incomplete / MANIFEST, json.dumps(manifest, indent=1))
        return checksums


def _prefix(folder):
    return f"incomplete.{folder.name}."


def _states_name(number):
    return f"states-{number:05d}.npy"


def _rows_name(number):
    return f"rows-{number:05d}.npz"


def _shard_name(number):
    return f"shard-{number:05d}.json"


def _shards(features, dtype, first, progress) -> Iterator[_Shard]:
    """Batches of a pass in pieces of bounded size; of one that is stopped, those that were done."""
    stopped = None
    pieces, stop = [], first
    try:
        for positions, tokens in features.batches(progress, first=first):
            pieces.append((positions, tokens.mask, *_rows_of(tokens, dtype)))
            stop += 1
            if sum(flat.nbytes for _, _, flat, _ in pieces) >= _SHARD_BYTES:
                yield _joined(pieces, first, stop)
                pieces, first = [], stop
    except PreemptedError as error:
        stopped = error
    if pieces:
        yield _joined(pieces, first, stop)
    if stopped is not None:
        raise stopped


def _rows_of(tokens, dtype):
    """Real tokens of a batch, and how many each example has."""
    values = np.asarray(tokens.states)
    if tokens.mask is None:
        counts = np.full(len(values), math.prod(values.shape[1:-1]))
        flat = values.reshape(-1, values.shape[-1])
    else:
        counts = tokens.mask.reshape(len(values), -1).sum(-1)
        flat = values[tokens.mask]
    if not np.isfinite(flat).all():
        raise ValueError("states: expected finite values at real tokens, got some that are not")
    # NumPy's files know no bfloat16: its bits are kept as whole numbers.
    flat = flat.astype(dtype)
    return flat.view(np.uint16) if dtype == jnp.bfloat16 else flat, counts


def _joined(pieces, first, stop):
    positions, masks, flat, counts = zip(*pieces, strict=True)
    ends = np.cumsum(np.concatenate(counts))
    return _Shard(
        states=np.concatenate(flat),
        positions=np.concatenate(positions),
        places=np.stack([ends - np.concatenate(counts), ends], axis=-1),
        mask=None if masks[0] is None else np.concatenate(masks),
        batches=(first, stop),
    )

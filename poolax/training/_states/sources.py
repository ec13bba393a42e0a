"""Where heads read token states: from memory, from disk, or from the backbone as it runs."""

import dataclasses
import logging
import math
import pathlib
import shutil
from typing import ClassVar, Protocol

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from poolax._paths import absolute_path
from poolax._progress import Progress, no_progress
from poolax.training._states.features import FeaturePass
from poolax.training._states.host import HostStates
from poolax.training._states.padding import count_tokens

MODES = ("memory", "disk", "stream")
_log = logging.getLogger(__name__)


class TokenSource(Protocol):
    """Token states of ``N`` examples.

    Axes stand in one order, whatever the source: examples, then groups where there are any, then parts,
    tokens and width. Who wants another one, as a trainer does, moves them.

    Attributes:
        shape: Shape of all states, ``(N, *parts, n, d)``.
        dtype: Dtype of the states that are fetched.
        token_counts: Fewest and most real tokens of a sequence, at least one.
        num_prefix: Number of tokens in front that stand for no part of the input.
        mask: True at real tokens of all examples; ``None`` if all are real, or it is not known before.
        has_groups: Whether each group of heads has states of its own, which are then on the second axis
            of what is fetched.
        is_resident: Whether all states are in memory.
        is_computed: Whether a backbone makes the states whenever they are read, so that nothing is
            known of their values before, and one reading serves all heads.
    """

    has_groups: ClassVar[bool]

    @property
    def is_resident(self) -> bool:
        """Whether all states are in memory."""
        ...

    @property
    def is_computed(self) -> bool:
        """Whether a backbone makes the states whenever they are read."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the states that are fetched."""
        ...

    @property
    def token_counts(self) -> tuple[int, int]:
        """Fewest and most real tokens of a sequence, at least one."""
        ...

    @property
    def num_prefix(self) -> int:
        """Number of prefix tokens."""
        ...

    @property
    def mask(self) -> Bool[np.ndarray, "N *parts n"] | None:
        """True at real tokens of all examples."""
        ...

    def fetch(self, positions: Int[np.ndarray, " num"]) -> HostStates:
        """States of some examples, in this order, shape ``(num, [group,] *parts, n, d)``."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether states are fetched with a mask, known before or not."""
        ...


@dataclasses.dataclass(frozen=True)
class MemorySource:
    """Token states in memory.

    Attributes:
        states: Shape ``(N, *parts, n, d)``.
        mask: True at real tokens; ``None`` if all are real.
        num_prefix: Number of prefix tokens.
    """

    has_groups: ClassVar[bool] = False
    is_resident = True
    is_computed = False

    states: Float[np.ndarray, "N *parts n d"]
    mask: Bool[np.ndarray, "N *parts n"] | None = None
    num_prefix: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states."""
        return self.states.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the states."""
        return self.states.dtype

    @property
    def token_counts(self) -> tuple[int, int]:
        """Fewest and most real tokens of a sequence."""
        return count_tokens(self.mask, self.shape[-2])

    @property
    def has_masks(self) -> bool:
        """Whether states are fetched with a mask."""
        return self.mask is not None

    def fetch(self, positions):
        """States of some examples, in this order; of one after the other not a copy."""
        rows = _rows(positions)
        return HostStates(self.states[rows], None if self.mask is None else self.mask[rows])


@dataclasses.dataclass(frozen=True)
class PooledSource:
    """Pooled vectors of several fixed poolers, each a sequence of one token.

    Attributes:
        pooled: Shape ``(N, group, *parts, d)``.
    """

    has_groups: ClassVar[bool] = True
    is_resident = True
    is_computed = False

    pooled: Float[np.ndarray, "N group *parts d"]
    num_prefix = 0
    mask = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states, that of one group."""
        num_examples, _, *rest = self.pooled.shape
        return (num_examples, *rest[:-1], 1, rest[-1])

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the vectors."""
        return self.pooled.dtype

    @property
    def token_counts(self) -> tuple[int, int]:
        """A sequence has one token."""
        return 1, 1

    @property
    def has_masks(self) -> bool:
        """Whether states are fetched with a mask."""
        return False

    def fetch(self, positions):
        """States of some examples in all groups, shape ``(num, group, *parts, 1, d)``."""
        return HostStates(self.pooled[positions][..., None, :], None)


@dataclasses.dataclass(frozen=True)
class StreamedSource:
    """Token states that the backbone makes whenever they are read.

    Attributes:
        features: The pass over the backbone.
    """

    has_groups: ClassVar[bool] = False
    is_resident = False
    is_computed = True

    features: FeaturePass

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states."""
        return self.features.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the states."""
        return self.features.one_output.states.dtype

    @property
    def token_counts(self) -> tuple[int, int]:
        """Fewest and most real tokens of a sequence."""
        return self.features.token_counts

    @property
    def num_prefix(self) -> int:
        """Number of prefix tokens."""
        return self.features.num_prefix

    @property
    def mask(self) -> Bool[np.ndarray, "N *parts n"] | None:
        """True at real tokens of texts, which is known before."""
        return self.features.text_mask

    @property
    def has_masks(self) -> bool:
        """Whether states are fetched with a mask."""
        return self.features.one_output.mask is not None

    def fetch(self, positions):
        """States of some examples, in this order.

        Raises:
            ValueError: for states that are not finite.
        """
        tokens = self.features.of_examples(positions)
        check_finite_states(tokens.states, tokens.mask)
        return tokens


def _rows(positions):
    """Positions, as a slice where each is the one after the one before."""
    if len(positions) and np.all(np.diff(positions) == 1):
        return slice(positions[0], positions[-1] + 1)
    return positions


def check_finite_states(states: np.ndarray, mask: np.ndarray | None) -> None:
    """Refuse states that are not finite at real tokens.

    Args:
        states: Shape ``(N, *parts, n, d)``.
        mask: True at real tokens; ``None`` if all are real.

    Raises:
        ValueError: if there are any.
    """
    finite = np.isfinite(states).all(axis=-1)
    if mask is not None:
        finite = finite | ~mask
    if not finite.all():
        raise ValueError(
            f"states: expected finite values at real tokens, got {np.sum(~finite)} tokens that are not"
        )


def memory_source(features: FeaturePass, progress: Progress = no_progress) -> MemorySource:
    """Token states of a pass over the backbone, in memory.

    Args:
        features: The pass.
        progress: Called with a description, the number done and the total.

    Returns:
        The source.

    Raises:
        ValueError: for states that are not finite.
    """
    tokens = features.collect(progress)
    check_finite_states(tokens.states, tokens.mask)
    return MemorySource(tokens.states, tokens.mask, features.num_prefix)


def choose_mode(
    wanted: str, shape: tuple[int, ...], *, budget: int, directory: epath.PathLike | None
) -> str:
    """Where token states are kept; the choice and its cost are logged.

    Args:
        wanted: One of :data:`MODES`, or ``"auto"``.
        shape: Shape of all states.
        budget: Bytes that states in memory may take.
        directory: Where states on disk would stand; ``None`` if nowhere.

    Returns:
        One of :data:`MODES`.

    Raises:
        ValueError: for disk without a directory.

    Example:
        >>> choose_mode("auto", (10, 4, 8), budget=2_000, directory=None)
        'memory'
        >>> choose_mode("auto", (10, 4, 8), budget=1_000, directory=None)
        'stream'
    """
    size = 4 * math.prod(shape)
    if wanted == "disk" and directory is None:
        raise ValueError("feature_dir: expected a folder for states on disk, got neither it nor out")
    mode = wanted
    if wanted == "auto":
        fits_on_disk = directory is not None and size < _free_bytes(directory) / 2
        mode = "memory" if size <= budget else "disk" if fits_on_disk else "stream"
    _log.info(
        "features: %s; token states of %s take %.3g MB as float32, of a budget of %.3g MB",
        mode,
        " x ".join(map(str, shape)),
        size / 1e6,
        budget / 1e6,
    )
    return mode


def _free_bytes(directory):
    folder = pathlib.Path(absolute_path(directory))
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free

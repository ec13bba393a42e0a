"""What examples are read from, and what is asked of it."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from poolax._splits import row_digests

# Examples that are read at once where all are.
_CHUNK = 256


@runtime_checkable
class Inputs(Protocol):
    """What examples are read from: a NumPy array, or anything that reads examples when indexed.

    Not all that they hold need be in memory: ``fingerprint`` stands for the content in that of the data
    set. Those that are :class:`ContentInputs` need not be read to be compared.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's, ``(N, ...)``."""
        ...

    def __len__(self) -> int:
        """The number ``N`` of examples."""
        ...

    def __getitem__(self, indices: Any, /) -> np.ndarray:
        """The examples at an index array or slice, shape ``(len(indices), ...)``."""
        ...


@runtime_checkable
class ContentInputs(Protocol):
    """:class:`Inputs` that know what tells their examples apart, without reading them as arrays."""

    def content_digests(self, indices: np.ndarray) -> list[bytes]:
        """A digest of the content of each example at these indices."""
        ...


def content_digests(
    inputs: Inputs | np.ndarray, indices: np.ndarray, mask: np.ndarray | None = None
) -> list[bytes]:
    """Digests of some examples: equal where these are, as pixels or as the files that they stand in.

    Args:
        inputs: What examples are read from.
        indices: Which, shape ``(num,)``.
        mask: True at real tokens of all examples; ``None`` if all are real.

    Returns:
        A digest for each.
    """
    if isinstance(inputs, ContentInputs):
        return inputs.content_digests(indices)
    return row_digests(inputs[indices], None if mask is None else mask[indices])


def all_digests(
    inputs: Inputs | np.ndarray, indices: np.ndarray, mask: np.ndarray | None = None
) -> Iterator[bytes]:
    """Digests as :func:`content_digests` gives them, of many examples, read in chunks."""
    for start in range(0, len(indices), _CHUNK):
        yield from content_digests(inputs, indices[start : start + _CHUNK], mask)


def dtype_of(inputs: Any) -> np.dtype | None:
    """The dtype of examples; ``None`` for inputs that say none before they are read, as lists."""
    return getattr(inputs, "dtype", None)


def are_integers(inputs: Any) -> bool:
    """Whether inputs are whole numbers, as token ids are: an array, or inputs of such a dtype.

    Example:
        >>> are_integers(np.array([[1, 2]])), are_integers(["a text"]), are_integers(np.ones(2))
        (True, False, False)
    """
    dtype = dtype_of(inputs)
    return dtype is not None and jnp.issubdtype(dtype, jnp.integer)

"""What a pass maps: some of the inputs that are given, texts as tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from poolax._inputs import Inputs, are_integers, dtype_of
from poolax.backbones import Backbone


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Inputs and their mask, arrays or what reads examples when it is indexed.

    Attributes:
        inputs: Shape ``(N, ...)``; of texts token ids, ``(N, *parts, n)``.
        mask: True at real tokens; ``None`` if all are real.
    """

    inputs: Any
    mask: Any = None

    @property
    def arrays(self) -> dict[str, Any]:
        """By name, without a mask that is not there."""
        return {"inputs": self.inputs} | ({} if self.mask is None else {"mask": self.mask})

    @property
    def parts(self) -> int:
        """Sequences of an example of texts."""
        return self.inputs.shape[1] if len(self.inputs.shape) == 3 else 1

    @property
    def text_mask(self) -> Bool[np.ndarray, "N *parts n"] | None:
        """True at real tokens of token ids, whose padding can be cut off; ``None`` for other inputs."""
        return np.asarray(self.mask[:]) if self.mask is not None and are_integers(self.inputs) else None


def prepare(
    backbone: Backbone,
    inputs: Inputs | np.ndarray | Sequence[str],
    mask: Any = None,
    indices: Int[np.ndarray, " num"] | None = None,
) -> tuple[Backbone, Prepared]:
    """Do on the host, once, what the backbone's preprocessing does there.

    Args:
        backbone: A frozen backbone.
        inputs: As for ``extract_states``.
        mask: True at real tokens; ``None`` if all are real.
        indices: Which inputs; ``None`` for all of them.

    Returns:
        The backbone with what is left to preprocess, and what it is to map.

    Raises:
        ValueError: if there is no input, or as the backbone's ``prepare`` raises for texts.
    """
    is_text = isinstance(inputs, (str, bytes))
    if is_text or not hasattr(inputs, "__len__") or getattr(inputs, "ndim", 1) == 0:
        raise ValueError(f"inputs: expected an array, texts or Inputs, got {inputs!r:.80}")
    if len(inputs) == 0:
        raise ValueError("inputs: expected at least one, got none")
    chosen = backbone.preprocessing.collect(inputs) if isinstance(inputs, Sequence) else inputs
    if indices is not None:
        _check_indices(indices, len(chosen))
        chosen = _Rows(chosen, indices)
        mask = None if mask is None else _Rows(mask, indices)
    if not backbone.preprocessing.on_host:
        return backbone, Prepared(chosen, mask)
    return dataclasses.replace(backbone, preprocess=None), _tokens(backbone, chosen[:], mask)


def _tokens(backbone, texts, mask):
    if are_integers(texts):  # token ids already
        return Prepared(np.asarray(texts), None if mask is None else np.asarray(mask[:]))
    shape = np.shape(texts)
    ids, mask = map(np.asarray, backbone.prepare(np.ravel(texts).tolist(), mask))
    return Prepared(ids.reshape(*shape, -1), mask.reshape(*shape, -1))


def of_rows(array: Any, positions: Int[np.ndarray, " num"]) -> Any:
    """Some rows of an array, read when they are indexed."""
    return _Rows(array, positions)


class _Rows:
    """Some rows of an array, or of inputs that are read when indexed."""

    def __init__(self, array: Any, indices: Int[np.ndarray, " num"]):
        self._array = array
        self._indices = indices
        self.shape = (len(indices), *array.shape[1:])
        self.dtype = dtype_of(array)

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, batch: Any, /) -> np.ndarray:
        return self._array[self._indices[batch]]


def _check_indices(indices, num_inputs):
    found = np.asarray(indices)
    whole = found.ndim == 1 and np.issubdtype(found.dtype, np.integer)
    if not whole or (found.size and not 0 <= found.min() <= found.max() < num_inputs):
        raise ValueError(f"indices: expected numbers from 0 to {num_inputs - 1}, got {indices!r:.80}")

"""The frozen backbone's pass over the data, where a probe's time goes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from poolax._records import TokenStates
from poolax.backbones import Backbone
from poolax.data._dataset import Inputs
from poolax.training.step import Mapper, Progress, no_progress


def extract_states(
    backbone: Backbone,
    inputs: Inputs | np.ndarray | Sequence[str],
    mask: Any = None,
    *,
    indices: Int[np.ndarray, " num"] | None = None,
    batch_size: int = 256,
    progress: Progress = no_progress,
) -> TokenStates:
    """Token states of inputs, computed once, batches split over the local devices.

    Args:
        backbone: A frozen backbone.
        inputs: Raw inputs, shape ``(N, ...)``, or texts, shape ``(N,)`` or ``(N, parts)``; the
            backbone's ``preprocess`` is applied. Inputs that are read when indexed are read batch by
            batch.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        indices: Which inputs, shape ``(num,)``; ``None`` for all of them.
        batch_size: Inputs at a time over all devices.
        progress: Called with a description, the number done and the total.

    Returns:
        The states, shape ``(N, n, d)`` or ``(N, parts, n, d)``, and their mask as NumPy arrays, in the
        order of ``indices`` if given.

    Raises:
        ValueError: if there is no input, or as the backbone raises.

    Example:
        >>> import jax
        >>> from poolax.backbones import ViT, ViTConfig
        >>> config = ViTConfig(4, 2, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit = ViT.init(config, jax.random.key(0))
        >>> extract_states(vit, np.zeros((10, 4, 4, 1), np.float32)).states.shape
        (10, 5, 8)
    """
    if len(inputs) == 0:
        raise ValueError("inputs: expected at least one, got none")
    if indices is not None:
        inputs = _Rows(np.asarray(inputs) if isinstance(inputs, Sequence) else inputs, indices)
        mask = None if mask is None else _Rows(mask, indices)
    if getattr(backbone.preprocess, "on_host", False):
        inputs, mask = _prepare_texts(backbone, inputs, mask)
        backbone = dataclasses.replace(backbone, preprocess=None)
    arrays = {"inputs": inputs} if mask is None else {"inputs": inputs, "mask": mask}

    def forward(params, batch):
        return backbone.apply(params, *backbone.prepare(batch["inputs"], batch.get("mask")))

    return Mapper(forward, batch_size)(backbone.params, arrays, progress, "features")


class _Rows:
    """Some rows of an array, or of inputs that are read when indexed."""

    def __init__(self, array: Any, indices: Int[np.ndarray, " num"]):
        self._array = array
        self._indices = indices
        self.shape = (len(indices), *array.shape[1:])

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, batch: Any, /) -> np.ndarray:
        return self._array[self._indices[batch]]


def _prepare_texts(backbone, texts, mask):
    if isinstance(texts, _Rows):
        texts = texts[:]
    if np.issubdtype(np.asarray(texts).dtype, np.integer):  # token ids already
        return texts, mask
    shape = np.shape(texts)
    ids, mask = map(np.asarray, backbone.prepare(np.ravel(texts).tolist(), mask))
    return ids.reshape(*shape, -1), mask.reshape(*shape, -1)

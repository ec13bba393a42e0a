"""What the quickstart needs of a modality."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from poolax.backbones import Backbone
from poolax.data import Dataset
from poolax.quickstart._settings import Settings
from poolax.records import TokenStates
from poolax.training import Task


@dataclasses.dataclass(frozen=True)
class Noisy:
    """Inputs that noise is added to.

    Attributes:
        inputs: Shape ``(N, ...)``.
        masks: Their masks, or ``None``.
        encode: Token states of one input, and its mask if there are ``masks``.
    """

    inputs: Any
    masks: Any
    encode: Callable[..., TokenStates]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token vectors on which one-block models are trained, all of them real.

    Attributes:
        values: Shape ``(N, n, d)``.
        targets: Targets of ``task``.
        splits: Indices of the three splits.
        task: What the blocks predict.
    """

    values: np.ndarray
    targets: Any
    splits: dict[str, np.ndarray]
    task: Task


@dataclasses.dataclass(frozen=True)
class Study:
    """A modality: its backbone, its tasks, and where its sensitivity is measured.

    Attributes:
        backbone: Pretrained without labels, and frozen.
        tasks: Data sets and what heads predict on them; noise is measured on heads of the first.
        noisy: Inputs that noise is added to.
        tokens: What blocks are trained on.
        noise_sizes: Root mean square norms of the noise.
        further_share: Share of the settings' passes that tasks after the first take, for many examples
            need fewer.
    """

    backbone: Backbone
    tasks: tuple[tuple[Dataset, Task], ...]
    noisy: Noisy
    tokens: Tokens
    noise_sizes: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
    further_share: float = 1.0

    def epochs(self, settings: Settings, index: int) -> int:
        """Passes over the training examples of the task at an index."""
        if index == 0:
            return settings.epochs
        return max(1, round(self.further_share * settings.further_epochs))

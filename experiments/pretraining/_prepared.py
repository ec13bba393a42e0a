"""What a run of pretraining is made of."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from poolax import data
from poolax.cli import errors_in_file_flags, is_own, load_data
from poolax.training.pretraining import (
    Batches,
    MaskedPatches,
    MaskedSeries,
    MaskedTokens,
    NextToken,
    Objective,
)
from pretraining._options import Options
from pretraining._presets import Preset

# What readers of data call what is given for --data.
_OTHER_NAMES = ("name", "path", "source", "sources", "dataset")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run is made of.

    Attributes:
        objective: What is learned.
        batches: What it is learned from.
        evaluation: Batches held out, or ``None``.
        preprocess: From raw inputs to the model's.
        images: Preprocessed images that are trained on; else ``None``.
    """

    objective: Objective
    batches: Batches
    evaluation: Batches | None
    preprocess: Any
    images: np.ndarray | None = None

    def inputs(self, count: int) -> Any:
        """Fixed inputs, the first that are held out: token ids, images or series."""
        batch = (self.batches if self.evaluation is None else self.evaluation).batch(0)
        name = next(name for name in ("ids", "images", "series") if name in batch)
        rows = np.asarray(batch[name][:count])
        if name != "ids":
            return rows
        most = self.objective.config.max_tokens
        return rows[:, :most].astype(np.int32)


def objective_of(preset: Preset) -> type[Objective]:
    """The kind of objective of a preset."""
    kinds: dict[str, type[Objective]] = {
        "gpt2": NextToken,
        "bert": MaskedTokens,
        "moment": MaskedSeries,
    }
    return kinds.get(preset.family, MaskedPatches)


def datasets(options: Options, names: Sequence[str]) -> list[data.Dataset]:
    """Data sets that have a name.

    Args:
        options: The command line.
        names: Their names.
    """
    found = []
    for name in names:
        embedded = data.entry(name).embedded is not None
        folder = None if embedded else options.data_dir
        found.append(load_data(name, options.files, data_dir=folder)[1])
    return found


def is_file(name: str) -> bool:
    """Whether one of ``--data`` is a file or folder, not the name of a data set.

    Raises:
        ValueError: where it is neither.
    """
    return is_own(name, argument="data")


@contextlib.contextmanager
def errors_of_data() -> Iterator[None]:
    """Let errors of readers name ``--data``, and flags as one writes them."""
    try:
        with errors_in_file_flags():
            yield
    except OSError:
        raise
    except ValueError as error:
        argument, colon, rest = str(error).partition(": ")
        if argument not in _OTHER_NAMES:
            raise
        raise ValueError(f"data{colon}{rest}") from error

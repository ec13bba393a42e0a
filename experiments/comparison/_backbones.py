"""The backbone that a command line names."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from poolax.backbones import Backbone
from poolax.cli import check_takes, load_backbone
from poolax.data import Dataset


def named_backbone(options: Any, modality: str) -> tuple[Backbone, str] | None:
    """The backbone of ``--backbone`` and its name in tables; ``None`` where none is named.

    Args:
        options: The command line.
        modality: What the backbone has to read.

    Raises:
        ValueError: for another model, or a backbone of another modality.
    """
    path = getattr(options, "backbone", None)  # not all scripts that take cases over let one name it
    return None if path is None else (_loaded(path, modality), pathlib.Path(path).name)


def check_named(options: Any, modality: str, datasets: Mapping[str, Dataset]) -> None:
    """Refuse a backbone that does not take the inputs of a data set, before anything is trained.

    Args:
        options: The command line.
        modality: What the backbone has to read.
        datasets: What is compared on.

    Raises:
        ValueError: for the first data set that it does not take; the error says what fits.
    """
    named = named_backbone(options, modality)
    if named is not None:
        for data in datasets.values():
            check_takes(named[0], data, options.backbone, argument="backbone")


# Once for all data sets.
@functools.cache
def _loaded(path: str, modality: str) -> Backbone:
    return load_backbone(path, modality, argument="backbone")

"""The kinds of records of bounds.py."""

import pathlib
from typing import Any, TypedDict

from poolax.records import Records, record_kind, with_attention_names

# What earlier records call kinds of attention.
_FORMER = {"dot": "dot product", "l2": "L2"}


def former(what: dict[str, Any]) -> dict[str, Any] | None:
    """What earlier programs said of a measurement, where that is something else."""
    label = _FORMER.get(what.get("attention", ""))
    return None if label is None else {**what, "attention": label}


def read(path: pathlib.Path) -> Records:
    """Records of bounds.py; those of earlier programs are renewed, as their kinds are known here."""
    return Records.read(path)


class _Measured(TypedDict):
    id: str
    suite: str
    wall_s: float
    command: str


class _Bounds(_Measured):
    """What stands in a record of the bounds of one layer or block with random weights."""

    attention: str
    target: str
    num_tokens: int
    dim: int
    num_heads: int
    seed: int
    published: float
    sharp: float
    tight: float


class _Constants(_Bounds):
    """And of a search beside them."""

    local: float
    found: float


@record_kind("bounds_inputs", renew=with_attention_names)
class BoundsOfInputs(_Constants):
    """A search over inputs, for given weights."""

    scale: float


@record_kind("bounds_lengths")
class BoundsOfLengths(_Bounds):
    """Bounds at one of several numbers of tokens."""

    scale: float


@record_kind("bounds_geometry")
class BoundsOfGeometry(_Constants):
    """A search over inputs, for given weights, where changes are measured in one of two norms."""

    scale: float
    geometry: str


@record_kind("bounds_weights", renew=with_attention_names)
class BoundsOfWeights(_Constants):
    """A search over inputs and weights of given norms."""

    norm: float
    tight_of_norms: float
    sharp_of_norms: float


@record_kind("bounds_layer")
class BoundsOfLayer(_Measured):
    """An attention layer of a backbone at sentences."""

    backbone: str
    inputs: str
    num_sentences: int
    searched: int
    layer: int
    medians: dict[str, float]
    per_sentence: dict[str, list[Any]]
    local_over_measured: float
    sharp_over_local: float
    tight_over_found: float
    sharp_over_found: float
    smallest_sharp_over_local: float


@record_kind("bounds_backbone")
class BoundsOfBackbone(_Measured):
    """A whole backbone with a pooler behind it, at sentences."""

    backbone: str
    inputs: str
    num_sentences: int
    pooler: str
    measured: list[float]
    log10_local: list[float]
    log10_tight: float
    log10_sharp: float

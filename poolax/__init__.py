"""Which pooling to put on a Transformer, and why: poolers, bounds and benchmarks in JAX."""

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolax import attention as attention
    from poolax import backbones as backbones
    from poolax import blocks as blocks
    from poolax import bounds as bounds
    from poolax import codec as codec
    from poolax import data as data
    from poolax import empirical as empirical
    from poolax import measure as measure
    from poolax import pooling as pooling
    from poolax import records as records
    from poolax import reporting as reporting
    from poolax import startup as startup
    from poolax import statistics as statistics
    from poolax import training as training

__version__ = _version("poolax")

# Imported when they are used: research code that only wants a bound need not load Orbax, and a program
# takes signals before it loads JAX.
_PARTS = (
    "attention",
    "backbones",
    "blocks",
    "bounds",
    "codec",
    "data",
    "empirical",
    "measure",
    "pooling",
    "records",
    "reporting",
    "startup",
    "statistics",
    "training",
)


def __getattr__(name: str):
    if name in _PARTS:
        return importlib.import_module(f"poolax.{name}")
    raise AttributeError(f"module 'poolax' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_PARTS})

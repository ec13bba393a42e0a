"""Which pooling to put on a Transformer, and why: poolers, bounds and benchmarks in JAX."""

import importlib
from importlib.metadata import version as _version

from poolax import attention as attention
from poolax import blocks as blocks
from poolax import bounds as bounds
from poolax import empirical as empirical
from poolax import pooling as pooling

__version__ = _version("poolax")

# These bring Orbax and scikit-learn along, which research code that only wants a bound need not load.
_LAZY = ("backbones", "data", "reporting", "training")


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(f"poolax.{name}")
    raise AttributeError(f"module 'poolax' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])

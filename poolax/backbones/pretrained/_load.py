"""Loading pretrained backbones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.typing import Dtype

from poolax.backbones._base import Backbone
from poolax.backbones.pretrained._bert import BERT
from poolax.backbones.pretrained._fill import Sharding, fill_params
from poolax.backbones.pretrained._sources import Architecture
from poolax.backbones.pretrained._tensors import TensorFiles

ARCHITECTURES: tuple[Architecture, ...] = (BERT,)


def from_state_dict(
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    *,
    dtype: Dtype | None = None,
    sharding: Sharding | None = None,
    stacked: bool = False,
) -> Backbone:
    """Build a backbone from tensors by name and the configuration beside them.

    Args:
        tensors: Tensors by name, as Hugging Face, timm or the authors' code name them.
        config: What their ``config.json`` holds.
        dtype: What floating parameters are cast to; ``None`` leaves them as they are.
        sharding: Where parameters go: one sharding, or a function of path and shape; ``None`` for the
            default device.
        stacked: Whether to stack the parameters of blocks, as :meth:`Backbone.stack_layers` does.

    Returns:
        The backbone, without preprocessing.

    Raises:
        ValueError: for an unknown architecture, a configuration that asks for what is not
            implemented, or missing, extra or wrongly shaped tensors.
    """
    architecture = find_architecture(config)
    shapes = tensors.shapes if isinstance(tensors, TensorFiles) else _shapes(tensors)
    ours = architecture.read_config(config, shapes)
    params = fill_params(architecture, ours, tensors, dtype=dtype, sharding=sharding, stacked=stacked)
    return architecture.backbone(params=params, config=ours)


def find_architecture(config: Mapping[str, Any]) -> Architecture:
    """The family that a configuration belongs to."""
    name = config.get("model_type")
    for architecture in ARCHITECTURES:
        if name in architecture.names:
            return architecture
    valid = ", ".join(name for architecture in ARCHITECTURES for name in architecture.names)
    raise ValueError(f"config: expected model_type to be one of {valid}, got {name!r}")


def _shapes(tensors):
    return {name: np.shape(tensor) for name, tensor in tensors.items()}

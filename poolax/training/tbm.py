"""Checkpoints of trained one-block models, with what the bounds have to know about them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import PyTree

from poolax import codec
from poolax._checkpoint import open_checkpoint, replace_checkpoint
from poolax._checks import check_instance, check_path
from poolax.attention import from_config as kind_from
from poolax.blocks import TBM
from poolax.pooling import from_config as pooler_from

_KEY = "tbm"


@dataclasses.dataclass(frozen=True)
class TrainedTBM:
    """A trained one-block model.

    Attributes:
        model: The model.
        variables: ``{"params": ...}``.
        config: What its checkpoint says of it.
    """

    model: TBM
    variables: PyTree
    config: Mapping[str, Any]


def save_tbm(
    directory: epath.PathLike,
    model: TBM,
    variables: PyTree,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Save a one-block model, in place of one that stands in ``directory``.

    The old one is removed when the new one is complete. Every process has to call; one writes.

    Args:
        directory: Its checkpoint directory: a new or empty one, or one that this function wrote.
        model: The model, with ReLU and a pooler of this package.
        variables: ``{"params": ...}``.
        metadata: Plain JSON to keep beside it, such as ``num_tokens`` and ``radius`` of its inputs.

    Raises:
        ValueError: for another activation, a pooler that has no name, or a directory with anything else
            in it.

    Example:
        >>> import tempfile
        >>> from poolax.pooling import AveragePool
        >>> model = TBM(num_heads=2, pooler=AveragePool())
        >>> variables = model.init(jax.random.key(0), jnp.ones((3, 4)))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_tbm(directory, model, variables, metadata={"radius": 2.0})
        ...     trained = load_tbm(directory)
        >>> trained.model == model, trained.config["radius"]
        (True, 2.0)
    """
    check_path("directory", directory)
    check_instance("model", model, TBM, "a TBM")
    if model.activation is not nn.relu:
        raise ValueError(f"model: expected a TBM with nn.relu, got {model.activation!r}")
    structure = codec.to_plain(model, of="tbm", name="model")
    replace_checkpoint(
        directory,
        variables,
        metadata={**(metadata or {}), _KEY: structure},
        is_own=lambda saved: _KEY in saved,
    )


def load_tbm(directory: epath.PathLike) -> TrainedTBM:
    """Load a one-block model that :func:`save_tbm` saved, on any number of devices.

    Args:
        directory: Its checkpoint directory.

    Returns:
        The model and its variables.

    Raises:
        ValueError: if there is no checkpoint, it is not one of a one-block model, or it is damaged.
    """
    with open_checkpoint(directory) as saved:
        config = saved.metadata
        if _KEY not in config:
            raise ValueError(
                f"directory: expected the checkpoint of a one-block model, got {directory}"
            )
        variables = saved.read()
    return TrainedTBM(_model_of(config[_KEY]), jax.tree.map(jnp.asarray, variables), config)


def _model_of(structure):
    """The model of what its checkpoint says, as it is said now or was before the codec."""
    if "options" in structure:
        return codec.from_plain(structure, of="tbm", name="model")
    return TBM(
        num_heads=structure["num_heads"],
        pooler=pooler_from(structure["pooler"]),
        attention=kind_from(structure["attention"]),
        use_bias=structure["use_bias"],
    )

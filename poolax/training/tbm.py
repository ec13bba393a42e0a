"""Checkpoints of trained one-block models, with what the bounds have to know about them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import PyTree

from poolax import attention
from poolax._checkpoint import checkpoint_metadata, restore_checkpoint, save_checkpoint
from poolax.blocks import TBM
from poolax.pooling import from_config, to_config

_KINDS = {cls.__name__: cls for cls in (attention.DotProduct, attention.L2, attention.Cosine)}


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
    """Save a one-block model; what stood in ``directory`` is replaced.

    Args:
        directory: Its checkpoint directory.
        model: The model, with ReLU and a pooler of this package.
        variables: ``{"params": ...}``.
        metadata: Plain JSON to keep beside it, such as ``num_tokens`` and ``radius`` of its inputs.

    Raises:
        ValueError: for another activation, or a pooler that has no name.

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
    if model.activation is not nn.relu:
        raise ValueError(f"model: expected a TBM with nn.relu, got {model.activation!r}")
    kind = model.attention
    structure = {
        "num_heads": model.num_heads,
        "pooler": to_config(model.pooler),
        "attention": {"name": type(kind).__name__, "options": dataclasses.asdict(kind)},
        "use_bias": model.use_bias,
    }
    path = epath.Path(directory)
    if path.exists():
        path.rmtree()
    save_checkpoint(path, 0, variables, metadata={**(metadata or {}), "tbm": structure})


def load_tbm(directory: epath.PathLike) -> TrainedTBM:
    """Load a one-block model that :func:`save_tbm` saved, on any number of devices.

    Args:
        directory: Its checkpoint directory.

    Returns:
        The model and its variables.

    Raises:
        ValueError: if there is no checkpoint, or it is not one of a one-block model.
    """
    config = checkpoint_metadata(directory)
    if "tbm" not in config:
        raise ValueError(f"directory: expected the checkpoint of a one-block model, got {directory}")
    structure = config["tbm"]
    kind = structure["attention"]
    model = TBM(
        num_heads=structure["num_heads"],
        pooler=from_config(structure["pooler"]),
        attention=_KINDS[kind["name"]](**kind["options"]),
        use_bias=structure["use_bias"],
    )
    return TrainedTBM(model, jax.tree.map(jnp.asarray, restore_checkpoint(directory)), config)

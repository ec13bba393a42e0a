"""Our own checkpoints of backbones, and configurations as plain JSON."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.typing import Dtype

from poolax import attention
from poolax._checkpoint import (
    SavedCheckpoint,
    checkpoint_metadata,
    latest_step,
    open_checkpoint,
    save_checkpoint,
)
from poolax._checks import check_choice, check_instance
from poolax.backbones import _layers
from poolax.backbones._base import Backbone
from poolax.backbones._bert import Bert, BertConfig
from poolax.backbones._decoder import Decoder, DecoderConfig
from poolax.backbones._gpt2 import GPT2, GPT2Config
from poolax.backbones._lipsformer import LipsFormer, LipsFormerConfig
from poolax.backbones._moment import Moment, MomentConfig
from poolax.backbones._preprocess import ImagePreprocess
from poolax.backbones._series import SeriesPreprocess
from poolax.backbones._swin import Swin, SwinConfig
from poolax.backbones._tokens import TextPreprocess
from poolax.backbones._vit import ViT, ViTConfig
from poolax.backbones.pretrained._fill import Sharding

_FAMILIES: dict[str, type[Backbone]] = {
    family.__name__: family for family in (ViT, Bert, GPT2, Decoder, Moment, Swin, LipsFormer)
}
_DATACLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(ViTConfig, BertConfig, GPT2Config, DecoderConfig, MomentConfig),
        *(SwinConfig, LipsFormerConfig),
        *(ImagePreprocess, TextPreprocess, SeriesPreprocess),
        *(attention.DotProduct, attention.L2, attention.Cosine, attention.Rotary),
        *(attention.LinearScaling, attention.DynamicScaling, attention.YarnScaling),
        *(attention.LongRopeScaling, attention.Llama3Scaling),
    )
}
_KEY = "backbone"


def save(backbone: Backbone, directory: epath.PathLike) -> None:
    """Save a backbone with Orbax, its configuration and preprocessing as JSON beside it.

    Every process has to call; one writes, parameters that are sharded over processes once.

    Args:
        backbone: The backbone.
        directory: Where to, local or ``gs://``; without a checkpoint in it.

    Raises:
        ValueError: if there is a checkpoint, or the preprocessing is not one of this library.
    """
    check_instance("backbone", backbone, Backbone, "a Backbone")
    dtype = backbone.compute_dtype
    settings = {
        "family": type(backbone).__name__,
        "config": to_plain(backbone.config, "config"),
        "preprocess": to_plain(backbone.preprocess, "preprocess"),
        "compute_dtype": None if dtype is None else jnp.dtype(dtype).name,
        "remat": backbone.remat,
    }
    save_checkpoint(directory, 0, backbone.params, metadata={_KEY: settings})


def is_saved_backbone(path: str | os.PathLike[str]) -> bool:
    """Whether :func:`save` wrote a directory."""
    if latest_step(path) is None:
        return False
    # Heads of a sweep name their backbone in the same field.
    settings = checkpoint_metadata(path).get(_KEY)
    return isinstance(settings, Mapping) and "family" in settings


def load_saved(
    directory: epath.PathLike, *, dtype: Dtype | None, sharding: Sharding | None, stacked: bool
) -> Backbone:
    """Load what :func:`save` wrote; arguments as for ``load``."""
    with open_checkpoint(directory) as saved:
        return _load(saved, dtype=dtype, sharding=sharding, stacked=stacked)


def _load(saved: SavedCheckpoint, *, dtype, sharding, stacked) -> Backbone:
    settings = saved.metadata[_KEY]
    check_choice("family", settings["family"], _FAMILIES)
    family = _FAMILIES[settings["family"]]
    config = from_plain(settings["config"])
    structure = saved.structure()
    _check_params(family, config, structure, saved.directory)
    was_stacked = _layers.is_stacked(structure["encoder"])
    stacks_now = stacked and not was_stacked
    if stacks_now:
        family(params=None, config=config).check_stackable()

    def place(path, shape):
        default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return (sharding(path, shape) if callable(sharding) else sharding) or default

    def target(path, leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        kept = dtype if floating and dtype is not None else leaf.dtype
        kept = jax.dtypes.canonicalize_dtype(kept)
        return jax.ShapeDtypeStruct(leaf.shape, kept, sharding=place(path, leaf.shape))

    like = _layers.map_with_path(target, structure)
    params = saved.restore(like, cast=True)
    if stacks_now:
        params["encoder"] = _layers.stack_blocks(params["encoder"], consume=True)

        def move(path, leaf):
            return jax.device_put(leaf, place(path, leaf.shape))

        params = _layers.map_with_path(move, params)
    return family(
        params=params,
        config=config,
        preprocess=from_plain(settings["preprocess"]),
        compute_dtype=settings["compute_dtype"] and jnp.dtype(settings["compute_dtype"]),
        remat=settings["remat"],
    )


def _check_params(family, config, structure, directory):
    def expected(stacked):
        model = family.init(config, jax.random.key(0))
        return model.stack_layers() if stacked else model

    stacked = _layers.is_stacked(structure["encoder"])
    wanted = _layers.leaf_shapes(jax.eval_shape(lambda: expected(stacked)).params)
    found = _layers.leaf_shapes(structure)
    differing = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if differing:
        raise ValueError(
            f"path_or_hub_id: expected the parameters of {family.__name__} in {directory}, got "
            f"{len(differing)} others: {', '.join(differing[:10])}"
        )


def to_plain(value: Any, name: str) -> Any:
    """A configuration as plain JSON: dataclasses become objects with their type's name.

    Args:
        value: The configuration.
        name: What to call it in an error.

    Returns:
        Plain JSON.

    Raises:
        ValueError: for what is not of this library.
    """
    kind = type(value).__name__
    if kind in _DATACLASSES:
        names = [field.name for field in dataclasses.fields(value)]
        return {"type": kind} | {n: to_plain(getattr(value, n), f"{name}.{n}") for n in names}
    if isinstance(value, tuple):
        return [to_plain(part, name) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    known = ", ".join(_DATACLASSES)
    raise ValueError(f"{name}: expected one of {known} or plain values, got {value!r}")


def from_plain(value: Any) -> Any:
    """The configuration that :func:`to_plain` wrote.

    Raises:
        ValueError: for a type or fields that this version of the library does not have.
    """
    if isinstance(value, dict):
        fields = dict(value)
        kind = fields.pop("type", None)
        check_choice("type", kind, _DATACLASSES)
        try:
            return _DATACLASSES[kind](**{name: from_plain(part) for name, part in fields.items()})
        except TypeError as error:
            raise ValueError(f"{kind}: expected the fields of this version, got: {error}") from None
    if isinstance(value, list):
        return tuple(from_plain(part) for part in value)
    return value

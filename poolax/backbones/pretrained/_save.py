"""Our own checkpoints of backbones, and configurations as plain JSON."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.typing import Dtype

from poolax import attention
from poolax._checkpoint import checkpoint_metadata, latest_step, restore_checkpoint, save_checkpoint
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
        "config": to_plain(backbone.config),
        "preprocess": to_plain(backbone.preprocess),
        "compute_dtype": None if dtype is None else jnp.dtype(dtype).name,
        "remat": backbone.remat,
    }
    save_checkpoint(directory, 0, backbone.params, metadata={_KEY: settings})


def is_saved_backbone(path: str | os.PathLike[str]) -> bool:
    """Whether :func:`save` wrote a directory."""
    return latest_step(path) is not None and _KEY in checkpoint_metadata(path)


def load_saved(
    directory: epath.PathLike, *, dtype: Dtype | None, sharding: Sharding | None, stacked: bool
) -> Backbone:
    """Load what :func:`save` wrote; arguments as for ``load``."""
    settings = checkpoint_metadata(directory)[_KEY]
    check_choice("family", settings["family"], _FAMILIES)
    family = _FAMILIES[settings["family"]]
    config = from_plain(settings["config"])
    params = restore_checkpoint(directory)
    _check_params(family, config, params, directory)
    backbone = family(
        params=jax.tree.map(np.asarray, params),
        config=config,
        preprocess=from_plain(settings["preprocess"]),
        compute_dtype=settings["compute_dtype"] and jnp.dtype(settings["compute_dtype"]),
        remat=settings["remat"],
    )
    if stacked:
        backbone.check_stackable()
        backbone = backbone.stack_layers()  # type: ignore[attr-defined]
    params = _layers.cast_floating(backbone.params, dtype)

    def place(path, leaf):
        where = sharding(path, leaf.shape) if callable(sharding) else sharding
        return jnp.asarray(leaf) if where is None else jax.device_put(leaf, where)

    return dataclasses.replace(backbone, params=_layers.map_with_path(place, params))


def _check_params(family, config, params, directory):
    def expected(stacked):
        model = family.init(config, jax.random.key(0))
        return model.stack_layers() if stacked else model

    stacked = _layers.is_stacked(params["encoder"])
    wanted = _layers.leaf_shapes(jax.eval_shape(lambda: expected(stacked)).params)
    found = _layers.leaf_shapes(params)
    differing = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if differing:
        raise ValueError(
            f"path_or_hub_id: expected the parameters of {family.__name__} in {directory}, got "
            f"{len(differing)} others: {', '.join(differing[:10])}"
        )


def to_plain(value: Any) -> Any:
    """A configuration as plain JSON: dataclasses become objects with their type's name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        check_choice("preprocess or configuration", name, _DATACLASSES)
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": name, **fields}
    if isinstance(value, tuple):
        return [to_plain(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"preprocess: expected one of {', '.join(_DATACLASSES)}, got {value!r}")


def from_plain(value: Any) -> Any:
    """The configuration that :func:`to_plain` wrote."""
    if isinstance(value, dict):
        name = value["type"]
        check_choice("type", name, _DATACLASSES)
        fields = {key: from_plain(part) for key, part in value.items() if key != "type"}
        return _DATACLASSES[name](**fields)
    if isinstance(value, list):
        return tuple(from_plain(part) for part in value)
    return value

"""Our own checkpoints of backbones."""

import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from etils import epath
from flax.typing import Dtype

from poolax import codec
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
from poolax.backbones._bert import Bert
from poolax.backbones._decoder import Decoder, RotaryEncoder
from poolax.backbones._gpt2 import GPT2
from poolax.backbones._lipsformer import LipsFormer
from poolax.backbones._moment import Moment
from poolax.backbones._patchtst import PatchTST
from poolax.backbones._swin import Swin
from poolax.backbones._t5 import T5
from poolax.backbones._timesfm import TimesFM
from poolax.backbones._vit import ViT
from poolax.backbones.pretrained._fill import Sharding
from poolax.backbones.pretrained._folder import save_folder
from poolax.backbones.pretrained._sentence import pooler_shapes
from poolax.pooling import from_config

_FAMILIES: dict[str, type[Backbone]] = {
    family.__name__: family
    for family in (
        ViT,
        Bert,
        GPT2,
        Decoder,
        RotaryEncoder,
        T5,
        Moment,
        TimesFM,
        PatchTST,
        Swin,
        LipsFormer,
    )
}
_KEY = "backbone"


def save(backbone: Backbone, directory: epath.PathLike, *, format: str = "orbax") -> None:
    """Save a backbone: with Orbax and its configuration as JSON beside it, or as it was loaded.

    Every process has to call; one writes, parameters that are sharded over processes once.

    ``format="huggingface"`` writes again what was loaded from a folder in that layout: the tensors of
    the backbone under their names and, unless ``load`` was given another, in their dtypes,
    configuration and tokenizer as they were, a pooler that the family keeps with them, and any other as
    modules of sentence-transformers. The tower of a larger model becomes a model of its own, such as
    ``clip_vision_model`` of a whole CLIP. Tensors that the backbone does not have, of heads
    (``pooler.dense``, ``lm_head``, a classifier) and of other towers, are left out, and a warning in
    the log names them. The folder appears whole or not at all. A GPT-2 with dot-product attention,
    BERT, ViT or MOMENT that was loaded from none, such as one that was pretrained here, is written as
    the reference library's plain model of its sizes.

    Args:
        backbone: The backbone.
        directory: Where to, local or ``gs://``; without a checkpoint in it, or new.
        format: ``"orbax"`` or ``"huggingface"``.

    Raises:
        ValueError: if there is a checkpoint or folder, the preprocessing or pooler is not one of this
            library, or for a backbone that cannot be written as such a folder.
    """
    check_instance("backbone", backbone, Backbone, "a Backbone")
    check_choice("format", format, ("orbax", "huggingface"))
    if format == "huggingface":
        save_folder(backbone, directory)
        return
    dtype = backbone.compute_dtype
    settings = {
        "family": type(backbone).__name__,
        "config": codec.to_plain(backbone.config, name="config"),
        "preprocess": codec.to_plain(backbone.preprocess, name="preprocess"),
        "compute_dtype": None if dtype is None else jnp.dtype(dtype).name,
        "remat": backbone.remat,
    }
    if backbone.pooler is not None:
        settings["pooler"] = codec.to_plain(backbone.pooler, of="pooler", name="pooler")
    if backbone.origin is not None:
        settings["origin"] = codec.to_plain(backbone.origin, of="origin", name="origin")
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
    config = codec.from_plain(settings["config"], name="config")
    structure = saved.structure()
    pooler = None if settings.get("pooler") is None else from_config(settings["pooler"])
    _check_params(family, config, pooler, structure, saved.directory)
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
        preprocess=codec.from_plain(settings["preprocess"], name="preprocess"),
        compute_dtype=settings["compute_dtype"] and jnp.dtype(settings["compute_dtype"]),
        remat=settings["remat"],
        pooler=pooler,
        origin=codec.from_plain(settings.get("origin"), of="origin", name="origin"),
    )


def _check_params(family, config, pooler, structure, directory):
    def expected(stacked):
        model = family.init(config, jax.random.key(0))
        return model.stack_layers() if stacked else model

    stacked = _layers.is_stacked(structure["encoder"])
    wanted = _layers.leaf_shapes(jax.eval_shape(lambda: expected(stacked)).params)
    found = _layers.leaf_shapes(structure)
    if pooler is not None:
        given = _layers.leaf_shapes(structure.get("pooler", {}))
        shapes = pooler_shapes(pooler, config.width, given)
        wanted |= {f"pooler/{path}": shape for path, shape in shapes.items()}
    differing = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if differing:
        raise ValueError(
            f"path_or_hub_id: expected the parameters of {family.__name__} in {directory}, got "
            f"{len(differing)} others: {', '.join(differing[:10])}"
        )

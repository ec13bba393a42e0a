"""What a command is pointed at: one-block models, a head, or a backbone."""

from typing import Any

import jax
from etils import epath

from poolax import backbones
from poolax._checkpoint import checkpoint_metadata, latest_step
from poolax._paths import absolute_path
from poolax.backbones import Backbone, LipsFormer, Swin
from poolax.data import Dataset
from poolax.training import Head, TrainedTBM, load_head, load_tbm

Blocks = dict[str, TrainedTBM]


def load_model(path: str) -> Blocks | Head | Backbone:
    """The model at ``path``: a checkpoint, a folder of a quickstart, or a backbone or its hub id.

    A folder of one-block models, and a quickstart's folder that has one, gives all of them by name.
    """
    folder = absolute_path(path)
    if backbones.is_saved_backbone(folder) or not folder.is_dir() or (folder / "config.json").exists():
        return backbones.load(path)
    if (folder / "blocks").is_dir():
        folder = folder / "blocks"
    if _is_checkpoint(folder):
        found = _load_checkpoint(folder)
        return {folder.name: found} if isinstance(found, TrainedTBM) else found
    blocks = {child.name: _load_checkpoint(child) for child in _checkpoints_in(folder)}
    found = {name: block for name, block in blocks.items() if isinstance(block, TrainedTBM)}
    if not found:
        # Also where there is no model at all: its message says what a backbone's folder holds.
        return backbones.load(path)
    return found


def load_backbone(
    path: str, modality: str, dataset: Dataset | None = None, *, argument: str = "model"
) -> Backbone:
    """The backbone at ``path``, for data sets of a modality.

    Args:
        path: Directory or hub id.
        modality: What it has to read.
        dataset: What it is asked to read; ``None`` if that is checked later.
        argument: Which argument named it, for messages.

    Raises:
        ValueError: for another model, a backbone of another modality, or one that does not take the
            data set's inputs.
    """
    backbone = load_model(path)
    if not isinstance(backbone, Backbone):
        raise ValueError(f"{argument}: expected a backbone, got {type(backbone).__name__} ({path})")
    if backbone.modality != modality:
        what = "" if dataset is None else f" for {dataset.name!r}"
        raise ValueError(
            f"{argument}: expected a backbone of modality {modality}{what}, got {backbone.modality} "
            f"({path})"
        )
    if dataset is not None:
        check_takes(backbone, dataset, path, argument=argument)
    return backbone


def check_takes(backbone: Backbone, dataset: Dataset, path: str, *, argument: str = "model") -> None:
    """Refuse a backbone that does not take the images or series of a data set.

    Args:
        backbone: The backbone.
        dataset: The data set, of its modality.
        path: Where the backbone was loaded from.
        argument: Which argument named it, for messages.

    Raises:
        ValueError: for images of other channels or sizes, and series that it refuses; the error says
            what fits.
    """
    if backbone.modality == "vision":
        height, width, channels = dataset.inputs.shape[-3:]
        config = backbone.config
        is_fixed = isinstance(backbone, LipsFormer | Swin)
        least = config.image_size if is_fixed else config.patch_size
        fits = height == width == least if is_fixed else min(height, width) >= least
        if channels == config.num_channels and fits:
            return
        size = f"{least} × {least}" if is_fixed else f"at least {least} × {least}"
        raise ValueError(
            f"{argument}: expected one for images of {height} × {width} pixels and {channels} channels "
            f"({dataset.name!r}), got {path}, which takes {size} and {config.num_channels}"
        )
    if backbone.modality == "series":
        mask: Any = None if dataset.mask is None else dataset.mask[:1]

        def embedded(series: Any) -> Any:
            return backbone.embed(backbone.params, *backbone.prepare(series, mask))

        try:
            jax.eval_shape(embedded, dataset.inputs[:1])
        except ValueError as error:
            shape = " × ".join(map(str, dataset.inputs.shape[1:]))
            raise ValueError(
                f"{argument}: expected one for series of {shape} steps ({dataset.name!r}), got {path}: "
                f"{error}"
            ) from error


def inputs_beside(path: str, name: str) -> epath.Path | None:
    """The file ``name`` beside the one-block models at ``path``, if there is one."""
    folder = absolute_path(path)
    for candidate in (folder / "blocks" / name, folder / name, folder.parent / name):
        if candidate.exists():
            return candidate
    return None


def _is_checkpoint(folder):
    return any(child.name.isdigit() for child in folder.iterdir()) and latest_step(folder) is not None


def _checkpoints_in(folder):
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and _is_checkpoint(child)]


def _load_checkpoint(folder):
    config = checkpoint_metadata(folder)
    if "tbm" in config:
        return load_tbm(folder)
    return load_head(folder)

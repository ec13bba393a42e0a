"""What a command is pointed at: one-block models, a head, or a backbone."""

from etils import epath

from poolax import backbones
from poolax._checkpoint import checkpoint_metadata, latest_step
from poolax._paths import absolute_path
from poolax.backbones import Backbone
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


def load_backbone(path: str, modality: str, dataset: str) -> Backbone:
    """The backbone at ``path``, for a data set of a modality.

    Raises:
        ValueError: for another model, or a backbone of another modality.
    """
    backbone = load_model(path)
    if not isinstance(backbone, Backbone):
        raise ValueError(f"model: expected a backbone, got {type(backbone).__name__} ({path})")
    if backbone.modality != modality:
        raise ValueError(
            f"model: expected a backbone of modality {modality} for {dataset!r}, got "
            f"{backbone.modality} ({path})"
        )
    return backbone


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

"""Loading pretrained backbones: local directories, hub ids, state dicts, and our own checkpoints."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import huggingface_hub
import numpy as np
from etils import epath
from flax.typing import Dtype
from huggingface_hub import errors

from poolax._checks import did_you_mean
from poolax._files import DamagedFileError, damaged, reading
from poolax._text import one_line
from poolax.backbones._base import Backbone
from poolax.backbones._tokens import TextPreprocess
from poolax.backbones.pretrained._families import find_architecture
from poolax.backbones.pretrained._fill import (
    Sharding,
    check_dtype,
    fill_params,
    plan_params,
    resolve_names,
)
from poolax.backbones.pretrained._origin import read_origin
from poolax.backbones.pretrained._save import is_saved_backbone, load_saved
from poolax.backbones.pretrained._sentence import (
    MODULES_FILE,
    read_modules,
    read_pooling,
    with_pooler,
)
from poolax.backbones.pretrained._sentence_text import read_text_settings
from poolax.backbones.pretrained._sources import FETCH_OR_CHOOSE, ODD_FIELDS, read_json_object
from poolax.backbones.pretrained._tensors import (
    INDEX_FILE,
    TensorFiles,
    find_tensors,
    refuse_pickle,
    shard_names,
)

# A folder of nearly that name: "gpt2" beside "gpt2-out" is still a hub id.
_MISTYPED = 0.85
# What is fetched of the folders of a sentence encoder's modules.
_OF_MODULES = ("*.json", "*.safetensors")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load(
    path_or_hub_id: str | os.PathLike[str],
    *,
    dtype: Dtype | None = None,
    sharding: Sharding | None = None,
    stacked: bool = False,
    revision: str | None = None,
) -> Backbone:
    """Load a pretrained backbone.

    Tensors are read one at a time into the dtype and to the devices where they belong: the host holds
    little more than the parameters.

    Args:
        path_or_hub_id: A directory in Hugging Face layout (``config.json``, ``model.safetensors`` or
            shards with their index, ``tokenizer.json``), or of sentence-transformers (``modules.json``
            beside these), one ``.safetensors`` file, a directory that
            :func:`save` wrote, or a hub id such as ``"sentence-transformers/all-MiniLM-L6-v2"``,
            which is fetched once and kept in the hub's cache.
        dtype: What floating parameters are cast to, such as ``jnp.bfloat16``; ``None`` leaves them as
            they are stored.
        sharding: Where parameters go: one sharding, or a function of path and shape such as
            :func:`tensor_parallel` gives; ``None`` for the default device.
        stacked: Whether to stack the parameters of blocks, as ``stack_layers`` does.
        revision: Branch, tag or commit on the hub; ``None`` for its default.

    Returns:
        The backbone, with the preprocessing that the files describe, and the pooler that they hold: of
        a sentence encoder, SigLIP's head, CLIP's norm behind the CLS token, the normalised mean of BEiT
        and of timm's ``fc_norm``, or the pooling that a timm configuration names.

    Raises:
        ValueError: if there is no such directory or hub id, for an unknown architecture, a
            configuration that asks for what is not implemented, missing, extra or wrongly shaped
            tensors, or damaged or pickled files.

    Example:
        >>> import tempfile, jax
        >>> from poolax.backbones import Bert, BertConfig, save
        >>> config = BertConfig(50, 16, width=8, num_layers=2, num_heads=2, mlp_dim=16)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save(Bert.init(config, jax.random.key(0)), directory)
        ...     load(directory).config.width
        8
    """
    if not isinstance(path_or_hub_id, (str, os.PathLike)) or not os.fspath(path_or_hub_id):
        raise ValueError(f"path_or_hub_id: expected a path or a hub id, got {path_or_hub_id!r}")
    check_dtype(dtype)
    is_local = epath.Path(path_or_hub_id).expanduser().exists()
    if is_local and revision is not None:
        raise ValueError(f"revision: expected None for local files, got {revision!r}")
    if is_local and is_saved_backbone(path_or_hub_id):
        saved = load_saved(path_or_hub_id, dtype=dtype, sharding=sharding, stacked=stacked)
        return dataclasses.replace(saved, name=_name_of(path_or_hub_id))
    folder, weights = _find(path_or_hub_id, revision)
    modules = read_modules(folder)
    directory = folder / modules[0].path if modules else folder
    tensors = TensorFiles([weights]) if weights else find_tensors(directory)
    path = directory / "config.json"
    raw = read_json_object(path)
    with reading(path, "the configuration of a supported model", FETCH_OR_CHOOSE, *ODD_FIELDS):
        plan = _plan(raw, tensors.shapes)
    with reading(directory, "preprocessing that is supported", FETCH_OR_CHOOSE, *ODD_FIELDS):
        preprocess = plan.architecture.read_preprocess(directory, raw, plan.config)
    pooling = None
    if modules:
        if not isinstance(preprocess, TextPreprocess):
            raise damaged(
                folder / MODULES_FILE, "expected a model of texts, got another", FETCH_OR_CHOOSE
            )
        pooling = read_pooling(folder, modules, plan.config.width)
        preprocess = read_text_settings(
            folder,
            directory,
            preprocess,
            most=getattr(plan.config, "max_tokens", None),
            include_prompt=pooling.include_prompt,
        )
    params = fill_params(plan, tensors, dtype=dtype, sharding=sharding, stacked=stacked)
    backbone = plan.architecture.backbone(
        params=params,
        config=plan.config,
        preprocess=preprocess,
        name=_name_of(path_or_hub_id),
        pooler=plan.pooler,
        origin=read_origin(path, plan.architecture, resolve_names(plan, tensors), tensors, dtype),
    )
    if pooling is None or pooling.pooler is None:
        return backbone
    return with_pooler(backbone, pooling, dtype=dtype, sharding=sharding)


def _name_of(path_or_hub_id) -> str:
    """The last part of a hub id or path; of a file with the name that all have, its folder's."""
    path = pathlib.PurePath(os.path.abspath(os.fspath(path_or_hub_id)))
    return path.parent.name if path.name == "model.safetensors" else path.name


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
        stacked: Whether to stack the parameters of blocks, as ``stack_layers`` does.

    Returns:
        The backbone, without preprocessing.

    Raises:
        ValueError: for an unknown architecture, a configuration that asks for what is not
            implemented, or missing, extra or wrongly shaped tensors.
    """
    check_dtype(dtype)
    if isinstance(tensors, TensorFiles):
        shapes = tensors.shapes
    else:
        shapes = {name: np.shape(tensor) for name, tensor in tensors.items()}
    plan = _plan(config, shapes)
    params = fill_params(plan, tensors, dtype=dtype, sharding=sharding, stacked=stacked)
    return plan.architecture.backbone(params=params, config=plan.config, pooler=plan.pooler)


def _plan(raw, shapes):
    return plan_params(find_architecture(raw, shapes), raw, shapes)


def _find(path_or_hub_id, revision) -> tuple[pathlib.Path, pathlib.Path | None]:
    """The model's folder, and the file of its tensors where one is named."""
    path = pathlib.Path(path_or_hub_id).expanduser()
    if path.is_file():
        refuse_pickle(path)
        return path.parent, path
    if not path.is_dir():
        path = _fetch(os.fspath(path_or_hub_id), revision)
    return path, None


def _refuse_mistyped_folder(name: str) -> None:
    """Refuse what is meant as a folder: its name is not to be looked up on the network."""
    path = pathlib.Path(name)
    if path.parent.is_dir():
        folders = [str(found) for found in path.parent.iterdir() if found.is_dir()]
        hint = did_you_mean(str(path), folders, cutoff=_MISTYPED)
        if hint:
            raise ValueError(f"path_or_hub_id: expected a directory or a hub id, got {name!r}{hint}")


def _fetch(hub_id: str, revision: str | None) -> pathlib.Path:
    """Fetch what a backbone needs, once: the same weights may stand there in several formats."""
    if not _HUB_ID.fullmatch(hub_id):
        raise ValueError(
            f"path_or_hub_id: expected a directory, a .safetensors file or a hub id, got {hub_id!r}, "
            "where there is nothing"
        )
    _refuse_mistyped_folder(hub_id)

    def fetch(*patterns):
        # Files in folders belong to other formats.
        options = {"allow_patterns": list(patterns), "ignore_patterns": ["*/*"]}
        return pathlib.Path(huggingface_hub.snapshot_download(hub_id, revision=revision, **options))

    try:
        directory = fetch("*.json")
        inside = [module.path for module in read_modules(directory) if module.path]
        if inside:
            patterns = [f"{path}/{name}" for path in inside for name in _OF_MODULES]
            huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=patterns)
        if (directory / MODULES_FILE).exists() and not (directory / "config.json").exists():
            return directory
        has_shards = (directory / INDEX_FILE).exists()
        fetch(*(shard_names(directory) if has_shards else ["model.safetensors"]))
        if not list(directory.glob("*.safetensors")):
            fetch("*.safetensors")
        if not list(directory.glob("*.safetensors")):
            for name in huggingface_hub.list_repo_files(hub_id, revision=revision):
                refuse_pickle(pathlib.Path(name))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, DamagedFileError):
            raise
        lines = str(error).strip().splitlines()
        reason = one_line(lines[0], longest=500) if lines else type(error).__name__
        raise ValueError(
            f"path_or_hub_id: expected a directory or a hub id that can be reached or is in the cache, "
            f"got {hub_id!r}: {reason}"
        ) from None
    return directory

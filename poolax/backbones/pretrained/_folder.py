"""Folders in Hugging Face layout, written as they were read."""

import logging
import os

import safetensors.numpy
from etils import epath

from poolax._paths import new_folder
from poolax._processes import once
from poolax.backbones._base import Backbone
from poolax.backbones._tokens import TextPreprocess
from poolax.backbones.pretrained._origin import Origin
from poolax.backbones.pretrained._sentence_writing import write_modules
from poolax.backbones.pretrained._tensors import SINGLE_FILE
from poolax.backbones.pretrained._writing import (
    check_has_origin,
    named_tensors,
    sources_of_pooler,
    written_config,
    written_files,
)

_log = logging.getLogger(__name__)
# Tensors that a message names.
_NAMED = 3


def save_folder(backbone: Backbone, directory: epath.PathLike) -> None:
    """Write what ``load`` reads and the reference library loads; see :func:`save`.

    Args:
        backbone: One that was loaded from such a folder.
        directory: Where to; nothing may be there.

    Raises:
        ValueError: if something is there, or for a backbone whose folder cannot be written again.
    """
    origin = check_has_origin(backbone)
    tensors = named_tensors(backbone, origin)

    def write() -> None:
        with new_folder(directory) as folder:
            _write_texts(folder, backbone, origin)
            _write_tensors(folder / SINGLE_FILE, tensors)
            if backbone.pooler is not None and sources_of_pooler(backbone, origin) is None:
                write_modules(folder, backbone)

    once(write, f"{os.fspath(directory)}: the folder")
    left_out = origin.fields.get("left_out", [])
    if left_out:
        names = ", ".join(left_out[:_NAMED])
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        place = os.fspath(directory)
        _log.warning(
            "%s: tensors that the backbone does not have are left out: %s%s", place, names, more
        )


def _write_texts(folder, backbone, origin: Origin):
    for name, content in written_files(backbone, origin).items():
        (folder / name).write_bytes(content.encode("utf-8", errors="surrogateescape"))
    if isinstance(backbone.preprocess, TextPreprocess):
        (folder / "tokenizer.json").write_bytes(backbone.preprocess.tokenizer_json.encode())
    (folder / "config.json").write_bytes(written_config(origin).encode())


def _write_tensors(path, tensors):
    # The reference refuses files that do not say for which library they are.
    metadata = {"format": "pt"}
    if "://" in os.fspath(path):
        path.write_bytes(safetensors.numpy.save(tensors, metadata))
    else:
        safetensors.numpy.save_file(tensors, os.fspath(path), metadata)

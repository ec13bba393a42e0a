"""Where a backbone was loaded from: what its folder says beside parameters, and their names there."""

import base64
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.typing import Dtype

from poolax import codec
from poolax.backbones.pretrained._sources import Architecture
from poolax.backbones.pretrained._tensors import TensorFiles

# What a folder has beside configuration, tensors and tokenizer; texts all of them.
_KEPT_FILES = (
    *("added_tokens.json", "chat_template.jinja", "generation_config.json", "merges.txt"),
    *("preprocessor_config.json", "processor_config.json"),
    *("special_tokens_map.json", "tokenizer_config.json", "vocab.json"),
    "vocab.txt",
)
# What the reference library makes anew whatever a file has.
_DERIVED = re.compile(
    r".*(position_ids|relative_position_index|inv_freq|masked_bias|attn\.bias|num_batches_tracked)"
)


@codec.register("origin", "hugging_face")
@dataclasses.dataclass(frozen=True)
class Origin:
    """A folder in Hugging Face layout, without its parameters.

    Attributes:
        content: JSON of what is known of it. One text, so that backbones that pass through ``jit`` are
            quick to compare.
    """

    content: str

    def __repr__(self):
        """A digest in place of the content."""
        return f"Origin(<{hashlib.sha256(self.content.encode()).hexdigest()[:16]}>)"

    @functools.cached_property
    def fields(self) -> Mapping[str, Any]:
        """What is known.

        ``config`` is the text of the configuration, ``files`` has other texts by name, ``tensors`` name
        and shape of the tensor of each parameter, ``dtype`` is what they were cast to, or ``None``.
        ``left_out`` names the tensors that no parameter comes from, ``whole`` has by name those of
        which parameters take a part; neither is known of what earlier versions saved.
        """
        return json.loads(self.content)


def read_origin(
    config: pathlib.Path,
    architecture: Architecture,
    names: Mapping[str, str],
    tensors: TensorFiles,
    dtype: Dtype | None,
) -> Origin | None:
    """What is to be known of a folder for writing it again; ``None`` where there is no configuration.

    Args:
        config: The file of its configuration.
        architecture: The family.
        names: Name of the tensor of each parameter.
        tensors: The tensors.
        dtype: What parameters were cast to; ``None`` if they were not.
    """
    if not config.exists():
        return None
    directory = config.parent
    files = {
        name: (directory / name).read_bytes().decode("utf-8", errors="surrogateescape")
        for name in _KEPT_FILES
        if (directory / name).is_file()
    }
    used = set(names.values())
    whole = [name for name in used if any(re.search(part, name) for part in architecture.in_part)]
    fields = {
        "config": config.read_bytes().decode("utf-8"),
        "files": files,
        "tensors": {path: [name, list(tensors.shapes[name])] for path, name in names.items()},
        "dtype": None if dtype is None else np.dtype(dtype).name,
        "left_out": sorted(
            name for name in tensors if name not in used and not _DERIVED.fullmatch(name)
        ),
        "whole": {name: _to_text(tensors[name]) for name in sorted(whole)},
    }
    return Origin(json.dumps(fields))


def whole_tensors(origin: Origin) -> dict[str, np.ndarray]:
    """By name, the tensors of which parameters take a part, as the folder had them."""
    return {
        name: np.frombuffer(base64.b64decode(text), kind).reshape(shape)
        for name, (kind, shape, text) in origin.fields.get("whole", {}).items()
    }


def _to_text(tensor: np.ndarray) -> tuple[str, tuple[int, ...], str]:
    text = base64.b64encode(np.ascontiguousarray(tensor).tobytes()).decode()
    return tensor.dtype.name, tensor.shape, text

"""Where a backbone was loaded from: what its folder says beside parameters, and their names there."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.typing import Dtype

from poolax import codec

# What a folder has beside configuration, tensors and tokenizer; texts all of them.
_KEPT_FILES = (
    *("added_tokens.json", "chat_template.jinja", "generation_config.json", "merges.txt"),
    *("preprocessor_config.json", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"),
    "vocab.txt",
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
        """
        return json.loads(self.content)


def read_origin(
    config: pathlib.Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: Dtype | None,
) -> Origin | None:
    """What is to be known of a folder for writing it again; ``None`` where there is no configuration.

    Args:
        config: The file of its configuration.
        names: Name of the tensor of each parameter.
        shapes: Shapes of tensors by name.
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
    fields = {
        "config": config.read_bytes().decode("utf-8"),
        "files": files,
        "tensors": {path: [name, list(shapes[name])] for path, name in names.items()},
        "dtype": None if dtype is None else np.dtype(dtype).name,
    }
    return Origin(json.dumps(fields))

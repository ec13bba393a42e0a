"""Tensors of a checkpoint by name: their shapes at once, their values one at a time."""

import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors looks up by name
import numpy as np
import safetensors

from poolax.backbones.pretrained._sources import read_json_object

_SINGLE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_CONVERT = (
    "python -c \"import torch, safetensors.torch as s; t = torch.load('{path}', weights_only=True); "
    "t = t.get('model', t.get('state_dict', t)); s.save_file({{k: v.contiguous().clone() for k, v in "
    "t.items() if hasattr(v, 'contiguous')}}, '{target}')\""
)


class TensorFiles(Mapping[str, np.ndarray]):
    """Tensors of one or several safetensors files; each access reads one tensor.

    A file is opened for one tensor at a time: an open one keeps every page that was read in memory.

    Attributes:
        shapes: Shape of each tensor by name, known without reading any.
    """

    def __init__(self, paths: list[pathlib.Path]):
        self._files: dict[str, pathlib.Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118  not a mapping
                    self._files[name] = path
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a tensor."""
        with _open(self._files[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        """Names, file by file."""
        return iter(self._files)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._files)


def find_tensors(directory: pathlib.Path) -> TensorFiles:
    """The safetensors files of a directory.

    Args:
        directory: With ``model.safetensors``, or shards and ``model.safetensors.index.json``, or one
            other ``.safetensors`` file.

    Returns:
        The tensors.

    Raises:
        ValueError: if there are none, a shard is missing or a file is damaged; for a pickled
            checkpoint, with the command that converts it.
    """
    index = directory / INDEX_FILE
    if (directory / _SINGLE).exists():
        return TensorFiles([directory / _SINGLE])
    if index.exists():
        shards = shard_names(directory)
        missing = [shard for shard in shards if not (directory / shard).exists()]
        if missing:
            raise ValueError(
                f"path_or_hub_id: expected the {len(shards)} files that {index} lists, got no "
                f"{', '.join(missing[:10])}"
            )
        return TensorFiles([directory / shard for shard in shards])
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return TensorFiles(found)
    if found:
        raise ValueError(
            f"path_or_hub_id: expected {_SINGLE} or {INDEX_FILE} in {directory}, got "
            f"{', '.join(path.name for path in found[:10])}"
        )
    for path in sorted(directory.iterdir()):
        refuse_pickle(path)
    raise ValueError(f"path_or_hub_id: expected {_SINGLE} in {directory}, got no safetensors file")


def shard_names(directory: pathlib.Path) -> list[str]:
    """Names of the files that a directory's index lists."""
    weight_map = read_json_object(directory / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(
            f"path_or_hub_id: expected a weight_map in {directory / INDEX_FILE}, got {weight_map!r}"
        )
    return sorted(set(weight_map.values()))


def refuse_pickle(path: pathlib.Path) -> None:
    """Refuse a pickled checkpoint, which can run any code, with the command that converts it."""
    if path.suffix in _PICKLES:
        target = path.with_name(_SINGLE)
        raise ValueError(
            f"path_or_hub_id: expected safetensors, got the pickled {path.name}, which is never opened "
            f"here; convert it with: {_CONVERT.format(path=path, target=target)}"
        )


def _open(path: pathlib.Path):
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"path_or_hub_id: expected a whole safetensors file, got {path}: {error}"
        ) from None

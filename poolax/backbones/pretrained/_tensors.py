"""Tensors of a checkpoint by name: their shapes at once, their values one at a time."""

import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors looks up by name
import numpy as np
import safetensors

from poolax._files import damaged, reading
from poolax.backbones.pretrained._sources import FETCH_AGAIN, read_json_object

_SUFFIX = ".safetensors"
SINGLE_FILE = "model.safetensors"
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
    Of tensors that share memory safetensors writes one, and the names of the others in the file's
    metadata: they have that tensor here.

    Attributes:
        shapes: Shape of each tensor by name, known without reading any.
        folder: Where the files are.
    """

    def __init__(self, paths: list[pathlib.Path]):
        self._files: dict[str, pathlib.Path] = {}
        self._written: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.folder = paths[0].parent
        for path in paths:
            with _reading(path), _open(path) as file:
                for name in file.keys():  # noqa: SIM118  not a mapping
                    self._files[name] = path
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
                for name, written in (file.metadata() or {}).items():
                    if self._files.get(written) == path and name not in self._files:
                        self._files[name], self._written[name] = path, written
                        self.shapes[name] = self.shapes[written]

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a tensor."""
        path = self._files[name]
        with _reading(path), _open(path) as file:
            return file.get_tensor(self._written.get(name, name))

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of a name, told without reading it."""
        return name in self._files

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
    if (directory / SINGLE_FILE).exists():
        return TensorFiles([directory / SINGLE_FILE])
    if index.exists():
        return _find_shards(index)
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return TensorFiles(found)
    if found:
        raise ValueError(
            f"path_or_hub_id: expected {SINGLE_FILE} or {INDEX_FILE} in {directory}, got "
            f"{', '.join(path.name for path in found[:10])}"
        )
    for path in sorted(directory.iterdir()):
        refuse_pickle(path)
    raise ValueError(f"path_or_hub_id: expected {SINGLE_FILE} in {directory}, got no safetensors file")


def shard_names(directory: pathlib.Path) -> list[str]:
    """Names of the files that a directory's index lists, all of them inside the directory.

    Raises:
        ValueError: for an index that lists none, or something else than safetensors files inside.
    """
    return sorted(set(_weight_map(directory / INDEX_FILE).values()))


def _find_shards(index):
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).exists()]
    if missing:
        raise damaged(
            index,
            f"expected the {len(shards)} files that it lists, got no {', '.join(missing[:10])}",
            FETCH_AGAIN,
        )
    tensors = TensorFiles([index.parent / shard for shard in shards])
    lost = [name for name in weight_map if name not in tensors]
    if lost:
        raise damaged(
            index,
            f"expected the {len(weight_map)} tensors that it lists in these files, got no "
            f"{', '.join(lost[:10])}",
            FETCH_AGAIN,
        )
    return tensors


def _weight_map(index):
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise damaged(index, f"expected a weight_map, got {weight_map!r}", FETCH_AGAIN)
    for shard in weight_map.values():
        if not _is_inside(shard):
            raise damaged(
                index, f"expected safetensors files of its folder, got {shard!r}", FETCH_AGAIN
            )
    return weight_map


def _is_inside(shard):
    """Whether an entry names a file below the index's folder, whatever the system's separators."""
    if not isinstance(shard, str) or not shard.endswith(_SUFFIX) or "\0" in shard:
        return False
    path = pathlib.PureWindowsPath(shard)
    return not path.anchor and ".." not in path.parts


def refuse_pickle(path: pathlib.Path) -> None:
    """Refuse a pickled checkpoint, which can run any code, with the command that converts it."""
    if path.suffix in _PICKLES:
        target = path.with_name(SINGLE_FILE)
        raise ValueError(
            f"path_or_hub_id: expected safetensors, got the pickled {path.name}, which is never opened "
            f"here; convert it with: {_CONVERT.format(path=path, target=target)}"
        )


def _reading(path: pathlib.Path):
    # A tensor of a type that NumPy lacks is a TypeError or an AttributeError there.
    kinds = (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError)
    return reading(path, "a whole safetensors file", FETCH_AGAIN, *kinds)


def _open(path: pathlib.Path):
    return safetensors.safe_open(path, framework="numpy")

"""From parameters to tensors by name: the way that :mod:`_fill` takes, backwards."""

import json
from typing import Any

import jax
import numpy as np

from poolax.backbones import _layers
from poolax.backbones._base import Backbone
from poolax.backbones.pretrained._families import find_architecture
from poolax.backbones.pretrained._fill import stacked_place
from poolax.backbones.pretrained._making import make_origin
from poolax.backbones.pretrained._origin import Origin, whole_tensors
from poolax.backbones.pretrained._sources import Architecture, Convert, Sources


def named_tensors(backbone: Backbone, origin: Origin) -> dict[str, np.ndarray]:
    """The tensors that a backbone's parameters come from, under the names that they had.

    Where a parameter comes from is the family's one table; what it does to a tensor, all of which moves
    numbers and changes none, is done to places instead.

    Args:
        backbone: The backbone.
        origin: Where it was loaded from.

    Returns:
        Tensors by name, in the dtypes of the parameters.

    Raises:
        ValueError: for a family whose tensors hold more than its parameters, or other numbers.
    """
    known = origin.fields["tensors"]
    shapes = {name: tuple(shape) for name, shape in known.values()}
    architecture, raw, _ = _family_of(origin)
    is_tower = architecture.read_tower(raw) is not None
    sources = architecture.sources(backbone.config) | (sources_of_pooler(backbone, origin) or {})
    values, whole = _Parameters(backbone.params), whole_tensors(origin)
    tensors, covered = {}, {}
    for path, source in sources.items():
        stored = known[path][0]
        # A tower stands alone without the prefix that tells it from others.
        name = next(own for own in source.names if stored.endswith(own)) if is_tower else stored
        value = values[path]
        if name not in tensors:
            tensors[name] = np.zeros(shapes[stored], value.dtype)
            covered[name] = np.full(shapes[stored], stored in whole)
            if stored in whole:
                tensors[name][...] = whole[stored]
        moved = _assign(tensors[name], source.convert, value)
        _assign(covered[name], source.convert, True)
        if not moved:
            raise _refusal(backbone, name, "is changed as it is read")
    partly = next((name for name, places in covered.items() if not places.all()), None)
    if partly is not None:
        raise _refusal(backbone, partly, "is read in part")
    return tensors


def sources_of_pooler(backbone: Backbone, origin: Origin) -> Sources | None:
    """Where the backbone's pooler comes from; ``None`` unless its family keeps it with the backbone."""
    architecture, raw, shapes = _family_of(origin)
    pooler, sources = architecture.read_pooler(raw, backbone.config, shapes) or (None, {})
    return sources if pooler == backbone.pooler else None


def written_config(origin: Origin) -> str:
    """The text of a configuration for what is written: as it was, or a tower's alone."""
    architecture, raw, _ = _family_of(origin)
    tower, dtype = architecture.read_tower(raw), origin.fields["dtype"]
    if tower is None and dtype is None:
        return origin.fields["config"]
    fields = dict(raw if tower is None else tower)
    if dtype is not None:
        named = [name for name in ("dtype", "torch_dtype") if name in fields] or ["dtype"]
        fields |= dict.fromkeys(named, dtype)
    return json.dumps(fields, indent=2)


def written_files(backbone: Backbone, origin: Origin) -> dict[str, str]:
    """Texts beside the configuration by name: of a tower of images, those that are of images."""
    architecture, raw, _ = _family_of(origin)
    files: dict[str, str] = origin.fields["files"]
    if backbone.modality != "vision" or architecture.read_tower(raw) is None:
        return files
    return {name: content for name, content in files.items() if name.endswith("processor_config.json")}


def _family_of(origin: Origin) -> tuple[Architecture, dict[str, Any], dict[str, tuple[int, ...]]]:
    raw = json.loads(origin.fields["config"])
    shapes = {name: tuple(shape) for name, shape in origin.fields["tensors"].values()}
    return find_architecture(raw, shapes), raw, shapes


class _Parameters:
    """Parameters on the host by path, stacked blocks one by one."""

    def __init__(self, params: Any):
        def check(path, leaf):
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                raise ValueError(
                    f"backbone: expected parameters that one process holds, got {path} on several; "
                    "save(format='orbax') takes it"
                )
            return leaf

        leaves = jax.tree_util.tree_leaves_with_path(_layers.map_with_path(check, params))
        self._leaves = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves
        }

    def __getitem__(self, path: str) -> np.ndarray:
        if path in self._leaves:
            return np.asarray(self._leaves[path])
        group, index = stacked_place(path)
        return np.asarray(self._leaves[group][index])


def _assign(tensor: np.ndarray, convert: Convert, value: Any) -> bool:
    """Put a parameter where ``convert`` takes it from; whether ``convert`` then gives it back."""
    try:
        view = convert(tensor)
        if np.may_share_memory(view, tensor):
            view[...] = value
        else:
            # Axes that are merged are copied: places take the same way as numbers.
            places = convert(np.arange(tensor.size).reshape(tensor.shape))
            tensor.reshape(-1)[places] = value
        found = np.ascontiguousarray(convert(tensor))
    except IndexError:
        return False
    expected = np.ascontiguousarray(np.broadcast_to(value, found.shape), tensor.dtype)
    # Bit for bit, NaN included.
    return np.array_equal(found.reshape(-1).view(np.uint8), expected.reshape(-1).view(np.uint8))


def _refusal(backbone, name, problem):
    return ValueError(
        f"format: expected 'orbax' for this {type(backbone).__name__}, whose tensor {name} {problem}, "
        "got 'huggingface'"
    )


def check_has_origin(backbone: Backbone) -> Origin:
    """The backbone's origin, or what it would be of one that was loaded from no folder.

    Raises:
        ValueError: for a backbone that was loaded from a folder whose configuration describes more, or
            as :func:`make_origin` raises.
    """
    kind = f"{type(backbone).__name__} {backbone.name!r}" if backbone.name else type(backbone).__name__
    if backbone.origin is None:
        return make_origin(backbone)
    architecture, raw, _ = _family_of(backbone.origin)
    towers = [name for name in ("text_config", "vision_config") if raw.get(name)]
    if len(towers) > 1 and architecture.read_tower(raw) is None:
        raise ValueError(
            f"backbone: expected one that was loaded as a whole, got {kind}, one tower of a model "
            f"whose configuration has {' and '.join(towers)}"
        )
    return backbone.origin

"""From tensors by name to parameters on devices, one at a time."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.typing import Dtype
from jaxtyping import PyTree

from poolax._files import damaged
from poolax.backbones import _layers
from poolax.backbones.pretrained._sources import FETCH_OR_CHOOSE, Architecture, Sources
from poolax.backbones.pretrained._tensors import TensorFiles
from poolax.pooling import Pooler

Sharding = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding]

# Bytes; arrays that start at a multiple of it need no copy to become JAX arrays on a CPU.
_ALIGNMENT = 64

_BLOCK = re.compile(r"(.*/)?block_(\d+)/(.*)")


def check_dtype(dtype: Dtype | None) -> None:
    """Refuse a target dtype that weights cannot have."""
    if dtype is None:
        return
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise ValueError(f"dtype: expected a floating dtype, got {dtype!r}")
    if jax.dtypes.canonicalize_dtype(known) != known:
        raise ValueError(
            f"dtype: expected one that JAX has enabled, got {known}, which needs jax_enable_x64"
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a model's parameters are to be, before any tensor is looked at.

    Attributes:
        architecture: How to read the family.
        config: Our configuration.
        sources: Where each parameter comes from.
        expected: Shape of each parameter.
        pooler: The pooler that the checkpoint holds, or ``None``.
    """

    architecture: Architecture
    config: Any
    sources: Sources
    expected: dict[str, tuple[int, ...]]
    pooler: Pooler | None = None


def plan_params(
    architecture: Architecture, raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Plan:
    """The plan for a configuration, as read from JSON, and shapes of the tensors by name."""
    config = architecture.read_config(raw, shapes)
    sources, expected = architecture.sources(config), _expected_shapes(architecture, config)
    pooler, own = architecture.read_pooler(raw, config, shapes) or (None, {})
    if pooler is not None:
        tokens = jax.ShapeDtypeStruct((1, config.width), np.float32)
        variables = jax.eval_shape(pooler.init, jax.random.key(0), tokens)
        of_pooler = _layers.leaf_shapes(variables.get("params", {}))
        expected |= {f"pooler/{path}": shape for path, shape in of_pooler.items()}
    return Plan(architecture, config, sources | own, expected, pooler)


def fill_params(
    plan: Plan,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: Dtype | None,
    sharding: Sharding | None,
    stacked: bool,
) -> PyTree:
    """Build a model's parameters from tensors by name.

    Names and shapes of all tensors are checked before any is read. Then they are read one at a time,
    cast and put on their devices, so that the host holds little more than the parameters.

    Args:
        plan: What they are to be.
        tensors: Tensors by name.
        dtype: What parameters are cast to; ``None`` leaves them.
        sharding: Where parameters go: one sharding, or a function of path and shape.
        stacked: Whether parameters of blocks are stacked.

    Returns:
        The parameters.

    Raises:
        ValueError: for missing, extra or wrongly shaped tensors, numbers that are not floating, or
            blocks that cannot be stacked.
    """
    architecture, sources, expected = plan.architecture, plan.sources, plan.expected
    if stacked:
        architecture.backbone(params=None, config=plan.config).check_stackable()
    names = resolve_names(plan, tensors)
    _check_shapes(sources, names, expected, tensors)
    flat = {}
    for path, parts in _groups(sources, stacked):
        arrays = (_read(part, sources, names, tensors, dtype) for part in parts)
        shape = expected[parts[0]]
        if path == parts[0]:
            array = next(arrays)
        else:
            shape = (len(parts), *shape)
            array = _stack(arrays, shape)
        # Shares memory on a CPU where it can, which nobody else writes to.
        may_alias = isinstance(tensors, TensorFiles) or path != parts[0]
        place = sharding(path, shape) if callable(sharding) else sharding
        flat[path] = jax.device_put(np.ascontiguousarray(array), place, may_alias=may_alias)
    return traverse_util.unflatten_dict(flat, sep="/")


def _expected_shapes(architecture, config) -> dict[str, tuple[int, ...]]:
    model = jax.eval_shape(lambda: architecture.backbone.init(config, jax.random.key(0)))  # type: ignore
    return _layers.leaf_shapes(model.params)


def resolve_names(plan: Plan, tensors: Mapping[str, Any]) -> dict[str, str]:
    """Name of the tensor of each parameter.

    Raises:
        ValueError: for missing or extra tensors.
    """
    architecture, sources = plan.architecture, plan.sources
    prefix = _find_prefix(architecture, sources, tensors)
    found, missing = {}, []
    for path, source in sources.items():
        candidates = [prefix + name for name in source.names] + list(source.names)
        name = next((name for name in candidates if name in tensors), None)
        if name is not None:
            found[path] = name
        else:
            missing.append(prefix + source.names[0])
    if missing:
        missing = list(dict.fromkeys(missing))
        family = architecture.backbone.__name__
        raise _wrong(tensors, f"expected all of {family}, got none for {_listed(missing)}")
    used = set(found.values())
    ignored = [re.compile(pattern) for pattern in architecture.ignored]
    extra = [
        name
        for name in tensors
        if name not in used
        and not any(pattern.fullmatch(name.removeprefix(prefix)) for pattern in ignored)
    ]
    if extra:
        family = architecture.backbone.__name__
        raise _wrong(tensors, f"expected those of {family} alone, got {_listed(extra)}")
    return found


def _find_prefix(architecture, sources, tensors):
    """The prefix under which most parameters are there."""

    def count(prefix):
        return sum(
            any(prefix + name in tensors for name in source.names) for source in sources.values()
        )

    return max(("", *architecture.prefixes), key=count)


def _check_shapes(sources, names, expected, tensors):
    wrong = []
    for path, source in sources.items():
        shape = _shape(tensors, names[path])
        try:
            found = source.convert(np.broadcast_to(np.zeros((), np.float32), shape)).shape
        except (ValueError, IndexError):
            found = None
        if found != expected[path]:
            wrong.append(f"{names[path]} {shape} for {path} {expected[path]}")
    if wrong:
        raise _wrong(
            tensors, f"expected the shapes that the configuration says, got others for {_listed(wrong)}"
        )


def _shape(tensors, name):
    return tensors.shapes[name] if isinstance(tensors, TensorFiles) else np.shape(tensors[name])


def _groups(sources: Sources, stacked: bool) -> Iterator[tuple[str, list[str]]]:
    """Paths of our parameters with the paths that are stacked in each."""
    groups: dict[str, list[str]] = {}
    for path in sources:
        is_of_block = stacked and _BLOCK.fullmatch(path)
        groups.setdefault(stacked_place(path)[0] if is_of_block else path, []).append(path)
    yield from groups.items()


def stacked_place(path: str) -> tuple[str, int]:
    """Where a block's parameter stands among those of stacked blocks, and the block's number.

    Example:
        >>> stacked_place("encoder/block_3/norm1/scale")
        ('encoder/blocks/norm1/scale', 3)
    """
    match = _BLOCK.fullmatch(path)
    if match is None:
        raise ValueError(f"path: expected that of a block's parameter, got {path!r}")
    return f"{match[1] or ''}{_layers.STACKED}/{match[3]}", int(match[2])


def _read(path, sources, names, tensors, dtype) -> np.ndarray:
    stored = np.asarray(tensors[names[path]])
    if not jnp.issubdtype(stored.dtype, jnp.floating):
        raise _wrong(tensors, f"expected floating numbers in {names[path]}, got {stored.dtype}")
    array = sources[path].convert(stored)
    return array.astype(stored.dtype if dtype is None else dtype, copy=False)


def _wrong(tensors, problem):
    """The error for tensors that are not the model's: of a file's it names the folder."""
    if isinstance(tensors, TensorFiles):
        return damaged(tensors.folder, f"tensors: {problem}", FETCH_OR_CHOOSE)
    return ValueError(f"tensors: {problem}")


def _stack(arrays: Iterator[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Stack arrays in memory that a CPU device can take over as it is."""
    stacked = None
    for index, array in enumerate(arrays):
        if stacked is None:
            memory = np.empty(math.prod(shape) * array.itemsize + _ALIGNMENT, np.uint8)
            start = -memory.ctypes.data % _ALIGNMENT
            stacked = memory[start : len(memory) - _ALIGNMENT + start].view(array.dtype).reshape(shape)
        stacked[index] = array
    return np.asarray(stacked)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{len(names)}: {shown}{more}"

"""The settings of a sentence-transformers folder: what is pooled, how, and of which texts."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from flax.typing import Dtype

from poolax._checks import check_choice, check_count, check_flag, check_instance
from poolax._files import damaged, reading
from poolax.backbones import _layers
from poolax.backbones._base import Backbone
from poolax.backbones.pretrained._fill import Sharding
from poolax.backbones.pretrained._sources import FETCH_AGAIN, ODD_FIELDS, check_fields, read_json_object
from poolax.backbones.pretrained._tensors import TensorFiles, find_tensors
from poolax.pooling import (
    AveragePool,
    ConcatPool,
    FirstPool,
    LastPool,
    MaxPool,
    Pooler,
    PositionPool,
    ProjectedPool,
    SqrtPool,
    UnitPool,
    from_config,
)

MODULES_FILE = "modules.json"
OWN_MODULE = "poolax_pooling.PoolaxPooling"
"""Where the reference finds a pooler that it does not have, in a folder that poolax exported."""
OWN_WEIGHTS = "weights."
"""In front of the names of its parameters, whose parts stand between slashes."""

# In the order in which vectors stand side by side where a file of before version 6 asks for several.
POOLING_MODES: dict[str, tuple[str, Pooler]] = {
    "cls": ("pooling_mode_cls_token", FirstPool()),
    "max": ("pooling_mode_max_tokens", MaxPool()),
    "mean": ("pooling_mode_mean_tokens", AveragePool()),
    "mean_sqrt_len_tokens": ("pooling_mode_mean_sqrt_len_tokens", SqrtPool()),
    "weightedmean": ("pooling_mode_weightedmean_tokens", PositionPool()),
    "lasttoken": ("pooling_mode_lasttoken", LastPool()),
}
ACTIVATIONS: dict[str, str | None] = {
    "torch.nn.modules.linear.Identity": None,
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
}
_HERE = ("sentence_embedding", None)


@dataclasses.dataclass(frozen=True)
class Module:
    """An entry of ``modules.json``.

    Attributes:
        kind: Class of the reference library, or the full path of another.
        path: Folder inside of the model's, empty for that itself.
    """

    kind: str
    path: str


@dataclasses.dataclass(frozen=True)
class Pooling:
    """The pooler of a folder.

    Attributes:
        pooler: The pooler, ``None`` where the folder has none.
        parameters: Tensors of its parameters by path.
        include_prompt: Whether tokens of a prompt are pooled.
    """

    pooler: Pooler | None
    parameters: Mapping[str, np.ndarray]
    include_prompt: bool


def read_modules(folder: pathlib.Path) -> tuple[Module, ...]:
    """The modules of a folder, the Transformer first; none for a folder without ``modules.json``.

    Raises:
        ValueError: for modules that are not known, by name, or folders outside.
    """
    path = folder / MODULES_FILE
    if not path.exists():
        return ()
    with reading(path, "a list of modules", FETCH_AGAIN, ValueError, RecursionError):
        entries = json.loads(path.read_text(encoding="utf-8"))
        check_instance("content", entries, list, "a list")
        modules = tuple(map(_module, entries))
    known = ("Transformer", *_READERS)
    for index, module in enumerate(modules):
        if module.kind not in known or (index == 0) != (module.kind == "Transformer"):
            expected = "Transformer first" if index == 0 else f"one of {', '.join(_READERS)}"
            raise damaged(
                path, f"expected {expected}, got the module {module.kind}", "choose a model without it"
            )
    return modules


def _module(entry):
    check_instance("module", entry, dict, "an object")
    kind, path = entry.get("type"), entry.get("path", "")
    for name, value in (("type", kind), ("path", path)):
        check_instance(name, value, str, "a text")
    inside = pathlib.PureWindowsPath(path)
    if inside.anchor or ".." in inside.parts:
        raise ValueError(f"path: expected a folder inside, got {path!r}")
    if kind.startswith("sentence_transformers."):
        kind = kind.rsplit(".", 1)[-1]
    return Module(kind, path)


def read_pooling(folder: pathlib.Path, modules: tuple[Module, ...], width: int) -> Pooling:
    """The pooler that the modules behind the Transformer make up.

    Args:
        folder: The model's.
        modules: What :func:`read_modules` returned.
        width: Width of the token states.

    Raises:
        ValueError: for settings that are not implemented, or parameters that do not fit.
    """
    pooling, current = Pooling(None, {}, include_prompt=True), width
    for module in modules[1:]:
        inside = folder / module.path
        path = inside / "config.json"
        with reading(path, "settings that are supported", "choose another model", *ODD_FIELDS):
            fields = read_json_object(path)
            first = module.kind in ("Pooling", OWN_MODULE)
            if first != (pooling.pooler is None):
                raise ValueError(f"modules: expected one Pooling, then others, got {module.kind}")
            pooling, current = _READERS[module.kind](inside, fields, pooling, current)
    return pooling


def _read_pooling(folder, fields, pooling, width):
    del folder, pooling
    known = {mode for mode in fields if mode.startswith("pooling_mode")}
    modes = fields.get("pooling_mode")
    if modes is None:
        flags = {flag: mode for mode, (flag, _) in POOLING_MODES.items()}
        for flag in known:
            check_choice("pooling_mode", flag, flags)
        modes = [mode for flag, mode in flags.items() if fields.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    for mode in modes:
        check_choice("pooling_mode", mode, POOLING_MODES)
    dimension = fields.get("embedding_dimension", fields.get("word_embedding_dimension", width))
    check_fields({"embedding_dimension": dimension}, {"embedding_dimension": (width,)})
    include_prompt = fields.get("include_prompt", True)
    check_flag("include_prompt", include_prompt)
    poolers = tuple(POOLING_MODES[mode][1] for mode in modes)
    pooler = poolers[0] if len(poolers) == 1 else ConcatPool(poolers)
    return Pooling(pooler, {}, include_prompt), len(poolers) * width


def _read_dense(folder, fields, pooling, width):
    implemented = {"in_features": (width,), "use_residual": (False,)} | _in_place()
    check_fields(fields, implemented)
    features, use_bias = fields.get("out_features"), fields.get("bias", True)
    check_count("out_features", features)
    check_flag("bias", use_bias)
    activation = fields.get("activation_function", "torch.nn.modules.activation.Tanh")
    check_choice("activation_function", activation, ACTIVATIONS)
    tensors = find_tensors(folder)
    expected = {"linear.weight": (features, width)} | ({"linear.bias": (features,)} if use_bias else {})
    if tensors.shapes != expected:
        raise ValueError(f"tensors: expected {expected}, got {tensors.shapes}")
    parameters = {f"pooler/{path}": tensor for path, tensor in pooling.parameters.items()}
    parameters["dense/kernel"] = tensors["linear.weight"].T
    if use_bias:
        parameters["dense/bias"] = tensors["linear.bias"]
    pooler = ProjectedPool(pooling.pooler, features, ACTIVATIONS[activation], use_bias)
    return dataclasses.replace(pooling, pooler=pooler, parameters=parameters), features


def _read_normalize(folder, fields, pooling, width):
    del folder
    check_fields(fields, _in_place())
    parameters = {f"pooler/{path}": tensor for path, tensor in pooling.parameters.items()}
    unit = dataclasses.replace(pooling, pooler=UnitPool(pooling.pooler), parameters=parameters)
    return unit, width


def _read_own(folder, fields, pooling, width):
    del pooling
    check_fields(fields, {"width": (width,)})
    tensors: Mapping[str, np.ndarray] = {}
    if (folder / "model.safetensors").exists():
        tensors = TensorFiles([folder / "model.safetensors"])
    parameters = {name.removeprefix(OWN_WEIGHTS): tensors[name] for name in tensors}
    include_prompt = fields["include_prompt"]
    check_flag("include_prompt", include_prompt)
    return Pooling(from_config(fields["pooler"]), parameters, include_prompt), fields["features"]


def _in_place():
    return {"module_input_name": _HERE, "module_output_name": _HERE}


_READERS: dict[str, Callable[..., tuple[Pooling, int]]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "Normalize": _read_normalize,
    OWN_MODULE: _read_own,
}


def with_pooler(
    backbone: Backbone, pooling: Pooling, *, dtype: Dtype | None, sharding: Sharding | None
) -> Backbone:
    """The backbone with a folder's pooler, whose parameters are compared with what it asks for.

    Args:
        backbone: The backbone.
        pooling: What :func:`read_pooling` returned.
        dtype: As for ``load``.
        sharding: As for ``load``.

    Raises:
        ValueError: for missing, extra or wrongly shaped parameters.
    """
    pooler: Any = pooling.pooler
    found = {path: np.shape(tensor) for path, tensor in pooling.parameters.items()}
    expected = pooler_shapes(pooler, backbone.config.width, found)
    if found != expected:
        raise ValueError(f"pooler: expected parameters of shapes {expected}, got {found}")
    parameters = {}
    for path, tensor in pooling.parameters.items():
        array = tensor if dtype is None else tensor.astype(dtype)
        place = sharding(f"pooler/{path}", array.shape) if callable(sharding) else sharding
        # NumPy gives a single number an axis there.
        array = np.ascontiguousarray(array).reshape(array.shape)
        parameters[path] = jax.device_put(array, place)
    params = backbone.params
    if parameters:
        params = {**params, "pooler": traverse_util.unflatten_dict(parameters, sep="/")}
    return dataclasses.replace(backbone, params=params, pooler=pooler)


def pooler_shapes(
    pooler: Pooler, width: int, given: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of a pooler's parameters by path; weights by position are as many as are given."""
    longest = max([shape[0] for path, shape in given.items() if path.endswith("weights")], default=1)
    tokens = jax.ShapeDtypeStruct((longest, width), np.float32)
    variables = jax.eval_shape(pooler.init, jax.random.key(0), tokens)
    return _layers.leaf_shapes(variables.get("params", {}))

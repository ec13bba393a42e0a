"""Modules of a sentence-transformers folder: a pooler as the reference has it, or as PyTorch code."""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from flax import traverse_util

from poolax import codec
from poolax.backbones._base import Backbone
from poolax.backbones._tokens import TextPreprocess
from poolax.backbones.pretrained._sentence import (
    ACTIVATIONS,
    MODULES_FILE,
    OWN_MODULE,
    OWN_WEIGHTS,
    POOLING_MODES,
)
from poolax.backbones.pretrained._sentence_text import SETTINGS_FILE, TRANSFORMER_FILE
from poolax.pooling import ConcatPool, Pooler, ProjectedPool, UnitPool, parts_of

_TYPES = "sentence_transformers.models."
_TORCH_FILE = "poolax_pooling.py"


@dataclasses.dataclass(frozen=True)
class _Module:
    """An entry of ``modules.json``, and what its folder holds."""

    type: str
    fields: Mapping[str, Any] | None = None
    tensors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def write_modules(folder: epath.Path, backbone: Backbone) -> None:
    """Write the pooler of a backbone of texts, and what it reads, beside its weights.

    Args:
        folder: The folder.
        backbone: The backbone.

    Raises:
        ValueError: for a backbone that tokenises no texts, or a pooler that is none of this package.
    """
    prepare = backbone.preprocess
    if not isinstance(prepare, TextPreprocess):
        kind = type(backbone).__name__
        raise ValueError(f"backbone: expected one that tokenises texts, got {kind} without a tokenizer")
    pooler = backbone.pooler
    flat = _on_host(backbone.params.get("pooler", {}))
    modules = _modules(pooler, flat, backbone.config.width, prepare.include_prompt)
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{_TYPES}Transformer"}]
    for index, module in enumerate(modules, 1):
        path = f"{index}_{module.type.rsplit('.', 1)[-1]}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": module.type})
        if module.fields is not None:
            (folder / path).mkdir(parents=True)
            _write_json(folder / path / "config.json", module.fields)
        if module.tensors:
            content = safetensors.numpy.save(dict(module.tensors), {"format": "pt"})
            (folder / path / "model.safetensors").write_bytes(content)
        if module.type == OWN_MODULE:
            code = importlib.resources.files("poolax.backbones.pretrained") / f"{_TORCH_FILE}.txt"
            (folder / _TORCH_FILE).write_text(code.read_text(encoding="utf-8"))
    _write_json(folder / MODULES_FILE, entries)
    _write_json(
        folder / TRANSFORMER_FILE, {"max_seq_length": prepare.max_tokens, "do_lower_case": False}
    )
    settings = {"prompts": dict(prepare.prompts), "default_prompt_name": prepare.default_prompt}
    _write_json(folder / SETTINGS_FILE, settings)


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2))


def _on_host(params):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _modules(pooler, flat, width, include_prompt) -> list[_Module]:
    """The modules behind the Transformer, from the innermost pooler to the outermost layer."""
    if isinstance(pooler, UnitPool):
        inner = _modules(pooler.pooler, _inside(flat), width, include_prompt)
        return [*inner, _Module(f"{_TYPES}Normalize")]
    if isinstance(pooler, ProjectedPool) and pooler.activation in ACTIVATIONS.values():
        inner = _modules(pooler.pooler, _inside(flat), width, include_prompt)
        return [*inner, _dense(pooler, flat)]
    modes = _modes(pooler)
    if modes is None:
        return [_own(pooler, flat, width, include_prompt)]
    fields: dict[str, Any] = {"word_embedding_dimension": width, "include_prompt": include_prompt}
    known = list(POOLING_MODES)
    if sorted(set(modes), key=known.index) == modes:
        # As all versions read it.
        fields |= {flag: mode in modes for mode, (flag, _) in POOLING_MODES.items()}
    else:
        fields["pooling_mode"] = modes
    return [_Module(f"{_TYPES}Pooling", fields)]


def _inside(flat):
    prefix = "pooler/"
    return {path.removeprefix(prefix): leaf for path, leaf in flat.items() if path.startswith(prefix)}


def _modes(pooler: Pooler) -> list[str] | None:
    """The reference's names of a pooler, or of those side by side; ``None`` where it has none."""
    if isinstance(pooler, ConcatPool):
        modes = [_modes(part) for part in pooler.poolers]
        single = [mode[0] for mode in modes if mode is not None and len(mode) == 1]
        return single if len(single) == len(modes) else None
    return next(([mode] for mode, (_, known) in POOLING_MODES.items() if known == pooler), None)


def _dense(pooler, flat) -> _Module:
    kernel = flat["dense/kernel"]
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    fields = {
        "in_features": kernel.shape[0],
        "out_features": kernel.shape[1],
        "bias": pooler.use_bias,
        "activation_function": names[pooler.activation],
    }
    tensors = {"linear.weight": np.ascontiguousarray(kernel.T)}
    if pooler.use_bias:
        tensors["linear.bias"] = flat["dense/bias"]
    return _Module(f"{_TYPES}Dense", fields, tensors)


# What the PyTorch code has of each pooler, by the names of the registry.
_IN_TORCH: dict[str, set[str]] = {
    **{name: set() for name in ("first", "last", "avg", "sum", "max", "sqrt", "l2")},
    "lse": {"temperature"},
    "ep": {"num_queries"},
    "abmil": {"hidden_dim"},
    "multimax": {"num_heads"},
    "rolling": {"window"},
    "position": {"num_heads"},
    "weightedmean": {"start"},
    "wavg": {"max_tokens", "normalize"},
    "attn": {"num_latents", "num_heads", "mlp_dim", "use_norm"},
    "map": {"num_queries", "num_heads", "full", "mlp_dim", "activation", "norm_eps"},
    "hybrid": {"poolers"},
    "concat": {"poolers"},
    "projected": {"pooler", "features", "activation", "use_bias"},
    "norm": {"pooler", "eps"},
    "unit": {"pooler"},
    "skip": {"pooler", "num_tokens"},
}


def _check_in_torch(pooler):
    name = codec.name_of(type(pooler))
    if name not in _IN_TORCH or not set(codec.option_names(type(pooler))) <= _IN_TORCH[name]:
        known = ", ".join(_IN_TORCH)
        raise ValueError(
            f"pooler: expected one that there is PyTorch code for ({known}), got {pooler!r}"
        )
    for part in parts_of(pooler):
        _check_in_torch(part)


def _own(pooler, flat, width, include_prompt) -> _Module:
    _check_in_torch(pooler)
    variables = {"params": traverse_util.unflatten_dict(dict(flat), sep="/")}
    tokens = jax.ShapeDtypeStruct((1, width), np.float32)
    features = jax.eval_shape(pooler.apply, variables, tokens).shape[-1]
    fields = {
        "pooler": codec.to_plain(pooler, of="pooler", name="pooler"),
        "width": width,
        "features": features,
        "include_prompt": include_prompt,
    }
    return _Module(OWN_MODULE, fields, {f"{OWN_WEIGHTS}{path}": leaf for path, leaf in flat.items()})

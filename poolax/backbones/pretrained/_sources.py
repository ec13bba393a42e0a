"""Where a parameter of ours comes from in a checkpoint of others."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from poolax._files import json_object
from poolax.backbones._base import Backbone
from poolax.pooling import Pooler

FETCH_AGAIN = "fetch the files of the model again"
"""What to do where a file of a model is damaged."""

FETCH_OR_CHOOSE = f"{FETCH_AGAIN}, or choose a model of a supported family"
"""What to do where a file is whole and does not fit."""

ODD_FIELDS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What fields of an unexpected type or value lead to; a file may say anything."""

Convert = Callable[[np.ndarray], np.ndarray]


def as_is(x: np.ndarray) -> np.ndarray:
    """The tensor itself."""
    return x


def first(x: np.ndarray) -> np.ndarray:
    """Without the leading axis, which has length one."""
    return x.reshape(x.shape[1:])


def transposed(x: np.ndarray) -> np.ndarray:
    """From (out, in) to (in, out)."""
    return x.T


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a parameter comes from.

    Attributes:
        names: Names that the tensor may have; the first that is there is taken.
        convert: From the tensor to the parameter; must also work on arrays without strides.
    """

    names: tuple[str, ...]
    convert: Convert = as_is


Sources = dict[str, Source]


def dense(path: str, *names: str, bias: bool = True) -> Sources:
    """A linear layer from (out, in) weights."""
    found = {f"{path}/kernel": Source(tuple(f"{name}.weight" for name in names), transposed)}
    if bias:
        found[f"{path}/bias"] = Source(tuple(f"{name}.bias" for name in names))
    return found


def joint_dense(path: str, *names: str, joint: str, index: int, width: int) -> Sources:
    """A linear layer that stands alone, or beside others of its width in one (n width, in) tensor.

    Args:
        path: Our layer.
        *names: What it is called where it stands alone.
        joint: What all together are called.
        index: Which of them it is.
        width: How many outputs it has.

    Returns:
        Its kernel and bias.
    """

    def rows(x):
        return x if len(x) == width else x[index * width : (index + 1) * width]

    all_names = (*names, joint)
    return {
        f"{path}/kernel": Source(tuple(f"{name}.weight" for name in all_names), lambda x: rows(x).T),
        f"{path}/bias": Source(tuple(f"{name}.bias" for name in all_names), rows),
    }


def norm(path: str, *names: str, bias: bool = True, from_one: bool = False) -> Sources:
    """A norm's scale and shift; ``from_one`` where scales are stored less one, as in Gemma."""
    # Files from TensorFlow's times have gamma and beta.
    scales = tuple(f"{name}.{part}" for name in names for part in ("weight", "gamma"))
    found = {f"{path}/scale": Source(scales, _one_more if from_one else as_is)}
    if bias:
        shifts = tuple(f"{name}.{part}" for name in names for part in ("bias", "beta"))
        found[f"{path}/bias"] = Source(shifts)
    return found


def _one_more(x):
    # In float32, whatever the file has: the sum is rounded once, to what is asked for.
    return x.astype(np.float32) + 1


def heads_in(path: str, *names: str, num_heads: int, bias: bool = True) -> Sources:
    """A query, key or value projection from (H d_h, d) weights."""

    def kernel(x):
        return x.T.reshape(x.shape[1], num_heads, -1)

    found = {f"{path}/kernel": Source(tuple(f"{name}.weight" for name in names), kernel)}
    if bias:
        split = _split_heads(num_heads)
        found[f"{path}/bias"] = Source(tuple(f"{name}.bias" for name in names), split)
    return found


def heads_out(path: str, *names: str, num_heads: int, bias: bool = True) -> Sources:
    """An output projection from (d, H d_h) weights."""

    def kernel(x):
        return x.T.reshape(num_heads, -1, x.shape[0])

    found = {f"{path}/kernel": Source(tuple(f"{name}.weight" for name in names), kernel)}
    if bias:
        found[f"{path}/bias"] = Source(tuple(f"{name}.bias" for name in names))
    return found


def joint_heads(
    path: str,
    *names: str,
    num_heads: int,
    bias: bool = True,
    inputs_first: bool = False,
    joined_by: str = ".",
) -> Sources:
    """Query, key and value projections from one (3 H d_h, d) tensor, or (d, 3 H d_h)."""
    found = {}
    for index, part in enumerate(("query", "key", "value")):
        kernel = _third_kernel(index, num_heads, inputs_first)
        weights, biases = (
            tuple(f"{name}{joined_by}{leaf}" for name in names) for leaf in ("weight", "bias")
        )
        found[f"{path}/{part}/kernel"] = Source(weights, kernel)
        if bias:
            found[f"{path}/{part}/bias"] = Source(biases, _third_bias(index, num_heads))
    return found


def fused_heads(
    path: str, name: str, *, num_heads: int, num_kv_heads: int, head_dim: int, bias: bool = True
) -> Sources:
    """Query, key and value projections from one ((H + 2 H_kv) d_h, d) tensor, one below the other."""
    counts = {"query": num_heads, "key": num_kv_heads, "value": num_kv_heads}
    total, start, found = sum(counts.values()) * head_dim, 0, {}
    for part, count in counts.items():
        rows = (start, start + count * head_dim)
        start = rows[1]
        kernel, vector = _rows_of_heads(rows, total, count)
        found[f"{path}/{part}/kernel"] = Source((f"{name}.weight",), kernel)
        if bias:
            found[f"{path}/{part}/bias"] = Source((f"{name}.bias",), vector)
    return found


def _rows_of_heads(rows, total, num_heads):
    def kernel(x):
        return _cut(x, rows, total).T.reshape(x.shape[1], num_heads, -1)

    def vector(x):
        return _cut(x, rows, total).reshape(num_heads, -1)

    return kernel, vector


def paired_heads(paths: tuple[str, str], name: str, *, num_heads: int) -> Sources:
    """Two projections to as many heads from one (2 H d_h, d) tensor, one below the other."""
    found = {}
    for index, path in enumerate(paths):
        kernel, vector = _half_of_heads(index, num_heads)
        found[f"{path}/kernel"] = Source((f"{name}.weight",), kernel)
        found[f"{path}/bias"] = Source((f"{name}.bias",), vector)
    return found


def _half_of_heads(index, num_heads):
    def kernel(x):
        return np.split(x, 2)[index].T.reshape(x.shape[1], num_heads, -1)

    def vector(x):
        return np.split(x, 2)[index].reshape(num_heads, -1)

    return kernel, vector


def fused_dense(paths: tuple[str, ...], name: str, *, width: int, bias: bool = True) -> Sources:
    """Linear layers of one width from one tensor, one below the other."""
    found = {}
    for index, path in enumerate(paths):
        kernel, vector = _rows_of_layer((index * width, (index + 1) * width), len(paths) * width)
        found[f"{path}/kernel"] = Source((f"{name}.weight",), kernel)
        if bias:
            found[f"{path}/bias"] = Source((f"{name}.bias",), vector)
    return found


def _rows_of_layer(rows, total):
    return lambda x: _cut(x, rows, total).T, lambda x: _cut(x, rows, total)


def _cut(x, rows, total):
    """Some rows of a tensor that has to have ``total`` of them."""
    if x.shape[0] != total:
        raise ValueError(f"tensor: expected {total} rows, got {x.shape[0]}")
    return x[slice(*rows)]


def _split_heads(num_heads):
    return lambda x: x.reshape(num_heads, -1)


def _third_kernel(index, num_heads, inputs_first):
    def convert(x):
        x = x if inputs_first else x.T
        width, out = x.shape
        return x.reshape(width, 3, num_heads, out // (3 * num_heads))[:, index]

    return convert


def _third_bias(index, num_heads):
    return lambda x: x.reshape(3, num_heads, -1)[index]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How checkpoints of one family are read.

    Attributes:
        names: Values of ``model_type`` in the configuration that mean this family.
        backbone: The class.
        read_config: From the configuration, as read from JSON, and shapes of the tensors by name to
            our configuration.
        sources: From our configuration to the source of every parameter.
        read_preprocess: From the directory and the configuration to what prepares raw inputs.
        prefixes: What model classes with a head put in front of all names of the backbone.
        ignored: Regular expressions of names that belong to no parameter of the backbone.
        read_pooler: From the configuration, as read from JSON, ours, and shapes of the tensors by name
            to the pooler that checkpoints hold and where its parameters come from, below ``pooler/``;
            ``None`` where there is none.
        read_tower: From the configuration of a model of several towers, as read from JSON, to that of
            the tower that is read, with which it is written as a model of its own; ``None`` for others.
        in_part: Regular expressions of what stands in the names of small tensors of which parameters
            take a part alone; the whole is kept, to be written again.
        recognizes: Whether a configuration without ``model_type``, with shapes of the tensors by name,
            is of this family.
        tested: What hidden states are compared with in the tests.
    """

    names: tuple[str, ...]
    backbone: type[Backbone]
    read_config: Callable[[Mapping[str, Any], Mapping[str, tuple[int, ...]]], Any]
    sources: Callable[[Any], Sources]
    read_preprocess: Callable[[pathlib.Path, Mapping[str, Any], Any], Any]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    read_pooler: Callable[
        [Mapping[str, Any], Any, Mapping[str, tuple[int, ...]]], tuple[Pooler, Sources] | None
    ] = lambda raw, config, shapes: None
    read_tower: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda raw: None
    in_part: tuple[str, ...] = ()
    recognizes: Callable[[Mapping[str, Any], Mapping[str, tuple[int, ...]]], bool] = (
        lambda raw, shapes: False
    )
    tested: str = "transformers"


def has_tensor(shapes: Mapping[str, Any], name: str, prefixes: tuple[str, ...] = ()) -> bool:
    """Whether there is a tensor of a name, alone or behind one of the prefixes.

    Example:
        >>> has_tensor({"model.norm.weight": (8,)}, "norm.weight", ("model.",))
        True
    """
    return any(prefix + name in shapes for prefix in ("", *prefixes))


def within(sources: Sources) -> Sources:
    """The sources of a pooler that stands in another one, which is ``pooler/`` of its parameters.

    Example:
        >>> list(within({"pooler/norm/scale": Source(("weight",))}))
        ['pooler/pooler/norm/scale']
    """
    return {f"pooler/{path}": source for path, source in sources.items()}


def check_fields(raw: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse a configuration that asks for what is not implemented.

    Args:
        raw: The configuration.
        expected: Values that are implemented, by field; an absent field is fine.
    """
    for field, values in expected.items():
        if field in raw and raw[field] not in values:
            listed = ", ".join(repr(value) for value in values)
            raise ValueError(f"config: expected {field} to be one of {listed}, got {raw[field]!r}")


def read_field(raw: Mapping[str, Any], *fields: str) -> Any:
    """The first of several names of a field that a configuration has."""
    for field in fields:
        if raw.get(field) is not None:
            return raw[field]
    raise ValueError(f"config: expected a field {fields[0]!r}, got {', '.join(sorted(raw)) or 'none'}")


def read_count(raw: Mapping[str, Any], *fields: str) -> int:
    """A field that has to be a whole number of at least 1."""
    value = read_field(raw, *fields)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"config: expected {fields[0]} to be a whole number >= 1, got {value!r}")
    return value


def read_json_object(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file.

    Raises:
        ValueError: for a file that holds anything else, with its path.
    """
    if not path.exists():
        return {}
    return json_object(path.read_bytes(), path, FETCH_AGAIN)

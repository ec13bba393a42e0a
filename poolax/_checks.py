"""Validators of arguments: one line that names the argument, what was expected and what came.

Shapes and dtypes are always checked. Values are checked when they are concrete: under ``jit``,
``vmap`` or ``grad`` they are tracers, and a check would break the transformation.
"""

import difflib
import math
import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool

from poolax._typing import AnyArray

_LEAST_BITS = 16


def is_concrete(*values: Any) -> bool:
    """Whether none of the values is a tracer, so that their numbers can be looked at."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def refuse_torch(name: str, array: Any) -> None:
    """Refuse a tensor of PyTorch by name: what JAX says of one helps nobody."""
    if type(array).__module__.partition(".")[0] == "torch":
        raise ValueError(
            f"{name}: expected a JAX or NumPy array, got a torch.{type(array).__name__}; "
            "its .detach().cpu().numpy() is one"
        )


def check_floating(name: str, array: ArrayLike) -> None:
    """Refuse anything but arrays and numbers of a real floating-point dtype."""
    refuse_torch(name, array)
    if not hasattr(array, "dtype") and not isinstance(array, (int, float, complex)):
        raise ValueError(f"{name}: expected an array, got {type(array).__name__}")
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name}: expected an array without a mask of its own, got a masked array")
    dtype: Any = getattr(array, "dtype", None)
    # JAX itself knows no texts, times and objects, and promotes no floats of eight bits.
    if getattr(dtype, "kind", "") not in ("O", "S", "U", "M", "m"):
        dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected a floating dtype, got {dtype}")
    if jnp.finfo(dtype).bits < _LEAST_BITS:
        raise ValueError(f"{name}: expected floats of at least {_LEAST_BITS} bits, got {dtype}")


def check_rank(name: str, array: ArrayLike, rank: int, axes: str) -> None:
    """Refuse arrays whose number of axes is not ``rank``."""
    if np.ndim(array) != rank:
        raise ValueError(f"{name}: expected shape {axes}, got {np.shape(array)}")


def check_tokens(name: str, tokens: ArrayLike) -> None:
    """Refuse anything but floating ``(*batch, n, d)`` with at least one token of width one."""
    shape = np.shape(tokens)
    if len(shape) < 2:
        raise ValueError(f"{name}: expected shape (*batch, n, d), got {shape}")
    if shape[-2] < 1:
        raise ValueError(f"{name}: expected at least one token, got n = 0 in shape {shape}")
    if shape[-1] < 1:
        raise ValueError(f"{name}: expected width d >= 1, got shape {shape}")
    check_floating(name, tokens)


def broadcast_mask(
    mask: Bool[ArrayLike, "..."] | None, shape: tuple[int, ...], name: str = "mask"
) -> Bool[Array, "..."] | None:
    """Check a token mask and broadcast it to ``shape``; ``None`` stays ``None`` (all tokens real)."""
    if mask is None:
        return None
    refuse_torch(name, mask)
    mask_shape, dtype = np.shape(mask), getattr(mask, "dtype", type(mask).__name__)
    if dtype != jnp.bool_:
        raise ValueError(f"{name}: expected dtype bool (True = real token), got {dtype}")
    try:
        # JAX's own, which takes symbolic sizes too.
        fits = jnp.broadcast_shapes(mask_shape, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: expected a shape that broadcasts to {shape}, got {mask_shape}")
    return jnp.broadcast_to(jnp.asarray(mask), shape)


def check_finite(name: str, array: ArrayLike, mask: Bool[AnyArray, "..."] | None = None) -> None:
    """Refuse non-finite values, where they can be seen, at the positions that ``mask`` keeps."""
    concrete = is_concrete(array) if mask is None else is_concrete(array, mask)
    if not concrete:
        return
    count = _count_not_finite(array, mask)
    if count:
        where = "" if mask is None else " at real tokens"
        raise ValueError(f"{name}: expected finite values{where}, got {count} that are not")


def check_result(name: str, result: ArrayLike, what: str) -> None:
    """Refuse an argument whose result overflowed, where that can be seen."""
    if not is_concrete(result):
        return
    count = _count_not_finite(result, None)
    if count:
        raise ValueError(
            f"{name}: expected values and parameters whose {what} is finite in "
            f"{jnp.result_type(result)}, got {count} numbers that are not"
        )


def _count_not_finite(array, mask) -> int:
    if _is_at_hand(array) and (mask is None or _is_at_hand(mask)):
        bad = ~np.isfinite(np.asarray(array))
        if mask is not None:
            mask = np.asarray(mask)
            bad &= mask.reshape(mask.shape + (1,) * (bad.ndim - mask.ndim))
        return int(np.count_nonzero(bad))
    # Inside jit even constants turn into tracers at the first operation; this keeps them concrete.
    with jax.ensure_compile_time_eval():
        return int(_count_on_device(array, mask))


def _is_at_hand(array) -> bool:
    """Whether NumPy sees an array without a copy, and knows its dtype well: it compiles nothing."""
    if jnp.result_type(array) not in (np.bool_, np.float32, np.float64):
        return False
    if not isinstance(array, jax.Array):
        return True
    return array.is_fully_addressable and {device.platform for device in array.devices()} == {"cpu"}


@jax.jit
def _count_on_device(array, mask):
    bad = ~jnp.isfinite(array)
    if mask is not None:
        bad = bad & mask.reshape(mask.shape + (1,) * (bad.ndim - mask.ndim))
    return jnp.sum(bad)


def check_all_finite(name: str, tree: Any) -> None:
    """Refuse a tree with non-finite values, where they can be seen."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        check_finite(f"{name}/{where}", leaf)


def check_values(
    name: str,
    values: ArrayLike,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Refuse anything but finite real numbers in the given range; any shape."""
    dtype = getattr(values, "dtype", None) or np.asarray(values).dtype
    if not jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.complexfloating):
        raise ValueError(f"{name}: expected a number, got {_describe(values)}")
    if not is_concrete(values):
        return
    numbers = np.asarray(values, dtype=np.float64)
    good = np.isfinite(numbers) & (numbers > above) & (numbers >= at_least) & (numbers < below)
    if not good.all():
        limits = ((">", above, -math.inf), (">=", at_least, -math.inf), ("<", below, math.inf))
        range_ = " and ".join(f"{sign} {limit:g}" for sign, limit, free in limits if limit != free)
        first = numbers[~good].flat[0]
        raise ValueError(f"{name}: expected a finite number {range_}".rstrip() + f", got {first:g}")


def check_number(name: str, value: ArrayLike, **limits: float) -> None:
    """Refuse anything but one finite real number in the range that :func:`check_values` takes."""
    if np.ndim(value) != 0:
        raise ValueError(f"{name}: expected a number, got {_describe(value)}")
    check_values(name, value, **limits)


def check_count(name: str, value: Any, *, at_least: int = 1) -> None:
    """Refuse anything but a static whole number of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"{name}: expected a whole number >= {at_least}, got {value!r}")


def check_num_tokens(name: str, num_tokens: Any, most: int | None = None) -> None:
    """Refuse a number of tokens below one or above ``most``; a symbolic one is at least one.

    Args:
        name: Name of the argument.
        num_tokens: A static whole number, or a symbolic size of ``jax.export``.
        most: Largest number; a symbolic size takes a constraint to be known to be at most that.

    Raises:
        ValueError: for any other number, or a symbolic size that may be above ``most``.
    """
    if not jax.export.is_symbolic_dim(num_tokens):
        check_count(name, num_tokens)
    if most is None:
        return
    try:
        fits = num_tokens <= most
    except jax.errors.InconclusiveDimensionOperation:
        raise ValueError(
            f"{name}: expected a symbolic size with the constraint '{num_tokens} <= {most}', "
            f"got {num_tokens} without it"
        ) from None
    if not fits:
        raise ValueError(f"{name}: expected at most max_tokens = {most} tokens, got n = {num_tokens}")


def check_center_norm_width(width: int) -> int:
    """Refuse widths below two, for which CenterNorm's ``d / (d - 1)`` has no value."""
    if width < 2:
        raise ValueError(f"d: expected d >= 2 for CenterNorm's d / (d - 1), got {width}")
    return width


def check_divides(name: str, divisor: int, width_name: str, width: int) -> None:
    """Refuse a ``divisor`` that does not divide ``width``."""
    if width % divisor:
        raise ValueError(f"{name}: expected a divisor of {width_name} = {width}, got {divisor}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value outside ``choices`` and list them."""
    choices = list(choices)
    # Equality with an array is an array.
    if isinstance(value, (np.ndarray, jax.Array)) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        hint = did_you_mean(value, choices)
        raise ValueError(f"{name}: expected one of {listed}, got {value!r}{hint}")


def did_you_mean(value: Any, choices: Iterable[Any], *, cutoff: float = 0.6) -> str:
    """The choice that a mistyped value is close to, as the end of a message; nothing if there is none.

    Example:
        >>> did_you_mean("digit", ["cifar10", "digits"])
        "; did you mean 'digits'?"
    """
    names = [choice for choice in choices if isinstance(choice, str)]
    close = difflib.get_close_matches(value, names, 1, cutoff) if isinstance(value, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def check_flag(name: str, value: Any) -> None:
    """Refuse anything but True and False."""
    check_instance(name, value, (bool, np.bool_), "True or False")


def check_flag_or_names(name: str, value: Any, names: Iterable[str]) -> None:
    """Refuse anything but True, False and a tuple of some of the names."""
    if isinstance(value, tuple):
        for part in value:
            check_choice(name, part, names)
    else:
        check_flag(name, value)


def check_path(name: str, value: Any) -> None:
    """Refuse anything but a path; an empty one would be the current folder."""
    check_instance(name, value, (str, os.PathLike), "a path")
    if not os.fspath(value):
        raise ValueError(f"{name}: expected a path, got ''; '.' is the current folder")


def check_learned_width(module: Any, parameter: str, axis: int, width: int) -> None:
    """Refuse tokens of another width than a Linen module's parameter was initialised for."""
    if module.has_variable("params", parameter):
        learned = jnp.shape(module.get_variable("params", parameter))[axis]
        if learned != width:
            raise ValueError(
                f"z: expected width {learned}, for which {type(module).__name__} was initialised, got "
                f"{width}"
            )


def check_instance(name: str, value: Any, cls: Any, expected: str) -> None:
    """Refuse a value that is not an instance of ``cls``, a class or a union of classes."""
    if not isinstance(value, cls):
        raise ValueError(f"{name}: expected {expected}, got {_describe(value)}")


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape:
        return f"an array of shape {tuple(shape)}"
    return repr(value)

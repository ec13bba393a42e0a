"""Heads as ONNX graphs: jax2onnx converts them, and onnxruntime says whether it did so rightly."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core
import numpy as np

from poolax.pooling import (
    AveragePool,
    FirstPool,
    L2Pool,
    LastPool,
    LatentAttentionPool,
    LogSumExpPool,
    MaxPool,
    QueryAttentionPool,
    SqrtPool,
    SumPool,
    WeightedAveragePool,
)

# The first with all that attention needs; onnxruntime has had it since 1.20.
_OPSET = 21
_TOLERANCE = 1e-5
_FIXED = (FirstPool, LastPool, AveragePool, SumPool, MaxPool, SqrtPool, L2Pool, LogSumExpPool)
_CONVERTED = (*_FIXED, WeightedAveragePool, LatentAttentionPool, QueryAttentionPool)


def check_converts(pooler: nn.Module) -> None:
    """Refuse a pooler of which no graph was compared with it.

    Raises:
        ValueError: for another than fixed poolers, W-Avg, latents and queries.
    """
    full = isinstance(pooler, QueryAttentionPool) and pooler.full
    if not isinstance(pooler, _CONVERTED) or full:
        expected = ", ".join(kind.__name__ for kind in _CONVERTED)
        got = "QueryAttentionPool(full=True)" if full else type(pooler).__name__
        raise ValueError(f'head: expected a pooler of {expected} for format "onnx", got {got}')


def onnx_graph(
    call: Callable[..., Any],
    arguments: Sequence[jax.ShapeDtypeStruct],
    *,
    names: Sequence[str],
    sizes: Sequence[Mapping[str, int]],
) -> bytes:
    """A function of arrays as the content of an ONNX file, which onnxruntime has run.

    Args:
        call: The function, of one result.
        arguments: Shapes, with symbolic sizes, and dtypes, float32 or bool.
        names: What the graph calls its inputs.
        sizes: Values of all symbolic sizes at which the graph is compared with the function.

    Returns:
        The serialised model, with one output, ``"outputs"``.

    Raises:
        ValueError: without jax2onnx, or where the graph gives anything else than the function.
    """
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            'format: expected jax2onnx for "onnx" (pip install "poolax[onnx]"), which is not there: '
            f"{error}"
        ) from None
    # Traced before: while it traces, jax2onnx replaces functions of JAX by others, even jnp.shape.
    program = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(call)(*arguments))
    model = jax2onnx.to_onnx(
        lambda *arrays: program(*arrays)[0],
        arguments,
        model_name="head",
        opset=_OPSET,
        input_names=list(names),
        output_names=["outputs"],
    )
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for values in sizes:
        given = {
            name: _drawn(argument, values, rng) for name, argument in zip(names, arguments, strict=True)
        }
        expected = np.asarray(call(*given.values()))
        found = np.asarray(session.run(None, given)[0])
        error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        if not (found.shape == expected.shape and np.max(error) <= _TOLERANCE):
            raise ValueError(
                f"head: expected an ONNX graph that gives what it gives to {_TOLERANCE}, got one that "
                f"differs by {np.max(error):.2g} at {dict(values)}"
            )
    return content


def _drawn(argument: jax.ShapeDtypeStruct, values: Mapping[str, int], rng) -> np.ndarray:
    """Numbers of one shape, or a mask with gaps."""
    shape = [size if isinstance(size, int) else values[str(size)] for size in argument.shape]
    if argument.dtype == bool:
        return rng.random(shape) < 0.7
    return rng.normal(size=shape).astype(argument.dtype)

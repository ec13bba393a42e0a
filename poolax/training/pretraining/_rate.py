"""The work of matrix products, and how fast a device does nothing else."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def matrix_work(fn: Callable[..., Any], *args: Any) -> int:
    """Multiplications and additions of the matrix products of a function, without computing it.

    Args:
        fn: Function of arrays; loops in it have a known number of steps.
        args: Arrays, or ``jax.ShapeDtypeStruct``.

    Returns:
        Their number; convolutions count as none.

    Example:
        >>> matrix_work(lambda x, w: jnp.tanh(x @ w) @ w, jnp.ones((2, 5, 3)), jnp.ones((3, 3)))
        360
    """
    return _work(jax.make_jaxpr(fn)(*args).jaxpr)


def _work(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left = equation.invars[0].aval.shape
            (inner, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(left[axis] for axis in inner)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * terms
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        parts = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
        inside = [_work(getattr(part, "jaxpr", part)) for part in parts if _is_jaxpr(part)]
        # One branch of several is computed; whatever else holds a program computes all of it.
        total += times * (max(inside, default=0) if equation.primitive.name == "cond" else sum(inside))
    return total


def _is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


@functools.cache
def matrix_rate(dtype: str = "float32", size: int | None = None) -> float:
    """Operations a second of one large matrix product on one device: the best of a few.

    Args:
        dtype: Of the matrices.
        size: Rows and columns; ``None`` takes 1024 on CPUs and 8192 elsewhere.

    Returns:
        Multiplications and additions a second, measured once a process.
    """
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    matrix = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)

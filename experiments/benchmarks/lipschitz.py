"""Jacobian norms of one pooled block: matrix-free beside exact, and the search for the largest."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import timing
from poolax import blocks, bounds, empirical, measure, pooling
from poolax.records import environment

COLUMNS = {
    "case": "{}",
    "poolax_seconds": "{:.4f}",
    "reference_seconds": "{:.3f}",
    "ratio": "{:.1f}",
    "poolax_mebibytes": "{:.1f}",
    "reference_mebibytes": "{:.1f}",
    "compile_seconds": "{:.1f}",
    "steps": "{}",
    "value": "{:.6f}",
    "relative_difference": "{:.1e}",
}

_POOLERS = {"average": pooling.AveragePool(), "max": pooling.MaxPool()}
# The squared norm is then within a thousandth of a squared singular value.
_RTOL = 1e-3


def pooled_block(pooler, num_tokens: int, width: int, num_heads: int):
    """A block with random weights as a function of its tokens, and tokens."""
    model = blocks.TBM(num_heads, pooler)
    x = jax.random.normal(jax.random.key(0), (num_tokens, width))
    variables = model.init(jax.random.key(1), x)
    return model, variables, x


def compiled(fn: Callable, *args):
    """The compiled function, the seconds that took, and the MiB it needs beside its arguments."""
    start = time.perf_counter()
    executable = jax.jit(fn).lower(*args).compile()
    seconds = time.perf_counter() - start
    return executable, seconds, executable.memory_analysis().temp_size_in_bytes / 2**20


def by_dense_jacobian(fn: Callable, x):
    """Norm by forward mode and singular values."""
    jacobian = jax.jacfwd(fn)(x).reshape(-1, x.size)
    return jnp.linalg.svd(jacobian, compute_uv=False)[0]


def by_reverse_mode(fn: Callable, x):
    """Norm by reverse mode and the Gram matrix of the output's width."""
    return empirical.jacobian_norm(fn, x, mode="reverse")


def norm_record(name, pooler, sizes, reference, repeats, pause) -> dict[str, object]:
    """Matrix-free norm beside an exact one."""
    model, variables, x = pooled_block(_POOLERS[pooler], *sizes)

    def fn(x):
        return model.apply(variables, x)

    def estimate(x, key):
        return empirical.power_iteration(fn, x, key=key, method="lanczos", rtol=_RTOL)

    key = jax.random.key(2)
    ours, seconds_to_compile, ours_memory = compiled(estimate, x, key)
    exact, _, exact_memory = compiled(lambda x: reference(fn, x), x)
    found, value = ours(x, key), float(exact(x))
    if not found.converged:
        raise SystemExit(f"{name}: the estimate did not converge in {found.steps} steps")
    seconds = timing.measure(
        {
            "poolax": lambda: jax.block_until_ready(ours(x, key)),
            "reference": lambda: exact(x).block_until_ready(),
        },
        repeats,
        pause,
    )
    return {
        "case": name,
        "pooler": pooler,
        "poolax_seconds": seconds["poolax"],
        "reference_seconds": seconds["reference"],
        "ratio": seconds["reference"] / seconds["poolax"],
        "poolax_mebibytes": ours_memory,
        "reference_mebibytes": exact_memory,
        "compile_seconds": seconds_to_compile,
        "steps": int(found.steps),
        "value": float(found.value),
        "relative_difference": float(found.value) / value - 1,
        "rtol": _RTOL,
    }


def search_record(repeats: int, pause: float) -> dict[str, object]:
    """Search of 64 restarts and 50 steps on the unit ball."""
    model, variables, x = pooled_block(_POOLERS["average"], 32, 64, 4)
    domain = bounds.Domain(1.0, 1.0)

    def fn(x):
        return model.apply(variables, x)

    def search(x, key):
        return measure.find(fn, x, domain, key=key, num_restarts=64, num_steps=50)

    key = jax.random.key(2)
    run_search, seconds_to_compile, memory = compiled(search, x, key)
    calls = {"poolax": lambda: jax.block_until_ready(run_search(x, key))}
    seconds = timing.measure(calls, min(repeats, 3), pause)
    return {
        "case": "search, 64 restarts of 50 steps, n = 32, d = 64",
        "pooler": "average",
        "poolax_seconds": seconds["poolax"],
        "poolax_mebibytes": memory,
        "compile_seconds": seconds_to_compile,
        "value": float(run_search(x, key).value),
        "value_at_start": float(empirical.jacobian_norm(fn, empirical.project_to_ball(1.0)(x))),
        "sharp_bound": float(bounds.tbm(model, variables, num_tokens=32, radius=1.0).lipschitz),
    }


def run(*, repeats: int, pause: float) -> list[dict[str, object]]:
    """One record for each pooler and size, and one of the search."""
    cases = (
        ("n = 64, d = 64, beside jacfwd and SVD", (64, 64, 4), by_dense_jacobian),
        ("n = 196, d = 384, beside reverse mode and Gram matrix", (196, 384, 6), by_reverse_mode),
    )
    records = [
        norm_record(f"{pooler}, {name}", pooler, sizes, reference, repeats, pause)
        for name, sizes, reference in cases
        for pooler in _POOLERS
    ]
    records.append(search_record(repeats, pause))
    common = {"kind": "benchmark", "suite": "lipschitz", "repeats": repeats, **environment()}
    return [record | common for record in records]

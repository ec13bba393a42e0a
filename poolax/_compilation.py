"""How programs that run once are compiled."""

from typing import Any

import jax


def compile_quickly() -> dict[str, Any] | None:
    """Compiler options for a program that runs once: on a CPU, compiling it takes most of the time."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

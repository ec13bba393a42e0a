"""Bounds of a module of your own: Flax NNX, Equinox, or plain arrays, beside what is measured of it.

    python experiments/examples/own_module.py                       # all that is installed
    python experiments/examples/own_module.py --modules nnx

Each module is attention with a residual, a pooler and a linear layer, as its library writes them. The
bound is the product of those of its parts and holds on the ball of ``--size`` around random tokens; the
Jacobian is measured there at its centre and by search. A bound is told all that it depends on: kernels
as ``(d, H, d_h)`` and ``(H, d_h, d)``, biases of queries and keys, and where tokens may be.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("own_module")

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from jaxtyping import Array

from poolax import attention, bounds, empirical, pooling
from poolax.cli import COMPLETE, check_choice, run_program, show
from poolax.records import environment
from poolax.reporting import Cell, Table

WIDTH, HEADS, CLASSES = 8, 2, 3


class Parts(NamedTuple):
    """What a bound is told of a module.

    Attributes:
        call: Tokens ``(n, d)`` to logits.
        attend: Tokens to what attention adds to them.
        kernels: Kernels of the attention, and biases of queries and keys.
        pooler: The pooler.
        variables: Its variables.
        output: Kernel of the linear layer, shape ``(d, k)``.
    """

    call: Callable[[Array], Array]
    attend: Callable[[Array], Array]
    kernels: Mapping[str, Array]
    pooler: pooling.Pooler
    variables: Mapping[str, Mapping[str, Array]]
    output: Array


def of_nnx(seed: int) -> Parts:
    """Flax NNX, with a learned pooler by ``nnx.bridge``."""
    from flax import nnx

    rngs, pooler = nnx.Rngs(seed), pooling.QueryAttentionPool()
    attend = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
    pool = nnx.bridge.ToNNX(pooler).lazy_init(jnp.zeros((1, WIDTH)), rngs=rngs)
    output = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
    kernels = {name: getattr(attend, name).kernel[...] for name in ("query", "key", "value", "out")}
    kernels |= {f"{name}_bias": getattr(attend, name).bias[...] for name in ("query", "key")}
    variables = {"params": nnx.to_pure_dict(nnx.state(pool, nnx.Param))}
    # Estimators differentiate: they want a pure function, in which modules are made anew.
    graph, state = nnx.split((attend, pool, output))

    def call(x):
        attend, pool, output = nnx.merge(graph, state)
        return output(pool(x + attend(x)))

    return Parts(
        call,
        attend,
        kernels,
        pooler,
        variables,
        output.kernel[...],
    )


def of_equinox(seed: int) -> Parts:
    """Equinox, whose linear layers hold ``(out, in)``, with the pooler as a plain function."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(seed))
    layer = eqx.nn.MultiheadAttention(num_heads=HEADS, query_size=WIDTH, key=keys[0])
    output = eqx.nn.Linear(WIDTH, CLASSES, key=keys[1])
    split, joined = (WIDTH, HEADS, WIDTH // HEADS), (HEADS, WIDTH // HEADS, WIDTH)
    kernels = {
        "query": layer.query_proj.weight.T.reshape(split),
        "key": layer.key_proj.weight.T.reshape(split),
        "value": layer.value_proj.weight.T.reshape(split),
        "out": layer.output_proj.weight.T.reshape(joined),
    }

    def attend(x):
        return layer(x, x, x)

    return Parts(
        lambda x: output(pooling.max_pool(x + attend(x))),
        attend,
        kernels,
        pooling.MaxPool(),
        {},
        output.weight.T,
    )


def of_arrays(seed: int) -> Parts:
    """Arrays and functions."""
    shapes = dict.fromkeys(("query", "key", "value"), (WIDTH, HEADS, WIDTH // HEADS))
    shapes |= {"out": (HEADS, WIDTH // HEADS, WIDTH), "output": (WIDTH, CLASSES)}
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    kernels = {
        name: jax.random.normal(key, shape) / WIDTH**0.5
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    output = kernels.pop("output")

    def attend(x):
        query, key, value = (
            jnp.einsum("nd,dhk->hnk", x, kernels[name]) for name in ("query", "key", "value")
        )
        logits = jnp.einsum("hnk,hmk->hnm", query, key) / (WIDTH // HEADS) ** 0.5
        return jnp.einsum("hnm,hmk,hkd->nd", jax.nn.softmax(logits), value, kernels["out"])

    return Parts(
        lambda x: pooling.average_pool(x + attend(x)) @ output,
        attend,
        kernels,
        pooling.AveragePool(),
        {},
        output,
    )


MODULES = {"nnx": of_nnx, "equinox": of_equinox, "arrays": of_arrays}


def bound_of(parts: Parts, x: Array, size: float) -> Array:
    """A Lipschitz constant of the module on the ball of radius ``size`` around ``x``."""
    domain = bounds.domain_of(x)
    layer = bounds.attention(
        attention.DotProduct(),
        parts.kernels,
        num_tokens=len(x),
        radius=domain.radius + size,
        spread=domain.spread + size / 2**0.5,  # two tokens together move by no more than size
        method="tight",
    )
    residual = 1 + layer.sequence
    # How far apart the tokens that are pooled may be, where the pooler's bound depends on it.
    behind = bounds.domain_of(x + parts.attend(x)).spread + residual * size / 2**0.5
    pool = bounds.pooler(
        parts.pooler, parts.variables, num_tokens=len(x), dim=WIDTH, spread=behind, method="tight"
    )
    return residual * pool.l2 * bounds.spectral_norm(parts.output)


@dataclasses.dataclass(frozen=True)
class OwnModule:
    """Bounds of modules of other libraries, beside what is measured of them.

    Attributes:
        modules: Which: nnx, equinox, arrays; by default all whose library is there.
        num_tokens: Tokens of an input.
        size: Radius of the ball on which a bound holds.
        restarts: Restarts of the search.
        steps: Steps of each restart.
        seed: Of weights and tokens.
        as_json: Print records instead of a table.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    modules: tuple[str, ...] = ()
    num_tokens: int = 5
    size: float = 0.1
    restarts: int = 4
    steps: int = 20
    seed: int = 0
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        known = {name: of for name, of in MODULES.items() if name == "arrays" or _is_there(name)}
        for name in self.modules:
            check_choice("modules", name, known)
        rows = [self._measured(name, known[name](self.seed)) for name in self.modules or known]
        cells = [
            [
                Cell(row["module"]),
                *(Cell(f"{row[name]:.3f}") for name in ("measured", "found", "bound")),
            ]
            for row in rows
        ]
        columns = ["module", "measured at x", "found on the ball", "bound on the ball"]
        table = Table("Modules of other libraries", columns, cells, notes=[], tidy=[])
        show([table], rows, as_json=self.as_json)
        return COMPLETE

    def _measured(self, name: str, parts: Parts) -> dict:
        x = jax.random.normal(jax.random.key(self.seed), (self.num_tokens, WIDTH))
        # Tokens that move by so much each move by the size together, at most.
        around = empirical.project_to_ball(self.size / self.num_tokens**0.5)
        found = empirical.maximize_jacobian_norm(
            lambda change: parts.call(x + change),
            jnp.zeros_like(x),
            project=around,
            key=jax.random.key(self.seed + 1),
            num_restarts=self.restarts,
            num_steps=self.steps,
        )
        return {
            "kind": "own_module",
            "module": name,
            "measured": float(empirical.jacobian_norm(parts.call, x)),
            "found": float(found.value),
            "bound": float(bound_of(parts, x, self.size)),
            **environment(),
        }


def _is_there(name: str) -> bool:
    return importlib.util.find_spec({"nnx": "flax"}.get(name, name)) is not None


if __name__ == "__main__":
    sys.exit(run_program("own_module", lambda: tyro.cli(OwnModule)))

"""A pooler of your own: its bound, what every pooler here is tested for, and a sweep beside the others.

    python experiments/examples/own_pooler.py

The pooler averages tokens that are clipped to a learned length, so that one wild token cannot drag the
vector along. It takes a name in the codec, by which records and checkpoints know it, and a bound that
is proved in a line. ``check`` is the suite that the poolers of this library pass, for any pooler:

- padding on either side changes nothing, whatever it holds, and lets no gradient through;
- a batch gives what its rows give one by one;
- a sequence without tokens pools to zeros, with zero gradient;
- the dtype that comes in comes out, and sums are not taken in a narrower one than float32;
- no Jacobian that a search finds is above the bound, at any number of tokens.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("own_pooler")

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import rich
import tyro

from poolax import bounds, codec, data, empirical, pooling, training
from poolax.cli import COMPLETE, check_count, run_program, show
from poolax.reporting import score_tables

NAME = "clipped_average"


@codec.register("pooler", NAME)
class ClippedAveragePool(pooling.Pooler):
    """The average of tokens whose length is cut to a learned one.

    Attributes:
        start: The length at which it is initialised.
    """

    start: float = 1.0

    @nn.compact
    def __call__(self, z, mask=None):
        """Token states ``(*batch, n, d)`` to vectors ``(*batch, d)``."""
        log_length = self.param("log_length", nn.initializers.constant(np.log(self.start)), ())
        z = jnp.asarray(z)
        wide = jnp.promote_types(z.dtype, jnp.float32)
        # What is masked may be anything: it has no length to divide by, and no gradient.
        real = jnp.ones(z.shape[:-1], bool) if mask is None else jnp.broadcast_to(mask, z.shape[:-1])
        tokens = jnp.where(real[..., None], z, 0).astype(wide)
        squares = jnp.sum(jnp.square(tokens), axis=-1, keepdims=True)
        longest = jnp.exp(2 * log_length.astype(wide))
        factor = jnp.where(squares > longest, jnp.sqrt(longest / jnp.maximum(squares, longest)), 1)
        return pooling.average_pool(tokens * factor, real).astype(z.dtype)


@bounds.register_pooler(ClippedAveragePool)
def bound_of_clipped(pooler, variables, *, num_tokens, dim, spread):
    """Cutting to a length projects to a ball, which is convex: no two tokens get further apart."""
    del pooler, variables, dim, spread
    return bounds.PoolerBound(l2=1 / jnp.sqrt(num_tokens.low), l1=1.0)


def check(pooler: pooling.Pooler, variables: Mapping[str, Any], dim: int, seed: int) -> None:
    """Raise an ``AssertionError`` that names what a pooler does not keep."""
    keys = jax.random.split(jax.random.key(seed), 3)
    z = jax.random.normal(keys[0], (4, dim))

    def pooled(z, mask=None):
        return pooler.apply(variables, z, mask)

    alone = pooled(z)
    for before, after in ((2, 0), (0, 2), (1, 1)):
        sides = ((before, after), (0, 0))
        mask = jnp.pad(jnp.ones(4, bool), sides[0])
        for fill in (7.0, jnp.nan, jnp.inf):
            padded = jnp.pad(z, sides, constant_values=fill)
            gradient = jax.grad(lambda z, mask=mask: jnp.sum(jnp.sin(pooled(z, mask))))(padded)
            require(jnp.allclose(pooled(padded, mask), alone, atol=1e-5), f"padding with {fill} counts")
            require(jnp.isfinite(gradient).all(), f"not finite beside padding: {fill}")
            require(not gradient[~mask].any(), "masked tokens have a gradient")
    batch = jax.random.normal(keys[1], (3, 6, dim))
    masks = jnp.arange(6) < jnp.array([[6], [3], [0]])
    rows = [pooled(one, mask) for one, mask in zip(batch, masks, strict=True)]
    require(jnp.allclose(pooled(batch, masks), jnp.stack(rows), atol=1e-5), "a batch is not its rows")
    require(not rows[2].any(), "a sequence without tokens does not pool to zeros")
    of_none = jax.grad(lambda z: jnp.sum(jnp.sin(pooled(z, masks[2]))))(batch[2])
    require(not of_none.any(), "a sequence without tokens has a gradient")
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        require(pooled(z.astype(dtype)).dtype == dtype, f"{dtype.__name__} does not come out")
    ones = jnp.full((1000, dim), 1 / 256, jnp.bfloat16)
    narrow, full = pooled(ones).astype(jnp.float32), pooled(ones.astype(jnp.float32))
    require(jnp.allclose(narrow, full, rtol=0.01), "sums are taken in bfloat16")
    for num_tokens in (1, 4):
        bound = bounds.pooler(pooler, variables, num_tokens=num_tokens, dim=dim, spread=2.0)
        found = empirical.maximize_jacobian_norm(
            pooled,
            jax.random.normal(keys[2], (num_tokens, dim)),
            project=empirical.project_to_ball(2.0),
            key=keys[2],
            num_restarts=2,
            num_steps=5,
        )
        require(found.value <= bound.l2 * (1 + 1e-5), f"a Jacobian of {found.value} is above the bound")


def require(holds: Any, otherwise: str) -> None:
    """Raise unless something holds."""
    if not holds:
        raise AssertionError(otherwise)


@dataclasses.dataclass(frozen=True)
class OwnPooler:
    """Test a pooler of your own and compare it with others on the pixels of handwritten digits.

    Attributes:
        poolers: What it is compared with.
        seeds: Heads of each.
        epochs: Passes over the training images.
        out: Folder for records and heads.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    poolers: tuple[str, ...] = ("avg", "max", "last")
    seeds: int = 3
    epochs: int = 10
    out: str = "own-pooler"
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        check_count("seeds", self.seeds)
        own = ClippedAveragePool(2.0)
        variables = own.init(jax.random.key(0), jnp.zeros((1, 8)))
        check(own, variables, 8, 0)
        rich.print("The pooler keeps what every pooler has to keep, and its bound was not broken.")
        digits = data.digits()
        # A row of eight pixels is a token, white at 1.
        tokens = np.asarray(digits.inputs)[..., 0] / np.float32(16)
        records = training.sweep_states(
            tokens,
            None,
            digits.targets,
            training.Classification(digits.num_classes),
            splits=digits.splits,
            poolers={name: name for name in self.poolers} | {NAME: own},
            seeds=self.seeds,
            epochs=self.epochs,
            learning_rates=(1e-2,),
            name="rows of digits",
            out=self.out,
        )
        show(score_tables(records), [], as_json=False)
        [row, *_] = [row for row in records if row["pooler"] == NAME]
        # Its name is known wherever its module is imported.
        head = training.load_head(training.head_directory(self.out, row))
        rich.print(f"Loaded by its name: {head.pooler}")
        return COMPLETE


if __name__ == "__main__":
    sys.exit(run_program("own_pooler", lambda: tyro.cli(OwnPooler)))

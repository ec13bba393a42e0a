"""Norms of a backbone along its training: below their bounds, and compiled once."""

import jax
import numpy as np
import pytest

from poolax import measure
from poolax.attention import L2
from poolax.backbones import GPT2, GPT2Config

CONFIG = GPT2Config(12, 4, width=8, num_layers=1, num_heads=2, mlp_dim=8, kind=L2())
IDS = np.arange(4)[None]


def test_norms_of_each_step_are_those_of_its_parameters():
    """A backbone of the same configuration needs no other program, and gives its own norms."""
    observe = measure.along_training(IDS)
    first, second = (GPT2.init(CONFIG, jax.random.key(seed)) for seed in (0, 1))
    observe(0, first)
    row = observe(1, second)["lipschitz"]
    embeddings, _ = second.embed(second.params, IDS)
    jacobian = jax.jacobian(lambda x: second.encode(second.params, x).states.mean(axis=0))(
        embeddings[0]
    )
    exact = np.linalg.norm(np.reshape(jacobian, (8, 32)), 2)
    assert row["measured"] == [pytest.approx(exact, rel=1e-3)]
    assert exact <= 10 ** row["log10_local"][0] <= row["sharp"]
    assert row["tight"] <= row["sharp"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measured": [1.0, 11.0]}, "measured <= local does not hold for the decimal logarithms of W"),
        ({"log10_local": [0.5, 400.0], "measured": [1.0, 2e3]}, "measured <= tight"),
        ({"log10_tight": 5.0}, "tight <= sharp"),
        ({"measured": [1.0, float("nan")]}, "expected finite norms for W"),
    ],
)
def test_norms_above_a_bound_are_refused(changes, message):
    row = {"measured": [1.0, 0.0], "log10_local": [0.0, 1.0], "log10_tight": 3.0, "log10_sharp": 4.0}
    measure.check_along(row, what="W")
    measure.check_along({**row, "log10_local": [None, None]}, what="W")
    with pytest.raises(RuntimeError, match=message):
        measure.check_along({**row, **changes}, what="W")

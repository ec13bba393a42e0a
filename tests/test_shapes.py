"""The checker of annotations: what it refuses, and whose message comes first."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from jaxtyping import Array, Float, TypeCheckError, jaxtyped

from poolax import pooling
from poolax._typing import AnyArray


@jaxtyped(typechecker=shapes.checked)
def first_column(x: Float[AnyArray, "n d"], return_all: bool = False) -> Float[Array, " n"]:
    del return_all  # a name that begins as that of the hook's own argument
    if x.shape[1] > 3:
        raise ValueError("x: expected at most three columns")
    return jnp.asarray(x)[..., 0] if x.shape[0] > 1 else jnp.asarray(x)


def test_what_annotations_do_not_allow_is_refused():
    for x in (np.ones((2, 3)), jnp.ones((2, 3))):
        assert first_column(x).shape == (2,)
    for x in (np.ones((2, 3, 1)), np.ones((2, 3), int), np.ones((1, 3))):
        with pytest.raises(TypeCheckError):
            first_column(x)


def test_own_messages_come_first():
    with pytest.raises(ValueError, match="x: expected at most three columns"):
        first_column(np.ones((2, 4), int))


def test_the_hook_is_there_where_it_was_asked_for():
    asked = bool(os.environ.get("POOLAX_CHECK_SHAPES"))
    assert hasattr(pooling.average_pool, "__wrapped__") == asked

"""Parameters of a head as one flat array, over which the optimizer's update is one fused loop."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


class Flat:
    """Between a tree of arrays of one dtype and one flat array.

    ``optax.flatten`` keeps the moments flat and the parameters a tree, which it splits again in every
    step; here parameters are flat as well, and only the gradient is joined.

    Args:
        shapes: The tree, of arrays or their ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: for several dtypes.

    Example:
        >>> flat = Flat({"bias": jnp.zeros(1), "kernel": jnp.zeros((2, 1))})
        >>> joined = flat.join({"bias": jnp.array([3.0]), "kernel": jnp.array([[1.0], [2.0]])})
        >>> joined.tolist(), flat.split(joined)["kernel"].tolist()
        ([3.0, 1.0, 2.0], [[1.0], [2.0]])
    """

    def __init__(self, shapes: PyTree):
        leaves, self._structure = jax.tree.flatten(shapes)
        dtypes = sorted({str(leaf.dtype) for leaf in leaves})
        if len(dtypes) != 1:
            raise ValueError(f"shapes: expected arrays of one dtype, got {', '.join(dtypes)}")
        self._shapes = [tuple(leaf.shape) for leaf in leaves]
        self._ends = np.cumsum([math.prod(shape) for shape in self._shapes]).tolist()
        # Its derivative joins the leaves' once, where that of slices adds up arrays full of zeros.
        self._split = jax.custom_vjp(self.split)
        self._split.defvjp(lambda flat: (self.split(flat), None), lambda _, tree: (self.join(tree),))

    def join(self, tree: PyTree) -> Float[Array, " size"]:
        """The leaves of one tree, one after the other."""
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    def split(self, flat: Any) -> PyTree:
        """The tree of a flat array, NumPy or JAX; axes in front of the last stay in front.

        Args:
            flat: Shape ``(*batch, size)``.

        Returns:
            The tree, every leaf with leading axes ``batch``.
        """
        starts = [0, *self._ends[:-1]]
        parts = zip(starts, self._ends, self._shapes, strict=True)
        leaves = [flat[..., i:j].reshape(*flat.shape[:-1], *shape) for i, j, shape in parts]
        return jax.tree.unflatten(self._structure, leaves)

    def split_to_learn(self, flat: Float[Array, " size"]) -> PyTree:
        """:meth:`split` of one flat array, for what is differentiated backwards."""
        return self._split(flat)

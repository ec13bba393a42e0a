"""Which parameters are matrices that act on tokens, and their axes."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# A filter for each channel is no matrix, though it is called a kernel.
_NO_MATRICES = ("depthwise",)
# Kernels (d, H, d_h), whose columns are those of all heads.
_BY_HEAD = ("query", "key", "value")
_STACKED = "blocks"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Axes of a kernel as a matrix from rows to columns; axes in front of both are matrices apart.

    Attributes:
        rows: Axes of the inputs.
        columns: Axes of the outputs.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def of(self, kernel: Float[Array, "..."]) -> Float[Array, "*apart m n"]:
        """The kernel as a matrix, or several."""
        apart = kernel.shape[: self.rows[0]]
        rows = math.prod(kernel.shape[axis] for axis in self.rows)
        return kernel.reshape(*apart, rows, -1)


def matrices_of(params: PyTree) -> PyTree:
    """A :class:`Matrix` for each kernel among parameters, and ``None`` for all else.

    Tables of embeddings are read by rows and are none; nor are norms, biases and filters of depth-wise
    convolutions.
    """

    def find(path, leaf):
        names = [str(getattr(key, "key", key)) for key in path]
        if names[-1] != "kernel" or set(names) & set(_NO_MATRICES):
            return None
        first = int(_STACKED in names)
        last = jnp.ndim(leaf)
        is_by_head = len(names) > 1 and names[-2] in _BY_HEAD
        split = first + 1 if is_by_head else last - 1
        return Matrix(tuple(range(first, split)), tuple(range(split, last)))

    return jax.tree_util.tree_map_with_path(find, params)


def map_matrices(fn: Any, params: PyTree, *others: PyTree) -> PyTree:
    """Map ``fn(kernel, matrix, ...)`` over the kernels of parameters; all else stays as it is."""
    found = matrices_of(params)
    return jax.tree.map(
        lambda matrix, leaf, *rest: leaf if matrix is None else fn(leaf, matrix, *rest),
        found,
        params,
        *others,
        is_leaf=lambda node: node is None or isinstance(node, Matrix),
    )


def spectral_norms(params: PyTree) -> dict[str, Float[Array, "..."]]:
    """Largest singular value of each kernel, by its path; of stacked ones each.

    Args:
        params: Parameters.

    Returns:
        Norms by path.

    Example:
        >>> import jax.numpy as jnp
        >>> spectral_norms({"out": {"kernel": jnp.diag(jnp.array([3.0, 4.0])), "bias": jnp.ones(2)}})
        {'out/kernel': Array(4., dtype=float32)}
    """
    norms: dict[str, Any] = {}
    found = matrices_of(params)

    def measure(path, matrix, kernel):
        if matrix is not None:
            values = jnp.linalg.svd(matrix.of(kernel), compute_uv=False)
            norms[jax.tree_util.keystr(path, simple=True, separator="/")] = values[..., 0]

    jax.tree_util.tree_map_with_path(
        measure, found, params, is_leaf=lambda node: node is None or isinstance(node, Matrix)
    )
    return norms

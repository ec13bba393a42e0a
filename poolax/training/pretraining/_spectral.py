"""Caps on spectral norms, which keep a network's Lipschitz constant while it is trained."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from poolax._checks import check_choice, check_number
from poolax.training.pretraining._matrices import map_matrices

METHODS = ("cap", "hammer", "normalize")


def cap_spectral_norms(params: PyTree, cap: float, method: str = "cap") -> PyTree:
    r"""Bring the spectral norms of all kernels to at most ``cap``.

    With singular values ``s_1 >= s_2 >= ...`` of a kernel ``W = U diag(s) V^T`` as a matrix:

    - ``"cap"``: all of them are cut, ``U diag(min(s, cap)) V^T``, the nearest matrix in the ball;
    - ``"hammer"``: the largest alone becomes ``cap``, ``W - (s_1 - cap) u_1 v_1^T``; where the next one
      is above as well, the result is divided by what it is above it;
    - ``"normalize"``: all of them are scaled, ``W min(1, cap / s_1)``.

    Tables of embeddings, biases and norms stay as they are. Rounding is taken off, so that a norm
    computed in the same precision is not above.

    Args:
        params: Parameters; kernels ``(d, H, d_h)`` of queries, keys and values are one matrix each.
        cap: Largest spectral norm.
        method: One of these three.

    Returns:
        The parameters.

    Raises:
        ValueError: for a cap or method that is none.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"kernel": jnp.diag(jnp.array([3.0, 0.75]))}
        >>> for method in ("cap", "normalize"):
        ...     found = cap_spectral_norms(params, 1.0, method)["kernel"]
        ...     print([f"{value:.2f}" for value in found.diagonal()])
        ['1.00', '0.75']
        ['1.00', '0.25']

    Reference:
        Newhouse et al., "Training Transformers with Enforced Lipschitz Constants" (2025).
    """
    check_number("cap", cap, above=0.0)
    check_choice("method", method, METHODS)

    def capped(kernel, matrix):
        return _capped(matrix.of(kernel), cap, method).reshape(kernel.shape)

    return map_matrices(capped, params)


def _capped(w: Float[Array, "*apart m n"], cap, method) -> Float[Array, "*apart m n"]:
    tall = w.shape[-2] >= w.shape[-1]
    w = w if tall else jnp.swapaxes(w, -1, -2)
    # The Gram matrix of the shorter side: its eigenvectors are the singular vectors of that side.
    gram = jnp.matmul(jnp.swapaxes(w, -1, -2), w, precision="highest")
    squares, vectors = jnp.linalg.eigh(gram)
    # Eigenvalues are off by eps |W|^2 at most for each row, which the margin takes off twice over.
    margin = 1 - 4 * w.shape[-1] ** 0.5 * jnp.finfo(w.dtype).eps
    norms = jnp.sqrt(jnp.maximum(squares, 0))
    limit = cap * margin
    largest = norms[..., -1:]
    if method == "normalize":
        w = w * jnp.minimum(1, limit / largest)[..., None]
    elif method == "cap":
        factors = jnp.minimum(1, limit / jnp.maximum(norms, limit))
        # W V diag(f) V^T is written as W less what is cut: what is below the cap keeps its bits.
        cut = jnp.matmul(w, vectors * (1 - factors)[..., None, :], precision="highest")
        w = w - jnp.matmul(cut, jnp.swapaxes(vectors, -1, -2), precision="highest")
    else:
        top = vectors[..., -1:]
        share = jnp.maximum(0, 1 - limit / largest)[..., None]
        cut = jnp.matmul(w, top, precision="highest") * share
        w = w - cut * jnp.swapaxes(top, -1, -2)
        below = norms[..., -2:-1] if norms.shape[-1] > 1 else norms[..., :0]
        if below.shape[-1]:
            w = w * jnp.minimum(1, limit / jnp.maximum(below, limit))[..., None]
    return w if tall else jnp.swapaxes(w, -1, -2)

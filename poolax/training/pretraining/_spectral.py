"""Caps on spectral norms, which keep a network's Lipschitz constant while it is trained."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from poolax._checks import check_choice, check_number
from poolax.training.pretraining._matrices import map_matrices
from poolax.training.pretraining._soft_cap import norm_bound, soft_cap

METHODS = ("cap", "hammer", "normalize", "soft")

# Muon's iteration 3.4445 s - 4.775 s^3 + 2.0315 s^5 maps [0, 1.203] into itself and starts in [0, 1].
_LARGEST_OF_MUON = 1.203


def cap_spectral_norms(params: PyTree, cap: float, method: str = "cap") -> PyTree:
    r"""Bring the spectral norms of all kernels to at most ``cap``.

    With singular values ``s_1 >= s_2 >= ...`` of a kernel ``W = U diag(s) V^T`` as a matrix:

    - ``"cap"``: all of them are cut, ``U diag(min(s, cap)) V^T``, the nearest matrix in the ball;
    - ``"hammer"``: the largest alone becomes ``cap``, ``W - (s_1 - cap) u_1 v_1^T``; where the next one
      is above as well, the result is divided by what it is above it;
    - ``"normalize"``: all of them are scaled, ``W min(1, cap / s_1)``;
    - ``"soft"``: an odd polynomial shrinks large ones, ``s - 3 a^2 s^5 + 3 a^3 s^7 - a^4 s^9``, by
      matrix products alone. Its strength ``a`` is the least that brings ``k`` to the cap, where ``k``
      is a bound on ``s_1`` by products as well, ``(s_1^8 + s_2^8 + ...)^(1/8)``; while ``k`` is above
      81/62 of the cap, rounds of ``a = 1 / (3 k^2)`` come first.

    In training the bound of ``"soft"`` is coupled to the step's rate ``r`` and weight decay ``d``: as
    kernels were within the cap before, ``|(1 - r d) W - r U| <= |1 - r d| cap + r |U|``, where ``|U|``
    is at most ``1.203 sqrt(max(1, n / m))`` by Muon, whatever the gradients of a kernel ``(m, n)``,
    and by AdamW at most the same root of what the step moved. Muon it was made for: AdamW moves
    kernels by more, which makes the cap stronger.

    **What is capped** are kernels: of queries, keys and values for all heads together, of outputs, of
    feed-forward layers and of patches. Tables of embeddings, biases and norms stay as they are, and
    attention keeps its scale. So a cap bounds no network by itself: a norm's factor is its scale over
    the least deviation of a token, dot-product attention's grows with the square of the radius, and
    a block adds its input to what it computes. What follows for a trained model is what
    ``bounds.ledger`` says of it on a domain; ``measure.along_training`` records it over training.

    Rounding is taken off, so that a norm computed in the same precision is not above.

    Args:
        params: Parameters; kernels ``(d, H, d_h)`` of queries, keys and values are one matrix each.
        cap: Largest spectral norm.
        method: One of these four.

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
        Newhouse et al., "Training Transformers with Enforced Lipschitz Constants" (2025,
        arXiv:2507.13338).
    """
    check_number("cap", cap, above=0.0)
    check_choice("method", method, METHODS)

    def capped(kernel, matrix):
        w = matrix.of(kernel)
        if method == "soft":
            w = soft_cap(w, cap * _margin(w), norm_bound(w))
        else:
            w = _capped(w, cap, method)
        return w.reshape(kernel.shape)

    return map_matrices(capped, params)


def soft_cap_after_step(
    params: PyTree, before: PyTree, cap: float, *, rate: Any, weight_decay: float, by_muon: bool
) -> PyTree:
    """Bring kernels back to a cap that they were within before a step, by products alone.

    Args:
        params: Parameters after the step.
        before: Those before it.
        cap: Largest spectral norm.
        rate: The step's learning rate of kernels.
        weight_decay: Decay that is taken off times the rate.
        by_muon: Whether kernels were moved by Muon, else by AdamW.

    Returns:
        The parameters.
    """
    kept = 1 - rate * weight_decay

    def capped(kernel, matrix, kernel_before):
        w, w_before = matrix.of(kernel), matrix.of(kernel_before)
        rows, columns = w.shape[-2:]
        if by_muon:
            moved = jnp.full(w.shape[:-2], rate * _LARGEST_OF_MUON * max(1, columns / rows) ** 0.5)
        else:
            moved = norm_bound(w - kept * w_before)
        norm = jnp.abs(kept) * cap + moved
        return soft_cap(w, cap * _margin(w), norm).reshape(kernel.shape)

    return map_matrices(capped, params, before)


def _margin(w):
    """What is left for the rounding of a matrix's norm, twice over."""
    return 1 - 4 * min(w.shape[-2:]) ** 0.5 * jnp.finfo(w.dtype).eps


def _capped(w: Float[Array, "*apart m n"], cap, method) -> Float[Array, "*apart m n"]:
    tall = w.shape[-2] >= w.shape[-1]
    w = w if tall else jnp.swapaxes(w, -1, -2)
    # The Gram matrix of the shorter side: its eigenvectors are the singular vectors of that side.
    gram = jnp.matmul(jnp.swapaxes(w, -1, -2), w, precision="highest")
    squares, vectors = jnp.linalg.eigh(gram)
    # Eigenvalues are off by eps |W|^2 at most for each row.
    norms = jnp.sqrt(jnp.maximum(squares, 0))
    limit = cap * _margin(w)
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

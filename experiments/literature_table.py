"""The table of the theory's page that sets bounds of the literature beside those of this project."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poolax import bounds
from poolax.reporting import Cell, Table, number_text

Row = Mapping[str, Any]

#: Sizes at which what is not recorded is computed.
NUM_TOKENS, DIM, DRAWS = 16, 16, 8
_SCALES = (0.5, 1.0, 2.0)
_ABOUT = (
    "theirs / ours: the smallest and largest ratio, of radii ours / theirs, so that more than 1 is "
    "what is won. Constants of attention, and of blocks with latent attention (Nair), are those of "
    "all recorded sizes and weights: by the tight one (by the sharp one). Tight ones read the unit "
    "ball; sharp ones of L2 and cosine attention hold everywhere, as theirs do. At an input (Yudin et "
    "al.) and of radii (Rezazadeh and Davoodi): {draws} random inputs of {num_tokens} tokens of width "
    "{dim} for each of the scales {scales} of random weights, one head; radii of query pooling, each "
    "token with a budget."
)


def literature(records: Sequence[Row]) -> Table:
    """What is new against the literature, with the same setting computed for each.

    Args:
        records: Those of bounds.py.

    Returns:
        A row for each work.
    """
    whole = functools.partial(_of_constants, records, "attention")
    rows = [
        [
            "Castin et al. 2024",
            "dot-product attention on a ball",
            whole("dot", "published"),
            "√n with a smaller factor (4.1), both parts of the derivative together (8.3), biases, "
            "masks, one token, poolers",
        ],
        [
            "Kim et al. 2021",
            "L2 attention, everywhere",
            whole("l2", "published"),
            "the power of |W_Q| put right (3.4), plain values, one token, poolers",
        ],
        [
            "Qi et al. 2023",
            "scaled cosine attention, everywhere",
            whole("cosine", "published"),
            "√n in place of n² (4.5), plain values, one token, poolers",
        ],
        [
            "Yudin et al. 2025",
            "dot-product attention at an input",
            _of_inputs(),
            "tokens centred, query biases (5.2), sums over rows and columns (5.1), other kinds of "
            "attention, several heads, balls",
        ],
        [
            "Nair 2025",
            "softmax: 1/2 in every norm",
            _of_constants(records, "attn", "dot", "sharp", sharp=False),
            "the sharp bound of latent attention pooling is made of it (6.4); the tight one reads how "
            "far keys and values lie apart (8.10)",
        ],
        [
            "Rezazadeh and Davoodi 2026",
            "softmax over a box of logits, exactly",
            _of_radii(),
            "values and logits move by one change of a token, not apart (9.4)",
        ],
        [
            "Emadi 2026",
            "softmax from the largest change of a logit to the sum of changes, exactly",
            "not comparable: a constant of softmax, used as it stands (1.2)",
            "pooled models with a budget for each token (4.9), and beside it the Frobenius norm",
        ],
        [
            "Newhouse et al. 2025",
            "norms of weights while a network is trained",
            "not comparable: a product over layers in the root mean square of tokens, logits by 1/d",
            "their caps are used in training; what a trained model's constant is, a ledger says (7)",
        ],
    ]
    return Table(
        title="Beside the literature",
        columns=["work", "what it bounds", "theirs / ours", "what is new here, by section"],
        rows=[[Cell(entry) for entry in row] for row in rows],
        notes=[
            _ABOUT.format(
                draws=DRAWS, num_tokens=NUM_TOKENS, dim=DIM, scales=", ".join(map(str, _SCALES))
            )
        ],
        tidy=[{"work": row[0], "ratio": row[2]} for row in rows],
    )


def _of_constants(records, target, kind, theirs, *, sharp=True) -> str:
    """Ratios of recorded constants, to the tight ones and to the sharp ones."""
    found = [
        row
        for row in records
        if row["kind"] in ("bounds_inputs", "bounds_weights")
        and (row["target"], row["attention"]) == (target, kind)
    ]
    ratios = _ends(row[theirs] / row["tight"] for row in found)
    return f"{ratios} ({_ends(row[theirs] / row['sharp'] for row in found)})" if sharp else ratios


def _of_inputs() -> str:
    """The form of Yudin et al. over the bound at an input, of one head without values."""
    identity = jnp.eye(DIM)

    @jax.jit
    @jax.vmap
    def local(x, query, key):
        kernels = query[:, None], key[:, None], identity[:, None], identity[None]
        return bounds.local_attention(x, *kernels)

    rng = np.random.default_rng(0)
    ratios = []
    for scale in _SCALES:
        x = rng.normal(size=(DRAWS, NUM_TOKENS, DIM)) / DIM**0.5
        query, key = scale * rng.normal(size=(2, DRAWS, DIM, DIM)) / DIM**0.5
        theirs = [input_form(*one) for one in zip(x, query, key, strict=True)]
        ratios += list(np.asarray(theirs) / np.asarray(local(*map(jnp.asarray, (x, query, key)))))
    return _ends(ratios)


def input_form(x: np.ndarray, query: np.ndarray, key: np.ndarray) -> float:
    """``|P| + 2 |X|^2 |A| max_i g_1(P_i)`` of one head without values."""
    a = query @ key.T / np.sqrt(query.shape[1])
    logits = x @ a @ x.T
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    ordered = -np.sort(-weights, axis=-1)
    g = ordered[:, 0] * (ordered[:, 1:].sum(axis=-1) + ordered[:, 1])
    of_weights, of_x, of_a = (np.linalg.norm(matrix, 2) for matrix in (weights, x, a))
    return float(of_weights + 2 * of_x**2 * of_a * g.max())


def _of_radii() -> str:
    """Radii of query pooling, each token with its budget: by one change of a token over a box."""
    rng = np.random.default_rng(0)
    ratios = []
    for scale in _SCALES:
        for _ in range(DRAWS):
            a, f = scale * rng.normal(size=(2, DIM)) / np.sqrt(DIM)
            tokens = rng.normal(size=(NUM_TOKENS, DIM))
            logits, values = tokens @ a, tokens @ f
            weights = np.exp(logits - logits.max())
            # A lead of half a standard deviation of the values.
            values = values - weights @ values / weights.sum() + values.std() / 2
            ours, theirs = (
                _radius(functools.partial(side, weights, values, a, f))
                for side in (least_of_one, least_of_box)
            )
            ratios.append(ours / theirs)
    return _ends(ratios)


def least_of_one(weights, values, a, f, epsilon):
    """The least sum of ``p_k exp(a . D) (v_k + f . D)``, each token's change ``D`` its own."""
    size = np.linalg.norm(a)
    along = f @ a / size
    across = np.sqrt(max(f @ f - along**2, 0))
    angles = np.linspace(-np.pi / 2, np.pi / 2, 401)
    t = epsilon * np.sin(angles)
    terms = np.exp(size * t) * (values[:, None] + along * t - across * epsilon * np.cos(angles))
    return weights @ terms.min(axis=1)


def least_of_box(weights, values, a, f, epsilon):
    """The least sum where logits lie in a box, and values below it."""
    least = values - np.linalg.norm(f) * epsilon
    return weights @ (np.exp(-np.sign(least) * np.linalg.norm(a) * epsilon) * least)


def _radius(least: Callable[[float], float]) -> float:
    """The largest radius at which a lead that falls is still there."""
    low, high = 0.0, 1.0
    while least(high) > 0:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if least(middle) > 0 else (low, middle)
    return low


def _ends(ratios: Iterable[float]) -> str:
    known = [float(one) for one in ratios]
    return f"{number_text(min(known))} – {number_text(max(known))}" if known else "–"

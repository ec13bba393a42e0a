"""What several test modules share."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np

from poolax import attention, empirical, pooling

POOLERS = {
    "first": pooling.FirstPool(),
    "last": pooling.LastPool(),
    "avg": pooling.AveragePool(),
    "sum": pooling.SumPool(),
    "max": pooling.MaxPool(),
    "wavg": pooling.WeightedAveragePool(max_tokens=12),
    "wavg-raw": pooling.WeightedAveragePool(max_tokens=12, normalize="none"),
    "attn": pooling.LatentAttentionPool(num_latents=5, num_heads=2),
    "attn-norm": pooling.LatentAttentionPool(num_latents=5, num_heads=2, use_norm=True),
    "map": pooling.QueryAttentionPool(num_queries=2, num_heads=2),
    "hybrid": pooling.HybridPool(),
}
# Those of probes on frozen models, and by entry.
PROBES = {
    "l2": pooling.L2Pool(),
    "lse": pooling.LogSumExpPool(temperature=0.5),
    "ep": pooling.EfficientProbingPool(num_queries=2),
    "abmil": pooling.GatedAttentionPool(hidden_dim=3),
    "multimax": pooling.MultiMaxPool(),
    "rolling": pooling.RollingPool(window=3),
    "position": pooling.PositionAttentionPool(num_heads=2),
}
# Those of sentence encoders, and around others.
FURTHER_POOLERS = {
    "sqrt": pooling.SqrtPool(),
    "weightedmean": pooling.PositionPool(start=2),
    "multimax-narrow": pooling.MultiMaxPool(num_heads=3),
    "skip": pooling.SkipPool(pooling.WeightedAveragePool(max_tokens=12), 2),
    "projected": pooling.ProjectedPool(pooling.MaxPool(), 4, "tanh"),
    "norm": pooling.NormPool(pooling.SkipPool(pooling.AveragePool(), 1), eps=1e-2),
    "map-full": pooling.QueryAttentionPool(num_heads=2, full=True, mlp_dim=5, norm_eps=1e-2),
    "layers": pooling.LayerMixPool(pooling.QueryAttentionPool(num_heads=2), 2),
    "concat": pooling.ConcatPool((pooling.AveragePool(), pooling.QueryAttentionPool())),
}
PUBLISHED = ("first", "last", "avg", "sum", "max")
KINDS = {
    "dot": attention.DotProduct(),
    "l2": attention.L2(),
    "cosine": attention.Cosine(tau=2.0, nu=1.5, eps=0.01),
}

PROJECTIONS = {
    "frobenius": empirical.project_to_frobenius_ball,
    "tokens": empirical.project_to_ball,
}


def random_variables(module, key, *args, scale=1.0):
    """Variables with random values everywhere, biases, scales and mixtures included."""
    shapes = jax.eval_shape(module.init, key, *args)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, max(1, len(leaves)))
    return jax.tree.unflatten(
        tree,
        [
            scale * jax.random.normal(k, leaf.shape, jnp.result_type(float))
            for k, leaf in zip(keys, leaves, strict=False)
        ],
    )


def pad(tokens, left, right, fill):
    """Tokens (n, d) between ``left`` and ``right`` rows of ``fill``, and their mask."""
    tokens = np.asarray(tokens)
    rows = [np.full((count, tokens.shape[1]), fill, tokens.dtype) for count in (left, right)]
    mask = np.r_[np.zeros(left, bool), np.ones(len(tokens), bool), np.zeros(right, bool)]
    return jnp.asarray(np.concatenate([rows[0], tokens, rows[1]])), jnp.asarray(mask)


def exact_norm(fn, x):
    """Spectral norm of the Jacobian, by the textbook: dense, by SVD."""
    jacobian = jax.jacfwd(fn)(x)
    return np.linalg.norm(np.asarray(jacobian).reshape(-1, x.size), ord=2)


def random_tokens(key, num_tokens, dim, radius):
    """Tokens in the ball of the given radius, the outermost on its surface."""
    tokens = jax.random.normal(key, (num_tokens, dim))
    return radius * tokens / jnp.linalg.norm(tokens, axis=-1).max()


def largest_in_ball(fn, x, geometry, radius):
    """The largest norm of a Jacobian that ascent finds in a ball, of the geometry's kind or below it.

    ``fn`` gives tokens, whose largest counts for ``"tokens"``, or one vector.
    """

    def norm(x):
        jacobian = jax.jacrev(fn)(x)
        jacobian = jacobian.reshape(-1, *jacobian.shape[-3:])  # (m, e, n, d)
        if geometry == "frobenius":
            return jnp.linalg.svd(jacobian.reshape(-1, x.size), compute_uv=False)[0]
        # One token's output where every token moves along its own best direction, by turns.
        moves = jax.lax.stop_gradient(jnp.ones(x.shape) / jnp.sqrt(x.shape[1]))
        for _ in range(4):
            out = jnp.einsum("idke,ke->id", jacobian, moves)
            top = jnp.argmax(jnp.linalg.norm(out, axis=-1))
            back = jnp.einsum("dke,d->ke", jacobian[top], out[top])
            length = jnp.linalg.norm(back, axis=-1, keepdims=True)
            moves = jax.lax.stop_gradient(back / jnp.where(length > 0, length, 1))
        return jnp.max(jnp.linalg.norm(jnp.einsum("idke,ke->id", jacobian, moves), axis=-1))

    options = {"project": PROJECTIONS[geometry], "steps": 20, "restarts": 2}
    return jax.jit(
        lambda radius: empirical.pgd(norm, x, jax.random.key(5), radius=radius, **options).loss
    )(radius)


def assert_close(actual, expected, tolerance=1e-5):
    """Equal up to ``tolerance`` times the largest number that is expected."""
    expected = np.asarray(expected)
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


class Counted:
    """Counts its traces, which make it no other."""

    traces = 0

    def __eq__(self, other):
        return isinstance(other, Counted)

    def __hash__(self):
        return 0

    def __call__(self, x):
        self.traces += 1
        return x


def head_row(pooler, seed, test, **fields):
    """A record of a head as the smallest sweeps have it."""
    return {
        "kind": "head",
        "backbone": "ViT",
        "dataset": "digits",
        "task": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
        "pooler": pooler,
        "resolved": {"name": pooler, "options": {}},
        "learning_rate": 1e-3,
        "seed": seed,
        "validation": test,
        "test": test,
        "baseline": 0.1,
        "diverged": False,
    } | fields


def text_of(path):
    """Texts of an SVG, one for each label."""
    root = ElementTree.parse(path).getroot()
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
    return [text.replace("\N{ZERO WIDTH SPACE}", "") for text in texts]

"""What method="tight" is proved to be: its parts by themselves, and where it is attained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS, random_tokens, random_variables

from poolax import blocks, bounds, empirical, pooling
from poolax.attention import L2, Cosine, DotProduct, MultiHeadAttention
from poolax.bounds._attentive_rules import covariance_norm
from poolax.bounds._ffn import gated_lipschitz, two_layer_lipschitz
from poolax.bounds._gaussian_rows import rows_together
from poolax.bounds._heads import kappa, whole_sequence
from poolax.bounds._linalg import lambert_w, spectral_norm

DIM = 4


def test_kappa_is_the_largest_of_its_expression(x64):
    p = np.linspace(1e-6, 1, 100_001)
    for t in (0.0, 0.3, 0.5, 0.51, 1.0, 7.0, 300.0):
        for share in (1.0, 0.8, 0.5, 0.2, 0.01):
            allowed = np.append(p[p <= share], share)
            variance = np.where(allowed > 0.5, 4 * allowed * (1 - allowed), 1)
            best = np.sqrt(np.max(allowed * (1 + variance * t**2)))
            found = kappa(jnp.asarray(t), share)
            np.testing.assert_allclose(found, best, rtol=1e-4)
            assert found >= best * (1 - 1e-12)
            assert found <= np.sqrt(1 + t**2) * (1 + 1e-12)


def test_rows_together_attain_their_form(x64):
    """The top eigenvalue of the quadratic form, by brute force."""
    for n, mixing, own in ((1, 1.0, 0.5), (2, 1.0, 3.0), (7, 0.3, 2.0), (50, 1.0, 0.0), (5, 0.0, 2.0)):
        first = np.eye(n)[0]
        rows = mixing * np.ones((n, 1)) * first + own * np.eye(n)
        expected = np.linalg.norm(rows, 2)
        np.testing.assert_allclose(whole_sequence(n, mixing, own), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_weak_attention_attains_the_tight_bound(kind, x64):
    """As logits vanish attention becomes the average, whose norm is one; sharp says sqrt(n)."""
    n = 9
    kernel = jnp.eye(DIM)[:, None]
    weak = 1e-3 * kernel
    kernels = {"query": weak, "key": weak, "value": kernel, "out": jnp.eye(DIM)[None]}
    config = {"dot": DotProduct(), "l2": L2(plain_values=True), "cosine": Cosine(1e-4, 1.0, 1.0)}[kind]
    if kind == "l2":
        del kernels["key"]
    layer = MultiHeadAttention(1, config)
    params = {name: {"kernel": array} for name, array in kernels.items()}
    # Normalised values move most where they vanish.
    x = random_tokens(jax.random.key(0), n, DIM, 1e-3 if kind == "cosine" else 1.0)
    measured = empirical.jacobian_norm(lambda x: layer.apply({"params": params}, x), x)
    sizes = {"num_tokens": n, "radius": 1.0}
    full = bounds.attention(config, kernels, **sizes, method="tight", pattern="full")
    sharp = bounds.attention(config, kernels, **sizes)
    assert measured <= full.sequence <= 1.001 * measured
    assert sharp.sequence >= 2.9 * measured


@pytest.mark.parametrize("name", ["avg", "sum", "wavg", "map", "max"])
def test_a_pattern_that_is_known_never_hurts(name, x64):
    model = blocks.TBM(2, POOLERS[name])
    variables = random_variables(model, jax.random.key(0), jnp.zeros((12, DIM)), scale=0.3)
    curve = jax.vmap(
        lambda n, radius: bounds.tbm(model, variables, num_tokens=n, radius=radius, method="tight"),
    )
    for radius in (1e-3, 1.0):
        counts = jnp.arange(1, 12)
        tight = curve(counts, jnp.full(11, radius)).lipschitz
        ranged = bounds.tbm(
            model, variables, num_tokens=bounds.TokenRange(1, 11), radius=radius, method="tight"
        )
        assert (tight <= ranged.lipschitz * (1 + 1e-12)).all()


def test_heads_combine_below_both_sharp_forms(x64):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (24, 6, 4)) for k in keys[:3])
    kernels = {"query": query, "key": key, "value": value}
    kernels["out"] = jax.random.normal(keys[3], (6, 4, 24))
    sizes = {"num_tokens": 50, "radius": 1e-4}
    sharp = bounds.attention(DotProduct(), kernels, **sizes)
    tight = bounds.attention(DotProduct(), kernels, **sizes, method="tight")
    assert tight.sequence < 0.95 * sharp.sequence
    # With logits near zero the heads alone differ: the largest map from one average for each head.
    stacked = jnp.einsum("dhk,hke->hde", value, kernels["out"])
    assert tight.mixing >= spectral_norm(jnp.sum(stacked, axis=0))


def worst_covariances(logits, factors, spread, key):
    """Alternates between covariances and singular vectors: a large ``|sum_h A_h Cov_h F_h|``."""
    width = logits.shape[-1]
    u, v = jax.random.normal(key, (2, width))
    for _ in range(30):
        f, g = factors @ u, jnp.einsum("hde,d->he", logits, v)
        pairs = f[:, :, None] * g[:, None]
        values, vectors = np.linalg.eigh(pairs + jnp.swapaxes(pairs, 1, 2))
        kept = vectors * (values > 0)[:, None]
        covariance = spread**2 * kept @ jnp.swapaxes(kept, 1, 2)
        own = jnp.einsum("hde,hef,hfg->dg", logits, covariance, factors)
        left, norms, right = np.linalg.svd(own)
        u, v = right[0], left[:, 0]
    return norms[0]


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("plain_l2", [False, True])
def test_own_parts_of_all_heads_together(num_heads, plain_l2, x64):
    """Above the worst of all covariances, and not far; well below the heads one by one."""
    keys = jax.random.split(jax.random.key(num_heads), 5)
    query, key, value = (jax.random.normal(k, (12, num_heads, 3)) for k in keys[:3])
    kernels = {"query": query, "value": value, "out": jax.random.normal(keys[3], (num_heads, 3, 12))}
    spread, reads = 0.05, query if plain_l2 else key
    if not plain_l2:
        kernels["key"] = key
    logits = jnp.einsum("dhk,ehk->hde", query, reads) / 3**0.5
    factors = jnp.einsum("dhk,hke->hde", value, kernels["out"])
    kind = L2(plain_values=True) if plain_l2 else DotProduct()
    sizes = {"num_tokens": 5, "radius": 1.0, "spread": spread}
    tight, sharp = (bounds.attention(kind, kernels, **sizes, method=m) for m in ("tight", "sharp"))
    times = 2 if plain_l2 else 1
    found = max(worst_covariances(logits, factors, spread, k) for k in jax.random.split(keys[4], 5))
    assert times * found <= tight.own <= 1.35 * times * found
    assert tight.own < (0.95 if num_heads == 1 else 0.75) * sharp.own


@pytest.mark.parametrize("rotary", [False, True])
def test_heads_cannot_all_read_the_same_change(rotary, x64):
    """Queries of different heads in different directions of a token, so that slopes do not add up."""
    dim, num_heads = 12, 4
    apart = jnp.eye(dim).reshape(dim, num_heads, 3)
    together = jnp.broadcast_to(jnp.eye(dim, 3)[:, None], apart.shape)
    kernels = {"key": together, "value": together, "out": jnp.eye(dim).reshape(num_heads, 3, dim)}
    sizes = {"num_tokens": 6, "radius": 3.0, "method": "tight", "rotary": rotary}
    narrow = bounds.attention(DotProduct(), kernels | {"query": apart}, **sizes)
    wide = bounds.attention(DotProduct(), kernels | {"query": together}, **sizes)
    slope = 3.0**2 / 3**0.5
    both = [jnp.hypot(num_heads**0.5, times * slope) for times in (1, num_heads**0.5)]
    if rotary:
        both = [num_heads**0.5 + times * slope for times in (1, num_heads**0.5)]
    np.testing.assert_allclose([narrow.mixing_largest, wide.mixing_largest], both, rtol=1e-6)


def test_what_follows_the_attention_is_folded_in(x64):
    """Without attention, a block that is linear at a point attains its constant; products count."""
    dim = 8
    model = blocks.TBM(1, pooling.LastPool())
    x = random_tokens(jax.random.key(0), 3, dim, 1.0)
    variables = random_variables(model, jax.random.key(1), x)
    params = variables["params"]
    off = jax.tree.map(jnp.zeros_like, params["attention"])
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (dim, dim)))[0]
    for kernel, ratio in ((-jnp.eye(dim), 0.5), (rotation, 0.9)):
        fixed = {"params": params | {"attention": off, "ffn": params["ffn"] | {"kernel": kernel}}}
        sizes = {"num_tokens": 3, "radius": 1.0}
        tight, sharp = (
            bounds.tbm(model, fixed, **sizes, method=m).lipschitz for m in ("tight", "sharp")
        )
        measured = empirical.jacobian_norm(lambda x, fixed=fixed: model.apply(fixed, x), x)
        assert measured <= tight <= ratio * sharp


def test_long_keys_are_attended_to_and_short_ones_move(x64):
    """Cosine attention that sees all tokens: the largest over lengths of keys, by brute force."""
    kernel = jnp.eye(DIM)[:, None]
    kernels = {"query": kernel, "key": 3 * kernel, "value": kernel, "out": jnp.eye(DIM)[None]}
    n, length = 20, np.linspace(0, 1, 100_001)
    share = 1 / (1 + (n - 1) * np.exp(-2.0 * (1 + length)))
    moved = (2.0 * 3) ** 2 * (1 - length**2)
    plain = np.sqrt(share.max()) + np.sqrt((share * moved).max())
    for expected, plain_values in ((np.sqrt((share * (1 + moved)).max()), False), (plain, True)):
        kind = Cosine(2.0, 1.0, 1.0, plain_values=plain_values)
        sizes = {"num_tokens": n, "radius": 1.0, "method": "tight"}
        found = bounds.attention(kind, kernels, **sizes, pattern="full").mixing
        assert expected <= found <= 1.03 * expected
        assert found < bounds.attention(kind, kernels, **sizes).mixing


def test_feed_forward_layers(x64):
    rng = np.random.default_rng(0)
    first, second = jnp.asarray(rng.normal(size=(5, 9))), jnp.asarray(rng.normal(size=(9, 5)))
    gelu = functools.partial(jax.nn.gelu, approximate=False)
    points = jnp.asarray(rng.normal(size=(200, 5)) * rng.uniform(0, 3, (200, 1)))
    jacobian = jax.vmap(jax.jacrev(lambda x: gelu(x @ first) @ second))(points)
    measured = jnp.linalg.norm(jacobian, 2, (-2, -1)).max()
    sharp, tight = (two_layer_lipschitz(first, second, 1.1289042, tight=flag) for flag in (False, True))
    assert measured <= tight < sharp
    # Linear in the middle: only the product counts, and half of it is exact.
    assert two_layer_lipschitz(first, 0 * second, 1.0, tight=True) == 0

    hidden, bias = jnp.asarray(rng.normal(size=(5, 9))), jnp.asarray(rng.normal(size=9))
    silu = jax.nn.silu

    def gated(x):
        return (silu(x @ first + bias) * (x @ hidden - bias)) @ second

    points = points / jnp.linalg.norm(points, axis=1, keepdims=True) * 2.0
    measured = jnp.linalg.norm(jax.vmap(jax.jacrev(gated))(points), 2, (-2, -1)).max()
    assert measured <= gated_lipschitz(first, hidden, second, 1.0998394, jnp.asarray(2.0), bias, -bias)


def test_covariances_of_heads_together(x64):
    """Above what any weights give; heads that read and write apart do not add up."""
    rng = np.random.default_rng(0)
    for num_heads, size in ((1, 3), (3, 5)):
        logits, values = rng.normal(size=(2, num_heads, size, 6))
        bound = covariance_norm(jnp.asarray(logits), jnp.asarray(values))
        # Two rows of each head at a time, which alone have the largest variances, and weights of all.
        pairs = rng.integers(size, size=(500, num_heads, 2))
        two = np.eye(size)[pairs].mean(axis=2)
        weights = np.concatenate([two, rng.dirichlet(np.ones(size), (500, num_heads))])
        moved = logits - np.einsum("thm,hmd->thd", weights, logits)[:, :, None]
        found = np.einsum("thm,thmd,hme->tde", weights, moved, values)
        largest = np.linalg.norm(found, 2, axis=(-2, -1)).max()
        assert 0.3 * bound <= largest <= bound * (1 + 1e-12)
    apart = jnp.asarray([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    np.testing.assert_allclose(covariance_norm(apart, apart), 1.0, rtol=1e-12)


def test_entries_that_heads_write_into(x64):
    """Uniform attention writes one number into each entry of its rank, whatever the tokens."""
    nothing, out = jnp.zeros((DIM, 1, DIM)), jnp.eye(DIM)[None]
    for rank in (1, 4):
        value = jnp.diag(jnp.arange(DIM) < rank).astype(float)[:, None]
        kernels = {"query": nothing, "key": nothing, "value": value, "out": out}
        sizes = {"num_tokens": 9, "radius": 1.0, "method": "tight"}
        bound = bounds.attention(DotProduct(), kernels, **sizes)
        np.testing.assert_allclose(bound.mixing_entries, rank**0.5, rtol=1e-9)


def mixing_of_l2(y):
    """Derivative of what all queries average by what they average, ``(n, p, n, p)``, and the weights."""
    apart = y[:, None] - y[None]
    weights = np.exp(-np.sum(apart**2, axis=-1))
    weights /= weights.sum(axis=1, keepdims=True)
    moved = y[None] - (weights @ y)[:, None]
    slopes = 2 * moved[..., None] * apart[:, :, None]
    blocks_of = weights[..., None, None] * (np.eye(y.shape[1]) + slopes)
    return np.moveaxis(blocks_of, 2, 1), weights


def climbed(y, steps, rng):
    """A configuration that steps in random directions have led to, and the norm there."""

    def norm(y):
        return np.linalg.norm(mixing_of_l2(y)[0].reshape(y.size, -1), 2)

    best, size = norm(y), 0.3
    for _ in range(steps):
        trial = y + size * rng.normal(size=y.shape)
        found = norm(trial)
        y, best, size = (trial, found, 1.1 * size) if found > best else (y, best, 0.97 * size)
    return y, best


def test_rows_of_l2_attention_together(x64):
    """Stars, clusters and what random steps make of them stay below; the former form is left behind."""
    rng, n = np.random.default_rng(0), 16
    for width in (1, 2, 4):
        star = np.concatenate([np.zeros((1, width)), 1.1 * rng.normal(size=(n - 1, width))])
        clusters = np.repeat(2 * rng.normal(size=(4, width)), (1, 2, 4, 9), axis=0)
        for start in (star, clusters, 0.3 * star, 3 * star):
            y, found = climbed(start, 60, rng)
            assert mixing_of_l2(y)[1].sum(axis=0).max() <= n**0.5
            assert found <= rows_together(jnp.asarray(float(n)), None, through_metric=True)
            # On a domain that just holds them, values plain or not.
            half = np.square(y[:, None] - y[None]).sum(-1).max() / 4
            for through_metric in (True, False):
                bound = rows_together(
                    jnp.asarray(float(n)), jnp.asarray([half]), through_metric=through_metric
                )
                assert found <= bound[0]
    # A hub whose satellites see it much more than each other: a token that many rows depend on.
    hub = np.concatenate([np.zeros((1, n - 1)), 1.15 * np.eye(n - 1)])
    assert 1.9 <= mixing_of_l2(hub)[1].sum(axis=0).max() <= n**0.5
    for num_tokens in (2.0, 16.0, 512.0):
        w = lambert_w(jnp.asarray((num_tokens - 1) / np.e))
        together = rows_together(jnp.asarray(num_tokens), None, through_metric=True)
        assert together <= num_tokens**0.25 * (1 + jnp.sqrt(8**0.5 * w))
        assert together <= num_tokens**0.5 * (1 + 2 * w)


@pytest.mark.slow
@pytest.mark.parametrize("plain_values", [False, True])
def test_full_l2_attention_is_bounded_by_its_rows_together(plain_values, x64):
    """No larger than without the pattern, and far lower for many tokens, wherever they are."""
    keys = jax.random.split(jax.random.key(3), 3)
    query, value = (jax.random.normal(key, (8, 2, 4)) for key in keys[:2])
    out = jax.random.normal(keys[2], (2, 4, 8)) / 8
    for num_tokens, radius in ((1, 1.0), (64, 0.01), (64, 5.0)):
        sizes = {"num_tokens": num_tokens, "radius": radius, "plain_values": plain_values}
        full, other = (
            bounds.l2_attention(query, value, out, **sizes, method="tight", pattern=pattern)
            for pattern in ("full", "sequence")
        )
        assert full <= other * (1 if num_tokens == 1 or radius < 1 else 0.4)


SEARCHED = [
    pytest.param(kind, name, marks=() if (kind, name) == ("dot", "avg") else pytest.mark.slow)
    for kind in KINDS
    for name in ("avg", "max", "map", "attn")
]


@pytest.mark.parametrize(("kind", "name"), SEARCHED)
def test_adversarial_weights_stay_below(kind, name, x64):
    """Inputs and weights searched together for the largest measured over tight."""
    options = {"num_latents": 3, "num_heads": 2} if name == "attn" else {}
    model = blocks.TBM(1, pooling.from_name(name, **options), KINDS[kind])
    x = random_tokens(jax.random.key(0), 5, DIM, 1.0)
    variables = random_variables(model, jax.random.key(1), x)

    @jax.jit
    def search(x, variables):
        return empirical.maximize_jacobian_norm(
            lambda variables, x: model.apply(variables, x),
            x,
            project=empirical.project_to_ball(1.0),
            key=jax.random.key(2),
            num_restarts=6,
            num_steps=60,
            variables=variables,
            bound=lambda v: bounds.tbm(model, v, num_tokens=5, radius=1.0, method="tight").lipschitz,
        )

    found = search(x, variables)
    assert (0.05 if name in ("map", "attn") else 0.5) < found.ratio <= 1

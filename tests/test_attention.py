import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, assert_close, pad, random_variables
from hypothesis import given
from hypothesis import strategies as st

from poolax import attention
from poolax.attention import L2, Cosine, DotProduct, MultiHeadAttention, QueryGrowth, Rotary

DIM = 8
ALL_KINDS = KINDS | {
    "l2-plain": L2(plain_values=True),
    "cosine-plain": Cosine(tau=2.0, nu=1.5, eps=0.01, plain_values=True),
}
every_kind = pytest.mark.parametrize("kind", ALL_KINDS.values(), ids=ALL_KINDS)


def variables_of(module, num_tokens=6):
    return random_variables(module, jax.random.key(0), jnp.zeros((num_tokens, DIM)))


def tokens(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def turn(x, theta=10_000.0):
    """Rotary positions on (n, d_h), as complex numbers."""
    n, width = x.shape
    half = width // 2
    angles = np.arange(n)[:, None] * theta ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=1)


def textbook(module, variables, x, mask=None, bias=None):
    """One sequence (n, d), head by head and query by query."""
    p = jax.tree.map(np.asarray, variables["params"])
    n, kind, group = len(x), module.kind, 1
    mask = np.ones(n, bool) if mask is None else np.asarray(mask)
    if module.num_kv_heads:
        group = module.num_heads // module.num_kv_heads
    x = np.where(mask[:, None], x, 0)
    out = np.zeros((n, x.shape[1])) + p["out"].get("bias", 0.0)
    maps = np.zeros((module.num_heads, n, n))

    def project(name, head):
        return x @ p[name]["kernel"][:, head] + p[name].get("bias", np.zeros((99, 1)))[head]

    def normalised(rows):
        return rows / np.sqrt((rows**2).sum(1, keepdims=True) + kind.eps)

    for h in range(module.num_heads):
        q, v = project("query", h), project("value", h // group)
        k = q if isinstance(kind, L2) else project("key", h // group)
        scale = 1 / np.sqrt(q.shape[1])
        if isinstance(kind, Cosine):
            q, k, scale = normalised(q), normalised(k), kind.tau
            v = kind.nu * (v if kind.plain_values else normalised(v))
        if module.rotary:
            q, k = turn(q), turn(k)
        if isinstance(kind, L2):
            if not kind.plain_values:
                w = p["query"]["kernel"][:, h]
                v = x @ (w @ w.T * scale) @ p["value"]["kernel"][:, h]
                v = v + p["value"].get("bias", np.zeros((99, 1)))[h]
            logits = -scale * ((q[:, None] - k[None]) ** 2).sum(-1)
        else:
            logits = scale * q @ k.T
        if bias is not None:
            logits = logits + np.broadcast_to(bias, (module.num_heads, n, n))[h]
        for i in range(n):
            seen = [j for j in range(n) if mask[i] and mask[j]]
            if module.causal:
                seen = [j for j in seen if j <= i]
            if module.window is not None:
                behind = module.window - 1 if module.causal else (module.window - 1) // 2
                ahead = 0 if module.causal else module.window // 2
                seen = [j for j in seen if -behind <= j - i <= ahead]
            if seen:
                weights = np.exp(logits[i, seen] - logits[i, seen].max())
                maps[h, i, seen] = weights / weights.sum()
        out += maps[h] @ v @ p["out"]["kernel"][h]
    return np.where(mask[:, None], out, 0), maps


OPTIONS = (
    {},
    {"use_bias": True},
    {"causal": True},
    {"window": 3},
    {"window": 2, "causal": True, "use_bias": True},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "rotary": Rotary(), "causal": True},
    {"rotary": Rotary(theta=100.0), "use_bias": True},
)
VALID = [
    pytest.param(kind, options, id=f"{name}-{options}")
    for name, kind in ALL_KINDS.items()
    for options in OPTIONS
    if not (isinstance(kind, L2) and options.keys() & {"num_kv_heads", "rotary"})
]


@pytest.mark.parametrize(("kind", "options"), VALID)
@pytest.mark.parametrize("masked", [False, True])
def test_against_the_textbook(kind, options, masked, x64):
    module = MultiHeadAttention(4, kind, **options)
    variables = variables_of(module)
    x = tokens(0, 6, DIM)
    mask = np.array([False, True, True, False, True, True]) if masked else None
    bias = tokens(1, 4, 6, 6)
    expected, maps = textbook(module, variables, x, mask, bias)
    out, weights = module.apply(variables, x, mask, bias, return_weights=True)
    assert_close(weights, maps, 1e-12)
    assert_close(out, expected, 1e-12)


def test_dot_product_equals_flax(x64):
    reference = nn.MultiHeadDotProductAttention(num_heads=2, param_dtype=jnp.float64)
    x = tokens(0, 3, 6, DIM)
    variables = random_variables(reference, jax.random.key(0), x)
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2, [False] * 3 + [True] * 3])
    expected = reference.apply(variables, x, mask=mask[:, None, None, :])
    out = MultiHeadAttention(2, use_bias=True).apply(variables, x, mask)
    assert_close(out[mask], expected[mask], 1e-12)


@every_kind
@pytest.mark.parametrize("causal", [False, True])
@given(left=st.integers(0, 3), right=st.integers(0, 3), fill=st.sampled_from([0.0, np.nan, np.inf]))
def test_padding_changes_nothing(kind, causal, left, right, fill):
    rotary = None if isinstance(kind, L2) else Rotary()
    module = MultiHeadAttention(2, kind, causal=causal, window=4, rotary=rotary)
    variables = variables_of(module)
    x = tokens(0, 5, DIM).astype(np.float32)
    padded, mask = pad(x, left, right, fill)
    out = module.apply(variables, padded, mask)
    assert_close(out[left : left + 5], module.apply(variables, x), 2e-5)
    assert not out[~mask].any()


@every_kind
def test_masked_tokens_reach_no_gradient(kind):
    module = MultiHeadAttention(2, kind)
    x, mask = pad(tokens(0, 4, DIM).astype(np.float32), 1, 2, np.nan)
    variables = variables_of(module)
    gradient = jax.grad(lambda x: jnp.square(module.apply(variables, x, mask)).sum())(x)
    assert np.isfinite(gradient).all()
    assert not gradient[~mask].any()
    nothing = jnp.zeros(7, bool)
    out, pull_back = jax.vjp(lambda x: module.apply(variables, x, nothing), x)
    assert not out.any()
    assert not pull_back(jnp.ones_like(out))[0].any()


@every_kind
def test_leading_batch_dimensions(kind):
    module = MultiHeadAttention(2, kind, causal=True)
    variables = variables_of(module)
    x = tokens(0, 2, 3, 5, DIM).astype(np.float32)
    out, weights = module.apply(variables, x, return_weights=True)
    chex.assert_shape(out, (2, 3, 5, DIM))
    chex.assert_shape(weights, (2, 3, 2, 5, 5))
    assert_close(out[1, 2], module.apply(variables, x[1, 2]))
    chex.assert_shape(module.apply(variables, x[:0]), (0, 3, 5, DIM))


def test_a_window_is_what_bounds_take_it_for():
    for causal in (False, True):
        for window in range(1, 6):
            seen = attention.attention_mask(7, causal=causal, window=window)
            assert seen.sum(0).max() == seen.sum(1).max() == window
            assert seen.diagonal().all()


def test_rotary_logits_depend_on_differences_alone():
    x = np.broadcast_to(tokens(0, 1, 1, DIM), (6, 1, DIM)).astype(np.float32)
    turned = Rotary()(jnp.asarray(x))[:, 0]
    products = turned @ turned.T
    for offset in range(6):
        diagonal = jnp.diagonal(products, offset)
        assert_close(diagonal, np.full(6 - offset, diagonal[0]))


@every_kind
def test_bfloat16_keeps_a_float32_softmax(kind):
    module = MultiHeadAttention(2, kind, dtype=jnp.bfloat16)
    variables = variables_of(module)
    x = tokens(0, 5, DIM).astype(np.float32)
    out, weights = module.apply(variables, x, return_weights=True)
    assert out.dtype == jnp.bfloat16
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (MultiHeadAttention(3), {}, r"num_heads: expected a divisor of d = 8, got 3"),
        (MultiHeadAttention(0), {}, r"num_heads: .* >= 1, got 0"),
        (MultiHeadAttention(4, num_kv_heads=3), {}, r"num_kv_heads: .*num_heads = 4, got 3"),
        (MultiHeadAttention(4, L2(), num_kv_heads=2), {}, r"num_kv_heads: .* for L2 .*got 2"),
        (MultiHeadAttention(4, L2(), rotary=Rotary()), {}, r"rotary: expected None for L2"),
        (MultiHeadAttention(8, rotary=Rotary()), {}, r"rotary: .*even head width, got d_h = 1"),
        (MultiHeadAttention(2, "dot"), {}, r"kind: expected DotProduct, L2 or Cosine, got 'dot'"),
        (MultiHeadAttention(2, window=0), {}, r"window: .* >= 1, got 0"),
        (
            MultiHeadAttention(2, query_key_turned=True),
            {},
            r"query_key_turned: .* without query_key_eps",
        ),
        (
            MultiHeadAttention(2, query_key_eps=0.1, query_key_turned=True),
            {},
            r"query_key_turned: expected False unless rotary is a Rotary",
        ),
        (
            MultiHeadAttention(2, L2(), query_growth=QueryGrowth(1.0, 4)),
            {},
            r"query_growth: expected None for L2 attention",
        ),
        (MultiHeadAttention(2), {"x": np.zeros(8)}, r"x: expected shape \(\*batch, n, d\), got \(8,\)"),
        (MultiHeadAttention(2), {"x": np.zeros((0, 8))}, r"x: expected at least one token"),
        (MultiHeadAttention(2), {"x": np.full((5, 8), np.nan)}, r"x: expected finite values"),
        (MultiHeadAttention(2), {"mask": np.ones(5)}, r"mask: expected dtype bool"),
        (MultiHeadAttention(2), {"mask": np.ones(4, bool)}, r"mask: .* \(5,\), got \(4,\)"),
        (MultiHeadAttention(2), {"bias": np.ones((3, 5, 5))}, r"bias: .*\(2, 5, 5\), got \(3, 5, 5\)"),
        (MultiHeadAttention(2), {"bias": np.full((5, 5), -np.inf)}, r"bias: expected finite values"),
        (MultiHeadAttention(2), {"bias": np.ones((5, 5), int)}, r"bias: expected a floating dtype"),
    ],
)
def test_bad_input_is_named(module, arguments, message):
    arguments = {"x": np.zeros((5, DIM))} | arguments
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), **arguments)


@pytest.mark.parametrize("name", ["tau", "nu", "eps"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_bad_cosine_scales_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}: expected a finite number > 0, got"):
        Cosine(**{name: value})


@every_kind
def test_segments_do_not_see_one_another(kind):
    module = MultiHeadAttention(2, kind, use_bias=True)
    variables = variables_of(module)
    x = jnp.asarray(tokens(0, 6, DIM))
    segments = jnp.array([0, 0, 1, 1, 1, 0])
    out, weights = module.apply(variables, x, segments=segments, return_weights=True)
    for segment in (0, 1):
        inside = np.asarray(segments) == segment
        assert_close(out[inside], module.apply(variables, x[inside]), 1e-5)
    assert np.all(np.asarray(weights)[:, np.asarray(segments)[:, None] != np.asarray(segments)] == 0)
    batched = module.apply(variables, jnp.stack([x, x]), segments=segments)
    assert_close(batched[1], out, 1e-6)


def test_heads_may_be_of_any_width_and_the_output_without_bias():
    module = MultiHeadAttention(
        2, num_kv_heads=1, head_dim=5, use_bias=True, use_out_bias=False, rotary=None
    )
    variables = variables_of(module)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes["query"] == {"kernel": (DIM, 2, 5), "bias": (2, 5)}
    assert shapes["value"] == {"kernel": (DIM, 1, 5), "bias": (1, 5)}
    assert shapes["out"] == {"kernel": (2, 5, DIM)}
    x = tokens(0, 6, DIM).astype(np.float32)
    assert_close(module.apply(variables, x), textbook(module, variables, x)[0], 1e-5)
    with pytest.raises(ValueError, match=r"head_dim: expected a whole number >= 1, got 0"):
        MultiHeadAttention(2, head_dim=0).init(jax.random.key(0), x)


def test_the_scale_of_the_logits():
    x = jnp.asarray(tokens(0, 6, DIM))
    plain, scaled = MultiHeadAttention(2), MultiHeadAttention(2, DotProduct(scale=1.0))
    variables = variables_of(plain)
    query = {"kernel": variables["params"]["query"]["kernel"] * 2.0}  # sqrt(d_h)
    stronger = {"params": {**variables["params"], "query": query}}
    assert_close(scaled.apply(variables, x), plain.apply(stronger, x), 1e-5)
    with pytest.raises(ValueError, match=r"scale: expected a finite number > 0, got 0"):
        DotProduct(scale=0.0)


def test_l2_attention_does_not_see_a_common_shift():
    module = MultiHeadAttention(2, L2())
    variables = variables_of(module)
    x = tokens(0, 5, DIM).astype(np.float32)
    maps = [module.apply(variables, x + shift, return_weights=True)[1] for shift in (0, 3000)]
    assert_close(maps[1], maps[0], 0.02)


def test_kinds_are_static():
    assert hash(DotProduct()) == hash(DotProduct())
    assert len({L2(), L2(True), Cosine(), Cosine(tau=2.0), DotProduct()}) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"query_growth": QueryGrowth(2.0, 2)},
        {"query_key_eps": 0.1, "query_key_turned": True, "rotary": Rotary(10.0)},
    ],
    ids=["growth", "turned"],
)
def test_positions_themselves_begin_at_the_first_real_token(options):
    module = MultiHeadAttention(2, **options)
    variables = variables_of(module)
    x = tokens(0, 5, DIM)
    expected = module.apply(variables, x)
    real = np.array([False, False, True, True, True, True, True, False])
    padded = np.full((8, DIM), 1e3)
    padded[real] = x
    found = module.apply(variables, np.stack([padded] * 2), np.stack([real, np.zeros(8, bool)]))
    assert_close(found[0, real], expected, 1e-5)
    assert np.all(found[1] == 0)
    # The first two do not grow, and where nothing has turned order changes nothing.
    moved = module.apply(variables, np.roll(x, 1, axis=0))
    assert np.abs(np.roll(moved, -1, axis=0) - expected).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_mixed_by_attention_that_is_given(kind, x64):
    groups = 2 if kind == "l2" else 1
    layer = MultiHeadAttention(2, KINDS[kind], num_kv_heads=groups, use_bias=True)
    x = jax.random.normal(jax.random.key(0), (3, 5, 4))
    variables = random_variables(layer, jax.random.key(1), x)
    out, weights = layer.apply(variables, x, return_weights=True)
    np.testing.assert_allclose(layer.apply(variables, x, weights=weights), out, atol=1e-12)
    first = jnp.zeros((1, 5, 5)).at[..., 0].set(1)
    found = layer.apply(variables, x, weights=first)
    np.testing.assert_allclose(found, found[:, :1] + jnp.zeros_like(x), atol=1e-12)
    with pytest.raises(ValueError, match="weights: expected a shape that broadcasts to"):
        layer.apply(variables, x, weights=weights[:2])


def test_positions_are_one_constant_of_a_program():
    """Sines of whole sequences are not taken again by every head and layer."""

    def twice(x, mask=None):
        lengths = None if mask is None else mask.sum(-1)
        return jnp.tanh(Rotary()(jnp.tanh(Rotary()(x, lengths)), lengths))

    x, mask = jnp.ones((2, 5, 2, 8), jnp.float32), jnp.ones((2, 5), bool)
    for arguments in ((x,), (x, mask)):
        text = jax.jit(twice).lower(*arguments).as_text()
        assert "sine" not in text
        assert text.count("dense<[[[") == 2  # cosines and sines
    half = jnp.asarray(x, jnp.bfloat16)
    assert Rotary()(half).dtype == jnp.bfloat16

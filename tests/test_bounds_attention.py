import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, exact_norm, random_tokens, random_variables

from poolax import attention, blocks, bounds, empirical, pooling
from poolax.attention import L2, Cosine, DotProduct, MultiHeadAttention, Rotary

CASES = json.loads((pathlib.Path(__file__).parent / "golden" / "theory_cases.json").read_text())
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"n{c['n']}-d{c['d']}-H{c['num_heads']}"
)
FIXED = ("last", "avg", "sum", "max")


def golden(case, kind):
    """Kind of attention, kernels and sizes of a golden case."""
    kernels = {name: jnp.asarray(case[name]) for name in ("query", "key", "value", "out")}
    if kind == "l2":
        del kernels["key"]
    config = {
        "dot": DotProduct(),
        "l2": L2(),
        "cosine": Cosine(case["tau"], case["nu"], case["eps"]),
    }[kind]
    return (
        config,
        kernels,
        {"num_tokens": case["n"], "radius": case["radius"], "spread": case["spread"]},
    )


@every_case
@pytest.mark.parametrize("kind", KINDS)
def test_golden_values(case, kind, x64):
    config, kernels, sizes = golden(case, kind)
    expected = case["expected"][kind]
    for method in ("published", "sharp"):
        biased = {}
        if (kind, method) == ("dot", "sharp"):
            biased = {"query_bias": jnp.asarray(case["query_bias_dot"])}
        bound = bounds.attention(config, {**kernels, **biased}, **sizes, method=method)
        np.testing.assert_allclose(bound.sequence, expected["attention"][method], rtol=1e-6)
        if method == "sharp":
            np.testing.assert_allclose(bound.per_token, expected["attention"]["sharp_row"], rtol=1e-6)
        for pooler in FIXED:
            block = {"ffn": jnp.asarray(case["ffn"]), "dim": case["d"], "num_tokens": case["n"]}
            separate = bounds.pooled_block(
                pooler,
                attention=bound.sequence,
                attention_per_token=bound.per_token,
                method=method,
                **block,
            )
            np.testing.assert_allclose(
                separate.lipschitz, expected["pooled"][pooler][method], rtol=1e-6
            )
            joint = bounds.pooled_block(pooler, attention=bound, method=method, **block)
            assert joint.lipschitz <= separate.lipschitz
            assert joint.lipschitz >= expected["pooled"][pooler]["exact_jacobian_norm_at_x"] or (
                method == "published" and kind == "dot" and np.any(case["query_bias_dot"])
            )


@every_case
@pytest.mark.parametrize("kind", KINDS)
def test_golden_jacobians(case, kind, x64):
    config, kernels, _ = golden(case, kind)
    params = {name: {"kernel": kernel} for name, kernel in kernels.items()}
    use_bias = kind == "dot"
    if use_bias:
        for name, part in params.items():
            shape = part["kernel"].shape
            part["bias"] = jnp.zeros(shape[2:] if name == "out" else shape[1:])
        params["query"]["bias"] = jnp.asarray(case["query_bias_dot"])
    x = jnp.asarray(case["tokens"])
    expected = case["expected"][kind]
    layer = MultiHeadAttention(case["num_heads"], config, use_bias=use_bias)
    measured = exact_norm(lambda x: layer.apply({"params": params}, x), x)
    np.testing.assert_allclose(measured, expected["attention"]["exact_jacobian_norm_at_x"], rtol=1e-6)
    norm = {"scale": jnp.ones(case["d"]), "bias": jnp.zeros(case["d"])}
    ffn = {"kernel": jnp.asarray(case["ffn"])} | ({"bias": jnp.zeros(case["d"])} if use_bias else {})
    params = {"attention": params, "ffn": ffn, "norm1": norm, "norm2": norm}
    for pooler in FIXED:
        model = blocks.TBM(case["num_heads"], pooling.from_name(pooler), config, use_bias=use_bias)
        measured = empirical.jacobian_norm(lambda x, m=model: m.apply({"params": params}, x), x)
        np.testing.assert_allclose(
            measured, expected["pooled"][pooler]["exact_jacobian_norm_at_x"], rtol=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_functions_of_one_kind_agree_with_the_dispatching_one(kind, x64):
    case = CASES[3]
    config, kernels, sizes = golden(case, kind)
    function, extra = {
        "dot": (bounds.dot_product_attention, {}),
        "l2": (bounds.l2_attention, {}),
        "cosine": (
            bounds.cosine_attention,
            {"tau": case["tau"], "nu": case["nu"], "eps": case["eps"]},
        ),
    }[kind]
    for method in ("published", "sharp"):
        bound = bounds.attention(config, kernels, **sizes, method=method)
        assert function(**kernels, **sizes, **extra, method=method) == bound.sequence
        assert bound.method == method
    assert function(**kernels, **sizes, **extra, per_token=True) == bound.per_token
    with pytest.raises(ValueError, match=r"per_token: expected False for method 'published'"):
        function(**kernels, **sizes, **extra, per_token=True, method="published")
    with pytest.raises(
        ValueError, match=r"method: expected one of 'published', 'sharp', 'tight', got 'best'"
    ):
        function(**kernels, **sizes, **extra, method="best")


ALL_KINDS = {
    **KINDS,
    "rotary": DotProduct(),
    "l2-plain": L2(plain_values=True),
    "cosine-plain": Cosine(tau=2.0, nu=1.5, eps=0.01, plain_values=True),
}
PATTERNS = {"full": "full", "grouped": "full", "causal": "sequence", "window": "any"}
MASKINGS = ("full", "padded", "causal", "window", "grouped")
# The heads of L2 share no keys.
SANDWICHES = [
    (kind, masking)
    for kind in ALL_KINDS
    for masking in MASKINGS
    if masking != "grouped" or not kind.startswith("l2")
]
WINDOW, RADIUS = 3, 1.5
START = functools.partial(random_tokens, num_tokens=6, dim=4, radius=RADIUS)


@functools.cache
def sandwich(kind, masking):
    """Layer of a kind, what is measured of it at a mask, and its bounds for a number of tokens."""
    options = {"causal": masking == "causal", "window": WINDOW if masking == "window" else None}
    rotary = Rotary(2.0) if kind == "rotary" else None
    config = ALL_KINDS[kind]
    layer = MultiHeadAttention(
        2, config, 1 if masking == "grouped" else None, use_bias=True, rotary=rotary, **options
    )

    def local(params, x, mask):
        biases = {
            f"{name}_bias": params[name]["bias"] for name in ("query", "key", "value") if name in params
        }
        if isinstance(config, L2):
            biases.pop("query_bias")
        kernels = [
            params[name]["kernel"] if name in params else None for name in ("query", "key", "value")
        ]
        masks = {"mask": mask, "rotary": rotary, **options}
        return bounds.local_attention(
            x, *kernels, params["out"]["kernel"], kind=config, **biases, **masks
        )

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def measure(params, mask):
        def mapped(x):
            return layer.apply({"params": params}, x, mask)

        start = START(jax.random.key(0))
        search = {"project": empirical.project_to_ball(RADIUS), "key": jax.random.key(2)}
        found = empirical.maximize_jacobian_norm(mapped, start, **search, num_restarts=6, num_steps=30)
        points = jnp.stack([start, -0.3 * start, found.x])
        jacobians = jax.vmap(jax.jacrev(mapped))(points)
        whole = jacobians.reshape(3, start.size, -1)
        rows = jacobians.reshape(3, len(start), start.shape[1], -1)
        here, row = (jnp.linalg.norm(j, 2, (-2, -1)) for j in (whole, rows))
        return here, row.max(), found.value, jax.lax.map(lambda x: local(params, x, mask), points)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def bound(params, num_tokens):
        each = {"rotary": rotary is not None, "num_tokens": num_tokens, "radius": RADIUS}
        sharp = bounds.attention(config, params, **each)
        tight = bounds.attention(config, params, **each, method="tight")
        known = bounds.attention(config, params, **each, method="tight", pattern=PATTERNS[masking])
        return sharp, tight, known

    return layer, measure, bound


@pytest.mark.parametrize(("kind", "masking"), SANDWICHES)
def test_sandwich(kind, masking, x64):
    """measured <= local, measured <= tight <= sharp <= published: random and adversarial, rows too."""
    # What is padded is an argument of the programs for all tokens.
    layer, measure, bound = sandwich(kind, "full" if masking == "padded" else masking)
    start = START(jax.random.key(0))
    mask = jnp.arange(len(start)) < (4 if masking == "padded" else len(start))
    counted = WINDOW if masking == "window" else int(mask.sum())
    keys = jax.random.split(jax.random.key(1), 4)
    scales = (0.1, 0.5, 1.0, 3.0)
    variables = [
        random_variables(layer, key, jnp.zeros_like(start), scale=scale)["params"]
        for key, scale in zip(keys, scales, strict=True)
    ]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
    here, row, found, local_bounds = measure(params, mask)
    sharp, tight, known = bound(params, counted)
    exact = 1 + 1e-9
    assert (found > 0).all()
    assert (here <= local_bounds * exact).all()
    whole = here.max(axis=1)
    assert (found <= whole * exact).all()
    assert (whole <= known.sequence).all()
    assert (row <= known.per_token).all()
    for smaller, larger in ((known, tight), (tight, sharp)):
        for part in ("sequence", "per_token", "mixing", "own"):
            assert (getattr(smaller, part) <= getattr(larger, part) * exact).all(), part
    bare = {name: {"kernel": part["kernel"]} for name, part in variables[2].items()}
    each = {"rotary": kind == "rotary", "num_tokens": counted, "radius": RADIUS}
    if kind in KINDS:
        published = bounds.attention(ALL_KINDS[kind], bare, **each, method="published")
        assert bounds.attention(ALL_KINDS[kind], bare, **each).sequence <= published.sequence
    else:
        with pytest.raises(ValueError, match=r"for which nothing was published"):
            bounds.attention(ALL_KINDS[kind], bare, **each, method="published")


def test_forms_on_a_domain_by_hand(x64):
    """One head of width one: rotary 1 + 2 aR rho, plain values by the formulas of the docstrings."""
    eye = jnp.eye(1).reshape(1, 1, 1)
    kernels = {"query": 2.0 * eye, "key": 3.0 * eye, "value": eye, "out": eye}
    sizes = {"num_tokens": 4, "radius": 2.0, "spread": 0.5}
    biases = {"query_bias": jnp.ones((1, 1)), "key_bias": 2.0 * jnp.ones((1, 1))}
    rotary = bounds.dot_product_attention(**kernels, **biases, **sizes, rotary=True)
    np.testing.assert_allclose(rotary, 2 * (1 + (4 + 1) * 3 * 0.5) + (6 + 2) * 2 * 0.5, rtol=1e-12)
    l2 = {name: kernel for name, kernel in kernels.items() if name != "key"}
    plain = bounds.l2_attention(**l2, **sizes, plain_values=True)
    np.testing.assert_allclose(plain, 2 * (1 + 4 * 4 * 0.25) + 2 * 4 * 0.25, rtol=1e-12)
    one = bounds.l2_attention(**l2, **sizes, plain_values=True, per_token=True)
    np.testing.assert_allclose(one, 1 + 6 * 4 * 0.25, rtol=1e-12)
    scales = {"tau": 3.0, "nu": 2.0, "eps": 0.25}
    cosine = bounds.cosine_attention(**kernels, **sizes, **scales, plain_values=True)
    np.testing.assert_allclose(cosine, 2 * (2 * (1 + 3 * 3) + 3 * 2), rtol=1e-12)
    alone = {**sizes, "num_tokens": 1}
    for value in (
        bounds.dot_product_attention(**kernels, **alone, rotary=True),
        bounds.l2_attention(**l2, **alone, plain_values=True),
        bounds.cosine_attention(**kernels, **alone, **scales, plain_values=True) / 2,
    ):
        np.testing.assert_allclose(value, 1.0, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
def test_sandwich_in_the_cube(scale, x64):
    """Where the spread is half of the radius."""
    layer = MultiHeadAttention(2)
    start = jax.random.uniform(jax.random.key(0), (5, 4))
    variables = random_variables(layer, jax.random.key(1), start, scale=scale)
    domain = bounds.cube(1.0, 4)
    found = empirical.maximize_jacobian_norm(
        lambda x: layer.apply(variables, x),
        start,
        project=empirical.project_to_cube(1.0),
        key=jax.random.key(2),
        num_restarts=8,
        num_steps=100,
    )
    sizes = {"num_tokens": 5, "radius": domain.radius}
    bound = bounds.attention(DotProduct(), variables["params"], **sizes, spread=domain.spread)
    assert found.value <= bound.sequence
    assert bound.sequence < bounds.attention(DotProduct(), variables["params"], **sizes).sequence


@pytest.mark.parametrize("method", ["published", "sharp"])
def test_the_scale_of_the_logits_is_part_of_the_query(method, x64):
    module = MultiHeadAttention(2, DotProduct(scale=1.0))
    variables = random_variables(module, jax.random.key(0), jnp.zeros((5, 8)))
    kernels = {name: part["kernel"] for name, part in variables["params"].items()}
    sizes = {"num_tokens": 5, "radius": 0.5, "method": method}
    scaled = bounds.attention(DotProduct(scale=1.0), kernels, **sizes)
    stronger = bounds.attention(DotProduct(), kernels | {"query": 2.0 * kernels["query"]}, **sizes)
    np.testing.assert_allclose(scaled.sequence, stronger.sequence, rtol=1e-12)
    x = random_tokens(jax.random.key(1), 5, 8, 0.5)
    assert exact_norm(lambda x: module.apply(variables, x), x) <= scaled.sequence


def test_very_small_kernels_keep_their_bound():
    kernel = 1e-20 * jnp.eye(4).reshape(4, 2, 2)
    out = jnp.eye(4).reshape(2, 2, 4)
    bound = bounds.dot_product_attention(kernel, kernel, kernel, out, num_tokens=1, radius=1.0)
    assert 1e-20 <= bound < 2e-20


def test_whole_numbers_for_the_domain_do_not_overflow():
    kernels = {name: jnp.asarray(kernel + 1.0, jnp.float32) for name, kernel in KERNELS.items()}
    for method in ("published", "sharp"):
        bound = [
            bounds.dot_product_attention(
                **kernels, num_tokens=4, radius=dtype(100_000), spread=dtype(70_000), method=method
            )
            for dtype in (float, int, np.int32, jnp.int32)
        ]
        assert len(set(map(float, bound))) == 1


def test_concrete_ranges_inside_jit():
    def bound(radius):
        return bounds.dot_product_attention(
            **KERNELS, num_tokens=bounds.TokenRange(2, 5), radius=radius
        )

    assert jax.jit(bound)(1.0) == bound(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_needs_no_softmax(kind, x64):
    layer = MultiHeadAttention(2, KINDS[kind])
    x = random_tokens(jax.random.key(0), 1, 4, 1.0)
    variables = random_variables(layer, jax.random.key(1), x)
    bound = bounds.attention(KINDS[kind], variables["params"], num_tokens=1, radius=1.0)
    assert bound.own == 0 or kind == "l2"
    np.testing.assert_allclose(bound.sequence, bound.per_token, rtol=1e-12)
    assert exact_norm(lambda x: layer.apply(variables, x), x) <= bound.sequence


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_of_lengths(kind, x64):
    _, kernels, sizes = golden(CASES[5], kind)
    sizes["num_tokens"] = bounds.TokenRange(2, 9)
    bound = bounds.attention(KINDS[kind], kernels, **sizes)
    alone = [bounds.attention(KINDS[kind], kernels, **{**sizes, "num_tokens": n}) for n in range(2, 10)]
    assert bound.sequence == max(b.sequence for b in alone) == alone[-1].sequence


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["published", "sharp"])
def test_jit_vmap_grad(kind, method, x64):
    case = CASES[4]
    config, kernels, sizes = golden(case, kind)

    def bound(kernels, num_tokens, radius):
        return bounds.attention(
            config, kernels, num_tokens=num_tokens, radius=radius, method=method
        ).sequence

    lengths = jnp.arange(1, 40)
    curve = jax.jit(jax.vmap(bound, in_axes=(None, 0, None)))(kernels, lengths, sizes["radius"])
    assert (jnp.diff(curve) > 0).all()
    np.testing.assert_allclose(curve[6], bound(kernels, 7, sizes["radius"]), rtol=1e-12)
    for at in (kernels, jax.tree.map(jnp.zeros_like, kernels)):
        gradient = jax.grad(bound)(at, case["n"], sizes["radius"])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    direction = {name: random_variables_like(kernel) for name, kernel in kernels.items()}
    step = 1e-6
    moved = [
        bound(jax.tree.map(lambda k, d, s=sign: k + s * step * d, kernels, direction), 5, 1.0)
        for sign in (1, -1)
    ]
    _, slope = jax.jvp(lambda k: bound(k, 5, 1.0), (kernels,), (direction,))
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-4)


def random_variables_like(array):
    return jnp.asarray(np.random.default_rng(array.size).normal(size=array.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_close_and_not_below(kind):
    for case in CASES:
        with jax.enable_x64(True):
            config, kernels, sizes = golden(case, kind)
            exact = float(bounds.attention(config, kernels, **sizes).sequence)
        single = jax.tree.map(lambda k: jnp.asarray(np.asarray(k), jnp.float32), kernels)
        rounded = bounds.attention(config, single, **sizes).sequence
        assert rounded.dtype == jnp.float32
        assert exact <= float(rounded) <= exact * (1 + 1e-4)


def test_numbers_of_the_cosine_kind_may_be_traced():
    kernel = jnp.eye(4).reshape(4, 2, 2)

    def bound(tau, nu, eps):
        out = kernel.reshape(2, 2, 4)
        return bounds.cosine_attention(
            kernel, kernel, kernel, out, num_tokens=4, tau=tau, nu=nu, eps=eps
        )

    slopes = jax.jit(jax.grad(bound, argnums=(0, 1, 2)))(1.0, 2.0, 0.5)
    assert slopes[0] > 0
    assert slopes[1] > 0
    assert slopes[2] < 0


KERNELS = {
    "query": np.zeros((4, 2, 2)),
    "key": np.zeros((4, 2, 2)),
    "value": np.zeros((4, 2, 2)),
    "out": np.zeros((2, 2, 4)),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": None}, r"radius: expected the largest token norm, got None"),
        ({"radius": -1.0}, r"radius: expected a finite number >= 0, got -1"),
        ({"radius": np.nan}, r"radius: expected a finite number >= 0, got nan"),
        ({"spread": -1.0}, r"spread: expected a finite number >= 0, got -1"),
        ({"num_tokens": 0}, r"num_tokens: expected a finite number >= 1, got 0"),
        ({"num_tokens": bounds.TokenRange(5, 2)}, r"num_tokens: expected low <= high, got 5 > 2"),
        ({"num_tokens": bounds.TokenRange(0, 2)}, r"num_tokens.low: .* >= 1, got 0"),
        (
            {"rotary": True, "method": "published"},
            r"method: expected 'sharp' or 'tight' for rotary positions",
        ),
        (
            {"method": "exact"},
            r"method: expected one of 'published', 'sharp', 'tight', got 'exact'",
        ),
        ({"query": np.zeros((4, 4))}, r"query: expected shape \(d, H, d_h\), got \(4, 4\)"),
        ({"key": np.zeros((4, 2, 3))}, r"key: expected shape \(4, 2, 2\), got \(4, 2, 3\)"),
        ({"out": np.zeros((2, 2, 5))}, r"out: expected shape \(2, 2, 4\), got \(2, 2, 5\)"),
        ({"value": np.full((4, 2, 2), np.nan)}, r"value: expected finite values, got 16"),
        ({"query": np.zeros((4, 2, 2), int)}, r"query: expected a floating dtype"),
        ({"query_bias": np.zeros(2)}, r"query_bias: expected shape \(2, 2\), got \(2,\)"),
        ({"key_bias": np.zeros(3)}, r"key_bias: expected shape \(2, 2\), got \(3,\)"),
        ({"query": [[1.0]]}, r"query: expected an array, got list"),
        ({"radius": 1j}, r"radius: expected a number"),
        ({"query_bias": np.ones((2, 2)), "method": "published"}, r"method: .*with biases"),
        ({"key_bias": np.ones((2, 2)), "method": "published"}, r"method: .*with biases"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {**KERNELS, "num_tokens": 4, "radius": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        bounds.dot_product_attention(**arguments)


def test_combinations_without_a_bound_raise():
    l2 = {name: kernel for name, kernel in KERNELS.items() if name != "key"}
    with pytest.raises(ValueError, match=r"radius: expected the largest token norm, got None"):
        bounds.l2_attention(**l2, num_tokens=4, plain_values=True)
    with pytest.raises(ValueError, match=r"rotary: expected False for L2, whose bound"):
        bounds.attention(L2(), l2, num_tokens=4, rotary=True)
    cosine = {"num_tokens": 4, "tau": 1.0, "nu": 1.0, "eps": 0.1}
    with pytest.raises(ValueError, match=r"radius: expected the largest token norm, got None"):
        bounds.cosine_attention(**KERNELS, **cosine, plain_values=True)
    for name in ("tau", "nu", "eps"):
        with pytest.raises(ValueError, match=rf"{name}: expected a finite number > 0, got -1"):
            bounds.cosine_attention(**KERNELS, **{**cosine, name: -1.0})
    with pytest.raises(ValueError, match=r"kernels: expected query, value, out, got query, key"):
        bounds.attention(L2(), KERNELS, num_tokens=4)
    for name in ("query_bias", "key_bias"):
        with pytest.raises(ValueError, match=r"kernels: expected query, value, out, got .*bias"):
            bounds.attention(L2(), {**l2, name: np.zeros((2, 2))}, num_tokens=4)
    for radius in (-1.0, np.nan):
        with pytest.raises(ValueError, match=r"radius: expected a finite number >= 0"):
            bounds.l2_attention(**l2, num_tokens=4, radius=radius)
    with pytest.raises(ValueError, match=r"kind: expected DotProduct, L2 or Cosine, or .*, got 7"):
        bounds.attention(7, KERNELS, num_tokens=4)  # pyright: ignore[reportArgumentType]
    grouped = {**KERNELS, "query": np.zeros((4, 3, 2)), "out": np.zeros((3, 2, 4))}
    with pytest.raises(ValueError, match=r"H_kv: expected a divisor of H = 3, got 2"):
        bounds.attention(attention.DotProduct(), grouped, num_tokens=4, radius=1.0)

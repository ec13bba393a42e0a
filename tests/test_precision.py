"""No matrix product of a bound or an estimator is at the default precision of TPUs and of TF32."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from helpers import KINDS, POOLERS

from poolax import attention, backbones, blocks, bounds, empirical
from poolax.bounds import _linalg
from poolax.bounds._combine import stacked_norm
from poolax.bounds._linalg import product_norm
from poolax.empirical._neighbourhood import map_distances

KEY = jax.random.key(0)
X = jnp.ones((6, 8))
KERNEL = jnp.ones((8, 2, 4))
OUT = jnp.ones((2, 4, 8))
SIZES = {"num_tokens": 6, "radius": 1.0}
# They take no product of matrices: they check, name, or work on single numbers.
WITHOUT_PRODUCTS = {
    "bounds": {
        *("register_pooler", "rules_of", "cube", "pooling_factor", "certified_radius"),
        # Of what it is given.
        "largest_move",
    },
    "empirical": {
        *("project_to_ball", "project_to_box", "project_to_cube", "project_to_frobenius_ball")
    },
}


def without_precision(fn, *arguments):
    """Lines of the program for a TPU that multiply matrices at its default precision."""
    text = jax.jit(fn).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "convolution" in line]
    return len(products), [line for line in products if line.count("HIGHEST") < 2]


def attention_of(kind, method, pattern="full"):
    config = KINDS[kind]

    def bound(kernel, out, radius):
        names = ("query", "value") if kind == "l2" else ("query", "key", "value")
        kernels = dict.fromkeys(names, kernel) | {"out": out}
        sizes = {"num_tokens": 6, "radius": radius, "method": method, "pattern": pattern}
        return bounds.attention(config, kernels, **sizes).sequence

    return bound, (KERNEL, OUT, 1.0)


def of_one_kind(function, **options):
    names = [
        name for name in ("query", "key", "value") if name in inspect.signature(function).parameters
    ]

    def bound(kernel, out):
        return function(*[kernel] * len(names), out, num_tokens=6, method="tight", **options)

    return bound, (KERNEL, OUT)


def tbm_of(kind, pooler, method="tight"):
    model = blocks.TBM(2, POOLERS[pooler], KINDS[kind])
    variables = model.init(KEY, jnp.ones((12, 8)))
    return lambda v: bounds.tbm(model, v, **SIZES, method=method).lipschitz, (variables,)


def block_and_pooler():
    model = blocks.TBM(2, POOLERS["attn"])
    variables = model.init(KEY, jnp.ones((12, 8)))

    def bound(variables):
        parts = bounds.block(model, variables, **SIZES)
        own = {"params": variables["params"]["pooler"]}
        return bounds.with_pooler(parts, model.pooler, own).lipschitz

    return bound, (variables,)


def local_tbm_of(kind, **options):
    model = blocks.TBM(2, POOLERS["map"], KINDS[kind])
    return lambda v, x: bounds.local_tbm(model, v, x, **options).lipschitz, (model.init(KEY, X), X)


def local_attention_of(kind, **options):
    def bound(x, kernel, out):
        key = None if kind == "l2" else kernel
        return bounds.local_attention(x, kernel, key, kernel, out, kind=KINDS[kind], **options)

    return bound, (X, KERNEL, OUT)


def certify_of(pooler, geometry):
    inner = POOLERS[pooler].init(KEY, X).get("params", {})
    params = {"output": {"kernel": jnp.eye(8)}, "pooler": inner}

    def radius(params, x):
        return bounds.certify(POOLERS[pooler], {"params": params}, x, 0, geometry=geometry).radius

    return radius, (params, X)


def certify_block():
    model = blocks.TBM(2, POOLERS["max"], KINDS["cosine"])
    params = model.init(KEY, X)["params"] | {"output": {"kernel": jnp.eye(8)}}
    return lambda p, x: bounds.certify(model, {"params": p}, x, 0).radius, (params, X)


def ledger_of(method, num_layers=1, **options):
    config = backbones.ViTConfig(8, 4, 3, width=8, num_layers=num_layers, num_heads=2, mlp_dim=12)
    vit = backbones.ViT.init(config, KEY)
    layers = list(vit.layer_specs(vit.params))
    if method != "local":
        return (
            lambda layers: bounds.ledger(layers, **SIZES, method=method).log_lipschitz,
            (layers,),
        )
    weights = num_layers * [jnp.ones((2, 6, 6)) / 6]

    def bound(layers, x):
        options["pooler"] = POOLERS["max"]
        return bounds.local_ledger(layers, x, weights, **options).log_lipschitz

    return bound, (layers, X)


def two_ledgers():
    _, arguments = ledger_of("local")

    def bound(layers, x):
        poolers = [None, POOLERS["max"]]
        found = bounds.local_ledgers(layers, x, [jnp.ones((2, 6, 6)) / 6], poolers=poolers)
        return jnp.stack([table.log_lipschitz for table in found])

    return bound, arguments


def large_norm():
    """A matrix whose norm is certified from above instead of decomposed."""
    large = jnp.ones((_linalg._MOST_FOR_EIGENVALUES + 1,) * 2)
    return bounds.spectral_norm, (large,)


def constants_of_inputs():
    model = blocks.TBM(2, POOLERS["avg"])
    variables = model.init(KEY, X)

    def lipschitz(domain, num_tokens):
        sizes = {"num_tokens": num_tokens, "radius": domain.radius, "spread": domain.spread}
        return bounds.tbm(model, variables, **sizes).lipschitz

    return lambda x: bounds._expressivity._constants(x, None, 0.1, lipschitz, "tokens"), (X[None],)


def measured(name, **options):
    model = blocks.TBM(2, POOLERS["max"])
    variables = model.init(KEY, X)

    def fn(x):
        return model.apply(variables, x)

    call = getattr(empirical, name)
    return lambda x: jax.tree.leaves(call(fn, x, **options))[0], (X,)


def attacked(name, *key):
    model = blocks.TBM(2, POOLERS["max"])
    variables = model.init(KEY, X)

    def loss(x):
        return jnp.sum(model.apply(variables, x))

    call = getattr(empirical, name)
    return lambda x: call(loss, x, *key, radius=0.1).x, (X,)


def distances(neighbourhood):
    model = blocks.TBM(2, POOLERS["max"])
    variables = model.init(KEY, X)

    def fn(x):
        return model.apply(variables, x)

    def call(x, epsilons):
        keys = jax.random.split(KEY, 1)
        return map_distances(x, None, epsilons, keys, fn, None, 2, (neighbourhood, "frobenius"), 8)

    return call, (X[None], jnp.array([0.1]))


SEARCH = {"project": empirical.project_to_domain(1.0, 0.5), "key": KEY, "num_steps": 2}
COSINE = {"tau": 1.0, "nu": 1.0, "eps": 0.1}
DIFFERENTIABLE = {
    **{
        f"attention-{kind}-{method}": lambda k=kind, m=method: attention_of(k, m)
        for kind in KINDS
        for method in ("published", "sharp", "tight")
    },
    "dot_product_attention": lambda: of_one_kind(
        bounds.dot_product_attention, radius=1.0, query_bias=jnp.ones((2, 4)), rotary=True
    ),
    "l2_attention": lambda: of_one_kind(bounds.l2_attention, radius=1.0, plain_values=True),
    "cosine_attention": lambda: of_one_kind(
        bounds.cosine_attention, radius=1.0, plain_values=True, **COSINE
    ),
    **{f"tbm-{name}": lambda n=name: tbm_of("dot", n) for name in ("avg", "attn", "map", "hybrid")},
    "block": block_and_pooler,
    "with_pooler": block_and_pooler,
    "pooler": lambda: tbm_of("l2", "attn", "sharp"),
    "pooled_block": lambda: (
        lambda w: bounds.pooled_block("avg", attention=1.0, ffn=w, dim=8, num_tokens=6).lipschitz,
        (jnp.ones((8, 8)),),
    ),
    **{f"local_tbm-{kind}": lambda k=kind: local_tbm_of(k) for kind in KINDS},
    **{f"local_attention-{kind}": lambda k=kind: local_attention_of(k) for kind in KINDS},
    "local_tbm-ball": lambda: local_tbm_of("l2", epsilon=0.1),
    "local_attention-ball": lambda: local_attention_of("cosine", epsilon=0.1),
    "local_attention-rotary": lambda: local_attention_of("dot", rotary=attention.Rotary()),
    **{f"ledger-{method}": lambda m=method: ledger_of(m) for method in ("sharp", "tight")},
    "local_ledger": lambda: ledger_of("local"),
    "local_ledger-depth": lambda: ledger_of("local", num_layers=2),
    "local_ledger-tokens": lambda: ledger_of("local", num_layers=2, geometry="tokens"),
    "local_ledgers": two_ledgers,
    "local_ledger-products": lambda: ledger_of("local", num_layers=2, epsilon=0.1),
    "local_ledger-ball": lambda: ledger_of("local", epsilon=0.1, geometry="tokens"),
    "spectral_norm": lambda: (bounds.spectral_norm, (X,)),
    "spectral_norm-large": large_norm,
    "product_norm": lambda: (product_norm, (X, X)),
    "stacked_norm": lambda: (stacked_norm, (KERNEL.swapaxes(0, 1), OUT, jnp.ones(2))),
    "domain_of": lambda: (lambda x: bounds.domain_of(x).spread, (X,)),
}
MEASURED = {
    "certify-map": lambda: certify_of("map", "frobenius"),
    "certify-avg": lambda: certify_of("avg", "tokens"),
    "certify-block": certify_block,
    "expressivity-bound": constants_of_inputs,
    "jacobian_norm-forward": lambda: measured("jacobian_norm", mode="forward"),
    "jacobian_norm-reverse": lambda: measured("jacobian_norm", mode="reverse"),
    "power_iteration-power": lambda: measured("power_iteration", key=KEY),
    "power_iteration-lanczos": lambda: measured("power_iteration", key=KEY, method="lanczos"),
    "power_iteration-tokens": lambda: measured("power_iteration", key=KEY, geometry="tokens"),
    "maximize_jacobian_norm": lambda: measured("maximize_jacobian_norm", **SEARCH),
    "maximize_jacobian_norm-tokens": lambda: measured(
        "maximize_jacobian_norm", **SEARCH, geometry="tokens"
    ),
    "fgsm": lambda: attacked("fgsm"),
    "pgd": lambda: attacked("pgd", KEY),
    "project_to_domain": lambda: (empirical.project_to_domain(1.0, 0.5), (X,)),
    **{
        f"{name}-{neighbourhood}": lambda n=neighbourhood: distances(n)
        for name, neighbourhood in (
            ("expressivity", "adversarial"),
            ("expressivity", "ball"),
            ("noise_curve", "gaussian"),
        )
    },
}


# Several layers on several balls, made of the same as the others.
SLOW = (
    "local_tbm-ball",
    "local_ledger-depth",
    "local_ledger-tokens",
    "local_ledger-products",
    "certify-block",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in DIFFERENTIABLE | MEASURED
    ],
)
def test_every_product_is_at_the_highest_precision(name):
    fn, arguments = (DIFFERENTIABLE | MEASURED)[name]()
    count, default = without_precision(fn, *arguments)
    assert count or name == "domain_of"
    assert not default, default


# Long to trace, and made of the same derivatives as the others.
LONG = ("ledger-", "local_")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith(LONG) else [])
        for name in DIFFERENTIABLE
    ],
)
def test_every_product_of_a_derivative_is_at_the_highest_precision(name):
    """Derivatives written by hand are traced where the caller differentiates, after the bound."""
    fn, arguments = DIFFERENTIABLE[name]()
    gradient = jax.grad(jax.jit(lambda *a: jnp.sum(fn(*a))), allow_int=True)
    _, default = without_precision(gradient, *arguments)
    assert not default, default


@pytest.mark.parametrize("name", ["bounds", "empirical"])
def test_no_public_function_is_left_out(name):
    module = {"bounds": bounds, "empirical": empirical}[name]
    functions = {key for key, value in vars(module).items() if inspect.isfunction(value)}
    covered = {key.split("-")[0] for key in DIFFERENTIABLE | MEASURED}
    assert functions - covered == WITHOUT_PRODUCTS[name]

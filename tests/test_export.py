"""Every jitted public function lowers for TPU and CUDA, on a machine that has neither."""

import jax
import jax.numpy as jnp
import optax
import pytest
from families import ALL_FAMILIES, STACKABLE, TEXT_FAMILIES, inputs
from helpers import KINDS, POOLERS, PROBES

from poolax import attention, blocks, bounds, empirical
from poolax.attention import Rotary
from poolax.empirical._neighbourhood import map_distances
from poolax.training import Classification, HeadModule
from poolax.training._engine.programs import Structure

X = jnp.ones((2, 6, 8))
MASK = jnp.ones((2, 6), bool)
KEY = jax.random.key(0)


def pooler_call(pooler):
    variables = pooler.init(KEY, X)
    return lambda z, mask: pooler.apply(variables, z, mask), (X, MASK)


def attention_call(kind):
    rotary = None if isinstance(kind, attention.L2) else Rotary()
    layer = attention.MultiHeadAttention(2, kind, causal=True, window=3, rotary=rotary)
    variables = layer.init(KEY, X)
    return lambda x, mask, bias: layer.apply(variables, x, mask, bias), (X, MASK, jnp.ones((6, 6)))


def bound_call(kind, pooler, method):
    model = blocks.TBM(2, pooler, kind)
    variables = model.init(KEY, jnp.ones((12, 8)))

    def bound(variables, num_tokens, radius):
        found = bounds.tbm(model, variables, num_tokens=num_tokens, radius=radius, method=method)
        return found.lipschitz, found.gamma(0.1, 1.0).upper

    return jax.value_and_grad(lambda *a: bound(*a)[0]), (variables, jnp.array(6), jnp.array(1.0))


def reads_call(pooler):
    variables = pooler.init(KEY, X)

    def bound(variables, num_tokens, spread):
        sizes = {"num_tokens": num_tokens, "dim": 8, "spread": spread, "method": "tight"}
        reads = bounds.pooler(pooler, variables, **sizes)
        return reads.l2 + reads.l1

    return jax.value_and_grad(bound), (variables, jnp.array(6), jnp.array(1.0))


def local_call(kind):
    model = blocks.TBM(2, POOLERS["map"], kind)
    variables = model.init(KEY, X[0])

    def bound(variables, x, mask):
        return bounds.local_tbm(model, variables, x, mask).lipschitz

    return bound, (variables, X[0], MASK[0])


def ball_call(kind):
    kernel, out = jnp.ones((8, 2, 4)), jnp.ones((2, 4, 8))
    key = None if isinstance(kind, attention.L2) else kernel

    def bound(x, mask, epsilon):
        options = {"kind": kind, "mask": mask, "epsilon": epsilon, "geometry": "tokens"}
        return bounds.local_attention(x, kernel, key, kernel, out, **options)

    return bound, (X, MASK, jnp.array(0.1))


def certify_call(name, geometry):
    pooler = POOLERS[name]
    params = {"output": {"kernel": jnp.eye(8)}, "pooler": pooler.init(KEY, X).get("params", {})}

    def radius(x, labels, mask):
        options = {"mask": mask, "geometry": geometry}
        return bounds.certify(pooler, {"params": params}, x, labels, **options).radius

    return radius, (X, jnp.zeros(X.shape[:-2], int), MASK)


def ball_of_block_call():
    model = blocks.TBM(2, POOLERS["hybrid"], KINDS["cosine"])
    variables = model.init(KEY, X[0])

    def bound(variables, x, mask, epsilon):
        return bounds.local_tbm(model, variables, x, mask, epsilon=epsilon).lipschitz

    return bound, (variables, X[0], MASK[0], jnp.array(0.1))


def certify_block_call():
    model = blocks.TBM(2, POOLERS["map"], KINDS["l2"])
    params = model.init(KEY, X[0])["params"]
    kernel = jnp.eye(model.apply({"params": params}, X[0]).shape[-1])
    params = params | {"output": {"kernel": kernel}}

    def radius(params, x, labels, mask):
        return bounds.certify(model, {"params": params}, x, labels, mask=mask).radius

    return radius, (params, X, jnp.zeros(X.shape[:-2], int), MASK)


def estimator_call(name):
    model = blocks.TBM(2, POOLERS["max"])
    variables = model.init(KEY, X[0])

    def fn(x):
        return model.apply(variables, x)

    call = {
        "jacobian_norm": lambda x: empirical.jacobian_norm(fn, x),
        "power": lambda x: empirical.power_iteration(fn, x, key=KEY).value,
        "lanczos": lambda x: empirical.power_iteration(fn, x, key=KEY, method="lanczos").value,
        "of tokens": lambda x: empirical.power_iteration(fn, x, key=KEY, geometry="tokens").value,
        "search": lambda x: (
            empirical.maximize_jacobian_norm(
                fn, x, project=empirical.project_to_ball(1.0), key=KEY, num_steps=3
            ).value
        ),
    }[name]
    return call, (X[0],)


def distances_call(neighbourhood):
    model = blocks.TBM(2, POOLERS["max"])
    variables = model.init(KEY, X[0])

    def fn(x, mask):
        return model.apply(variables, x, mask)

    def call(inputs, masks, epsilons):
        keys = jax.random.split(KEY, len(inputs))
        project = empirical.project_to_cube(1.0)
        return map_distances(
            inputs, masks, epsilons, keys, fn, project, 4, (neighbourhood, "frobenius"), 8
        )

    return call, (X, MASK, jnp.array([0.1, 1.0]))


def head_call(pooler):
    module = HeadModule(pooler, 3)
    params = module.init(KEY, X)["params"]
    optimizer = optax.adam(1e-3)
    loss = Structure(module).loss_fn(Classification(3))
    data = {"states": X, "mask": MASK, "targets": jnp.array([0, 1])}

    def step(params, state, indices):
        gradient = jax.grad(lambda p: loss(p, data, indices, KEY).sum())(params)
        return optimizer.update(gradient, state, params)

    return step, (params, optimizer.init(params), jnp.array([0, 1, 1]))


def backbone_call(name):
    backbone = jax.eval_shape(ALL_FAMILIES[name]).replace(compute_dtype=jnp.bfloat16)
    if name in STACKABLE:
        backbone = jax.eval_shape(lambda model: model.stack_layers(), backbone)
    x = jnp.asarray(inputs(name))
    mask = jnp.ones(x.shape, bool) if name in TEXT_FAMILIES else None
    return lambda params, x: backbone.apply(params, x, mask).states, (backbone.params, x)


CALLS = {
    **{f"pooler-{name}": lambda p=p: pooler_call(p) for name, p in (POOLERS | PROBES).items()},
    **{f"attention-{name}": lambda k=k: attention_call(k) for name, k in KINDS.items()},
    **{
        f"bound-{kind}-{name}": lambda k=KINDS[kind], n=name: bound_call(k, POOLERS[n], "sharp")
        for kind in KINDS
        for name in POOLERS
    },
    **{
        f"tight-{name}": lambda p=p: bound_call(KINDS["dot"], p, "tight") for name, p in POOLERS.items()
    },
    **{f"reads-{name}": lambda p=p: reads_call(p) for name, p in PROBES.items()},
    **{f"local-{name}": lambda k=k: local_call(k) for name, k in KINDS.items()},
    **{f"ball-{name}": lambda k=KINDS[name]: ball_call(k) for name in ("l2", "cosine")},
    "certify-max": lambda: certify_call("max", "tokens"),
    "certify-map": lambda: certify_call("map", "frobenius"),
    **{
        f"published-{kind}": lambda k=KINDS[kind]: bound_call(k, POOLERS["max"], "published")
        for kind in KINDS
    },
    "ball-block": ball_of_block_call,
    "certify-block": certify_block_call,
    "domain": lambda: (bounds.domain_of, (X, MASK)),
    **{
        f"empirical-{name}": lambda n=name: estimator_call(n)
        for name in ("jacobian_norm", "power", "lanczos", "of tokens", "search")
    },
    **{
        f"expressivity-{name}": lambda n=name: distances_call(n)
        for name in ("ball", "gaussian", "adversarial")
    },
    **{f"head-{name}": lambda p=p: head_call(p) for name, p in (POOLERS | PROBES).items()},
    **{f"backbone-{name}": lambda n=name: backbone_call(n) for name in ALL_FAMILIES},
}


# Long to trace, and made of what others are.
LONG = ("ball-block", "certify-block")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in CALLS]


@pytest.mark.parametrize("name", NAMES)
def test_lowers_for_every_device(name):
    fn, arguments = CALLS[name]()
    exported = jax.export.export(jax.jit(fn), platforms=["cpu", "tpu", "cuda"])(*arguments)
    assert exported.platforms == ("cpu", "tpu", "cuda")
    assert exported.mlir_module_serialized


@pytest.mark.parametrize("name", NAMES)
def test_promotes_no_ranks(name):
    with jax.numpy_rank_promotion("raise"):
        fn, arguments = CALLS[name]()
        jax.eval_shape(fn, *arguments)
        if name.startswith(("pooler", "attention")):
            x, *rest = arguments
            jax.eval_shape(jax.jacfwd(lambda x: fn(x, *rest)), x)
            jax.eval_shape(jax.jacrev(lambda x: fn(x, *rest)), x)

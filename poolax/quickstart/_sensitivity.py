"""How far noise and adversaries move pooled vectors: curves, and trained blocks beside their bounds."""

import functools
import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from poolax import attention, bounds, empirical, measure
from poolax._checkpoint import has_checkpoint
from poolax._compilation import compile_quickly
from poolax._paths import write_atomically
from poolax._progress import Progress
from poolax.blocks import TBM
from poolax.bounds import METHODS, Domain
from poolax.pooling import WeightedAveragePool, from_name
from poolax.quickstart._settings import POOLERS, Settings
from poolax.quickstart._study import Study, Tokens
from poolax.records import Journal
from poolax.training import (
    HeadModule,
    Records,
    head_directory,
    load_head,
    save_tbm,
    train_heads,
)

# Inputs of the trained blocks, beside their checkpoints.
INPUTS = "inputs.npy"

_KINDS = (attention.DotProduct(), attention.L2(), attention.Cosine(tau=1.0, nu=1.0, eps=0.01))
# Poolers that are sums with weights of positions where all tokens are real.
_BY_POSITION = ("last", "avg", "sum", "wavg")
# Balls around inputs on which local bounds hold too: a share of the radius, around so many inputs.
_AROUND, _NUM_AROUND = 0.01, 4
# What earlier programs called them.
_FORMER = {"dot": "dot product", "l2": "L2", "cosine": "scaled cosine"}


def noise_curves(
    study: Study, out, best, settings: Settings, journal: Journal, progress: Progress
) -> Records:
    """Mean distance of the pooled vectors of the best heads against the size of noise."""
    noisy, epsilons = study.noisy, list(study.noise_sizes)
    rows = []

    @functools.cache
    def clean():
        """Token states without noise, of which the lengths of vectors are."""
        masks = () if noisy.masks is None else (noisy.masks,)
        encode_all = jax.jit(lambda given: jax.lax.map(lambda one: noisy.encode(*one), given))
        return encode_all((noisy.inputs, *masks))

    for done, name in enumerate(best, 1):

        def curve_of(name=name):
            head = load_head(head_directory(out, best[name]))
            variables = {"params": head.variables["params"].get("pooler", {})}

            def pooled(*example):
                tokens = noisy.encode(*example)
                return jnp.asarray(head.pooler.apply(variables, tokens.states, tokens.mask))

            curve = empirical.noise_curve(
                pooled,
                noisy.inputs,
                jnp.asarray(epsilons),
                noisy.masks,
                key=jax.random.key(settings.seed),
            )
            values = {field: np.asarray(getattr(curve, field)) for field in ("mean", "low", "high")}
            tokens = clean()
            vectors = np.asarray(head.pooler.apply(variables, tokens.states, tokens.mask))
            return {
                "epsilon": epsilons,
                **{field: value.tolist() for field, value in values.items()},
                "num_inputs": len(noisy.inputs),
                "length": float(np.mean(np.linalg.norm(vectors, axis=-1))),
            }

        what = {"kind": "noise_curve", "pooler": name, "head": best[name]["id"]}
        rows.append(journal.measured(what, curve_of))
        progress("noise curves", done, len(best))
    return Records(rows)


def trained_blocks(
    tokens: Tokens, out: epath.Path, settings: Settings, journal: Journal, progress: Progress
) -> Records:
    """Train a block for each pooler and kind of attention; measure its constant and bound it."""
    radius = float(bounds.domain_of(jnp.asarray(tokens.values)).radius)
    out.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, tokens.values[tokens.splits["test"][: settings.num_inputs]])
    write_atomically(out / INPUTS, content.getvalue())
    rows, search = [], _searches(radius, settings)
    total = len(_KINDS) * len(POOLERS)
    for kind in _KINDS:
        for name in POOLERS:
            model = TBM(num_heads=4, pooler=from_name(name), attention=kind)
            what, former = block_identity(kind, name)
            folder = _folder(out, what, former)
            rows.append(
                journal.measured(
                    what,
                    functools.partial(
                        _measure_tbm, model, name, tokens, radius, settings, folder, search
                    ),
                    is_there=functools.partial(has_checkpoint, folder),
                    formerly=former,
                )
            )
            progress("trained blocks", len(rows), total)
    return Records(rows)


def block_identity(kind: attention.Kind, pooler: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a block is known by, and what it was known by before kinds of attention had one name."""
    config = attention.to_config(kind)
    what = {"pooler": pooler, "kind": "lipschitz", "attention": config["name"]}
    former = {**what, "attention": _FORMER[config["name"]], "configuration": repr(kind)}
    return {**what, "configuration": config}, former


def _folder(out, what, former) -> epath.Path:
    """Where a block is saved: where an earlier program left it, or else by the names of now."""
    earlier = out / f"{former['attention']}-{former['pooler']}".replace(" ", "-")
    return earlier if has_checkpoint(earlier) else out / f"{what['attention']}-{what['pooler']}"


def _measure_tbm(model, name, tokens, radius, settings, folder, search) -> dict[str, Any]:
    """Train a TBM on tokens and save it; measure its Lipschitz constant and bound it."""
    trained = train_heads(
        HeadModule(model, tokens.task.num_outputs),
        tokens.values[None],
        None,
        tokens.targets,
        tokens.task,
        splits=tokens.splits,
        runs=[(1e-3, settings.seed)],
        epochs=settings.block_epochs,
        batch_size=32,
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), trained.variables["params"])
    variables = {"params": params["pooler"]}
    save_tbm(
        folder, model, variables, metadata={"num_tokens": tokens.values.shape[1], "radius": radius}
    )
    inputs = jnp.asarray(tokens.values[tokens.splits["test"][: settings.num_inputs]])
    at = measure.block_at_inputs(model, variables, inputs)
    domain = Domain(radius, radius)
    seen = (model, variables)
    if name in _BY_POSITION:
        seen = _with_weights(model, variables, inputs.shape[1])
    start = inputs[jnp.argmax(at.measured)]
    largest = jnp.argsort(-at.local)[:_NUM_AROUND]
    epsilon = _AROUND * radius
    around = measure.block_local(*seen, inputs[largest], epsilon=epsilon)
    found = search(seen[0])(seen[1], inputs, start, jax.random.key(settings.seed))
    known = measure.constant_fields(measure.block_bounds(model, variables, inputs.shape[1], domain))
    on_domain = {method: known[method] for method in METHODS}
    measure.check_order([jnp.max(at.measured), found.value], on_domain, what=name, rounding=0)
    measure.check_order(at.measured, {"local": at.local}, what=name)
    measure.check_order(at.measured[largest], {"local around": around}, what=name)
    num_tokens, width = inputs.shape[1:]
    row = {
        "num_tokens": num_tokens,
        "width": width,
        "num_heads": model.num_heads,
        "radius": radius,
        "num_inputs": len(inputs),
        "metric": tokens.task.metric,
        "test": float(trained.test_metrics[tokens.task.metric][0, 0]),
        "measured_real": float(jnp.max(at.measured)),
        "measured_real_median": float(jnp.median(at.measured)),
        "measured_adversarial": float(found.value),
        "local": float(jnp.max(at.local)),
        "local_around": None if around is None else float(jnp.max(around)),
        "epsilon": epsilon,
        "num_around": len(largest),
    }
    return row | on_domain


def _with_weights(model, variables, num_tokens) -> tuple[TBM, dict[str, Any]]:
    """The same map with its pooling as weights of positions, in which these poolers are one program."""
    own = {"params": variables["params"].get("pooler", {})}
    # Of one-hot tokens a sum with weights is the weights.
    weights = jnp.asarray(model.pooler.apply(own, jnp.eye(num_tokens)))
    pooler = WeightedAveragePool(max_tokens=num_tokens, normalize="none")
    params = {**variables["params"], "pooler": {"weights": weights}}
    return model.copy(pooler=pooler), {"params": params}


def _searches(radius: float, settings: Settings) -> Callable[[TBM], Callable]:
    """The adversarial search of a model's constant, which is compiled once for all its weights."""
    programs: dict[TBM, Callable] = {}

    def search(model, variables, inputs, x, key):
        return measure.find(
            functools.partial(model.apply, variables),
            x,
            Domain(radius, radius),
            starts=inputs,
            key=key,
            num_restarts=settings.search_restarts,
            num_steps=settings.search_steps,
        )

    def program(model):
        if model not in programs:
            own = functools.partial(search, model)
            programs[model] = jax.jit(own, compiler_options=compile_quickly())
        return programs[model]

    return program

"""How far noise and adversaries move pooled vectors: curves, and trained blocks beside their bounds."""

import functools
import io
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from poolax import attention, bounds, empirical
from poolax._checkpoint import has_checkpoint
from poolax._compilation import compile_quickly
from poolax._paths import write_atomically
from poolax._progress import Progress
from poolax.blocks import TBM
from poolax.bounds import Domain
from poolax.pooling import from_name
from poolax.quickstart._settings import POOLERS, Settings
from poolax.quickstart._study import Study, Tokens
from poolax.records import Journal
from poolax.sensitivity import METHODS, block_bounds
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

_KINDS = {
    "dot product": attention.DotProduct(),
    "L2": attention.L2(),
    "scaled cosine": attention.Cosine(tau=1.0, nu=1.0, eps=0.01),
}


def noise_curves(
    study: Study, out, best, settings: Settings, journal: Journal, progress: Progress
) -> Records:
    """Mean distance of the pooled vectors of the best heads against the size of noise."""
    noisy, epsilons = study.noisy, list(study.noise_sizes)
    rows = []
    for done, name in enumerate(best, 1):

        def measure(name=name):
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
            return {
                "epsilon": epsilons,
                **{field: value.tolist() for field, value in values.items()},
                "num_inputs": len(noisy.inputs),
            }

        what = {"kind": "noise_curve", "pooler": name, "head": best[name]["id"]}
        rows.append(journal.measured(what, measure))
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
    rows = []
    total = len(_KINDS) * len(POOLERS)
    for label, kind in _KINDS.items():
        for name in POOLERS:
            model = TBM(num_heads=4, pooler=from_name(name), attention=kind)
            folder = out / f"{label}-{name}".replace(" ", "-")

            def measure(model=model, name=name, folder=folder):
                return _measure_tbm(model, name, tokens, radius, settings, folder)

            what = {"pooler": name, "kind": "lipschitz", "attention": label}
            what["configuration"] = repr(kind)
            is_saved = functools.partial(has_checkpoint, folder)
            rows.append(journal.measured(what, measure, is_there=is_saved))
            progress("trained blocks", len(rows), total)
    return Records(rows)


def _measure_tbm(model, name, tokens, radius, settings, folder) -> dict[str, Any]:
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

    def model_at(x):
        return model.apply(variables, x)

    def at(x):
        norm = empirical.jacobian_norm(model_at, x)
        return norm, bounds.local_tbm(model, variables, x).lipschitz

    real, local = jax.jit(lambda inputs: jax.lax.map(at, inputs), compiler_options=compile_quickly())(
        inputs
    )
    most_sensitive = inputs[jnp.argmax(real)]
    found = jax.jit(
        lambda inputs, x, key: empirical.maximize_jacobian_norm(
            model_at,
            x,
            starts=inputs,
            project=empirical.project_to_ball(radius),
            key=key,
            num_restarts=settings.search_restarts,
            num_steps=settings.search_steps,
        ),
        compiler_options=compile_quickly(),
    )(inputs, most_sensitive, jax.random.key(settings.seed))
    num_tokens, width = inputs.shape[1:]
    row = {
        "num_tokens": num_tokens,
        "width": width,
        "num_heads": model.num_heads,
        "radius": radius,
        "num_inputs": len(inputs),
        "metric": tokens.task.metric,
        "test": float(trained.test_metrics[tokens.task.metric][0, 0]),
        "measured_real": float(jnp.max(real)),
        "measured_real_median": float(jnp.median(real)),
        "measured_adversarial": float(found.value),
        "local": float(jnp.max(local)),
    }
    known = block_bounds(model, variables, num_tokens, Domain(radius, radius))
    row |= {method: known[method] for method in METHODS}
    _check_order(row, name)
    return row


def _check_order(row, name):
    """Refuse measurements that are not finite or exceed a bound."""
    measured = [row["measured_real"], row["measured_adversarial"]]
    bounded = [row[method] for method in ("tight", "sharp", "published") if row[method] is not None]
    ordered = [max(measured), *bounded]
    numbers = [*measured, row["local"], *bounded]
    if not all(map(math.isfinite, numbers)):
        raise RuntimeError(f"expected finite constants for {name}, got {numbers}")
    if any(low > high for low, high in itertools.pairwise(ordered)):
        raise RuntimeError(
            f"measured <= tight <= sharp <= published does not hold for {name}: {ordered}"
        )
    # Some local bounds are attained, and the norm beside them is rounded as well.
    if row["measured_real"] > row["local"] * (1 + 1e-4):
        raise RuntimeError(f"measured <= local does not hold for {name}: {row}")

"""Models of certificates.py, and how far their inputs are certified."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import minilm
import numpy as np
import optax
from bounds_cases import KINDS

from poolax import backbones, bounds, data, measure, pooling
from poolax.blocks import TBM
from poolax.training import HeadModule

GEOMETRIES = ("frobenius", "tokens")
PATCH, GREY_LEVELS = 2, 16
# Full batches of Adam.
_STEPS, _RATE = 300, 1e-2
HEADS = {
    "average": pooling.AveragePool(),
    "weighted average": pooling.WeightedAveragePool(max_tokens=(8 // PATCH) ** 2),
    "max": pooling.MaxPool(),
    "query attention": pooling.QueryAttentionPool(),
    "query attention, 2 heads": pooling.QueryAttentionPool(num_heads=2),
    "query attention, 4 queries": pooling.QueryAttentionPool(num_queries=4),
    "latent attention": pooling.LatentAttentionPool(num_latents=8, num_heads=2),
}
# Most tokens of sentences that a backbone is certified at, and among how many they are looked for.
MOST_TOKENS, _SENTENCES = (10, 32), 100
# Numbers of examples, tokens and widths at which seconds are taken.
COST = {"average": (1000, 64, 384), "max": (1000, 64, 384), "query attention": (1000, 64, 384)}


class _Model(NamedTuple):
    """A trained classifier.

    Attributes:
        model: Pooler or one-block model.
        variables: As :func:`bounds.certify` reads them.
        logits: The classifier.
        x: Test inputs, shape ``(N, n, d)``.
        labels: Their classes.
        accuracy: Share of all test inputs that are classified as labelled.
    """

    model: Any
    variables: dict[str, Any]
    logits: Callable[..., jax.Array]
    x: jax.Array
    labels: jax.Array
    accuracy: float


def of_digits(options, kind, pooler, geometry):
    """Certified and attacked radii of a model that has learned digits."""
    found = _trained(kind, pooler, options.seed)
    x, labels = found.x[: options.num_inputs], found.labels[: options.num_inputs]
    certificate = bounds.certify(found.model, found.variables, x, labels, geometry=geometry)
    certificate = measure.attacked(
        certificate, found.logits, x, jax.random.key(options.seed),
        steps=options.steps, restarts=options.restarts,
    )  # fmt: skip
    certified, attacked = np.asarray(certificate.radius), np.asarray(certificate.attacked)
    right = certified > 0
    row = {
        "accuracy": found.accuracy,
        "certified": certified.tolist(),
        "attacked": [float(one) if np.isfinite(one) else None for one in attacked],
        # Where no attack succeeded the share is taken as none.
        "certified_over_attacked": _median(certified[right] / attacked[right]),
        "log10_constant": None,
        "log10_gain": None,
    }
    if kind is None:
        return row
    logs = [
        _log10_of_constant(found, z, label, radius)
        for z, label, radius in zip(x[right], labels[right], certified[right], strict=True)
    ]
    gain = _median(np.log10(certified[right]) - np.asarray(logs))
    return {**row, "log10_constant": logs, "log10_gain": gain}


def _median(values):
    """The median, ``None`` of nothing."""
    return float(np.median(values)) if len(values) else None


def _log10_of_constant(found, z, label, radius):
    """The radius that the tight constant certifies, on the domain that holds the certified ball."""
    domain = _around(z, radius)
    block = bounds.tbm(found.model, found.variables, num_tokens=z.shape[0], **domain, method="tight")
    kernel = found.variables["params"]["output"]["kernel"]
    return float(_log_of_margins(found.logits(z), kernel, label) - block.log_lipschitz) / np.log(10)


def _around(x, epsilon, real=None):
    """Radius and spread of tokens that all together move by ``epsilon`` at most."""
    domain = bounds.domain_of(x, real)
    # Two tokens part by at most sqrt(2) epsilon, of which the spread has half.
    return {"radius": domain.radius + epsilon, "spread": domain.spread + epsilon / np.sqrt(2)}


def _log_of_margins(logits, kernel, label):
    """The logarithm of the least lead over the norm of its direction."""
    sizes = jnp.linalg.norm(kernel[:, label][:, None] - kernel, axis=0)
    others = jnp.arange(logits.shape[0]) != label
    shares = (logits[label] - logits) / jnp.where(others, sizes, 1)
    return jnp.log(jnp.min(jnp.where(others, shares, jnp.inf)))


@functools.cache
def _trained(kind: str | None, pooler: str, seed: int) -> _Model:
    dataset = data.digits()
    tokens = _to_tokens(jnp.asarray(dataset.inputs[..., 0]) / GREY_LEVELS)
    targets = jnp.asarray(dataset.targets)
    inner: Any = HEADS[pooler]
    if kind is not None:
        inner = TBM(4, inner, KINDS[kind])
    module = HeadModule(inner, dataset.num_classes)
    train, test = (np.asarray(dataset.splits[name]) for name in ("train", "test"))
    params = _learned(module, tokens[train], targets[train], jax.random.key(seed))
    block = params.get("pooler", {})
    given = {"pooler": block} if kind is None else dict(block)

    def logits(z, mask=None):
        return module.apply({"params": params}, z, mask)

    right = jnp.argmax(jax.jit(logits)(tokens[test]), axis=-1) == targets[test]
    return _Model(
        model=inner,
        variables={"params": given | {"output": params["output"]}},
        logits=logits,
        x=tokens[test],
        labels=targets[test],
        accuracy=float(jnp.mean(right)),
    )


def _to_tokens(images):
    """Patches, each in entries of its own position, ``(N, 16, 64)``."""
    count, side = images.shape[0], images.shape[1] // PATCH
    patches = images.reshape(count, side, PATCH, side, PATCH).swapaxes(2, 3)
    patches = patches.reshape(count, side**2, 1, PATCH**2)
    return (patches * jnp.eye(side**2)[None, :, :, None]).reshape(count, side**2, -1)


@functools.partial(jax.jit, static_argnums=0)
def _learned(module, tokens, targets, key):
    """Parameters after full batches of Adam."""
    optimizer = optax.adam(_RATE)
    params = module.init(key, tokens[:1])["params"]

    def loss(params):
        logits = module.apply({"params": params}, tokens)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))

    def step(state, _):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=_STEPS)[0][0]


def of_backbone(options, most_tokens):
    """A whole backbone, whose head tells two sentences apart, beside the tight ledger's constant."""
    backbone = backbones.load(minilm.directory())
    params = backbone.params
    layers = list(backbone.layer_specs(params))
    # What is asked of a sentence is which of the first two it is nearer to.
    known = data.sentences(2 + _SENTENCES)
    anchors, mask = backbone.embed(params, *backbone.prepare(known[:2]))
    kernel = pooling.average_pool(backbone.encode(params, anchors, mask).states, mask).T
    kernel = kernel / jnp.linalg.norm(kernel, axis=0)

    def logits(x, mask=None):
        states = backbone.encode(params, x[None], None if mask is None else mask[None]).states[0]
        return pooling.average_pool(states, mask) @ kernel

    found = [
        _of_sentence(options, params, backbone, text, layers, kernel, logits)
        for text in _longest(backbone, known[2:], most_tokens)[: options.num_sentences]
    ]
    columns = {name: [row[name] for row in found] for name in found[0]}
    certified, attacked = columns["certified"], columns["attacked"]
    return {
        "accuracy": None,
        **columns,
        "certified_over_attacked": _median(
            [one / other for one, other in zip(certified, attacked, strict=True) if other]
        ),
        "log10_gain": _median(
            [
                np.log10(one) - log
                for one, log in zip(certified, columns["log10_constant"], strict=True)
                if one
            ]
        ),
    }


def _longest(backbone, texts, most):
    """Those of so many tokens or fewer, the longest first."""
    counts = np.sum(np.asarray(backbone.prepare(texts)[1]), axis=-1)
    order = np.argsort(-counts, kind="stable")
    return [texts[place] for place in order if counts[place] <= most]


def _of_sentence(options, params, backbone, text, layers, kernel, logits):
    """What is certified at a sentence and what is attacked, how long it takes, and by the ledger."""
    embeddings, _ = backbone.embed(params, *backbone.prepare([text]))
    weights = backbone.encode(params, embeddings, return_weights=True).weights
    x, count = embeddings[0], embeddings.shape[1]
    scores = logits(x)
    label = jnp.argmax(scores)
    variables = {"params": {"output": {"kernel": kernel}}}
    certify = functools.partial(
        bounds.certify, pooling.AveragePool(), variables, x, label,
        layers=layers, weights=[maps[0] for maps in weights],
    )  # fmt: skip
    certificate = certify()
    jax.block_until_ready(certificate.radius)
    started = time.perf_counter(), time.process_time()
    jax.block_until_ready(certify().radius)
    ended = time.perf_counter(), time.process_time()
    radius = float(certificate.radius)
    certificate = measure.attacked(
        certificate, logits, x, jax.random.key(options.seed),
        steps=options.steps, restarts=options.restarts,
    )  # fmt: skip
    attacked = float(jnp.asarray(certificate.attacked))
    ledger = bounds.ledger(layers, num_tokens=count, **_around(x, radius), method="tight")
    lead = _log_of_margins(scores, kernel, label)
    # An average of n tokens has the factor 1 / sqrt(n).
    log = float(lead - ledger.log_lipschitz) / np.log(10) + np.log10(count) / 2
    return {
        "certified": radius,
        "attacked": attacked if np.isfinite(attacked) else None,
        "log10_constant": log,
        "num_tokens": count,
        "seconds": ended[0] - started[0],
        "cpu_seconds": ended[1] - started[1],
    }


def cost(options, pooler, geometry):
    """Seconds of certificates once they are compiled."""
    count, num_tokens, dim = COST[pooler]
    keys = jax.random.split(jax.random.key(options.seed), 3)
    x = jax.random.normal(keys[0], (count, num_tokens, dim))
    module = HeadModule(HEADS[pooler], 2)
    variables = module.init(keys[1], x[:1])
    labels = jnp.argmax(module.apply(variables, x), axis=-1)
    certify = functools.partial(bounds.certify, module.pooler, variables, x, labels, geometry=geometry)
    jax.block_until_ready(certify().radius)
    started = time.perf_counter(), time.process_time()
    jax.block_until_ready(certify().radius)
    ended = time.perf_counter(), time.process_time()
    return {"seconds": ended[0] - started[0], "cpu_seconds": ended[1] - started[1]}

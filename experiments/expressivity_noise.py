"""Noise on inputs: how far it moves pooled vectors, and how far it may, by constants and bounds."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poolax import empirical, measure
from poolax.backbones import Backbone
from poolax.pooling import from_name
from poolax.records import packed


@dataclasses.dataclass(frozen=True)
class Given:
    """Inputs that noise is added to.

    Attributes:
        backbone: What reads them.
        inputs: Shape ``(N, ...)``.
        masks: True at what is real, or ``None``.
        embedded: Whether they are embeddings, as of texts.
    """

    backbone: Backbone
    inputs: Any
    masks: Any
    embedded: bool

    def tokens(self, params, x, *mask):
        """Token states of one input."""
        run = self.backbone.encode if self.embedded else self.backbone.apply
        return run(params, x, *mask)

    def embeddings(self, number):
        """Embeddings of the first inputs, and their mask."""
        inputs = self.inputs[:number]
        masks = None if self.masks is None else self.masks[:number]
        if self.embedded:
            return inputs, masks
        return self.backbone.embed(self.backbone.params, inputs, masks)

    @property
    def norm(self):
        """Mean norm of what is real."""
        inputs = np.asarray(self.inputs, np.float64)
        if self.masks is not None:
            real = np.asarray(self.masks)
            inputs = np.where(real.reshape(*real.shape, *(1,) * (inputs.ndim - real.ndim)), inputs, 0)
        return float(np.mean(np.linalg.norm(inputs.reshape(len(inputs), -1), axis=1)))


def inputs_of(setup, number):
    """Test examples, spread over the split; of several parts the first."""
    backbone, data = setup.backbone, setup.data
    test = np.asarray(data.splits["test"])
    chosen = test[np.linspace(0, len(test) - 1, min(number, len(test))).astype(int)]
    raw = data.inputs[chosen]
    mask = None if data.mask is None else data.mask[chosen]
    if backbone.modality == "language":
        texts = raw if np.ndim(raw) == 1 else raw[:, 0]
        ids, mask = backbone.prepare(list(texts))
        embeddings, mask = backbone.embed(backbone.params, jnp.asarray(ids), jnp.asarray(mask))
        return Given(backbone, embeddings, mask, embedded=True)
    inputs, mask = backbone.prepare(raw, mask)
    return Given(backbone, jnp.asarray(inputs), mask, embedded=False)


def curves_of(given, heads, seed, options):
    """How far noise moves the vectors of all poolers, in one pass for all of them."""
    params = given.backbone.params

    def pooled(x, *mask):
        tokens = given.tokens(params, x, *mask)
        return {name: head.pool(tokens.states, tokens.mask) for name, (_, head) in heads.items()}

    masks = () if given.masks is None else (given.masks,)
    clean = jax.jit(lambda args: jax.lax.map(lambda one: pooled(*one), args))((given.inputs, *masks))
    epsilons = given.norm * np.asarray(options.noise)
    curves = empirical.noise_curve(
        pooled,
        given.inputs,
        jnp.asarray(epsilons, jnp.float32),
        *masks,
        key=jax.random.key(seed),
        num_perturbations=options.num_perturbations,
    )
    return {
        name: {
            "epsilon": epsilons.tolist(),
            **{field: np.asarray(getattr(curve, field)).tolist() for field in ("mean", "low", "high")},
            "length": float(np.mean(np.linalg.norm(np.asarray(clean[name]), axis=-1))),
            "by_input": packed({"distance": np.asarray(curve.by_input, np.float32)}),
        }
        for name, curve in curves.items()
    }


def constants_of(given, poolers, number, progress):
    """The measured local constant of each fixed pooler, and its bounds.

    Bounds are of the way from embeddings; those of the way there, by the norm of its Jacobian at the
    input, which is the same everywhere for patches of images, that are embedded by one linear map.
    """
    embeddings, mask = given.embeddings(number)
    key, names = jax.random.key(0), list(poolers.values())
    found = measure.measure_backbone(
        given.backbone, embeddings, mask, poolers=names, key=key, progress=progress
    )
    factors, measured = np.ones(number), [row["measured"] for row in found]
    if not given.embedded:
        factors, measured = norms_from_inputs(given, names, number, key)
    logs = np.log10(factors)
    is_linear = given.embedded or given.backbone.modality == "vision"
    return {
        label: {
            "measured": values,
            "log10_local": _plus(row["log10_local"], logs),
            "log10_tight": _sum(row["log10_tight"], logs.max()) if is_linear else None,
        }
        for label, row, values in zip(poolers, found, measured, strict=True)
    }


def _sum(one, other):
    return None if one is None else float(one + other)


def _plus(values, logs):
    sums = [_sum(value, log) for value, log in zip(values, logs, strict=True)]
    return None if None in sums else sums


def norms_from_inputs(given, names, number, key):
    """Norms of the Jacobians of the first inputs: to embeddings, and to the vectors of each pooler."""
    params = given.backbone.params

    def norm(fn, x):
        return empirical.power_iteration(fn, x, key=key, method="lanczos").value

    @jax.jit
    def to_embeddings(x, *mask):
        return norm(lambda x: given.backbone.embed(params, x, *mask)[0], x)

    @jax.jit
    def to_vector(index, x, *mask):
        def pooled(x):
            tokens = given.tokens(params, x, *mask)
            branches = [lambda z, name=name: from_name(name)(z, tokens.mask) for name in names]
            return jax.lax.switch(index, branches, tokens.states)

        return norm(pooled, x)

    masks = () if given.masks is None else (given.masks,)
    inputs = list(zip(*(part[:number] for part in (given.inputs, *masks)), strict=True))
    factors = np.array([float(to_embeddings(*one)) for one in inputs])
    indices = range(len(names))
    return factors, [[float(to_vector(index, *one)) for one in inputs] for index in indices]

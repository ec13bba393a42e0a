"""Suite "minilm" of bounds.py: attention layers and the pooled backbone at real sentences."""

import csv
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import minilm
import numpy as np

from poolax import backbones, bounds, data, empirical
from poolax.attention import MultiHeadAttention
from poolax.sensitivity import FIXED_POOLERS, measure_backbone

METHODS = ("measured", "local", "tight", "sharp")


def read_sentences(data_dir: str | None, num_sentences: int) -> tuple[list[str], str]:
    """Sentences spread over the test part of STS-B, or that come with Python, and their source."""
    if data_dir is None:
        return data.sentences(num_sentences), "sentences of Python's documentation"
    with (pathlib.Path(data_dir) / "stsb" / "sts-test.csv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = list(dict.fromkeys(sentence for row in rows for sentence in row[5:7]))
    places = np.linspace(0, len(found) - 1, num_sentences).astype(int)
    return [found[place] for place in places], "test part of STS-B"


class Subject:
    """The backbone and the sentences, loaded when they are first needed."""

    def __init__(self, options: Any):
        self.options = options

    @functools.cached_property
    def backbone(self) -> backbones.Backbone:
        """The backbone."""
        try:
            return backbones.load(self.options.backbone or minilm.directory())
        except ValueError as error:
            raise SystemExit(str(error)) from None

    @functools.cached_property
    def embedded(self) -> tuple[jax.Array, jax.Array]:
        """Embeddings of the sentences, padded to the longest, and their mask."""
        texts, _ = read_sentences(self.options.data_dir, self.options.num_sentences)
        return self.backbone.embed(self.backbone.params, *self.backbone.prepare(texts))

    @functools.cached_property
    def attention_specs(self) -> list[Any]:
        """The attention layers."""
        specs = self.backbone.layer_specs(self.backbone.params)
        return [spec for spec in specs if spec.name.endswith("/attention")]

    @functools.cached_property
    def at_layer(self) -> Callable[..., dict[str, jax.Array]]:
        """The compiled measurement of one attention layer at one sentence."""
        spec = self.attention_specs[0]
        if spec.norm_before is not None or spec.branch.rotary or spec.branch.window is not None:
            raise SystemExit("backbone: expected Post-LN blocks with plain attention, such as BERT's")
        return jax.jit(functools.partial(_at_layer, spec.branch.kind, spec.branch.causal))

    def layer(self, index: int) -> dict[str, Any]:
        """All sentences at one layer."""
        embeddings, mask = self.embedded
        tokens = self.backbone.encode(self.backbone.params, embeddings, mask, layer=index).states
        params = self.attention_specs[index].branch.params
        pairs = zip(tokens, mask, strict=True)
        found = [jax.device_get(self.at_layer(params, x, real)) for x, real in pairs]
        return {name: [float(row[name]) for row in found] for name in found[0]}

    def whole(self) -> list[dict[str, Any]]:
        """All sentences through the whole backbone, by pooler."""
        return self._whole

    @functools.cached_property
    def _whole(self):
        return measure_backbone(
            self.backbone, *self.embedded, poolers=FIXED_POOLERS, key=jax.random.key(self.options.seed)
        )


def _at_layer(kind, causal, params, x, mask):
    """Measured norm and bounds of an attention layer at ``x``."""
    query, key, value, out = (params[name]["kernel"] for name in ("query", "key", "value", "out"))
    layer = MultiHeadAttention(
        query.shape[1], kind, head_dim=query.shape[2], causal=causal, use_bias=True
    )

    def attend(x):
        return layer.apply({"params": params}, x, mask)

    # What stands at masked positions is no output.
    measured = empirical.power_iteration(
        lambda x: jnp.where(mask[:, None], attend(x), 0), x, key=jax.random.key(0), method="lanczos"
    )
    biases = {f"{name}_bias": params[name].get("bias") for name in ("query", "key", "value")}
    kernels = {"query": query, "key": key, "value": value, "out": out}
    local = bounds.local_attention(x, **kernels, **biases, kind=kind, causal=causal, mask=mask)
    num_tokens, domain = jnp.sum(mask), bounds.domain_of(x, mask)
    pattern = "sequence" if causal else "full"
    sizes = {"num_tokens": num_tokens, "radius": domain.radius, "spread": domain.spread}
    row = {"measured": measured.value, "local": local, "converged": measured.converged}
    for method in ("tight", "sharp"):
        bound = bounds.attention(kind, params, **sizes, method=method, pattern=pattern)
        row[method] = bound.sequence
    unbiased = {name: {"kernel": kernel} for name, kernel in kernels.items()}
    published = bounds.attention(kind, unbiased, **sizes, method="published")
    return row | {"published_without_biases": published.sequence}


def suite(options: Any) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is measured, and how: one record a layer, and one a pooler behind the whole."""
    subject = Subject(options)
    what = {"suite": "minilm", "backbone": pathlib.Path(options.backbone or minilm.NAME).name}
    what["inputs"] = "test part of STS-B" if options.data_dir else "sentences of Python's documentation"
    what["num_sentences"] = options.num_sentences
    for index in range(len(subject.attention_specs)):
        yield (
            {"kind": "bounds_layer", **what, "layer": index},
            functools.partial(_layer, subject, index),
        )
    for index, pooler in enumerate(FIXED_POOLERS):
        row = {"kind": "bounds_backbone", **what, "pooler": pooler}
        yield row, lambda index=index: subject.whole()[index]


def _layer(subject, index):
    row = subject.layer(index)
    for name in ("local", "tight", "sharp"):
        over = np.asarray(row["measured"]) / np.asarray(row[name])
        if not np.isfinite(over).all() or over.max() > 1 + 1e-4:
            raise RuntimeError(
                f"layer {index}: a measured norm is above its {name} bound: {over.max()}"
            )
    return {
        "medians": {name: float(np.median(values)) for name, values in row.items()},
        "sharp_over_local": float(np.median(np.divide(row["sharp"], row["local"]))),
        "tight_over_local": float(np.median(np.divide(row["tight"], row["local"]))),
        "local_over_measured": float(np.median(np.divide(row["local"], row["measured"]))),
        "smallest_sharp_over_local": float(np.min(np.divide(row["sharp"], row["local"]))),
        "per_sentence": row,
    }

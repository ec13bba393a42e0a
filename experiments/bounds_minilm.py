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

from poolax import backbones, bounds, data, measure
from poolax.pooling import FIXED_POOLERS


def read_sentences(data_dir: str | None, num_sentences: int) -> tuple[list[str], str]:
    """Sentences spread over the test part of STS-B, or that come with Python, and their source."""
    if data_dir is None:
        return data.sentences(num_sentences), "sentences of Python's documentation"
    with (pathlib.Path(data_dir) / "stsb" / "sts-test.csv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = list(dict.fromkeys(sentence for row in rows for sentence in row[5:7]))
    places = np.linspace(0, len(found) - 1, num_sentences).astype(int)
    return [found[place] for place in places], "test part of STS-B"


def is_package(options: Any) -> bool:
    """Whether the weights are those of the package."""
    return options.backbone in (None, minilm.PACKAGE)


class Subject:
    """The backbone and the sentences, loaded when they are first needed."""

    def __init__(self, options: Any):
        self.options = options

    @functools.cached_property
    def backbone(self) -> backbones.Backbone:
        """The backbone."""
        try:
            return backbones.load(
                minilm.directory() if is_package(self.options) else self.options.backbone
            )
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
    def branch(self) -> Any:
        """The first attention layer, which the others are like."""
        spec = self.attention_specs[0]
        if spec.norm_before is not None or spec.branch.rotary or spec.branch.window is not None:
            raise SystemExit("backbone: expected Post-LN blocks with plain attention, such as BERT's")
        return spec.branch

    @functools.cached_property
    def at_layer(self) -> Callable[..., dict[str, jax.Array]]:
        """The compiled measurement of one attention layer at one sentence."""
        return jax.jit(functools.partial(_at_layer, self.branch.kind, self.branch.causal))

    @functools.cached_property
    def search(self) -> Callable[..., jax.Array]:
        """The compiled search of one attention layer on the domain of one sentence."""
        sizes = {"num_restarts": self.options.restarts, "num_steps": self.options.steps}
        return jax.jit(functools.partial(_search, self.branch.kind, self.branch.causal, sizes))

    @property
    def searched(self) -> list[int]:
        """Places of the sentences whose domains are searched."""
        return (
            np.linspace(0, self.options.num_sentences - 1, self.options.searched).astype(int).tolist()
        )

    def layer(self, index: int) -> dict[str, Any]:
        """All sentences at one layer."""
        embeddings, mask = self.embedded
        tokens = self.backbone.encode(self.backbone.params, embeddings, mask, layer=index).states
        params = self.attention_specs[index].branch.params
        pairs = zip(tokens, mask, strict=True)
        found = [jax.device_get(self.at_layer(params, x, real)) for x, real in pairs]
        rows = {name: [float(row[name]) for row in found] for name in found[0]}
        key = jax.random.key(self.options.seed)
        rows["found"] = [
            float(self.search(params, tokens[place], mask[place], key)) for place in self.searched
        ]
        return rows

    def whole(self) -> list[dict[str, Any]]:
        """All sentences through the whole backbone, by pooler."""
        return self._whole

    @functools.cached_property
    def _whole(self):
        return measure.measure_backbone(
            self.backbone, *self.embedded, poolers=FIXED_POOLERS, key=jax.random.key(self.options.seed)
        )


def _search(kind, causal, sizes, params, x, mask, key):
    """Largest Jacobian norm found on the smallest domain that holds ``x``, starting there."""
    attend = measure.attend(kind, params, mask, causal=causal)
    return measure.find(attend, x, bounds.domain_of(x, mask), key=key, mask=mask, **sizes).value


def _at_layer(kind, causal, params, x, mask):
    """Measured norm and bounds of an attention layer at ``x``."""
    at = measure.layer_at(kind, params, x, mask, causal=causal, key=jax.random.key(0))
    row = {"measured": at.measured, "local": at.local, "converged": at.converged}
    domain = bounds.domain_of(x, mask)
    known: Any = measure.layer_bounds(kind, params, jnp.sum(mask), domain, causal=causal)
    for method in ("tight", "sharp", "published_without_biases"):
        row[method] = known[method].sequence
    return row


def suite(options: Any) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is measured, and how: one record a layer, and one a pooler behind the whole."""
    subject = Subject(options)
    name = minilm.NAME if is_package(options) else pathlib.Path(options.backbone).name
    what = {"suite": "minilm", "backbone": name}
    what["inputs"] = "test part of STS-B" if options.data_dir else "sentences of Python's documentation"
    what["num_sentences"] = options.num_sentences
    search = {"searched": options.searched, "restarts": options.restarts, "steps": options.steps}
    for index in range(len(subject.attention_specs)):
        yield (
            {"kind": "bounds_layer", **what, **search, "layer": index},
            functools.partial(_layer, subject, index),
        )
    for index, pooler in enumerate(FIXED_POOLERS):
        row = {"kind": "bounds_backbone", **what, "pooler": pooler}
        yield row, lambda index=index: subject.whole()[index]


def _layer(subject, index):
    row = subject.layer(index)
    on_domain = {name: np.asarray(row[name]) for name in ("tight", "sharp")}
    measure.check_order(row["measured"], {"local": row["local"], **on_domain}, what=f"layer {index}")
    tight, sharp = (on_domain[name][subject.searched] for name in ("tight", "sharp"))
    found = np.asarray(row["found"])
    measure.check_order(found, {"tight": tight}, what=f"layer {index} in its domains")
    return {
        "tight_over_found": float(np.median(tight / found)),
        "sharp_over_found": float(np.median(sharp / found)),
        "medians": {name: float(np.median(values)) for name, values in row.items()},
        "sharp_over_local": float(np.median(np.divide(row["sharp"], row["local"]))),
        "tight_over_local": float(np.median(np.divide(row["tight"], row["local"]))),
        "local_over_measured": float(np.median(np.divide(row["local"], row["measured"]))),
        "smallest_sharp_over_local": float(np.min(np.divide(row["sharp"], row["local"]))),
        "per_sentence": row,
    }

"""``poolax certify``."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from poolax import bounds, measure
from poolax._checks import check_count
from poolax._layer_specs import LayerSpec, NormSpec
from poolax._paths import absolute_path
from poolax.backbones import Backbone
from poolax.cli._console import COMPLETE, show
from poolax.cli._models import load_backbone, load_model
from poolax.cli._options import OptionalPath
from poolax.cli._own_data import FileFlags, load_data
from poolax.codec import to_plain
from poolax.pooling import Pooler
from poolax.records import environment
from poolax.reporting import certificate_table, plot_certificates
from poolax.training import Classification, Head


@dataclasses.dataclass(frozen=True)
class Certify:
    """How far inputs may move before the class that a trained head gives them can change.

        poolax certify sentence-transformers/all-MiniLM-L6-v2 poolax-compare/heads/… --data reviews.csv

    Two radii for each example: certified, below which no change alters the class, by proof; and
    attacked, the smallest change that a search found to alter it. The truth lies between. The table has
    the share of examples that each leaves at some radii.

    What moves are the token states that the head reads; with --whole the embeddings that enter the
    backbone, whose layers are then part of the proof. That costs more and certifies far less: bounds of
    several layers multiply.

    Attributes:
        model: Directory or hub id of the backbone that the head was trained on.
        head: Directory of a head.
        data: Name of a data set, see poolax data list, or your own file or folder.
        geometry: Norm of a change: of all tokens together, or the largest of a token.
        whole: Whether embeddings move, instead of token states.
        num_examples: Examples of the test split to take.
        epsilons: Radii of the table; by default some around what is found.
        steps: Steps of each attack; 0 for none.
        seed: Of the choice of examples and of attacks.
        figure: File for a figure, .png, .pdf or .svg.
        data_dir: Folder of the files of a data set that has a name.
        files: How your own files are read.
        as_json: Print the record as one line of JSON.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BACKBONE")]
    head: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="HEAD")]
    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    geometry: Literal["frobenius", "tokens"] = "frobenius"
    whole: bool = False
    num_examples: int = 16
    epsilons: tuple[float, ...] = ()
    steps: int = 40
    seed: int = 0
    figure: OptionalPath = None
    data_dir: OptionalPath = None
    files: tyro.conf.OmitArgPrefixes[FileFlags] = dataclasses.field(default_factory=FileFlags)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        check_count("num_examples", self.num_examples)
        check_count("steps", self.steps, at_least=0)
        head = _classifier(self.head)
        entry, dataset, _ = load_data(self.data, self.files, data_dir=self.data_dir)
        backbone = load_backbone(self.model, entry.modality, dataset)
        test = np.asarray(dataset.splits["test"])
        count = min(self.num_examples, len(test))
        chosen = np.sort(np.random.default_rng(self.seed).choice(test, count, replace=False))
        given: Any = dataset.inputs
        raw = [given[int(index)] for index in chosen]
        labels = jnp.asarray(np.asarray(dataset.targets)[chosen].astype(int))
        inputs, mask = backbone.prepare(raw if backbone.modality == "language" else np.stack(raw))
        found = certified(
            backbone, head, inputs, mask, labels, geometry=self.geometry, whole=self.whole,
            steps=self.steps, seed=self.seed,
        )  # fmt: skip
        record = {
            "kind": "certificate",
            "model": self.model,
            "head": self.head,
            "pooler": to_plain(head.pooler, of="pooler", name="pooler")["name"],
            "dataset": dataset.name,
            "of": "embeddings" if self.whole else "states",
            "geometry": self.geometry,
            "radius": _plain(found.radius),
            "attacked": None if found.attacked is None else _plain(found.attacked),
            "steps": self.steps,
            "seed": self.seed,
            **environment(),
        }
        if self.figure is not None:
            plot_certificates([record], absolute_path(self.figure))
        table = certificate_table(record, self.epsilons or None)
        show([table], [record], as_json=self.as_json)
        return COMPLETE


def certified(
    backbone: Backbone,
    head: Head,
    inputs: Any,
    mask: Any,
    labels: jax.Array,
    *,
    geometry: str,
    whole: bool,
    steps: int,
    seed: int,
) -> bounds.Certificate:
    """The certificate of a head behind a backbone, and what attacks find beside it.

    Args:
        backbone: The backbone.
        head: A head of a classification.
        inputs: What the backbone takes.
        mask: Their mask, or ``None``.
        labels: Classes.
        geometry: Norm of a change.
        whole: Whether embeddings move, instead of token states.
        steps: Steps of attacks; 0 for none.
        seed: Of attacks.

    Returns:
        The certificate.

    Raises:
        ValueError: with ``whole`` for a head of another layer than the last, or that leaves out tokens.
    """
    skipped = head.num_skipped or 0
    embeddings, mask = backbone.embed(backbone.params, inputs, mask)
    layers, weights = _scaling(head), None
    if whole:
        if head.layer != -1 or skipped:
            raise ValueError(
                "whole: expected a head that reads all tokens of the last layer, got one of layer "
                f"{head.layer} that leaves out {skipped}"
            )
        layers = [*backbone.layer_specs(backbone.params), *layers]
        out = backbone.encode(backbone.params, embeddings, mask, return_weights=True)
        x, weights = embeddings, out.weights
    else:
        out = backbone.apply(backbone.params, inputs, mask, layer=head.layer)
        x, mask = out.states, out.mask
        if skipped:
            kept = jnp.ones(x.shape[:-1], bool) if mask is None else mask
            mask = kept & (jnp.cumsum(kept, axis=-1) > skipped)
    pooler: Any = head.pooler
    found = bounds.certify(
        pooler,
        head.variables,
        x,
        labels,
        mask=mask,
        geometry=geometry,
        layers=layers or None,
        weights=weights,
    )
    if not steps:
        return found
    outer = dataclasses.replace(head, config={**head.config, "num_skipped": 0})

    def logits(x, mask):
        if whole:
            encoded = backbone.encode(backbone.params, x[None], mask[None])
            return outer.predict(encoded.states, encoded.mask)[0]
        return outer.predict(x, mask)

    return measure.attacked(found, logits, x, jax.random.key(seed), mask=mask, steps=steps)


def _plain(radii) -> list[float | None]:
    """Numbers that JSON has; ``None`` for an infinite radius, where no change matters or was found."""
    return [float(radius) if np.isfinite(radius) else None for radius in np.asarray(radii)]


def _scaling(head: Head) -> list[LayerSpec]:
    """The units that a head was trained in, as a layer: a fixed scale and shift of each entry."""
    scaling = head.variables.get("scaling")
    if scaling is None:
        return []
    scale = 1 / jnp.asarray(scaling["deviation"])
    return [LayerSpec("scaling", norm_after=NormSpec("affine", scale, -scaling["mean"] * scale))]


def _classifier(path: str) -> Head:
    head = load_model(path)
    if not isinstance(head, Head):
        raise ValueError(f"head: expected the directory of a head, got {type(head).__name__} ({path})")
    task = head.config.get("task", Classification.name)
    if task != Classification.name or head.joins_parts or not isinstance(head.pooler, Pooler):
        raise ValueError(f"head: expected one of a classification with a pooler, got one of {task}")
    return head

"""The quickstart: the whole comparison on real images that come with scikit-learn.

Pretrain a small Vision Transformer without labels, freeze it, compare poolers on it, measure how
noise moves them, and set measured Lipschitz constants beside their bounds. Every stage leaves records
behind; a second run takes over what is finished.
"""

import dataclasses
import itertools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from poolax import attention, bounds, empirical
from poolax._checks import check_count, check_number
from poolax._paths import absolute_path, write_atomically
from poolax.backbones import ImagePreprocess, ViT, ViTConfig, is_saved_backbone
from poolax.backbones import save as save_backbone
from poolax.blocks import TBM
from poolax.data import Dataset, digits
from poolax.pooling import from_name
from poolax.reporting import (
    Table,
    plot_noise_curves,
    plot_scores,
    plot_sensitivity,
    score_table,
    sensitivity_table,
    summarize_scores,
)
from poolax.training import (
    Classification,
    HeadModule,
    Records,
    checkpoint_metadata,
    head_directory,
    load_head,
    pretrain_masked_patches,
    save_tbm,
    sweep,
    train_heads,
)
from poolax.training.records import digest, environment
from poolax.training.step import Progress, no_progress

POOLERS = ("last", "avg", "sum", "max", "wavg", "attn")
RECORDS = "records.jsonl"
# Inputs of the trained blocks, beside their checkpoints.
INPUTS = "inputs.npy"

_KINDS = {
    "dot product": attention.DotProduct(),
    "L2": attention.L2(),
    "scaled cosine": attention.Cosine(tau=1.0, nu=1.0, eps=0.01),
}
# Poolers for which nothing was published; bounds.tbm refuses them.
_UNBOUNDED = {"sharp": set(), "published": {"attn", "wavg"}}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the quickstart; the defaults take a few minutes on two CPU cores.

    Attributes:
        seeds: Heads of each pooler.
        epochs: Passes over the training images of each head.
        pretrain_epochs: Passes over the training images of the backbone.
        block_epochs: Passes over the training images of each block whose sensitivity is measured.
        learning_rates: Tried for each pooler; chosen by validation.
        num_inputs: Test images at which sensitivity is measured.
        search_restarts: Restarts of the adversarial search.
        search_steps: Steps of each restart.
        seed: Sets everything random but the seeds of the heads.
    """

    seeds: int = 5
    epochs: int = 30
    pretrain_epochs: int = 150
    block_epochs: int = 15
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    num_inputs: int = 64
    search_restarts: int = 8
    search_steps: int = 50
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """What the quickstart leaves behind.

    Attributes:
        records: All records.
        scores: Table of test scores.
        sensitivity: Table of measured constants and bounds.
        cls_token_trained: Whether the pretraining trained the backbone's CLS token.
        example_head: Checkpoint of one trained head.
    """

    records: Records
    scores: Table
    sensitivity: Table
    cls_token_trained: bool
    example_head: epath.Path

    @property
    def num_diverged(self) -> int:
        """Number of heads whose loss did not stay finite."""
        return sum(row["diverged"] for row in self.records.where(kind="head"))


def run(
    out: epath.PathLike, settings: Settings | None = None, *, progress: Progress = no_progress
) -> Report:
    """Run all stages and write records, tables, figures and checkpoints.

    Args:
        out: Folder to write to, local or ``gs://``.
        settings: Sizes; ``None`` takes the defaults.
        progress: Called with a description, the number done and the total.

    Returns:
        The report.

    Raises:
        ValueError: if ``out`` cannot be written or holds a run with other settings.
        RuntimeError: if a measured constant exceeds its bound.
        FloatingPointError: if pretraining or all heads diverge.
    """
    settings = Settings() if settings is None else settings
    _check(settings)
    out = _writable_folder(out)
    data = digits()
    train = data.inputs[data.splits["train"]]
    vit = pretrain_masked_patches(
        ViTConfig(8, 2, 1, width=64, num_layers=2, num_heads=4, mlp_dim=256, use_mask_token=True),
        train,
        preprocess=ImagePreprocess(scale=1 / 16),
        epochs=settings.pretrain_epochs,
        batch_size=32,
        learning_rate=3e-3,
        hidden_fraction=0.75,
        seed=settings.seed,
        out=out / "pretraining",
        progress=progress,
    )
    if not is_saved_backbone(out / "backbone"):
        save_backbone(vit, out / "backbone")
    heads = sweep(
        vit,
        data,
        Classification(10),
        poolers=POOLERS,
        seeds=settings.seeds,
        epochs=settings.epochs,
        learning_rates=settings.learning_rates,
        out=out,
        progress=progress,
    )
    rates = {entry["pooler"]: entry["learning_rate"] for entry in summarize_scores(heads)}
    sound = {
        name: heads.where(pooler=name, learning_rate=rates[name], diverged=False) for name in POOLERS
    }
    best = {name: rows[0] for name, rows in sound.items() if rows}
    if not best:
        raise FloatingPointError("all heads diverged")
    store = _Store(out / RECORDS, {"backbone": heads[0]["backbone_fingerprint"], **_sizes(settings)})
    curves = _noise_curves(vit, data, out, best, settings, store, progress)
    constants = _lipschitz(vit, data, out / "blocks", settings, store, progress)
    records = Records([*heads, *curves, *constants])

    scores = score_table(heads, title="Poolers on a frozen backbone")
    sensitivity = sensitivity_table(constants, title="Sensitivity: measured and bounded")
    for name, table in (("scores", scores), ("sensitivity", sensitivity)):
        write_atomically(out / f"{name}.md", table.markdown())
        write_atomically(out / f"{name}.csv", table.csv())
    plot_scores(heads, out / "scores.png")
    plot_noise_curves(curves, out / "noise_curves.png")
    plot_sensitivity(constants, out / "sensitivity.png")
    return Report(
        records=records,
        scores=scores,
        sensitivity=sensitivity,
        cls_token_trained=checkpoint_metadata(out / "pretraining")["cls_token_trained"],
        example_head=head_directory(out, next(iter(best.values()))),
    )


def _check(settings):
    for name in (
        "seeds",
        "epochs",
        "pretrain_epochs",
        "block_epochs",
        "search_restarts",
        "search_steps",
    ):
        check_count(name, getattr(settings, name))
    for learning_rate in settings.learning_rates:
        check_number("learning_rates", learning_rate, above=0.0)
    check_count("num_inputs", settings.num_inputs, at_least=2)
    check_count("seed", settings.seed, at_least=0)


def _writable_folder(out):
    path = absolute_path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".poolax-writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"out: expected a folder that can be written, got {out} ({reason})") from None
    return path


class _Store:
    """Records of single measurements, found again by what they are records of."""

    def __init__(self, path, identity):
        self.path = path
        self.identity = identity
        self.finished = {row["id"]: row for row in Records.read(path) if "id" in row}

    def get(self, measure, **what) -> dict[str, Any]:
        """The record of ``what``: from the file, or measured now and added to it."""
        key = digest({**self.identity, **what})
        if key not in self.finished:
            started = time.perf_counter()
            row = {"id": key, **what, **measure()}
            row |= {"wall_s": round(time.perf_counter() - started, 3), **environment()}
            self.finished[key] = row
            Records([row]).write_to(self.path)
        return self.finished[key]


def _sizes(settings):
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "seeds"}


def _noise_curves(vit: ViT, data: Dataset, out, best, settings, store, progress):
    images = vit.preprocess(data.inputs[data.splits["test"][: settings.num_inputs]])
    epsilons = [0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0]
    rows = []
    for done, name in enumerate(best, 1):

        def measure(name=name):
            head = load_head(head_directory(out, best[name]))
            variables = {"params": head.variables["params"].get("pooler", {})}

            def pooled(image):
                return jnp.asarray(head.pooler.apply(variables, vit(image).states))

            curve = empirical.noise_curve(
                pooled, images, jnp.asarray(epsilons), key=jax.random.key(settings.seed)
            )
            values = {field: np.asarray(getattr(curve, field)) for field in ("mean", "low", "high")}
            return {
                "epsilon": epsilons,
                **{field: value.tolist() for field, value in values.items()},
                "num_inputs": len(images),
            }

        what = {"kind": "noise_curve", "pooler": name, "head": best[name]["id"]}
        rows.append(store.get(measure, **what))
        progress("noise curves", done, len(best))
    return Records(rows)


def _lipschitz(vit: ViT, data: Dataset, out, settings, store, progress):
    embeddings, _ = vit.embed(vit.params, vit.preprocess(data.inputs))
    patches = jnp.asarray(embeddings)[:, 1:]
    radius = float(bounds.domain_of(patches).radius)
    tokens = np.asarray(patches)
    out.mkdir(parents=True, exist_ok=True)
    with (out / INPUTS).open("wb") as file:
        np.save(file, tokens[data.splits["test"][: settings.num_inputs]])
    rows = []
    total = len(_KINDS) * len(POOLERS)
    for label, kind in _KINDS.items():
        for name in POOLERS:
            model = TBM(num_heads=4, pooler=from_name(name), attention=kind)

            def measure(model=model, name=name, label=label):
                folder = out / f"{label}-{name}".replace(" ", "-")
                return _measure_tbm(model, name, tokens, data, radius, settings, folder)

            what = {"kind": "lipschitz", "attention": label, "configuration": repr(kind)}
            rows.append(store.get(measure, pooler=name, **what))
            progress("trained blocks", len(rows), total)
    return Records(rows)


def _measure_tbm(model, name, tokens, data, radius, settings, folder) -> dict[str, Any]:
    """Train a TBM on patch tokens and save it; measure its Lipschitz constant and bound it."""
    trained = train_heads(
        HeadModule(model, 10),
        tokens[None],
        None,
        data.targets,
        Classification(10),
        splits=data.splits,
        runs=[(1e-3, settings.seed)],
        epochs=settings.block_epochs,
        batch_size=32,
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), trained.variables["params"])
    variables = {"params": params["pooler"]}
    save_tbm(folder, model, variables, metadata={"num_tokens": tokens.shape[1], "radius": radius})
    inputs = jnp.asarray(tokens[data.splits["test"][: settings.num_inputs]])

    def model_at(x):
        return model.apply(variables, x)

    real = jax.jit(lambda inputs: jax.lax.map(lambda x: empirical.jacobian_norm(model_at, x), inputs))(
        inputs
    )
    most_sensitive = inputs[jnp.argmax(real)]
    found = jax.jit(
        lambda x, key: empirical.maximize_jacobian_norm(
            model_at,
            x,
            project=empirical.project_to_ball(radius),
            key=key,
            num_restarts=settings.search_restarts,
            num_steps=settings.search_steps,
        )
    )(most_sensitive, jax.random.key(settings.seed))
    num_tokens, width = inputs.shape[1:]
    row = {
        "num_tokens": num_tokens,
        "width": width,
        "num_heads": model.num_heads,
        "radius": radius,
        "num_inputs": len(inputs),
        "test_accuracy": float(trained.test_metrics["accuracy"][0, 0]),
        "measured_real": float(jnp.max(real)),
        "measured_real_median": float(jnp.median(real)),
        "measured_adversarial": float(found.value),
    }
    for method, without in _UNBOUNDED.items():
        bound = None
        if name not in without:
            bound = float(
                bounds.tbm(
                    model, variables, num_tokens=num_tokens, radius=radius, method=method
                ).lipschitz
            )
        row[method] = bound
    _check_order(row, name)
    return row


def _check_order(row, name):
    """Refuse measurements that are not finite or exceed a bound."""
    measured = max(row["measured_real"], row["measured_adversarial"])
    known = [value for value in (measured, row["sharp"], row["published"]) if value is not None]
    if not all(map(math.isfinite, known)) or any(a > b for a, b in itertools.pairwise(known)):
        raise RuntimeError(f"measured <= sharp <= published does not hold for {name}: {known}")

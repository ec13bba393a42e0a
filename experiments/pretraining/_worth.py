"""What a pretrained model is worth, beside what learned nothing or little."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np

from poolax import data
from poolax.backbones import Backbone
from poolax.data import Dataset
from poolax.records import digest, environment, record_kind
from poolax.training import Classification, Progress, sweep, sweep_states
from poolax.training.pretraining import (
    NextToken,
    TokenBatches,
    Trigram,
    bits_per_byte,
    rule_losses,
)
from pretraining._data import Prepared
from pretraining._options import Options
from pretraining._presets import Preset
from pretraining._recorded import speed_of


@record_kind("pretrained")
class PretrainedRecord(TypedDict):
    """What a model came to: losses held out, and scores of linear heads on averaged states.

    ``heads`` has for each data set the test score with the trained model, with random weights and on
    raw inputs; ``beside`` what models and rules that learn little come to, in the unit of ``score``.
    ``seconds`` are those of training at ``tokens_per_second``, evaluations left out.
    """

    id: str
    preset: str
    seed: int
    steps: int
    num_parameters: int
    evaluation_loss: float | None
    score: float | None
    unit: str
    beside: dict[str, float]
    heads: dict[str, dict[str, float]]
    tokens_per_second: NotRequired[float | None]
    seconds: NotRequired[float | None]


def probes_of(options: Options, preset: Preset, prepared: Prepared) -> dict[str, Dataset]:
    """The data sets of a preset's heads, read before anything is trained.

    Args:
        options: The command line.
        preset: The preset with all that is said otherwise.
        prepared: What is trained on.

    Raises:
        ValueError: for a data set that is not there, or token files whose tokenizer nothing tells.
    """
    if preset.probe and prepared.preprocess is None:
        raise ValueError(
            f"worth: expected a tokenizer (--tokenizer) for a head on {', '.join(preset.probe)}, got "
            "token files without one"
        )
    return {name: data.load(name, data_dir=options.data_dir) for name in preset.probe}


def worth_of(
    options: Options,
    preset: Preset,
    prepared: Prepared,
    probes: Mapping[str, Dataset],
    backbone: Backbone,
    curve: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> dict[str, Any]:
    """The record of a run that has come to its end.

    Args:
        options: The command line.
        preset: The preset with all that is said otherwise.
        prepared: What it was trained on.
        probes: As :func:`probes_of` gives them.
        backbone: The trained model.
        curve: Records of its training.
        progress: Called with a description, the number done and the total.
    """
    evaluation_loss = curve[-1].get("evaluation_loss")
    unit, score, beside = _beside(prepared, evaluation_loss, options.seed)
    family: Any = type(backbone)
    random = family.init(backbone.config, jax.random.key(options.seed + 1), backbone.preprocess)
    heads = {}
    for name, dataset in probes.items():
        heads[name] = {
            "trained": _head(backbone, dataset, progress),
            "random": _head(random, dataset, progress),
            "raw": _raw_head(dataset, prepared.preprocess, progress),
        }
    told = {
        "preset": options.preset,
        "seed": options.seed,
        "steps": preset.steps,
        "data": list(preset.data),
        "num_parameters": backbone.num_parameters,
    }
    return {
        "kind": "pretrained",
        "id": digest({**told, "run": prepared.batches.fingerprint}),
        "title": preset.title,
        **told,
        "evaluation_loss": evaluation_loss,
        "score": score,
        "unit": unit,
        "beside": beside,
        "heads": heads,
        **speed_of(curve),
        **environment(),
    }


def _beside(prepared: Prepared, loss: float | None, seed: int) -> tuple[str, float | None, dict]:
    """Unit and value of the model's loss, and what stands beside it."""
    evaluation = prepared.evaluation
    if isinstance(evaluation, TokenBatches):
        if not isinstance(prepared.objective, NextToken) or prepared.preprocess is None or loss is None:
            return "loss", loss, {}
        tokens, predicted = evaluation.tokens, evaluation.tokens[evaluation.predicted]
        sizes = data.tokens.bytes_of_tokens(data.tokens.load_tokenizer(prepared.preprocess))
        trained_on: Any = prepared.batches
        trigram = Trigram(trained_on.tokens[:], prepared.objective.config.vocab_size)
        losses = trigram.losses(tokens[: evaluation.predicted.stop])
        theirs = bits_per_byte(float(losses.mean()), predicted, sizes)
        return "bits per byte", bits_per_byte(loss, predicted, sizes), {"trigram": theirs}
    if evaluation is None:
        return "loss", loss, {}
    objective: Any = prepared.objective
    beside = rule_losses(objective, evaluation, seed=seed, training_images=prepared.images)
    return "squared error of hidden patches", loss, beside


def _head(backbone: Backbone, dataset: Dataset, progress: Progress) -> float:
    """Test accuracy of a linear head on averaged states, trained to the end."""
    task = Classification(len(np.unique(np.asarray(dataset.targets))))
    options = {"poolers": ["avg"], "seeds": 1, "solver": "converged", "progress": progress}
    [row] = sweep(backbone, dataset, task, **options)
    return float(row["test"])


def _raw_head(dataset: Dataset, preprocess: Any, progress: Progress) -> float:
    """The same on raw inputs: pixels, steps, or how often each token stands in a text."""
    inputs = _rows(dataset, preprocess)
    task = Classification(len(np.unique(np.asarray(dataset.targets))))
    [row] = sweep_states(
        inputs[:, None],
        None,
        np.asarray(dataset.targets),
        task,
        splits=dataset.splits,
        poolers=["avg"],
        seeds=1,
        solver="converged",
        progress=progress,
    )
    return float(row["test"])


def _rows(dataset: Dataset, preprocess: Any) -> np.ndarray:
    """Raw inputs as rows of numbers."""
    raw: Any = dataset.inputs[: len(dataset.inputs)]
    if np.asarray(raw).dtype.kind in "OU":
        ids, mask = preprocess(list(raw))
        counts = np.zeros((len(ids), int(ids.max()) + 1), np.float32)
        np.add.at(counts, (np.nonzero(mask)[0], ids[mask]), 1)
        return counts
    if np.ndim(raw) == 4:
        return np.asarray(preprocess(raw), np.float32).reshape(len(raw), -1)
    values, observed = preprocess(np.asarray(raw))
    return np.where(observed, values, 0).astype(np.float32)

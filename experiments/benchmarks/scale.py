"""Time and memory of a sweep on token states on disk, against numbers of examples and of heads.

Each case is a process of its own: random images, a small ViT that was not trained, weighted average and
query attention with half of the heads each, one epoch. Growth is linear if what an example more costs
stays the same; compilation is in the seconds, and not in the differences.
"""

import dataclasses
import itertools
import multiprocessing
import tempfile
import threading
import time
from typing import Any

import numpy as np

COLUMNS = {
    "case": "{}",
    "features_seconds": "{:.1f}",
    "heads_seconds": "{:.1f}",
    "cpu_seconds": "{:.1f}",
    "anonymous_mebibytes": "{:.0f}",
    "cpu_microseconds_per_example_more": "{:.0f}",
    "cpu_milliseconds_per_head_more": "{:.0f}",
}
NUM_EXAMPLES = (20_000, 50_000, 100_000, 200_000)
NUM_HEADS = (10, 30, 100)
_CLASSES = 10
_WATCH_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Case:
    """One sweep.

    Attributes:
        num_examples: Images, of which eight tenths are trained on.
        num_heads: Heads, half of them of each pooler.
        batch_size: Examples a step.
        memory_budget: Of the sweep.
    """

    num_examples: int
    num_heads: int
    batch_size: int = 256
    memory_budget: int = 2**28


def measure_case(case: Case) -> dict[str, Any]:
    """Run a sweep, and measure it."""
    import jax
    import psutil

    from poolax.backbones import ImagePreprocess, ViT, ViTConfig
    from poolax.data import Dataset
    from poolax.records import environment
    from poolax.training import Classification, Limits, sweep

    rng = np.random.default_rng(0)
    count = case.num_examples
    images = rng.integers(0, 16, (count, 16, 16, 1), np.uint8)
    parts = np.split(np.arange(count), [count * 8 // 10, count * 9 // 10])
    splits = dict(zip(("train", "validation", "test"), parts, strict=True))
    data = Dataset("random", images, np.arange(count) % _CLASSES, splits, "a random generator", "none")
    config = ViTConfig(16, 4, 1, width=64, num_layers=1, num_heads=2, mlp_dim=64)
    vit = ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))
    process, peak, done = psutil.Process(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(_WATCH_SECONDS):
            memory = process.memory_info()
            peak = max(peak, memory.rss - memory.shared)  # shared: pages of files, which are no burden

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        records = sweep(
            vit,
            data,
            Classification(_CLASSES),
            poolers=["wavg", "map"],
            seeds=case.num_heads // 2,
            epochs=1,
            batch_size=case.batch_size,
            features="disk",
            out=folder,
            limits=Limits(memory_budget=case.memory_budget),
        )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    done.set()
    watcher.join()
    features = records[0]["features_wall_s"]
    return {
        "features_seconds": features,
        "heads_seconds": seconds - features,
        "cpu_seconds": cpu,
        "anonymous_mebibytes": peak / 2**20,
        **environment(),
    }


def run(*, most_examples: int | None = None) -> list[dict[str, object]]:
    """All cases, and what an example or a head more costs from one to the next.

    Args:
        most_examples: Largest case; ``None`` for all of them.
    """
    sizes = [n for n in NUM_EXAMPLES if most_examples is None or n <= most_examples]
    if not sizes:
        raise SystemExit(f"num_examples: expected at least {NUM_EXAMPLES[0]}, got {most_examples}")
    few = NUM_HEADS[0]
    cases = [Case(size, few) for size in sizes] + [Case(sizes[0], heads) for heads in NUM_HEADS[1:]]
    measured = {}
    for case in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured[case] = pool.apply(measure_case, (case,))
    records = {
        case: {
            "kind": "benchmark",
            "suite": "scale",
            "case": f"{case.num_examples} examples, {case.num_heads} heads",
            **dataclasses.asdict(case),
            **found,
        }
        for case, found in measured.items()
    }
    for by, name, scale in (
        ("num_examples", "cpu_microseconds_per_example_more", 1e6),
        ("num_heads", "cpu_milliseconds_per_head_more", 1e3),
    ):
        other = "num_heads" if by == "num_examples" else "num_examples"
        grown = [case for case in cases if getattr(case, other) == getattr(cases[0], other)]
        for one, more in itertools.pairwise(grown):
            cpu = measured[more]["cpu_seconds"] - measured[one]["cpu_seconds"]
            records[more][name] = scale * cpu / (getattr(more, by) - getattr(one, by))
    return list(records.values())

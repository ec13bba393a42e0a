"""What W-Avg learns: cosines of its vectors with others', and weights by position (Figures 3, 5).

    python experiments/weights.py --datasets banking77 stsb --data-dir DIR
    python experiments/weights.py --quick

Heads are trained by the paper's protocol; then all of one seed pool the same test examples. The paper
reports vectors near those of the average and weights near uniform on classification, and a peak at
the last token for next-token prediction. Records, tables and figure stand in --out; the same
command goes on from what is finished.

Duration (estimate, two CPU cores): half an hour for BANKING77 with MiniLM, most of it for
attention, and some minutes for the digits; --quick a minute.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("weights")

import dataclasses
import sys

import comparison
import jax
import numpy as np
import probing

from poolax.cli import check_count
from poolax.pooling import WeightedAveragePool
from poolax.records import Records, digest, environment
from poolax.reporting import plot_weights, weight_tables
from poolax.training import extract_states, head_directory, load_head

WAVG = "wavg"
# Inputs that are pooled at a time.
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Options(probing.Options):
    """Compare the vectors of W-Avg with those of other poolers.

    Attributes:
        num_inputs: Most test examples that are pooled.
    """

    out: str = "poolax-weights"
    solvers: comparison.Solvers = ("adam",)
    num_inputs: int = 512

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        check_count("num_inputs", self.num_inputs)
        if WAVG not in self.poolers or len(set(self.poolers)) < 2:
            raise ValueError(f"poolers: expected {WAVG} and others, got {', '.join(self.poolers)}")
        if self.solvers != ("adam",):
            raise ValueError(f"solvers: expected adam alone, got {', '.join(self.solvers)}")


def measure(options, out, progress, limits):
    """Cosines and weights of the heads of each seed."""
    rows = []
    for setup in probing.setups(options, out, progress):
        records = probing.trained(setup, options, out, progress, limits)
        chosen = setup.data.splits["test"][: options.num_inputs]
        tokens = extract_states(
            setup.backbone, setup.data.inputs, setup.data.mask, indices=chosen, progress=progress
        )
        for seed in sorted({row["seed"] for row in records}):
            rows += compare(records.where(seed=seed, diverged=False), tokens, out)
    return Records(rows)


def compare(records, tokens, out):
    """How alike the vectors of heads of one seed are, and the weights by position.

    Args:
        records: Records of these heads.
        tokens: Token states of test examples.
        out: Folder of the sweep.
    """
    heads = {row["pooler"]: load_head(head_directory(out, row)) for row in records}
    if WAVG not in heads:
        return []
    [about] = records.where(pooler=WAVG)
    shared = {name: about[name] for name in ("model", "dataset", "task", "seed")} | {"pooler": WAVG}
    own = pooled(heads[WAVG], tokens)
    rows = []
    for other, head in heads.items():
        if other == WAVG:
            continue
        found = cosines(own, pooled(head, tokens))
        low, high = np.quantile(found, [0.05, 0.95])
        measured = {"mean": float(np.mean(found)), "low": float(low), "high": float(high)}
        known = {"kind": "agreement", "id": digest([about["id"], other]), "other": other}
        rows.append(known | shared | measured | {"num_inputs": len(found)} | environment())
    pooler = heads[WAVG].pooler
    if not isinstance(pooler, WeightedAveragePool):
        raise ValueError(f"poolers: expected a weighted average by position, got {pooler}")
    learned = heads[WAVG].variables["params"]["pooler"]["weights"]
    weights = np.asarray(jax.nn.softmax(learned) if pooler.normalize == "softmax" else learned)
    reached = real(tokens).mean(0)
    known = {"kind": "position_weights", "id": digest([about["id"]])}
    values = {"weights": weights.tolist(), "reached": reached.tolist()}
    return [*rows, known | shared | values | environment()]


def pooled(head, tokens):
    """Vectors of a head, one row for each sequence."""
    states, mask = tokens.states.reshape(-1, *tokens.states.shape[-2:]), real(tokens)
    pool = jax.jit(head.pool)
    parts = [slice(start, start + BATCH) for start in range(0, len(states), BATCH)]
    return np.concatenate([np.asarray(pool(states[part], mask[part])) for part in parts])


def real(tokens):
    """True at real tokens, one row for each sequence."""
    shape = tokens.states.shape[:-1]
    mask = np.ones(shape, bool) if tokens.mask is None else np.broadcast_to(tokens.mask, shape)
    return mask.reshape(-1, shape[-1])


def cosines(one, other):
    """Cosine of each row with that of the other."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.sum(one * other, axis=-1) / np.maximum(norms, np.finfo(np.float32).tiny)


SCRIPT = probing.Script(
    name="weights",
    title="What W-Avg learns",
    options=Options(),
    measure=measure,
    tables=weight_tables,
    figures={"weights": plot_weights},
)

if __name__ == "__main__":
    sys.exit(probing.main(SCRIPT))

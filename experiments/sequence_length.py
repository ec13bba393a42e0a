"""Scores by the number of tokens (Table 9), and heads across lengths: short texts, long ones.

    python experiments/sequence_length.py --datasets hellaswag --data-dir DIR
    python experiments/sequence_length.py --datasets banking77 stsb --solver converged --data-dir DIR
    python experiments/sequence_length.py --quick

Each text is cut to so many tokens, and heads are trained and tested on what is left. Then examples of
all lengths, cut to the most tokens, are split at the median: heads are trained on as many short as long
ones and tested on both. The paper reports HellaSwag with Mistral-7B at 16 to 128 tokens after a fixed
number of epochs: all poolers gain up to 64 tokens, and W-Avg is best at each.
Records, tables and figure stand in --out; the same command goes on from what is finished.

Duration (estimate, two CPU cores): hours with MiniLM, most of them for attention, below an hour with
--limit 300 --seeds 3; --quick some minutes.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("sequence_length")

import dataclasses
import sys

import comparison
import numpy as np
import probing

from poolax.cli import check_count
from poolax.records import Predictions, Records, digest, packed
from poolax.reporting import length_tables, plot_lengths
from poolax.statistics import measure as measured

LENGTHS = (16, 32, 64, 128)
GROUPS = ("short", "long")


@dataclasses.dataclass(frozen=True)
class Options(probing.Options):
    """Compare poolers by the number of tokens.

    Attributes:
        lengths: Tokens that texts are cut to; across lengths, the most of them.
        across: Train on short and on long texts as well.
    """

    out: str = "poolax-sequence-length"
    datasets: tuple[str, ...] = ("topics",)
    lengths: tuple[int, ...] = LENGTHS
    across: bool = True

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        if not self.lengths:
            raise ValueError("lengths: expected at least one, got none")
        for number in self.lengths:
            check_count("lengths", number)
        if self.max_tokens is not None:
            raise ValueError(f"max_tokens: expected lengths instead, got {self.max_tokens}")
        if len(self.learning_rates) > 1:
            raise ValueError(f"learning_rates: expected one, got {len(self.learning_rates)}")
        for name in self.datasets:
            if not probing.reads_texts(name):
                raise ValueError(f"datasets: expected texts, got {name}")


def measure(options, out, progress, limits):
    """Scores of heads on texts of each length, and across lengths."""
    lengths = sorted(set(options.lengths))
    most = lengths[-1]
    rows = []
    for setup in probing.setups(dataclasses.replace(options, max_tokens=most), out, progress):
        counts = token_counts(setup.backbone, setup.data)
        # Before anything is trained: both groups have to have examples.
        groups = by_length(setup.data, counts) if options.across else None
        for max_tokens in (lengths[0], most) if options.quick else lengths:
            for head in heads(options, setup, setup.data, max_tokens, out, limits, progress):
                rows.append(scored(head, setup, counts, max_tokens))
        if groups is not None:
            rows += across(options, setup, counts, groups, most, out, limits, progress)
    return Records(rows)


def by_length(data, counts):
    """The tokens that short texts have at most, and the data with either alone to train on.

    They are the median of all splits, or the nearest number at which each split has both: there are
    data whose training texts are mostly shorter than the others, and texts that are cut end alike.
    """
    totals = counts.sum(axis=1)
    parts = [totals[np.asarray(indices)] for indices in data.splits.values()]
    least, most = max(part.min() for part in parts), min(part.max() for part in parts) - 1
    if least > most:
        raise ValueError(
            f"lengths: expected one at which each split of {data.name} has shorter and longer texts, "
            f"got texts of {least} tokens or more in one and of {most + 1} at most in one; --no-across "
            "leaves out heads of short and of long texts"
        )
    threshold = int(np.clip(np.median(np.concatenate(parts)), least, most))
    return threshold, {group: only(data, totals, threshold, group) for group in GROUPS}


def across(options, setup, counts, groups, max_tokens, out, limits, progress):
    """Heads that are trained on short and on long texts, each tested on both."""
    totals = counts.sum(axis=1)
    threshold, by_group = groups
    rows = []
    for group, data in by_group.items():
        for head in heads(options, setup, data, max_tokens, out, limits, progress):
            for tested_on in GROUPS:
                about = {"trained_on": group, "tested_on": tested_on, "threshold": threshold}
                is_tested = is_in(totals[data.splits["test"]], threshold, tested_on)
                rows.append(scored(head, setup, counts, max_tokens, is_tested, about))
    return rows


def heads(options, setup, data, max_tokens, out, limits, progress):
    """Heads by each solver on texts that are cut."""
    for solver in dict.fromkeys(options.solvers):
        how = options.solving(solver) | {"max_tokens": max_tokens}
        own = setup._replace(data=data)
        yield from probing.chosen(probing.trained(own, options, out, progress, limits, **how))


def token_counts(backbone, data):
    """Real tokens of each text of each example of a split, as they are cut at most: ``(N, parts)``."""
    used = np.concatenate([np.asarray(indices) for indices in data.splits.values()])
    texts = np.asarray(data.inputs[used])
    _, mask = backbone.prepare(texts.ravel().tolist())
    found = np.asarray(mask).sum(axis=-1).reshape(len(texts), -1)
    counts = np.zeros((len(data.inputs), found.shape[1]), found.dtype)
    counts[used] = found
    return counts


def is_in(totals, threshold, group):
    """Whether examples are in a group."""
    return totals <= threshold if group == "short" else totals > threshold


def only(data, totals, threshold, group, seed=0):
    """The data with training and validation examples of one group, of both groups equally many."""
    rng = np.random.default_rng(seed)
    splits = {"test": data.splits["test"]}
    for split in ("train", "validation"):
        indices = np.asarray(data.splits[split])
        parts = [indices[is_in(totals[indices], threshold, name)] for name in GROUPS]
        fewest = min(map(len, parts))
        own = parts[GROUPS.index(group)]
        splits[split] = np.sort(rng.permutation(own)[:fewest])
    note = f"{group} texts alone: {threshold} tokens is the median"
    return dataclasses.replace(data, splits=splits, notes=(*data.notes, note))


def scored(head, setup, counts, max_tokens, is_tested=None, about=None):
    """The record of a head's score.

    Args:
        head: Its record.
        setup: What it was trained on.
        counts: Tokens of each text of each example, as they are cut at most.
        max_tokens: Tokens that texts are cut to.
        is_tested: Which test examples count; ``None`` for all.
        about: What is different from texts of all lengths.
    """
    about = {"trained_on": "all", "tested_on": "all", **(about or {})}
    tested = np.asarray(setup.data.splits["test"])
    score = None if head["diverged"] else head["test"]
    if is_tested is not None:
        tested = tested[is_tested]
        score = None if head["diverged"] else score_of(head, is_tested)
    names = ("dataset", "task", "metric", "higher_is_better", "pooler", "seed")
    solver = head.get("solver")
    lengths = np.minimum(counts[tested], max_tokens)
    made = ("command", "versions", "devices", "git", "wall_s")
    # Scores of single examples, of which differences are tested.
    has_examples = is_tested is None and not head["diverged"]
    kept = {"examples": packed(comparison.examples_of(head))} if has_examples else {}
    return {
        "kind": "length_score",
        "id": digest([head["id"], max_tokens, *about.values()]),
        "head": head["id"],
        "model": setup.model,
        "pretrained": setup.pretrained,
        **{name: head[name] for name in names},
        "solver": "adam" if solver is None else solver["name"],
        **about,
        "max_tokens": max_tokens,
        "score": score,
        "num_examples": {"train": head["num_examples"]["train"], "test": len(tested)},
        "lengths": {
            "mean": float(np.mean(lengths)),
            "median": float(np.median(lengths)),
            "longest": float(np.max(lengths)),
            "filled": float(np.mean(lengths >= max_tokens)),
        },
        **kept,
        **{name: head[name] for name in made if name in head},
    }


def score_of(head, is_tested):
    """A head's metric over some of its test examples; ``None`` where it is not defined."""
    [found] = Records([head]).predictions()
    kept = {name: array[is_tested] for name, array in found.kept.items()}
    return measured(Predictions(kept), [head["metric"]]).values.get(head["metric"])


SCRIPT = probing.Script(
    name="sequence_length",
    title="Scores by the number of tokens",
    options=Options(),
    measure=measure,
    tables=length_tables,
    figures={"lengths": plot_lengths},
)

if __name__ == "__main__":
    sys.exit(probing.main(SCRIPT))

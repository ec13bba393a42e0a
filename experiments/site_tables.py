"""Tables of pages of the site, made from the records in results/; summary.py writes them there."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import bounds_records
import literature_table

from poolax import bounds, pooling
from poolax.records import Records
from poolax.reporting import Cell, Table, number_text, regularized_table, score_table

Row = Mapping[str, Any]

#: Weights whose constants stand in the table: of this norm, on the unit ball, in these sizes.
SIZES = {"num_tokens": 16, "dim": 16, "num_heads": 4, "norm": 1.0}
_ATTENTION = {
    "dot": ("dot product", "bounds.dot_product_attention"),
    "l2": ("L2", "bounds.l2_attention"),
    "cosine": ("cosine", "bounds.cosine_attention"),
}
_SETTINGS = {"attention": "whole sequence", "token": "one token"}
_OF_CONSTANTS = (
    "Constants for all weights whose matrices have norm {norm:g}, on the unit ball, at {num_tokens} "
    "tokens of width {dim} and {num_heads} heads, cosine attention with tau 1, nu 1 and eps 0.01; "
    "published: at the weights that the search found. found: the largest Jacobian norm that a search "
    "over weights and inputs found, so that no constant can be smaller. tight / found: the smallest "
    "and largest ratio over all recorded sizes and norms. local / found: the same of the bound at the"
    " input that a search found, at random weights."
)
_OF_BACKBONES = (
    "bounds.ledger (sharp, tight) and bounds.local_ledger (local) from embeddings to pooled vectors, "
    "beside empirical.power_iteration (measured); medians over sentences. A product over all layers "
    "says nothing about real inputs; the bound at an input is nearer, and still far off."
)
_OF_FACTORS = (
    "bounds.pooling_factor at {num_tokens} tokens of width {dim}, for a change measured over all "
    "tokens, by its operator norm (as the paper has it for max), and by the largest change of a "
    "token."
)
_ALT_TOKENS = (
    "Lipschitz bounds of one block with average pooling against the number of tokens, a panel for each "
    "kind of attention: published, sharp and tight ones, the bound at an input, and what a search finds"
)
_ABOUT_TOKENS = (
    "Bounds of one block with average pooling against the number of tokens, weights as they are "
    "initialised ([records](../results/bounds/bounds.md)). Published and sharp constants level off or "
    "grow with it; the tight one falls in the end.\n"
)
_ALT_REGULARIZE = (
    "Share of handwritten digits that are certified, and that an attack leaves, against the radius: a "
    "panel for each kind of attention, a colour for each way of training"
)
_ABOUT_REGULARIZE = """## A bound that trains

What pooling decides beside a score is how far a small change of the input can move the vector, and that
has a proof: a Lipschitz bound. In the loss it makes a model as steep as its task needs and no steeper.
On handwritten digits:

![{alt}](figures/regularize.svg)

[How to do that](how_to/regularise.md), and [what is certified](how_to/certificates.md).
"""


def home(results: pathlib.Path) -> str:
    """Accuracy of all poolers on texts and images, by the paper's protocol, and what a bound does."""
    rows = []
    # Of series "last" is the last patch, of these the first token; one table can say one of both.
    for name in ("language", "vision"):
        records = Records.read(results / f"{name}.jsonl").where(kind="head", metric="accuracy")
        rows += [_of_home(row) for row in records if not row.get("solver")]
    scores = score_table(rows, title="The best pooling depends on the task")
    return f"{scores.markdown()}\n{_ABOUT_REGULARIZE.format(alt=_ALT_REGULARIZE)}"


def certified_training(results: pathlib.Path) -> str:
    """What training for certificates does, in numbers and drawn."""
    table = regularized_table(Records.read(results / "regularize" / "regularize.jsonl"))
    return f"{table.markdown()}\n![{_ALT_REGULARIZE}](../figures/regularize.svg)\n"


def _of_home(row):
    # One study has it, for the others a column would be empty.
    return {name: value for name, value in row.items() if name != "best_constant"}


def theory(results: pathlib.Path) -> str:
    """What is bounded, by which function, and how tight that is."""
    records = bounds_records.read(results / "bounds" / "bounds.jsonl")
    tables = [
        bounds_overview(records),
        literature_table.literature(records),
        backbone_overview(records),
        factors(),
    ]
    return _as_page(tables) + f"\n![{_ALT_TOKENS}](../figures/bounds-by-tokens.svg)\n\n{_ABOUT_TOKENS}"


def bounds_overview(records: Sequence[Row]) -> Table:
    """Constants of the literature beside ours, for attention and one-block models.

    Args:
        records: Those of bounds.py.

    Returns:
        The table.
    """
    searched = [row for row in records if row["kind"] == "bounds_weights"]
    at_inputs = [row for row in records if row["kind"] == "bounds_inputs"]
    rows, tidy = [], []
    for row in searched:
        if {name: row[name] for name in SIZES} != SIZES:
            continue
        alike = [other for other in searched if _setting(other) == _setting(row)]
        near = [other for other in at_inputs if _setting(other) == _setting(row)]
        ratios = _ends(one["tight_of_norms"] / one["found"] for one in alike)
        local = _ends(one["local"] / one["found"] for one in near if one["local"] is not None)
        numbers = [row[name] for name in ("published", "sharp_of_norms", "tight_of_norms", "found")]
        rows.append([*_words(row), *map(number_text, numbers), ratios, local])
        tidy.append({name: row[name] for name in ("attention", "target", "published", "found")})
    return _table(
        "What is bounded, and how tightly",
        [
            "setting",
            "function",
            "published",
            "sharp",
            "tight",
            "found",
            "tight / found",
            "local / found",
        ],
        rows,
        [_OF_CONSTANTS.format(**SIZES), "A dash: nothing is published."],
        tidy,
    )


def backbone_overview(records: Sequence[Row]) -> Table:
    """Constants of a whole backbone with each pooler."""
    rows, tidy = [], []
    for row in records:
        if row["kind"] != "bounds_backbone":
            continue
        local, measured = (_median(row[name]) for name in ("log10_local", "measured"))
        logs = [row["log10_published"], row["log10_sharp"], row["log10_tight"], local]
        texts = [number_text(None, log10) for log10 in logs]
        rows.append([row["backbone"], row["pooler"], *texts, number_text(measured)])
        tidy.append({"backbone": row["backbone"], "pooler": row["pooler"], "measured": measured})
    return _table(
        "A whole backbone",
        ["backbone", "pooler", "published", "sharp", "tight", "local", "measured"],
        rows,
        [_OF_BACKBONES],
        tidy,
    )


def factors() -> Table:
    """Factors of poolers: by how much a change of all tokens together may grow."""
    sizes = {"num_tokens": SIZES["num_tokens"], "dim": SIZES["dim"]}
    rows, tidy = [], []
    for name in sorted(pooling.FIXED_POOLERS):
        ours = float(bounds.pooling_factor(name, **sizes))
        other = float(bounds.pooling_factor(name, **sizes, norm="operator"))
        tokens = float(bounds.pooling_factor(name, **sizes, norm="tokens"))
        rows.append([name, *map(number_text, (ours, other, tokens))])
        tidy.append({"pooler": name, "frobenius": ours, "operator": other, "tokens": tokens})
    return _table(
        "Factors of poolers",
        ["pooler", "all tokens together", "operator norm", "each token"],
        rows,
        [_OF_FACTORS.format(**SIZES)],
        tidy,
    )


#: Pages below poolax/docs/ that hold a section made of records, and what makes it.
PAGES: dict[str, Callable[[pathlib.Path], str]] = {
    "index.md": home,
    "theory/index.md": theory,
    "how_to/regularise.md": certified_training,
}


def _setting(row):
    return row["attention"], row["target"]


def _words(row):
    target, (kind, function) = row["target"], _ATTENTION[row["attention"]]
    if target in _SETTINGS:
        return f"{kind} attention, {_SETTINGS[target]}", function
    return f"one block, {kind} attention, pooled by {target}", "bounds.tbm"


def _ends(ratios: Iterable[float]) -> str:
    known = list(ratios)
    return f"{number_text(min(known))} – {number_text(max(known))}" if known else "–"


def _median(values):
    return sorted(values)[len(values) // 2]


def _table(title, columns, rows, notes, tidy):
    cells = [[Cell(entry) for entry in row] for row in rows]
    return Table(title=title, columns=columns, rows=cells, notes=notes, tidy=tidy)


def _as_page(tables):
    return "\n".join(table.markdown() for table in tables)

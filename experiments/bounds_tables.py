"""Tables of bounds.py, made from its records alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting import Cell, Table
from poolax.reporting import number_text as text
from poolax.training import Records

Row = Mapping[str, Any]


def tables(records: Records) -> dict[str, Table]:
    """All tables for which there are records."""
    makers: dict[str, tuple[str, Callable[[Sequence[Row]], Table]]] = {
        "inputs_summary": ("bounds_inputs", _inputs_summary),
        "weights_summary": ("bounds_weights", _weights_summary),
        "lengths": ("bounds_lengths", _lengths),
        "geometry": ("bounds_geometry", _geometry),
        "layers": ("bounds_layer", _layers),
        "backbone": ("bounds_backbone", _backbone),
        "inputs": ("bounds_inputs", _inputs),
        "weights": ("bounds_weights", _weights),
    }
    found = {name: (maker, records.where(kind=kind)) for name, (kind, maker) in makers.items()}
    return {name: maker(rows) for name, (maker, rows) in found.items() if len(rows)}


def _ratio(row, above, below):
    return None if row[above] is None or row[below] is None else row[above] / row[below]


def _case(row):
    sizes = f"{row['num_tokens']}, {row['dim']}, {row['num_heads']}"
    return [row["attention"], row["target"], sizes]


def _table(title, columns, rows, notes, tidy):
    cells = [[Cell(entry) for entry in row] for row in rows]
    return Table(title=title, columns=columns, rows=cells, notes=notes, tidy=tidy)


def _summary(title, records, ratios, notes):
    """Smallest and largest ratios by attention, target and number of heads, over all else."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in records:
        groups.setdefault((row["attention"], row["target"], row["num_heads"]), []).append(row)
    rows, tidy = [], []
    for (attention, target, num_heads), members in groups.items():
        cells, fields = [], {"attention": attention, "target": target, "num_heads": num_heads}
        for name, (above, below) in ratios.items():
            found = [_ratio(row, above, below) for row in members]
            known = [ratio for ratio in found if ratio is not None]
            if not known:
                cells.append("–")
                continue
            ends = {"min": min(known), "median": float(np.median(known)), "max": max(known)}
            cells.append(f"{text(ends['min'])} – {text(ends['max'])}")
            fields |= {f"{name.replace(' / ', '_over_')}_{end}": ends[end] for end in ends}
        rows.append([attention, target, str(num_heads), str(len(members)), *cells])
        tidy.append(fields)
    return _table(title, ["attention", "target", "H", "cases", *ratios], rows, notes, tidy)


def _inputs_summary(records):
    return _summary(
        "Random weights on the unit ball: how far bounds are above what a search over inputs finds",
        records,
        {
            "published / found": ("published", "found"),
            "sharp / found": ("sharp", "found"),
            "tight / found": ("tight", "found"),
            "local / found": ("local", "found"),
        },
        ["Smallest and largest ratio over numbers of tokens, widths and scales of the weights."],
    )


def _weights_summary(records):
    return _summary(
        "Weights of given norms on the unit ball: how far bounds are above what a search finds",
        records,
        {
            "sharp / found": ("sharp_of_norms", "found"),
            "tight / found": ("tight_of_norms", "found"),
            "at these weights": ("tight", "found"),
        },
        [
            "Smallest and largest ratio over numbers of tokens, widths and norms. The search is over "
            "inputs and weights with these norms; at these weights: their own tight bound over it."
        ],
    )


def _inputs(records):
    names = ("published", "sharp", "tight", "local", "found")
    rows, tidy = [], []
    for row in records:
        ratios = {
            "tight_over_found": _ratio(row, "tight", "found"),
            "local_over_found": _ratio(row, "local", "found"),
        }
        numbers = [row[name] for name in names] + list(ratios.values())
        rows.append([*_case(row), f"{row['scale']:g}", *map(text, numbers)])
        fields = ("attention", "target", "num_tokens", "dim", "num_heads", "scale", *names)
        tidy.append({name: row[name] for name in fields} | ratios)
    return _table(
        "Random weights on the unit ball: bounds and the largest Jacobian norm found",
        ["attention", "target", "n, d, H", "scale", *names, "tight / found", "local / found"],
        rows,
        [
            "found: exact Jacobian norm at the worst input of a search; local: bound at that input. "
            "scale: factor of freshly initialised weights. target: the whole attention layer, one of "
            "its output tokens, or a one-block model with that pooler."
        ],
        tidy,
    )


def _lengths(records):
    names = ("published", "sharp", "tight")
    first = records[0]
    return _table(
        "Bounds against the number of tokens: one block with average pooling, random weights",
        ["attention", "n", *names],
        [
            [row["attention"], str(row["num_tokens"]), *(text(row[name]) for name in names)]
            for row in records
        ],
        [f"Width {first['dim']}, {first['num_heads']} heads, on the unit ball."],
        [{name: row[name] for name in ("attention", "num_tokens", *names)} for row in records],
    )


def _geometry(records):
    names = ("sharp", "tight", "local", "found")
    first = records[0]
    rows, tidy = [], []
    for row in records:
        whose = "each token" if row["geometry"] == "tokens" else "all together"
        ratio = _ratio(row, "tight", "found")
        numbers = map(text, (*(row[name] for name in names), ratio))
        rows.append([row["attention"], row["target"], whose, *numbers])
        fields = ("attention", "target", "geometry", *names)
        tidy.append({name: row[name] for name in fields} | {"tight_over_found": ratio})
    return _table(
        "Where all tokens share a budget of change, and where each has its own",
        ["attention", "pooler", "budget", *names, "tight / found"],
        rows,
        [
            f"One block with {first['num_tokens']} tokens of width {first['dim']} and "
            f"{first['num_heads']} heads, random weights, on the unit ball. found: the largest norm of "
            "a Jacobian that a search finds, of all tokens together exact; local: bound at that input."
        ],
        tidy,
    )


def _weights(records):
    names = ("published", "sharp", "tight", "local", "found")
    rows, tidy = [], []
    for row in records:
        ratios = {
            "tight_of_norms_over_found": row["tight_of_norms"] / row["found"],
            "tight_over_found": row["tight"] / row["found"],
        }
        given = [row["sharp_of_norms"], row["tight_of_norms"], row["found"], *ratios.values()]
        rows.append([*_case(row), f"{row['norm']:g}", *map(text, given)])
        fields = ("attention", "target", "num_tokens", "dim", "num_heads", "norm", *names)
        fields += ("sharp_of_norms", "tight_of_norms")
        tidy.append({name: row[name] for name in fields} | ratios)
    columns = ["attention", "target", "n, d, H", "norm", "sharp", "tight", "found"]
    return _table(
        "Weights of given norms on the unit ball: bounds for all of them, and the largest norm found",
        [*columns, "tight / found", "at these weights"],
        rows,
        [
            "norm: spectral norm of W_Q, W_K, W_V of each head, of W_O and of W_FFN. sharp, tight: the "
            "largest of these bounds over all weights with these norms. found: exact Jacobian norm at "
            "the worst weights and input of a search; at these weights: their own tight bound over it."
        ],
        tidy,
    )


def _layers(records):
    names = ("measured", "local", "found", "tight", "sharp", "published_without_biases")
    ratios = ("local_over_measured", "sharp_over_local", "tight_over_found", "sharp_over_found")
    ratios += ("smallest_sharp_over_local",)
    rows = [
        [str(row["layer"]), *(text(row["medians"][name]) for name in names)]
        + [text(row[name]) for name in ratios]
        for row in records
    ]
    first = records[0]
    return _table(
        f"Attention layers of {first['backbone']} at sentences",
        [
            *("layer", "measured", "local", "found", "tight", "sharp", "published*"),
            *("local / measured", "sharp / local", "tight / found", "sharp / found"),
            "smallest sharp / local",
        ],
        rows,
        [
            f"Medians over {first['num_sentences']} sentences ({first['inputs']}), ratios sentence by "
            "sentence. measured: Jacobian norm by Lanczos iteration; tight and sharp on the smallest "
            "domain that holds the sentence's tokens; found: the largest Jacobian norm that a search "
            f"on the domains of {first['searched']} of them finds. *Nothing is published for layers "
            "with biases: this is the published constant of the same layer without them."
        ],
        [
            {"layer": row["layer"]}
            | {name: row["medians"][name] for name in names}
            | {name: row[name] for name in ratios}
            for row in records
        ],
    )


def _backbone(records):
    rows, tidy = [], []
    for row in records:
        measured = float(np.median(row["measured"]))
        local = float(np.median(row["log10_local"]))
        gap = float(np.median(np.asarray(row["log10_local"]) - np.log10(row["measured"])))
        logs = {
            "log10_local": local,
            "log10_tight": row["log10_tight"],
            "log10_sharp": row["log10_sharp"],
        }
        rows.append(
            [
                row["pooler"],
                text(measured),
                *(text(None, log) for log in logs.values()),
                text(None, gap),
            ]
        )
        tidy.append(
            {"pooler": row["pooler"], "measured": measured, **logs, "log10_local_over_measured": gap}
        )
    first = records[0]
    return _table(
        f"{first['backbone']} from embeddings to pooled vectors",
        ["pooler", "measured", "local", "tight", "sharp", "local / measured"],
        rows,
        [
            f"Medians over {first['num_sentences']} sentences ({first['inputs']}); tight and sharp: "
            "products over the layers, on the smallest domain that holds all embeddings, times the "
            "pooler's factor."
        ],
        tidy,
    )

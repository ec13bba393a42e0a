"""Figures from records."""

import io
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from etils import epath

from poolax._paths import write_atomically
from poolax._text import one_line
from poolax.reporting._constants import constants_of
from poolax.reporting._places import comparisons_of
from poolax.reporting._scores import summaries_of

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Errors further apart than by this factor, such as those of a baseline, need a logarithmic axis.
_WIDE = 20


def plot_scores(records: Iterable[Mapping[str, Any]], path: epath.PathLike) -> None:
    """Scores of all poolers, a panel each task: all ways of training, and constant predictions.

    Bars are the 95 % interval of the mean over test examples and seeds; where records do not hold what
    that takes, the standard deviation over seeds. What validation chose has a ring. The baseline is the
    training split's best constant prediction; where records hold it, the test split's own stands beside
    it.

    Args:
        records: Head records.
        path: PNG to write.
    """
    panels = []
    for comparison in comparisons_of(records):
        found = {
            protocol: [entry for entry in summaries_of(place) if entry["mean"] is not None]
            for protocol, place in comparison.protocols.items()
        }
        found = {protocol: entries for protocol, entries in found.items() if entries}
        panels += [(comparison.name, found)] if found else []
    if not panels:
        raise ValueError("records: expected at least one head that did not diverge, got none")
    figure, all_axes = new_figure(6.4, 3.4 * len(panels), rows=len(panels))
    for axes, (name, protocols) in zip(all_axes, panels, strict=True):
        _plot_panel(axes, name, protocols)
    # One legend for all panels, with everything that is in any of them.
    known = {
        label: handle
        for axes in all_axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    save_figure(figure, path)


def _plot_panel(axes, name, protocols):
    """Scores on one task, by every way of training."""
    entries = [entry for found in protocols.values() for entry in found]
    poolers = list(dict.fromkeys(entry["pooler"] for entry in entries))
    for index, (protocol, found) in enumerate(protocols.items()):
        _plot_protocol(axes, index, protocol, found, poolers, len(protocols))
    constants = {name: entries[0][name] for name in ("baseline", "best_constant")}
    constants = {name: value for name, value in constants.items() if value is not None}
    levels = [*constants.values(), *(entry["mean"] for entry in entries)]
    is_error = not entries[0]["higher_is_better"]
    if is_error and min(levels) > 0 and max(levels) > _WIDE * min(levels):
        axes.set_yscale("log")
    for constant, value in constants.items():
        is_left = constant == "baseline"
        axes.axhline(value, color="#777777", linestyle=":" if is_left else "--", linewidth=1)
        place, side = (-0.4, "left") if is_left else (len(poolers) - 0.6, "right")
        label = constant.replace("_", " ")
        axes.text(place, value, label, color="#555555", fontsize=8, va="bottom", ha=side)
    # A dollar in a label is a dollar.
    axes.set_xticks(range(len(poolers)), map(one_line, poolers), parse_math=False)
    axes.set_xlim(-0.5, len(poolers) - 0.5)
    axes.set_ylabel(one_line(f"test {entries[0]['metric']}"), parse_math=False)
    axes.set_title(one_line(name), fontsize=10, parse_math=False)


def _plot_protocol(axes, index, protocol, entries, poolers, num_protocols):
    """Scores of heads that were trained in one way, beside those of the other ways."""
    # The ring in the legend is that of the last.
    colour = COLOURS[index % len(COLOURS)]
    shift = 0.24 * (index - (num_protocols - 1) / 2)
    places = [poolers.index(entry["pooler"]) + shift for entry in entries]
    means = [entry["mean"] for entry in entries]
    bars = [_bar(entry) for entry in entries]
    axes.errorbar(
        places,
        means,
        yerr=list(zip(*bars, strict=True)),
        fmt=MARKERS[index % len(MARKERS)],
        color=colour,
        markersize=6,
        capsize=3,
        label=legend_label(protocol),
    )
    chosen = [k for k, entry in enumerate(entries) if entry["chosen"]]
    axes.scatter(
        [places[k] for k in chosen],
        [means[k] for k in chosen],
        s=150,
        facecolors="none",
        edgecolors=colour,
        linewidths=1.2,
        label="chosen by validation",
    )


def _bar(entry):
    """How far a bar reaches below and above a mean."""
    if entry["test_low"] is None:
        return (entry["std"] or 0.0,) * 2
    return entry["mean"] - entry["test_low"], entry["test_high"] - entry["mean"]


def plot_noise_curves(records: Iterable[Mapping[str, Any]], path: epath.PathLike) -> None:
    """Mean distance of pooled vectors against the size of noise on the input, a line each pooler.

    Args:
        records: Records of kind ``"noise_curve"``.
        path: PNG to write.
    """
    figure, (axes,) = new_figure(6.0, 4.0)
    draw_noise_curves(axes, records)
    axes.set_xlabel("root mean square norm of the noise, ε")
    axes.set_ylabel("mean distance of pooled vectors")
    save_figure(figure, path)


def draw_noise_curves(axes: Any, records: Iterable[Mapping[str, Any]]) -> None:
    """A line for each pooler with the band of its interval."""
    for index, row in enumerate(records):
        colour = COLOURS[index % len(COLOURS)]
        shown = [k for k, epsilon in enumerate(row["epsilon"]) if epsilon > 0]
        epsilon, mean, low, high = (
            [row[name][k] for k in shown] for name in ("epsilon", "mean", "low", "high")
        )
        axes.plot(
            epsilon,
            mean,
            marker=MARKERS[index % len(MARKERS)],
            color=colour,
            markersize=5,
            label=legend_label(row["pooler"]),
        )
        axes.fill_between(epsilon, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8)


def plot_sensitivity(records: Iterable[Mapping[str, Any]], path: epath.PathLike) -> None:
    """Measured Lipschitz constants and their bounds, a panel for each kind of attention.

    Args:
        records: Records of kind ``"lipschitz"`` or ``"lipschitz_at_inputs"``.
        path: PNG to write.
    """
    found = constants_of(records)
    kinds = list(dict.fromkeys(row["attention"] for row in found))
    figure, panels = new_figure(2.9 * len(kinds) + 0.8, 3.8, columns=len(kinds))
    series = {
        "measured_real": ("at real inputs", "o", COLOURS[0]),
        "measured_adversarial": ("adversarial", "^", COLOURS[4]),
        "tight": ("tight bound", "_", COLOURS[1]),
        "sharp": ("sharp bound", "_", COLOURS[2]),
        "published": ("published bound", "_", COLOURS[6]),
    }
    series = {
        name: look for name, look in series.items() if any(row[name] is not None for row in found)
    }
    for axes, kind in zip(panels, kinds, strict=True):
        rows = [row for row in found if row["attention"] == kind]
        for name, (label, marker, colour) in series.items():
            points = [(k, row[name]) for k, row in enumerate(rows) if row[name] is not None]
            bound = marker == "_"
            axes.scatter(
                *(zip(*points, strict=True) if points else ([], [])),
                marker=marker,
                color=colour,
                s=220 if bound else 28,
                linewidths=2.5 if bound else 0.8,
                label=label,
                zorder=2 if bound else 3,
            )
        axes.set_yscale("log")
        labels = [one_line(row["pooler"]) for row in rows]
        axes.set_xticks(range(len(rows)), labels, parse_math=False)
        axes.set_title(one_line(kind), fontsize=10, parse_math=False)
    panels[0].set_ylabel("Lipschitz constant")
    _, labels = panels[0].get_legend_handles_labels()
    handles = [
        panels[0].scatter([], [], marker=marker, color=colour, s=40)
        for _, marker, colour in series.values()
    ]
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    save_figure(figure, path)


def legend_label(name):
    """A name in a legend, which would leave out one that begins with an underscore."""
    return f"\N{ZERO WIDTH SPACE}{one_line(name)}".replace("$", r"\$")


def new_figure(width, height, *, rows=1, columns=1, share: Literal["none", "row", "col"] = "row"):
    """A figure and its panels, which share their vertical axes by ``share`` as Matplotlib has it."""
    # The object interface: no global figure, and no window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share).ravel()
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, axes


def save_figure(figure, path):
    """Write a figure as PNG, whole or not at all."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_atomically(path, image.getvalue())

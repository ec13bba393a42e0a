"""Scores of poolers as a figure, and how far each is from the one that validation chose."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from poolax._text import one_line
from poolax.reporting._canvas import (
    INK,
    PathOrPaths,
    legend_below,
    legend_label,
    new_figure,
    save_figure,
    styled,
)
from poolax.reporting._looks import looks_of
from poolax.reporting._marks import axis_label, score, shown
from poolax.reporting._places import Comparison, comparisons_of
from poolax.reporting._ranges import Range, range_of
from poolax.reporting._scores import summaries_of

# Ways of training by how a marker is filled.
_FILLS = ("full", "none", "left", "bottom", "right", "top")
_LEGEND = "#7F7F7F"
_CONSTANTS = {"baseline": ("baseline", ":"), "best_constant": ("best constant", "--")}


class Point(NamedTuple):
    """A pooler, trained in one way.

    Attributes:
        entry: Its summary.
        seeds: Test scores of single seeds.
    """

    entry: Mapping[str, Any]
    seeds: Sequence[float]


@styled
def plot_scores(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Scores of all poolers, a row of panels each task, all ways of training side by side.

    On the left mean test scores with their 95 % intervals over test examples and seeds, or the standard
    deviation over seeds where records do not hold what that takes, and a small point for each seed.
    What validation chose has a ring. The axis spans what poolers reach: one far behind the others
    stands at the edge beside its number, and so do constant predictions. On the right, where records
    allow them, differences to the chosen pooler with their 95 % intervals.

    Args:
        records: Head records.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: if no head is sound, or for a path that ends otherwise.
    """
    panels = [(one, found) for one in comparisons_of(records) if (found := _points(one))]
    if not panels:
        raise ValueError("records: expected at least one head that did not diverge, got none")
    apart = any(_has_difference(found) for _, found in panels)
    heights = [0.95 + 0.27 * len(_poolers(found)) for _, found in panels]
    figure, axes = new_figure(
        8.4 if apart else 5.6,
        sum(heights) + 0.5,
        rows=len(panels),
        columns=2 if apart else 1,
        share="none",
        height_ratios=heights,
        **({"width_ratios": [3, 2]} if apart else {}),
    )
    lefts = axes[::2] if apart else axes
    looks = looks_of(name for _, found in panels for name in _poolers(found))
    for index, (comparison, found) in enumerate(panels):
        draw_scores(lefts[index], found, looks)
        lefts[index].set_title(one_line(comparison.name), pad=14, parse_math=False)
        if apart:
            _draw_differences(axes[2 * index + 1], found, looks)
    _legend(figure, lefts[0], [found for _, found in panels])
    save_figure(figure, path)


def _points(comparison: Comparison) -> dict[str, list[Point]]:
    """By way of training, the poolers with a sound head."""
    found = {}
    for protocol, place in comparison.protocols.items():
        points = [
            Point(entry, [row["test"] for row in place.entrants[entry["pooler"]].sound])
            for entry in summaries_of(place)
            if entry["mean"] is not None
        ]
        if points:
            found[protocol] = points
    return found


def _poolers(found: Mapping[str, Sequence[Point]]) -> list[str]:
    return list(dict.fromkeys(one.entry["pooler"] for points in found.values() for one in points))


def _has_difference(found):
    return any(one.entry["difference"] is not None for points in found.values() for one in points)


def draw_scores(axes: Any, found: Mapping[str, Sequence[Point]], looks: Mapping[str, Any]) -> None:
    """Scores on one task, a row for each pooler.

    Args:
        axes: Panel of Matplotlib.
        found: By way of training the poolers.
        looks: What each pooler is drawn with.
    """
    first = next(iter(found.values()))[0].entry
    metric, points = first["metric"], [one for own in found.values() for one in own]
    span = range_of(
        [(one.entry["mean"], *_ends(one.entry)) for one in points],
        higher_is_better=first["higher_is_better"],
    )
    rows = _rows(axes, found)
    for index, own in enumerate(found.values()):
        for one in own:
            entry, look = one.entry, looks[one.entry["pooler"]]
            row = rows[entry["pooler"]] + _shift(index, len(found))
            if entry["mean"] in span:
                _draw_point(axes, one, look, row, _FILLS[index % len(_FILLS)], span)
            else:
                _draw_outside(axes, entry, look, row, span)
    _draw_constants(axes, first, span)
    axes.set_xlim(shown(span.low, metric), shown(span.high, metric))
    axes.set_xscale("log" if span.is_log else "linear")
    axes.set_xlabel(f"{axis_label('test', metric)}{_counted(points)}", parse_math=False)


def _counted(points: Sequence[Point]) -> str:
    """How many examples and seeds scores are of."""
    examples = {one.entry["num_examples"] for one in points} - {None}
    seeds = sorted({len(one.seeds) for one in points})
    words = [f"n = {max(examples)}"] if examples else []
    several = seeds[-1] > 1
    words += [f"{' to '.join(map(str, seeds[:: max(len(seeds) - 1, 1)]))} seed{'s' * several}"]
    return f"; {', '.join(words)}"


def _rows(axes, found):
    """Rows of poolers, the first one on top."""
    poolers = _poolers(found)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    # A dollar in a label is a dollar.
    axes.set_yticks(range(len(poolers)), map(one_line, poolers), parse_math=False)
    axes.set_ylim(len(poolers) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return {name: row for row, name in enumerate(poolers)}


def _shift(index, count):
    return 0.24 * (index - (count - 1) / 2)


def _draw_point(axes, one, look, row, fill, span: Range):
    entry, metric = one.entry, one.entry["metric"]
    inside = [shown(value, metric) for value in one.seeds if value in span]
    if len(one.seeds) > 1:
        axes.plot(
            inside, [row] * len(inside), ".", color=look.colour, markersize=4, alpha=0.6, zorder=2
        )
    low, high = (shown(end, metric) for end in _ends(entry))
    mean = shown(entry["mean"], metric)
    axes.errorbar(
        mean,
        row,
        xerr=[[max(mean - low, 0.0)], [max(high - mean, 0.0)]],
        marker=look.marker,
        fillstyle=fill,
        markerfacecoloralt="none",
        color=look.colour,
        zorder=3,
    )
    if entry["chosen"]:
        _ring(axes, mean, row, look.colour)


def _ring(axes, x, row, colour, **options):
    axes.plot(
        x, row, "o", markersize=12, fillstyle="none", color=colour, markeredgewidth=1.1, **options
    )


def _ends(entry: Mapping[str, Any]) -> tuple[float, float]:
    """Where a bar begins and ends."""
    if entry["test_low"] is None:
        spread = entry["std"] or 0.0
        return entry["mean"] - spread, entry["mean"] + spread
    return entry["test_low"], entry["test_high"]


def _draw_outside(axes, entry, look, row, span: Range):
    """A score beyond the axis, at its edge beside its number."""
    metric, is_above = entry["metric"], entry["mean"] > span.high
    edge = shown(span.high if is_above else span.low, metric)
    axes.plot(edge, row, ">" if is_above else "<", color=look.colour, clip_on=False, zorder=4)
    axes.annotate(
        score(entry["mean"], metric),
        (edge, row),
        xytext=(-8 if is_above else 8, 0),
        textcoords="offset points",
        ha="right" if is_above else "left",
        va="center",
        fontsize=7.5,
    )


def _draw_constants(axes, entry, span: Range):
    """Scores of constant predictions: lines within the axis, words at its edge beyond it."""
    metric = entry["metric"]
    beyond: dict[bool, list[str]] = {}
    for name, (words, line) in _CONSTANTS.items():
        value = entry[name]
        if value is None:
            continue
        text = f"{words} {score(value, metric)}"
        if any(score(value, metric) in told for texts in beyond.values() for told in texts):
            continue
        if value in span:
            axes.axvline(shown(value, metric), color=INK, alpha=0.5, linestyle=line, linewidth=1)
        is_right = value > span.high if value not in span else value > (span.low + span.high) / 2
        arrow = ("" if value in span else " →") if is_right else ""
        text = f"{'' if value in span or is_right else '← '}{text}{arrow}"
        beyond.setdefault(is_right, []).append(text)
    for is_right, texts in beyond.items():
        axes.text(
            1.0 if is_right else 0.0,
            1.0,
            "   ".join(texts),
            transform=axes.transAxes,
            ha="right" if is_right else "left",
            va="bottom",
            fontsize=7.5,
            alpha=0.8,
        )


def _draw_differences(axes, found, looks):
    """Differences to the chosen pooler of the same way of training."""
    rows = _rows(axes, found)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    first = next(iter(found.values()))[0].entry
    metric = first["metric"]
    known = [
        (index, one.entry)
        for index, own in enumerate(found.values())
        for one in own
        if one.entry["difference"] is not None
    ]
    if not known:
        axes.set_axis_off()
        reason = "no intervals: records without\nscores of single examples"
        axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=7.5)
        return
    axes.axvline(0, color=INK, alpha=0.5, linewidth=1)
    fields = ("difference", "difference_low", "difference_high")
    ends = [tuple(entry[name] for name in fields) for _, entry in known]
    span = range_of([(0.0, 0.0, 0.0), *ends], higher_is_better=first["higher_is_better"], log=False)
    for index, entry in known:
        look, row = looks[entry["pooler"]], rows[entry["pooler"]] + _shift(index, len(found))
        value, low, high = (shown(entry[name], metric) for name in fields)
        if entry["difference"] in span:
            axes.errorbar(
                value,
                row,
                xerr=[[value - low], [high - value]],
                marker=look.marker,
                fillstyle=_FILLS[index % len(_FILLS)],
                markerfacecoloralt="none",
                color=look.colour,
            )
        else:
            _draw_outside(axes, {"metric": metric, "mean": entry["difference"]}, look, row, span)
    for index, own in enumerate(found.values()):
        for one in own:
            if one.entry["chosen"]:
                look = looks[one.entry["pooler"]]
                _ring(axes, 0, rows[one.entry["pooler"]] + _shift(index, len(found)), look.colour)
    axes.set_xlim(shown(span.low, metric), shown(span.high, metric))
    is_share = shown(1.0, metric) != 1.0
    axes.set_xlabel(f"difference to the chosen pooler{' (percentage points)' if is_share else ''}")


def _legend(figure, axes, panels):
    """What fills, rings and small points are."""
    protocols = list(dict.fromkeys(name for found in panels for name in found))
    for index, name in enumerate(protocols):
        axes.plot(
            [],
            [],
            "o",
            color=_LEGEND,
            fillstyle=_FILLS[index % len(_FILLS)],
            markerfacecoloralt="none",
            label=legend_label(f"{name}: mean, {_bars(panels)}"),
        )
    if any(len(one.seeds) > 1 for found in panels for own in found.values() for one in own):
        axes.plot([], [], ".", color=_LEGEND, markersize=3.5, label="one seed")
    _ring(axes, [], [], _LEGEND, label="chosen by validation")
    legend_below(figure, [axes], columns=2)


def _bars(panels):
    entries = [one.entry for found in panels for own in found.values() for one in own]
    known = {entry["test_low"] is not None for entry in entries}
    words = {True: "95 % interval", False: "standard deviation over seeds"}
    return " or ".join(words[one] for one in sorted(known, reverse=True))

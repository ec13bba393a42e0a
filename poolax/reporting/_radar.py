"""Poolers over several tasks at once: an axis for each task, a line for each pooler."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from poolax._text import one_line
from poolax.reporting._canvas import PathOrPaths, legend_below, legend_label, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._marks import axis_label, shown
from poolax.reporting._places import comparisons_of

FEWEST_TASKS = 3
# What is worst on an axis stands here, so that lines do not meet in the middle.
_INNER = 0.25
_NOTE = "Outward is better. Numbers of an axis: its inner ring and its outer ring."


class Axis(NamedTuple):
    """A task.

    Attributes:
        label: Its name.
        unit: Of its metric.
        inner: Score at the inner ring, in this unit.
        outer: Score at the outer ring, which is the better one.
    """

    label: str
    unit: str
    inner: float
    outer: float

    def radius(self, score: float) -> float:
        """Where a score stands, from the inner ring at 0.25 to the outer one at 1.

        Example:
            >>> Axis("etth1", "mse", 0.75, 0.25).radius(0.5)
            0.625
        """
        share = (score - self.inner) / (self.outer - self.inner)
        return float(_INNER + (1 - _INNER) * share)


@styled
def plot_radar(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Mean test scores of poolers on several tasks as a radar, a panel for each way of training.

    Each task has an axis of its own unit and range, which its label tells: from the worst score of any
    pooler to the best, rounded away from both. Outward is better on all of them. Panels of one model
    have the same ranges.

    Args:
        records: Head records of three tasks or more, of one model or of several.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: for records of no model with sound heads on three tasks.
    """
    panels = _panels(records)
    if not panels:
        raise ValueError(
            f"records: expected heads of one model on {FEWEST_TASKS} tasks or more, got fewer"
        )
    # The object interface: no global figure, and no window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.3 * len(panels) + 0.7), layout="constrained")
    drawn = figure.subplots(len(panels), 1, squeeze=False, subplot_kw={"projection": "polar"})
    looks = looks_of(name for _, _, lines in panels for name in lines)
    for panel, (title, axes, lines) in zip(drawn.ravel(), panels, strict=True):
        _draw(panel, title, axes, lines, looks)
    legend_below(figure, drawn.ravel(), title=_NOTE, title_fontsize=8)
    save_figure(figure, path)


def _panels(records) -> list[tuple[str, list[Axis], dict[str, list[float]]]]:
    """Title, axes and the scores of each pooler along them, of every model and way of training."""
    # By model and then by protocol, the mean scores of poolers on each task.
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    examples: dict[tuple[str, str], Mapping[str, Any]] = {}
    for comparison in comparisons_of(records):
        for protocol, place in comparison.protocols.items():
            row = place.example
            model = row.get("model") or row.get("backbone", "")
            means = {
                name: float(np.mean([head["test"] for head in entrant.sound]))
                for name, entrant in place.entrants.items()
                if entrant.sound
            }
            if means:
                found.setdefault(model, {}).setdefault(protocol, {})[comparison.name] = means
                examples[model, comparison.name] = row
    panels = []
    for model, protocols in found.items():
        tasks = list(dict.fromkeys(task for of_task in protocols.values() for task in of_task))
        labels = _labels([examples[model, task] for task in tasks])
        axes = {}
        for task, label in zip(tasks, labels, strict=True):
            scores = [
                score for of_task in protocols.values() for score in of_task.get(task, {}).values()
            ]
            axes[task] = axis_of(examples[model, task], label, scores)
        for protocol, of_task in protocols.items():
            if len(of_task) < FEWEST_TASKS:
                continue
            # A pooler that is missing on a task has no line.
            poolers = [
                name
                for name in dict.fromkeys(name for means in of_task.values() for name in means)
                if all(name in means for means in of_task.values())
            ]
            lines = {
                name: [
                    axes[task].radius(shown(means[name], examples[model, task]["metric"]))
                    for task, means in of_task.items()
                ]
                for name in poolers
            }
            title = ", ".join(filter(None, (model, protocol)))
            panels.append((title, [axes[task] for task in of_task], lines))
    return panels


def axis_of(example: Mapping[str, Any], label: str, scores: Sequence[float]) -> Axis:
    """An axis for scores on a task: from the worst to the best, rounded away from both.

    Args:
        example: Any record of the task.
        label: Name of the task.
        scores: Of all poolers.

    Example:
        >>> axis_of({"metric": "accuracy", "higher_is_better": True}, "a", [0.8712, 0.903])
        Axis(label='a', unit='accuracy (%)', inner=87.0, outer=90.5)
        >>> axis_of({"metric": "mse", "higher_is_better": False}, "b", [0.4, 0.4])
        Axis(label='b', unit='mean squared error', inner=0.44, outer=0.36)
    """
    told = [shown(score, example["metric"]) for score in scores]
    low, high = min(told), max(told)
    if low == high:
        apart = 0.1 * abs(low) or 1.0
        low, high = low - apart, high + apart
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    low, high = (float(f"{step * edge:.10g}") for edge in _edges(low / step, high / step))
    ends = (low, high) if example["higher_is_better"] else (high, low)
    return Axis(label, axis_label("", example["metric"]), *ends)


def _edges(low: float, high: float) -> tuple[float, float]:
    """Whole numbers around two, where rounding errors of these do not count."""
    return math.floor(low + 1e-9), math.ceil(high - 1e-9)


def _labels(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of data sets, with the task where one has several."""
    names = [row.get("dataset") or "" for row in examples]
    count = Counter(names)
    return [
        name if name and count[name] == 1 else ", ".join(filter(None, (name, row["task"])))
        for name, row in zip(names, examples, strict=True)
    ]


def _draw(panel, title, axes, lines, looks):
    """The lines of one panel."""
    angles = np.linspace(0, 2 * np.pi, len(axes), endpoint=False)
    panel.set_theta_offset(np.pi / 2)
    panel.set_theta_direction(-1)
    labels = [f"{one_line(axis.label)}\n{axis.unit}\n{axis.inner:g} to {axis.outer:g}" for axis in axes]
    panel.set_xticks(angles, labels, fontsize=9, parse_math=False)
    for angle, label in zip(angles, panel.get_xticklabels(), strict=True):
        # Away from the circle, to the side on which a label stands.
        side = np.sin(angle)
        label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
    panel.tick_params(axis="x", pad=6)
    panel.set_ylim(0, 1)
    panel.set_yticks([_INNER, (1 + _INNER) / 2, 1], [])
    panel.grid(visible=True)
    panel.spines["polar"].set_alpha(0.5)
    panel.set_title(one_line(title), pad=14, parse_math=False)
    around = np.append(angles, angles[0])
    for name, radii in lines.items():
        look = looks[name]
        panel.plot(
            around,
            [*radii, radii[0]],
            linestyle=look.line,
            marker=look.marker,
            color=look.colour,
            clip_on=False,
            label=legend_label(name),
        )

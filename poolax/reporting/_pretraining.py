"""Curves of pretraining, from records."""

from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from poolax.reporting._figures import COLOURS, legend_label, new_figure, save_figure


def plot_pretraining(
    runs: Mapping[str, Iterable[Mapping[str, Any]]], path: epath.PathLike, *, against: str = "step"
) -> None:
    """Losses of runs of pretraining, side by side: of training as a line, held out as points.

    Args:
        runs: Records of kind ``"pretraining"`` of each run, by what the legend calls it.
        path: PNG to write.
        against: What runs along: ``"step"`` or ``"tokens"``.

    Raises:
        ValueError: if a run has no losses, or for something else to run along.
    """
    if against not in ("step", "tokens"):
        raise ValueError(f"against: expected 'step' or 'tokens', got {against!r}")
    figure, (axes,) = new_figure(6.4, 4.0)
    for index, (name, records) in enumerate(runs.items()):
        rows = sorted(records, key=lambda row: row["step"])
        colour = COLOURS[index % len(COLOURS)]
        found = False
        for field, look in (("loss", "-"), ("evaluation_loss", "o")):
            points = [(row[against], row[field]) for row in rows if row.get(field) is not None]
            if not points:
                continue
            label = name if field == "loss" else f"{name}, held out"
            axes.plot(
                *zip(*points, strict=True), look, color=colour, markersize=4, label=legend_label(label)
            )
            found = True
        if not found:
            raise ValueError(f"runs: expected losses among the records of {name!r}, got none")
    axes.set_xlabel("optimizer step" if against == "step" else "tokens")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)

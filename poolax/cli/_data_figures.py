"""Pictures of data sets: a contact sheet of images, a plot of series."""

import io
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from poolax._paths import write_atomically
from poolax._text import one_line
from poolax.cli._data_describe import NUM_SAMPLES, class_name, evenly, target_text
from poolax.data import Dataset

_COLUMNS = 8
_DPI = 110
_VOID = "#bbbbbb"


def contact_sheet(dataset: Dataset, path: epath.PathLike) -> None:
    """Images of every split in rows, with their labels below; maps of labels below their images.

    Args:
        dataset: Images.
        path: PNG to write.
    """
    maps = not isinstance(dataset.targets, Mapping) and dataset.targets.ndim == 3
    rows = len(dataset.splits) * (2 if maps else 1)
    figure = _figure(1.15 * _COLUMNS, 1.4 * rows)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    white = _white(dataset)
    for number, (split, indices) in enumerate(dataset.splits.items()):
        chosen = evenly(indices, _COLUMNS)
        row = number * (2 if maps else 1)
        for axes, index, image in zip(grid[row], chosen, dataset.inputs[chosen], strict=False):
            shown = image.astype(np.float32) / white
            axes.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
            _caption(axes, target_text(dataset, index))
        if maps:
            _draw_maps(grid[row + 1], dataset, chosen)
        grid[row][0].set_title(one_line(split), loc="left", fontsize=9, parse_math=False)
    figure.suptitle(one_line(dataset.name), fontsize=11, parse_math=False)
    _save(figure, path)


def series_figure(dataset: Dataset, path: epath.PathLike) -> None:
    """Three series of the training split, with what is to be predicted from each.

    Args:
        dataset: Series.
        path: PNG to write.
    """
    chosen = evenly(dataset.splits["train"], NUM_SAMPLES)
    figure = _figure(8.0, 1.9 * len(chosen))
    panels = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    for axes, index, series in zip(panels, chosen, dataset.inputs[chosen], strict=True):
        axes.plot(series, color="#0072B2", linewidth=1, label="seen")
        if isinstance(dataset.targets, Mapping) and "values" in dataset.targets:
            values = dataset.targets["values"][index]
            # Values to fill in stand where they are hidden, those to forecast behind what is seen.
            start = 0 if len(values) == len(series) and np.isnan(series).any() else len(series)
            steps = np.arange(start, start + len(values))
            axes.plot(steps, values, color="#D55E00", linewidth=1, label="to be predicted")
        target = target_text(dataset, index)
        title = one_line(f"train {index}" + (f": {target}" if target else ""))
        axes.set_title(title, fontsize=8, loc="left", parse_math=False)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    figure.suptitle(one_line(dataset.name), fontsize=11, parse_math=False)
    _save(figure, path)


def _white(dataset: Dataset) -> float:
    inputs: Any = dataset.inputs
    if inputs.dtype == np.uint8:
        return 255.0
    return float(np.max(inputs[evenly(dataset.splits["train"], 256)])) or 1.0


def _draw_maps(panels, dataset: Dataset, chosen: np.ndarray) -> None:
    """Label 0 black, for it is the background; others in colours; beyond the classes, void, grey."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    targets: Any = dataset.targets
    num_classes = dataset.num_classes or int(targets.max()) + 1
    hues = matplotlib.colormaps["hsv"](np.linspace(0, 0.9, max(num_classes - 1, 1)))
    colours = ListedColormap([(0.0, 0.0, 0.0, 1.0), *hues]).with_extremes(over=_VOID, under=_VOID)
    for axes, index in zip(panels, chosen, strict=False):
        labels = targets[index]
        axes.imshow(labels, cmap=colours, vmin=0, vmax=num_classes - 1, interpolation="nearest")
        present = np.unique(labels[(labels > 0) & (labels < num_classes)])
        _caption(axes, ", ".join(class_name(dataset, int(label)) for label in present))


def _caption(axes, text: str) -> None:
    lines = textwrap.wrap(textwrap.shorten(one_line(text.replace("_", " ")), 32), 16)
    position = {"x": 0.5, "y": -0.04, "ha": "center", "va": "top", "transform": axes.transAxes}
    axes.text(s="\n".join(lines), fontsize=7, parse_math=False, **position)


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, path: epath.PathLike) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    write_atomically(path, image.getvalue())

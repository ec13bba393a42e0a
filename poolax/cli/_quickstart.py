"""``poolax quickstart``."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import jax
import rich.console
import tyro
from etils import epath
from rich.text import Text

from poolax import quickstart
from poolax._checks import check_count
from poolax._text import printable
from poolax.cli._console import COMPLETE, DIVERGED, print_tables, progress_bars
from poolax.cli._options import OptionalCount, OptionalPath
from poolax.cli._program import simulate_devices
from poolax.reporting import joined

# What to type next.
_NEXT = "poolax advise BACKBONE your.csv, with a BACKBONE of poolax models, or your own folder"


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Compare poolers on real data: pretrain, freeze, sweep, measure, bound.

    Pretrains a small Transformer without labels (a ViT on scikit-learn's handwritten digits, a GPT-2 on
    Python's documentation, a patch transformer on carbon dioxide and sunspots), trains heads with six
    poolers on it, by the paper's protocol and to the end, measures how noise moves them, and sets the
    measured Lipschitz constants of trained blocks beside their closed-form bounds. Needs no network and
    a few minutes on two CPU cores. Run it again with the same --out to go on from what is finished.

    Attributes:
        settings: Sizes.
        modality: What the data are: images, texts, series, or one after the other, each in a folder of
            its own under --out ("time_series" is another word for "series"). Series come with
            statsmodels, from the extra "data".
        out: Folder for records, tables, figures and checkpoints; local or gs://.
        devices: Simulate this many CPU devices; by default all local devices are used.
        profile: Folder for a profile of the run, to open with TensorBoard or Perfetto.
        compilation_cache: Folder that keeps compiled programs for the next run.
        as_json: Print a JSON summary on standard output instead of tables.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    settings: tyro.conf.OmitArgPrefixes[quickstart.Settings] = dataclasses.field(
        default_factory=quickstart.Settings
    )
    modality: Literal["vision", "language", "series", "time_series", "all"] = "vision"
    out: str = "poolax-quickstart"
    devices: OptionalCount = None
    profile: OptionalPath = None
    compilation_cache: OptionalPath = None
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        _configure(self.devices, self.compilation_cache)
        console = rich.console.Console(stderr=self.as_json)
        started = time.perf_counter()
        folders = {self.modality: self.out}
        if self.modality == "all":
            folders = {name: os.path.join(self.out, name) for name in quickstart.MODALITIES}
            # A run from before goes on where it stands.
            former = os.path.join(self.out, "time_series")
            folders["series"] = former if epath.Path(former).exists() else folders["series"]
        reports = {}
        with _profile(self.profile):
            for modality, out in folders.items():
                with progress_bars(console) as progress:
                    reports[out] = quickstart.run(
                        out, self.settings, modality=modality, progress=progress
                    )
                if not self.as_json:
                    _show(reports[out], out, console)
        if self.as_json:
            summaries = [_summary(report, out) for out, report in reports.items()]
            json.dump(summaries if self.modality == "all" else summaries[0], sys.stdout, indent=2)
            print()
        num_diverged = sum(report.num_diverged for report in reports.values())
        if num_diverged:
            console.print(f"Complete with {num_diverged} diverged heads.")
            return DIVERGED
        console.print(f"Complete in {time.perf_counter() - started:.0f} s.")
        return COMPLETE


def _show(report, out, console):
    print_tables([*report.scores, report.sensitivity], console)
    if report.cls_token_trained is not None:
        trained = "trained" if report.cls_token_trained else "not trained: its output entered no loss"
        console.print(f"The backbone's CLS token was {trained}.")
    _print_path(console, "Records, tables, figures and checkpoints", out)
    _print_path(console, "A trained head to reload", report.example_head)
    console.print(Text(_recommendation(report)))
    console.print(Text(f"For your own data: {_NEXT}"), soft_wrap=True)


def _print_path(console, name, path):
    console.print(Text(printable(f"{name}: {path}")), soft_wrap=True)


def _recommendation(report):
    """The advice and how sure it is, in one sentence."""
    sentence, certainty = report.advice.sentence.rstrip("."), report.advice.certainty
    return f"{sentence} ({certainty})." if certainty else f"{sentence}."


def _summary(report, out):
    return {
        "recommended": report.advice.recommended,
        "decided": report.advice.decided,
        "recommendation": _recommendation(report),
        "next": _NEXT,
        "out": str(out),
        "cls_token_trained": report.cls_token_trained,
        "num_diverged": report.num_diverged,
        "scores": list(joined(report.scores).tidy),
        "sensitivity": list(report.sensitivity.tidy),
    }


def _configure(devices, compilation_cache):
    if devices is not None:
        check_count("devices", devices)
        simulate_devices(devices)
    if compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", compilation_cache)


@contextlib.contextmanager
def _profile(folder: str | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    with jax.profiler.trace(folder):
        yield

"""What ``poolax data list`` says of each data set."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import rich.console
import rich.table
from rich.text import Text

from poolax.data import Entry

_SPLITS = ("train", "validation", "test")
_TITLES = {"vision": "Images", "language": "Texts", "series": "Series"}
_COLUMNS: dict[str, Literal["left", "right"]] = {
    "name": "left",
    "task": "left",
    "train": "right",
    "valid": "right",
    "test": "right",
    "get by": "left",
    "TF": "left",
    "licence": "right",
}


def ways_to_get(entry: Entry) -> list[str]:
    """How a data set is had, the best way first."""
    if entry.embedded is not None:
        return ["embedded"]
    ways = ["download"] if entry.downloads else []
    if entry.tfds is not None and not entry.tfds.manual:
        ways.insert(1 if entry.tfds.needs_tensorflow else 0, "TFDS")
    return ways or ["files"]


def describe_entry(entry: Entry) -> dict[str, Any]:
    """What a record says of a data set that is not read."""
    tfds = entry.tfds
    return {
        "kind": "data set",
        "name": entry.name,
        "title": entry.title,
        "modality": entry.modality,
        "task": entry.task,
        "sizes": dict(entry.sizes),
        "get_by": ways_to_get(entry),
        "layout": entry.layout,
        "options": dict(entry.all_options),
        "tfds_builder": None if tfds is None else tfds.name,
        "tfds_builder_needs_tensorflow": None if tfds is None else tfds.needs_tensorflow,
        "downloads": [dataclasses.asdict(download) for download in entry.downloads],
        "preprocessing": entry.preprocessing,
        "notes": list(entry.notes),
        "source": entry.source,
        "licence": entry.licence,
        "citation": entry.citation,
        "verified": entry.verified,
    }


def print_entries(entries: Sequence[Entry], console: rich.console.Console) -> None:
    """Print a table for each modality, and below them what their columns mean.

    Licences are long and shared: they are numbered, and stand below in full.
    """
    licences = list(dict.fromkeys(entry.licence for entry in entries))
    for modality, title in _TITLES.items():
        # Lines between columns would leave names no room on a terminal of 80 columns.
        table = rich.table.Table(
            title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
        )
        for column, justify in _COLUMNS.items():
            table.add_column(column, justify=justify, no_wrap=True)
        for entry in entries:
            if entry.modality == modality:
                table.add_row(*_row(entry, licences.index(entry.licence) + 1))
        console.print(table)
        console.print()
    for note in _notes(entries):
        console.print(note, highlight=False)
    console.print("\nLicences")
    listed = rich.table.Table.grid(padding=(0, 1))
    for index, licence in enumerate(licences, start=1):
        listed.add_row(f"{index}", Text(licence))
    console.print(listed, highlight=False)


def _row(entry: Entry, licence: int) -> list[str]:
    sizes = [str(entry.sizes[split]) if split in entry.sizes else "–" for split in _SPLITS]
    needs = entry.tfds is not None and entry.tfds.needs_tensorflow
    mark = "" if entry.verified else "†"
    way = ways_to_get(entry)[0]
    return [entry.name + mark, entry.task, *sizes, way, "yes" if needs else "", str(licence)]


def _notes(entries: Sequence[Entry]) -> list[str]:
    notes = [
        "Sizes: of the published splits, for long series their steps. A dash: there is no such split, "
        "its size is not stated, or it depends on options.",
        "get by: embedded, comes with a library; download and TFDS (TensorFlow Datasets), by 'poolax "
        "data prepare NAME'; files, from yours by --data-dir, from which all others can be read, too.",
        "TF: the builder of TFDS needs TensorFlow to prepare it; nothing else does, and reading never.",
    ]
    if not all(entry.verified for entry in entries):
        notes.append(
            "†: never downloaded as a whole by the authors of poolax. What is said of it comes from "
            "its publisher, TFDS or public records of others, and its reader was tested on small files "
            "of the same layout."
        )
    return notes

"""How ``poolax data show`` puts a data set on the terminal."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.console
import rich.table
from rich.text import Text

from poolax._text import one_line, printable
from poolax.cli._data_options import in_flags
from poolax.reporting import Cell, Table, number_text

_MANY_LABELS = 20
_SHOWN_LABELS = 8
_NAME_WIDTH = 40
_BARS = "▁▂▃▄▅▆▇█"
_FACTS = ("preprocessing", "source", "licence", "citation", "layout")


def show_dataset(record: Mapping[str, Any], console: rich.console.Console) -> None:
    """Print tables, samples and facts of a data set."""
    console.print(Text(one_line(record["title"]), style="bold"))
    given = "".join(f", {name}={value}" for name, value in record["options_given"].items())
    console.print(Text(one_line(f"{record['name']}: {record['modality']}, {record['task']}{given}")))
    tables = [_splits_table(record), _arrays_table(record)]
    if record["labels"]:
        tables.append(_labels_table(record["labels"], list(record["splits"])))
    if record["targets"]:
        tables.append(_targets_table(record["targets"]))
    for table in tables:
        console.print()
        console.print(table.rich())
    if record["warnings"]:
        console.print("\n[bold]Look at this first[/bold]")
        for warning in record["warnings"]:
            console.print(Text(printable(f"  {warning}")), soft_wrap=True)
    console.print("\n[bold]Samples of train[/bold]")
    for sample in record["samples"]:
        for line in _sample_lines(sample, console.width):
            console.print(Text(_cut(printable(line), console.width)))
    console.print()
    facts = rich.table.Table.grid(padding=(0, 2))
    for name in _FACTS:
        if record[name]:
            facts.add_row(name, Text(printable(record[name])))
    for index, note in enumerate(record["notes"]):
        facts.add_row("" if index else "notes", Text(printable(in_flags(note, record["options"]))))
    for index, (name, meaning) in enumerate(record["options"].items()):
        facts.add_row("" if index else "options", Text(f"--{name.replace('_', '-')}: {meaning}"))
    console.print(facts, highlight=False)
    if "picture" in record:
        console.print(Text(printable(f"\nPicture: {record['picture']}")), soft_wrap=True)


def sparkline(values: list[float | None], width: int) -> str:
    """A series as bars of eight heights, blank where nothing was observed.

    Example:
        >>> sparkline([0.0, 1.0, None, 2.0, 7.0], 5)
        '▁▂ ▃█'
    """
    series = np.array([np.nan if value is None else value for value in values], float)
    parts = np.array_split(series, min(width, len(series)))
    means = [np.nanmean(part) if np.isfinite(part).any() else np.nan for part in parts]
    seen = [mean for mean in means if np.isfinite(mean)]
    if not seen:
        return " " * len(means)
    low, span = min(seen), (max(seen) - min(seen)) or 1.0
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((mean - low) / span * top)] if np.isfinite(mean) else " " for mean in means
    )


def _sample_lines(sample: Mapping[str, Any], width: int) -> list[str]:
    head = f"  example {sample['index']}" + (f"  {sample['target']}" if sample["target"] else "")
    if "texts" in sample:
        texts = [" ".join(text.split()) for text in sample["texts"]]
        return [head, *(f"    {_cut(text, width - 4)}" for text in texts)]
    numbers = ", ".join(
        f"{name} {number_text(sample[name])}" for name in ("min", "mean", "max") if name in sample
    )
    missing = f", {sample['missing']} missing" if sample["missing"] else ""
    lines = [f"{head}  {numbers}{missing}"]
    if "values" in sample:
        lines.append(f"    {sparkline(sample['values'], min(width - 4, 96))}")
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _splits_table(record) -> Table:
    total = sum(record["splits"].values())
    rows = [
        [Cell(split), Cell(str(count)), Cell(f"{count / total:.1%}")]
        for split, count in record["splits"].items()
    ]
    return Table(title="Splits", columns=("split", "examples", "share"), rows=rows, notes=(), tidy=())


def _arrays_table(record) -> Table:
    rows = [
        [Cell(name), Cell(" × ".join(map(str, array["shape"]))), Cell(array["dtype"])]
        for name, array in record["arrays"].items()
    ]
    return Table(title="Arrays", columns=("array", "shape", "type"), rows=rows, notes=(), tidy=())


def _labels_table(labels, splits) -> Table:
    title = f"Labels: {len(labels)} classes"
    shown = labels
    if len(labels) > _MANY_LABELS:
        ordered = sorted(labels, key=lambda row: -row[splits[0]])
        shown = [*ordered[:_SHOWN_LABELS], None, *ordered[-_SHOWN_LABELS:]]
        title += f", by frequency in {splits[0]}"
    rows = []
    for row in shown:
        if row is None:
            rows.append([Cell("⋮")] * (2 + len(splits)))
        else:
            name = _cut(row["name"], _NAME_WIDTH)
            counts = [Cell(str(row[split])) for split in splits]
            rows.append([Cell(name), Cell(str(row["label"])), *counts])
    return Table(title=title, columns=("name", "label", *splits), rows=rows, notes=(), tidy=())


def _targets_table(rows) -> Table:
    cells = [
        [
            Cell(row["target"]),
            Cell(row["split"]),
            *(Cell(number_text(row[name])) for name in ("min", "mean", "max")),
            Cell(str(row["missing"])),
        ]
        for row in rows
    ]
    columns = ("target", "split", "min", "mean", "max", "not scored")
    return Table(title="Targets", columns=columns, rows=cells, notes=(), tidy=())

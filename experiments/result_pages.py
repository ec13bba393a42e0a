"""Pages of the records in results/: one for each comparison, one for pretrained models."""

import pathlib
from collections.abc import Sequence

import comparison
import paper_table
import pretraining
import probing

from poolax.records import Records
from poolax.reporting import Table

PRETRAINED = "pretrain.jsonl"
NORMS = "pretrain-lipschitz.jsonl"
#: The page of both.
OF_PRETRAINING = "pretraining.md"
#: Of comparisons; records have those of when they were made.
_TITLES = {study.name: study.title for study in probing.STUDIES}


def tables_of(results: pathlib.Path) -> dict[str, Sequence[Table]]:
    """The tables of each comparison, by its name."""
    paths = paper_table.stored(results)
    return {path.stem: comparison.tables(Records.read(path)) for path in paths}


def pages(results: pathlib.Path, tables: dict[str, Sequence[Table]]) -> dict[str, str]:
    """Texts of pages, by the names of their files.

    Args:
        results: Folder of records.
        tables: As :func:`tables_of` gives them.
    """
    found = {}
    for name, shown in tables.items():
        records = Records.read(results / f"{name}.jsonl")
        text = comparison.markdown(shown, title=_TITLES[name], level=1)
        devices = ", ".join(dict.fromkeys(row["devices"] for row in records))
        made = _made(f"{name}.jsonl", comparison.commands(records), f", on {devices}")
        found[f"{name}.md"] = f"{text}\n{made}"
    parts = _pretraining(results)
    if parts:
        found[OF_PRETRAINING] = "\n".join(["# Pretrained models\n", *parts])
    return found


def commands(results: pathlib.Path) -> dict[str, tuple[str, list[str]]]:
    """Of each page its title and the commands that its records are by, by the name of its file."""
    found = {}
    for path in paper_table.stored(results):
        records = Records.read(path)
        found[f"{path.stem}.md"] = (_TITLES[path.stem], comparison.commands(records))
    known = [*_commands_of_pretrained(results), *_commands_of_norms(results)]
    if known:
        found[OF_PRETRAINING] = ("Pretrained models", list(dict.fromkeys(known)))
    return found


def _pretraining(results: pathlib.Path) -> list[str]:
    parts = []
    if (results / PRETRAINED).exists():
        shown = pretraining.summary_table(Records.read(results / PRETRAINED)).markdown(level=2)
        parts.append(f"{shown}\n{_made(PRETRAINED, _commands_of_pretrained(results))}")
    if (results / NORMS).exists():
        shown = pretraining.norms_table(Records.read(results / NORMS)).markdown(level=2)
        parts.append(f"{shown}\n{_made(NORMS, _commands_of_norms(results))}")
    return parts


def _commands_of_pretrained(results: pathlib.Path) -> list[str]:
    known = results / PRETRAINED
    return pretraining.commands(Records.read(known)) if known.exists() else []


def _commands_of_norms(results: pathlib.Path) -> list[str]:
    known = results / NORMS
    return comparison.commands(Records.read(known)) if known.exists() else []


def _made(name: str, commands: Sequence[str], where: str = "") -> str:
    """What records are by."""
    listed = "\n".join(commands)
    return f"Records: [{name}]({name}){where}, by\n\n```sh\n{listed}\n```\n"

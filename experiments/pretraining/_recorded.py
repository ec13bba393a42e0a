"""What recorded runs of presets came to: the ranges of their losses, and how fast they were."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from comparison import portable_command

from poolax.records import Records
from pretraining._presets import PRESETS

#: Records of full runs of presets, a row for each seed.
RECORDED = pathlib.Path(__file__).parents[1] / "results" / "pretrain.jsonl"


@dataclasses.dataclass(frozen=True)
class LossRange:
    """Evaluation losses of full runs of a preset.

    Attributes:
        low: The least.
        high: The largest.
        seeds: Of these runs, in their order.
    """

    low: float
    high: float
    seeds: tuple[int, ...]

    @property
    def text(self) -> str:
        """For people."""
        number = f"{len(self.seeds)} seed" + "s" * (len(self.seeds) > 1)
        values = dict.fromkeys(f"{value:.3f}" for value in (self.low, self.high))
        return f"evaluation loss {' to '.join(values)} over {number}"


def recorded(path: pathlib.Path = RECORDED) -> list[dict[str, Any]]:
    """The records of full runs; none where there is no file.

    Args:
        path: The file.
    """
    return list(Records.read(path))


def loss_range(
    records: Iterable[Mapping[str, Any]], preset: str, *, without: int | None = None
) -> LossRange | None:
    """The range of a preset's evaluation loss over seeds.

    Args:
        records: Records of kind ``"pretrained"``; of them count those of the preset as it is, with all
            its steps on its data.
        preset: Its name.
        without: A seed that is left out.

    Returns:
        The range, or ``None`` where no run counts.
    """
    whole = PRESETS[preset]()
    losses = {
        row["seed"]: row["evaluation_loss"]
        for row in records
        if (row["preset"], row["steps"], tuple(row["data"])) == (preset, whole.steps, whole.data)
        and row["evaluation_loss"] is not None
        and row["seed"] != without
    }
    if not losses:
        return None
    return LossRange(min(losses.values()), max(losses.values()), tuple(sorted(losses)))


def described(preset: str, records: Iterable[Mapping[str, Any]]) -> str:
    """What a preset is in a line, with the range of its loss where that is recorded.

    Args:
        preset: Its name.
        records: As :func:`recorded` gives them.
    """
    line = (PRESETS[preset].__doc__ or "").splitlines()[0].replace("``", "")
    found = loss_range(records, preset)
    return line if found is None else f"{line.removesuffix('.')}; {found.text}."


def by_attention(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The records of GPT-2s by what they attend with, for figures of losses by size.

    Args:
        records: Records of kind ``"pretrained"``.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(records, key=_place):
        preset = PRESETS[row["preset"]]()
        if preset.family == "gpt2" and (row["steps"], tuple(row["data"])) == (
            preset.steps,
            preset.data,
        ):
            name = {"dot": "dot product", "l2": "L2"}[preset.attention]
            found.setdefault(name, []).append(row)
    return found


def published(row: Mapping[str, Any], curve: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A record as it is kept in results/: with its speed, and without paths of the machine.

    Args:
        row: Record of kind ``"pretrained"``.
        curve: Records of its training.
    """
    speed = {} if "tokens_per_second" in row else speed_of(curve)
    return {**row, **speed, "command": portable_command(row["command"])}


def commands(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The commands that gave the records, those that differ in the seed alone as one.

    Args:
        records: As :func:`published` gives them.
    """
    seeds: dict[str, list[int]] = {}
    for row in sorted(records, key=_place):
        command = re.sub(r" --(seed|out)[ =]\S+", "", row["command"])
        seeds.setdefault(command, []).append(row["seed"])
    return [
        f"{command} --seed N    # N: {', '.join(map(str, sorted(found)))}"
        for command, found in seeds.items()
    ]


def speed_of(records: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """How fast a run was, evaluations and compilation left out.

    Args:
        records: Of kind ``"pretraining"``, of one run.

    Returns:
        ``tokens_per_second``, and ``seconds`` for all tokens at that rate; ``None`` where a run was too
        short for a rate.
    """
    rows = sorted(records, key=lambda row: row["step"])
    tokens = seconds = 0.0
    for before, row in itertools.pairwise(rows):
        rate = row.get("tokens_per_second")
        if rate:
            tokens += row["tokens"] - before["tokens"]
            seconds += (row["tokens"] - before["tokens"]) / rate
    if not seconds:
        return {"tokens_per_second": None, "seconds": None}
    rate = tokens / seconds
    return {"tokens_per_second": rate, "seconds": rows[-1]["tokens"] / rate}


def _place(row):
    return list(PRESETS).index(row["preset"])

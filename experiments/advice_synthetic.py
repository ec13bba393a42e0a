"""How often advice is right where it is known by construction what a pooler has to keep.

    python experiments/advice_synthetic.py

Of each kind of token states (what is to be read stands in the last token, in the mean, in an extreme
value, in a token with a marker, in the order of tokens, in second moments, or nowhere) random instances
are drawn, over sizes, strengths, classes and numbers; each is one advice. Records are added to
results/advice/synthetic.jsonl, and what is recorded is not run again.

Duration (estimate, two CPU cores): half a minute an instance, two hours for all.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("advice_synthetic")

import dataclasses
import pathlib
import sys
from typing import Any, ClassVar, TypedDict

import tyro
from advice_cases import RIGHT, Case, cases, draw
from comparison import portable_command

from poolax.cli import COMPLETE, run_program
from poolax.records import Journal, Records, environment, record_kind
from poolax.reporting import Cell, Table
from poolax.training import advise_states

RECORDS = pathlib.Path(__file__).parent / "results" / "advice" / "synthetic.jsonl"
POOLERS = ("avg", "last", "max", "sum", "l2", "wavg", "map")


@record_kind("advice_synthetic")
class SyntheticAdvice(TypedDict):
    """What advice says of one instance."""

    id: str
    case: dict[str, Any]
    poolers: list[str]
    recommended: str
    decided: bool
    is_right: bool
    validation: dict[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """How often advice is right where the answer is known.

    Attributes:
        kinds: Of token states.
        number: Instances of each kind.
        seed: Of all instances.
        poolers: Poolers that are compared.
        out: File of records.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    kinds: tuple[str, ...] = tuple(RIGHT)
    number: int = 40
    seed: int = 0
    poolers: tuple[str, ...] = POOLERS
    out: str = str(RECORDS)
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        path = pathlib.Path(self.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(path, made_with=_made_with)
        found = Records(
            journal.measured(
                {
                    "kind": "advice_synthetic",
                    "case": dataclasses.asdict(case),
                    "poolers": list(self.poolers),
                },
                lambda case=case: _said_of(case, self.poolers),
            )
            for kind in self.kinds
            for case in cases(kind, self.number, self.seed)
        )
        print(table(found))
        return COMPLETE


def _made_with() -> dict[str, Any]:
    row = environment()
    return {**row, "command": portable_command(row["command"])}


def _said_of(case: Case, poolers: tuple[str, ...]) -> dict[str, Any]:
    """What advice says of an instance."""
    instance = draw(case)
    advice = advise_states(
        instance.states, None, instance.targets, instance.task, splits=instance.splits, poolers=poolers
    )
    parameters, factors = (advice.cost[name] for name in ("num_parameters", "lipschitz_factor"))
    cheapest = min(poolers, key=lambda name: (parameters[name], factors[name]))
    names_one = advice.decided or advice.recommended != cheapest
    is_right = advice.recommended in RIGHT[case.kind] if RIGHT[case.kind] else not names_one
    return {
        "recommended": advice.recommended,
        "decided": advice.decided,
        "is_right": is_right,
        "validation": dict(advice.validation),
        "seconds": advice.cost["seconds"],
    }


def table(records: Records) -> Table:
    """For each kind, in how many instances a right pooler is recommended; of the null, none named."""
    rows, tidy = [], []
    for kind in RIGHT:
        own = [row for row in records if row["case"]["kind"] == kind]
        if not own:
            continue
        right = sum(row["is_right"] for row in own)
        names = sorted({row["recommended"] for row in own})
        said = ", ".join(f"{name} {sum(row['recommended'] == name for row in own)}" for name in names)
        rows.append([Cell(text) for text in (kind, f"{right} of {len(own)}", said)])
        tidy.append({"kind": kind, "right": right, "number": len(own)})
    title = "Advice on token states of known answers"
    columns = ("kind", "right", "recommended")
    note = "null: right is an advice that names no winner and takes the cheapest pooler"
    return Table(title=title, columns=columns, rows=rows, notes=[note], tidy=tidy)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run it."""
    return run_program("advice_synthetic", lambda: tyro.cli(Synthetic, args=arguments))


if __name__ == "__main__":
    sys.exit(main())

"""Verdicts on the paper's claims and on ours, from the test scores that stored records hold.

    python experiments/claims.py            # from results/, into results/claims/
    python experiments/claims.py --check    # exit code 1 if they are not what results/ gives

Each claim is a statement about differences of poolers on named data, for a named backbone, under each
solver. It is tested on test examples by a paired bootstrap of two levels (examples, then seeds; 10,000
draws), with Holm's correction over all claims; claims_cases.py states them. Reads records alone. The
paper reports means and standard deviations over five seeds, and no test.

Duration (estimate, two CPU cores): some minutes, seconds where the records are those of the
verdicts that stand there.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("claims")

import collections
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import comparison
import tyro
from claims_cases import OF_CLS, OWN, PAPER, geometry
from claims_records import scored
from conjectures import likely_reasons
from paper_table import stored

from poolax.cli import COMPLETE, FAILURE, check_count, run_program
from poolax.records import Records, as_written, environment, write_atomically
from poolax.reporting import Claim, claims_tables, joined, judge_claims

HERE = pathlib.Path(__file__).parent
#: Scripts beside the comparisons whose records say something of single examples.
PROBES = ("expressivity", "sequence_length", "robustness")


@dataclasses.dataclass(frozen=True)
class Claims:
    """Test claims about poolers on the scores that records hold.

    Attributes:
        records: Files of records of comparisons, expressivity.py, sequence_length.py and
            robustness.py; by default those in results/.
        out: Folder for claims.jsonl, claims.md and claims.csv.
        draws: Draws of the bootstrap.
        seed: Of the draws.
        quick: A tenth of the draws.
        check: Write nothing, and fail if the folder does not hold what the records give.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    records: tuple[str, ...] = ()
    out: str = str(HERE / "results" / "claims")
    draws: int = 10_000
    seed: int = 0
    quick: bool = False
    check: bool = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        check_count("draws", self.draws)
        check_count("seed", self.seed, at_least=0)
        paths = [*map(pathlib.Path, self.records)] or read_by_claims(HERE / "results")
        heads = [row for path in paths for row in Records.read(path)]
        out = pathlib.Path(self.out)
        draws = max(1, self.draws // 10) if self.quick else self.draws
        rows = judged(heads, out, draws=draws, seed=self.seed)
        if self.check:
            found = stale(rows, out)
            if found:
                print(f"{', '.join(found)}: not what the records give", file=sys.stderr)
            return FAILURE if found else COMPLETE
        write(rows, out)
        told = collections.Counter(row["verdict"] for row in rows)
        print(", ".join(f"{count} {verdict}" for verdict, count in told.most_common()))
        return COMPLETE


def read_by_claims(results: pathlib.Path) -> list[pathlib.Path]:
    """Files of records that claims are tested on, those that are there."""
    probes = [results / name / f"{name}.jsonl" for name in PROBES]
    return [*stored(results), *(path for path in probes if path.exists())]


def judged(
    records: Sequence[Mapping[str, Any]], out: pathlib.Path, *, draws: int = 10_000, seed: int = 0
) -> Records:
    """A verdict on each claim; those on the same heads as before are taken from the folder.

    Args:
        records: Of comparisons and of :data:`PROBES`.
        out: Folder of earlier verdicts.
        draws: Draws of the bootstrap.
        seed: Of the draws.
    """
    heads = scored(records)
    known = Records.read(out / "claims.jsonl")
    about = {**environment(), "command": "python experiments/claims.py"}
    known_of = {comparison.model_of(row): comparison.pretrained(row) for row in heads}
    words = {name: how for name, how in known_of.items() if how is not None}
    stated = [*PAPER, *OWN]
    tested = widened(stated, heads)
    rest = left_out(stated, tested)
    rows = judge_claims(
        tested,
        heads,
        pretrained=words,
        draws=draws,
        seed=seed,
        known=known,
        about=about,
    )
    rows = [_with_left_out(row, rest) for row in rows]
    own = geometry()
    before = [row for row in known if (row["id"], row["records"]) == (own["id"], own["records"])]
    shared = {name: rows[0][name] for name in ("level", "num_tested")}
    return Records([*rows, (before[0] if before else about) | own | shared])


def _with_left_out(row: Mapping[str, Any], rest: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    bare = {name: value for name, value in row.items() if name != "left_out"}
    words = rest.get((row["claim"], row["backbone"]))
    return bare | ({"left_out": words} if words else {})


def widened(claims: Sequence[Claim], heads: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """The claims on each backbone that has records of any of the data and tasks that they name.

    A claim is tested on those of them that a backbone has records of. A backbone that a claim names
    and that has no records of them is left where there is no other.

    Args:
        claims: The claims, on the backbones that they name.
        heads: Records of heads, and what has their form.
    """
    known: dict[str, set[tuple[str, str]]] = {}
    without_cls = set()
    for row in heads:
        model = comparison.model_of(row)
        known.setdefault(model, set()).add((row["dataset"], row["task"]))
        if row["pooler"] == "last" and row["resolved"]["name"] != "first":
            without_cls.add(model)
    found = []
    for claim in claims:
        backbones = [*claim.places, *sorted(set(known) - set(claim.places))]
        if claim.name in OF_CLS:
            backbones = [backbone for backbone in backbones if backbone not in without_cls]
        places = {}
        for named, where in claim.places.items():
            own = {
                backbone: tuple(one for one in where if one in known.get(backbone, ()))
                for backbone in backbones
                if backbone == named or backbone not in claim.places
            }
            fit = {backbone: part for backbone, part in own.items() if part}
            places |= fit or {named: where}
        found.append(dataclasses.replace(claim, places=places))
    return found


def left_out(claims: Sequence[Claim], tested: Sequence[Claim]) -> dict[tuple[str, str], str]:
    """Data and tasks of claims without records, in words, by claim and backbone.

    Args:
        claims: The claims, as they are stated.
        tested: The same claims on what has records.
    """
    found = {}
    for claim, own in zip(claims, tested, strict=True):
        for backbone, part in own.places.items():
            whole = [where for where in claim.places.values() if set(part) <= set(where)]
            rest = [one for where in whole[:1] for one in where if one not in part]
            if rest:
                found[claim.name, backbone] = ", ".join(" ".join(one) for one in rest)
    return found


def texts(rows: Records) -> dict[str, str]:
    """The tables in Markdown and as tidy rows, by the names of their files."""
    tables = claims_tables(rows)
    verdicts, *rest = (table.markdown(level=2) for table in tables)
    shown = "\n".join(filter(None, [verdicts, likely_reasons(rows), *rest]))
    found = {"claims.md": f"# What becomes of the claims\n\n{shown}", "claims.csv": tables[0].csv()}
    return found | ({"comparisons.csv": joined(tables[1:]).csv()} if tables[1:] else {})


def stale(rows: Records, out: pathlib.Path) -> list[str]:
    """Names of files that do not hold what these verdicts give."""
    kept = [
        {k: v for k, v in row.items() if k != "digest"} for row in Records.read(out / "claims.jsonl")
    ]
    new = [{k: v for k, v in as_written(row).items() if k != "digest"} for row in rows]
    wrong = [] if kept == new else ["claims.jsonl"]
    files = {out / name: text for name, text in texts(rows).items()}
    return wrong + [path.name for path, text in files.items() if not _holds(path, text)]


def _holds(path: pathlib.Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def write(rows: Records, out: pathlib.Path) -> None:
    """The verdicts, and their tables."""
    out.mkdir(parents=True, exist_ok=True)
    rows.write_as(out / "claims.jsonl")
    for name, text in texts(rows).items():
        write_atomically(out / name, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and judge the claims."""
    return run_program("claims", lambda: tyro.cli(Claims, args=arguments))


if __name__ == "__main__":
    sys.exit(main())

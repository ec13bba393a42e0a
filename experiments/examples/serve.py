"""A head that was chosen goes into service: its artefact, a process that has JAX alone, its latency.

    python experiments/examples/serve.py poolax-advice --data tickets.csv       # what it recommended
    python experiments/examples/serve.py HEAD --backbone MODEL                  # any head of a sweep

The trained head is written with its backbone as one artefact.
``server.py`` answers from it in a process of its own, where neither poolax nor Flax is needed: JSON
lines in, JSON lines out, texts of any length. It compiles a program for each of few lengths and batches
before the first request and none after. With --data, what the head was trained on, answers name
classes. The table says how long requests take, from one line to the other.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("serve")

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Annotated, Any, ClassVar

import numpy as np
import rich
import rich.console
import rich.table
import tyro

from poolax import training
from poolax.cli import (
    COMPLETE,
    FileFlags,
    OptionalCount,
    OptionalPath,
    OptionalText,
    check_count,
    load_backbone,
    load_data,
    run_program,
    tell,
)
from poolax.records import Records, environment

SERVER = pathlib.Path(__file__).with_name("server.py")
WORDS = (__doc__ or "").split()


@dataclasses.dataclass(frozen=True)
class Serve:
    """Write a trained head with its backbone as one artefact, serve it, and measure latency.

    Attributes:
        head: Folder of an advice, or the checkpoint directory of a head.
        backbone: Directory or hub id of the backbone that it was trained on; by default the advice's.
        data: Name of the data set that it was trained on, or your own file, for the names of classes.
        data_dir: Folder of the files of a data set that has a name.
        max_tokens: Tokens that texts were cut to when it was trained; by default all that are taken.
        words: Words of the texts that are sent; longer ones are cut.
        batch: Texts of a request, beside requests of one.
        repeats: Requests of each kind.
        out: Folder for the artefact and the record.
        files: How your own file is read.
        as_json: Print records instead of a table.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    head: tyro.conf.Positional[str]
    backbone: OptionalText = None
    data: OptionalPath = None
    data_dir: OptionalPath = None
    max_tokens: OptionalCount = None
    words: tuple[int, ...] = (4, 12, 24, 48, 96, 400)
    batch: int = 8
    repeats: int = 50
    out: str = "poolax-served"
    files: tyro.conf.OmitArgPrefixes[FileFlags] = dataclasses.field(default_factory=FileFlags)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        check_count("batch", self.batch)
        check_count("repeats", self.repeats)
        for words in self.words:
            check_count("words", words)
        names = self._class_names()
        directory, model = self._chosen()
        backbone = load_backbone(model, "language", argument="backbone")
        if self.max_tokens is not None:
            prepare = backbone.preprocessing.cut_to(self.max_tokens)
            backbone = dataclasses.replace(backbone, preprocess=prepare)
        out = pathlib.Path(self.out)
        artefact = out / "head.jax"
        console = rich.console.Console(file=sys.stderr)
        tell(console, f"Writing {artefact}")
        head = training.load_head(directory)
        training.export_head(head, artefact, backbone=backbone, class_names=names)
        tell(
            console, "Compiling a program for each length and batch in the server, which takes a while"
        )
        with Client(artefact, sorted({1, self.batch})) as client:
            rows = [
                client.latency(words, batch, self.repeats)
                for batch in sorted({1, self.batch})
                for words in self.words
            ]
            ready, stats = client.ready, client.ask({"stats": True})
            request = {"texts": [" ".join(WORDS[:6])]}
            answer = client.ask(request)
        record = {
            "kind": "served",
            "artefact_bytes": artefact.stat().st_size,
            "ready": ready,
            "compilations": stats["compilations"],
            "latency": rows,
            **environment(),
        }
        Records([record]).write_as(out / "serve.jsonl")
        if self.as_json:
            print(json.dumps(record))
        else:
            show(record)
            sizes = " ".join(map(str, sorted({1, self.batch})))
            served = f"python {os.path.relpath(SERVER)} {artefact} --batches {sizes}"
            print(f"\nServe it: {served}")
            print(f"A request: {json.dumps(request)}\nIts answer: {json.dumps(answer)}")
        return COMPLETE

    def _chosen(self) -> tuple[str, str]:
        """The directory of the head, and its backbone."""
        advice = pathlib.Path(self.head) / "advice.jsonl"
        directory, model = self.head, self.backbone
        if advice.exists():
            row = Records.read(advice)[-1]
            directory, model = row["head"], model or row["model"]
        if model is None:
            raise ValueError("backbone: expected a directory or hub id beside a head, got none")
        return directory, model

    def _class_names(self) -> tuple[str, ...] | None:
        """Names of the classes of the data that the head was trained on, where these are named."""
        if self.data is None:
            if self.files.given():
                raise ValueError("data: expected your own file beside flags of files, got none")
            return None
        _, dataset, _ = load_data(self.data, self.files, data_dir=self.data_dir, argument="data")
        return dataset.class_names


class Client:
    """A server in a process of its own, which ends with the ``with`` block.

    Args:
        artefact: What it serves.
        batches: Numbers of texts that it runs at once.
    """

    def __init__(self, artefact: pathlib.Path, batches: list[int]):
        sizes = ["--batches", *map(str, batches)]
        command = [sys.executable, str(SERVER), str(artefact), *sizes]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> "Client":
        """Wait until all programs are compiled."""
        self.ready = self._read()["ready"]
        return self

    def __exit__(self, *_: object) -> None:
        """Close its input, at whose end it ends."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        if self.process.stdin is None:
            raise RuntimeError("the server has no input")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = "" if self.process.stdout is None else self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with exit code {self.process.wait()}")
        return json.loads(line)

    def latency(self, words: int, batch: int, repeats: int) -> dict[str, Any]:
        """Milliseconds of requests with so many texts of so many words."""
        rng, took, tokens = np.random.default_rng(words), [], []
        for _ in range(repeats):
            texts = [" ".join(rng.choice(WORDS, words)) for _ in range(batch)]
            started = time.perf_counter()
            found = self.ask({"texts": texts})
            took.append(1000 * (time.perf_counter() - started))
            tokens += found["tokens"]
        return {
            "words": words,
            "batch": batch,
            "tokens": float(np.median(tokens)),
            "median_ms": round(float(np.median(took)), 2),
            "p95_ms": round(float(np.quantile(took, 0.95)), 2),
        }


def show(record: dict[str, Any]) -> None:
    """Print a record as a table."""
    table = rich.table.Table("texts", "words", "tokens", "median, ms", "95 %, ms", "texts a second")
    for row in record["latency"]:
        rate = 1000 * row["batch"] / row["median_ms"]
        cells = (row["batch"], row["words"], row["tokens"], row["median_ms"], row["p95_ms"], rate)
        table.add_row(*(f"{cell:.4g}" if cell < 1000 else f"{cell:.0f}" for cell in cells))
    rich.print(table)
    print(
        f"{record['ready']['programs']} programs compiled in {record['ready']['seconds']} s before the "
        f"first request, {record['compilations']} in all; the artefact has "
        f"{record['artefact_bytes'] / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    sys.exit(run_program("serve", lambda: tyro.cli(Serve)))

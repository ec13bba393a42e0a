"""Programs that are told to stop at any moment, and two on one folder."""

import ast
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from poolax.training import Records, head_directory, restore_checkpoint

SWEEP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import jax
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.cli import COMPLETE, run_program
from poolax.data import digits
from poolax.training import Classification, Limits, stop_on_sigterm, sweep
from poolax.training._states import shards

shards._SHARD_BYTES = 2**18

class Command:
    resumable, debug = True, False

    def run(self):
        print("starts", flush=True)
        config = ViTConfig(8, 4, 1, width=16, num_layers=1, num_heads=2, mlp_dim=16)
        vit = ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 16))
        with stop_on_sigterm() as should_stop:
            sweep(
                vit, digits(), Classification(10), poolers=["wavg", "avg"], seeds=1, epochs=2,
                batch_size=64, features="disk", out=sys.argv[1],
                limits=Limits(checkpoint_every=0.0, should_stop=should_stop),
                progress=lambda *done: print(*done, flush=True),
            )
        return COMPLETE

sys.exit(run_program("sweeping", Command))
"""
INTERRUPTED = "sweeping: interrupted; the same command goes on from what is finished"
HELD = "sweeping: out: expected a folder that no other program writes to"
MANY = [pytest.mark.slow, pytest.mark.timeout(3_600)]
# What a run that went on in another process does not share with one that did not.
_OF_A_PROCESS = ("wall_s", "features_wall_s", "command", "digest")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = tmp_path_factory.mktemp("programs")
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start(out, environment):
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def results(out):
    rows = [
        {name: value for name, value in row.items() if name not in _OF_A_PROCESS}
        for row in Records.read(out / "records.jsonl")
    ]
    heads = [restore_checkpoint(head_directory(out, row)) for row in rows]
    return json.dumps(sorted(rows, key=lambda row: row["id"]), sort_keys=True), {
        row["id"]: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(head)]
        for row, head in zip(rows, heads, strict=True)
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """What an uninterrupted run prints and leaves."""
    out = tmp_path_factory.mktemp("whole")
    printed, told = start(out, environment).communicate(timeout=500)
    assert told == ""
    return printed.splitlines(), results(out)


def problem_of(out, number, after, jitter, whole, environment):
    """Stops a run after some lines, and lets it go on; what is wrong, or None."""
    process = start(out, environment)
    with process:
        lines = [process.stdout.readline() for _ in range(after)]
        time.sleep(jitter)
        process.send_signal(number)
        # Little enough is told to wait in the pipe.
        lines += process.stdout.readlines()
        told = process.stderr.read()
    if process.returncode == 0:
        return None if results(out) == whole[1] else "finished otherwise"
    lines_told = told.splitlines()
    own = all(line.startswith("sweeping: ") for line in lines_told)
    if process.returncode != 75 or not own or lines_told[-1] != INTERRUPTED:
        return f"ended with {process.returncode}: {told[-500:]}"
    again = start(out, environment)
    printed, told = again.communicate(timeout=500)
    if again.returncode != 0:
        return f"did not go on: {told[-500:]}"
    if results(out) != whole[1]:
        return "went on to another result"
    batches = sum(line.startswith("features") for line in [*lines, *printed.splitlines()])
    if batches != sum(line.startswith("features") for line in whole[0]):
        return f"{batches} batches computed"
    return None


@pytest.mark.parametrize(
    "num_tries", [pytest.param(1, id="few"), pytest.param(30, id="many", marks=MANY)]
)
def test_a_sweep_stops_at_any_moment_and_goes_on(num_tries, whole, environment, tmp_path, attack):
    rng = random.Random(num_tries)
    outcomes = []
    for attempt in range(num_tries):
        number = rng.choice([signal.SIGTERM, signal.SIGINT])
        # The first try is one in the middle of the backbone's pass.
        after, jitter = rng.randrange(1, len(whole[0])), rng.random() / 2
        if attempt == 0:
            after, jitter = 4, 0.0
        wrong = problem_of(tmp_path / str(attempt), number, after, jitter, whole, environment)
        outcomes.append(wrong and f"{number.name} after line {after} and {jitter:.2f} s: {wrong}")
    attack("SIGTERM or Ctrl-C while a sweep runs", outcomes)


@pytest.mark.parametrize(
    "num_tries", [pytest.param(1, id="few"), pytest.param(10, id="many", marks=MANY)]
)
def test_of_two_programs_on_one_folder_one_is_refused(num_tries, whole, environment, tmp_path, attack):
    rng = random.Random(num_tries)
    outcomes = []
    for attempt in range(num_tries):
        out = tmp_path / str(attempt)
        processes = [start(out, environment)]
        time.sleep(rng.random() * 3 * (attempt % 2))
        processes.append(start(out, environment))
        told = [process.communicate(timeout=500)[1] for process in processes]
        codes = sorted(process.returncode for process in processes)
        lines = "".join(told).splitlines()
        if codes not in ([0, 1], [0, 0]) or len(lines) != sum(codes):
            outcomes.append(f"ended with {codes}: {lines}")
        elif lines and not lines[0].startswith(HELD):
            outcomes.append(lines[0])
        else:
            outcomes.append(None if results(out) == whole[1] else "another result")
    attack("two programs on one folder", outcomes)


@pytest.mark.parametrize(
    "num_tries", [pytest.param(2, id="few"), pytest.param(30, id="many", marks=MANY)]
)
@pytest.mark.parametrize("command", ["bounds", pytest.param("lipschitz", marks=pytest.mark.slow)])
def test_the_command_line_ends_from_its_first_import_on(command, num_tries, request, attack):
    rng = random.Random(num_tries)
    arguments = [command]
    if command == "lipschitz":
        arguments += [request.getfixturevalue("bert"), "--text", "the of is", "--num-inputs", "1"]
    outcomes = []
    for attempt in range(num_tries):
        listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        program = listen + "import sys; from poolax.__main__ import main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-c", program, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not process.stderr.readline().endswith(" poolax.__main__\n"):
            assert process.poll() is None
        time.sleep(0.1 + rng.random() * 8 * (attempt > 0))
        number = rng.choice([signal.SIGTERM, signal.SIGINT])
        process.send_signal(number)
        sent = time.monotonic()
        told = process.communicate(timeout=100)[1]
        seconds = time.monotonic() - sent
        told = "".join(line for line in told.splitlines(True) if not line.startswith("import time:"))
        told_all = told.endswith("poolax: interrupted\n") and "Traceback" not in told
        ended = process.returncode == 75 and told_all and seconds < 20
        outcomes.append(None if ended else f"{number.name}: {process.returncode}, {told[-300:]}")
    attack(f"SIGTERM or Ctrl-C from the first import of poolax {command} on", outcomes)


def _imported(path):
    """Packages that a script imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    found |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {name.split(".")[0] for name in found if name}


SCRIPTS = sorted(
    path
    for path in (pathlib.Path(__file__).parents[2] / "experiments").rglob("*.py")
    # A server that is run without the library takes signals as JAX does.
    if "__main__" in path.read_text() and "poolax" in _imported(path)
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_takes_signals_before_it_imports_anything(script):
    _, block, *_ = ast.parse(script.read_text()).body
    assert ast.unparse(block).splitlines() == [
        "if __name__ == '__main__':",
        "    from poolax.startup import take_signals",
        f"    take_signals('{script.stem}')",
    ]


@pytest.mark.parametrize(
    "num_tries", [pytest.param(1, id="few"), pytest.param(30, id="many", marks=MANY)]
)
def test_a_script_ends_from_its_first_import_on(num_tries, attack, tmp_path):
    rng = random.Random(num_tries)
    outcomes = []
    for attempt in range(num_tries):
        script = SCRIPTS[attempt % len(SCRIPTS)]
        program = (
            "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-c", program, script],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(script.parent)},
        )
        while not process.stderr.readline().endswith(" poolax.startup\n"):
            assert process.poll() is None
        # While it imports what it needs, or soon after.
        time.sleep(0.1 + rng.random() * (attempt > 0))
        number = rng.choice([signal.SIGTERM, signal.SIGINT])
        process.send_signal(number)
        sent = time.monotonic()
        told = process.communicate(timeout=100)[1]
        seconds = time.monotonic() - sent
        told = "".join(line for line in told.splitlines(True) if not line.startswith("import time:"))
        last = told.splitlines()[-1]
        ended = process.returncode == 75 and last.startswith(f"{script.stem}: interrupted")
        ended = ended and "Traceback" not in told and seconds < 20
        outcomes.append(None if ended else f"{script.stem}: {process.returncode}, {told[-300:]}")
    attack("SIGTERM or Ctrl-C from the first import of a script on", outcomes)

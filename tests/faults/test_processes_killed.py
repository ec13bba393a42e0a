"""One of two processes of a run is killed, or fails alone."""

import socket
import subprocess
import sys
import time

import pytest

PROCESS = """
import sys, time
import jax
import numpy as np
from jax.experimental import multihost_utils
from poolax.cli import run_program

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 1)
own = int(sys.argv[1])
jax.distributed.initialize(f"localhost:{sys.argv[2]}", num_processes=2, process_id=own)

class Command:
    resumable, debug = True, False

    def run(self):
        for step in range(100_000):
            multihost_utils.process_allgather(np.ones(3))
            if step == 3:
                print("runs", flush=True)
            if step == 30 and own == 1 and sys.argv[3] == "fails":
                raise ValueError("data_dir: expected a folder")
            time.sleep(0.02)

sys.exit(run_program("running", Command))
"""
LOST = "running: another process of this run has ended: "


def both(what):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(number), port, what],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        while process.stdout.readline() != "runs\n":
            assert process.poll() is None
    return processes


def ends(process):
    try:
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    return process.returncode, [line for line in told.splitlines() if line.startswith("running: ")]


def test_the_other_one_ends_within_a_minute_in_one_line(attack):
    first, second = both("waits")
    second.kill()
    code, lines = ends(first)
    second.communicate()
    held = code == 1 and len(lines) == 1 and lines[0].startswith(LOST)
    attack("one of two processes is killed", [None if held else f"{code}: {lines}"])


@pytest.mark.slow
def test_without_the_coordinator_the_others_end_too(attack):
    outcomes = []
    for _ in range(5):
        first, second = both("waits")
        killed = time.monotonic()
        first.kill()
        code, lines = ends(second)
        first.communicate()
        # JAX's own thread may abort before Python hears of it.
        held = code in (1, -6) and time.monotonic() - killed < 60
        outcomes.append(None if held else f"{code}: {lines}")
    attack("the coordinator of two processes is killed", outcomes)


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_run(attack):
    first, second = both("fails")
    found = ends(first), ends(second)
    wanted = "running: data_dir: expected a folder"
    held = found[0][0] == 1 and found[0][1][0].startswith(LOST) and found[1] == (2, [wanted])
    attack("one of two processes fails alone", [None if held else str(found)])

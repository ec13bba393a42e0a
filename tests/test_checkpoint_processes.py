"""Checkpoints in a run of two processes: all call, one writes, arrays of both are brought together."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from poolax import backbones, training
from poolax.training import Records

START = """
import logging, pathlib, sys, jax
import numpy as np
jax.config.update("jax_platforms", "cpu")
out, port, process = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
jax.distributed.initialize(f"localhost:{port}", 2, process)
from jax.sharding import Mesh, NamedSharding, PartitionSpec

mesh = Mesh(np.array(jax.devices()), ("d",))
split, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("d",), ()))

def spread(array, sharding):
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
"""

SAVE = (
    START
    + """
from poolax import backbones, pooling, training
from poolax._checkpoint import restore_newest
from poolax.blocks import TBM

values = np.arange(24.0, dtype=np.float32).reshape(8, 3)
tree = {"split": spread(values, split), "same": spread(values, everywhere), "own": np.ones(3)}
for step in range(3):
    training.save_checkpoint(out / "tree", step, tree, metadata={"step": step}, keep=2)
    # What was saved by one process is there for the other one.
    assert training.checkpoint_metadata(out / "tree") == {"step": step}

like = {"split": tree["split"], "same": tree["same"], "own": np.ones(3)}
found = training.restore_checkpoint(out / "tree", like=like)
assert found["split"].sharding == split
for shard in found["split"].addressable_shards:
    np.testing.assert_array_equal(np.asarray(shard.data), values[shard.index])

try:
    training.save_checkpoint(out / "tree", 1, tree)
except (ValueError, OSError) as error:
    expected = "step: expected above 2" if process == 0 else "process 0, which failed"
    assert expected in str(error), error
else:
    raise AssertionError("a step that is there was saved again")

config = backbones.BertConfig(50, 16, width=8, num_layers=1, num_heads=2, mlp_dim=16)
shapes = jax.eval_shape(lambda: backbones.Bert.init(config, jax.random.key(0))).params
params = jax.tree.map(
    lambda leaf: spread(np.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape),
                        split if leaf.shape[0] % 4 == 0 else everywhere), shapes
)
backbones.save(backbones.Bert(params=params, config=config), out / "backbone")

model = TBM(num_heads=2, pooler=pooling.AveragePool())
variables = model.init(jax.random.key(0), np.ones((3, 4), np.float32))
for _ in range(2):
    training.save_tbm(out / "block", model, variables)
training.load_tbm(out / "block")

newest = out / "tree" / "2" / "state" / "d"
if process == 0:
    for file in newest.iterdir():
        file.write_bytes(b"")
host = {"split": values, "same": values, "own": np.ones(3)}
step, found = restore_newest(out / "tree", host)
assert step == 1
np.testing.assert_array_equal(found["split"], values)
"""
)

SWEEP = (
    START
    + """
from jax.experimental.multihost_utils import sync_global_devices
from poolax import training
from poolax.training import Classification

states = np.random.default_rng(0).normal(size=(60, 3, 4)).astype(np.float32)
parts = dict(zip(("train", "validation", "test"), np.split(np.arange(60), [40, 50])))
for _ in range(2):
    records = training.sweep_states(states, None, np.arange(60) % 2, Classification(2), splits=parts,
                                    poolers=["avg", "wavg"], seeds=2, epochs=2, batch_size=20, out=out)
    for record in records:
        training.load_head(training.head_directory(out, record)).predict(states)
    assert len(training.Records.read(out / "records.jsonl")) == 4
    sync_global_devices("both have read")
    if process == 0:
        (out / "records.jsonl").unlink()
    sync_global_devices("heads without records")
"""
)


RECORDS = (
    START
    + """
import json
from poolax._processes import told
from poolax.records import Journal, Records

# Each process has a file of its own, as one that sees another's late has: that of the first counts.
path = out / str(process) / "a.jsonl"
what = {"kind": "norm", "of": "W"}
for turn in range(2):
    journal = Journal(path, made_with=lambda: {"command": f"of {process}"})
    row = journal.measured(what, lambda: {"value": [process, turn, float("nan")]})
    assert row["value"] == [0, 0, None] and row["command"] == "of 0", row
assert path.exists() == (process == 0)
assert told(lambda: {"of": [process, "é" * 1000]}, "a row") == {"of": [0, "é" * 1000]}
if process == 0:
    path.write_text("no record\\n")
try:
    Journal(path)
except OSError as error:
    expected = "line 1: expected a JSON object" if process == 0 else "process 0, which failed"
    assert expected in str(error), error
else:
    raise AssertionError("a damaged file was read")
"""
)

FAIL = (
    START
    + """
import fcntl
from poolax._processes import once
from poolax.training.holding import holding

def flock(*_):
    raise OSError(5, "Input/output error")

def told(action):
    try:
        action()
    except OSError as error:
        return str(error)
    return "nothing"

def hold(folder):
    with holding(folder):
        pass

assert told(lambda: hold(out / "free")) == "nothing"
flock, fcntl.flock = fcntl.flock, flock
expected = ["[Errno 5] Input/output error", "out: expected to be held by process 0, which failed for "]
assert told(lambda: hold(out / "failing")).startswith(expected[process])
fcntl.flock = flock

def fail():
    raise OSError("mine")

expected = ["mine", "a file: expected to be written by process 0, which failed"]
assert told(lambda: once(fail, "a file")).startswith(expected[process])
assert once(lambda: 3, "a file") == 3
"""
)

RUN = """
import numpy as np
from poolax import backbones
from poolax.training import PreemptedError
from poolax.training.pretraining import ArrayBatches, NextToken, Optimisation, Plan, pretrain

objective = NextToken(
    backbones.GPT2Config(12, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8)
)
batches = ArrayBatches({"ids": (np.arange(14)[:, None] + np.arange(8)) % 12}, batch_size=5)
plan = Plan(4, Optimisation(learning_rate=0.01, eps=1e-3, accumulation=2), checkpoint_every=1)
"""

PRETRAIN = (
    START
    + RUN
    + """
import signal

def stop(description, step, total):
    if step == 2 and process == 1:
        signal.raise_signal(signal.SIGTERM)

try:
    pretrain(objective, batches, plan, evaluation=batches, out=out / "run", progress=stop)
except PreemptedError as error:
    assert "stopped after step 2, saved in" in str(error), error
else:
    raise AssertionError("one process was told to stop, and not all did")
steps = []
found = pretrain(
    objective, batches, plan, evaluation=batches, out=out / "run",
    progress=lambda description, step, total: steps.append(step),
)
assert steps == [3, 4], steps
if process == 0:
    assert [row["step"] for row in found.records] == [0, 1, 2, 3, 4]
    np.savez(out / "found.npz", *jax.tree.leaves(found.params))
"""
)


def run_two(program, folder, devices=2):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "8"}
    environment.pop("XLA_FLAGS", None)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder), port, process, str(devices)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in ("0", "1")
    ]
    try:
        told = [process.communicate(timeout=200)[1] for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    for process, problems in zip(both, told, strict=True):
        assert process.returncode == 0, problems


def test_every_process_saves_and_one_writes(tmp_path):
    run_two(SAVE, tmp_path)
    values = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    found = training.restore_checkpoint(tmp_path / "tree")
    assert (tmp_path / "tree" / "2.damaged").exists()
    np.testing.assert_array_equal(found["split"], values)
    np.testing.assert_array_equal(found["same"], values)
    np.testing.assert_array_equal(found["own"], np.ones(3))
    for leaf in jax.tree.leaves(backbones.load(tmp_path / "backbone").params):
        np.testing.assert_array_equal(np.ravel(leaf), np.arange(leaf.size))
    assert training.load_tbm(tmp_path / "block").model.num_heads == 2


def test_one_process_reads_and_writes_records(tmp_path):
    run_two(RECORDS, tmp_path, devices=1)


@pytest.mark.slow
def test_what_fails_in_one_process_ends_both(tmp_path):
    run_two(FAIL, tmp_path)


# With one device each, as of GPUs, a state spans devices although no process has several.
@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_heads_of_a_sweep_are_there_for_every_process(tmp_path, devices):
    run_two(SWEEP, tmp_path, devices)
    # Heads that were there without records were written again, each once.
    heads = [path for path in (tmp_path / "heads").glob("*/*/*") if path.is_dir()]
    assert len(heads) == 4
    assert len(Records.read(tmp_path / "records.jsonl")) == 0
    for head in heads:
        training.load_head(head)


@pytest.mark.slow
def test_two_processes_pretrain_as_one_does_and_stop_together(tmp_path):
    run_two(PRETRAIN, tmp_path)
    names = {}
    exec(RUN, names)
    whole = names["pretrain"](names["objective"], names["batches"], names["plan"])
    with np.load(tmp_path / "found.npz") as found:
        for leaf, file in zip(jax.tree.leaves(whole.params), found.files, strict=True):
            np.testing.assert_allclose(found[file], leaf, rtol=1e-4, atol=1e-6)

"""What happens to checkpoints that are damaged, cannot be read, do not match, or are replaced."""

import errno
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from poolax import backbones, pooling, training
from poolax._checkpoint import (
    CheckpointWriter,
    checkpoint_steps,
    remove_checkpoints,
    replace_checkpoint,
    restore_newest,
)
from poolax._files import DamagedFileError
from poolax._processes import once
from poolax.blocks import TBM


@pytest.fixture
def run(tmp_path):
    writer = CheckpointWriter(tmp_path / "run", keep=2)
    for step in (1, 2):
        writer.save(step, {"a": np.full(4, float(step))})
    writer.close()
    return tmp_path / "run"


LIKE = {"a": np.zeros(4)}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut_data(folder):
    for path in (folder / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), MemoryError(), KeyboardInterrupt(), PermissionError(13)]
)
@pytest.mark.parametrize("call", ["restore", "item_metadata"])
def test_what_is_not_about_content_is_raised_and_changes_nothing(run, monkeypatch, error, call):
    before = contents(run)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, call, fail)
    for read in (lambda: restore_newest(run, LIKE), lambda: training.restore_checkpoint(run)):
        with pytest.raises(type(error)) as caught:
            read()
        assert caught.value is error
    monkeypatch.undo()
    assert contents(run) == before
    assert restore_newest(run, LIKE)[0] == 2


FEW_FILES = """
import contextlib, errno, os, resource, sys
import grp  # etils imports it when it first asks who owns a file, for which there may be no file left
import numpy as np
from poolax._checkpoint import restore_newest

like = {"a": np.zeros(4)}
restore_newest(sys.argv[1], like)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for left in range(16):
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    for number in taken[:left]:
        os.close(number)
    try:
        found = f"step {restore_newest(sys.argv[1], like)[0]}"
    except OSError as error:
        found = f"error {error.errno}"
    for number in taken[left:]:
        os.close(number)
    print(found)
"""


def test_a_process_with_few_files_left_to_open_changes_nothing(run):
    before = contents(run)
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(run)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    outcomes = done.stdout.splitlines()
    assert set(outcomes) == {f"error {errno.EMFILE}", "step 2"}, outcomes
    assert contents(run) == before


FULL_DISK = """
import resource, sys
import numpy as np
from poolax import training
from poolax._checkpoint import CheckpointWriter

def in_background():
    writer = CheckpointWriter(sys.argv[1])
    writer.save(4, tree)
    writer.close()

tree = {"a": np.random.default_rng(0).normal(size=10_000)}
for save in (lambda: training.save_checkpoint(sys.argv[1], 3, tree), in_background):
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
    try:
        save()
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(error)
"""


def test_a_disk_without_room_is_told_in_one_line_and_costs_nothing(run):
    before = contents(run)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(run)], capture_output=True, text=True, timeout=300
    )
    told = f"[Errno {errno.EFBIG}] File too large; free some and run the same again: '{run}'"
    assert done.stdout.splitlines() == [told] * 2, done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert restore_newest(run, LIKE)[0] == 2


def test_errors_of_the_system_that_tensorstore_tells_of(run, monkeypatch):
    text = "UNAVAILABLE: Error reading [source] [os_error_code='5']"

    def fail(*_, **__):
        raise ValueError(text)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        restore_newest(run, LIKE)
    assert caught.value.errno == 5
    assert checkpoint_steps(run) == [1, 2]


@pytest.mark.parametrize(
    "like", [{"b": np.zeros(4)}, {"a": np.zeros(5)}, {"a": np.zeros(4, np.float32)}, [np.zeros(4)], {}]
)
def test_another_structure_is_an_error_that_changes_nothing(run, like):
    before = contents(run)
    with pytest.raises(ValueError, match="like: expected the tree saved in"):
        restore_newest(run, like)
    assert contents(run) == before


def test_what_is_damaged_is_renamed_and_the_one_before_is_taken(run, caplog):
    for expected, name in ((1, "2.damaged"), (0, "1.damaged")):
        steps = checkpoint_steps(run)
        cut_data(run / str(steps[-1]))
        kept = contents(run / str(steps[-1])).values()
        with caplog.at_level(logging.WARNING):
            step, found = restore_newest(run, LIKE)
        assert step == expected
        assert (found is None) == (expected == 0)
        assert list(contents(run / name).values()) == list(kept)
        assert f"checkpoint {steps[-1]} is damaged: " in caplog.text
        assert f"it is kept as {name}" in caplog.text
    writer = CheckpointWriter(run)
    writer.save(1, {"a": np.ones(4)})
    writer.close()
    cut_data(run / "1")
    assert restore_newest(run, LIKE) == (0, None)
    assert (run / "1.damaged-2").exists()
    remove_checkpoints(run)
    assert sorted(path.name for path in run.iterdir()) == ["1.damaged", "1.damaged-2", "2.damaged"]


@pytest.mark.parametrize("item", ["checksums", "metadata", "state"])
def test_a_part_that_is_gone_is_damage(run, item):
    (run / "2" / item).rename(run.parent / item)
    with pytest.raises(DamagedFileError, match=f"^{run}: checkpoint 2 is damaged: .*; restore another"):
        training.restore_checkpoint(run)
    assert training.restore_checkpoint(run, step=1)["a"][0] == 1
    assert restore_newest(run, LIKE)[0] == 1


def test_checkpoints_without_checksums_open(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        items = ocp.args.Composite(
            state=ocp.args.StandardSave({"w": np.arange(3.0), "own": [np.ones(2, np.int32)]}),
            metadata=ocp.args.JsonSave({"width": 3}),
        )
        manager.save(4, args=items)
    assert training.checkpoint_metadata(tmp_path) == {"width": 3}
    np.testing.assert_array_equal(training.restore_checkpoint(tmp_path)["w"], np.arange(3.0))
    like = {"w": np.zeros(3), "own": [np.zeros(2, np.int32)]}
    step, found = restore_newest(tmp_path, like)
    assert step == 4
    np.testing.assert_array_equal(found["own"][0], np.ones(2))


@pytest.mark.parametrize(
    "leaf",
    [
        *(np.arange(12.0).reshape(3, 4).T, np.zeros(3) * -1, np.arange(3, dtype=">f4"), np.float32(3)),
        *(np.array([0x7FC12345, 1], np.uint32).view(np.float32), np.array([True, False]), 3, 2.5, True),
        *(np.ones(2, np.complex64), np.ones(3, np.float16), np.arange(5, dtype=np.uint8)),
        *(jnp.ones(2, jnp.bfloat16), jnp.array([-3, 2], jnp.int4)),
        *(jnp.ones(2, jnp.float8_e4m3fn), jax.random.key(3)),
    ],
)
def test_every_kind_of_leaf_has_the_checksum_of_what_is_read(leaf, tmp_path):
    training.save_checkpoint(tmp_path, 0, {"x": [leaf, None], "empty": {}})
    found = training.restore_checkpoint(tmp_path)["x"][0]
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf, found = jax.random.key_data(leaf), jax.random.key_data(found)
    assert (
        np.asarray(found).tobytes() == np.asarray(leaf, order="C").astype(found_type(found)).tobytes()
    )


def found_type(found):
    return np.asarray(found).dtype


def test_what_changes_after_a_save_was_begun_is_not_saved(tmp_path):
    tree = {"a": np.zeros(1000)}
    writer = CheckpointWriter(tmp_path)
    for step in range(3):
        tree["a"][:] = step
        writer.save(step, tree)
        tree["a"][:] = 99
    writer.close()
    for step in range(3):
        assert (training.restore_checkpoint(tmp_path, step=step)["a"] == step).all()


def test_one_load_opens_one_manager(tmp_path, monkeypatch):
    opened = []
    real = ocp.CheckpointManager.__init__

    def counting(self, *arguments, **options):
        opened.append(arguments)
        real(self, *arguments, **options)

    config = backbones.BertConfig(50, 16, width=8, num_layers=1, num_heads=2, mlp_dim=16)
    shapes = jax.eval_shape(lambda: backbones.Bert.init(config, jax.random.key(0))).params
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    backbones.save(backbones.Bert(params=params, config=config), tmp_path / "backbone")
    save_block(tmp_path / "block")
    config = {"num_outputs": 2, "pooler": pooling.to_config(pooling.AveragePool())}
    training.save_checkpoint(tmp_path / "head", 1, {"params": {"x": np.ones(1)}}, metadata=config)
    monkeypatch.setattr(ocp.CheckpointManager, "__init__", counting)
    for read, name in (
        *((backbones.load, "backbone"), (training.restore_checkpoint, "backbone")),
        *((training.load_tbm, "block"), (training.load_head, "head")),
    ):
        opened.clear()
        read(tmp_path / name)
        assert len(opened) == 1
    opened.clear()
    training.checkpoint_metadata(tmp_path / "block")
    assert not opened


def save_block(folder, seed=0):
    model = TBM(num_heads=2, pooler=pooling.AveragePool())
    variables = model.init(jax.random.key(seed), np.ones((3, 4), np.float32))
    training.save_tbm(folder, model, variables, metadata={"seed": seed})
    return variables


def test_a_block_is_replaced_by_a_complete_one(tmp_path, monkeypatch):
    save_block(tmp_path / "block", 0)
    real = ocp.CheckpointManager.save

    def interrupted(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(ocp.CheckpointManager, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_block(tmp_path / "block", 1)
    assert training.load_tbm(tmp_path / "block").config["seed"] == 0
    monkeypatch.setattr(ocp.CheckpointManager, "save", real)
    expected = save_block(tmp_path / "block", 1)
    found = training.load_tbm(tmp_path / "block")
    assert found.config["seed"] == 1
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
    assert len(checkpoint_steps(tmp_path / "block")) == 1
    (newest,) = checkpoint_steps(tmp_path / "block")
    cut_data(tmp_path / "block" / str(newest))
    (tmp_path / "block" / str(newest) / "metadata" / "metadata").write_text("{")
    save_block(tmp_path / "block", 2)
    assert training.load_tbm(tmp_path / "block").config["seed"] == 2
    assert (tmp_path / "block" / f"{newest}.damaged").exists()


def test_a_block_takes_the_place_of_nothing_else(tmp_path):
    training.save_checkpoint(tmp_path / "head", 3, {"w": np.ones(2)}, metadata={"num_outputs": 2})
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "records.jsonl").write_text("{}")
    save_block(tmp_path / "mixed")
    (tmp_path / "mixed" / "notes.txt").write_text("own")
    (tmp_path / "years" / "2019").mkdir(parents=True)
    (tmp_path / "years" / "2019" / "photo").write_text("own")
    before = contents(tmp_path)
    for name, found in (
        *(("head", "another checkpoint, 3"), ("records", "records.jsonl"), ("mixed", "notes.txt")),
        *(("years", "2019"),),
    ):
        with pytest.raises(ValueError, match=rf"directory: expected a new one, .*{name} with {found}"):
            save_block(tmp_path / name)
    assert contents(tmp_path) == before


def test_folders_named_by_numbers_are_not_taken_for_old_checkpoints(tmp_path):
    (tmp_path / "2019").mkdir()
    (tmp_path / "2019" / "photo").write_text("own")
    with pytest.raises(ValueError, match=r"directory: expected .* got .* with 2019, which is none"):
        training.save_checkpoint(tmp_path, 2020, {"w": np.ones(2)}, keep=1)
    with pytest.raises(ValueError, match=r"directory: expected .* got .* with 2019, which is none"):
        CheckpointWriter(tmp_path, keep=1)
    assert (tmp_path / "2019" / "photo").read_text() == "own"
    assert checkpoint_steps(tmp_path) == []


@pytest.mark.parametrize("items", ["default", "state", "params"])
def test_checkpoints_of_another_program_are_refused_and_stay(tmp_path, items):
    tree = {"a": np.ones(4)}
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        save = ocp.args.StandardSave(tree)
        manager.save(3, args=save if items == "default" else ocp.args.Composite(**{items: save}))
    before = contents(tmp_path)
    for change in (
        lambda: restore_newest(tmp_path / "run", LIKE),
        lambda: training.save_checkpoint(tmp_path / "run", 4, tree, keep=1),
        lambda: CheckpointWriter(tmp_path / "run", keep=1),
        lambda: replace_checkpoint(tmp_path / "run", tree, metadata={}, is_own=lambda _: True),
    ):
        with pytest.raises(ValueError, match=r"directory: expected .* with 3"):
            change()
    remove_checkpoints(tmp_path / "run")
    assert contents(tmp_path) == before
    assert checkpoint_steps(tmp_path / "run") == []


@pytest.mark.parametrize("note", ["{", "[]", None])
def test_a_checkpoint_whose_note_is_damaged_is_set_aside(run, note):
    path = run / "2" / "_CHECKPOINT_METADATA"
    path.unlink() if note is None else path.write_text(note)
    (run / "2" / "metadata").rename(run.parent / "metadata")
    assert restore_newest(run, LIKE)[0] == 1
    assert (run / "2.damaged").is_dir()


def test_what_is_not_a_checkpoint_stays_where_a_run_is_done_with(run):
    (run / "3.orbax-checkpoint-tmp").mkdir()
    (run / "notes.txt").write_text("own")
    remove_checkpoints(run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    (run / "notes.txt").unlink()
    remove_checkpoints(run)
    assert not run.exists()
    remove_checkpoints(run)


def test_the_first_error_of_a_save_in_the_background_is_raised_and_all_is_closed(tmp_path, monkeypatch):
    closed = []

    def fail(*_, **__):
        raise ValueError("the first")

    def close(*_, **__):
        closed.append(True)
        raise RuntimeError("the second")

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", fail)
    monkeypatch.setattr(ocp.CheckpointManager, "close", close)
    writer = CheckpointWriter(tmp_path)
    with pytest.raises(ValueError, match="the first"):
        writer.close()
    writer.close()
    assert closed == [True]


def test_an_error_of_the_writer_is_raised_though_the_others_cannot_be_told(monkeypatch, caplog):
    def fail():
        raise ValueError("mine")

    def broadcast(_):
        raise RuntimeError("the others are gone")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    with pytest.raises(ValueError, match="mine"):
        once(fail, "a file")
    assert caplog.messages == ["after another error: the others are gone"]
    with pytest.raises(RuntimeError, match="the others are gone"):
        once(lambda: 1, "a file")


def test_metadata_and_trees_that_cannot_be_saved(tmp_path):
    for tree, metadata, message in (
        ({}, {"x": {1, 2}}, "metadata: expected plain JSON, got: "),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, {}, "two called 'a/b'"),
        ({"a": np.array([object()])}, {}, "tree: expected arrays of numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            training.save_checkpoint(tmp_path / "run", 0, tree, metadata=metadata)
    assert checkpoint_steps(tmp_path / "run") == []


def test_a_head_of_an_interrupted_run_is_replaced_at_the_next_step(tmp_path):
    for value in (1.0, 2.0):
        replace_checkpoint(
            tmp_path, {"w": np.full(2, value)}, metadata={"own": 1}, is_own=lambda m: "own" in m, step=7
        )
    assert checkpoint_steps(tmp_path) == [8]
    assert training.restore_checkpoint(tmp_path)["w"][0] == 2

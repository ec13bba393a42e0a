"""Bits flipped in the files of checkpoints, and files cut off: refused in one line, or bit-equal."""

import pathlib
import random

import jax
import numpy as np
import pytest

from poolax import backbones, pooling, training
from poolax._checkpoint import CheckpointWriter, checkpoint_steps, restore_newest
from poolax.blocks import TBM

FEW, MANY = 24, 400

# Orbax leaves reads behind that it has not begun when another one fails.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*coroutine object NumpyHandler:pytest.PytestUnraisableExceptionWarning"
)


def same(one, other):
    one, other = (jax.tree.flatten(tree) for tree in (one, other))
    return one[1] == other[1] and all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        and np.asarray(a).dtype == np.asarray(b).dtype
        for a, b in zip(one[0], other[0], strict=True)
    )


def damage(content, draw):
    """A flipped bit, a file cut off, or nothing left of it."""
    kind = draw.choice(["flip"] * 6 + ["cut"] * 3 + ["empty"])
    if kind == "empty" or not content:
        return kind, b""
    if kind == "cut":
        return kind, content[: draw.randrange(len(content))]
    position = draw.randrange(len(content))
    changed = content[position] ^ 1 << draw.randrange(8)
    return f"{kind} at {position}", content[:position] + bytes([changed]) + content[position + 1 :]


def attempts(folder, read, tries, seed):
    """What comes of reading a checkpoint after one file of it was damaged, each time another one."""
    draw = random.Random(seed)
    intact = read(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(tries):
        file = draw.choice(files)
        content = file.read_bytes()
        what, changed = damage(content, draw)
        what = f"{file.relative_to(folder)}, {what}"
        file.write_bytes(changed)
        try:
            found = read(folder)
        except (ValueError, OSError) as error:
            text = str(error)
            told = "\n" not in text and str(folder) in text and "checkpoint 3" in text
            yield None if told and len(text) < 900 else f"{what}: {text}"
        else:
            yield None if same(found, intact) else f"{what}: read as something else"
        finally:
            file.write_bytes(content)


def a_head(folder):
    states = np.random.default_rng(0).normal(size=(60, 3, 4)).astype(np.float32)
    parts = np.split(np.arange(60), [40, 50])
    records = training.sweep_states(
        states, None, np.arange(60) % 2, training.Classification(2),
        splits=dict(zip(("train", "validation", "test"), parts, strict=True)),
        poolers=["attn"], seeds=1, epochs=3, batch_size=20, out=folder,
    )  # fmt: skip
    return pathlib.Path(training.head_directory(folder, records[0]))


def read_head(folder):
    head = training.load_head(folder)
    return head.variables, dict(head.config)


def a_block(folder):
    model = TBM(num_heads=2, pooler=pooling.AveragePool())
    variables = model.init(jax.random.key(0), np.ones((3, 4), np.float32))
    for _ in range(4):
        training.save_tbm(folder, model, variables, metadata={"radius": 2.0})
    return folder


def read_block(folder):
    block = training.load_tbm(folder)
    return block.variables, dict(block.config)


def a_backbone(folder):
    config = backbones.BertConfig(50, 16, width=8, num_layers=2, num_heads=2, mlp_dim=16)
    bert = backbones.Bert.init(config, jax.random.key(0))
    backbones.save(bert, folder)
    (folder / "0").rename(folder / "3")
    return folder


def read_backbone(folder):
    found = backbones.load(folder)
    return found.params, repr(found.config)


def a_tree(folder):
    tree = {
        "w": np.random.default_rng(0).normal(size=(40, 50)),
        "list": [np.arange(5), 3],
        "none": None,
    }
    training.save_checkpoint(folder, 3, tree, metadata={"width": [1, 2.5, "é"], "on": True})
    return folder


def read_tree(folder):
    return training.restore_checkpoint(folder), training.checkpoint_metadata(folder)


@pytest.mark.parametrize("tries", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "make", "read"),
    [
        ("tree", a_tree, read_tree),
        ("head", a_head, read_head),
        ("block", a_block, read_block),
        ("backbone", a_backbone, read_backbone),
    ],
)
def test_damage_is_refused_or_harmless(kind, make, read, tries, tmp_path, attack):
    folder = make(tmp_path / kind)
    attack(f"flips and cuts in a checkpoint: {kind}", attempts(folder, read, tries, seed=tries))


@pytest.mark.parametrize("tries", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tries, tmp_path, attack):
    like = {"w": np.zeros((6, 7)), "steps": np.zeros((), np.int32)}
    trees = {
        step: {"w": np.random.default_rng(step).normal(size=(6, 7)), "steps": np.int32(step)}
        for step in (2, 3)
    }
    writer = CheckpointWriter(tmp_path, keep=2)
    for step, tree in trees.items():
        writer.save(step, tree)
    writer.close()

    def outcomes():
        draw = random.Random(tries)
        files = sorted(path for path in (tmp_path / "3").rglob("*") if path.is_file())
        for _ in range(tries):
            file = draw.choice(files)
            content = file.read_bytes()
            what, changed = damage(content, draw)
            file.write_bytes(changed)
            step, found = restore_newest(tmp_path, like)
            aside = tmp_path / "3.damaged"
            kept = aside if step == 2 else tmp_path / "3"
            (kept / file.relative_to(tmp_path / "3")).write_bytes(content)
            is_whole = same(found, trees[step]) and aside.exists() == (step == 2)
            if step == 2:
                aside.rename(tmp_path / "3")
            is_whole &= checkpoint_steps(tmp_path) == [2, 3]
            yield None if is_whole else f"{file}, {what}: step {step}"

    attack("flips and cuts in the newest checkpoint of a run", outcomes())

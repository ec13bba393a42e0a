"""Labels of poolers that no folder can be called by, or that mean another folder."""

import numpy as np
import pytest

from poolax import pooling
from poolax._checkpoint import save_checkpoint
from poolax.training import Classification, Records, head_directory, load_head, sweep_states

LABELS = (
    "../../victim",
    "/victim",
    "..",
    ".",
    "a/b",
    "a\\b",
    "zero\0byte",
    "two\nlines \x1b[31m",
    "x" * 300,
    "x" * 299 + "y",
    "é" * 200,
    "\ud800",
    "~",
    "%2E",
)


def run(labels, out, **options):
    targets = np.arange(30) % 2
    states = np.random.default_rng(0).normal(size=(30, 3, 4)).astype(np.float32)
    splits = dict(zip(("train", "validation", "test"), np.split(np.arange(30), [20, 25]), strict=True))
    poolers = dict.fromkeys(labels, pooling.AveragePool())
    options = {"seeds": 1, "epochs": 1, "out": out, **options}
    return sweep_states(
        states, None, targets, Classification(2), splits=splits, poolers=poolers, **options
    )


def test_labels_stay_in_their_folder(tmp_path, attack):
    out = tmp_path / "a" / "b" / "out"
    records = run(LABELS, out)
    folders = {head_directory(out, row).resolve() for row in records}
    assert len(folders) == len(LABELS)
    outcomes = []
    for row in records:
        folder = head_directory(out, row)
        inside = folder.parent.parent == out / "heads" / "classification"
        kernel = load_head(folder).variables["params"]["output"]["kernel"]
        outcomes.append(None if inside and kernel.shape == (4, 2) else f"{row['pooler']!r}: {folder}")
    attack("labels that are no names of folders", outcomes)
    assert [path.name for path in tmp_path.rglob("*victim*")] == ["..%2F..%2Fvictim", "%2Fvictim"]
    before = (out / "records.jsonl").read_bytes()
    assert [row["id"] for row in run(LABELS, out)] == [row["id"] for row in records]
    assert (out / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("label", ["a/b", "two\nlines"])
def test_a_run_whose_labels_were_folders_goes_on(label, tmp_path):
    [row] = run([label], tmp_path)
    encoded = head_directory(tmp_path, row)
    before = tmp_path / "heads" / "classification" / label / encoded.name
    before.parent.mkdir(parents=True)
    encoded.rename(before)
    assert head_directory(tmp_path, row) == before
    assert run([label], tmp_path)[0] == Records.read(tmp_path / "records.jsonl")[0]
    assert load_head(head_directory(tmp_path, row)).config["task"] == "classification"


def test_no_label_reaches_a_folder_outside(tmp_path):
    out = tmp_path / "out"
    row = run(["../../victim"], out)[0]
    save_checkpoint(tmp_path / "victim" / head_directory(out, row).name, 1, {"w": np.ones(1)})
    assert tmp_path / "victim" not in head_directory(out, row).resolve().parents

"""A user's own images and series to pretrain on, and tokens that follow their texts."""

import os

import numpy as np
import pytest
from PIL import Image

from poolax.data import Dataset, tokens, unlabelled
from poolax.data.series import Series


def draw(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (9, 8), (number, 0, 0)).save(folder / f"{number}.png")


def reds(images):
    return sorted(images[:, 0, 0, 0].tolist())


def test_images_of_any_folders_are_taken_and_some_held_out(tmp_path):
    draw(tmp_path / "flat" / "one", 10)
    train, held_out = unlabelled.read_images(tmp_path / "flat", size=4, validation=0.2)
    assert train.shape == (8, 4, 4, 3)
    assert reds(np.concatenate([train, held_out])) == list(range(10))
    other = unlabelled.read_images(tmp_path / "flat", size=4, validation=0.2, seed=1)[1]
    assert reds(other) != reds(held_out)
    (tmp_path / "flat" / "bad.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"got 1 of 11 that cannot \(bad.png\); skip_bad=True leaves"):
        unlabelled.read_images(tmp_path / "flat", size=4)
    assert len(unlabelled.read_images(tmp_path / "flat", size=4, skip_bad=True)[1]) == 1
    with pytest.raises(ValueError, match="label_column: expected for images by class, got it for"):
        unlabelled.read_images(tmp_path / "flat", size=4, label_column="a")


def test_images_by_class_keep_the_splits_of_labelled_data(tmp_path):
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for label in "ab":
            draw(tmp_path / split / label, count)
    train, held_out = unlabelled.read_images(tmp_path, size=4)
    assert (len(train), len(held_out)) == (12, 6)


def test_series_of_files_of_any_kind(tmp_path):
    steps = np.arange(20.0)
    np.save(tmp_path / "a.npy", steps)
    np.savez(tmp_path / "b.npz", anything=np.stack([steps, -steps]))
    rows = "\n".join(f"2020-01-{day + 1:02d},{day},{-day}" for day in range(20))
    (tmp_path / "c.csv").write_text(f"day,up,down\n{rows}\n")
    lines = (f"{row % 2}\t" + "\t".join(map(str, steps + row)) for row in range(10))
    (tmp_path / "d.tsv").write_text("\n".join(lines))
    one, two, long, labelled = unlabelled.read_series(tmp_path)
    assert (one.shape, two.shape) == ((1, 20), (2, 20))
    assert (long.names, long.values.shape) == (("up", "down"), (20, 2))
    assert labelled.inputs.shape == (10, 20)
    series, observed = unlabelled.training_series([one, two, long, labelled], num_steps=4, patch_len=2)
    windows = 5 * (1 + 2) + 2 * 4 + 5 * len(labelled.splits["train"])
    assert series.shape == observed.shape == (windows, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"1,2\n3,4\n", r"a.csv, line 1: expected the names of columns, got numbers"),
        ("a.csv", b"x,y\n3,z\n", r"a.csv, line 2, column 'y': expected a finite number, got 'z'"),
        ("a.npy", b"none", r"a.npy: expected a file of arrays, got"),
        ("a.md", b"none", r"path: expected files of series \(.csv, .*\) in "),
    ],
)
def test_series_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        unlabelled.read_series(tmp_path)


def test_arrays_have_finite_numbers_and_one_shape(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"numbers of shape \(steps,\) or \(N, steps\), got float64"):
        unlabelled.read_series(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"sources: expected finite floats \(N, steps\), got float64"):
        unlabelled.training_series([np.full((2, 8), np.inf)], num_steps=4, patch_len=2)


def test_tokens_are_written_again_where_their_source_changed(tmp_path):
    folder, source = tmp_path / "texts", tmp_path / "texts" / "a.txt"
    folder.mkdir()
    text = "\n".join(f"The {number}th text." for number in range(100))
    source.write_text(text)

    def once(**options):
        return tokens.write_once(folder, tmp_path, vocab_size=260, **options)

    first, former = once()
    assert former is None
    assert once() == (first, None)
    moved = source.rename(folder / "b.txt")
    assert once()[1] == first
    # Of the same length, and later.
    text, before = moved.read_text(), moved.stat().st_mtime_ns
    second = once()[0]
    moved.write_text(text.replace("text", "tale"))
    os.utime(moved, ns=(before + 1, before + 1))
    third = once()[0]
    assert len({first, second, third}) == 3
    fingerprints = [tokens.read(path).fingerprint for path in (first, second, third)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert tokens.documents(["a", "b"]).version != tokens.documents(["ab"]).version
    same = [f"All of them say the same {number % 9}." for number in range(100)]
    with pytest.raises(ValueError, match=r"near_copies: expected documents .* got none among 100"):
        tokens.write_once(same, tmp_path, near_copies=0.3)


def test_held_out_series_share_no_step_with_what_is_kept():
    rng = np.random.default_rng(0)
    # Values that occur once tell steps apart.
    values = iter(rng.permutation(100_000).astype(np.float64))

    def take(*shape):
        return np.fromiter(values, np.float64, np.prod(shape)).reshape(shape)

    long = Series("long", take(300, 2), ("a", "b"), (200, 250, 300), "none", "none")
    splits = {"train": np.arange(40), "test": np.arange(40, 50)}
    wide = Dataset("wide", take(50, 60), np.zeros(50), splits, "none", "none")
    sources = [long, wide, take(1, 90)]
    kept, held_out = unlabelled.held_out_series(sources, num_steps=40, fraction=0.1, seed=3)
    assert [part.shape for part in kept] == [(2, 160), (36, 60), (1, 50)]
    assert [part.shape for part in held_out] == [(2, 40), (4, 60), (1, 40)]
    parts = [np.concatenate([part.ravel() for part in found]) for found in (kept, held_out)]
    assert not np.intersect1d(*parts).size
    training = np.concatenate([long.values[:200].ravel(), wide.inputs[:40].ravel(), sources[2].ravel()])
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.sort(training))
    other = unlabelled.held_out_series(sources, num_steps=40, seed=4)[1]
    assert not np.array_equal(other[1], held_out[1])
    # What has no room for a window in both parts is kept whole, and has to stand beside something.
    assert unlabelled.held_out_series([take(1, 70), take(9, 5)], num_steps=40)[0][0].shape == (1, 70)
    with pytest.raises(ValueError, match=r"sources: expected several series, or one of 80 steps"):
        unlabelled.held_out_series([take(1, 79)], num_steps=40)
    with pytest.raises(ValueError, match="fraction: expected"):
        unlabelled.held_out_series(sources, num_steps=40, fraction=1.0)

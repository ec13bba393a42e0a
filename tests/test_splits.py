import io

import numpy as np
import pytest
from heads import toy
from PIL import Image

from poolax._splits import check_disjoint, count_copied_rows, count_duplicates, row_digests
from poolax.data import Dataset
from poolax.data.vision import ImageFiles, inpainting
from poolax.training import Classification, sweep_states

SPLITS = {"train": [0, 1, 2], "validation": [3], "test": [4, 5]}


def dataset(inputs, splits, **options):
    splits = {name: np.array(indices) for name, indices in splits.items()}
    return Dataset("made", inputs, np.zeros(len(inputs), int), splits, "made up", "none", **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test": [0, 1, 2]}, "no example in both 'train' and 'test'.*, got 3, 0 among them"),
        ({"validation": [2, 3]}, "no example in both 'train' and 'validation'.*, got 1, 2 among them"),
        ({"test": [3, 4]}, "no example in both 'validation' and 'test'.*, got 1, 3 among them"),
        ({"test": [4, 4]}, "each example once in 'test'.*, got 4 several times"),
        ({"validation": [3, 3]}, "each example once in 'validation'.*, got 3 several times"),
    ],
)
def test_splits_that_overlap_are_refused(changed, message):
    splits = SPLITS | changed
    with pytest.raises(ValueError, match=f"splits: expected {message}"):
        check_disjoint(splits)
    with pytest.raises(ValueError, match=f"splits: expected {message}"):
        dataset(np.zeros((6, 2)), splits)
    states, _, targets, _ = toy(6)
    with pytest.raises(ValueError, match=f"splits: expected {message}"):
        sweep_states(states, None, targets, Classification(3), splits=splits, poolers=["avg"])


def test_training_examples_may_be_oversampled_and_other_splits_are_anyones():
    check_disjoint(SPLITS | {"train": [0, 0, 1], "all": list(range(6))})
    assert len(dataset(np.zeros((6, 2)), SPLITS | {"train": [0, 0, 1]}).splits["train"]) == 3


def test_splits_are_whole_numbers():
    with pytest.raises(ValueError, match=r"splits: expected whole numbers in 'test' of 'made'"):
        dataset(np.zeros((6, 2)), SPLITS | {"test": [4.0]})


COPIED = {"validation in train": 1, "test in train": 2, "test in validation": 2}


@pytest.mark.parametrize(
    "inputs",
    [
        np.array([1.0, 2, 3, 1, 1, 1])[:, None, None],
        np.array(["a", "b", "c", "a", "a", "a"]),
        np.array([["a", "b"], ["b", "a"], ["ab", ""], ["a", "b"], ["a", "b"], ["a", "b"]]),
        np.array([np.nan, 2, 3, np.nan, np.nan, np.nan])[:, None],
    ],
)
def test_copies_are_counted(inputs):
    assert dataset(inputs, SPLITS).count_duplicates() == COPIED
    assert dataset(inputs, {"train": [0, 1], "test": [2]}).count_duplicates() == {"test in train": 0}


def test_masks_are_part_of_an_example():
    mask = np.array([[1, 1], [1, 1], [1, 1], [1, 0], [1, 1], [1, 0]], bool)
    found = dataset(np.zeros((6, 2)), SPLITS, mask=mask).count_duplicates()
    assert found == {"validation in train": 0, "test in train": 1, "test in validation": 1}


def test_images_are_compared_as_files(tmp_path, monkeypatch):
    for index, shade in enumerate([1, 2, 3, 1, 1, 1]):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "png")
        (tmp_path / f"{index}.png").write_bytes(file.getvalue())
    images = ImageFiles(tmp_path, [f"{index}.png" for index in range(6)], size=4)
    data = dataset(images, SPLITS)
    masked = inpainting(data, output_grid=4)
    monkeypatch.setattr(ImageFiles, "__getitem__", None)
    assert data.count_duplicates() == masked.count_duplicates() == COPIED


def test_counts_of_digests():
    assert count_duplicates({"train": [b"x"]}) == {}
    one, other = row_digests(np.array(["ab", "a"]), np.array([0, 0]))
    assert one != other


def test_copied_rows_are_those_of_equal_digests():
    """Rows that a sample does not tell apart among them."""
    rng = np.random.default_rng(0)
    states = rng.integers(0, 2, (60, 1, 300)).astype(np.float32)
    states[::3] = states[0]
    states[9, 0, 1] = 2  # beside the sample
    states[12, 0] = -states[12, 0]  # zeros of another sign
    mask = rng.integers(0, 4, (60, 1)) > 0
    splits = dict(zip(SPLITS, np.split(rng.permutation(60), [30, 40]), strict=True))
    for arrays in ((states, None), (states, mask)):
        digests = row_digests(*arrays)
        chosen = {name: [digests[row] for row in rows] for name, rows in splits.items()}
        found = count_copied_rows(splits, *arrays)
        assert found == count_duplicates(chosen)
        assert min(found.values()) > 0


def test_a_sweep_records_copies_and_constants():
    """Classes that are mixed otherwise in test: what fits training best is not the best there."""
    rng = np.random.default_rng(0)
    targets = np.array([0] * 20 + [1] * 10 + [0, 1] * 5 + [0] * 8 + [1] * 12)
    states = rng.normal(size=(60, 2, 4)).astype(np.float32)
    states[45] = states[0]
    parts = np.split(np.arange(60), [30, 40])
    splits = dict(zip(("train", "validation", "test"), parts, strict=True))
    options = {"splits": splits, "poolers": ["avg"], "seeds": 1, "epochs": 1}
    [row] = sweep_states(states, None, targets, Classification(2), name="random", **options)
    assert (row["baseline"], row["best_constant"]) == (0.4, 0.6)
    assert row["duplicates"] == {"validation in train": 0, "test in train": 1, "test in validation": 0}
    assert row["model"] == "random"

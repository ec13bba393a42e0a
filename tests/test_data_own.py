"""A user's own files as data sets: every kind is read, and what is wrong with one is said with its place."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from poolax import data

WORDS = [("good", "+"), ("bad", "-"), ("fine", "+"), ("awful", "-")]
ROWS = [(f"{word} film {i}", label) for i in range(6) for word, label in WORDS]


def write_csv(path, rows=ROWS, header=("text", "label"), delimiter=","):
    lines = [delimiter.join(map(str, row)) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json_lines(path, rows=ROWS, header=("text", "label")):
    lines = (json.dumps(dict(zip(header, row, strict=True))) for row in rows)
    path.write_text("\n".join(lines))
    return path


def write_parquet(path, rows=ROWS, header=("text", "label")):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), path)
    return path


WRITERS = {
    "commas.csv": write_csv,
    "semicolons.csv": lambda path, **options: write_csv(path, delimiter=";", **options),
    "tabs.tsv": lambda path, **options: write_csv(path, delimiter="\t", **options),
    "lines.jsonl": write_json_lines,
    "columns.parquet": write_parquet,
}


@pytest.mark.parametrize("file", WRITERS)
def test_tables_are_read_alike(tmp_path, file):
    dataset = data.from_files(WRITERS[file](tmp_path / file))
    assert dataset.inputs.tolist() == [text for text, _ in ROWS]
    assert dataset.class_names == ("+", "-")
    names = [dataset.class_names[target] for target in dataset.targets]
    assert names == [label for _, label in ROWS]
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 4,
    }
    for split, indices in dataset.splits.items():  # the classes are even, and stay so
        assert set(np.bincount(dataset.targets[indices])) == {len(indices) // 2}, split


def test_the_seed_sets_the_splits_and_the_notes_name_it(tmp_path):
    file = write_csv(tmp_path / "a.csv")
    first, again, other = (data.from_files(file, seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert "seed 3" in first.notes[-1]
    assert "20% for test and 10% for validation" in first.notes[-1]


def test_cells_with_line_ends_quotes_and_marks_are_read_as_csv_has_them(tmp_path):
    file = tmp_path / "a.csv"
    cell = '"one, ""two""\nthree\u2028four"'
    file.write_text("\ufefftext,label\n" + f"{cell},a\nfive,b\n" * 6, encoding="utf-8")
    assert data.from_files(file).inputs[0] == 'one, "two"\nthree\u2028four'


def test_columns_are_named(tmp_path):
    file = write_csv(tmp_path / "a.csv", header=("body", "topic"))
    dataset = data.from_files(file, text_column="body", label_column="topic")
    assert dataset.class_names == ("+", "-")


def test_pairs_have_scores_from_0_to_1(tmp_path):
    rows = [(f"a {i}", f"b {i}", i % 6) for i in range(30)]
    file = write_csv(tmp_path / "a.csv", rows, ("left", "right", "mark"))
    dataset = data.from_files(file, pair_columns=("left", "right"), score_column="mark")
    assert dataset.inputs.shape == (30, 2)
    assert dataset.inputs[7].tolist() == ["a 7", "b 7"]
    np.testing.assert_allclose(dataset.targets, [i % 6 / 5 for i in range(30)], rtol=1e-6)


def test_scores_of_single_texts_are_values(tmp_path):
    rows = [(f"a {i}", i / 7) for i in range(30)]
    dataset = data.from_files(write_csv(tmp_path / "a.csv", rows, ("text", "score")))
    assert dataset.num_classes is None
    np.testing.assert_allclose(dataset.targets[:, 0], [i / 7 for i in range(30)], rtol=1e-6)


def test_a_column_splits(tmp_path):
    names = ["train", "train", "dev", "TEST"]
    rows = [(*row, names[i % 4]) for i, row in enumerate(ROWS)]
    file = write_csv(tmp_path / "a.csv", rows, ("text", "label", "part"))
    dataset = data.from_files(file, split_column="part")
    assert dataset.splits["validation"].tolist() == list(range(2, 24, 4))
    assert dataset.splits["test"].tolist() == list(range(3, 24, 4))
    assert "split by column 'part'" in dataset.notes


def test_files_split(tmp_path):
    train, test = write_csv(tmp_path / "a.csv"), write_csv(tmp_path / "b.csv", ROWS[:4])
    dataset = data.from_files(train, test=test)
    assert dataset.splits["test"].tolist() == list(range(24, 28))
    assert len(dataset.splits["validation"]) == 2
    assert len(dataset.splits["train"]) == 22


def test_a_folder_of_files_called_by_their_splits(tmp_path):
    for name in ("train", "dev", "test"):
        write_csv(tmp_path / f"{name}.csv")
    dataset = data.from_files(tmp_path)
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        "train": 24,
        "validation": 24,
        "test": 24,
    }
    assert dataset.name == tmp_path.name


def image_folder(folder, splits=("",), classes=("cat", "dog"), number=6):
    rng = np.random.default_rng(0)
    for split in splits:
        for label in classes:
            (folder / split / label).mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 256, (12, 10, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{index}.png")
    return folder


def test_folders_of_images_are_classes(tmp_path):
    dataset = data.from_files(image_folder(tmp_path), size=8)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.inputs.shape == (12, 8, 8, 3)
    assert np.bincount(dataset.targets).tolist() == [6, 6]


def test_folders_of_splits_hold_those_of_classes(tmp_path):
    dataset = data.from_files(image_folder(tmp_path, ("train", "val", "test")), size=8)
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        "train": 12,
        "validation": 12,
        "test": 12,
    }


def test_images_that_cannot_be_read_are_named_and_counted(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "cat" / "bad.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(ValueError, match=r"got 1 of 13 that cannot \(cat/bad.jpg\); skip_bad=True"):
        data.from_files(tmp_path)
    dataset = data.from_files(tmp_path, size=8, skip_bad=True)
    assert len(dataset.inputs) == 12
    assert "1 of 13 images left out that cannot be decoded: cat/bad.jpg" in dataset.notes


def test_arrays_in_files(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    one, two = data.from_files(tmp_path / "a.npz"), data.from_files(tmp_path / "b.npz")
    np.testing.assert_array_equal(one.inputs, two.inputs)
    np.testing.assert_array_equal(one.targets, y)
    assert two.splits["test"].tolist() == list(range(20, 30))


def test_arrays_in_memory_take_their_splits_and_names():
    x, y = np.zeros((6, 4)), np.array([0, 1, 0, 1, 0, 1])
    splits = {"train": [0, 1, 2, 3], "validation": [4], "test": [5]}
    dataset = data.from_arrays(x, y, splits=splits, class_names=("no", "yes"))
    assert dataset.class_names == ("no", "yes")
    assert dataset.splits["test"].tolist() == [5]
    names = ["train"] * 4 + ["dev", "test"]
    assert data.from_arrays(x, y, splits=names).splits["validation"].tolist() == [4]


def test_a_file_of_the_archive_finds_the_other_one(tmp_path):
    for part, sign in (("TRAIN", 1), ("TEST", -1)):
        lines = (f"{i % 2}\t" + "\t".join(str(sign * (i + j)) for j in range(5)) for i in range(12))
        (tmp_path / f"Toy_{part}.tsv").write_text("\n".join(lines))
    dataset = data.from_files(tmp_path / "Toy_TRAIN.tsv")
    assert dataset.name == "Toy"
    assert dataset.inputs.shape == (24, 5)
    assert dataset.splits["test"].tolist() == list(range(12, 24))


def test_series_in_rows_of_steps(tmp_path):
    rows = [(s, t, s + t / 10, "ab"[s % 2]) for s in range(12) for t in reversed(range(4))]
    file = write_csv(tmp_path / "a.csv", rows, ("id", "time", "v", "kind"))
    dataset = data.from_files(
        file, series_column="id", time_column="time", value_column="v", label_column="kind"
    )
    np.testing.assert_allclose(dataset.inputs[5], [5.0, 5.1, 5.2, 5.3], rtol=1e-6)
    assert dataset.class_names == ("a", "b")


def test_long_series_are_forecast(tmp_path):
    rows = [(f"2020-01-01T{i // 60:02}:{i % 60:02}", i, -i) for i in range(300)]
    file = write_csv(tmp_path / "a.csv", rows, ("when", "up", "down"))
    dataset = data.from_files(file, time_column="when", context=16, horizon=4)
    assert dataset.inputs.shape[1] == 16
    assert dataset.targets["values"].shape[1] == 4
    assert set(dataset.splits) == {"train", "validation", "test"}


def test_data_sets_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    columns = {"text": [f"t {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    train = datasets.Dataset.from_dict(columns, features=features)
    hidden = datasets.Dataset.from_dict({**columns, "label": [-1] * 40}, features=features)
    both = datasets.DatasetDict({"train": train, "test": hidden})
    for given in (train, both):
        dataset = data.from_files(given)
        assert dataset.class_names == ("neg", "pos")
        assert len(dataset.inputs) == 40
    assert "test left out: it has no labels" in dataset.notes
    both.save_to_disk(tmp_path / "saved")
    assert data.from_files(tmp_path / "saved").inputs.tolist() == columns["text"]


REFUSED = {
    "no such column": (
        "text,label\na,b\n",
        {"text_column": "txt"},
        r"text_column: expected a column of .*a\.csv \(text, label\), got 'txt'",
    ),
    "no usual column": ("x,y\na,b\n", {}, r"text_column: expected .* \(x, y\), got none"),
    "one class": ("text,label\n" + "a,b\n" * 9, {}, r"expected labels of two classes or more, got 'b'"),
    "as many classes as examples": (
        "text,label\n" + "".join(f"a,{i}\n" for i in range(9)),
        {},
        r"expected fewer classes than examples, got 9 of 9; score_column",
    ),
    "another encoding": (
        b"text,label\nok,a\ncaf\xe9,b\n",
        {},
        r"a\.csv, line 3: expected text in UTF-8, got byte 0xe9; encoding='cp1252'",
    ),
    "cells": ("text,label\na,b\nc\n", {}, r"a\.csv, line 3: expected 2 cells as in line 1, got 1"),
    "open quote": ('text,label\n"a,b\nc,d\n', {}, r"a\.csv, line 2: .*; quotes=False"),
    "no label": ("text,label\na,b\nc,\n", {}, r"a\.csv, line 3, column 'label': .* got nothing"),
    "no number": (
        "text,score\na,1\nb,x\n",
        {},
        r"a\.csv, line 3, column 'score': expected a finite number, got 'x'",
    ),
    "two names": ("text,text\na,b\n", {}, r"line 1: expected a name for each column, got 'text' twice"),
    "nothing": ("", {}, r"expected a line with the names of columns"),
    "a split of another name": (
        "text,label,split\n" + "a,b,train\n" * 3 + "c,d,fold1\n",
        {},
        r"line 5: split_column: expected a split \(.*\), got 'fold1'",
    ),
    "both": ("text,label\na,b\n", {"label_column": "label", "score_column": "text"}, r"beside"),
    "pairs without either": ("text1,text2,kind\na,b,c\n", {}, r"label_column: .*text1, text2, kind"),
    "share": ("text,label\n" + "a,b\nc,d\n" * 9, {"test": 1.5}, r"test: expected .*1\.5"),
    "seed": ("text,label\na,b\n", {"seed": -1}, r"seed: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, case):
    content, options, message = REFUSED[case]
    file = tmp_path / "a.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as found:
        data.from_files(file, **options)
    assert not isinstance(found.value, OSError)
    assert "\n" not in str(found.value)


def test_labels_that_training_never_saw_are_refused_with_their_line(tmp_path):
    train = write_csv(tmp_path / "a.csv")
    test = write_csv(tmp_path / "b.csv", [("x", "+"), ("y", "?")])
    with pytest.raises(ValueError, match=r"b\.csv, line 3: expected a label .* got '\?' in test"):
        data.from_files(train, test=test)


def test_series_of_unequal_length_are_refused_with_their_line(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("0\t1\t2\t3\t4\n1\t1\t2\t3\t4\n1\t1\t2\t3\n")
    with pytest.raises(ValueError, match=r"a\.tsv, line 3: expected 4 values .* got 3") as found:
        data.from_files(file)
    assert not isinstance(found.value, OSError)
    rows = [(0, 0.5, "a"), (0, 0.5, "a"), (1, 0.5, "b")]
    table = write_csv(tmp_path / "b.csv", rows, ("id", "v", "kind"))
    options = {"series_column": "id", "value_column": "v", "label_column": "kind"}
    with pytest.raises(ValueError, match=r"b\.csv, line 4, series '1': expected 2 steps .* got 1"):
        data.from_files(table, **options)


def test_times_out_of_order_are_refused(tmp_path):
    file = write_csv(tmp_path / "a.csv", [(1, 0), (3, 0), (2, 0)], ("t", "v"))
    with pytest.raises(ValueError, match=r"a\.csv, line 4: expected a later time"):
        data.from_files(file, time_column="t")


@pytest.mark.parametrize("given", ["nowhere.csv", 7, "file.xlsx"])
def test_what_is_no_data_is_refused(tmp_path, given):
    if isinstance(given, str):
        given = tmp_path / given
        if given.suffix == ".xlsx":
            given.write_bytes(b"PK")
    with pytest.raises(ValueError, match="expected"):
        data.from_files(given)


def test_rare_classes_stay_in_the_training_split(tmp_path):
    rows = [*ROWS, ("once", "rare"), ("twice", "rarer")]
    dataset = data.from_files(write_csv(tmp_path / "a.csv", rows))
    assert {24, 25} <= set(dataset.splits["train"].tolist())


def test_examination_counts_what_scores_hide(tmp_path):
    rows = [(f"t {i}", "a") for i in range(200)] + [(f"u {i}", "b") for i in range(10)]
    test = [("t 3", "a"), (" ", "b"), ("new", "a")]
    dataset = data.from_files(
        write_csv(tmp_path / "a.csv", rows), test=write_csv(tmp_path / "b.csv", test), seed=1
    )
    found = data.examine(dataset)
    assert found.empty["test"] == 1
    assert found.duplicates["test in train"] + found.duplicates["test in validation"] == 1
    assert found.class_counts == {"a": 180, "b": 9}
    said = " | ".join(found.warnings)
    for words in ("1 of 3 test texts is empty", "classes are uneven: 9 training", "test has 3"):
        assert words in said


def test_texts_under_two_labels_are_counted(tmp_path):
    rows = [(f"t {i}", "ab"[i % 2]) for i in range(60)]
    rows += [("both", "a"), ("both", "b"), ("both", "b"), ("same", "a"), ("same", "a")]
    test = [("both", "a"), ("same", "a"), ("t 0", "b"), ("t 1", "a"), ("new", "a")]
    dataset = data.from_files(
        write_csv(tmp_path / "a.csv", rows),
        test=write_csv(tmp_path / "b.csv", test),
        validation=write_csv(tmp_path / "c.csv", [("t 1", "b"), ("t 1", "b")]),
    )
    found = data.examine(dataset)
    assert found.contradictions == {
        "train": 3,
        "validation": 0,
        "test": 0,
        "validation in train": 0,
        "test in train": 3,
        "test in validation": 1,
    }
    assert "3 of 65 train examples stand in train under another label, too" in found.warnings
    assert "3 of 5 test examples stand in train under another label" in found.warnings
    assert "1 of 5 test examples stands in validation under another label" in found.warnings
    scores = data.from_arrays(["a", "a", "b", "c", "d"] * 4, np.arange(20.0))
    assert data.examine(scores).contradictions == {}


def test_real_files_are_read():
    folder = pathlib.Path(__file__).parents[2] / "shared" / "data" / "ucr" / "ECG200"
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    dataset = data.from_files(folder / "ECG200_TRAIN.tsv")
    assert dataset.inputs.shape == (200, 96)
    assert len(dataset.splits["test"]) == 100


def test_arrays_of_several_files_are_splits(tmp_path):
    rng = np.random.default_rng(0)
    for name, number in (("train", 20), ("test", 6)):
        image = rng.integers(0, 256, (number, 4, 4, 3), np.uint8)
        classes = np.array(["cat", "dog"])
        np.savez(tmp_path / f"{name}.npz", image=image, label=np.arange(number) % 2, classes=classes)
    dataset = data.from_files(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.splits["test"].tolist() == list(range(20, 26))
    assert len(dataset.splits["train"]) + len(dataset.splits["validation"]) == 20
    again = data.from_files(tmp_path / "train.npz", test=tmp_path / "test.npz", name=dataset.name)
    assert again.fingerprint == dataset.fingerprint


def test_a_folder_of_the_archive_is_one_data_set(tmp_path):
    folder = tmp_path / "Beats"
    folder.mkdir()
    for split, number in (("TRAIN", 12), ("TEST", 4)):
        lines = ["\t".join(map(str, [i % 2, *range(i, i + 5)])) for i in range(number)]
        (folder / f"Beats_{split}.tsv").write_text("\n".join(lines))
    dataset = data.from_files(folder)
    assert (dataset.name, dataset.inputs.shape) == ("Beats", (16, 5))
    assert dataset.splits["test"].tolist() == [12, 13, 14, 15]

"""A user's own files on the command line: what is wrong is one line, and the exit code says so."""

import json

import numpy as np
import pytest
from PIL import Image

from poolax import cli

ROWS = "".join(f"good film {i},+\nbad film {i},-\n" for i in range(30))
TABLE = "text,label\n" + ROWS
SERIES = "".join(f"{s},{t},{s % 2}\n" for s in range(9) for t in range(4 if s < 8 else 3))

# Content of the file, flags, what is said.
REFUSED = {
    "no such texts": (
        TABLE,
        ["--text-column", "body"],
        "text_column: expected a column of {} (text, label), got",
    ),
    "no such labels": (
        TABLE,
        ["--label-column", "kind"],
        "label_column: expected a column of {} (text, label)",
    ),
    "no such pair": (
        TABLE,
        ["--pair-columns", "text", "b"],
        "pair_columns: expected a column of {} (text, l",
    ),
    "no such scores": (
        TABLE,
        ["--score-column", "s"],
        "score_column: expected a column of {} (text, label)",
    ),
    "no such split": (
        TABLE,
        ["--split-column", "s"],
        "split_column: expected a column of {} (text, label)",
    ),
    "no such time": (
        TABLE,
        ["--time-column", "t"],
        "time_column: expected a column of {} (text, label)",
    ),
    "one class": (
        "text,label\n" + "a,+\n" * 9,
        [],
        "{}: expected labels of two classes or more, got '+' alone",
    ),
    "fewer examples than classes": (
        "text,label\n" + "".join(f"a,{i}\n" for i in range(8)),
        [],
        "{}: expected fewer classes than examples, got 8 of 8",
    ),
    "unseen labels": (
        "text,label,split\n" + "a,+,train\nb,-,train\n" * 9 + "c,?,test\n",
        [],
        "{}, line 20: expected a label that the training split has, got '?' in test",
    ),
    "another encoding": (
        "text,label\ncaf\xe9,a\n".encode("latin-1"),
        [],
        "{}, line 2: expected text in UTF-8, got byte 0xe9; --encoding cp1252",
    ),
    "two bytes a letter": (
        TABLE.encode("utf-16"),
        [],
        "{}, line 1: expected text in UTF-8, got byte 0xff; --encoding utf-16",
    ),
    "unequal series": (
        "s,v,y\n" + SERIES,
        ["--series-column", "s", "--value-column", "v", "--label-column", "y"],
        "{}, line 34, series '8': expected 4 steps as series '0' has, got 3",
    ),
    "a row too short": (TABLE + "only\n", [], "{}, line 62: expected 2 cells as in line 1, got 1"),
    "a share above one": (
        TABLE,
        ["--test", "1.5"],
        "test: expected a finite number > 0 and < 1, got 1.5",
    ),
    "a test file that is not there": (
        TABLE,
        ["--test", "x.csv"],
        "test: expected a file or folder, got x.csv",
    ),
    "pixels of texts": (
        TABLE,
        ["--size", "32"],
        "size: expected for images, got it for a table of texts, {}",
    ),
    "gaps of texts": (
        TABLE,
        ["--missing", "keep"],
        "missing: expected for files with a series in each line, got it for a table of texts, {}",
    ),
    "a use of texts": (
        TABLE,
        ["--series-task", "imputation"],
        "series_task: expected for a long series, with time_column, got it for a table of texts, {}",
    ),
    "texts of series": (
        "0,1,2,3\n1,2,3,4\n" * 9,
        ["--text-column", "text"],
        "text_column: expected for tables of texts, got it for a file with a series in each line, {}",
    ),
    "windows of hidden spans": (
        "t,v\n" + "".join(f"{t},{t}\n" for t in range(99)),
        ["--time-column", "t", "--series-task", "imputation", "--horizon", "3"],
        "horizon: expected for forecasts, got it for imputation",
    ),
    "a seed where nothing is cut": (
        "text,label,split\n" + "".join(f"a,+,{s}\nb,-,{s}\n" for s in ("train", "dev", "test")),
        ["--split-seed", "3"],
        "split_seed: expected none where all splits are given, got 3",
    ),
    "a seed below zero": (
        TABLE,
        ["--split-seed", "-1"],
        "split_seed: expected a whole number >= 0, got -1",
    ),
}


def refused(capsys, *arguments):
    """What a command says that refuses its arguments, in one line beside bars of progress."""
    assert cli.main(["data", "show", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if "reading images" not in line]
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_one_line(case, tmp_path, capsys):
    content, flags, message = REFUSED[case]
    file = tmp_path / "a.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused(capsys, file, *flags).startswith("poolax: " + message.replace("{}", str(file)))


def test_series_of_unequal_length_are_kept_where_that_is_asked_for(tmp_path, capsys):
    file = tmp_path / "a.tsv"
    file.write_text("0\t1\t2\t3\t4\n1\t1\t2\t3\n" * 9)
    expected = (
        f"poolax: {file}, line 2: expected 4 values as in the first series, got 3; --missing keep"
    )
    told = refused(capsys, file)
    assert told.startswith(expected)
    assert "restore" not in told
    arguments = ["data", "show", str(file), "--missing", "keep", "--out", str(tmp_path), "--json"]
    assert cli.main(arguments) == 0


def test_images_that_cannot_be_read_are_named_and_counted(tmp_path, capsys):
    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(8):
            pixels = np.random.default_rng(index).integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{index}.png")
    folder = tmp_path / "photos"
    (folder / "a" / "bad.png").write_bytes(b"no image")
    (folder / "b" / "cut.png").write_bytes((folder / "b" / "1.png").read_bytes()[:60])
    told = refused(capsys, folder, "--size", "8")
    assert told == (
        f"poolax: {folder}: expected images that can be decoded, got 2 of 18 that cannot "
        "(a/bad.png, b/cut.png); --skip-bad leaves them out"
    )
    arguments = ["data", "show", str(folder), "--size", "8", "--skip-bad", "--out", str(tmp_path)]
    assert cli.main([*arguments, "--json"]) == 0
    [record] = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["splits"] == {"train": 10, "validation": 2, "test": 4}
    assert record["notes"][0].startswith("2 of 18 images left out")


def test_what_to_look_at_first_is_shown(tmp_path, capsys):
    rows = ["same,+,train", "same,+,test", ",-,train", "b,-,validation", *["a,+,train"] * 30]
    file = tmp_path / "a.csv"
    file.write_text("\n".join(["text,label,split", *rows]))
    assert cli.main(["data", "show", str(file)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for expected in (
        "1 of 1 test examples stands in train, too",
        "1 of 32 train texts is empty",
        "classes are uneven: 1 training examples of '-', 31 of the largest class",
        "split by column 'split'",
    ):
        assert expected in told


def test_series_without_a_value_are_counted(tmp_path, capsys):
    series = np.random.default_rng(0).normal(size=(40, 6))
    series[:4] = np.nan
    np.savez(tmp_path / "a.npz", x=series, y=np.arange(40) % 2)
    arguments = ["data", "show", str(tmp_path / "a.npz"), "--out", str(tmp_path), "--json"]
    assert cli.main(arguments) == 0
    [record] = map(json.loads, capsys.readouterr().out.splitlines())
    found = [warning for warning in record["warnings"] if "empty" in warning]
    assert sum(int(warning.split()[0]) for warning in found) == 4
    assert all("inputs" in warning for warning in found)

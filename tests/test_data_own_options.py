"""Every option of reading own files acts on a kind of file, or is refused for it in one line."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
from PIL import Image

from poolax import cli, data

# A value of each option that changes what is read, where it is for that at all.
VALUES = {
    "text_column": "other",
    "label_column": "other",
    "pair_columns": ("text", "other"),
    "score_column": "number",
    "split_column": "part",
    "validation": 0.4,
    "test": 0.4,
    "seed": 3,
    "encoding": "utf-16",
    "quotes": False,
    "size": 4,
    "fit": "pad",
    "skip_bad": True,
    "time_column": "number",
    "series_column": "other",
    "value_column": "other",
    "task": "imputation",
    "context": 4,
    "horizon": 2,
    "stride": 2,
    "missing": "keep",
}
CUT = {"validation", "test", "seed"}
TEXTS = {"text_column", "label_column", "pair_columns", "score_column", "split_column"}
# What acts on each kind of data; all others are refused.
ACTS = {
    "texts": {*TEXTS, *CUT, "encoding", "quotes", "time_column", "series_column"},
    "lines.jsonl": {*TEXTS, *CUT, "encoding", "time_column", "series_column"},
    "images": {*CUT, "size", "fit", "skip_bad"},
    "arrays": CUT,
    "memory": CUT,
    "series": {*CUT, "missing", "time_column", "series_column"},
    "steps": {
        *CUT,
        "label_column",
        "value_column",
        "series_column",
        "time_column",
        "encoding",
        "quotes",
    },
    "long": {
        "time_column",
        "task",
        "context",
        "horizon",
        "stride",
        "encoding",
        "quotes",
        "series_column",
    },
    "hub": {*TEXTS, *CUT},
}


def rows():
    for i in range(20):
        word = ("good", "bad")[i % 2]
        yield {
            "text": f"{word} {i}",
            "other": ("x", "y")[i % 4 > 1],
            "label": word,
            "number": float(i),
            "part": ("train", "train", "dev", "test")[i // 2 % 4],
        }


def csv(path, lines):
    path.write_text("\n".join(lines))
    return path


def texts(folder, option):
    # Cells in quotes, which are text without --quotes.
    cells = [",".join(f'"{cell}"' for cell in row.values()) for row in rows()]
    return csv(folder / "a.csv", [",".join(next(rows())), *cells]), {}


def lines(folder, option):
    return csv(folder / "a.jsonl", map(json.dumps, rows())), {}


def images(folder, option):
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for index in range(9):
            pixels = np.random.default_rng(index).integers(0, 256, (12, 10, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    if option == "skip_bad":
        (folder / "cat" / "bad.png").write_bytes(b"no image")
    return folder, {"size": 8}


def arrays(folder, option):
    path = folder / "a.npz"
    np.savez(path, x=np.arange(60.0).reshape(20, 3), y=np.arange(20) % 2)
    return path, {}


def memory(folder, option):
    return (np.arange(60.0).reshape(20, 3), np.arange(20) % 2), {}


def series(folder, option):
    cells = [[i % 2, *range(i, i + 5)] for i in range(20)]
    if option == "missing":
        del cells[3][-1]
    return csv(folder / "a.csv", [",".join(map(str, row)) for row in cells]), {}


def steps(folder, option):
    cells = (f'{s},{t},{5 - t},{s % 2},"{s % 3}",{s % 5},{t // 2}' for s in range(20) for t in range(4))
    named = {"series_column": "s", "value_column": "v", "label_column": "label"}
    return csv(folder / "a.csv", ["s,v,number,k,label,other,u", *cells]), named


def long(folder, option):
    cells = (f'{t},"{t % 7}",{t + 1}' for t in range(200))
    named = {"time_column": "t", "context": 8, "horizon": 4}
    return csv(folder / "a.csv", ["t,v,number", *cells]), named


def hub(folder, option):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list(list(rows())), {}


MAKERS = {
    "texts": texts,
    "lines.jsonl": lines,
    "images": images,
    "arrays": arrays,
    "memory": memory,
    "series": series,
    "steps": steps,
    "long": long,
    "hub": hub,
}


def outcome(given, **options):
    """What is read, or what is said."""
    try:
        found = data.from_files(given, **options)
    except ValueError as error:
        return str(error)
    splits = {split: indices.tolist() for split, indices in found.splits.items()}
    inputs = np.asarray(found.inputs[np.arange(len(found.targets))]).tolist()
    return repr((inputs, np.asarray(found.targets).tolist(), splits, found.class_names, found.notes))


def test_every_argument_has_a_case():
    flags = {field.name for field in dataclasses.fields(cli.FileFlags)}
    renamed = {"split_seed": "seed", "series_task": "task"}
    assert {renamed.get(flag, flag) for flag in flags} | {"fit", "stride"} == set(VALUES)
    assert set(inspect.signature(data.from_files).parameters) == {*VALUES, "path", "name", "progress"}


@pytest.mark.parametrize("kind", MAKERS)
def test_an_option_acts_or_is_refused(kind, tmp_path):
    for option, value in VALUES.items():
        folder = tmp_path / option
        folder.mkdir()
        given, named = MAKERS[kind](folder, option)
        usual, found = outcome(given, **named), outcome(given, **{**named, option: value})
        refused = found.startswith(f"{option}: expected for ") and ", got it for " in found
        assert refused == (option not in ACTS[kind]), (option, found)
        assert found != usual, option


@pytest.mark.parametrize("kind", ["images", "memory", "steps", "long", "hub"])
def test_files_of_splits_are_refused_where_a_share_is_taken(kind, tmp_path):
    given, named = MAKERS[kind](tmp_path, None)
    (tmp_path / "b.csv").write_text("")
    assert outcome(given, **named, test=tmp_path / "b.csv").startswith("test: expected ")


def test_a_column_of_splits_is_refused_beside_files(tmp_path):
    given, _ = texts(tmp_path, None)
    told = outcome(given, test=given, split_column="part")
    assert told.startswith("split_column: expected for a table that holds all splits, got it for one")


def test_encodings_and_quotes_of_other_formats_are_refused(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(list(rows())), path)
    assert outcome(path, encoding="cp1252") == f"encoding: expected for text files, got it for {path}"
    assert outcome(path, quotes=False) == f"quotes: expected for CSV and TSV, got it for {path}"


def test_a_pair_needs_a_score_or_a_label(tmp_path):
    path = csv(tmp_path / "a.csv", ["a,b,near", *(f"x{i},y{i},{i}" for i in range(20))])
    expected = (
        f"score_column or label_column: expected the name of a column of {path} (a, b, near), got"
    )
    assert outcome(path, pair_columns=("a", "b")).startswith(expected)

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from poolax import cli, data
from poolax.cli._data_options import parse_options
from poolax.cli._data_show import sparkline
from poolax.data import Dataset, Entry, _prepare, _registry
from poolax.data._entry import Download


@pytest.fixture(autouse=True)
def _terminal(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def run(*arguments, code=0):
    assert cli.main(["data", *map(str, arguments)]) == code


@pytest.fixture
def said(capsys):
    def of(*arguments, code=0):
        run(*arguments, code=code)
        return capsys.readouterr().out

    return of


@pytest.mark.parametrize("width", [80, 120])
def test_list_fits_the_terminal_and_says_what_it_does_not_know(width, said, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    text = said("list")
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for name in data.names():
        entry = data.entry(name)
        row = re.search(rf"^{name}(†?) +{entry.task} ", text, re.MULTILINE)
        assert row, name
        assert (row[1] == "†") == (not entry.verified)
        assert " ".join(entry.licence.split()) in " ".join(text.split())
    assert re.search(r"^celeba† +inpainting +162770 +19867 +19962 +TFDS +yes +\d+$", text, re.MULTILINE)
    assert re.search(r"^hellaswag† +[a-z_]+ +39905 +10042 +10003 +TFDS +\d+$", text, re.MULTILINE)
    assert re.search(r"^digits +classification +1078 +359 +360 +embedded +\d+$", text, re.MULTILINE)
    assert re.search(r"^imagenet100† +classification .* files +yes +\d+$", text, re.MULTILINE)
    assert "†: never downloaded as a whole by the authors" in text


def test_list_as_json(said):
    records = [json.loads(line) for line in said("list", "--json").splitlines()]
    assert [record["name"] for record in records] == list(data.names())
    cifar = records[0]
    assert cifar["sizes"] == {"train": 50000, "test": 10000}
    assert cifar["tfds_builder_needs_tensorflow"] is True
    assert cifar["verified"] is False
    assert [download["file"] for download in cifar["downloads"]] == ["cifar-10-binary.tar.gz"]
    voc = next(record for record in records if record["name"] == "voc")
    assert re.match(
        r"its download comes from the mirror that TensorFlow Datasets names", voc["notes"][0]
    )


def test_show_digits(said, tmp_path):
    text = said("show", "digits")
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "train       1078  60.0%", "inputs 1797 × 8 × 8 × 1 float32", "7 7 107 36 36", "Samples of train",
        "licence none stated by scikit-learn", "Picture: poolax-data/digits.png",
    ):  # fmt: skip
        assert " ".join(words.split()) in " ".join(re.sub("[│┃]", " ", text).split())
    pixels = np.asarray(Image.open(tmp_path / "poolax-data" / "digits.png").convert("L"))
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels)) > 10


def test_show_as_json(said):
    record = json.loads(said("show", "digits", "--json", "--out", "pictures"))
    assert record["splits"] == {"train": 1078, "validation": 359, "test": 360}
    assert record["arrays"]["targets"] == {"shape": [1797], "dtype": "int32"}
    assert sum(row["train"] for row in record["labels"]) == 1078
    assert len(record["samples"]) == 3
    assert record["picture"] == "pictures/digits.png"


def test_show_texts(said, test_data, tmp_path):
    text = said("show", "hellaswag", "--data-dir", test_data)
    assert max(map(len, text.splitlines())) <= 80
    assert "    is ripping level tiles off.\n" in text
    assert re.search(r"^    How to .*…$|^    .{75}…$", text, re.MULTILINE)
    assert "inputs  │ 6000 × 5 │  text" in text
    assert not list(tmp_path.iterdir())
    many = said("show", "banking77", "--data-dir", test_data)
    assert "Labels: 77 classes, by frequency in train" in many
    pairs = said("show", "stsb", "--data-dir", test_data)
    assert "    A plane is taking off.\n    An air plane is taking off.\n" in pairs
    assert re.search(r"targets │ +train │ +0 │ +0.540 │ +1.00 │ +0 │", pairs)


@pytest.mark.parametrize(
    ("task", "shape", "missing"),
    [("forecasting", (24, 12), 0), ("imputation", (24, 24), 16)],
)
def test_show_series_with_options(task, shape, missing, said):
    pytest.importorskip("statsmodels")
    options = ["--context", 24, "--task", task, "--horizon=12"]
    options = options[:-1] if task == "imputation" else options
    record = json.loads(said("show", "sunspots", "--json", *options))
    assert record["options_given"]["context"] == 24
    assert record["arrays"]["inputs"]["shape"][1] == shape[0]
    assert record["arrays"]["targets values"]["shape"][1] == shape[1]
    values = next(row for row in record["targets"] if row["target"] == "targets values")
    assert values["missing"] == missing * record["splits"]["train"]
    assert len(record["samples"][0]["values"]) == 24
    by_option = [f"--option={text}" for text in ("context=24", f"task={task}")]
    if task == "forecasting":
        by_option.append("--option=horizon=12")
    assert json.loads(said("show", "sunspots", "--json", *by_option)) == record
    assert "▁" in said("show", "sunspots", *options)


def test_show_real_series(said, test_data):
    text = said("show", "ecg200", "--data-dir", test_data / "ucr")
    assert re.search(r"example 0  -1  min -1.84, mean .*, max 2.28", text)
    assert max(map(len, text.splitlines())) <= 80


def test_maps_of_labels_are_drawn_and_counted(said, monkeypatch, tmp_path):
    labels = np.full((6, 4, 4), 255, np.int32)
    labels[:, :2] = 1

    def read(directory, *, size: int = 8):
        images = np.zeros((6, size, size, 3), np.uint8)
        splits = {"train": np.arange(4), "test": np.array([4, 5])}
        return Dataset("maps", images, labels, splits, "here", "CC0", None, 2, ("sky", "a_bird"))

    entry = Entry(
        name="maps", modality="vision", task="segmentation", title="Maps", source="here",
        citation="none", licence="CC0", preprocessing="none", layout="anything", read=read,
        options={"size": "pixels"},
    )  # fmt: skip
    monkeypatch.setitem(_registry._ENTRIES, "maps", entry)
    command = ("show", "maps", "--data-dir", tmp_path, "--json", "--size", 16)
    record = json.loads(said(*command))
    assert record["arrays"]["inputs"]["shape"] == [6, 16, 16, 3]
    assert [(row["name"], row["train"], row["test"]) for row in record["labels"]] == [
        ("sky", 0, 0), ("a_bird", 32, 16),
    ]  # fmt: skip
    colours = np.asarray(Image.open("poolax-data/maps.png").convert("RGB")).reshape(-1, 3)
    assert (colours == 0xBB).all(axis=1).any()  # void


def test_text_of_data_sends_no_commands_to_the_terminal(said, monkeypatch, tmp_path):
    names = ("\x1b[2Jcleared", "[red]b[/red]", "c")

    def read(directory):
        texts = np.array(["\x1b]0;title\x07", "[bold]x[/bold]", "\x9b31m", "y", "z", "w"])
        splits = {"train": np.arange(4), "test": np.array([4, 5])}
        return Dataset("odd", texts, np.arange(6) % 3, splits, "\x1b[1m", "CC0", None, 3, names)

    entry = Entry(
        name="odd", modality="language", task="classification", title="[blue]T[/blue]\x1b[5m",
        source="\x1b[1mhere", citation="none", licence="CC0", preprocessing="none", layout="any",
        read=read,
    )  # fmt: skip
    monkeypatch.setitem(_registry._ENTRIES, "odd", entry)
    text = said("show", "odd", "--data-dir", tmp_path)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    for part in (r"\x1b[2Jcleared", "[red]b[/red]", r"[blue]T[/blue]\x1b[5m", r"\x1b]0;title\x07"):
        assert part in text


def test_show_own_file(said, tmp_path):
    rows = [("fine", "+"), ("bad", "-"), ("", "-")] * 20
    file = tmp_path / "own.csv"
    file.write_text(
        "\n".join(["body,topic", *(f"{text} {i // 3},{label}" for i, (text, label) in enumerate(rows))])
    )
    options = ("show", file, "--text-column", "body", "--label-column", "topic", "--split-seed", 3)
    text = said(*options)
    for words in (
        "own: language, classification",
        "Labels: 2 classes",
        "seed 3",
        "test has 12 examples",
    ):
        assert words in " ".join(text.split())
    record = json.loads(said(*options, "--json"))
    assert record["splits"] == {"train": 42, "validation": 6, "test": 12}
    assert record["warnings"]


def test_own_files_that_do_not_fit_are_usage_errors(tmp_path, capsys):
    file = tmp_path / "own.csv"
    file.write_bytes(b"body,topic\ncaf\xe9,+\n")
    for options, said in (
        ((), r"own\.csv, line 2: expected text in UTF-8, got byte 0xe9; --encoding cp1252, or"),
        (("--encoding", "latin-1"), r"text_column: expected .* \(body, topic\), got none"),
        (("--data-dir", "x"), r"data_dir: expected none for a file of your own"),
    ):
        run("show", file, *options, code=2)
        assert re.search(said, capsys.readouterr().err)
    run("show", "digits", "--text-column", "body", code=2)
    assert "--text-column: expected an option of 'digits'" in capsys.readouterr().err


def test_prepare_and_show(said, test_data, tmp_path):
    arguments = ("--tfds-dir", tmp_path / "tfds")
    first = said("prepare", "stsb", "--data-dir", test_data, *arguments)
    path = tmp_path / "tfds" / "poolax_stsb" / "default" / "1.0.0"
    assert first == f"Prepared: {path}\n"
    record = json.loads(said("prepare", "stsb", "--data-dir", test_data, "--json", *arguments))
    assert record["path"] == str(path)
    assert said("show", "stsb", *arguments) == said("show", "stsb", "--data-dir", test_data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "mnist"], r"name: expected a data set \(poolax data list\) or a file or folder .*'mnist'"),
        (["show", "digits", "--size", "4"], r"--size: expected an option of 'digits' \(none\) or of the "
         r"command \(--data-dir, --debug, --help, --json, --option, --out, --tfds-dir\), got it"),
        (["show", "cifar10", "--sise=4"], r"--sise: expected an option of 'cifar10' \(--size, --partial\) or .* got it"),
        (["prepare", "voc", "--out", "x"], r"--out: .* \(--size, --fit, --output-grid, --partial\) or .* got it"),
        (["show", "digits", "--option", "size=4"], r"size: expected options of 'digits' \(none\), got it"),
        (["show", "cifar10", "--size", "big"], r"size: expected a whole number, got 'big'"),
        (["show", "cifar10", "--size"], r"option: expected KEY=VALUE, got 'size='"),
        (["show", "cifar10", "--option", "size"], r"option: expected KEY=VALUE, got 'size'"),
        (["show", "voc", "--data-dir", "/none"], r"data_dir: expected a folder, got /none, which is none"),
        (["show", "voc", "--tfds-dir", "t"], r"voc: expected it in t, prepared by '.*' or a data_dir .*"),
        (["prepare", "digits"], r"name: expected a data set that has to be prepared, got 'digits', .*"),
        (["prepare", "miniplaces", "--tfds-dir", "t"], r"miniplaces: expected a data_dir \(--data-dir\) .*"),
        (["prepare"], r"Missing from poolax data prepare: .*"),
        ([], r"Expected one of \{list, prepare, show, tokens\}."),
    ],
)  # fmt: skip
def test_usage_errors_take_one_line(arguments, message, capsys):
    run(*arguments, code=cli.USAGE)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"poolax: {message}", lines[-1].replace(", or a", " or a"))


def test_a_builder_that_needs_tensorflow_is_not_replaced_silently(capsys, monkeypatch, tmp_path):
    if _prepare._has_tensorflow():
        pytest.skip("TensorFlow is installed")

    def read(directory):
        return Dataset("small", np.zeros((2, 1)), {}, {"train": np.arange(2)}, "here", "CC0")

    address = (tmp_path / "nothing.txt").as_uri().replace("file://", "http://127.0.0.1:9")
    entry = dataclasses.replace(
        data.entry("cifar10"), downloads=(Download(address, None, "nothing.txt"),), read=read
    )
    monkeypatch.setitem(_registry._ENTRIES, "cifar10", entry)
    run("prepare", "cifar10", "--tfds-dir", "t", code=cli.FAILURE)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[0] == (
        "TFDS's own builder 'cifar10' needs TensorFlow, which is not installed; preparing from the "
        "files of the publisher."
    )
    assert re.fullmatch(r"poolax: http://127.0.0.1:9/.*: expected a download, got: .*", lines[-1])


def test_a_malformed_file_takes_one_line(capsys, test_data, tmp_path):
    folder = tmp_path / "stsb"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        file = f"sts-{split}.csv"
        (folder / file).write_bytes((test_data / "stsb" / file).read_bytes())
    broken = (folder / "sts-dev.csv").read_text().splitlines()
    broken[6] = "too\tshort"
    (folder / "sts-dev.csv").write_text("\n".join(broken))
    for command in ("show", "prepare"):
        run(command, "stsb", "--data-dir", folder, "--tfds-dir", tmp_path / "tfds", code=cli.FAILURE)
        lines = capsys.readouterr().err.splitlines()
        assert re.fullmatch(
            r"poolax: .*/sts-dev.csv, line 7: expected 7 columns .*, got 2; .*", lines[-1]
        )
    assert not list((tmp_path / "tfds").rglob("*"))


def test_advice_names_options_as_the_command_line_does(capsys, tmp_path):
    rows = [f"2020-01-01 {hour:02d}:00:00,{hour},1" for hour in range(20)]
    rows[7] = "2020-01-01 07:00:00,,1"
    (tmp_path / "weather.csv").write_text("\n".join(["date,OT,b", *rows]))
    command = ("show", "weather", "--data-dir", tmp_path, "--context", 2, "--horizon", 1)
    run(*command, code=cli.FAILURE)
    assert re.fullmatch(
        r"poolax: .*weather.csv: expected the 52696 published rows, got 20; restore the file from its "
        r"source; --partial True reads them as they are\n",
        capsys.readouterr().err,
    )
    run(*command, "--partial", "True", code=cli.USAGE)
    assert re.fullmatch(
        r"poolax: .*weather.csv, line 9, column 'OT': expected a number, got NaN \(1 in all\); "
        r"--missing drop leaves out windows that touch one, --missing keep shows it as missing\n",
        capsys.readouterr().err,
    )
    run(*command, "--partial", "True", "--missing", "drop")


def test_options_by_the_types_of_their_defaults():
    parsed = parse_options(
        data.entry("etth1"),
        ["task=imputation", "channels=0,3", "fraction=0.5", "instance-norm=false", "span=4"],
    )
    assert parsed == {
        "task": "imputation", "channels": (0, 3), "fraction": 0.5, "instance_norm": False, "span": 4,
    }  # fmt: skip
    assert parse_options(data.entry("tinystories"), ["num_stories=None"]) == {"num_stories": None}
    assert parse_options(data.entry("imagenet100"), ["classes=my list.txt", "fit=pad"]) == {
        "classes": "my list.txt", "fit": "pad",
    }  # fmt: skip


def test_sparklines():
    assert sparkline([1.0, 1.0], 5) == "▁▁"
    assert sparkline([None, None, None], 2) == "  "
    assert len(sparkline(np.arange(1000.0).tolist(), 50)) == 50


def test_the_page_names_data_sets_and_builders_that_need_tensorflow(pytestconfig):
    section = (pytestconfig.rootpath / "poolax" / "docs" / "data.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", section))
    assert not set(data.names()) - named
    paragraph = re.search(r"need TensorFlow to prepare[^:]*: ([^.]+)\.", section.replace("\n", " "))
    assert paragraph
    listed = re.findall(r"`(\w+)`", paragraph[1])
    builders = [data.entry(name).tfds for name in data.names()]
    assert listed == [tfds.name for tfds in builders if tfds is not None and tfds.needs_tensorflow]
    for command in re.findall(r"^poolax data (\w+)", section, re.MULTILINE):
        assert command in ("list", "prepare", "show", "tokens")

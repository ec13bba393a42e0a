"""Records that were changed, cut off, or lost their head are not taken for finished."""

import json
import random
import shutil

import pytest
from heads import toy

from poolax.pooling import from_name
from poolax.training import Classification, Limits, Records, head_directory, sweep_states
from poolax.training._states.views import WHOLE
from poolax.training._sweep.identities import Heads
from poolax.training._sweep.plan import SweepPlan
from poolax.training._sweep.readers import Reader
from poolax.training._sweep.write import Folder
from poolax.training.layers import Layers

TASK = Classification(3)
OPTIONS = {"poolers": ["avg", "max"], "seeds": 1, "epochs": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished sweep, and a way to ask which of its heads a folder has."""
    out = tmp_path_factory.mktemp("finished")
    states, mask, targets, splits = toy(30)
    records = sweep_states(states, mask, targets, TASK, splits=splits, out=out, **OPTIONS)
    identity = {"states_fingerprint": records[0]["states_fingerprint"]}
    readers = {name: Reader(name, from_name(name), WHOLE, Layers()) for name in OPTIONS["poolers"]}

    def heads_of(folder):
        numbers = {"seeds": 1, "learning_rates": (1e-3,), "epochs": 2, "batch_size": 32}
        heads = Heads.of(TASK, readers, **numbers, source=identity)
        return SweepPlan(heads, Folder(folder), Limits(), resume=True).finished

    assert list(heads_of(out).values()) == list(records)
    return out, records, heads_of


@pytest.fixture
def copied(finished, tmp_path):
    out, records, heads_of = finished
    shutil.copytree(out, tmp_path / "run")
    return tmp_path / "run", records, heads_of


def flipped(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def swapped(content, rng):
    """Two digits of numbers exchanged, which leaves good JSON."""
    places = [index for index, byte in enumerate(content) if 48 <= byte <= 57]
    one, other = rng.sample(places, 2)
    changed = bytearray(content)
    changed[one], changed[other] = content[other], content[one]
    return bytes(changed)


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("change", [flipped, cut, swapped])
def test_changed_files(copied, attack, change, number):
    out, records, heads_of = copied
    path = out / "records.jsonl"
    content, rng = path.read_bytes(), random.Random(number)
    sound = [json.dumps(row, sort_keys=True) for row in records]

    def outcome():
        changed = change(content, rng)
        path.write_bytes(changed)
        try:
            rows = list(Records.read(path))
            taken = list(heads_of(out).values())
        except ValueError as error:
            message = str(error)
            return None if str(path) in message and "\n" not in message else message
        for row in [*rows, *taken]:
            if json.dumps(row, sort_keys=True) not in sound:
                return f"taken for a record: {row}"
        return None

    attack(f"records.jsonl {change.__name__}", [outcome() for _ in range(number)])


def without_digest(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for row in lines:
        del row["digest"]
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))


def test_fields_set_by_hand(copied, attack):
    """Without a digest, as records of older versions are, the fields have to agree."""
    out, records, heads_of = copied
    path = out / "records.jsonl"
    whole = path.read_text()
    first = records[0]
    names = ("kind", "task", "task_options", "metric", "higher_is_better", "pooler", "resolved")
    names += ("learning_rate", "seed", "epochs", "batch_size", "states_fingerprint", "test_metrics")
    names += ("test", "validation", "baseline", "train_loss", "gradient_norm", "validation_loss")
    names += ("validation_score", "lipschitz", "test_scores", "diverged")

    def outcome(name, value):
        path.write_text(whole)
        without_digest(
            path, lambda row: row.pop(name) if value is KeyError else row.update({name: value})
        )
        try:
            taken = len(heads_of(out))
        except ValueError as error:
            told = str(error)
            named = told.startswith(f"{path}, line 1: {name}: expected ") and "\n" not in told
            return None if named else f"{name} = {value!r}: {told}"
        return None if taken == 0 else f"{name} = {value!r}: {taken} heads taken over"

    values = (KeyError, "x", {}, 9.7)
    # That a baseline is another number, only a digest can tell.
    tried = [(name, value) for name in names for value in values if first[name] != value]
    outcomes = [outcome(*pair) for pair in tried if pair != ("baseline", 9.7)]
    attack("a field of a record without digest set by hand", outcomes)
    path.write_text(whole)
    without_digest(path, lambda row: None)
    assert list(heads_of(out).values()) == list(records)


def test_only_an_id(copied, attack, caplog):
    out, records, heads_of = copied
    path = out / "records.jsonl"
    path.write_text("".join(json.dumps({"id": row["id"]}) + "\n" for row in records))
    attack("a record of only an id", [str(row) for row in heads_of(out).values()] or [None])
    assert "is not taken over: kind: expected head, got none; trained again" in caplog.text


def test_a_head_that_is_gone(copied, attack, caplog):
    out, records, heads_of = copied

    def outcome(row):
        shutil.rmtree(head_directory(out, row))
        taken = {head["id"] for head in heads_of(out).values()}
        return "taken over" if row["id"] in taken else None

    attack("a record whose head is gone", [outcome(row) for row in records])
    assert f"there is no head in {head_directory(out, records[0])}" in caplog.text


def test_what_is_not_finished_is_trained_again(finished, tmp_path):
    out, records, _ = finished
    shutil.copytree(out, tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    shutil.rmtree(head_directory(tmp_path / "run", records[0]))
    path.write_text(path.read_text() + json.dumps({"id": records[1]["id"]}) + "\n")
    states, mask, targets, splits = toy(30)
    again = sweep_states(states, mask, targets, TASK, splits=splits, out=tmp_path / "run", **OPTIONS)
    for one, other in zip(again, records, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert head_directory(tmp_path / "run", one).exists()
    assert list(Records.read(path)) == list(again)

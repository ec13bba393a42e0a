"""What models are called, from a sweep to its table."""

from heads import toy

from poolax import backbones, training
from poolax.reporting import score_table


def test_models_are_called_by_their_checkpoint(bert):
    assert backbones.load(bert).name == bert.name
    assert backbones.load(f"{bert}/").name == bert.name


def test_records_that_are_taken_over_take_a_new_name(tmp_path):
    states, mask, targets, splits = toy(30)
    options = {"splits": splits, "poolers": ["avg"], "seeds": 1, "epochs": 1, "out": tmp_path}
    task = training.Classification(3)
    first = training.sweep_states(states, mask, targets, task, **options)
    assert first[0]["model"] is None
    assert score_table(first).rows[0][0].text == "classification (accuracy in %)"
    trained = []
    again = training.sweep_states(
        states, mask, targets, task, name="mine", progress=lambda *a: trained.append(a), **options
    )
    assert not trained
    assert list(again) == [first[0] | {"model": "mine"}]
    assert list(training.Records.read(tmp_path / "records.jsonl")) == list(again)
    other = training.sweep_states(states + 1, mask, targets, task, **options)
    table = score_table(training.Records.read(tmp_path / "records.jsonl"))
    names = [row[0].text.split(",")[0] for row in table.rows]
    assert len(names) == 2
    assert names[0] == "mine"
    assert other[0]["id"] != first[0]["id"]

"""Several backbones on one data set: the right one named, on the same examples, from what is finished."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest

from poolax import backbones, cli, data, reporting, statistics, training
from poolax.training import comparing
from poolax.training._advice.fitting import Room

POOLERS = ["avg", "max"]


@pytest.fixture(scope="module")
def vits():
    """One that sees images, and one to which all are the same."""
    config = backbones.ViTConfig(8, 2, 1, width=16, num_layers=1, num_heads=2, mlp_dim=16)
    prepare = backbones.ImagePreprocess(scale=1 / 16)
    seeing = backbones.ViT.init(config, jax.random.key(0), prepare)
    embeddings = dict(seeing.params["embeddings"])
    embeddings["patch"] = jax.tree.map(np.zeros_like, embeddings["patch"])
    blind = seeing.replace(params={**seeing.params, "embeddings": embeddings})
    return {"seeing": seeing, "blind": blind}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").subset(120)


@pytest.fixture(scope="module")
def printed(vits, tmp_path_factory):
    """What the command line prints, and what it leaves behind."""
    folder = tmp_path_factory.mktemp("compared")
    for name, vit in vits.items():
        backbones.save(vit, folder / name)
    models, out = [str(folder / name) for name in vits], folder / "out"
    arguments = ["compare", *models, "--data", "digits", "--poolers", *POOLERS, "--num-examples", "120"]
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        assert cli.main([*arguments, "--out", str(out), "--json"]) == 0
    return stream.getvalue(), out, arguments


@pytest.fixture(scope="module")
def found(printed, vits, digits):
    """The same from Python, which takes over all that is finished."""
    _, out, _ = printed
    options = {"poolers": POOLERS, "out": out}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "advise_on_all", never)
        return training.compare(vits, digits, training.task_for(digits), **options)


def never(*_, **__):
    raise AssertionError("trained again")


def test_the_model_that_knows_is_named(found):
    comparison = found
    assert comparison.best == comparison.recommended == "seeing"
    assert comparison.decided
    assert comparison.sentence.startswith(f"Take seeing with {comparison.pooler}: better beyond noise")
    difference = comparison.comparisons["blind"]
    assert difference.high < 0
    assert difference.num_examples == 120
    assert {row["model"] for row in comparison.records} == {"seeing", "blind"}


def test_models_are_compared_by_the_poolers_that_validation_chose(found):
    comparison = found
    groups = {}
    for name, advice in comparison.advice.items():
        assert advice["best"] == max(advice["validation"], key=advice["validation"].get)
        groups[name] = comparison.records.where(model=name, pooler=advice["best"]).predictions()
    again = statistics.compare(groups, "seeing")["blind"]
    assert again == comparison.comparisons["blind"]
    targets = {tuple(head.target) for heads in groups.values() for head in heads}
    assert len(targets) == 1


def test_the_table_has_models_below_each_other_and_poolers_side_by_side(found):
    comparison = found
    record = json.loads(json.dumps(comparison.to_record()))
    table = reporting.comparison_table(record)
    assert list(table.columns)[:3] == ["model", "avg", "max"]
    assert [row[0].text for row in table.rows] == ["seeing", "blind"]
    for row in table.rows:
        own = record["advice"][row[0].text]
        [bold] = [name for name, cell in zip(POOLERS, row[1:3], strict=True) if cell.bold]
        assert bold == own["best"]
        value = own["test"][bold]["value"]
        assert row[1 + POOLERS.index(bold)].text.startswith(f"{value:.3g}")


def test_other_settings_are_not_taken_over(printed, vits, digits, monkeypatch):
    monkeypatch.setattr(comparing, "advise_on_all", never)
    task, out = training.task_for(digits), printed[1]
    for options in ({"seed": 1}, {"minutes": 3.0}, {"poolers": ["avg"]}):
        with pytest.raises(AssertionError, match="trained again"):
            training.compare(vits, digits, task, **{"poolers": POOLERS, **options}, out=out)


def test_examples_that_there_is_no_room_for_are_left_out_alike(digits):
    cut = Room(90, "time").cut(digits, 3)
    assert {name: len(part) for name, part in cut.splits.items()} == dict.fromkeys(digits.splits, 30)
    assert cut.notes[0] == "read 90 of 360 examples, chosen at random: there is no more time"
    again = Room(90, "time").cut(digits, 3)
    assert all(np.array_equal(cut.splits[name], again.splits[name]) for name in cut.splits)
    assert Room(360, "time").cut(digits, 3) is digits


def test_equal_names_are_numbered(vits):
    assert list(comparing.by_name([*vits.values()])) == ["ViT", "ViT (2)"]
    with pytest.raises(ValueError, match="backbones: expected two or more, got 1"):
        training.compare([vits["blind"]], data.load("digits"), training.Classification(10))


def test_the_command_line(printed, found, capsys):
    text, out, arguments = printed
    [record] = map(json.loads, text.splitlines())
    expected = json.loads(json.dumps(found.to_record()))
    assert {name: record[name] for name in expected} == expected
    assert (out / "comparison.md").read_text().startswith(f"## {found.sentence}")
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert "Take seeing with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}"], "models: expected two backbones or more, got "),
        (["{0}", "{0}", "--poolers", "mean"], "name: expected one of "),
        (["{0}", "/nowhere"], "path_or_hub_id: expected "),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments, message, vits, tmp_path, capsys):
    backbones.save(vits["blind"], tmp_path / "vit")
    given = [argument.replace("{0}", str(tmp_path / "vit")) for argument in arguments]
    assert cli.main(["compare", *given, "--data", "digits", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"poolax: {message}")
    assert told.count("\n") == 1

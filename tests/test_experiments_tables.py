"""The comparisons of poolers at their smallest, and the tables made from their records."""

import ast
import csv
import dataclasses
import importlib
import json
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from poolax import backbones, cli, quickstart
from poolax._progress import no_progress
from poolax.data import load
from poolax.records import packed
from poolax.training import PreemptedError, Records

SMALL = (
    "--num-examples",
    "20",
    "--epochs",
    "1",
    "--seeds",
    "2",
    "--poolers",
    "last",
    "attn",
    "--no-raw",
)
ADAM = ("--solvers", "adam", "--further-rates", "0")


@pytest.fixture(scope="module")
def experiments(pytestconfig):
    """Imports modules of the experiments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def run(experiments):
    comparison = experiments("comparison")
    return lambda name, *arguments: comparison.main(
        experiments(name).STUDY, [str(argument) for argument in arguments]
    )


def check_outputs(experiments, out, name, num_tables):
    """Every file of a comparison says what its records say."""
    comparison, study = experiments("comparison"), experiments(name).STUDY
    records = Records.read(out / f"{name}.jsonl")
    assert len({row["id"] for row in records}) == len(records)
    for row in records:
        assert np.isfinite([row["test"], row["validation"], row["baseline"]]).all()
    tables = comparison.tables(records)
    assert len(tables) == num_tables
    for table in tables:
        assert table.columns[1:3] == ["validation", "test"]
        assert [row[0].text for row in table.rows][:2] == ["last", "attn"]
    text = comparison.markdown(tables, title=study.title)
    assert (out / f"{name}.md").read_text() == text
    assert (out / f"{name}.tex").read_text() == "\n".join(table.latex() for table in tables)
    tidy = list(csv.DictReader((out / f"{name}.csv").read_text().splitlines()))
    for row in tidy:
        chosen = [
            head["test"]
            for head in records.where(dataset=row["dataset"], task=row["task"], pooler=row["pooler"])
            if head["learning_rate"] == float(row["learning_rate"])
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(chosen))
    assert "at most 20 examples of each split" in text
    assert (out / f"{name}.png").exists()


@pytest.mark.parametrize(
    ("datasets", "metrics"),
    [
        (["stsb"], {"spearman"}),
        pytest.param([], {"accuracy", "spearman", "macro_f1"}, marks=pytest.mark.slow),
    ],
)
def test_language(experiments, run, bert, test_data, tmp_path, capsys, datasets, metrics):
    arguments = ["--data-dir", test_data, "--backbone", bert, "--max-tokens", "12", *SMALL, *ADAM]
    arguments += ["--out", tmp_path / "out"]
    arguments += ["--datasets", *datasets] if datasets else []
    assert run("language", *arguments) == 0
    assert "similarity" in capsys.readouterr().out
    check_outputs(experiments, tmp_path / "out", "language", len(datasets) or 4)
    text = (tmp_path / "out" / "language.md").read_text()
    assert "last is the first token here." in text
    assert "texts cut to 12 tokens" in text
    records = Records.read(tmp_path / "out" / "language.jsonl")
    assert {row["metric"] for row in records} == metrics
    assert {(row["backbone"], row["pretrained"]) for row in records} == {("model", "not said")}
    before = (tmp_path / "out" / "records.jsonl").read_bytes()
    assert run("language", *arguments, "--json") == 0
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == before
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == list(records)


@pytest.mark.parametrize(
    ("name", "dataset"), [("language", "topics"), ("vision", "digits"), ("time_series", "sunspots")]
)
def test_quick_is_small_where_nothing_else_is_said(experiments, name, dataset):
    comparison, study = experiments("comparison"), experiments(name).STUDY
    given = dataclasses.replace(study.options, quick=True)
    small = comparison.made_small(given, study.options, study.quick)
    small.check()
    assert (small.datasets, small.num_examples, small.seeds, small.epochs) == ((dataset,), 40, 2, 1)
    given = dataclasses.replace(given, seeds=3, datasets=("mine.csv",))
    small = comparison.made_small(given, study.options, study.quick)
    assert (small.datasets, small.num_examples, small.seeds, small.epochs) == (("mine.csv",), 40, 3, 1)
    assert comparison.made_small(study.options, study.options, study.quick) is study.options


PRETRAINED = ("--pretrain-epochs", "2", *SMALL)


@pytest.mark.parametrize(
    ("name", "datasets", "num_tables"),
    [
        ("vision", ["digits"], 1),
        ("time_series", ["ecg200"], 1),
        pytest.param("vision", [], 3, marks=pytest.mark.slow),
        pytest.param("time_series", [], 6, marks=pytest.mark.slow),
    ],
)
def test_pretrained_backbones(experiments, run, test_data, tmp_path, name, datasets, num_tables):
    chosen = ["--datasets", *datasets] if datasets else []
    arguments = ["--data-dir", test_data, "--out", tmp_path, *PRETRAINED, *ADAM, *chosen]
    assert run(name, *arguments) == 0
    check_outputs(experiments, tmp_path, name, num_tables)
    text = (tmp_path / f"{name}.md").read_text()
    assert "Adam at 0.001 or 0.01" in text
    assert "learning rates chosen by mean validation score" in text


@pytest.mark.slow
def test_both_solvers_stand_side_by_side(run, test_data, tmp_path, capsys):
    arguments = ["--data-dir", test_data, "--out", tmp_path, *PRETRAINED, "--datasets", "digits"]
    assert run("vision", *arguments) == 0
    records = Records.read(tmp_path / "vision.jsonl")
    converged = [row for row in records if "solver" in row]
    assert {row["pooler"] for row in converged} == {row["pooler"] for row in records}
    [solved] = [row for row in converged if row["learning_rate"] is None]
    assert solved["pooler"] == "last"
    text = (tmp_path / "vision.md").read_text()
    assert (
        "| pooler | Adam, validation | Adam, test | Adam, difference | converged, validation |" in text
    )
    assert "solved to the least loss" in text
    assert "seeds change nothing" in text


def small_backbones(folder):
    """Paths of small backbones of two modalities, as own pretraining leaves them."""
    vit = backbones.ViTConfig(32, 8, 3, 8, 1, 2, 8, use_mask_token=True)
    dino = backbones.ViTConfig(56, 14, 3, 8, 1, 2, 8)
    series = backbones.MomentConfig(
        num_steps=64, patch_len=8, max_patches=8, width=8, num_layers=1, num_heads=2, head_dim=4,
        mlp_dim=8,
    )  # fmt: skip
    key, paths = jax.random.key(0), {}
    prepare = backbones.ImagePreprocess(mean=(0.5, 0.5, 0.5))
    models = {
        "vit-0": backbones.ViT.init(vit, key, prepare),
        "dinov2-0.1": backbones.ViT.init(dino, key, prepare),
        "moment-0": backbones.Moment.init(series, key, backbones.SeriesPreprocess(64, 8)),
    }
    for name, model in models.items():
        paths[name] = str(folder / name / "backbone")
        backbones.save(model, paths[name])
    return paths


def test_given_backbones_have_rows_of_their_own(experiments, test_data, tmp_path):
    comparison, study = experiments("comparison"), experiments("vision").STUDY
    paths = small_backbones(tmp_path)
    options = dataclasses.replace(
        study.options,
        data_dir=str(test_data),
        num_examples=4,
        backbone=tuple(paths.values()),
        image_size=42,
    )
    case = study.cases["cifar10"]
    context = comparison.Context(options, tmp_path, no_progress)
    data = case.dataset(context)
    own, dino = case.models(context, data, "vision")
    assert (own.name, own.pretrained) == ("vit-0", "filling in patches; CLS is read by no loss")
    assert own.data is data
    assert (dino.name, dino.data.inputs.shape) == ("dinov2-0.1", (12, 42, 42, 3))
    assert dino.pretrained.startswith("self-distillation")
    assert "images brought to 42 × 42 pixels" in dino.data.notes
    np.testing.assert_array_equal(
        np.asarray(dino.data.targets)[dino.data.splits["test"]],
        np.asarray(data.targets)[data.splits["test"]],
    )
    assert dino.backbone(dino.backbone.preprocess(dino.data.inputs[:1])).states.shape == (1, 10, 8)
    # Grey digits, of the size of none.
    digits = study.cases["digits"]
    small, grey = digits.models(context, digits.dataset(context), "vision")
    assert small.data.inputs.shape == (12, 32, 32, 3)
    assert grey.data.inputs.shape == (12, 42, 42, 3)
    assert grey.data.inputs.max() > 200
    with pytest.raises(
        ValueError, match=r"backbone: expected a backbone of modality vision, got series"
    ):
        comparison.check_backbones(options.backbone, {"vision"})
    comparison.check_backbones(options.backbone, {"vision", "series"})
    twice = (paths["vit-0"], f"{tmp_path}/vit-0/../vit-0/backbone")
    with pytest.raises(ValueError, match="backbone: expected different names"):
        comparison.check_backbones(twice, {"vision"})


def test_output_grid(experiments, test_data, tmp_path):
    context = experiments("comparison._study").Context
    study = experiments("vision").STUDY
    options = dataclasses.replace(study.options, data_dir=str(test_data), num_examples=8, output_grid=8)
    data = study.cases["cifar10_inpainting"].dataset(context(options, tmp_path, no_progress))
    assert data.targets.shape[1] == 8 * 8 // 4 * 3


def own_texts(path, column="text"):
    rows = [f"{word} the {i},{word}" for i in range(12) for word in ("of", "is")]
    path.write_text("\n".join([f"{column},label", *rows]))
    return path


def test_own_texts_are_compared_on(run, bert, tmp_path, capsys):
    own = own_texts(tmp_path / "reviews.csv", "body")
    arguments = ["--backbone", bert, "--datasets", own, "--text-column", "body", "--split-seed", "3"]
    arguments += ["--poolers", "avg", "--solvers", "converged", "--out", tmp_path / "out"]
    assert run("language", *arguments) == 0
    told = capsys.readouterr()
    assert "reviews: test has 4 examples alone" in told.err
    assert "(stratified by label, seed 3)" in told.out
    records = Records.read(tmp_path / "out" / "language.jsonl")
    assert {row["dataset"] for row in records} == {"reviews"}
    assert {row["test"] for row in records} == {1.0}
    for row in records:
        assert [row["baselines"][part]["raw"]["accuracy"] for part in ("validation", "test")] == [1, 1]
    assert "raw: a linear head on pixels, steps or weights of words" in told.out


def images(folder):
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(9):
            pixels = np.random.default_rng(index).integers(0, 256, (12, 10, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


def ucr_file(path):
    lines = ["\t".join(map(str, [i % 2, *np.arange(20) + i])) for i in range(18)]
    path.write_text("\n".join(lines))
    return path


def long_file(path):
    rows = [f"{step},{step % 7}" for step in range(300)]
    path.write_text("\n".join(["date,load", *rows]))
    return path


@pytest.mark.parametrize(
    ("study", "name", "flags", "task"),
    [
        ("vision", lambda folder: images(folder / "photos"), {"size": 8}, "classification"),
        ("time_series", lambda folder: ucr_file(folder / "beats.tsv"), {}, "classification"),
        (
            "time_series",
            lambda folder: long_file(folder / "meter.csv"),
            {"time_column": "date", "context": 16, "horizon": 4},
            "forecasting",
        ),
        ("time_series", lambda _: "sunspots", {}, "forecasting"),
        ("time_series", lambda _: "sunspots_imputation", {}, "imputation"),
        ("vision", lambda _: "digits_inpainting", {}, "inpainting"),
        ("language", lambda _: "topics", {}, "classification"),
    ],
)
def test_rows_of_other_data_sets(experiments, tmp_path, study, name, flags, task):
    comparison, case = experiments("comparison"), experiments("comparison._chosen")
    study, path = experiments(study).STUDY, str(name(tmp_path))
    files = cli.FileFlags(**flags)
    options = dataclasses.replace(study.options, datasets=(path,), num_examples=8, files=files)
    [(_, row)] = case.chosen_cases(study, options).items()
    data = row.dataset(comparison.Context(options, tmp_path, no_progress))
    case.check_together(study, {path: data})
    found = row.task(data)
    assert found.name == task
    found.check_targets(data.targets)
    assert len(data.splits["train"]) == 8


def test_raw_inputs_are_rows_of_numbers(experiments):
    raw, data = experiments("comparison._raw"), experiments("poolax.data")
    labels = np.arange(20) % 2

    def rows(inputs, **options):
        dataset = data.from_arrays(inputs, labels, **options)
        return raw.raw_rows(dataset, np.arange(20), 14)

    photos = (np.arange(20 * 70 * 64 * 3) % 251).astype(np.uint8).reshape(20, 70, 64, 3)
    assert rows(photos).shape == (20, 23 * 32 * 3)
    np.testing.assert_allclose(rows(photos)[3, 0], photos[3, :3, :2, 0].mean())
    series = np.arange(60.0).reshape(20, 3)
    series[2, 1] = np.nan
    mask = np.ones((20, 3), bool)
    mask[4, 2] = False
    found = rows(series, mask=mask)
    np.testing.assert_array_equal(found[2], [6, 7, 8])
    np.testing.assert_array_equal(found[4], [12, 13, 12.5])
    # Words of the training examples alone.
    texts = ["red blue"] * 14 + ["green red"] * 6
    assert rows(texts).shape == (20, 2)
    assert (rows(texts)[-1] > 0).sum() == 1
    assert rows(np.array([["red", "blue"]] * 20, dtype=object)).shape == (20, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "name", "flags"),
    [
        ("vision", lambda folder: images(folder / "photos"), ["--size", "8"]),
        ("time_series", lambda folder: ucr_file(folder / "beats.tsv"), []),
    ],
)
def test_backbones_of_other_data_sets(run, tmp_path, study, name, flags):
    arguments = ["--datasets", name(tmp_path), *flags, "--out", tmp_path / "out", *PRETRAINED]
    assert run(study, *arguments, *ADAM) == 0


DIGITS = ("--datasets", "digits", *PRETRAINED, *ADAM)


def test_diverged_heads_are_told_by_the_exit_code(run, tmp_path, capsys):
    layers = ("--layers", "0", "mix:0+output")
    arguments = (*DIGITS, "--poolers", "avg", "--learning-rates", "1e38", *layers, "--out", tmp_path)
    assert run("vision", *arguments) == 3
    records = Records.read(tmp_path / "vision.jsonl")
    assert [row["layers"] for row in records] == ["0", "0", "mix:0+output", "mix:0+output"]
    assert "Complete with 4 diverged heads" in capsys.readouterr().err
    assert "| diverged |" in (tmp_path / "vision.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "mnist"], "vision: datasets: expected digits, cifar10, cifar10_inpainting, "),
        (["--datasets", "ecg200"], "vision: datasets: expected those of modality vision, got 'ecg200'"),
        (["--size", "8"], "vision: --size: expected for files of your own, got it without one"),
        (["--datasets", "{own}"], "vision: datasets: expected those of modality vision, got '/"),
        (
            ["--datasets", "{own}", "--label-column", "topic"],
            "vision: label_column: expected a column of /",
        ),
        (
            ["--datasets", "{own}", "--size", "8"],
            "vision: size: expected for images, got it for a table of texts, /",
        ),
        (["--poolers", "mean"], "vision: name: expected"),
        (["--seeds", "0"], "vision: seeds: expected a whole number >= 1, got 0"),
        (["--data-dir", "/nowhere"], "vision: data_dir: expected a folder, got /nowhere"),
        (["--colour", "red"], "vision: Unrecognized options: --colour, red"),
    ],
)
def test_usage_errors_are_one_line(run, arguments, message, tmp_path, capsys):
    own = own_texts(tmp_path / "reviews.csv")
    arguments = [argument.replace("{own}", str(own)) for argument in arguments]
    assert run("vision", "--out", tmp_path / "out", *arguments) == 2
    told = capsys.readouterr().err
    told = "".join(line for line in told.splitlines(True) if not line.startswith("reviews: "))
    assert told.startswith(message)
    assert told.count("\n") == 1


@pytest.fixture(scope="module")
def models(tmp_path_factory, bert):
    """A model of each modality: one of images of 3 channels and patches of 4 pixels."""
    folder = tmp_path_factory.mktemp("models")
    config = backbones.ViTConfig(8, 4, 3, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    vit = backbones.ViT.init(config, jax.random.key(0), preprocess=backbones.ImagePreprocess())
    backbones.save(vit, folder / "tiny-vit")
    return {"vit": folder / "tiny-vit", "bert": bert}


@pytest.mark.parametrize(
    ("study", "data", "model", "message"),
    [
        (
            "vision",
            "small photos",
            "vit",
            "expected one for images of 2 × 2 pixels and 3 channels ('small photos'), ",
        ),
        ("vision", "photos", "bert", "expected a backbone of modality vision, got language ("),
        ("language", "topics", "vit", "expected a backbone of modality language, got vision ("),
        ("time_series", "sunspots", "vit", "expected a backbone of modality series, got vision ("),
    ],
)
def test_models_that_do_not_fit_are_refused(run, models, tmp_path, capsys, study, data, model, message):
    files = ["--size", "2" if data == "small photos" else "8"] if study == "vision" else []
    is_small, data = data == "small photos", images(tmp_path / data) if study == "vision" else data
    arguments = ["--datasets", data, *files, "--backbone", models[model], "--out", tmp_path / "out"]
    assert run(study, *arguments) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{study}: ")]
    assert len(told) == 1
    assert told[0].startswith(f"{study}: backbone: {message}")
    if is_small:
        assert told[0].endswith("tiny-vit, which takes at least 4 × 4 and 3")


def test_own_images_are_compared_on_with_a_model(run, models, tmp_path):
    arguments = ["--datasets", images(tmp_path / "photos"), "--size", "8", "--backbone", models["vit"]]
    arguments += ["--poolers", "avg", "--solvers", "converged", "--no-raw", "--out", tmp_path / "out"]
    assert run("vision", *arguments) == 0
    records = Records.read(tmp_path / "out" / "vision.jsonl")
    assert {row["backbone"] for row in records} == {"tiny-vit"}


def test_failure_and_interruption(run, monkeypatch, tmp_path, capsys):
    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # at once

    def preempt(*_, **__):
        raise PreemptedError("state is saved")

    def fail(*_, **__):
        raise RuntimeError("no more memory")

    monkeypatch.setattr(quickstart, "pretrain_vit", stop)
    assert run("vision", *DIGITS, "--out", tmp_path) == 75
    assert "the same command goes on from what is finished" in capsys.readouterr().err
    monkeypatch.setattr(quickstart, "pretrain_vit", preempt)
    assert run("vision", *DIGITS, "--out", tmp_path) == 75
    assert "the same command goes on from what is finished" in capsys.readouterr().err
    monkeypatch.setattr(quickstart, "pretrain_vit", fail)
    assert run("vision", *DIGITS, "--out", tmp_path) == 1
    assert "vision: no more memory" in capsys.readouterr().err


@pytest.mark.slow
def test_simulated_devices_change_nothing(pytestconfig, tmp_path):
    script = pytestconfig.rootpath / "experiments" / "vision.py"
    found = {}
    for devices in ("1", "8"):
        out = tmp_path / devices
        command = [sys.executable, script, *DIGITS, "--devices", devices, "--out", out]
        subprocess.run(command, check=True, capture_output=True)
        rows = Records.read(out / "records.jsonl")
        assert rows[0]["devices"].startswith(f"{devices} x")
        found[devices] = {(row["pooler"], row["learning_rate"], row["seed"]): row for row in rows}
    assert len(found["1"]) == 8
    for key, one in found["1"].items():
        for field in ("test", "validation", "train_loss", "validation_loss"):
            np.testing.assert_allclose(found["8"][key][field], one[field], atol=1e-5)


def test_commands_have_no_paths(experiments):
    command = experiments("comparison").portable_command
    given = "language.py --data-dir /some/where --seeds 2 --out=/tmp/run"
    given += " --backbone ./models/bert minilm /tmp/runs/gpt2-64/backbone --epochs 1"
    expected = "python experiments/language.py --data-dir DIR --seeds 2 --out=run"
    expected += " --backbone bert all-MiniLM-L6-v2 gpt2-64 --epochs 1"
    assert command(given) == expected


def test_the_summary_is_what_the_records_give(experiments):
    assert experiments("summary").main(["--check"]) == 0


def head(pooler, seed, test):
    return {
        "kind": "head",
        "id": f"{pooler}{seed}",
        "study": "language",
        "title": "Language",
        "backbone": "bert",
        "dataset": "banking77",
        "task": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
        "pooler": pooler,
        "resolved": {"name": pooler, "options": {}},
        "learning_rate": 1e-3,
        "seed": seed,
        "epochs": 10,
        "batch_size": 32,
        "validation": test,
        "test": test,
        "baseline": 0.1,
        "diverged": False,
        "data_notes": ["texts cut to 32 tokens"],
        "command": "python experiments/language.py --data-dir DIR",
        "devices": "1 x cpu",
    }


def test_both_solvers_are_the_default_and_what_is_published_has_intervals(experiments):
    comparison = experiments("comparison")
    study = experiments("vision").STUDY
    assert study.options.solvers == ("adam", "converged")
    rows = []
    for pooler, test in (("avg", [1.0, 0.0, 1.0, 1.0]), ("max", [0.0, 0.0, 1.0, 1.0])):
        kept = {"target": np.array([3, 1, 2, 2]), "log_probability": np.zeros((4, 4), np.float16)}
        row = head(pooler, 0, sum(test) / 4)
        row |= {"test_scores": test, "predictions": {"test": packed(kept)}}
        data = dataclasses.replace(load("digits"), notes=("all of them",))
        model = comparison.Model(None, "ViT", "by heart; CLS is read by no loss", data)
        rows.append(comparison.published(row, study=study, model=model))
        rows.append(rows[-1] | {"solver": {"name": "converged", "options": {}}, "learning_rate": None})
        rows[-1] |= {"strength": 0.1, "converged": True}
    assert Records(rows).predictions()[0].score.tolist() == [1, 0, 1, 1]
    assert list(rows[0]["predictions"]["test"]) == ["score"]
    [table] = comparison.tables(rows)
    assert table.columns[4:] == [f"converged, {name}" for name in ("validation", "test", "difference")]
    assert [cell.text for cell in table.rows[0]][3] == "chosen"
    assert [cell.text for cell in table.rows[1]][3] == "[-75.00, +0.00]"
    assert any("converged: solved to the least loss" in note for note in table.notes)
    words = "backbone pretrained: by heart, CLS is read by no loss"
    assert any(words in note for note in table.notes)


@pytest.mark.parametrize(
    ("metric", "kept"),
    [
        ("macro_f1", {"score", "target", "prediction"}),
        ("f1_of_1", {"score", "target", "prediction"}),
        ("accuracy", {"score"}),
        ("top_10_accuracy", {"score"}),
    ],
)
def test_what_is_published_has_answers_where_the_metric_is_no_mean(experiments, metric, kept):
    """Also where it happens to be as large as the mean of the scores."""
    answers = {name: np.array([0, 1, 1, 0]) for name in ("target", "prediction")}
    predictions = {"test": packed({**answers, "score": np.ones(4)})}
    row = head("avg", 0, 1.0) | {"metric": metric, "predictions": predictions}
    assert set(experiments("comparison").examples_of(row)) == kept


def test_figures_of_the_documentation_are_told_apart(experiments):
    figures = experiments("figures")
    one = "<dc:title>Matplotlib v1</dc:title><path/><!-- Of records 12ab -->"
    assert figures.is_same(one, one)
    assert not figures.is_same(one, one.replace("<path/>", "<text/>"))
    # Another version of Matplotlib places labels in another way.
    newer = one.replace("v1", "v2").replace("<path/>", "<text/>")
    assert figures.is_same(one, newer)
    assert not figures.is_same(one, newer.replace("12ab", "34cd"))


def test_the_summary_takes_over_records(experiments, tmp_path, capsys):
    summary = experiments("summary")
    out = tmp_path / "out"
    out.mkdir()
    Records([head("avg", 0, 0.5), head("avg", 1, 0.7)]).write_to(out / "language.jsonl")
    (out / "records.jsonl").write_text("{}\n")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Tables\n\n{summary.BEGIN}\nformer tables\n{summary.END}\n\nmore\n")
    folder = ["--folder", str(tmp_path)]
    assert summary.main([*folder, "--check"]) == 1
    assert (
        "README.md, results/paper/paper.md, results/paper/paper.csv: not what"
        in capsys.readouterr().err
    )
    assert summary.main([*folder, "--take", str(out)]) == 0
    text = (tmp_path / "results" / "language.md").read_text()
    # The title is that of now, whatever the records were called.
    title = experiments("language").STUDY.title
    assert text.startswith(f"# {title}\n\n## bert, banking77, classification (accuracy in %)\n")
    assert "| avg | **60.00** | **<u>60.00 ± 14.14</u>** |\n| baseline |  | 10.00 |\n" in text
    assert "Adam at 0.001, batches of 32, 10 epochs; texts cut to 32 tokens." in text
    assert "python experiments/language.py --data-dir DIR\n" in text
    text = readme.read_text()
    assert f"- [{title}](results/language.md), by\n" in text
    assert "  python experiments/language.py --data-dir DIR\n" in text
    assert "by protocol: Adam: avg 1 (of 1)." in text
    assert "were attempted, of which 0 with the same model and data" in text
    assert text.startswith("# Tables\n\n")
    assert text.endswith("\n\nmore\n")
    assert "former tables" not in text
    assert summary.main([*folder, "--check"]) == 0
    assert (
        "| **bert, banking77, adam** | – | 60.00 ± 14.14 |"
        in (tmp_path / "results" / "paper" / "paper.md").read_text()
    )
    assert summary.main([*folder, "--take", str(tmp_path / "none")]) == 2
    assert "take: expected the folder of a finished comparison" in capsys.readouterr().err


def test_a_backbone_of_series_is_accepted_where_it_beats_raw_series(experiments):
    tables = experiments("comparison").tables

    def rows(gains):
        found = []
        for name, gain in zip(("ecg200", "swedish_leaf", "italy", "kitchen"), gains, strict=True):
            raw = {"baselines": {"test": {"raw": {"accuracy": 0.7}}, "validation": {}}}
            own = head("avg", 0, 0.7 + gain) | raw | {"study": "time_series", "dataset": name}
            solved = {"solver": {"name": "converged", "options": {}}, "learning_rate": None}
            found += [own | {"test": 0.9, "id": f"adam {name}"}]
            found += [own | solved | {"strength": 0.1, "converged": True, "id": f"solved {name}"}]
        return found

    def told(gains):
        [note, *others] = {
            note for one in tables(rows(gains)) for note in one.notes if "raw series" in note
        }
        assert not others
        return note

    accepted = told((0.03, -0.2, 0.05, 0.02))
    assert accepted.startswith(
        "bert: averaged states are 3 points or more above raw series on 2 of 4 sets"
    )
    assert "(ecg200 +3.0, swedish_leaf -20.0, italy +5.0, kitchen +2.0): accepted" in accepted
    assert "on 1 of 4 sets" in told((0.029, 0.0, 0.05, 0.02))
    assert "not accepted" in told((0.029, 0.0, 0.05, 0.02))


def test_every_script_says_how_long_it_takes_and_that_this_is_an_estimate(pytestconfig):
    scripts = [
        path
        for path in sorted((pytestconfig.rootpath / "experiments").glob("*.py"))
        if 'if __name__ == "__main__":' in path.read_text()
    ]
    assert len(scripts) > 10
    for path in scripts:
        told = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(re.findall(r"^Duration \(estimate, two CPU cores\): \S", told, re.M)) == 1, path.name
        assert f"python experiments/{path.name}" in told, path.name

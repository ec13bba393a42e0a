"""Presets of pretraining: what they are made of, a run of the smallest, and its tables."""

import dataclasses
import importlib
import json
import re
import socket
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import tyro

from poolax import backbones, data
from poolax.records import Records
from poolax.training.pretraining import MaskedPatches


@pytest.fixture(scope="module")
def experiments(pytestconfig):
    """Imports modules of the experiments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module


def test_presets_have_sizes_that_fit(experiments):
    pretraining = experiments("pretraining")
    for name, make in pretraining.PRESETS.items():
        preset = make()
        assert preset.family in ("gpt2", "bert", "vit", "lipsformer", "swin", "moment")
        assert (make.__doc__ or "").strip()
        for chosen in (preset, pretraining.Options(preset=name, quick=True).chosen()):
            if chosen.family in ("gpt2", "bert"):
                chosen.text_config(chosen.vocab_size)
            elif chosen.family == "moment":
                chosen.series_config()
            else:
                chosen.image_config(32, 3)


def test_presets_of_the_paper_are_its_sizes(experiments):
    preset = experiments("pretraining").PRESETS["gpt2-l2-paper"]()
    config, optimisation = preset.text_config(preset.vocab_size), preset.optimisation
    assert backbones.GPT2Config(kind=config.kind) == config
    assert (preset.block, preset.steps, optimisation.accumulation) == (1024, 60_000, 40)
    assert preset.batch_size == 12 * optimisation.accumulation


def test_all_of_a_preset_may_be_said_otherwise(experiments):
    options = experiments("pretraining").Options
    chosen = options(width=32, optimizer="muon", spectral_cap=1.0, data=("a.txt",)).chosen()
    assert (chosen.width, chosen.data, chosen.num_layers) == (32, ("a.txt",), 4)
    assert (chosen.optimisation.optimizer, chosen.optimisation.spectral_cap) == ("muon", 1.0)
    with pytest.raises(ValueError, match=r"preset: expected one of .*'gpt2-64'.*, got 'gpt3'"):
        options(preset="gpt3").chosen()
    with pytest.raises(ValueError, match="attention: expected none for vit, got 'l2'"):
        options(preset="vit", attention="l2").chosen()
    with pytest.raises(ValueError, match="steps: "):
        options(steps=0).chosen()


def test_switches_that_presets_have_are_said_with_or_without_a_value(experiments):
    options_of = experiments("pretraining").Options

    def switches(*words):
        options = tyro.cli(options_of, args=[*words])
        return options.remat, options.scan_layers

    assert switches() == (None, None)
    assert switches("--remat", "--scan-layers", "false") == (True, False)
    assert switches("--scan-layers", "True", "--remat") == (True, True)
    with pytest.raises(SystemExit):
        switches("--remat", "perhaps")


def test_a_run_leaves_records_curves_and_a_model(experiments, tmp_path, capsys):
    """The same command again trains nothing, and gives the same model."""
    text, out = tmp_path / "tales.txt", tmp_path / "out"
    text.write_text("\n\n".join(f"Tale {n} ends {n + 7} days after {n * n}." for n in range(200)))
    command = ["--preset", "gpt2-l2-64", "--quick", "--data", text, "--worth", "--json", "--out", out]
    main = experiments("pretrain").main
    assert main([str(argument) for argument in command]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in rows[:-1]] == list(range(7))
    worth = rows[-1]
    assert worth["unit"] == "bits per byte"
    assert worth["score"] > worth["beside"]["trigram"] > 0
    assert (out / "curves.png").exists()
    assert not (out / "lipschitz.png").exists()
    assert not (out / "huggingface").exists()
    model = backbones.load(out / "backbone")
    ids, mask = model.prepare(["Tale 3 ends."])
    assert model(ids, mask).states.shape[-1] == 16
    assert main([str(argument) for argument in command]) == 0
    records = Records.read(out / "records.jsonl")
    assert len(records) == 7
    check_that_it_goes_on(main, command[:5], out, records[-1]["evaluation_loss"], capsys)
    capsys.readouterr()
    text.write_text(text.read_text() + "\n\nThe last of many small tales.")
    for more, message in (
        ([], r"data: not as it was when tokens-\w+-\w+ was written; its tokens are now in tokens-"),
        ([], "out: expected a checkpoint with this configuration in .* differs in data"),
        (["--no-resume"], "out: expected a new folder with --no-resume"),
        (["--size", "8"], f"size: expected none for texts, got it for {text}"),
    ):
        assert main([str(argument) for argument in (*command, *more)]) == 2
        assert re.search(message, " ".join(capsys.readouterr().err.split()))
        text.write_text(text.read_text() + "\n")


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        ("gpt2-64", "topic", "data: expected a data set .* got 'topic'; did you mean 'topics'"),
        ("gpt2-64", "", "data: expected a data set .*, got ''"),
        ("moment", "topics", r"data: expected series \(N, steps\), got 'topics', inputs"),
        ("vit", "topics", "data: expected images .*, got 'topics'"),
        ("bert", "digits", "data: expected one of texts, got 'digits'"),
    ],
)
def test_data_of_another_kind_are_named(experiments, tmp_path, capsys, preset, given, message):
    command = ["--preset", preset, "--quick", "--data", given, "--out", str(tmp_path / "out")]
    assert experiments("pretrain").main(command) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.fixture
def prepared(experiments, tmp_path):
    """Reads what a run of ``gpt2-64`` is trained on, and trains nothing."""
    pretraining = experiments("pretraining")

    def prepare(name, model=None, **options):
        given = pretraining.Options(quick=True, data=(str(tmp_path / name),), **options)
        return pretraining.prepare(given, given.chosen(), tmp_path, lambda *_: None, model)

    return prepare


def test_files_of_tokens_need_no_record(prepared, tmp_path):
    """As nanoGPT writes them: of one split or two, or one file."""
    tmp_path.joinpath("bare").mkdir()
    ids = np.arange(300, dtype=np.uint16)
    ids.tofile(tmp_path / "bare" / "train.bin")
    alone = prepared("bare")
    assert alone.evaluation is None
    assert alone.batches.batch(0)["ids"].shape == (8, 17)
    assert alone.inputs(2).shape == (2, 16)
    assert prepared("bare/train.bin").batches.fingerprint == alone.batches.fingerprint
    ids[:100].tofile(tmp_path / "bare" / "val.bin")
    assert prepared("bare").evaluation.steps_per_epoch == 1
    tmp_path.joinpath("wide").mkdir()
    for name, most in (("train", 300), ("val", 100)):
        ids[:most].astype(np.uint32).tofile(tmp_path / "wide" / f"{name}.bin")
    wide = prepared("wide", token_dtype="uint32")
    np.testing.assert_array_equal(wide.batches.batch(0)["ids"], alone.batches.batch(0)["ids"])
    assert wide.evaluation.steps_per_epoch == 1
    tmp_path.joinpath("tale.txt").write_text("once")
    with pytest.raises(ValueError, match="token_dtype: expected none for texts, got uint32"):
        prepared("tale.txt", token_dtype="uint32")
    with pytest.raises(ValueError, match="token_dtype: expected none for ViT of width 128, which"):
        prepared("wide", preset="vit", token_dtype="uint32")
    with pytest.raises(
        ValueError, match=r"vocab_size: expected more than 299, the highest id in .*, got 80"
    ):
        prepared("bare", vocab_size=80)


def test_tokens_are_those_of_the_models_tokenizer(prepared, tmp_path):
    texts = [f"Tale {n} ends {n + 7} days after {n * n}." for n in range(99)]
    for name, size in (("one", 270), ("other", 280)):
        data.tokens.write(texts[: size - 200], tmp_path / name, vocab_size=size)
    one = str(tmp_path / "one")
    assert prepared("one", tokenizer=one).preprocess is not None
    with pytest.raises(ValueError, match=r"tokenizer: expected the one that .*/other was written by"):
        prepared("other", tokenizer=one)
    config = backbones.GPT2Config(300, 12, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    model = backbones.GPT2(params=None, config=config)
    goes_on = {"init": one, "tokenizer": one}
    assert prepared("one", model, **goes_on).batches.batch(0)["ids"].shape == (8, 13)
    with pytest.raises(ValueError, match="block: expected at most 12, which the model takes, got 16"):
        prepared("one", model, block=16, **goes_on)


def check_that_it_goes_on(main, command, init, loss, capsys):
    """A model that is gone on from has its own sizes and tokenizer."""
    further, command = init.parent / "further", [*map(str, command), "--init", str(init)]
    assert main([*command, "--beside", str(init), "--out", str(further)]) == 0
    assert Records.read(further / "records.jsonl")[0]["evaluation_loss"] == pytest.approx(
        loss, rel=1e-4
    )
    capsys.readouterr()
    for arguments, message in (
        (["--width", "32"], "width: expected none beside --init, whose model has its own, got 32"),
        (
            ["--preset", "vit"],
            "init: expected a model of ViT, Swin, LipsFormer for a preset of vit, got",
        ),
        (["--beside", str(init.parent)], "beside: expected the folder of a run, with records.jsonl"),
    ):
        assert main([*command, *arguments, "--out", str(further)]) == 2
        assert message in capsys.readouterr().err


def test_worth_over_seeds_is_a_row(experiments, tmp_path):
    heads = {"banking77": {"trained": 0.5, "random": 0.25, "raw": 0.75}}
    row = {
        "kind": "pretrained", "id": "a", "preset": "gpt2-64", "seed": 0, "steps": 6, "data": ["stsb"],
        "num_parameters": 1234, "evaluation_loss": 2.0, "score": 1.5, "unit": "bits per byte",
        "beside": {"trigram": 2.0}, "heads": heads, "command": "pretrain.py --data-dir /data --seed 0 --out /tmp/run",
    }  # fmt: skip
    better = {**row, "id": "b", "seed": 1, "score": 1.7, "evaluation_loss": 2.25}
    table = experiments("pretraining").summary_table([row, better])
    [cells] = [[cell.text for cell in row] for row in table.rows]
    assert cells[1:4] == ["2", "1,234", "2.000 to 2.250"]
    assert cells[4:7] == ["1.600 ± 0.141 bits per byte", "trigram 2.000", "banking77"]
    assert cells[7:] == ["50.0 ± 0.0", "25.0 ± 0.0", "75.0 ± 0.0", "–", "–"]
    assert "1 of 1 heads: gpt2-64 on banking77 (-25.0 to raw inputs)." in table.notes[-2]
    assert table.notes[-1].startswith("Every model is better")
    summary, source = experiments("summary"), tmp_path / "run"
    source.mkdir()
    for rows in ([row], [{**row, "score": 1.4}], [better]):
        Records(rows).write_as(source / "pretrain.jsonl")
        Records(curve([None, 100.0, 300.0])).write_as(source / "records.jsonl")
        summary.take_over(source, tmp_path / "results")
    kept = Records.read(tmp_path / "results" / "pretrain.jsonl")
    assert sorted(row["score"] for row in kept) == [1.4, 1.7]
    assert [row["tokens_per_second"] for row in kept] == [150.0, 150.0]
    assert [row["seconds"] for row in kept] == [3 * 300 / 150] * 2
    command = "python experiments/pretrain.py --data-dir DIR --seed N    # N: 0, 1"
    assert experiments("pretraining").commands(kept) == [command]
    assert f"{command}\n" in summary.section(tmp_path / "results")


def curve(rates):
    """Records of a run by how many tokens a second it had to each of them from the one before."""
    common = {
        "kind": "pretraining",
        "run": "r",
        "loss": 1.0,
        "learning_rate": 1.0,
        "gradient_norm": 1.0,
    }
    return [
        {**common, "id": str(step), "step": step, "tokens": 300 * step, "tokens_per_second": rate}
        for step, rate in enumerate([None, *rates])
    ]


def test_norms_over_training_are_kept_by_run(experiments, tmp_path):
    def observed(measured, local):
        logs = [None if bound is None else float(np.log10(bound)) for bound in local]
        bounds = {"log10_local": logs, "log10_tight": 4.0}
        return {"observed": {"lipschitz": {"measured": measured, **bounds}}}

    summary, results = experiments("summary"), tmp_path / "results"
    for name, norms in (("dot", [1.0, 2.5]), ("l2", [0.5, 0.75])):
        rows = curve([None, 100.0])
        rows[0] |= observed(norms, [10.0, None])
        rows[-1] |= observed(norms, [2.0, 100.0]) | {"evaluation_loss": 3.25}
        command = f"pretrain.py --lipschitz 2 --beside /tmp/dot --out /tmp/{name}"
        (tmp_path / name).mkdir()
        rows = [{**row, "id": f"{name}{row['id']}", "command": command} for row in rows]
        Records(rows).write_as(tmp_path / name / "records.jsonl")
        summary.take_over(tmp_path / name, results)
        summary.take_over(tmp_path / name, results)
    kept = Records.read(results / "pretrain-lipschitz.jsonl")
    assert len(kept) == 4
    table = experiments("pretraining").norms_table(kept)
    assert [cell.text for cell in table.rows[1]] == ["dot", "2", "3.250", "2.5", "10^2.0", "10^4.0"]
    assert table.notes[-1] == "Of 8 norms in 4 evaluations 0 are above a bound."
    broken = [{**row, **observed([3.0, 1.0], [2.0, None])} for row in kept]
    note = experiments("pretraining").norms_table(broken).notes[-1]
    assert note == "Of 8 norms in 4 evaluations 4 are above a bound."
    assert "--lipschitz 2 --beside dot --out l2" in summary.section(results)
    summary.draw(results, tmp_path / "figures")
    assert (tmp_path / "figures" / "pretrained-lipschitz.png").stat().st_size > 1000


def test_ranges_are_those_of_full_runs_of_the_preset(experiments):
    pretraining = experiments("pretraining")
    whole = pretraining.PRESETS["vit"]()
    common = {"preset": "vit", "steps": whole.steps, "data": list(whole.data)}
    rows = [
        {**common, "seed": seed, "evaluation_loss": loss} for seed, loss in enumerate((0.3, 0.1, 0.2))
    ]
    others = [
        {**rows[0], "evaluation_loss": 9.0, "steps": 6},
        {**rows[0], "seed": 7, "data": ["digits"]},
    ]
    found = pretraining.loss_range([*rows, *others, {**rows[0], "preset": "swin"}], "vit")
    assert (found.low, found.high, found.seeds) == (0.1, 0.3, (0, 1, 2))
    assert pretraining.loss_range(rows, "vit", without=1).low == 0.2
    assert pretraining.loss_range(rows, "bert") is None
    line = pretraining.described("vit", rows)
    assert line.endswith(" TFLOP; evaluation loss 0.100 to 0.300 over 3 seeds.")
    assert "seeds" not in pretraining.described("bert", rows)


# Margins to both sides of the range of the other seeds, of its middle: what MOMENT's form fills in
# is drawn by the seed, from few windows.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "margin"), [("gpt2-64", 0.02), ("gpt2-l2-64", 0.02), ("moment", 0.06)]
)
def test_a_full_run_comes_to_the_loss_of_other_seeds(experiments, test_data, tmp_path, preset, margin):
    pretraining = experiments("pretraining")
    known = pretraining.loss_range(pretraining.recorded(), preset, without=0)
    if known is None:
        pytest.skip(f"no records of {preset} with other seeds than 0")
    out = tmp_path / "out"
    command = ["--preset", preset, "--data-dir", str(test_data), "--out", str(out)]
    assert experiments("pretrain").main(command) == 0
    loss = Records.read(out / "records.jsonl")[-1]["evaluation_loss"]
    margin *= (known.low + known.high) / 2
    assert known.low - margin <= loss <= known.high + margin


def test_a_bert_without_segments_is_the_same_with_one(experiments, bert, tmp_path):
    model = backbones.load(bert)
    tables = {name: table for name, table in model.params["embeddings"].items() if name != "token_type"}
    config = dataclasses.replace(model.config, num_token_types=0)
    plain = model.replace(config=config, params={**model.params, "embeddings": tables})
    with_segment = experiments("pretrain").with_segment
    backbones.save(with_segment(plain), tmp_path / "folder", format="huggingface")
    ids = np.array([[0, 3, 4, 1]])
    found = backbones.load(tmp_path / "folder")(ids).states
    np.testing.assert_array_equal(found, plain(ids).states)
    assert with_segment(model) is model


def test_runs_are_drawn_side_by_side(experiments, tmp_path):
    """Norms of those that have some."""
    norms = {"measured": [2.0], "log10_local": [1.0], "log10_tight": 9.0}
    plain = {"step": 0, "tokens": 0, "loss": 3.0}
    draw = experiments("pretrain").draw
    draw({"dot": [plain]}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    draw({"dot": [plain], "L2": [{**plain, "observed": {"lipschitz": norms}}]}, tmp_path)
    assert (tmp_path / "lipschitz.png").exists()


def test_a_vit_that_is_gone_on_from_has_a_token_for_hidden_patches(experiments):
    """Folders in the other layout hold none."""
    config = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    with_mask_token = experiments("pretraining").with_mask_token

    def zeros(config):
        shapes = jax.eval_shape(lambda key: backbones.ViT.init(config, key).params, jax.random.key(0))
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    found = with_mask_token(backbones.ViT(params=zeros(config), config=config))
    MaskedPatches(found.config)
    chex.assert_trees_all_equal(found.params, zeros(found.config))
    assert with_mask_token(found) is found


@pytest.mark.parametrize("told", [["two"], ["host:1", "2"], ["host:1", "2", "x"]])
def test_processes_are_joined_as_they_are_told_of(experiments, tmp_path, capsys, told):
    command = ["--quick", "--distributed", *told, "--out", str(tmp_path / "out")]
    assert experiments("pretrain").main(command) == 2
    assert "distributed: expected auto, or HOST:PORT, the number of" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_run_the_script_as_one_does(experiments, pytestconfig, tmp_path):
    """Of two devices each; both read the same folder, and the first writes."""
    text, out = tmp_path / "tales.txt", tmp_path / "both"
    text.write_text("\n\n".join(f"Tale {n} ends {n + 7} days after {n * n}." for n in range(200)))
    script = str(pytestconfig.rootpath / "experiments" / "pretrain.py")
    command = ["--quick", "--data", str(text), "--accumulation", "2"]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    both = [
        subprocess.Popen(
            [
                *(sys.executable, script, *command, "--out", str(out)),
                *("--devices", "2", "--distributed", address, "2", process),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in ("0", "1")
    ]
    try:
        told = [process.communicate(timeout=600) for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert [process.returncode for process in both] == [0, 0], told
    assert ["Pretraining" in printed for printed, _ in told] == [True, False]
    alone = tmp_path / "alone"
    assert experiments("pretrain").main([*command, "--out", str(alone)]) == 0
    found, expected = (backbones.load(folder / "backbone").params for folder in (out, alone))
    for params in (found, expected):
        for block in ("block_0", "block_1"):
            # It moves no attention weight: its gradient is rounding, of which AdamW makes steps.
            del params["encoder"][block]["attention"]["key"]["bias"]
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-5)
    found, expected = (Records.read(folder / "records.jsonl") for folder in (out, alone))
    for name in ("loss", "gradient_norm"):
        for one, other in zip(list(found)[1:], list(expected)[1:], strict=True):
            assert one[name] == pytest.approx(other[name], rel=1e-4)

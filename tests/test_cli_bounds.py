"""``poolax bounds`` and ``poolax lipschitz`` on small models, in process."""

import dataclasses
import functools
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, PROBES, exact_norm, random_tokens

from poolax import attention, backbones, bounds, cli, measure, pooling, reporting, training
from poolax.blocks import TBM
from poolax.cli._console import show
from poolax.cli._lipschitz import _table
from poolax.cli._norms import Sizes, extremal_block, initial_variables, pooler_of
from poolax.measure import measure_block

SMALL = ["--num-tokens", "4", "--dim", "8", "--num-heads", "2"]


def run(capsys, *arguments):
    code = cli.main([*map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def records_of(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == cli.COMPLETE, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Two trained blocks and their inputs, as the quickstart leaves them."""
    folder = tmp_path_factory.mktemp("run") / "blocks"
    folder.mkdir()
    x = np.stack([random_tokens(key, 4, 8, 2.0) for key in jax.random.split(jax.random.key(0), 3)])
    np.save(folder / "inputs.npy", x)
    for name, kind in (("avg", attention.DotProduct()), ("wavg", attention.L2())):
        options = {"max_tokens": 4} if name == "wavg" else {}
        model = TBM(2, pooling.from_name(name, **options), kind)
        variables = model.init(jax.random.key(1), x[0])
        metadata = {"num_tokens": 4, "radius": 2.0}
        training.save_tbm(folder / f"block-{name}", model, variables, metadata=metadata)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    config = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=16, norm_eps=1e-2)
    model = backbones.ViT.init(config, jax.random.key(0), backbones.ImagePreprocess(scale=1 / 16))
    folder = tmp_path_factory.mktemp("vit") / "backbone"
    backbones.save(model, folder)
    return folder, model


def test_bounds_from_norms_hold_for_all_weights_with_these_norms(capsys):
    """Random weights that are scaled to the norms are never above, and the built ones have them."""
    sizes = Sizes(dim=8, num_heads=2, query_norm=(1.2, 0.7), value_norm=(0.5,), out_norm=(1.5,))
    rng = np.random.default_rng(0)

    def scaled(shape, norms, axis):
        kernel = rng.normal(size=shape)
        matrices = (
            np.moveaxis(kernel, axis, 0) if axis is not None else kernel.reshape(1, -1, shape[-1])
        )
        size = np.linalg.norm(matrices, ord=2, axis=(1, 2))
        factor = np.asarray(norms) / size
        return jnp.asarray(kernel * (factor[:, None] if axis == 1 else factor[0]), jnp.float32)

    for label, kind in sizes.kinds().items():
        pooler = pooling.AveragePool()
        model, variables = extremal_block(sizes, kind, pooler)
        params = {name: part["kernel"] for name, part in variables["params"]["attention"].items()}
        heads = np.linalg.norm(np.moveaxis(params["query"], 1, 0), ord=2, axis=(1, 2))
        np.testing.assert_allclose(heads, [1.2, 0.7], rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(params["out"].reshape(8, 8), ord=2), 1.5, rtol=1e-6)
        rows = records_of(
            capsys, "bounds", *SMALL, "--query-norm", 1.2, 0.7, "--value-norm", 0.5, "--out-norm", 1.5,
            "--poolers", "avg",
        )  # fmt: skip
        row = next(row for row in rows if row["attention"] == label)
        for _ in range(3):
            kernels = {
                "query": scaled((8, 2, 4), (1.2, 0.7), 1),
                "key": scaled((8, 2, 4), (1.5, 1.5), 1),
                "value": scaled((8, 2, 4), (0.5, 0.5), 1),
                "out": scaled((2, 4, 8), (1.5,), None),
            }
            if isinstance(kind, attention.L2):
                del kernels["key"]
            drawn = dict(variables["params"])
            drawn["attention"] = {name: {"kernel": kernel} for name, kernel in kernels.items()}
            drawn["ffn"] = {"kernel": scaled((8, 8), (2.0,), None)}
            for method in ("published", "sharp", "tight"):
                bound = bounds.tbm(model, {"params": drawn}, num_tokens=4, radius=1.0, method=method)
                assert bound.lipschitz <= row[method] * (1 + 1e-5)


@pytest.mark.parametrize("name", PROBES)
def test_poolers_of_any_name_fit_any_width(name):
    variables = initial_variables(pooler_of(name, 5, 6), 5, 6)
    assert bounds.pooler(pooler_of(name, 5, 6), variables, num_tokens=5, dim=6, spread=1.0).l2 > 0


def test_all_poolers_and_kinds_and_what_epsilon_says(capsys):
    chosen = ("first", "avg", "max", "wavg", "attn")
    rows = records_of(capsys, "bounds", *SMALL, "--epsilon", 0.01, "--sigma", 0.5, "--poolers", *chosen)
    assert len(rows) == 15
    assert {row["attention"] for row in rows} == {"dot", "l2", "cosine"}
    for row in rows:
        assert row["tight"] <= row["sharp"]
        published = row["pooler"] in ("first", "avg", "max")
        assert (row["published"] is not None) == published
        assert row["published"] is None or row["sharp"] <= row["published"]
        assert row["gamma"] == pytest.approx(row["tight"] * 0.01 / 0.5, rel=1e-4)
        assert row["certified_zero"] == (row["gamma"] <= 1)
    assert {row["certified_zero"] for row in rows} == {True, False}
    row = next(row for row in rows if (row["attention"], row["pooler"]) == ("l2", "avg"))
    model, variables = extremal_block(Sizes(dim=8, num_heads=2), attention.L2(), pooling.AveragePool())
    expected = bounds.tbm(model, variables, num_tokens=4, radius=1.0, method="tight").lipschitz
    assert row["tight"] == pytest.approx(float(expected), rel=1e-6)


def test_bounds_beyond_single_precision_are_those_of_double_precision(capsys):
    """Of a radius that single precision squares to infinity, and of one that it does not hold."""
    names = ("avg", "map")
    for radius in (1e30, 1e60):
        rows = records_of(capsys, "bounds", *SMALL, "--radius", radius, "--poolers", *names)
        for (label, kind), name in itertools.product(Sizes().kinds().items(), names):
            row = next(row for row in rows if (row["attention"], row["pooler"]) == (label, name))
            pooler = pooler_of(name, 4, 8)
            model, variables = extremal_block(Sizes(dim=8, num_heads=2), kind, pooler)
            learnt = initial_variables(pooler, 4, 8).get("params", {})
            params = jax.tree.map(np.float64, variables["params"] | {"pooler": learnt})
            sizes = {"num_tokens": 4, "radius": radius}
            with jax.enable_x64(True):
                for method in ("sharp", "tight"):
                    bound = bounds.tbm(model, {"params": params}, **sizes, method=method)
                    expected = float(bound.log_lipschitz) / np.log(10)
                    assert row[f"log10_{method}"] == pytest.approx(expected, rel=1e-4)
    code, out, _ = run(capsys, "bounds", *SMALL, "--radius", 1e30, "--poolers", "avg")
    assert code == cli.COMPLETE
    log10 = next(row for row in rows if row["attention"] == "dot")["log10_sharp"] - 60
    assert reporting.number_text(None, log10) in out


def test_a_layer_beyond_single_precision_is_in_the_ledger(capsys, vit, tmp_path):
    _, model = vit
    large = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf * 1e25, model.params))
    backbones.save(large, tmp_path / "large")
    rows = records_of(capsys, "bounds", tmp_path / "large")
    code, out, err = run(capsys, "bounds", tmp_path / "large")
    assert code == cli.COMPLETE, err
    layers = [row for row in rows if row["kind"] == "layer"]
    assert max(row["log10_branch"] or 0 for row in layers) > 38
    for row in layers:
        assert reporting.number_text(row["factor"], row["log10_factor"]) in out
    total = sum(row["log10_factor"] for row in layers if row["method"] == "tight")
    first = next(row for row in rows if row.get("pooler") == "first")
    assert first["log10_tight"] == pytest.approx(total, rel=1e-3)


def test_only_a_finite_bound_certifies(capsys):
    sizes = ("--dim", 8, "--num-heads", 2, "--num-tokens", 4, "--poolers", "avg", "--radius", 1e300)
    dot_product, *_ = records_of(capsys, "bounds", *sizes, "--epsilon", 0.01, "--sigma", 0.5)
    assert dot_product["sharp"] is None
    assert dot_product["log10_sharp"] is None
    assert not dot_product["certified_zero"]
    assert dot_product["gamma"] is None
    dot_product, *_ = records_of(capsys, "bounds", *sizes, "--epsilon", 0, "--sigma", 0.5)
    assert dot_product["certified_zero"]
    assert dot_product["gamma"] == 0
    constant, *_ = records_of(
        capsys, "bounds", *sizes[:-1], 1, "--norm-scale", 0, "--epsilon", 0.01, "--sigma", 0.5
    )
    assert constant["sharp"] == 0
    assert constant["certified_zero"]


def test_a_range_of_lengths_a_cube_and_per_head_norms(capsys):
    rows = records_of(
        capsys, "bounds", "--num-tokens", 2, 4, "--dim", 8, "--num-heads", 2, "--cube", 0.5,
        "--out-norm", 1, 2, "--poolers", "avg", "sum",
    )  # fmt: skip
    domain = bounds.cube(0.5, 8)
    assert rows[0]["num_tokens"] == [2, 4]
    assert rows[0]["radius"] == pytest.approx(domain.radius)
    assert rows[0]["spread"] == pytest.approx(domain.spread)
    sizes = Sizes(dim=8, num_heads=2, out_norm=(1.0, 2.0))
    model, variables = extremal_block(sizes, attention.DotProduct(), pooling.AveragePool())
    for length in (2, 3, 4):
        alone = bounds.tbm(
            model, variables, num_tokens=length, radius=domain.radius, spread=domain.spread
        )
        assert alone.lipschitz <= rows[0]["sharp"] * (1 + 1e-6)


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.slow)])
def test_tables_fit_terminals(columns, capsys, monkeypatch, blocks, vit):
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (
        ["bounds", *SMALL, "--tau", 1e4, "--epsilon", 0.01, "--sigma", 0.5, "--poolers", "sum"],
        ["bounds", blocks, "--epsilon", 0.01, "--sigma", 0.5],
        ["bounds", *SMALL, "--radius", 1e30, "--epsilon", 0.01, "--sigma", 0.5, "--poolers", "map"],
        ["lipschitz", blocks],
        ["lipschitz", vit[0], "--num-inputs", 1],
        ["bounds", vit[0]],
    ):
        code, out, err = run(capsys, *arguments)
        assert code == cli.COMPLETE, err
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= columns
    assert "block_0/attention" in out


def test_bounds_of_trained_blocks(capsys, blocks):
    rows = records_of(capsys, "bounds", blocks.parent)
    assert [row["checkpoint"] for row in rows] == ["block-avg", "block-wavg"]
    trained = training.load_tbm(blocks / "block-avg")
    for method in ("published", "sharp", "tight"):
        bound = bounds.tbm(trained.model, trained.variables, num_tokens=4, radius=2.0, method=method)
        assert rows[0][method] == pytest.approx(float(bound.lipschitz), rel=1e-6)
    assert rows[1]["published"] is None
    (row,) = records_of(capsys, "bounds", blocks / "block-avg", "--radius", 1, "--num-tokens", 8)
    assert (row["radius"], row["num_tokens"]) == (1.0, [8, 8])


def test_bounds_of_a_head(capsys, tmp_path):
    states = np.random.default_rng(0).normal(size=(12, 4, 8)).astype(np.float32)
    parts = dict(zip(("train", "validation", "test"), np.split(np.arange(12), 3), strict=True))
    records = training.sweep_states(
        states, None, np.arange(12) % 2, training.Classification(2), splits=parts, poolers=["sum"],
        seeds=1, epochs=1, out=tmp_path,
    )  # fmt: skip
    directory = training.head_directory(tmp_path, records[0])
    (row,) = records_of(capsys, "bounds", directory, "--num-tokens", 4)
    kernel = training.load_head(directory).variables["params"]["output"]["kernel"]
    assert row["sharp"] == pytest.approx(2 * float(jnp.linalg.norm(kernel, ord=2)), rel=1e-4)
    code, _, err = run(capsys, "lipschitz", directory)
    assert code == cli.USAGE
    assert re.fullmatch(r"poolax: model: expected a backbone or blocks, got a head .*\n", err)


def test_bounds_of_a_backbone(capsys, vit):
    folder, model = vit
    rows = records_of(
        capsys, "bounds", folder, "--num-tokens", 5, "--radius", 3, "--epsilon", 1e-9, "--sigma", 1
    )
    layers = [row for row in rows if row["kind"] == "layer"]
    pooled = {row["pooler"]: row for row in rows if row["kind"] == "bounds"}
    for method in ("sharp", "tight"):
        ledger = bounds.ledger(model.layer_specs(model.params), num_tokens=5, radius=3.0, method=method)
        mine = [row for row in layers if row["method"] == method]
        assert [row["layer"] for row in mine] == [row.name for row in ledger.rows]
        expected = float(ledger.log_lipschitz) / np.log(10)
        assert pooled["first"][f"log10_{method}"] == pytest.approx(expected, abs=1e-5)
        average = expected - np.log10(5) / 2
        assert pooled["avg"][f"log10_{method}"] == pytest.approx(average, abs=1e-5)
    assert pooled["avg"]["certified_zero"] == (pooled["avg"]["log10_gamma"] <= 0)
    assert len(pooled["avg"]["log10_local"]) == pooled["avg"]["num_inputs"] == 8
    table = reporting.pooled_table(list(pooled.values()), "Whole")
    assert table.columns[:4] == ["pooler", "local", "tight", "sharp"]
    local = max(pooled["first"]["log10_local"])
    assert table.rows[0][1].text == reporting.number_text(None, local)
    assert "at 8 inputs (scikit-learn's digits, test part)" in table.notes[0]
    assert "say nothing" not in " ".join(table.notes)
    larger = [row | {"log10_tight": 80.0, "log10_sharp": 90.0} for row in pooled.values()]
    notes = " ".join(reporting.pooled_table(larger, "Whole").notes)
    assert "are 1.00e80 or more: they are true and say nothing" in notes
    unknown = [row | {"log10_local": [None]} for row in pooled.values()]
    table = reporting.pooled_table(unknown, "Whole")
    assert table.columns[:3] == ["pooler", "sharp", "tight"]
    assert "No local bound is known" in table.notes[0]


def check_reports(rows, folder):
    """Tables and figures are made of what ``poolax lipschitz --json`` prints."""
    assert {row["kind"] for row in rows} == {"lipschitz_at_inputs"}
    older = [row | {"kind": "lipschitz"} for row in rows]
    table = reporting.sensitivity_table(rows)
    assert table.rows == reporting.sensitivity_table(older).rows
    for row, shown in zip(rows, table.tidy, strict=True):
        assert shown["measured_real"] == max(row["measured"])
        assert shown["sharp"] == row["sharp"]
    reporting.plot_sensitivity(rows, folder / "sensitivity.png")
    assert (folder / "sensitivity.png").stat().st_size > 1000


def test_bounds_around_inputs_of_trained_blocks(capsys, blocks):
    at = ["bounds", blocks, "--epsilon", 0.001, "--sigma", 0.01, "--geometry", "tokens"]
    rows = records_of(capsys, *at)
    inputs = np.load(blocks / "inputs.npy")[:8]
    for row in rows:
        trained = training.load_tbm(blocks / row["checkpoint"])
        around = {"epsilon": 0.001, "geometry": "tokens"}
        local = measure.block_local(trained.model, trained.variables, inputs, **around)
        np.testing.assert_allclose(row["log10_local"], np.log10(local), rtol=1e-4)
        assert row["geometry"] == "tokens"
        assert row["published"] is None
        assert row["local_epsilon"] == 0.001
        assert max(row["log10_local"]) <= row["log10_tight"] + 1e-6
        assert row["certified_inputs"] == np.sum(local * 0.001 <= 0.01)
    code, out, _ = run(capsys, *at)
    words = " ".join(out.split())
    assert code == 0
    assert "on the ball of radius 0.001 around each" in words
    assert "The norm of a change is the largest of a token's" in words


def test_lipschitz_of_blocks(capsys, blocks, tmp_path):
    rows = records_of(capsys, "lipschitz", blocks.parent, "--num-inputs", 2)
    assert [row["pooler"] for row in rows] == ["avg", "wavg"]
    inputs = np.load(blocks / "inputs.npy")[:2]
    for row in rows:
        trained = training.load_tbm(blocks / row["checkpoint"])
        apply = functools.partial(trained.model.apply, trained.variables)
        expected = [exact_norm(apply, x) for x in inputs]
        np.testing.assert_allclose(row["measured"], expected, rtol=1e-4)
        assert np.all(np.asarray(row["measured"]) <= np.asarray(row["local"]) * (1 + 1e-5))
        assert max(row["measured"]) <= row["tight"] <= row["sharp"]
        local = bounds.local_tbm(trained.model, trained.variables, inputs[0]).lipschitz
        assert row["local"][0] == pytest.approx(float(local), rel=1e-4)
    check_reports(rows, tmp_path)
    code, out, _ = run(capsys, "lipschitz", blocks / "block-avg", "--inputs", blocks / "inputs.npy")
    assert code == cli.COMPLETE
    assert "measured" not in out.splitlines()[0]
    assert "3 inputs" in " ".join(out.split())


def test_bounds_at_inputs_of_ones_own(capsys, vit, tmp_path):
    """Of a backbone raw inputs; what takes none says so."""
    from poolax.data import digits

    folder, model = vit
    data = digits()
    images = data.inputs[data.splits["test"][8:10]]
    np.save(tmp_path / "images.npy", images)
    rows = records_of(capsys, "bounds", folder, "--inputs", tmp_path / "images.npy")
    row = next(row for row in rows if row.get("pooler") == "avg")
    assert row["inputs"] == str(tmp_path / "images.npy")
    x, _ = model.embed(model.params, model.preprocess(images))
    (expected,) = measure.local_at_inputs(model, x, poolers=["avg"])
    np.testing.assert_allclose(row["log10_local"], expected, atol=1e-5)
    for arguments in (["--inputs", "images.npy"], [folder, "--text", "A text."]):
        assert cli.main(["bounds", *map(str, arguments)]) == 2
        assert "expected none" in capsys.readouterr().err


def test_lipschitz_of_a_backbone(capsys, vit, tmp_path):
    folder, model = vit
    chosen = ("first", "avg", "rolling")
    rows = records_of(capsys, "lipschitz", folder, "--num-inputs", 2, "--poolers", *chosen)
    assert rows[0]["inputs"] == "scikit-learn's digits, test part"
    check_reports(rows, tmp_path)
    from poolax.data import digits

    data = digits()
    images = data.inputs[data.splits["test"][:2]]
    x, _ = model.embed(model.params, model.preprocess(images))

    def pooled(x):
        return pooling.average_pool(model.encode(model.params, x).states)

    expected = [exact_norm(pooled, image) for image in x]
    np.testing.assert_allclose(rows[1]["measured"], expected, rtol=1e-3)
    for row in rows:
        logs = np.log10(row["measured"])
        assert np.all(logs <= np.asarray(row["log10_local"]) + 1e-5)
        assert max(row["log10_local"]) <= row["log10_sharp"]
        if row["pooler"] != "rolling":
            (alone,) = measure.local_at_inputs(model, x, poolers=[row["pooler"]])
            np.testing.assert_allclose(alone, row["log10_local"], atol=1e-5)
        assert row["published"] is None
        assert row["converged"]
    np.save(tmp_path / "images.npy", images)
    again = records_of(
        capsys, "lipschitz", folder, "--inputs", tmp_path / "images.npy", "--poolers", "first", "avg"
    )
    np.testing.assert_allclose(again[1]["measured"], rows[1]["measured"], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bounds", "--num-heads", "3"], "num_heads: expected a divisor of dim = 64, got 3"),
        (["bounds", "--num-tokens", "0"], r"num_tokens: expected a whole number >= 1, got 0"),
        (["bounds", "--num-tokens", "9", "4"], r"num_tokens: expected low <= high, got 9 > 4"),
        (["bounds", "--num-tokens", "1", "2", "3"], r"num_tokens: .*lowest and highest, got 3"),
        (["bounds", "--query-norm", "1", "2"], r"query_norm: expected 1 or num_heads = 4 .*, got 2"),
        (["bounds", "--epsilon", "1"], r"epsilon, sigma: expected both or none, got one"),
        (["bounds", "--cube", "1", "--radius", "1"], r"cube: expected no radius or spread beside it.*"),
        (["bounds", "--poolers"], r"poolers: expected at least one, got none"),
        (["lipschitz", "VIT", "--poolers"], r"poolers: expected at least one, got none"),
        (["bounds", "--poolers", "mean"], r"name: expected one of cls, .*, got 'mean'"),
        (["bounds", "--radius", "-1"], r"radius: expected a finite number >= 0, got -1"),
        (["bounds", "--dim", "4"], r"num_heads: expected heads at least two wide, got 4"),
        (["bounds", "/nowhere/at/all"], r"path_or_hub_id: .*"),
        (["lipschitz"], r".*MODEL.*"),
        (["lipschitz", "/nowhere/at/all"], r"path_or_hub_id: .*"),
        (["lipschitz", "BLOCKS", "--text", "a"], r"text: expected none for blocks.*"),
        (["lipschitz", "BLOCKS", "--inputs", "/nowhere.npy"], r"inputs: expected an array in .*"),
        (["lipschitz", "VIT", "--text", "a"], r"text: expected none for ViT, which takes images"),
        (["lipschitz", "VIT", "--inputs", "/nowhere"], r"inputs: expected .npy, .npz, or images.*"),
        (["lipschitz", "VIT", "--poolers", "wavg"], r"poolers: expected ones without parameters.*"),
        (["bounds", "BLOCKS", "--dim", "8"], r"checkpoint: expected no sizes and norms beside it.*"),
    ],
)  # fmt: skip
def test_usage_errors(arguments, message, capsys, blocks, vit):
    places = {"BLOCKS": blocks, "VIT": vit[0]}
    code, out, err = run(capsys, *(places.get(argument, argument) for argument in arguments))
    assert (code, out) == (cli.USAGE, "")
    assert re.fullmatch(rf"poolax: {message}\n", err.splitlines(keepends=True)[-1])


@pytest.mark.parametrize("command", ["bounds", "lipschitz"])
def test_help_has_an_example(command, capsys):
    code, out, _ = run(capsys, command, "--help")
    assert code == cli.COMPLETE
    assert f"poolax {command} " in out
    for option in ("--json", "--num-"):
        assert option in out


@pytest.mark.parametrize("big", [3.0, 999999.0, 1.234e15, 1.234e150])
def test_no_number_is_cut_at_80_columns(big, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    log10 = {f"log10_{name}": np.log10(big) for name in ("tight", "sharp", "published")}
    row = {"attention": "cosine", "pooler": "hybrid", "num_inputs": 8, "num_tokens": [16, 16]}
    row |= {"radius": 2.0, "spread": 2.0, "measured": [big], "local": [big], **log10}
    row |= dict.fromkeys(("tight", "sharp", "published"), big)
    show([_table([row], "digits", "poolax-quickstart")], [], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if "cosine" in line]
    assert line.split().count(reporting.number_text(big, np.log10(big))) == 6
    assert "published" in "".join(lines)


def test_numbers_for_people():
    assert [reporting.number_text(value) for value in (None, 0.0, 0.00002, 0.5, 3.14159, 12345.6)] == [
        "–", "0", "2.00e-5", "0.500", "3.14", "12346",
    ]  # fmt: skip
    # Three digits, whatever stands beside them.
    assert [reporting.number_text(value) for value in (18.0, 22.9, 999.7, -0.5)] == [
        "18.0", "22.9", "1000", "-0.500",
    ]  # fmt: skip
    assert [reporting.number_text(value) for value in (794373.0, 99951.0, 99999.7, 9.9999e-4)] == [
        "7.94e5", "99951", "1.00e5", "0.00100",
    ]  # fmt: skip
    assert reporting.number_text(3e6, np.log10(3e6)) == "3.00e6"
    assert reporting.number_text(None, 43.21) == "1.62e43"
    assert reporting.number_text(None, 42.99999) == "1.00e43"
    assert reporting.number_text(1e300, 412.5) == "3.16e412"
    assert reporting.number_text(1e45) == "1.00e45"
    assert reporting.number_text(np.inf) == "–"


def test_series_files(tmp_path):
    from poolax.cli._inputs import read_inputs

    config = backbones.MomentConfig(
        num_steps=16, patch_len=8, max_patches=4, width=8, num_layers=1, num_heads=2, mlp_dim=8
    )
    moment = backbones.Moment.init(config, jax.random.key(0))
    (tmp_path / "a.tsv").write_text("1\t0.5\t1.5\n2\t2.5\t3.5\n")
    (tmp_path / "a.csv").write_text("date,HUFL,OT\n2016-07-01,1,2\n2016-07-02,,4\n")
    rows = read_inputs(moment, (), str(tmp_path / "a.tsv"), 8)
    np.testing.assert_array_equal(rows.raw, [[0.5, 1.5], [2.5, 3.5]])
    columns = read_inputs(moment, (), str(tmp_path / "a.csv"), 8)
    np.testing.assert_array_equal(columns.raw, [[1, np.nan], [2, 4]])
    assert read_inputs(moment, (), None, 3).raw.shape == (3, 16)


def test_image_files(tmp_path, vit):
    from PIL import Image

    from poolax.cli._inputs import read_inputs

    Image.fromarray(np.full((20, 16, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    images = read_inputs(vit[1], (), str(tmp_path), 8).raw
    np.testing.assert_array_equal(images, np.full((1, 8, 8, 1), 128.0))
    # As the checkpoint's processor has them, where there is one.
    geometry = backbones.ImageGeometry(resize=6, crop=(4, 6))
    resized = vit[1].replace(preprocess=backbones.ImagePreprocess(geometry=geometry))
    assert read_inputs(resized, (), str(tmp_path), 8).raw.shape == (1, 4, 6, 1)


def test_measure_block_takes_a_domain():
    model = TBM(2, pooling.SumPool(), KINDS["cosine"])
    x = random_tokens(jax.random.key(0), 4, 8, 1.0)
    variables = model.init(jax.random.key(1), x)
    row = measure_block(model, variables, x[None], domain=bounds.Domain(5.0, 5.0))
    bound = bounds.tbm(model, variables, num_tokens=4, radius=5.0, method="tight")
    assert row["tight"] == pytest.approx(float(bound.lipschitz), rel=1e-6)
    with pytest.raises(ValueError, match=r"inputs: expected shape \(N, n, d\), got \(4, 8\)"):
        measure_block(model, variables, x)

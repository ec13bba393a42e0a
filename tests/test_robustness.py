"""Attacks on heads through their backbone, and what stands in tables of them."""

import importlib
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import reporting, training
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.data import Dataset
from poolax.records import check_record, unpacked

PREPARE = ImagePreprocess(scale=1 / 16, mean=(0.4,), std=(0.25,))
CONFIG = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
ATTACKS = (
    training.PixelAttack(0.02),
    training.PixelAttack(0.1),
    training.PixelAttack(0.1, steps=4, restarts=2),
    training.PixelAttack(0.1, steps=4, loss="margin"),
    training.PixelAttack(0.0),
)


@pytest.fixture(scope="module")
def experiments(pytestconfig):
    """Imports modules of the experiments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A head on images that are brighter above or below."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    images = rng.uniform(2, 14, (90, 8, 8, 1))
    images[:, :4] += 2 * labels[:, None, None, None]
    images = np.clip(images, 0, 16).astype(np.float32)
    splits = {"train": np.arange(50), "validation": np.arange(50, 70), "test": np.arange(70, 90)}
    data = Dataset("bright", images, labels, splits, "made up", "none", num_classes=2)
    vit, out = ViT.init(CONFIG, jax.random.key(0), preprocess=PREPARE), tmp_path_factory.mktemp("heads")
    task = training.Classification(2)
    [row] = training.sweep(vit, data, task, poolers=["avg"], seeds=1, solver="converged", out=out)
    return vit, training.load_head(training.head_directory(out, row)), data, row


@pytest.fixture(scope="module")
def found(trained):
    vit, head, data, _ = trained
    test = data.splits["test"]
    return training.attack_head(vit, head, data.inputs[test], data.targets[test], ATTACKS)


def test_unattacked_images_are_predicted_as_the_sweep_did(trained, found):
    vit, head, data, row = trained
    test = data.splits["test"]
    logits = head.predict(vit(PREPARE(data.inputs[test])).states)
    labels = data.targets[test]
    np.testing.assert_array_equal(found.clean, np.argmax(logits, axis=-1) == labels)
    assert np.mean(found.clean) == pytest.approx(row["test"])
    own = np.take_along_axis(np.asarray(logits), labels[:, None], axis=1)[:, 0]
    other = np.take_along_axis(np.asarray(logits), 1 - labels[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(found.margin, own - other, atol=1e-4)
    np.testing.assert_allclose(found.clean_loss, np.log1p(np.exp(other - own)), atol=1e-4)


def test_more_freedom_and_effort_find_larger_losses(found):
    small, large, walked, of_margin, nothing = found.attacked_loss
    assert (small >= found.clean_loss - 1e-6).all()
    assert large.mean() > small.mean() > found.clean_loss.mean()
    assert (walked >= large - 1e-5).all()
    np.testing.assert_allclose(nothing, found.clean_loss, atol=1e-6)
    # Of two classes the margin is a monotone function of the cross-entropy: the first walk is the same.
    assert (large - 1e-3 <= of_margin).all()
    assert (of_margin <= walked + 1e-3).all()
    assert np.isclose(of_margin, walked, rtol=1e-3).mean() >= 0.5
    assert found.attacked[1].mean() < found.clean.mean()
    assert found.moved[:4].all()
    assert not found.moved[4].any()


@pytest.mark.slow
def test_batches_change_nothing(trained, found):
    vit, head, data, _ = trained
    test = data.splits["test"]
    again = training.attack_head(
        vit, head, data.inputs[test], data.targets[test], ATTACKS, batch_size=7
    )
    np.testing.assert_allclose(again.attacked_loss, found.attacked_loss, atol=1e-4)
    np.testing.assert_array_equal(again.clean, found.clean)


def test_norms_are_those_of_the_logits_by_pixels(trained):
    vit, head, data, _ = trained
    pixels = jnp.asarray(data.inputs[:3] / 16)

    def logits(x):
        return head.predict(vit(PREPARE(16 * x)[None]).states)[0]

    jacobians = jax.vmap(jax.jacrev(logits))(pixels).reshape(3, 2, -1)
    expected = [np.linalg.norm(jacobian, 2) for jacobian in jacobians]
    np.testing.assert_allclose(training.pixel_norms(vit, head, data.inputs[:3]), expected, rtol=1e-4)


def test_what_cannot_be_attacked_is_refused(trained):
    vit, head, data, _ = trained
    images, labels = data.inputs[:2], data.targets[:2]
    calls = [
        ((vit, head, images + 16, labels, ATTACKS), "images: expected values from 0 to 16, got"),
        ((vit, head, images[0], labels, ATTACKS), r"images: expected shape \(N, h, w, c\)"),
        ((vit, head, images, labels + 2, ATTACKS), "labels: expected classes from 0 to 1, got 2 to 3"),
        ((vit, head, images[:0], labels[:0], ATTACKS), "images: expected at least one, got none"),
        ((vit, head, images, labels[:0], ATTACKS), "labels: expected one for each of 2 images, got"),
        ((vit, head, images, labels, ()), "attacks: expected at least one, got none"),
        ((vit.replace(preprocess=None), head, images, labels, ATTACKS), "backbone: expected one with"),
    ]
    for arguments, message in calls:
        with pytest.raises(ValueError, match=message):
            training.attack_head(*arguments)
    with pytest.raises(
        ValueError, match="loss: expected one of 'cross_entropy', 'margin', got 'hinge'"
    ):
        training.PixelAttack(0.1, loss="hinge")


def record(pooler, clean, fgsm, pgd, factor, norm, **fields):
    attacks = [
        {"name": name, "radius": 3 / 255, "steps": 20 * (name == "pgd"), "restarts": 1}
        | {"accuracy": accuracy, "success": (clean - accuracy) / clean, "unmoved": unmoved}
        for name, accuracy, unmoved in (("fgsm", fgsm, 0.25 * (pooler == "sum")), ("pgd", pgd, 0.0))
    ]
    row = {"kind": "robustness", "id": f"{pooler}{fields}", "head": "h", "model": "net"}
    row |= {"dataset": "own", "task": "classification", "pooler": pooler, "solver": "adam", "seed": 0}
    row |= {"num_inputs": 20, "image_shape": [8, 8, 1], "clean": clean, "margin": 2.0}
    row |= {"attacks": attacks, "factor": factor, "norm": norm, "command": "robustness.py"}
    check_record(row | fields)
    return row | fields


def test_tables_have_accuracies_and_ranks(tmp_path):
    rows = [
        record("avg", 0.9, 0.8, 0.7, 0.25, 1.0),
        record("avg", 0.8, 0.7, 0.6, 0.25, 1.0, seed=1),
        record("max", 0.9, 0.7, 0.5, 1.0, 2.0),
        record("sum", 0.9, 0.6, 0.3, 4.0, 4.0),
        record("last", 0.9, 0.5, 0.1, 1.5, 8.0),
        record("attn", 0.9, 0.4, 0.0, None, 9.0),
    ]
    accuracies, ranks, paper = reporting.robustness_tables(rows)
    assert accuracies.columns == [
        "pooler",
        "clean",
        "FGSM 3/255",
        "PGD 3/255",
        "factor",
        "Jacobian",
        "margin",
    ]
    assert [cell.text for cell in accuracies.rows[0]] == [
        *("avg", "85.00 ± 7.07", "75.00 ± 7.07 (11.8)", "65.00 ± 7.07 (23.6)", "0.250", "1.00", "2.00")
    ]
    assert accuracies.rows[-1][4].text == "–"
    assert "(images that it leaves as they are: sum 25 %)" in " ".join(accuracies.notes)
    # Ranked by factor: avg, max, last, sum; by what is lost: avg, max, sum, last.
    assert [cell.text for cell in ranks.rows[1]][2:] == ["+0.80 (4)", "+1.00 (5)", "+1.00 (5)"]
    sums = {row[0].text: row[1].text for row in paper.rows}
    assert sums["sum"] == "10.92"
    reporting.plot_robustness(rows, tmp_path / "robustness.png")
    assert (tmp_path / "robustness.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="records: expected some of kind 'robustness', got none"):
        reporting.robustness_tables([])


def test_records_hold_shares_and_examples(experiments):
    script = experiments("robustness")
    options = script.Options(budgets=(3.0,), steps=2)
    clean = np.array([True, True, False, True])
    attacked = np.array([[True, False, False, True], [False, False, True, False]])
    moved = np.array([[True, True, True, False], [True, True, True, True]])
    zeros = np.zeros((2, 4))
    found = training.AttackedHead(clean, attacked, zeros[0], zeros + 1, moved, zeros[0] + 2)
    summary = script.summary(options, found)
    assert (summary["clean"], summary["margin"]) == (0.75, 2.0)
    fgsm, pgd = summary["attacks"]
    assert (fgsm["name"], fgsm["accuracy"], fgsm["unmoved"]) == ("fgsm", 0.5, 0.25)
    assert (pgd["name"], pgd["steps"], pgd["loss"]) == ("pgd", 2, "margin")
    assert [fgsm["success"], pgd["success"]] == pytest.approx([1 / 3, 1.0])
    kept, _ = unpacked(summary["examples"])
    np.testing.assert_array_equal(kept["attacked"], attacked.T)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "banking77"], "datasets: expected digits, cifar10, got banking77"),
        (["--steps", "0"], "steps: expected a whole number >= 1"),
        (["--budgets", "-1"], "radius: expected a finite number >= 0"),
        (["--learning-rates", "0.1", "0.2"], "learning_rates: expected one, got 2"),
    ],
)
def test_usage_errors_are_one_line(experiments, tmp_path, capsys, arguments, message):
    script = experiments("robustness").SCRIPT
    assert experiments("probing").main(script, [*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_eight_devices_find_what_one_does(pytestconfig, tmp_path):
    found = {}
    for devices in (1, 8):
        out = tmp_path / str(devices)
        arguments = ["--quick", "--poolers", "avg", "max", "--solver", "adam", "--out", str(out)]
        arguments += ["--steps", "3", "--num-inputs", "20", "--num-norms", "4"]
        command = [sys.executable, "experiments/robustness.py", *arguments, "--devices", str(devices)]
        subprocess.run(
            command, check=True, cwd=pytestconfig.rootpath, env=os.environ, capture_output=True
        )
        rows = map(json.loads, (out / "robustness.jsonl").read_text().splitlines())
        found[devices] = {(row["pooler"], row["seed"]): row for row in rows}
        assert (out / "robustness.md").read_text().startswith("# Attacks through backbone and head\n")
    assert len(found[1]) == 4
    for key, one in found[1].items():
        other = found[8][key]
        assert other["devices"].startswith("8 x")
        for field in ("clean", "clean_loss", "margin", "norm"):
            assert other[field] == pytest.approx(one[field], abs=1e-5, rel=1e-5)
        for own, others in zip(one["attacks"], other["attacks"], strict=True):
            assert others["cross_entropy"] == pytest.approx(own["cross_entropy"], abs=1e-5)

"""Examples run, reduced to seconds."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def regularize(pytestconfig):
    path = pytestconfig.rootpath / "experiments" / "examples" / "regularize.py"
    spec = importlib.util.spec_from_file_location("regularize", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["regularize"] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["regularize"]


def test_tokens_keep_distances_and_the_domain_holds_them(regularize):
    from poolax import bounds

    images = np.random.default_rng(0).integers(0, 2, (20, 8, 8)).astype(np.float32)
    images = np.concatenate([images, np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)])
    tokens = np.asarray(regularize.to_tokens(images, 24))
    assert tokens.shape == (22, 16, 24)
    np.testing.assert_allclose(
        np.linalg.norm(tokens[0] - tokens[1]), np.linalg.norm(images[0] - images[1]), rtol=1e-5
    )
    assert (tokens[0, 1, :4] == images[0, :2, 2:4].reshape(-1)).all()
    domain, found = regularize.domain_of_images(), bounds.domain_of(tokens)
    np.testing.assert_allclose([found.radius, found.spread], [domain.radius, domain.spread], rtol=1e-4)


def test_regularize(regularize, tmp_path, capsys, monkeypatch):
    arguments = "--seeds 2 --epochs 6 --num-inputs 4 --search-restarts 2 --search-steps 5 --width 20"
    monkeypatch.setattr(sys, "argv", ["regularize.py", *arguments.split(), "--out", str(tmp_path)])
    regularize.main()
    printed = capsys.readouterr().out
    free, penalised = map(json.loads, (tmp_path / "regularize.jsonl").read_text().splitlines())
    assert (free["strength"], penalised["strength"]) == (0.0, 0.02)
    for record in (free, penalised):
        values = {name: np.array(record[name]) for name in ("measured_real", "measured_adversarial")}
        for measured in values.values():
            assert measured.shape == (2,)
            assert (measured <= record["sharp"]).all()
        assert (np.array(record["accuracy"]) > 0.15).all()
        spread = np.std(record["accuracy"], ddof=1)
        assert f"{100 * np.mean(record['accuracy']):.1f} ± {100 * spread:.1f}" in printed
    assert (np.array(penalised["sharp"]) < np.array(free["sharp"])).all()


def test_a_wrong_option_is_one_line(pytestconfig):
    script = pytestconfig.rootpath / "experiments" / "examples" / "regularize.py"
    done = subprocess.run(
        [sys.executable, script, "--width", "19"], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: width: expected a whole number >= 20, got 19\n"

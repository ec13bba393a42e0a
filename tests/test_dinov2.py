"""Real pretrained weights: a DINOv2-small, against the reference and the graph that it is read from."""

import numpy as np
import pytest
from parity import real_weights, run, transformers
from real_weights import dinov2_graph_states
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from poolax import backbones, data, training


@pytest.fixture(scope="module")
def directory():
    return real_weights("dinov2")


def test_images_that_are_not_square_against_graph_and_reference(directory):
    dinov2 = backbones.load(directory, stacked=True)
    image = np.random.default_rng(0).integers(0, 256, (1, 30, 43, 3), dtype=np.uint8)
    x = np.asarray(dinov2.preprocess(image))
    pixels = x.transpose(0, 3, 1, 2).copy()
    states = np.asarray(dinov2(x).states)
    assert states.shape == (1, 1 + 2 * 3, 384)
    model = transformers.Dinov2Model.from_pretrained(directory, attn_implementation="eager").eval()
    reference = run(model, pixel_values=pixels).last_hidden_state.numpy()
    graph = dinov2_graph_states(pixels)
    for one, other in ((reference, graph), (states, graph), (states, reference)):
        assert np.abs(one - other).max() < 1e-4
    assert np.abs(graph).max() > 1


@pytest.mark.slow
def test_a_linear_probe_on_the_cls_token_knows_cifar10(directory, test_data):
    """With 1,500 training images of 98 x 98 pixels about 69 in 100 are right."""
    dinov2 = backbones.load(directory, stacked=True)
    parts = [np.load(test_data / "cifar10" / f"{name}.npz") for name in ("train", "test")]
    images = np.concatenate([parts[0]["image"][:1800], parts[1]["image"][:700]])
    labels = np.concatenate([parts[0]["label"][:1800], parts[1]["label"][:700]])
    splits = {"train": np.arange(1500), "validation": np.arange(1500, 1800)}
    splits["test"] = np.arange(1800, 2500)
    pixels = dinov2.preprocess.collect(list(images), size=98)
    dataset = data.Dataset("cifar10", pixels, labels, splits, "CIFAR-10", "none stated")
    task = training.Classification(10)
    [row] = training.sweep(dinov2, dataset, task, poolers=("cls",), seeds=1, solver="converged")
    assert row["positions"] == "bicubic from 37 x 37 to 7 x 7 patches"
    assert 0.64 <= row["test"] <= 0.75


@pytest.mark.slow
def test_converged_heads_on_cifar10_are_those_of_scikit_learn(directory, test_data, tmp_path):
    """Of averaged states and of the first token's, each at the penalty that validation chose."""
    dinov2 = backbones.load(directory, stacked=True)
    parts = [np.load(test_data / "cifar10" / f"{name}.npz") for name in ("train", "test")]
    images = [*parts[0]["image"][:2300], *parts[1]["image"][:1000]]
    labels = np.concatenate([parts[0]["label"][:2300], parts[1]["label"][:1000]]).astype(np.int64)
    ends = np.split(np.arange(3300), [2000, 2300])
    splits = dict(zip(("train", "validation", "test"), ends, strict=True))
    pixels = dinov2.preprocess.collect(images, size=98)
    states = np.asarray(training.extract_states(dinov2, pixels, batch_size=64).states)
    vectors = {"cls": states[:, 0].astype(np.float64), "avg": states.mean(axis=1, dtype=np.float64)}
    train, test = splits["train"], splits["test"]
    task, how = training.Classification(10), {"seeds": 1, "solver": "converged", "out": tmp_path}
    rows = training.sweep_states(
        states, None, labels, task, splits=splits, poolers=list(vectors), neighbours="none", **how
    )
    for row in rows:
        features = StandardScaler().fit(vectors[row["pooler"]][train])
        features = features.transform(vectors[row["pooler"]])
        reference = LogisticRegression(C=1 / (row["strength"] * len(train)), tol=1e-7, max_iter=2000)
        reference.fit(features[train], labels[train])
        head = training.load_head(training.head_directory(tmp_path, row))
        assert row["converged"]
        assert row["test"] == pytest.approx(reference.score(features[test], labels[test]), abs=5e-3)
        for part in (train, test):
            ours = log_softmax(np.asarray(head.predict(states[part]), np.float64), axis=1)
            theirs = reference.predict_log_proba(features[part])
            own, other = (-np.mean(one[np.arange(len(part)), labels[part]]) for one in (ours, theirs))
            assert own == pytest.approx(other, abs=1e-4)

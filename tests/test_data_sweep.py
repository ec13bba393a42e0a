"""Sweeps on data sets that are read as records of TensorFlow Datasets."""

import io
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from test_data_vision import prepared

from poolax import data
from poolax.backbones import ImagePreprocess, ViT, ViTConfig
from poolax.data.vision import Images
from poolax.training import Classification, Records, sweep

SIZE = 8
NUM_CLASSES = 3
POOLERS = ("avg", "attn")


@pytest.fixture(scope="module")
def vit():
    config = ViTConfig(SIZE, 4, 3, width=8, num_layers=1, num_heads=2, mlp_dim=16)
    return ViT.init(config, jax.random.key(0), ImagePreprocess(scale=1 / 255))


def encoded(label, number, kind="JPEG"):
    """A photograph, as it were: noise around a colour that tells the class."""
    colours = np.eye(3)[label % 3] * 200
    noise = np.random.default_rng(number).integers(0, 56, (10 + number % 3, 12, 3))
    file = io.BytesIO()
    Image.fromarray((colours + noise).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def birds(root):
    """CUB-200-2011 as published, with thirty images of three species for training and nine for test."""
    lists = {"images": [], "image_class_labels": [], "train_test_split": []}
    for number in range(1, 40):
        label = number % NUM_CLASSES
        file = f"{label + 1:03d}.Bird/Bird_{number:04d}.jpg"
        lists["images"].append(f"{number} {file}")
        lists["image_class_labels"].append(f"{number} {label + 1}")
        lists["train_test_split"].append(f"{number} {int(number <= 30)}")
        path = root / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(label, number))
    lists["classes"] = [f"{label + 1} {label + 1:03d}.Bird" for label in range(NUM_CLASSES)]
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def run(vit, dataset, out=None):
    return sweep(
        vit,
        dataset,
        Classification(dataset.num_classes),
        poolers=POOLERS,
        seeds=2,
        epochs=2,
        batch_size=8,
        learning_rates=(0.01,),
        out=out,
    )


def results(records):
    """What records say but for identities and times, which depend on where the data were read."""
    apart = {"id", "data_fingerprint", "wall_s", "features_wall_s", "time"}
    return [{name: value for name, value in row.items() if name not in apart} for row in records]


def test_records_of_prepared_images_are_those_of_the_files(vit, tmp_path):
    files = birds(tmp_path / "CUB_200_2011")
    folder = tmp_path / "tfds"
    data.prepare("cub200", data_dir=files, tfds_dir=folder, size=SIZE, partial=True)
    plain = data.load("cub200", data_dir=files, size=SIZE, partial=True)
    prepared = data.load("cub200", tfds_dir=folder, size=SIZE, partial=True)
    assert isinstance(prepared.inputs, Images)
    assert type(prepared.inputs) is not type(plain.inputs)
    first = run(vit, prepared, tmp_path / "out")
    assert results(first) == results(run(vit, plain))
    assert {row["data_source"] for row in first} == {plain.source}
    assert max(row["test"] for row in first) > first[0]["baseline"]
    # A sweep goes on from its records when the data are opened again.
    again = data.load("cub200", tfds_dir=folder, size=SIZE, partial=True)
    assert list(run(vit, again, tmp_path / "out")) == list(first)
    assert len(Records.read(tmp_path / "out" / "records.jsonl")) == len(first)
    assert "tensorflow" not in sys.modules


def test_a_mocked_builder_of_tfds(vit, tmp_path):
    import tensorflow_datasets as tfds

    def source(builder, split, decoders):
        first = {"train": 0, "test": 100}[split]
        return [
            {"id": b"", "image": encoded(number % 10, number, "PNG"), "label": number % 10}
            for number in range(first, first + 100)
        ]

    builder = prepared(tfds, "cifar10", tmp_path, {"train": [0], "test": [0]})
    with tfds.testing.mock_data(as_data_source_fn=source):
        dataset = data.entry("cifar10").tfds.read(builder, size=SIZE)
    records = run(vit, dataset)
    assert [len(part) for part in dataset.splits.values()] == [90, 10, 100]
    assert not any(row["diverged"] for row in records)
    assert "100 of the 50000 published train images" in records[0]["data_notes"]
    assert "tensorflow" not in sys.modules

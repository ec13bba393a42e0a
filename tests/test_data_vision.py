"""Vision data sets: the real sample, every published layout in small, geometry, and bad input."""

import dataclasses
import inspect
import io
import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image

from poolax.data import Dataset, digits, vision
from poolax.data.vision import (
    ENTRIES,
    ImageFiles,
    fit_image,
    fit_labels,
    grid_labels,
    inpainting,
    segmentation,
)
from poolax.data.vision._matlab import read_vectors

BY_NAME = {entry.name: entry for entry in ENTRIES}
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def read(name, directory, **options):
    return BY_NAME[name].read(directory, **options)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


def plain(grey, height=6, width=8):
    return np.full((height, width, 3), grey, np.uint8)


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def check_partition(data):
    parts = np.concatenate(list(data.splits.values()))
    assert sorted(parts) == list(range(len(data.inputs)))


# Entries


def test_entries():
    names = "cifar10 cifar100 imagenet100 cub200 miniplaces celeba flowers102 pets voc digits"
    assert [entry.name for entry in ENTRIES] == names.split()
    assert [entry.name for entry in ENTRIES if entry.verified] == ["digits"]
    tasks = {entry.name: entry.task for entry in ENTRIES if entry.task != "classification"}
    painted = dict.fromkeys(("celeba", "flowers102", "pets"), "inpainting")
    assert tasks == {**painted, "voc": "segmentation"}
    for entry in ENTRIES:
        assert entry.modality == "vision"
        assert (entry.read is None) != (entry.embedded is None)
        readers = [reader for reader in (entry.read, entry.embedded) if reader is not None]
        readers += [entry.tfds.read] if entry.tfds else []
        for reader in readers:
            keywords = {
                name
                for name, parameter in inspect.signature(reader).parameters.items()
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY
            }
            assert keywords == set(entry.options), entry.name
        for download in entry.downloads:
            assert len(download.sha256) == 64
    with pytest.raises(ValueError, match=r"depth: expected options of 'cifar10' \(partial, size\)"):
        BY_NAME["cifar10"].check_options({"depth": 3})


# CIFAR


def test_cifar10_sample(test_data):
    data = read("cifar10", test_data / "cifar10")
    assert data.inputs.shape == (10000, 32, 32, 3)
    assert data.inputs.dtype == np.uint8
    assert sizes(data) == {"train": 7200, "validation": 800, "test": 2000}
    check_partition(data)
    assert data.class_names == tuple(CIFAR10)
    for split, count in (("train", 720), ("validation", 80), ("test", 200)):
        assert np.bincount(data.targets[data.splits[split]]).tolist() == [count] * 10
    assert data.splits["test"].tolist() == list(range(8000, 10000))
    with np.load(test_data / "cifar10" / "train.npz") as arrays:
        assert (data.inputs[:8000] == arrays["image"]).all()
        assert (data.targets[:8000] == arrays["label"]).all()
    assert data.targets[:10].tolist() == [9, 1, 8, 7, 4, 5, 5, 6, 8, 7]
    assert data.inputs[0, 0, 0].tolist() == [250, 245, 241]
    assert data.targets[8000:8010].tolist() == [9, 6, 6, 9, 8, 2, 9, 4, 2, 8]
    assert data.inputs[8000, 0, 0].tolist() == [97, 133, 185]
    assert "8000 of the 50000 published train images" in data.notes
    larger = read("cifar10", test_data / "cifar10", size=64)
    assert larger.inputs[[3, 5]].shape == (2, 64, 64, 3)
    assert (larger.inputs[5] == fit_image(Image.fromarray(data.inputs[5]), 64, "crop")).all()
    assert larger.fingerprint != data.fingerprint


def cifar_binary(folder, name, num_train, label=None):
    """The published binary version in small: images, fine labels and the files."""
    rng = np.random.default_rng(0)
    num_classes = {"cifar10": 10, "cifar100": 100}[name]
    labels = np.arange(num_train + 5) % num_classes
    if label is not None:
        labels[0] = label
    images = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    pixels = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    heads = [labels[:, None]] if name == "cifar10" else [labels[:, None] % 20, labels[:, None]]
    raw = np.concatenate([*heads, pixels], axis=1).astype(np.uint8)
    names = "\n".join(f"name{number}" for number in range(num_classes)) + "\n"
    if name == "cifar10":
        for number, part in enumerate(np.split(raw[:num_train], 5), start=1):
            write(folder / f"data_batch_{number}.bin", part.tobytes())
        write(folder / "test_batch.bin", raw[num_train:].tobytes())
        write(folder / "batches.meta.txt", names + "\n")
    else:
        write(folder / "train.bin", raw[:num_train].tobytes())
        write(folder / "test.bin", raw[num_train:].tobytes())
        write(folder / "fine_label_names.txt", names)
    return images, labels


@pytest.mark.parametrize(
    ("name", "folder", "num_train"),
    [("cifar10", "cifar-10-batches-bin", 100), ("cifar100", "cifar-100-binary", 1000)],
)
def test_cifar_binary(tmp_path, name, folder, num_train):
    images, labels = cifar_binary(tmp_path / folder, name, num_train)
    data = read(name, tmp_path)
    assert (data.inputs == images).all()
    assert (data.targets == labels).all()
    assert sizes(data) == {"train": num_train * 9 // 10, "validation": num_train // 10, "test": 5}
    assert data.class_names[:2] == ("name0", "name1")
    assert read(name, tmp_path / folder).fingerprint == data.fingerprint
    write(tmp_path / folder / "batches.meta.txt", "one\n")
    write(tmp_path / folder / "fine_label_names.txt", "one\n")
    with pytest.raises(ValueError, match=rf"expected {data.num_classes} names, got 1"):
        read(name, tmp_path)


def test_cifar_refuses(tmp_path):
    with pytest.raises(
        ValueError, match=r"expected train.npz or cifar-10-batches-bin/data_batch_1.bin"
    ):
        read("cifar10", tmp_path)
    write(tmp_path / "py" / "cifar-10-batches-py" / "data_batch_1", b"")
    with pytest.raises(
        ValueError, match="got the Python version, whose pickles are not opened; take the"
    ):
        read("cifar10", tmp_path / "py")
    cifar_binary(tmp_path / "bin", "cifar10", 100, label=11)
    with pytest.raises(ValueError, match=r"data_batch_1.bin: expected labels from 0 to 9, got 0 to 11"):
        read("cifar10", tmp_path / "bin")
    write(tmp_path / "bin" / "data_batch_1.bin", b"\0" * 3072)
    with pytest.raises(
        ValueError, match=r"data_batch_1.bin: expected a multiple of 3073 bytes, got 3072"
    ):
        read("cifar10", tmp_path / "bin")
    (tmp_path / "bin" / "data_batch_3.bin").unlink()
    cifar_binary(tmp_path / "bin2", "cifar10", 100)
    (tmp_path / "bin2" / "data_batch_3.bin").unlink()
    with pytest.raises(
        ValueError, match=r"data_dir: expected data_batch_3.bin in .*bin2, which has none"
    ):
        read("cifar10", tmp_path / "bin2")


def save_npz(path, **changes):
    arrays = {
        "image": np.zeros((100, 32, 32, 3), np.uint8),
        "label": (np.arange(100) % 10).astype(np.uint8),
        "classes": np.asarray(CIFAR10),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "test.npz: expected arrays image, label, classes, got: "),
        ({"image": np.zeros((100, 3, 32, 32), np.uint8)}, r"expected image \(N, 32, 32, 3\) uint8"),
        ({"label": np.zeros(9, np.uint8)}, r"expected label \(100,\) and classes \(10,\), got \(9,\)"),
        ({"label": np.full(100, 10, np.uint8)}, "test.npz: expected labels from 0 to 9, got 10 to 10"),
        ({"classes": np.asarray(CIFAR10[::-1])}, "expected the same classes in train.npz and test.npz"),
    ],
)
def test_cifar_npz_refuses(tmp_path, changes, message):
    save_npz(tmp_path / "train.npz")
    with pytest.raises(ValueError, match=r"data_dir: expected test.npz in .*, which has none"):
        read("cifar10", tmp_path)
    save_npz(tmp_path / "test.npz", **changes)
    with pytest.raises(ValueError, match=message):
        read("cifar10", tmp_path)


def test_cifar_npz_that_is_damaged(tmp_path):
    write(tmp_path / "train.npz", b"PK\3\4 and no more")
    with pytest.raises(ValueError, match=r"train.npz: expected arrays image, label, classes, got: "):
        read("cifar10", tmp_path)


# Folders and lists


def imagenet(folder, synsets, num_train=10, num_test=2):
    for label, synset in enumerate(synsets):
        content = encoded(plain(label), "JPEG")
        for split, count in (("train", num_train), ("val", num_test)):
            for number in range(count):
                write(folder / split / synset / f"{synset}_{number}.JPEG", content)


def test_imagenet_takes_the_first_hundred(tmp_path):
    synsets = [f"n{number:08d}" for number in range(101)]
    imagenet(tmp_path, synsets, num_test=1)
    data = read("imagenet100", tmp_path, size=4)
    assert data.class_names == tuple(synsets[:100])
    assert sizes(data) == {"train": 900, "validation": 100, "test": 100}
    assert data.notes[0] == "classes: the first 100 synsets in sorted order, n00000000 to n00000099"
    check_partition(data)
    chosen = data.splits["validation"][:20]
    assert (data.inputs[chosen] == data.targets[chosen][:, None, None, None]).all()


def test_imagenet_takes_named_classes(tmp_path):
    imagenet(tmp_path / "data", ["n01", "n02", "n03"])
    write(tmp_path / "classes.txt", "n03\n\nn01\n")
    data = read("imagenet100", tmp_path / "data", classes=tmp_path / "classes.txt", size=4)
    assert data.class_names == ("n03", "n01")
    assert sizes(data) == {"train": 18, "validation": 2, "test": 4}
    assert data.inputs[[0, 10]][:, 0, 0, 0].tolist() == [2, 0]
    assert data.notes[0].startswith("classes: 2 synsets of classes.txt, SHA-256 ")
    assert "published validation split" in data.notes[2]
    for content, message in (
        ("n03\nn04\n", r"classes.txt:2: expected a synset of .*train, got 'n04'"),
        ("n03\nn01\nn03\n", "classes.txt:3: expected every synset once, got 'n03' again"),
        ("\n", "classes.txt: expected at least one line, got none"),
    ):
        write(tmp_path / "classes.txt", content)
        with pytest.raises(ValueError, match=message):
            read("imagenet100", tmp_path / "data", classes=tmp_path / "classes.txt")
    with pytest.raises(ValueError, match=r"classes: expected a file .*none.txt does not exist"):
        read("imagenet100", tmp_path / "data", classes=tmp_path / "none.txt")
    with pytest.raises(ValueError, match="expected at least 100 synsets, got 3; name fewer by"):
        read("imagenet100", tmp_path / "data")
    with pytest.raises(ValueError, match=r"data_dir: expected train/SYNSET/\*.JPEG in "):
        read("imagenet100", tmp_path)
    for file in (tmp_path / "data" / "val" / "n03").iterdir():
        file.unlink()
    write(tmp_path / "classes.txt", "n03\n")
    with pytest.raises(ValueError, match=r"data_dir: expected n03/\*.JPEG in .*val, got none"):
        read("imagenet100", tmp_path / "data", classes=tmp_path / "classes.txt")


def cub(root):
    images, labels, split = [], [], []
    for number in range(1, 25):
        label = 1 + number % 2
        images.append(f"{number} {label:03d}.Bird/Bird_{number:04d}.jpg")
        labels.append(f"{number} {label}")
        split.append(f"{number} {int(number <= 20)}")
        content = encoded(plain(number), "JPEG")
        write(root / "images" / f"{label:03d}.Bird" / f"Bird_{number:04d}.jpg", content)
    write(root / "images.txt", "\n".join(images))
    write(root / "image_class_labels.txt", "\n".join(reversed(labels)))
    write(root / "train_test_split.txt", "\n".join(split))
    write(root / "classes.txt", "1 001.Albatross\n2 002.Bird of two words\n")


def test_cub(tmp_path):
    cub(tmp_path / "CUB_200_2011")
    data = read("cub200", tmp_path, size=4)
    assert data.class_names == ("001.Albatross", "002.Bird of two words")
    assert data.targets.tolist() == [number % 2 for number in range(1, 25)]
    assert sizes(data) == {"train": 18, "validation": 2, "test": 4}
    assert data.splits["test"].tolist() == [20, 21, 22, 23]
    assert data.inputs[:][:, 0, 0, 0].tolist() == list(range(1, 25))
    assert read("cub200", tmp_path / "CUB_200_2011", size=4).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images.txt", None, "data_dir: expected CUB_200_2011/images.txt or images.txt in "),
        ("classes.txt", None, "data_dir: expected classes.txt in "),
        ("images.txt", "1\n", "images.txt:1: expected 2 columns, got '1'"),
        (
            "image_class_labels.txt",
            "1 3\n",
            "labels.txt:1: expected a whole number from 1 to 2, got '3'",
        ),
        (
            "image_class_labels.txt",
            "1 x\n",
            "labels.txt:1: expected a whole number from 1 to 2, got 'x'",
        ),
        (
            "image_class_labels.txt",
            "77 1\n",
            "labels.txt:1: expected the number of an image in images.txt",
        ),
        ("classes.txt", b"1 caf\xe9\n", "classes.txt: expected text in UTF-8, got: "),
        (
            "train_test_split.txt",
            "1 1\n",
            "train_test_split.txt: expected a line for image 2, got none",
        ),
    ],
)
def test_cub_refuses(tmp_path, file, content, message):
    cub(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        write(tmp_path / file, content)
    with pytest.raises(ValueError, match=message):
        read("cub200", tmp_path)


def miniplaces(root):
    lines = []
    for number in range(20):
        scene = ("a/abbey", "b/bakery/shop")[number % 2]
        lines.append(f"train/{scene}/{number:08d}.jpg {number % 2}")
        write(root / "images" / lines[-1].split()[0], encoded(plain(number), "JPEG"))
    write(root / "train.txt", "\n".join(lines) + "\n")
    write(root / "val.txt", "val/00000001.jpg 1\n")
    write(root / "images" / "val" / "00000001.jpg", encoded(plain(99), "JPEG"))
    write(root / "categories.txt", "/a/abbey 0\n/b/bakery/shop 1\n")


@pytest.mark.parametrize("folder", ["", "data"])
def test_miniplaces(tmp_path, folder):
    miniplaces(tmp_path / folder)
    data = read("miniplaces", tmp_path, size=4)
    assert data.class_names == ("abbey", "bakery/shop")
    assert sizes(data) == {"train": 18, "validation": 2, "test": 1}
    assert data.inputs[[3, 20]][:, 1, 1, 1].tolist() == [3, 99]
    assert data.targets[[3, 20]].tolist() == [1, 1]
    assert len(data.notes) == 2
    write(tmp_path / folder / "val.txt", "val/00000001.jpg 2\n")
    with pytest.raises(ValueError, match=r"val.txt:1: expected a whole number from 0 to 1, got '2'"):
        read("miniplaces", tmp_path)
    write(tmp_path / folder / "categories.txt", "/a/abbey 1\n")
    with pytest.raises(
        ValueError, match=r"categories.txt:1: expected a whole number from 0 to 0, got '1'"
    ):
        read("miniplaces", tmp_path)


def test_celeba(tmp_path):
    lines = [f"{number:06d}.jpg {number % 3}" for number in range(1, 7)]
    write(tmp_path / "list_eval_partition.txt", "\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="data_dir: expected img_align_celeba in "):
        read("celeba", tmp_path)
    for number in range(1, 7):
        image = encoded(plain(40 * number, 218, 178), "JPEG")
        write(tmp_path / "img_align_celeba" / f"{number:06d}.jpg", image)
    data = read("celeba", tmp_path, size=8)
    assert {name: split.tolist() for name, split in data.splits.items()} == {
        "train": [2, 5],
        "validation": [0, 3],
        "test": [1, 4],
    }
    assert data.targets == {}
    painted = inpainting(data, output_grid=4)
    expected = np.arange(1, 7)[:, None] * np.full(12, 40 / 255)
    np.testing.assert_allclose(painted.targets, expected, atol=0.01)
    write(tmp_path / "list_eval_partition.txt", "000001.jpg 0\n000002.jpg 0\n000003.jpg 2\n")
    with pytest.raises(
        ValueError, match="splits: expected examples in 'validation' of 'celeba', got none"
    ):
        read("celeba", tmp_path)
    write(tmp_path / "list_eval_partition.txt", "000001.jpg 3\n")
    with pytest.raises(
        ValueError, match=r"partition.txt:1: expected a whole number from 0 to 2, got '3'"
    ):
        read("celeba", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_vectors_beside_what_is_none(compressed):
    file = io.BytesIO()
    others = {"matrix": np.ones((2, 3)), "none": np.ones((0, 3)), "text": "abc", "cells": [[1j, 2]]}
    row, column = np.asarray([[3, 1, 2]], np.uint8), np.asarray([[0.5], [2]])
    scipy.io.savemat(file, {**others, "row": row, "column": column}, do_compression=compressed)
    found = read_vectors(file.getvalue())
    assert {name: vector.tolist() for name, vector in found.items()} == {
        "row": [3, 1, 2],
        "column": [0.5, 2.0],
    }


def flowers(root, labels=(5, 6, 102, 1), test=((4, 2),)):
    root.mkdir(exist_ok=True)
    scipy.io.savemat(root / "imagelabels.mat", {"labels": np.asarray([labels], np.uint8)})
    numbers = {"trnid": [[3]], "valid": [[1]], "tstid": list(test)}
    scipy.io.savemat(root / "setid.mat", {k: np.asarray(v, np.uint16) for k, v in numbers.items()})
    for number in range(1, 5):
        write(root / "jpg" / f"image_{number:05d}.jpg", encoded(plain(number), "JPEG"))


def test_flowers(tmp_path):
    flowers(tmp_path)
    data = read("flowers102", tmp_path, size=4)
    assert data.inputs[:][:, 0, 0, 0].tolist() == [3, 1, 4, 2]
    assert data.targets.tolist() == [101, 4, 0, 5]
    assert sizes(data) == {"train": 1, "validation": 1, "test": 2}
    assert data.notes == ()
    flowers(tmp_path, test=((5,),))
    with pytest.raises(
        ValueError, match=r"setid.mat: expected images from 1 to 4 in tstid, got 5 to 5"
    ):
        read("flowers102", tmp_path)
    flowers(tmp_path, labels=(5, 6, 103, 1))
    with pytest.raises(ValueError, match="expected labels from 0 to 101, got 0 to 102"):
        read("flowers102", tmp_path)
    write(tmp_path / "setid.mat", b"no matrices" * 50)
    with pytest.raises(
        ValueError,
        match=r"setid.mat: expected a MATLAB file with whole numbers trnid, valid, tstid, got",
    ):
        read("flowers102", tmp_path)


def pets(root, skip=-1, name="breed"):
    for file, count in (("trainval", 10), ("test", 1)):
        lines = [
            f"{name if label == 3 and file == 'test' else 'breed'}{label}_of_{file}_{number} {label + 1} 1 1"
            for label in range(37)
            for number in range(count)
            if label != skip
        ]
        write(
            root / "annotations" / f"{file}.txt",
            "\n".join(line.replace("_of_" + file, "") for line in lines),
        )
    for label in range(37):
        for number in range(10):
            write(root / "images" / f"breed{label}_{number}.jpg", encoded(plain(label), "JPEG"))


def test_pets(tmp_path):
    pets(tmp_path)
    data = read("pets", tmp_path, size=4)
    assert data.class_names == tuple(f"breed{label}" for label in range(37))
    assert sizes(data) == {"train": 333, "validation": 37, "test": 37}
    assert np.bincount(data.targets[data.splits["validation"]]).tolist() == [1] * 37
    some = np.arange(0, 400, 33)
    assert data.inputs[some][:, 2, 2, 2].tolist() == data.targets[some].tolist()
    pets(tmp_path, name="other")
    with pytest.raises(ValueError, match=r"test.txt:4: expected class 4 to be 'breed3', got 'other3'"):
        read("pets", tmp_path)
    pets(tmp_path, skip=7)
    with pytest.raises(ValueError, match="expected images of class 8 in annotations, got none"):
        read("pets", tmp_path)


def palette_image(labels):
    image = Image.fromarray(labels)
    image.putpalette([255 - value // 3 for value in range(3 * 256)])
    return image


def voc(root, labels):
    names = [f"2007_{number:06d}" for number in range(12)]
    write(root / "ImageSets" / "Segmentation" / "train.txt", "\n".join(names[:10]) + "\n")
    write(root / "ImageSets" / "Segmentation" / "val.txt", "\n".join(names[10:]) + "\n")
    for number, name in enumerate(names):
        write(root / "JPEGImages" / f"{name}.jpg", encoded(plain(20 * number, *labels.shape), "JPEG"))
        write(root / "SegmentationClass" / f"{name}.png", encoded(palette_image(labels)))
    return names


def test_voc(tmp_path):
    labels = np.zeros((8, 12), np.uint8)  # A tall bar of 20, its border void, left of the centre.
    labels[:, 4], labels[:, 3] = 20, 255
    voc(tmp_path / "VOCdevkit" / "VOC2012", labels)
    data = read("voc", tmp_path, size=8, output_grid=8)
    assert data.inputs.shape == (12, 8, 8, 3)
    assert data.targets.dtype == np.int32
    assert data.targets[0].tolist() == [[0, 255, 20, 0, 0, 0, 0, 0]] * 8
    assert sizes(data) == {"train": 9, "validation": 1, "test": 2}
    assert (data.num_classes, data.class_names[20]) == (21, "tvmonitor")
    padded = read("voc", tmp_path, size=12, fit="pad", output_grid=6)
    assert padded.targets[5].tolist() == [[255] * 6, *[[0, 255, 0, 0, 0, 0]] * 4, [255] * 6]
    assert segmentation(padded, output_grid=6).fingerprint == padded.fingerprint
    with pytest.raises(ValueError, match="output_grid: expected a divisor of the pixels a side"):
        read("voc", tmp_path, size=8, output_grid=3)


def test_voc_refuses(tmp_path):
    root = tmp_path / "VOC2012"
    names = voc(root, np.full((8, 8), 21, np.uint8))
    with pytest.raises(ValueError, match=r"2007_.*.png: expected labels from 0 to 20 or 255, got 21"):
        read("voc", tmp_path, size=8, output_grid=8)
    voc(root, np.zeros((8, 8), np.uint8))
    path = root / "SegmentationClass" / f"{names[3]}.png"
    write(path, encoded(plain(0)))
    with pytest.raises(ValueError, match=rf"{names[3]}.png: expected a palette image .*, got RGB"):
        read("voc", tmp_path, size=8, output_grid=8)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{names[3]}.png: expected an image file, which is missing"):
        read("voc", tmp_path, size=8, output_grid=8)
    with pytest.raises(
        ValueError, match=r"expected VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt or"
    ):
        read("voc", tmp_path / "VOC2012" / "JPEGImages")


def test_too_few_images_for_a_validation_split(tmp_path):
    miniplaces(tmp_path)
    lines = (tmp_path / "train.txt").read_text().splitlines()
    write(tmp_path / "train.txt", "\n".join(lines[:3]))
    with pytest.raises(
        ValueError, match="splits: expected enough examples of each class to cut 10% off, got 3 in all"
    ):
        read("miniplaces", tmp_path)


# Images


def test_geometry_of_images_and_labels():
    columns = np.repeat(np.arange(12, dtype=np.uint8)[None] * 20, 6, axis=0)
    wide = Image.fromarray(columns)
    crop = fit_image(wide, 6, "crop")
    assert crop.shape == (6, 6, 3)
    assert crop[2, :, 1].tolist() == list(range(60, 180, 20))
    pad = fit_image(wide, 12, "pad")
    assert (pad[:3] == 0).all()
    assert (pad[9:] == 0).all()
    assert (pad[3:9, :, 0] == columns).all()
    assert (fit_labels(columns, 6, "crop") == crop[..., 0]).all()
    assert (fit_labels(columns, 12, "pad")[3:9] == columns).all()
    assert (fit_labels(columns, 12, "pad")[:3] == 255).all()
    tall = fit_image(wide.rotate(90, expand=True), 6, "crop")
    assert (tall == crop.transpose(1, 0, 2)[::-1]).all()
    # Half the size: nearest labels are one of the two pixels, and images their mean.
    assert set(fit_labels(columns, 3, "crop")[0].tolist()) <= set(range(60, 180, 20))
    assert abs(int(fit_image(wide, 3, "crop")[1, 1, 0]) - 110) <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA"])
def test_images_become_rgb(tmp_path, mode):
    image = Image.new("RGB", (5, 5), (255, 255, 255)).convert(mode)
    write(tmp_path / "x", encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert (ImageFiles(tmp_path, ["x"], size=5)[0] == 255).all()


@pytest.fixture
def files(tmp_path):
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        write(tmp_path / name, encoded(plain(10 * number)))
    return ImageFiles(tmp_path, names, size=6)


def test_image_files_index_as_arrays_do(files, tmp_path):
    assert (files.shape, files.dtype, len(files)) == ((5, 6, 6, 3), np.uint8, 5)
    whole = files[:]
    assert whole[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    indices = (slice(1, 4), [3, 3, 0], np.array([-1]), np.arange(5) > 2, [], slice(0, 0), 2, -1)
    for index in indices:
        assert (files[index] == whole[index]).all()
        assert files[index].shape == whole[index].shape
        assert files[index].dtype == np.uint8
    with pytest.raises(IndexError):
        _ = files[5]
    assert files.encoded(1) == (tmp_path / "1.png").read_bytes()
    assert (pickle.loads(pickle.dumps(files))[:] == whole).all()


def test_fingerprint_of_image_files(files, tmp_path):
    def again(**options):
        return ImageFiles(tmp_path, [f"{n}.png" for n in range(5)], size=6, **options).fingerprint

    before = files.fingerprint
    assert again() == before
    assert again(fit="pad") != before
    write(tmp_path / "4.png", encoded(np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)))
    assert again() != before
    (tmp_path / "4.png").unlink()
    with pytest.raises(ValueError, match=r"4.png: expected an image file, which is missing"):
        again()


def test_images_that_cannot_be_read(files, tmp_path):
    whole = (tmp_path / "3.png").read_bytes()
    for content in (b"", b"not an image", whole[:-40]):
        write(tmp_path / "3.png", content)
        with pytest.raises(ValueError, match=r"3.png: expected an image that can be decoded, got: "):
            files[:]
    (tmp_path / "3.png").unlink()
    with pytest.raises(ValueError, match=r"3.png: expected an image file, which is missing"):
        files[2:4]
    assert files[:3].shape == (3, 6, 6, 3)
    with pytest.raises(ValueError, match="fit: expected one of 'crop', 'pad', got 'squeeze'"):
        ImageFiles(tmp_path, ["0.png"], fit="squeeze")
    with pytest.raises(ValueError, match="size: expected a whole number >= 1, got 0"):
        ImageFiles(tmp_path, ["0.png"], size=0)


# Inpainting


def small(images, **changes):
    count = len(images)
    train, validation, test = np.split(np.arange(count), [count - 2, count - 1])
    splits = {"train": train, "validation": validation, "test": test}
    fields = {"targets": np.zeros(count, np.int32), "num_classes": 2} | changes
    return Dataset("small", images, splits=splits, source="test", licence="test", **fields)


RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)


def test_centre_by_hand():
    image = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)
    data = inpainting(small(image.repeat(3, axis=0)), output_grid=4)
    # Of the 4 by 4 cells of two pixels a side, the inner four start at rows and columns 2 and 4; a
    # cell's mean lies 4.5 above its first pixel.
    expected = (np.array([18, 20, 34, 36]) + 4.5) / 63
    np.testing.assert_allclose(data.targets, expected[None].repeat(3, axis=0), rtol=1e-6)
    hidden = np.zeros((8, 8), bool)
    hidden[2:6, 2:6] = True
    assert (data.inputs[0, ..., 0] == np.where(hidden, 31.5, image[0, ..., 0])).all()
    assert (data.num_classes, data.class_names) == (None, None)
    single = inpainting(small(image.repeat(3, axis=0)), full_resolution=True)
    np.testing.assert_allclose(single.targets[0], image[0][hidden][:, 0] / 63, rtol=1e-6)
    assert "4 by 4 grid of 2 pixels" in data.notes[-1]


def test_centre_of_colours():
    data = inpainting(small(IMAGES), output_grid=8, fill=1.0)
    assert data.targets.shape == (9, 4 * 4 * 3)
    assert data.targets.dtype == np.float32
    assert data.inputs.dtype == np.uint8
    assert (data.inputs[:, 4:12, 4:12] == 255).all()
    assert (data.inputs[:, :4] == IMAGES[:, :4]).all()
    cell = IMAGES[5, 6:8, 10:12].mean(axis=(0, 1)) / 255  # Row 1 and column 3 of the square.
    np.testing.assert_allclose(data.targets[5].reshape(4, 4, 3)[1, 3], cell, rtol=1e-6)


def test_blocks():
    data = inpainting(small(IMAGES), output_grid=8, mask="blocks", block=4, num_blocks=3, fill=0)
    assert data.targets.shape == (9, 8 * 8 * 3)
    scored = ~np.isnan(data.targets.reshape(9, 8, 8, 3))
    assert (scored.sum(axis=(1, 2, 3)) == 3 * 4 * 3).all()
    hidden = scored[..., 0].repeat(2, axis=1).repeat(2, axis=2)
    assert (data.inputs[hidden] == 0).all()
    assert (data.inputs[~hidden] == IMAGES[~hidden]).all()
    assert len({mask.tobytes() for mask in hidden}) > 1
    means = IMAGES.reshape(9, 8, 2, 8, 2, 3).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(data.targets.reshape(means.shape)[scored], means[scored], rtol=1e-6)
    by_default = inpainting(small(IMAGES), mask="blocks", block=4)
    assert (by_default.inputs != IMAGES).any(axis=3).mean() == pytest.approx(0.25, abs=0.01)


def test_cells_that_are_hidden_in_part_are_not_scored():
    options = {"output_grid": 3, "mask": "blocks", "block": 6, "num_blocks": 1}
    data = inpainting(small(IMAGES[:, :12, :12]), **options)
    # A block of six pixels hides one cell of four entirely, that in its corner, and parts of three.
    scored = ~np.isnan(data.targets.reshape(9, 3, 3, 3)[..., 0])
    assert (scored.sum(axis=(1, 2)) == 1).all()
    assert not scored[:, 1].any()
    assert not scored[:, :, 1].any()


def test_masks_depend_on_seed_and_example_alone():
    options = {"output_grid": 8, "mask": "blocks", "block": 4}
    data = inpainting(small(IMAGES), **options)
    assert inpainting(small(IMAGES), **options).fingerprint == data.fingerprint
    assert inpainting(small(IMAGES), seed=1, **options).fingerprint != data.fingerprint
    shorter = inpainting(small(IMAGES[:5]), **options)
    np.testing.assert_array_equal(shorter.targets, data.targets[:5])
    np.testing.assert_array_equal(shorter.inputs, data.inputs[:5])


@pytest.mark.parametrize("mask", ["center", "centre", "blocks"])
def test_inpainting_of_lazily_read_images(tmp_path, mask):
    names = [f"{number}.png" for number in range(9)]
    for name, image in zip(names, IMAGES, strict=True):
        write(tmp_path / name, encoded(image))
    options = {"output_grid": 8, "mask": mask, "block": 8, "seed": 4}
    files = ImageFiles(tmp_path, names, size=16)
    lazy, array = inpainting(small(files), **options), inpainting(small(IMAGES), **options)
    np.testing.assert_array_equal(lazy.targets, array.targets)
    assert not isinstance(lazy.inputs, np.ndarray)
    for index in (slice(None), [4, 2], 3, np.arange(9) > 6):
        np.testing.assert_array_equal(lazy.inputs[index], array.inputs[index])
    assert lazy.inputs.dtype == np.uint8
    copy = pickle.loads(pickle.dumps(lazy.inputs))
    assert copy.fingerprint == lazy.inputs.fingerprint
    assert lazy.fingerprint != inpainting(small(files), **options | {"fill": 0.0}).fingerprint


def test_images_of_no_split_are_not_read(tmp_path):
    write(tmp_path / "good.png", encoded(IMAGES[0]))
    files = ImageFiles(tmp_path, ["good.png", "missing.png", "good.png", "good.png"], size=16)
    splits = {"train": np.array([0]), "validation": np.array([2]), "test": np.array([3])}
    data = dataclasses.replace(small(files), splits=splits)
    painted = inpainting(data, output_grid=8)
    assert np.isnan(painted.targets[1]).all()
    assert np.isfinite(painted.targets[[0, 2, 3]]).all()
    assert (segmentation(data, output_grid=8).targets[1] == 255).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "corner"}, "mask: expected one of 'center', 'blocks', got 'corner'"),
        ({"output_grid": 5}, "output_grid: expected a divisor of 16 pixels a side, got 5"),
        ({"output_grid": 2}, "output_grid: expected a multiple of 4 for a centred quarter of the area"),
        ({"fill": 1.5}, "fill: expected a number from 0 to 1, got 1.5"),
        ({"num_blocks": 2}, 'num_blocks: expected none for mask="center", got it'),
        ({"mask": "blocks"}, "block: expected a divisor of 16 pixels a side below it, got 16"),
        (
            {"mask": "blocks", "block": 5},
            "block: expected a divisor of 16 pixels a side below it, got 5",
        ),
        (
            {"mask": "blocks", "block": 8, "num_blocks": 4},
            "num_blocks: expected fewer than the 4 of an",
        ),
        (
            {"mask": "blocks", "block": 2, "output_grid": 4, "num_blocks": 1},
            "block: expected blocks that",
        ),
        ({"mask": "blocks", "block": 8, "seed": -1}, "seed: expected a whole number >= 0, got -1"),
    ],
)
def test_inpainting_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        inpainting(small(IMAGES), **options)


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match=r"dataset: expected square images .*, got \(9, 16, 12, 3\)"):
        inpainting(small(IMAGES[:, :, :12]))
    with pytest.raises(ValueError, match=r"dataset: expected square images .*, got \(3,\)"):
        inpainting(small(np.array(["a", "b", "c"], object)), full_resolution=True)
    with pytest.raises(
        ValueError, match="dataset: expected images with a value above 0, got at most 0"
    ):
        inpainting(small(np.zeros((3, 8, 8, 1), np.float32)))


# Segmentation


def test_labels_at_the_centres_of_cells():
    labels = np.arange(81).reshape(1, 9, 9)
    assert grid_labels(labels, 3).tolist() == [[[10, 13, 16], [37, 40, 43], [64, 67, 70]]]
    assert (grid_labels(labels, 9) == labels).all()
    with pytest.raises(ValueError, match=r"output_grid: expected a divisor .*, got 2 for 9 by 9"):
        grid_labels(labels, 2)


def test_segmentation_of_label_maps():
    maps = RNG.integers(0, 21, (9, 16, 16)).astype(np.int32)
    maps[:, 6, 6] = 255
    data = segmentation(small(IMAGES, targets=maps, num_classes=21), output_grid=4)
    assert (data.targets == maps[:, 2::4, 2::4]).all()
    assert data.targets[3, 1, 1] == 255
    assert data.num_classes == 21
    finest = segmentation(small(IMAGES, targets=maps, num_classes=21))
    assert (finest.targets == maps).all()


def test_foreground_of_digits():
    data = segmentation(digits())
    assert data.targets.shape == (1797, 8, 8)
    assert (data.targets == (digits().inputs[..., 0] > 8)).all()
    assert (data.num_classes, data.class_names) == (2, ("background", "foreground"))
    assert "grey value lies above 0.5 of white (16)" in data.notes[-1]
    assert (segmentation(digits(), threshold=0.25).targets == (digits().inputs[..., 0] > 4)).all()
    with pytest.raises(ValueError, match="threshold: expected a number between 0 and 1, got 2"):
        segmentation(digits(), threshold=2)


def test_foreground_of_colours():
    grey = IMAGES.astype(float).mean(axis=-1)
    data = segmentation(small(IMAGES), output_grid=4)
    assert (data.targets == (grey > 127.5)[:, 2::4, 2::4]).all()


def test_inpainting_of_digits():
    data = inpainting(digits())
    inner = digits().inputs[:, 2:6, 2:6, 0].reshape(1797, 16)
    np.testing.assert_allclose(data.targets, inner / 16, rtol=1e-6)
    assert vision.digits is digits
    assert BY_NAME["digits"].embedded().fingerprint == digits().fingerprint


# TFDS: the features of each builder, with examples of ours in place of a download


@pytest.fixture(scope="module")
def tfds():
    import tensorflow_datasets

    tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


def example_of(tfds, feature, number):
    """An example with any value where none matters, and the number in image and label."""
    features = tfds.features
    if isinstance(feature, features.FeaturesDict):
        return {name: example_of(tfds, inner, number) for name, inner in feature.items()}
    if isinstance(feature, features.Image):
        height, width, channels = feature.shape
        return encoded(np.full((height or 6, width or 8, channels), number, np.uint8).squeeze())
    if isinstance(feature, features.ClassLabel):
        return number % 2
    if isinstance(feature, features.BBoxFeature):
        return features.BBox(0.0, 0.0, 1.0, 1.0)
    return "" if isinstance(feature, features.Text) else np.zeros((), feature.np_dtype)[()]


def prepared(tfds, name, directory, counts):
    """A builder of this name and features on disk, opened from its folder alone."""
    real = tfds.builder(name, data_dir=directory / "none", file_format="array_record").info.features

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=real)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(numbers) for split, numbers in counts.items()}

        def _generate_examples(self, numbers):
            for number in numbers:
                yield number, example_of(tfds, real, number)

    Small.name = name
    builder = Small(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return tfds.builder_from_directory(builder.data_path)


TFDS_SETS = ["cifar10", "cifar100", "cub200", "celeba", "flowers102", "pets"]


@pytest.mark.parametrize("name", TFDS_SETS)
def test_tfds(tfds, tmp_path, name):
    entry = BY_NAME[name]
    counts = {"train": range(20), "test": range(40, 44)}
    if name in ("celeba", "flowers102"):
        counts |= {"validation": range(30, 33)}
    builder = prepared(tfds, entry.tfds.name, tmp_path, counts)
    data = entry.tfds.read(builder, size=4)
    expected = {"train": 20, "validation": 3, "test": 4}
    assert sizes(data) == (expected if len(counts) == 3 else expected | {"train": 18, "validation": 2})
    check_partition(data)
    numbers = data.inputs[:][:, 1, 1, 1]  # TFDS shuffles what it writes.
    for split, written in counts.items():
        whole = np.concatenate([data.splits["train"], data.splits["validation"]])
        indices = whole if split == "train" and len(counts) == 2 else data.splits[split]
        assert sorted(numbers[indices]) == list(written)
    assert data.inputs.shape == (len(numbers), 4, 4, 3)
    if name == "celeba":
        assert data.targets == {}
    else:
        assert (data.targets == numbers % 2).all()
        assert data.targets.dtype == np.int32
        num_classes = builder.info.features["label"].num_classes
        assert data.num_classes == num_classes
        # The builders of CIFAR and CUB learn names, if any, from the files that they prepare.
        named = name in ("flowers102", "pets")
        assert (data.class_names is not None) == named
    assert data.inputs.encoded(3)[1:4] == b"PNG"
    assert (pickle.loads(pickle.dumps(data.inputs))[[2, 7]] == data.inputs[[2, 7]]).all()
    assert entry.tfds.read(builder, size=4).fingerprint == data.fingerprint
    assert entry.tfds.read(builder, size=5).inputs.fingerprint != data.inputs.fingerprint


def test_tfds_imagenet(tfds, tmp_path):
    entry = BY_NAME["imagenet100"]
    builder = prepared(
        tfds, "imagenet2012", tmp_path, {"train": range(20), "validation": range(40, 46)}
    )
    names = builder.info.features["label"].names
    assert names == sorted(names)
    write(tmp_path / "classes.txt", f"{names[1]}\n")
    data = entry.tfds.read(builder, size=4, classes=tmp_path / "classes.txt")
    assert data.class_names == (names[1],)
    assert data.targets.tolist() == [0] * 13
    assert sizes(data) == {"train": 9, "validation": 1, "test": 3}
    assert sorted(data.inputs[:][:, 0, 0, 0]) == [*range(1, 20, 2), 41, 43, 45]
    every = entry.tfds.read(builder, size=4)
    assert (len(every.inputs), every.num_classes) == (26, 100)
    assert every.notes[0] == "classes: the first 100 synsets in sorted order, n01440764 to n01855672"
    write(tmp_path / "classes.txt", "n00\n")
    with pytest.raises(ValueError, match=r"classes.txt:1: expected a synset of imagenet2012/1.0.0"):
        entry.tfds.read(builder, classes=tmp_path / "classes.txt")


def test_tfds_refuses(tfds, tmp_path):
    builder = prepared(tfds, "cifar10", tmp_path, {"train": range(20)})
    message = r"tfds_dir: expected the split 'test' of cifar10/1.0.0, which has train"
    with pytest.raises(ValueError, match=message):
        BY_NAME["cifar10"].tfds.read(builder)


def test_tfds_image_that_cannot_be_decoded(tfds, tmp_path, monkeypatch):
    builder = prepared(tfds, "cifar10", tmp_path, {"train": range(20), "test": range(4)})
    data = BY_NAME["cifar10"].tfds.read(builder)
    monkeypatch.setattr(type(data.inputs), "encoded", lambda self, index: b"no image")
    with pytest.raises(ValueError, match=r"cifar10/1.0.0, record 3: expected an image that can be"):
        data.inputs[3]


def test_tfds_mocked(tfds, tmp_path):
    def source(builder, split, decoders):
        assert set(decoders) == {"image"}
        count = {"train": 30, "test": 4}[split]
        return [example_of(tfds, builder.info.features, number) for number in range(count)]

    builder = prepared(tfds, "cifar10", tmp_path, {"train": [0], "test": [0]})
    with tfds.testing.mock_data(as_data_source_fn=source):
        data = BY_NAME["cifar10"].tfds.read(builder)
    assert sizes(data) == {"train": 27, "validation": 3, "test": 4}
    assert data.targets.tolist() == [number % 2 for number in [*range(30), *range(4)]]
    assert (data.inputs[[5, 32]] == np.array([5, 2])[:, None, None, None]).all()

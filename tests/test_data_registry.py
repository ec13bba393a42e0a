import os
import re
import subprocess
import sys

import numpy as np
import pytest

from poolax import data
from poolax._files import DamagedFileError
from poolax.data import Dataset, Entry, _registry

NAMES = """
cifar10 cifar100 imagenet100 cub200 miniplaces celeba flowers102 pets voc digits
banking77 tweet_sentiment tweet_emotion stsb hellaswag tinystories topics
ecg200 electric_devices ford_a ford_b small_kitchen_appliances swedish_leaf
etth1 etth2 ettm1 ettm2 electricity traffic weather co2 sunspots
"""


def test_every_data_set_is_named_once():
    assert set(NAMES.split()) <= set(data.names())
    entries = [data.entry(name) for name in data.names()]
    assert [entry.name for entry in entries] == list(data.names())
    for entry in entries:
        assert entry.modality in ("vision", "language", "series")
        assert entry.title
        assert entry.task
        assert entry.source
        assert entry.citation
        assert entry.licence
        assert (entry.read is None) != (entry.embedded is None), entry.name
        assert entry.embedded or entry.layout, entry.name
        for download in entry.downloads:
            assert re.match(r"https?://", download.url)
            assert download.sha256 is None or re.fullmatch("[0-9a-f]{64}", download.sha256)
        files = [download.file for download in entry.downloads]
        assert len(set(files)) == len(files)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"name: expected a data set \(cifar10, .*\), got 'mnist'"):
        data.load("mnist")
    with pytest.raises(
        ValueError, match=r"sise: expected options of 'cifar10' \(partial, size\), got it"
    ):
        data.load("cifar10", sise=3)


def test_without_files_both_ways_are_named(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"voc: expected it in .*, prepared by 'poolax data prepare voc --option size=64', or a "
        r"data_dir \(--data-dir\) with VOCdevkit/VOC2012/ .*; got neither",
    ):
        data.load("voc", tfds_dir=tmp_path, size=64)
    with pytest.raises(ValueError, match=r"data_dir: expected a folder, got .*nowhere, which is none"):
        data.load("voc", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["digits", "topics", "sunspots"])
def test_embedded_data_sets_need_nothing(name, tmp_path):
    if name == "sunspots":
        pytest.importorskip("statsmodels")
    dataset = data.load(name, data_dir=tmp_path, tfds_dir=tmp_path)
    assert dataset.name == name
    assert list(dataset.splits) == ["train", "validation", "test"]


def test_files_in_a_folder_or_in_one_of_the_name(test_data):
    above = data.load("stsb", data_dir=test_data)
    inside = data.load("stsb", data_dir=test_data / "stsb")
    assert above.fingerprint == inside.fingerprint


def cut(source, target, num_lines):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:num_lines]))


def test_a_part_of_what_was_published_is_refused_unless_it_is_meant(test_data, tmp_path):
    source, target = test_data / "ucr" / "ECG200", tmp_path / "ECG200"
    cut(source / "ECG200_TRAIN.tsv", target / "ECG200_TRAIN.tsv", 50)
    cut(source / "ECG200_TEST.tsv", target / "ECG200_TEST.tsv", 100)
    message = r"expected the 100 published train examples in ECG200/.*, got 50; restore .* partial=True"
    with pytest.raises(DamagedFileError, match=message):
        data.load("ecg200", data_dir=tmp_path)
    with pytest.raises(DamagedFileError, match=message):
        data.prepare("ecg200", data_dir=tmp_path, tfds_dir=tmp_path / "tfds")
    part = data.load("ecg200", data_dir=tmp_path, partial=True)
    assert len(part.inputs) == 150
    assert part.notes[-1] == "50 of the 100 published train examples"
    data.prepare("ecg200", data_dir=tmp_path, tfds_dir=tmp_path / "tfds", partial=True)
    again = data.load("ecg200", tfds_dir=tmp_path / "tfds", partial=True)
    assert again.fingerprint == part.fingerprint
    with pytest.raises(ValueError, match="got neither"):
        data.load("ecg200", tfds_dir=tmp_path / "tfds")
    with pytest.raises(ValueError, match="partial: expected True or False, got 'yes'"):
        data.load("ecg200", data_dir=tmp_path, partial="yes")


def test_what_others_put_beside_records_is_no_damage(test_data, tmp_path):
    folder = data.prepare("ecg200", data_dir=test_data / "ucr", tfds_dir=tmp_path)
    written = data.load("ecg200", tfds_dir=tmp_path).fingerprint
    (folder / ".snapshots").mkdir()
    os.symlink(tmp_path / "nowhere", folder / "link")
    assert data.load("ecg200", tfds_dir=tmp_path).fingerprint == written
    (folder / "features.json").unlink()
    (folder / "features.json").mkdir()
    with pytest.raises(DamagedFileError, match=r"features.json: expected the SHA-256 it was"):
        data.load("ecg200", tfds_dir=tmp_path)


def test_a_part_of_a_long_series_is_refused_unless_it_is_meant(test_data, tmp_path):
    cut(test_data / "ett" / "ETTh1.csv", tmp_path / "ETTh1.csv", 14_501)
    with pytest.raises(
        DamagedFileError, match=r"ETTh1.csv: expected the 17420 published rows, got 14500;"
    ):
        data.load("etth1", data_dir=tmp_path)
    with pytest.raises(
        DamagedFileError, match=r"ETTh1.csv: expected the 17420 published rows, got 14500;"
    ):
        data.prepare("etth1", data_dir=tmp_path, tfds_dir=tmp_path)
    assert data.load("etth1", data_dir=tmp_path, partial=True).notes


def test_files_without_examples_are_refused_by_their_folder(test_data, tmp_path):
    for file in (test_data / "tweet_emotion").iterdir():
        content = b"" if file.name.startswith("val_") else file.read_bytes()
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"expected the whole of train_text.txt.* 'validation'"):
        data.load("tweet_emotion", data_dir=tmp_path)


def one_file_entry(name="tiny"):
    def read(directory, *, scale: float = 1.0):
        values = np.loadtxt(_existing(directory), ndmin=1) * scale
        return Dataset(name, values, {}, {"train": np.arange(len(values))}, "here", "none")

    def _existing(directory):
        from poolax.data._entry import existing

        return existing(directory, "values.txt")

    return Entry(
        name=name, modality="series", task="none", title="Tiny", source="here", citation="none",
        licence="none", preprocessing="none", layout="values.txt", read=read,
        options={"scale": "a factor"},
    )  # fmt: skip


def test_an_error_in_a_file_is_not_hidden_by_the_folder_of_the_name(tmp_path, monkeypatch):
    monkeypatch.setitem(_registry._ENTRIES, "tiny", one_file_entry())
    with pytest.raises(ValueError, match=r"data_dir: expected values.txt in .*, which has none"):
        data.load("tiny", data_dir=tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "values.txt").write_text("1\n2\n")
    assert data.load("tiny", data_dir=tmp_path, scale=2.0).inputs.tolist() == [2.0, 4.0]
    (tmp_path / "values.txt").write_text("one\n")
    with pytest.raises(ValueError, match="could not convert string 'one'"):
        data.load("tiny", data_dir=tmp_path)


def test_importing_is_light():
    heavy = (
        "tensorflow", "tensorflow_datasets", "pandas", "statsmodels", "sklearn", "pooch", "requests",
        "matplotlib",
    )  # fmt: skip
    program = f"import sys, poolax.data; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

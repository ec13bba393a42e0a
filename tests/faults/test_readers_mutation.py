"""Files of every kind of data, cut off or with a bit flipped: told in one line, or as they were.

Plain text has no checksum, so that another digit or letter in it cannot be noticed. What can is its
structure: fields, lines, and their number where it was published.
"""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
from mutations import flips_alone, outcomes, same_separators, whole_rows
from PIL import Image

from poolax import data
from poolax.backbones import TextPreprocess
from poolax.cli._inputs import read_array, read_inputs
from poolax.data import _archives
from poolax.data.vision._images import ImageFiles
from poolax.training import Records

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of libraries about what they then refuse
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


SLOW = [pytest.mark.slow, pytest.mark.timeout(3_000)]


def times(few, many=200):
    """A few tries with every run, and the full number with the slow ones."""
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=SLOW)])


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def loaded(name, folder, **options):
    """Reads a data set to what tells it apart; notes are left out, which are there to tell."""

    def read():
        found = data.load(name, data_dir=folder, **options)
        return found.fingerprint, found.class_names

    return read


def ucr_lines(num_rows):
    rng = np.random.default_rng(num_rows)
    rows = [[1 - 2 * (row % 2), *rng.normal(size=12).round(4)] for row in range(num_rows)]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def tarred(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


ECG = {"ECG200_TRAIN.tsv": ucr_lines(100), "ECG200_TEST.tsv": ucr_lines(100)}


@times(24)
def test_ucr(number, tmp_path, attack):
    write(tmp_path, ECG)
    path = tmp_path / "ECG200_TRAIN.tsv"
    read = loaded("ecg200", tmp_path)
    attack("UCR", outcomes(path, read, number, may_pass=same_separators(b"\n", b"\t")))


@times(24)
def test_a_zip_of_ucr(number, tmp_path, attack):
    write(tmp_path, {"ECG200.zip": zipped(ECG)})
    attack("zip", outcomes(tmp_path / "ECG200.zip", loaded("ecg200", tmp_path), number))


@times(4)
def test_long_series(number, tmp_path, attack):
    dates = np.datetime64("2016-07-01T00") + np.arange(17_420)
    values = np.random.default_rng(0).normal(size=17_420).round(3)
    rows = [
        f"{str(date).replace('T', ' ')}:00:00,{value}"
        for date, value in zip(dates, values, strict=True)
    ]
    write(tmp_path, {"ETTh1.csv": "date,OT\n" + "\n".join(rows) + "\n"})
    read = loaded("etth1", tmp_path, stride=100)
    path = tmp_path / "ETTh1.csv"
    attack("ETT", outcomes(path, read, number, may_pass=same_separators(b"\n", b",")))


@times(6)
@pytest.mark.parametrize("file", ["test.csv", "categories.json"])
def test_banking77(file, number, tmp_path, attack):
    names = [f"intent_{label}" for label in range(77)]

    def lines(count):
        rows = [f'"Where is it, {row}?",{names[row % 77]}' for row in range(count)]
        return "text,category\n" + "\n".join(rows) + "\n"

    files = {"train.csv": lines(10_003), "test.csv": lines(3_080), "categories.json": json.dumps(names)}
    write(tmp_path, files)
    may_pass = same_separators(b"\n")  # commas in quotes are letters as others
    read = loaded("banking77", tmp_path)
    attack("CSV with quotes", outcomes(tmp_path / file, read, number, may_pass=may_pass))


@times(10)
def test_stsb(number, tmp_path, attack):
    def lines(count):
        row = "main-news\tMSR\t2012\t{}\t{}\tOne sentence.\tAnother, {}.\n"
        return "".join(row.format(index, index % 6 / 2, index) for index in range(count))

    sizes = {"train": 5_749, "dev": 1_500, "test": 1_379}
    write(tmp_path, {f"sts-{split}.csv": lines(count) for split, count in sizes.items()})
    may_pass = same_separators(b"\n", b"\t")
    path = tmp_path / "sts-dev.csv"
    attack("TSV", outcomes(path, loaded("stsb", tmp_path), number, may_pass=may_pass))


@times(10)
@pytest.mark.parametrize("file", ["val_text.txt", "val_labels.txt", "mapping.txt"])
def test_tweets(file, number, tmp_path, attack):
    files = {"mapping.txt": "0\tanger\n1\tjoy\n2\toptimism\n3\tsadness\n"}
    for split, count in {"train": 3_257, "val": 374, "test": 1_421}.items():
        files[f"{split}_text.txt"] = "".join(f"a tweet, the {row}th\n" for row in range(count))
        files[f"{split}_labels.txt"] = "".join(f"{row % 4}\n" for row in range(count))
    write(tmp_path, files)
    read = loaded("tweet_emotion", tmp_path)
    may_pass = same_separators(b"\n", b"\t")
    attack("lines of text", outcomes(tmp_path / file, read, number, may_pass=may_pass))


@times(24)
def test_hellaswag(number, tmp_path, attack):
    endings = ["ends.", "goes on.", "stops.", "sleeps."]
    rows = [{"ctx": f"A dog, {row}", "endings": endings, "label": row % 4} for row in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write(tmp_path, {f"{split}.jsonl": lines for split in ("train", "validation", "test")})
    path = tmp_path / "validation.jsonl"
    read = loaded("hellaswag", tmp_path)
    attack("JSON lines", outcomes(path, read, number, may_pass=whole_rows(b"\n")))


def images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


@times(10)
def test_cifar_as_npz(number, tmp_path, attack):
    for split in ("train", "test"):
        labels = np.arange(120, dtype=np.uint8) % 10
        classes = np.array([f"class {label}" for label in range(10)])
        np.savez_compressed(
            tmp_path / f"{split}.npz", image=images(120) // 32, label=labels, classes=classes
        )
    attack("npz", outcomes(tmp_path / "test.npz", loaded("cifar10", tmp_path), number))


@times(10)
def test_cifar_as_published(number, tmp_path, attack):
    def content(count):
        labels = np.arange(count, dtype=np.uint8)[:, None] % 10
        return np.concatenate([labels, images(count).reshape(count, -1)], axis=1).tobytes()

    names = [f"data_batch_{batch}.bin" for batch in range(1, 6)]
    write(tmp_path, {name: content(20) for name in [*names, "test_batch.bin"]})
    write(tmp_path, {"batches.meta.txt": "\n".join(f"class{label}" for label in range(10))})
    path = tmp_path / "data_batch_3.bin"
    read = loaded("cifar10", tmp_path, partial=True)
    attack("CIFAR", outcomes(path, read, number, may_pass=flips_alone))


@times(24)
@pytest.mark.parametrize("file", ["images.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_lists_of_images(file, number, tmp_path, attack):
    files = {
        "images.txt": [f"{index + 1} {index}.jpg" for index in range(150)],
        "image_class_labels.txt": [f"{index + 1} {index % 5 + 1}" for index in range(150)],
        "train_test_split.txt": [f"{index + 1} {int(index < 100)}" for index in range(150)],
        "classes.txt": [f"{label + 1} bird{label}" for label in range(5)],
    }
    write(tmp_path, {name: "\n".join(lines) + "\n" for name, lines in files.items()})

    def read():
        found = data.load("cub200", data_dir=tmp_path, partial=True)
        return found.inputs._files, found.targets.tolist(), found.splits["test"].tolist()

    # The name of a file may hold blanks; one that is not there is told when it is read.
    may_pass = same_separators(b"\n")
    attack("lists", outcomes(tmp_path / file, read, number, may_pass=may_pass))


@times(24)
@pytest.mark.parametrize(("kind", "may_pass"), [("png", None), ("jpg", flips_alone)])
def test_images(kind, may_pass, number, tmp_path, attack):
    Image.fromarray(images(1)[0]).save(tmp_path / f"a.{kind}")
    files = ImageFiles(tmp_path, [f"a.{kind}"], size=32)
    options = {} if may_pass is None else {"may_pass": may_pass}
    path = tmp_path / f"a.{kind}"
    attack(kind.upper(), outcomes(path, lambda: files[[0]].tobytes(), number, **options))


@times(24)
@pytest.mark.parametrize("compressed", [False, True])
def test_matlab(compressed, number, tmp_path, attack):
    (tmp_path / "jpg").mkdir()
    vectors = {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6, 7]]}
    scipy.io.savemat(tmp_path / "setid.mat", vectors, do_compression=compressed)
    labels = {"labels": [[1.0, 2.0, 3.0, 4.0, 5.0, 102.0, 7.0]]}
    scipy.io.savemat(tmp_path / "imagelabels.mat", labels, do_compression=compressed)

    def read():
        found = data.load("flowers102", data_dir=tmp_path, partial=True)
        sizes = {split: len(indices) for split, indices in found.splits.items()}
        return found.inputs._files, found.targets.tolist(), sizes

    options = {} if compressed else {"may_pass": flips_alone}
    for file in ("setid.mat", "imagelabels.mat"):
        attack(f"MATLAB, compressed: {compressed}", outcomes(tmp_path / file, read, number, **options))


@times(8, 60)
def test_prepared_records(number, tmp_path, attack):
    write(tmp_path, ECG)
    folder = data.prepare("ecg200", data_dir=tmp_path, tfds_dir=tmp_path / "tfds")

    def read():
        found = data.load("ecg200", tfds_dir=tmp_path / "tfds")
        return found.fingerprint, found.class_names, found.notes, found.source

    for path in sorted((tmp_path / "tfds").rglob("*.*")):
        if path.is_file():
            attack("array records and their JSON", outcomes(path, read, number))
    assert folder.exists()


@times(24)
def test_archives(number, tmp_path, attack):
    files = {"a.txt": "some text", "b/c.txt": "more " * 100}
    write(tmp_path, {"all.zip": zipped(files), "all.tar.gz": tarred(files)})

    for file in ("all.zip", "all.tar.gz"):
        folder = tmp_path / f"{file}.unpacked here"

        def read(file=file, folder=folder):
            folder.mkdir(exist_ok=True)
            (tmp_path / f"{file}.unpacked").unlink(missing_ok=True)
            _archives.unpack(tmp_path / file, folder)
            return {name: (folder / name).read_text() for name in files}

        attack("unpacking", outcomes(tmp_path / file, read, number))
    assert {path.name for path in tmp_path.iterdir()} <= {
        name + end for name in ("all.zip", "all.tar.gz") for end in ("", ".unpacked", ".unpacked here")
    }


@times(24)
def test_kept_tokens_are_made_again(number, bert, tmp_path, attack):
    from poolax import backbones

    preprocess = backbones.load(bert).preprocess
    assert isinstance(preprocess, TextPreprocess)
    texts = ["the is of", "of", "the the the of"]

    def read():
        ids, mask = data.tokenize(texts, preprocess, cache_dir=tmp_path)
        return ids.tolist(), mask.tolist()

    read()
    [path] = tmp_path.iterdir()
    attack("kept tokens", outcomes(path, read, number))


@times(24)
def test_records(number, tmp_path, attack):
    path = tmp_path / "records.jsonl"
    rows = [{"id": f"head {row}", "test": row / 7, "seed": row} for row in range(8)]
    Records(rows).write_to(path)

    def read():
        return list(Records.read(path))

    # Records that are gone, or cut off, are not finished; each of the others carries a digest.
    def lost(old, new):
        return old.startswith(new)

    attack("records", outcomes(path, read, number, may_pass=lost))


@times(24)
@pytest.mark.parametrize(
    ("file", "may_pass"),
    [
        ("a.npy", flips_alone),
        ("a.npz", None),
        ("a.tsv", whole_rows(b"\n", b"\t")),
        ("a.csv", whole_rows(b"\n", b",")),
    ],
)
def test_inputs_of_the_command_line(file, may_pass, number, tmp_path, attack):
    from poolax.backbones import Moment, MomentConfig

    array = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    path = tmp_path / file
    if file == "a.npy":
        np.save(path, array)
    elif file == "a.npz":
        np.savez(path, array)
    else:
        separator, first = ("\t", "1\t") if file == "a.tsv" else (",", "")
        lines = [first + separator.join(f"{value:.4f}" for value in row) for row in array]
        head = [] if file == "a.tsv" else [",".join(f"c{column}" for column in range(16))]
        path.write_text("\n".join([*head, *lines]) + "\n")
    moment = Moment(params=None, config=MomentConfig())

    def read():
        return np.asarray(read_inputs(moment, (), str(path), 99).raw).tobytes()

    options = {} if may_pass is None else {"may_pass": may_pass}
    attack(f"inputs, {path.suffix}", outcomes(path, read, number, **options))
    assert read_array(path).shape == (6, 16) if file.startswith("a.np") else True

import dataclasses
import hashlib
import http.server
import io
import os
import pathlib
import pwd
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from poolax import data
from poolax._files import DamagedFileError
from poolax.data import Dataset, Entry, _archives, _download, _prepare, _registry
from poolax.data._entry import TFDS, Download, existing
from poolax.data._prepared import read_prepared
from poolax.data.vision import ImageFiles


def dataset(inputs, targets, **changes):
    splits = {
        "train": np.array([5, 0, 3]), "validation": np.array([1]), "test": np.array([4, 2]),
    }  # fmt: skip
    fields = {
        "name": "small", "inputs": inputs, "targets": targets, "splits": splits, "source": "here",
        "licence": "CC0", "notes": ("six examples", "no more"),
    }  # fmt: skip
    return Dataset(**(fields | changes))


def entry(read, **changes):
    fields = {
        "name": "small", "modality": "series", "task": "none", "title": "Small", "source": "http://x.y",
        "citation": "A. Author", "licence": "CC0", "preprocessing": "none", "layout": "values.txt",
        "read": read,
    }  # fmt: skip
    return Entry(**(fields | changes))


@pytest.fixture
def register(monkeypatch):
    def put(found):
        monkeypatch.setitem(_registry._ENTRIES, found.name, found)
        return found

    return put


def equal(one, other):
    if one.dtype.kind in "OU":
        return one.shape == other.shape and one.tolist() == other.tolist()
    close = np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return one.dtype == other.dtype and close


def check_same(one, other):
    assert equal(np.asarray(one.inputs[:]), np.asarray(other.inputs[:]))
    assert isinstance(one.targets, dict) == isinstance(other.targets, dict)
    if isinstance(one.targets, dict):
        assert list(one.targets) == list(other.targets)
        assert all(equal(one.targets[name], other.targets[name]) for name in one.targets)
    else:
        assert equal(one.targets, other.targets)
    assert list(one.splits) == list(other.splits)
    assert all(np.array_equal(one.splits[name], other.splits[name]) for name in one.splits)
    assert (one.mask is None) == (other.mask is None)
    assert one.mask is None or equal(one.mask, other.mask)
    for name in ("name", "source", "licence", "num_classes", "class_names", "notes"):
        assert getattr(one, name) == getattr(other, name), name


RNG = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 2, 0, 1], np.int32)
CLASSES = {"num_classes": 3, "class_names": ("a cat", "ein Hündchen", "c/d")}
TEXTS = np.array(["a", "", "ü\n\t€", "🙂 \0 nul", "line\u2028end", "f" * 5000], dtype=object)
SERIES = np.where(RNG.random((6, 7)) < 0.3, np.nan, RNG.normal(size=(6, 7))).astype(np.float32)
NOT_SCORED = np.array([0.1, np.nan, 3, 1e-30, -np.inf, 5], np.float32)
KINDS = {
    "images": (RNG.integers(0, 256, (6, 4, 5, 3), np.uint8), LABELS, CLASSES),
    "grey images of floats": (RNG.normal(size=(6, 3, 3, 1)), LABELS, {"num_classes": 3}),
    "equal class names": (TEXTS, LABELS, {"num_classes": 3, "class_names": ("x", "x", "y")}),
    "maps of labels with void": (
        RNG.integers(0, 256, (6, 4, 4, 3), np.uint8),
        np.where(RNG.random((6, 2, 2)) < 0.5, 255, 1).astype(np.int32),
        CLASSES,
    ),
    "texts": (TEXTS, LABELS, CLASSES),
    "pairs with scores": (np.stack([TEXTS, TEXTS[::-1]], axis=1), NOT_SCORED, {}),
    "texts without targets": (TEXTS, {}, {}),
    "tokens with mask": (
        RNG.integers(0, 9, (6, 4)).astype(np.int32), LABELS, {"mask": np.tri(6, 4, dtype=bool)},
    ),
    "series": (SERIES, LABELS, CLASSES),
    "mapping": (
        SERIES, {"values": SERIES[:, ::-1].copy(), "shift": NOT_SCORED, "n": np.arange(6)}, {},
    ),
    "doubles": (RNG.normal(size=(6, 2)), NOT_SCORED.astype(np.float64) / 3, {}),
    "examples of no split": (
        SERIES, LABELS, {"splits": {"train": np.array([4, 1]), "test": np.array([2])}},
    ),
    "examples of two splits": (
        SERIES, LABELS, {"splits": {"train": np.array([4, 1]), "test": np.array([2]), "some": np.arange(6)}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_prepared_reads_back_equal(kind, tmp_path, register):
    inputs, targets, changes = KINDS[kind]
    wanted = dataset(inputs, targets, **changes)
    register(entry(lambda directory: wanted))
    path = data.prepare("small", data_dir=tmp_path, tfds_dir=tmp_path / "tfds")
    assert path == data.prepare("small", data_dir=tmp_path, tfds_dir=tmp_path / "tfds")
    check_same(data.load("small", tfds_dir=tmp_path / "tfds"), wanted)
    assert "tensorflow" not in sys.modules


def test_records_are_a_data_set_of_tfds(tmp_path, register):
    import tensorflow_datasets as tfds

    wanted = dataset(TEXTS, LABELS, **CLASSES)
    register(entry(lambda directory: wanted))
    path = data.prepare("small", data_dir=tmp_path, tfds_dir=tmp_path / "tfds")
    builder = tfds.builder_from_directory(path)
    assert builder.info.citation == "A. Author"
    assert builder.info.homepage == "http://x.y"
    assert (path / "LICENSE").read_text() == "CC0"
    assert builder.info.features["targets"].names == list(CLASSES["class_names"])
    source = builder.as_data_source(split="train")
    assert [record["index"] for record in source] == [5, 0, 3]
    assert source[1]["inputs"] == b"a"


def image_files(folder, count=6):
    for index in range(count):
        image = Image.fromarray(RNG.integers(0, 256, (9 + index, 12, 3), np.uint8))
        image.save(folder / f"{index}.{'jpg' if index % 2 else 'png'}")


def test_image_files_stay_encoded_and_lazy(tmp_path, register):
    image_files(tmp_path)
    files = [f"{index}.{'jpg' if index % 2 else 'png'}" for index in range(6)]

    def read(directory, *, size: int = 8, fit: str = "crop"):
        return dataset(ImageFiles(directory, files, size=size, fit=fit), LABELS, **CLASSES)

    register(entry(read, modality="vision", options={"size": "pixels", "fit": "how"}))
    for options in ({}, {"size": 5, "fit": "pad"}):
        data.prepare("small", data_dir=tmp_path, tfds_dir=tmp_path / "tfds", **options)
    for options in ({}, {"size": 5, "fit": "pad"}):
        wanted = data.load("small", data_dir=tmp_path, **options)
        found = data.load("small", tfds_dir=tmp_path / "tfds", **options)
        assert not isinstance(found.inputs, np.ndarray)
        check_same(found, wanted)
        assert equal(found.inputs[np.array([4, 1])], wanted.inputs[np.array([4, 1])])
    with pytest.raises(ValueError, match=r"prepared with these options by '.* --option size=7'"):
        data.load("small", tfds_dir=tmp_path / "tfds", size=7)
    (tmp_path / files[3]).write_bytes(b"no image")
    assert data.load("small", tfds_dir=tmp_path / "tfds").inputs[3].shape == (8, 8, 3)


def test_files_named_by_options_count_by_their_content(tmp_path, register):
    chosen = tmp_path / "classes.txt"

    def read(directory, *, classes=None):
        note = pathlib.Path(classes).read_text()
        return dataset(SERIES, LABELS, notes=(note,))

    register(entry(read, options={"classes": "a file"}))
    for text in ("one", "two"):
        chosen.write_text(text)
        options = {"tfds_dir": tmp_path / "tfds", "classes": str(chosen)}
        with pytest.raises(ValueError, match="got neither"):
            data.load("small", **options)
        data.prepare("small", data_dir=tmp_path, **options)
        assert data.load("small", **options).notes == (text,)


def test_options_of_numpy_have_the_folder_of_pythons():
    found = entry(lambda directory: None, options={"size": "a number"})
    python, numpy = (
        _registry.prepared_directory(found, "tfds", {"size": size}) for size in (7, np.int64(7))
    )
    assert python == numpy


@pytest.mark.parametrize("options", [{}, {"task": "imputation", "context": 64, "channels": "target"}])
def test_long_series_are_stored_once_for_all_options(options, test_data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "etth1"
    path = data.prepare("etth1", data_dir=test_data, tfds_dir=folder, **options)
    assert [child.name for child in path.parent.parent.iterdir()] == ["default"]
    found = data.load("etth1", tfds_dir=folder, **options)
    wanted = data.load("etth1", data_dir=test_data, **options)
    assert found.fingerprint == wanted.fingerprint
    assert found.notes == wanted.notes


@pytest.mark.parametrize("name", ["stsb", "hellaswag", "tweet_emotion", "ecg200"])
def test_real_samples_read_back_equal(name, test_data, tmp_path):
    files = test_data / "ucr" if name == "ecg200" else test_data
    path = data.prepare(name, data_dir=files, tfds_dir=tmp_path)
    found, _ = read_prepared(path)
    wanted = data.load(name, data_dir=files)
    assert found.fingerprint == wanted.fingerprint
    check_same(found, wanted)


# All or nothing.


class Breaking:
    """Inputs that raise when the fourth of six is read."""

    shape, dtype = (6, 1), np.dtype(np.float32)

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 6

    def __getitem__(self, indices):
        chosen = np.arange(6)[indices]
        if (chosen == 4).any() and self.error is not None:
            raise self.error
        return chosen[:, None].astype(np.float32)


@pytest.mark.parametrize("error", [ValueError("image 4: cannot be decoded"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing(error, tmp_path, register):
    inputs = Breaking(error)
    register(entry(lambda directory: dataset(inputs, LABELS, num_classes=3)))
    folder = tmp_path / "tfds"
    with pytest.raises(type(error)):
        data.prepare("small", data_dir=tmp_path, tfds_dir=folder)
    assert list(folder.iterdir()) == []
    with pytest.raises(ValueError, match=r"small: expected it in .*, prepared by"):
        data.load("small", tfds_dir=folder)
    inputs.error = None
    data.prepare("small", data_dir=tmp_path, tfds_dir=folder)
    assert data.load("small", tfds_dir=folder).inputs[:, 0].tolist() == list(range(6))


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import test_data_prepare as tests
from poolax import data
from poolax.data import _registry

class Killing(tests.Breaking):
    def __getitem__(self, indices):
        if 4 in list(tests.np.arange(6)[indices]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(indices)

found = tests.entry(lambda d: tests.dataset(Killing(None), tests.LABELS, num_classes=3))
_registry._ENTRIES["small"] = found
data.prepare("small", data_dir=sys.argv[1], tfds_dir=sys.argv[1] + "/tfds")
"""


def test_a_kill_in_the_middle_leaves_nothing_that_is_used(tmp_path, register):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(pathlib.Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "tfds"
    begun = [path for path in folder.rglob("*") if path.is_file()]
    assert begun, "expected it to have begun"
    register(entry(lambda directory: dataset(SERIES, LABELS, num_classes=3)))
    with pytest.raises(ValueError, match=r"small: expected it in .*, prepared by"):
        data.load("small", tfds_dir=folder)
    data.prepare("small", data_dir=tmp_path, tfds_dir=folder)
    check_same(data.load("small", tfds_dir=folder), dataset(SERIES, LABELS, num_classes=3))


def test_another_process_may_be_quicker(tmp_path, register):
    folder = tmp_path / "tfds"

    def read(directory):
        if not nested:
            nested.append(True)
            data.prepare("small", data_dir=tmp_path, tfds_dir=folder)
        return dataset(SERIES, LABELS, num_classes=3)

    nested = []
    register(entry(read))
    data.prepare("small", data_dir=tmp_path, tfds_dir=folder)
    assert [path.name for path in folder.iterdir()] == ["poolax_small"]
    check_same(data.load("small", tfds_dir=folder), dataset(SERIES, LABELS, num_classes=3))


def test_what_cannot_be_prepared(tmp_path, register):
    with pytest.raises(ValueError, match=r"name: .* got 'digits', which comes with a library"):
        data.prepare("digits", tfds_dir=tmp_path)
    with pytest.raises(ValueError, match=r"small: .*values.txt; its publisher offers no download"):
        data.prepare(register(entry(lambda d: None)).name, tfds_dir=tmp_path)
    with pytest.raises(ValueError, match=r"tfds_dir: expected a local folder to write to, got gs://b"):
        data.prepare("small", data_dir=tmp_path, tfds_dir="gs://b/tfds")
    with pytest.raises(ValueError, match=r"colour: expected options of 'small' \(none\), got it"):
        data.prepare("small", data_dir=tmp_path, tfds_dir=tmp_path, colour="red")


# Downloads.


VALUES = b"1\n2\n3\n"


class Server:
    """Files over HTTP on this machine, and which of them were asked for."""

    def __init__(self, files):
        self.files, self.asked, self.cut = files, [], 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                server.asked.append(name)
                if name not in server.files:
                    self.send_error(404)
                    return
                content = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) - server.cut])

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def download(self, file, sha256=None):
        return Download(f"http://127.0.0.1:{self._server.server_port}/{file}", sha256, file)

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    running = Server({"values.txt": VALUES})
    yield running
    running.stop()


def digest(content):
    return hashlib.sha256(content).hexdigest()


def read_values(directory):
    values = np.loadtxt(existing(directory, "values.txt"), dtype=np.float32, ndmin=1)
    return Dataset("small", values, {}, {"train": np.arange(len(values))}, "here", "CC0")


def test_downloads_are_fetched_once_and_compared(server, tmp_path, register):
    register(entry(read_values, downloads=(server.download("values.txt"),)))
    reports = []
    options = {
        "tfds_dir": tmp_path / "tfds", "download_dir": tmp_path / "down",
        "progress": lambda *report: reports.append(report),
    }  # fmt: skip
    path = data.prepare("small", **options)
    assert ("values.txt", 6, 6) in reports
    assert ("train", 3, 3) in reports
    assert data.load("small", tfds_dir=tmp_path / "tfds").inputs.tolist() == [1, 2, 3]
    folder = tmp_path / "down" / "poolax" / "small"
    assert (folder / "values.txt.sha256").read_text() == f"{digest(VALUES)}  values.txt\n"
    assert data.load("small", data_dir=folder).inputs.tolist() == [1, 2, 3]
    assert data.prepare("small", **options) == path
    assert server.asked == ["values.txt"]
    # The publisher's file changes: what was downloaded first counts, and is still there.
    server.files["values.txt"] = b"7\n"
    data.prepare("small", **(options | {"tfds_dir": tmp_path / "other"}))
    assert server.asked == ["values.txt"]
    # It is damaged here, and another one there.
    (folder / "values.txt").write_bytes(b"1\n2\n")
    with pytest.raises(
        ValueError,
        match=r"expected SHA-256 \w{64} \(of values.txt.sha256\), got \w{64}; the file was not",
    ):
        data.prepare("small", **(options | {"tfds_dir": tmp_path / "third"}))
    assert (folder / "values.txt").read_bytes() == b"1\n2\n"  # goes when its replacement is there
    assert not (tmp_path / "third" / "poolax_small").exists()
    server.files["values.txt"] = VALUES
    data.prepare("small", **(options | {"tfds_dir": tmp_path / "third"}))


def test_a_known_checksum_decides(server, tmp_path):
    good, bad = digest(VALUES), digest(b"else")
    path = _download.fetch(server.download("values.txt", good), tmp_path / "good")
    assert path.read_bytes() == VALUES
    assert [child.name for child in path.parent.iterdir()] == ["values.txt"]
    with pytest.raises(ValueError, match=rf"expected SHA-256 {bad} \(of its publisher .* got {good};"):
        _download.fetch(server.download("values.txt", bad), tmp_path / "bad")
    assert list((tmp_path / "bad").iterdir()) == []


def test_what_does_not_come_is_not_kept(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"http://127.*/none.txt: expected a download, got: 404"):
        _download.fetch(server.download("none.txt"), tmp_path)
    server.cut = 2  # The connection breaks before the end.
    with pytest.raises(ConnectionError, match=r"values.txt: expected a download, got: .*"):
        _download.fetch(server.download("values.txt"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def zipped(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return content.getvalue()


def deflated(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return content.getvalue()


def tarred(members, mode="w:gz"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


@pytest.mark.parametrize(
    ("file", "pack"),
    [("all.zip", zipped), ("all.tar.gz", tarred), ("all.tar", lambda m: tarred(m, "w"))],
)
def test_archives_are_unpacked_once(file, pack, server, tmp_path, register):
    server.files[file] = pack({"values.txt": "4\n5\n", "deep/er/other.txt": "x"})
    register(entry(read_values, downloads=(server.download(file),)))
    data.prepare("small", tfds_dir=tmp_path)
    assert data.load("small", tfds_dir=tmp_path).inputs.tolist() == [4, 5]
    folder = tmp_path / "downloads" / "poolax" / "small"
    assert (folder / "deep" / "er" / "other.txt").read_text() == "x"
    before = (folder / "values.txt").stat().st_mtime_ns
    _archives.unpack(folder / file, folder)
    assert (folder / "values.txt").stat().st_mtime_ns == before
    # As if it had been stopped between members.
    (folder / f"{file}.unpacked").rename(folder / f"{file}.unpacking")
    (folder / "values.txt").unlink()
    _archives.unpack(folder / file, folder)
    assert (folder / "values.txt").read_text() == "4\n5\n"
    assert not list(folder.glob("*.before"))
    assert not list(folder.glob("*.unpacking"))


def test_files_from_elsewhere_are_renamed_and_never_removed(server, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "own.txt").write_text("own")
    (tmp_path / "all.zip").write_bytes(zipped({"values.txt": "4\n", "deep/other.txt": "x"}))
    _archives.unpack(tmp_path / "all.zip", tmp_path)
    assert (tmp_path / "deep.before" / "own.txt").read_text() == "own"
    assert (tmp_path / "deep" / "other.txt").read_text() == "x"
    (tmp_path / "new.txt").write_text("own")
    server.files["new.txt"] = b"fetched"
    _download.fetch(server.download("new.txt"), tmp_path)
    assert (tmp_path / "new.txt").read_text() == "fetched"
    assert (tmp_path / "new.txt.before").read_text() == "own"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("all.zip", zipped({"good.txt": "x", "../evil.txt": "x"})),
        ("all.zip", zipped({"/evil.txt": "x"})),
        ("all.zip", zipped({"..\\evil.txt": "x"})),
        ("all.tar.gz", tarred({"good.txt": "x", "../evil.txt": "x"})),
        ("all.zip", b"no archive"),
        ("all.tar.gz", b"no archive"),
        ("all.tar.gz", tarred({"good.txt": "x" * 100000})[:-20]),
    ],
)
def test_archives_that_are_damaged_or_reach_out_are_refused(file, content, tmp_path):
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}: expected an archive to unpack, got: "):
        _archives.unpack(folder / file, folder)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [file]


@pytest.mark.parametrize(("file", "pack"), [("all.zip", deflated), ("all.tar.gz", tarred)])
def test_archives_that_would_fill_the_disk_are_refused(file, pack, tmp_path):
    zeros = "\0" * (2**26 + 1)
    (tmp_path / file).write_bytes(pack({"small.txt": "x", "large.txt": zeros}))
    message = (
        rf"{file}: expected at most 67108864 bytes in an archive of \d+, got 671088\d\d and more; "
    )
    with pytest.raises(DamagedFileError, match=message):
        _archives.unpack(tmp_path / file, tmp_path)
    with pytest.raises(DamagedFileError, match=message):
        _archives.read_members(tmp_path / file, ["small.txt", "large.txt"])
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.fixture
def unknown_user(monkeypatch):
    """All files are of a user that the system has no name for, as in containers."""

    def fail(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", fail)


def test_files_of_a_user_that_the_system_does_not_know_are_read(tmp_path, unknown_user):
    with zipfile.ZipFile(tmp_path / "small.zip", "w") as archive:
        archive.writestr("small.txt", "1 2 3")
    assert _archives.read_members(tmp_path / "small.zip", ["small.txt"]) == {"small.txt": b"1 2 3"}
    Image.new("RGB", (5, 5)).save(tmp_path / "0.png")
    assert ImageFiles(tmp_path, ["0.png"], size=4).fingerprint
    np.arange(9, dtype="<u2").tofile(tmp_path / "tokens.bin")
    assert len(data.tokens.read(tmp_path / "tokens.bin", dtype="uint16")) == 9


# TFDS's own builders.


def tiny_builder(name):
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.0")
        url_infos = None
        broken = False

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"value": np.float32})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(4):
                if type(self).broken and index == 2:
                    raise ValueError("row 2: malformed")
                yield index, {"value": index / 2}

    return Tiny


def read_tiny(builder):
    values = np.array([record["value"] for record in builder.as_data_source(split="train")])
    return Dataset("small", np.sort(values), {}, {"train": np.arange(4)}, "here", "CC0")


@pytest.fixture(scope="module")
def tiny():
    return tiny_builder("tiny")


def test_tfds_prepares_array_records_all_or_nothing(tiny, tmp_path, register, monkeypatch):
    own = TFDS("tiny", needs_tensorflow=False, manual=False, read=read_tiny, module="json")
    register(entry(read_values, tfds=own))
    monkeypatch.setattr(tiny, "broken", True)
    with pytest.raises(ValueError, match="row 2: malformed"):
        data.prepare("small", tfds_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]
    monkeypatch.setattr(tiny, "broken", False)
    path = data.prepare("small", tfds_dir=tmp_path)
    assert os.fspath(path) == os.fspath(tmp_path / "tiny" / "2.0.0")
    assert any("array_record" in child.name for child in path.iterdir())
    assert data.prepare("small", tfds_dir=tmp_path) == path
    assert data.load("small", tfds_dir=tmp_path).inputs.tolist() == [0, 0.5, 1, 1.5]


def test_without_tensorflow_downloads_take_its_place_or_one_line_says_so(server, tmp_path, register):
    pytest.importorskip("tensorflow_datasets")
    if _prepare._has_tensorflow():
        pytest.skip("TensorFlow is installed")
    own = TFDS("tiny", needs_tensorflow=True, manual=False, read=read_tiny)
    found = register(entry(read_values, tfds=own))
    with pytest.raises(
        ValueError, match=r"small: expected TensorFlow, which TFDS's own builder 'tiny'"
    ):
        data.prepare("small", tfds_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    register(dataclasses.replace(found, downloads=(server.download("values.txt"),)))
    path = data.prepare("small", tfds_dir=tmp_path)
    assert path.parts[-3] == "poolax_small"
    assert data.load("small", tfds_dir=tmp_path).inputs.tolist() == [1, 2, 3]


def test_hellaswag_by_the_builder_of_tfds(tmp_path, monkeypatch):
    pytest.importorskip("importlib_resources", reason="tensorflow-datasets needs importlib_resources")
    import json

    import tensorflow_datasets as tfds

    def line(number):
        # Every split of the builder has to have examples: by domain, and by source.
        return json.dumps(
            {
                "ind": number,
                "label": 1,
                "ctx": "One",
                "endings": list("abcd"),
                "activity_label": "x",
                "split_type": "indomain" if number % 4 < 2 else "zeroshot",
                "source_id": "wikihow~1" if number % 2 else "activitynet~1",
            }
        )

    paths = {}
    for split, count in (("train", 40), ("validation", 8), ("test", 4)):
        paths[split] = tmp_path / f"{split}.jsonl"
        paths[split].write_text("".join(f"{line(number)}\n" for number in range(count)))
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", lambda self, urls: paths)
    path = data.prepare("hellaswag", tfds_dir=tmp_path / "tfds")
    assert path.parts[-2] == "hellaswag"
    found = data.load("hellaswag", tfds_dir=tmp_path / "tfds")
    assert {split: len(part) for split, part in found.splits.items()} == {
        "train": 36, "validation": 4, "test": 8,
    }  # fmt: skip
    assert found.inputs[0].tolist() == ["One", *"abcd"]


def test_standard_output_stays_empty(tmp_path, register, capfd):
    register(entry(lambda directory: dataset(SERIES, LABELS, num_classes=3)))
    data.prepare("small", data_dir=tmp_path, tfds_dir=tmp_path / "tfds")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")

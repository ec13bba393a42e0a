"""Disks that take no more: one line that names the folder, nothing half written, and the rest stays."""

import contextlib
import errno
import io
import os
import pathlib
import resource
import zipfile

import jax
import numpy as np
import pytest

from poolax import backbones, cli, data
from poolax._checkpoint import save_checkpoint
from poolax._files import writing_to
from poolax._paths import write_atomically
from poolax.data import _archives
from poolax.training import Records
from poolax.training._states.features import FeaturePass
from poolax.training._states.store import open_store

MANY = 200_000


@contextlib.contextmanager
def no_room(num_bytes):
    """Files may not grow beyond a size, which is what a full disk looks like to their writers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def text(folder):
    write_atomically(folder / "a.txt", "x" * MANY)


def records(folder):
    Records([{"id": "long", "text": "x" * MANY}]).write_to(folder / "records.jsonl")


def checkpoint(folder):
    save_checkpoint(folder, 1, {"w": np.random.default_rng(0).normal(size=MANY)})


def kept_states(folder):
    config = backbones.BertConfig(6, 64, width=32, num_layers=1, num_heads=2, mlp_dim=8)
    bert = backbones.Bert.init(config, jax.random.key(0))
    ids = np.zeros((16, 64), np.int32)
    open_store(folder, FeaturePass(bert, ids, np.ones(ids.shape, bool)), {})


def unpacked(folder):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "x" * MANY)
    (folder / "a.zip").write_bytes(content.getvalue())
    _archives.unpack(folder / "a.zip", folder)


@pytest.mark.parametrize("write", [text, records, checkpoint, kept_states, unpacked])
# Orbax leaves writes behind that it has not begun when another one fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_told_by_its_folder(write, tmp_path, attack):
    def outcome():
        try:
            with no_room(MANY // 10):
                write(tmp_path)
        except OSError as error:
            # NumPy says only that it could not write all, which is a full disk nearly always.
            if error.errno not in (errno.EFBIG, errno.ENOSPC) or error.filename != str(tmp_path):
                return f"{write.__name__}: {error.errno} {error.filename}: {error}"
            return None
        return f"{write.__name__}: written"

    attack("a full disk", [outcome()])
    write(tmp_path)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    ("name", "told"), [("in.txt", "in.txt"), ("out/.tmp/a", "out"), (None, "out"), (3, "out")]
)
def test_the_file_that_is_refused_is_the_one_that_is_told(code, name, told, tmp_path):
    named = str(tmp_path / name) if isinstance(name, str) else name
    with pytest.raises(OSError, match=os.strerror(code)) as caught, writing_to(tmp_path / "out"):
        raise OSError(code, os.strerror(code), named)
    # What cannot be read is told as it is; of a full disk, temporary names say less than the folder.
    as_it_is = code == errno.EIO and name is not None
    assert caught.value.filename == (named if as_it_is else str(tmp_path / told))
    assert caught.value.errno == code


def test_a_full_disk_ends_the_command_in_one_line(tmp_path, capsys, attack):
    for part in ("TRAIN", "TEST"):
        rows = [f"{row % 2}\t" + "\t".join(["0.5"] * 500) for row in range(100)]
        (tmp_path / f"ECG200_{part}.tsv").write_text("\n".join(rows) + "\n")
    folder = tmp_path / "tfds"
    command = ["data", "prepare", "ecg200", "--data-dir", str(tmp_path), "--tfds-dir", str(folder)]
    with no_room(MANY // 4):
        code = cli.main(command)
    lines = [line for line in capsys.readouterr().err.splitlines() if "poolax: " in line]
    expected = f"poolax: {folder}: File too large; free some and run the same again"
    told = code == cli.FAILURE and lines == [expected]
    left = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    attack(
        "a full disk, on the command line", [None if told and not left else f"{code} {lines} {left}"]
    )
    assert cli.main(command) == cli.COMPLETE
    assert len(data.load("ecg200", tfds_dir=pathlib.Path(folder)).inputs) == 200

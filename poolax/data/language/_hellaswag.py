"""HellaSwag: which of four endings goes on with a context."""

from typing import Any

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax._files import json_object
from poolax.data._damage import RESTORE
from poolax.data._entry import TFDS, Download, Entry
from poolax.data._record_files import reading_records
from poolax.data._splits import HELD_OUT_NOTE, hold_out
from poolax.data.language._files import find, join, malformed, read_lines

_NAME = "hellaswag"
_SOURCE = "https://github.com/rowanz/hellaswag"
_LICENCE = "MIT"
_URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/"
_NUM_ENDINGS = 4
_PUBLISHED_NOTES = (
    "test is the published validation split, since labels of the published test split are not public",
    HELD_OUT_NOTE,
)


def read_hellaswag(directory: epath.PathLike) -> Dataset:
    """HellaSwag from its JSON lines.

    The published files are ``hellaswag_{train,val}.jsonl``; labels of the published test split are not
    public, so that ``val`` becomes the test split and validation is cut from train. Splits made of the
    labelled tasks by others are ``{train,validation,test}.jsonl`` and are taken as they are.

    Args:
        directory: Holds the files, or a folder ``data`` with them.

    Returns:
        Texts, shape ``(N, 5)``, the context and its four endings, and the index of the right ending.

    Raises:
        ValueError: for a missing file, a malformed line, or a label outside 0 to 3.
    """
    directory = epath.Path(directory)
    resplit = not any((directory / f / "hellaswag_train.jsonl").exists() for f in ("", "data"))
    if resplit and (directory / "train.jsonl").exists():
        splits = ("train", "validation", "test")
        parts = {split: _read_file(find(directory, f"{split}.jsonl", "data")) for split in splits}
        return _dataset(parts, ("splits as in the files, which are not the published ones",))
    parts = {
        split: _read_file(find(directory, f"hellaswag_{name}.jsonl", "data"))
        for split, name in (("train", "train"), ("test", "val"))
    }
    return _dataset(parts, _PUBLISHED_NOTES)


def read_hellaswag_tfds(builder: Any) -> Dataset:
    """HellaSwag from the builder of TensorFlow Datasets, split as from the published files.

    Args:
        builder: Prepared ``hellaswag`` builder.

    Returns:
        As :func:`read_hellaswag`.

    Raises:
        ValueError: for a label outside 0 to 3 or a number of endings other than four.
    """
    parts = {}
    for split, name in (("train", "train"), ("test", "validation")):
        rows = []
        with reading_records(builder.data_dir):
            tasks = list(builder.as_data_source(split=name))
        for index, task in enumerate(tasks):
            task = {
                "ctx": _text(task["context"]),
                "endings": [_text(ending) for ending in task["endings"]],
                "label": int(task["label"]),
            }
            odd = _odd(task)
            if odd is not None:
                raise ValueError(f"{_NAME}, {name} {index}: expected {odd[0]}, got {odd[1]}")
            rows.append(task)
        parts[split] = _columns(rows)
    return _dataset(parts, (*_PUBLISHED_NOTES, "in the order of the TFDS builder, which shuffles"))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _dataset(parts, notes):
    inputs, targets, splits = join(parts, np.int32)
    return Dataset(
        name=_NAME,
        inputs=inputs.reshape(-1, 1 + _NUM_ENDINGS),
        targets=targets,
        splits=hold_out(splits, targets) if "validation" not in splits else splits,
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=_NUM_ENDINGS,
        notes=notes,
    )


def _read_file(path):
    rows = []
    for line, text in enumerate(read_lines(path), start=1):
        task = json_object(text, f"{path}, line {line}", RESTORE)
        odd = _odd(task)
        if odd is not None:
            raise malformed(path, line, *odd)
        rows.append(task)
    return _columns(rows)


def _odd(task) -> tuple[str, Any] | None:
    """What was expected of a task and what came, where it is not as it should be."""
    if not isinstance(task, dict) or not {"ctx", "endings", "label"} <= task.keys():
        keys = sorted(task) if isinstance(task, dict) else type(task).__name__
        return "ctx, endings and label", keys
    texts = [task["ctx"], *task["endings"]] if isinstance(task["endings"], list) else []
    if len(texts) != 1 + _NUM_ENDINGS or not all(isinstance(text, str) for text in texts):
        return f"a context and {_NUM_ENDINGS} endings", f"{max(len(texts) - 1, 0)} endings"
    if type(task["label"]) is not int or not 0 <= task["label"] < _NUM_ENDINGS:
        return f"a label from 0 to {_NUM_ENDINGS - 1}", repr(task["label"])
    return None


def _columns(tasks):
    texts = [[task["ctx"], *task["endings"]] for task in tasks]
    return texts, [task["label"] for task in tasks]


HELLASWAG = Entry(
    name=_NAME,
    modality="language",
    task="sentence_completion",
    title="HellaSwag: the right one of four endings",
    source=_SOURCE,
    citation=(
        "Zellers, Holtzman, Bisk, Farhadi and Choi, "
        '"HellaSwag: Can a Machine Really Finish Your Sentence?", ACL 2019.'
    ),
    licence=_LICENCE,
    preprocessing=(
        "the field ctx is the context; [header], [title] and [step] of WikiHow stay as they are"
    ),
    sizes={"train": 39_905, "validation": 10_042, "test": 10_003},
    layout="hellaswag_train.jsonl, hellaswag_val.jsonl (or {train,validation,test}.jsonl)",
    read=read_hellaswag,
    holds={"train": ("train", "validation"), "validation": ("test",), "test": ()},
    own_layouts=("train.jsonl", "data/train.jsonl"),
    tfds=TFDS(
        name=_NAME,
        needs_tensorflow=False,
        manual=False,
        read=read_hellaswag_tfds,
        module="tensorflow_datasets.text.hellaswag",
    ),
    downloads=(
        Download(
            url=f"{_URL}hellaswag_train.jsonl",
            sha256="dae5e69249868cb9fe4e23ff925c60b66169564cfb7072d793cd7356a2b69f8d",
            file="hellaswag_train.jsonl",
        ),
        Download(
            url=f"{_URL}hellaswag_val.jsonl",
            sha256="0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
            file="hellaswag_val.jsonl",
        ),
    ),
)

"""BANKING77: online banking queries and their intents."""

import csv
import io
import json

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax._files import reading
from poolax.data._damage import RESTORE
from poolax.data._entry import Download, Entry
from poolax.data._splits import HELD_OUT_NOTE, hold_out
from poolax.data.language._files import find, join, malformed, read_text

_NAME = "banking77"
_SOURCE = "https://github.com/PolyAI-LDN/task-specific-datasets"
_LICENCE = "CC BY 4.0"
_FOLDER = "banking_data"
_URL = f"https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/{_FOLDER}/"


def read_banking77(directory: epath.PathLike) -> Dataset:
    """BANKING77 from ``train.csv``, ``test.csv`` and ``categories.json``, as published.

    Args:
        directory: Holds the files, or a folder ``banking_data`` with them.

    Returns:
        Queries, shape ``(N,)``, and labels in the order of ``categories.json``.

    Raises:
        ValueError: for a missing file, a malformed line, or an intent that ``categories.json`` lacks.
    """
    names = _read_names(find(directory, "categories.json", _FOLDER))
    labels = {name: label for label, name in enumerate(names)}
    parts = {
        split: _read_csv(find(directory, f"{split}.csv", _FOLDER), labels)
        for split in ("train", "test")
    }
    inputs, targets, splits = join(parts, np.int32)
    return Dataset(
        name=_NAME,
        inputs=inputs,
        targets=targets,
        splits=hold_out(splits, targets),
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=len(names),
        class_names=names,
        notes=(HELD_OUT_NOTE,),
    )


def _read_names(path):
    text = read_text(path)
    with reading(path, "a JSON list of intents", RESTORE, ValueError, RecursionError):
        names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise malformed(path, 1, "a JSON list of intents", type(names).__name__)
    return tuple(names)


def _read_csv(path, labels):
    texts, targets = [], []
    # Some queries hold line ends, so that rows and lines differ in number.
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(rows, None)
        if header != ["text", "category"]:
            raise malformed(path, 1, "the header text,category", header)
        for row in rows:
            if len(row) != 2:
                raise malformed(path, rows.line_num, "text,category", f"{len(row)} fields")
            text, intent = row
            if intent not in labels:
                raise malformed(path, rows.line_num, "an intent of categories.json", repr(intent))
            texts.append(text)
            targets.append(labels[intent])
    except csv.Error as error:
        raise malformed(path, rows.line_num, "text,category", error) from None
    return texts, targets


BANKING77 = Entry(
    name=_NAME,
    modality="language",
    task="classification",
    title="BANKING77: online banking queries, 77 intents",
    source=_SOURCE,
    citation=(
        "Casanueva, Temcinas, Gerz, Henderson and Vulic, "
        '"Efficient Intent Detection with Dual Sentence Encoders" (2020), arXiv:2003.04807.'
    ),
    licence=_LICENCE,
    preprocessing="none; labels in the order of categories.json",
    sizes={"train": 10_003, "test": 3_080},
    layout="train.csv, test.csv, categories.json",
    read=read_banking77,
    downloads=(
        Download(
            url=f"{_URL}train.csv",
            sha256="b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
            file="train.csv",
        ),
        Download(
            url=f"{_URL}test.csv",
            sha256="d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
            file="test.csv",
        ),
        Download(
            url=f"{_URL}categories.json",
            sha256="53261da888122daf2d120d925458631d9619e15d82e56052e7a42e535ce32b63",
            file="categories.json",
        ),
    ),
    verified=True,
)

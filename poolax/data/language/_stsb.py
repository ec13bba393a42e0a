"""STS Benchmark: pairs of sentences and how similar people find them."""

import csv
import io

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax._files import reading
from poolax.data._archives import read_members
from poolax.data._damage import RESTORE, damaged_data
from poolax.data._entry import Download, Entry
from poolax.data.language._files import decode, find, join, malformed

_NAME = "stsb"
_SOURCE = "http://ixa2.si.ehu.eus/stswiki/index.php/STSbenchmark"
_LICENCE = "CC BY-SA 4.0 for the scores; the texts have licences of their own (LICENSE.txt)"
_FOLDER = "stsbenchmark"
_ARCHIVE = "Stsbenchmark.tar.gz"
_FILES = {"train": "train", "validation": "dev", "test": "test"}
_COLUMNS = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")
_NUM_SOURCES = 2
_MAX_SCORE = 5


def read_stsb(directory: epath.PathLike) -> Dataset:
    """STS Benchmark from ``sts-{train,dev,test}.csv``, as published.

    The files are tab-separated without quoting; two columns behind the seventh name sources.

    Args:
        directory: Holds the files, a folder ``stsbenchmark`` with them, or ``Stsbenchmark.tar.gz``.

    Returns:
        Pairs of sentences, shape ``(N, 2)``, and scores divided by 5, so that they are in [0, 1].

    Raises:
        ValueError: for a missing file, a malformed line, or a score outside [0, 5].
    """
    contents = _read_contents(epath.Path(directory))
    parts = {split: _read_pairs(*contents[split]) for split in _FILES}
    inputs, targets, splits = join(parts, np.float32)
    return Dataset(
        name=_NAME,
        inputs=inputs.reshape(-1, 2),
        targets=targets,
        splits=splits,
        source=_SOURCE,
        licence=_LICENCE,
    )


def _read_contents(directory):
    """Path and bytes of each split's file."""
    archive = directory / _ARCHIVE
    files = {split: f"sts-{name}.csv" for split, name in _FILES.items()}
    if not archive.exists() or any((directory / file).exists() for file in files.values()):
        paths = {split: find(directory, file, _FOLDER) for split, file in files.items()}
        return {split: (path, path.read_bytes()) for split, path in paths.items()}
    contents = read_members(archive, list(files.values()))
    missing = [file for file in files.values() if file not in contents]
    if missing:
        raise damaged_data(
            archive, f"expected an archive of {', '.join(files.values())}, got no {missing[0]}"
        )
    return {split: (archive / _FOLDER / file, contents[file]) for split, file in files.items()}


def _read_pairs(path, content):
    pairs, scores = [], []
    text = io.StringIO(decode(content, path), newline="")
    rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    with reading(path, "lines of bounded length", RESTORE, csv.Error):
        listed = [(rows.line_num, row) for row in rows]
    for line, row in listed:
        if len(row) not in (len(_COLUMNS), len(_COLUMNS) + _NUM_SOURCES):
            expected = f"{len(_COLUMNS)} columns ({', '.join(_COLUMNS)}) or {_NUM_SOURCES} more"
            raise malformed(path, line, expected, len(row))
        score, *pair = row[4:7]
        try:
            value = float(score)
        except ValueError:
            value = np.nan
        if not 0 <= value <= _MAX_SCORE:
            expected = f"a score from 0 to {_MAX_SCORE}"
            raise malformed(path, line, expected, repr(score))
        pairs.append(pair)
        scores.append(value / _MAX_SCORE)
    return pairs, scores


STSB = Entry(
    name=_NAME,
    modality="language",
    task="sentence_similarity",
    title="STS Benchmark: similarity of sentence pairs",
    source=_SOURCE,
    citation=(
        "Cer, Diab, Agirre, Lopez-Gazpio and Specia, "
        '"SemEval-2017 Task 1: Semantic Textual Similarity Multilingual and Crosslingual Focused '
        'Evaluation" (2017), arXiv:1708.00055.'
    ),
    licence=_LICENCE,
    preprocessing="scores divided by 5",
    sizes={"train": 5_749, "validation": 1_500, "test": 1_379},
    layout="sts-train.csv, sts-dev.csv, sts-test.csv (or Stsbenchmark.tar.gz)",
    read=read_stsb,
    downloads=(
        Download(
            url=f"http://ixa2.si.ehu.es/stswiki/images/4/48/{_ARCHIVE}", sha256=None, file=_ARCHIVE
        ),
    ),
    verified=True,
)

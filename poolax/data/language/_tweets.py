"""TweetEval: sentiment and emotion of tweets."""

import functools
from collections.abc import Mapping

import numpy as np
from etils import epath

from poolax._dataset import Dataset
from poolax.data._damage import damaged_data
from poolax.data._entry import Download, Entry
from poolax.data.language._files import find, join, malformed, read_lines

_SOURCE = "https://github.com/cardiffnlp/tweeteval"
_LICENCE = (
    "none added by TweetEval; the licences of the tasks it derives from and Twitter's rules may apply"
)
_URL = "https://raw.githubusercontent.com/cardiffnlp/tweeteval/main/datasets/"
_FILES = {"train": "train", "validation": "val", "test": "test"}


def read_tweets(task: str, directory: epath.PathLike) -> Dataset:
    """A task of TweetEval from its text files, as published.

    Args:
        task: ``"sentiment"`` or ``"emotion"``.
        directory: Holds ``{train,val,test}_{text,labels}.txt`` and ``mapping.txt``, or a folder
            ``datasets/<task>`` with them.

    Returns:
        Tweets, shape ``(N,)``, one a line and otherwise as they are, and labels.

    Raises:
        ValueError: for a missing file, a malformed line, a label that ``mapping.txt`` lacks, or unequal
            numbers of tweets and labels.
    """
    folder = f"datasets/{task}"
    names = _read_names(find(directory, "mapping.txt", folder))
    parts = {}
    for split, prefix in _FILES.items():
        texts = read_lines(find(directory, f"{prefix}_text.txt", folder))
        path = find(directory, f"{prefix}_labels.txt", folder)
        labels = read_lines(path)
        if len(labels) != len(texts):
            raise damaged_data(path, f"expected {len(texts)} lines as in the texts, got {len(labels)}")
        known = {str(label): label for label in range(len(names))}
        for line, label in enumerate(labels, start=1):
            if label not in known:
                raise malformed(path, line, f"a label from 0 to {len(names) - 1}", repr(label))
        parts[split] = texts, [known[label] for label in labels]
    inputs, targets, splits = join(parts, np.int32)
    return Dataset(
        name=f"tweet_{task}",
        inputs=inputs,
        targets=targets,
        splits=splits,
        source=_SOURCE,
        licence=_LICENCE,
        num_classes=len(names),
        class_names=names,
    )


def _read_names(path):
    names = []
    for label, line in enumerate(read_lines(path)):
        number, tab, name = line.partition("\t")
        if not tab or number != str(label) or not name:
            raise malformed(path, label + 1, f"{label}, a tab and a name", repr(line))
        names.append(name)
    return tuple(names)


def _entry(
    task: str, title: str, citation: str, sizes: Mapping[str, int], digests: Mapping[str, str | None]
):
    files = [f"{prefix}_{part}.txt" for prefix in _FILES.values() for part in ("text", "labels")]
    return Entry(
        name=f"tweet_{task}",
        modality="language",
        task="classification",
        title=title,
        source=_SOURCE,
        citation=(
            "Barbieri, Camacho-Collados, Espinosa-Anke and Neves, "
            '"TweetEval: Unified Benchmark and Comparative Evaluation for Tweet Classification", '
            f"Findings of EMNLP 2020; the tweets: {citation}"
        ),
        licence=_LICENCE,
        preprocessing="none",
        sizes=sizes,
        layout=", ".join((*files, "mapping.txt")),
        read=functools.partial(read_tweets, task),
        downloads=tuple(
            Download(url=f"{_URL}{task}/{file}", sha256=digests.get(file), file=file)
            for file in (*files, "mapping.txt")
        ),
        verified=task == "emotion",
    )


SENTIMENT = _entry(
    "sentiment",
    "TweetEval sentiment: negative, neutral or positive",
    'Rosenthal, Farra and Nakov, "SemEval-2017 task 4: Sentiment analysis in Twitter" (2017).',
    {"train": 45_615, "validation": 2_000, "test": 12_284},
    {
        "train_text.txt": "368f01052ea6fd8ffc408a2a2e6ac9669e31542581a0396ef16591ea26eb98a6",
        "train_labels.txt": "122bfb1732fb6995b0e5c5f726c0ba457c469c3b6e60513007ce5037f23e65d4",
        "val_text.txt": "e5b021e6fc45064c260b09814b803d8f56cada519c4d952d72f43d48a350a964",
        "val_labels.txt": "b4566926c72e2e4e2916c864def94e76c4cdde52446af2c7ba4fc2006e057e51",
        "test_text.txt": "09a93a55c63fd93f97485ef7302889d7edb4091cd49733aa37da094f0bfa0675",
        "test_labels.txt": "6afb4afe9374d1f983bcf9a7c79b108d0f37fdf020a83f30488309bed215db9d",
    },
)

EMOTION = _entry(
    "emotion",
    "TweetEval emotion: anger, joy, optimism or sadness",
    'Mohammad, Bravo-Marquez, Salameh and Kiritchenko, "SemEval-2018 task 1: Affect in tweets" (2018).',
    {"train": 3_257, "validation": 374, "test": 1_421},
    {
        "train_text.txt": "2c62f67aeb3eac1aea0e5a9c3d0f4bc337992581f3f858061786a1fb4d79d95e",
        "train_labels.txt": "987e767d8679e18abdf7de37a6d2bcd0a40a296ddd704e8d515cf0e3033c8d9c",
        "val_text.txt": "e2e30c86b8cbb97944d6543aedc06eace3bb275cb2f381aba787b838b4f23ca5",
        "val_labels.txt": "313730630160b7e0a6b4235b800c76683f4aeeb72d094eb69646630cd5cfe338",
        "test_text.txt": "7e1070f5d3e3fcece5bc73680bff9981e90d8f7b2f1009bfe7a01d059d1c6091",
        "test_labels.txt": "245072348c711961785be6d395997f97cf7fcda3effeae7805664171dc75f913",
        "mapping.txt": "656dea85d149716af96206ca19bec0d94e9dc6de3f5079f5c7c2a241ec76cadb",
    },
)

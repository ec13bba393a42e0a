import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from poolax import cli, data
from poolax._files import DamagedFileError
from poolax.backbones import GPT2, GPT2Config, TextPreprocess, save
from poolax.data import tokens
from poolax.data.tokens import _documents, _write

TALES = [f"Tale {n}: the fox met {n * n} geese.\nThey ran." for n in range(60)]


def written(folder, source=TALES, **options):
    return tokens.write(source, folder, **{"vocab_size": 300, **options})


def documents_in(folder, split):
    """Texts of a split, from its files alone."""
    found = tokens.read(folder, split=split)
    tokenizer = tokens.load_tokenizer(folder)
    ids = found[:]
    ends = np.flatnonzero(ids == found.end_of_text)
    assert ends[-1] == len(ids) - 1
    return [
        tokenizer.decode(part.tolist()) for part in np.split(ids, ends + 1)[:-1] for part in [part[:-1]]
    ]


def test_what_is_written_is_read_back_and_bare(tmp_path):
    record = written(tmp_path / "out")
    parts = {split: documents_in(tmp_path / "out", split) for split in ("train", "validation")}
    assert sorted(parts["train"] + parts["validation"]) == sorted(TALES)
    assert [text for text in TALES if text in parts["train"]] == parts["train"]
    for split, texts in parts.items():
        told = record["splits"][split]
        assert (told["documents"], told["bytes"]) == (len(texts), sum(len(t.encode()) for t in texts))
    # As nanoGPT reads them.
    bare = np.memmap(tmp_path / "out" / "train.bin", dtype=np.uint16, mode="r")
    assert len(bare) == record["splits"]["train"]["tokens"]
    alone = tokens.read([tmp_path / "out" / "train.bin"])
    assert alone.fingerprint == tokens.read(tmp_path / "out").fingerprint
    assert 0 < record["splits"]["validation"]["bytes"] <= 0.05 * sum(len(t) for t in TALES)
    assert json.loads((tmp_path / "out" / "tokens.json").read_text()) == record
    assert (
        record["tokenizer"]["sha256"]
        == hashlib.sha256((tmp_path / "out" / "tokenizer.json").read_bytes()).hexdigest()
    )


def test_several_files_are_one_long_array(tmp_path):
    written(tmp_path / "one", validation=0)
    record = written(tmp_path / "several", validation=0, shard_tokens=300)
    assert len(record["splits"]["train"]["files"]) > 2
    assert record["splits"]["train"]["files"][1]["file"] == "train-00001.bin"
    one, several = tokens.read(tmp_path / "one"), tokens.read(tmp_path / "several")
    whole = one[:]
    assert one.fingerprint == several.fingerprint
    for start, stop in ((0, 3), (299, 301), (300, 900), (250, len(whole)), (5, 5), (-7, None)):
        np.testing.assert_array_equal(several[start:stop], whole[start:stop])
    (tmp_path / "several" / "tokens.json").unlink()
    assert tokens.read(tmp_path / "several").fingerprint == one.fingerprint
    with pytest.raises(ValueError, match=r"expected val\.bin or val-00000\.bin"):
        tokens.read(tmp_path / "several", split="validation")


@pytest.mark.slow
def test_the_same_texts_give_the_same_bytes_however_many_threads(tmp_path):
    program = (
        "import sys; from poolax.data import tokens; "
        f"tokens.write({TALES!r}, sys.argv[1], vocab_size=400)"
    )
    env = os.environ | {"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "alone")], check=True, env=env)
    written(tmp_path / "here", vocab_size=400)
    alone, here = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("alone", "here")
    )
    assert alone == here


def test_the_same_texts_give_the_same_bytes(tmp_path, monkeypatch):
    """Whatever is tokenised at once."""
    written(tmp_path / "one", vocab_size=400)
    monkeypatch.setattr(_write, "_MOST_PIECES", 7)
    written(tmp_path / "other", vocab_size=400)
    one, other = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "other")
    )
    assert one == other


def test_copies_of_a_document_are_held_out_together(tmp_path):
    written(tmp_path / "out", TALES * 3, validation=0.2)
    train, held_out = (set(documents_in(tmp_path / "out", s)) for s in ("train", "validation"))
    assert held_out
    assert not train & held_out
    written(tmp_path / "other", TALES * 3, validation=0.2, seed=1)
    assert set(documents_in(tmp_path / "other", "validation")) != held_out


def test_near_copies_of_what_is_held_out_are_left_out(tmp_path):
    def runs(text):
        words = text.lower().replace(".", "").split()
        return {tuple(words[n : n + 3]) for n in range(len(words) - 2)}

    numbers = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ]
    random = np.random.default_rng(0)
    plain = [" ".join(random.choice(numbers, 12)) + "." for _ in range(60)]
    changed = [text.replace(text.split()[0], "ZERO", 1).replace(" ", "  ") for text in plain]
    texts = [*plain, *changed]
    record = written(tmp_path / "out", texts, validation=0.2, near_copies=0.6)
    train, held_out = (set(documents_in(tmp_path / "out", s)) for s in ("train", "validation"))
    index = {
        text: max(len(runs(text) & runs(other)) / len(runs(text) | runs(other)) for other in held_out)
        for text in texts
        if text not in held_out
    }
    assert train == {text for text, most in index.items() if most < 0.6}
    assert 0 < len(train) < len(index)
    left_out = len(index) - len(train)
    assert record["notes"][-1].startswith(f"{left_out} documents are left out, near copies")
    with pytest.raises(ValueError, match=r"near_copies: expected .* got 1"):
        written(tmp_path / "other", texts, near_copies=1)


def test_damage_is_told(tmp_path):
    written(tmp_path / "out")
    file = tmp_path / "out" / "train.bin"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"train\.bin: expected the content that was written"):
        tokens.read(tmp_path / "out")
    assert len(tokens.read(tmp_path / "out", verify=False)) == len(content) // 2
    file.write_bytes(content[:-2])
    with pytest.raises(DamagedFileError, match=r"train\.bin: expected \d+ tokens"):
        tokens.read(tmp_path / "out", verify=False)
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedFileError, match="whole numbers of type uint16"):
        tokens.read([file])
    with pytest.raises(ValueError, match="dtype: expected uint16, as"):
        tokens.read(tmp_path / "out", dtype="uint32")


@pytest.mark.parametrize(
    ("content", "options", "unit", "found"),
    [
        ("a\nb\n\n\nc\n", {}, "paragraph", ["a\nb", "c"]),
        ("\ufeffa\r\nb\r\n", {}, "line", ["a", "b"]),
        ("a\nb\n\nc", {"unit": "file"}, "file", ["a\nb\n\nc"]),
        ("a\n\nb<|endoftext|>\nc<|endoftext|>\n", {}, "text before <|endoftext|>", ["a\n\nb", "c"]),
        ("a##b##\n#c", {"separator": "##"}, "text before ##", ["a", "b", "#c"]),
        ("\n \n", {}, "line", []),
    ],
)
def test_what_a_document_is(content, options, unit, found, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes(content.encode())
    documents = tokens.documents(file, **options)
    assert documents.unit == unit
    assert list(documents) == found
    assert list(documents) == found


def test_a_document_need_not_fit_in_a_piece(tmp_path, monkeypatch):
    """Pieces are short, whatever lines and separators there are, and lose nothing."""
    monkeypatch.setattr(_documents, "PIECE", 8)
    text = "é" * 50 + "\n\n\n" + "word " * 9 + "<|endoftext|>" + "zz\n" * 20
    file = tmp_path / "long.txt"
    file.write_bytes(text.encode())
    first, _, second = text.partition("<|endoftext|>")
    for separator, whole in ((None, [text.rstrip()]), ("<|endoftext|>", [first, second.rstrip()])):
        split = (
            _documents.by_file(_documents.lines_of(file))
            if separator is None
            else _documents.by_separator(_documents.lines_of(file), separator)
        )
        pieces = list(_documents.joined(split))
        assert max(len(piece) for piece, _ in pieces) <= 3 * 8
        assert "".join(piece for piece, _ in pieces) == "".join(whole)
        assert sum(ends for _, ends in pieces) == len(whole)


def test_other_bytes_are_told_by_file_and_line(tmp_path):
    (tmp_path / "good.txt").write_text("fine\n")
    (tmp_path / "odd.txt").write_bytes("one\ntwo\ncafé\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"odd\.txt, line 3: expected text in UTF-8, got .*0xe9"):
        list(tokens.documents(tmp_path, unit="line"))
    (tmp_path / "odd.txt").write_bytes("caf\u00e9".encode()[:-1])
    with pytest.raises(ValueError, match=r"odd\.txt, line 1: expected text in UTF-8"):
        list(tokens.documents(tmp_path, unit="line"))


def test_folders_and_tables(tmp_path):
    for n in range(20):
        (tmp_path / f"part{n % 2}").mkdir(exist_ok=True)
        (tmp_path / f"part{n % 2}" / f"{n:02d}.txt").write_text(f"file {n}\n\nend")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    found = tokens.documents(tmp_path)
    assert found.unit == "file"
    assert list(found)[:2] == ["file 0\n\nend", "file 2\n\nend"]
    assert list(tokens.documents(tmp_path, pattern="19.txt")) == ["file 19", "end"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": 1, "Text": "one"}\n\n{"id": 2, "Text": "two\\nlines"}')
    assert list(tokens.documents(rows)) == ["one", "two\nlines"]
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: expected a text in column 'id'"):
        list(tokens.documents(rows, text_column="id"))
    cells = tmp_path / "cells.csv"
    cells.write_text('body,n\n"a, b",1\nc,2\n')
    assert list(tokens.documents(cells, text_column="body")) == ["a, b", "c"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, "source: expected a file or folder, got nowhere"),
        (TALES, {"unit": "line"}, "unit: expected for text files, got it for list"),
        (3, {}, "source: expected a file, a folder"),
        ([" "], {}, "source: expected documents, got none"),
        (TALES, {"tokenizer": "nowhere/at/all"}, "tokenizer: expected a file, a folder or a hub id"),
        (TALES, {"validation": 0.001}, "validation: expected a share of several documents"),
        (["a", "a"], {"validation": 0.9}, "validation: expected a share of several documents"),
        (TALES, {"vocab_size": 256}, "vocab_size: expected a whole number >= 257"),
    ],
)
def test_what_is_refused(source, options, message, tmp_path):
    if "tokenizer" in options:
        options = {**options, "vocab_size": None}
    with pytest.raises(ValueError, match=message):
        written(tmp_path / "out", source, **options)
    assert not (tmp_path / "out").exists()


def test_a_source_that_changes_is_refused(tmp_path):
    calls = iter((TALES, TALES[:-1]))
    changing = _documents.Documents(lambda: ((t, True) for t in next(calls)), "example", ("x",), 1)
    with pytest.raises(ValueError, match="expected the 60 documents that were read before, got 59"):
        written(tmp_path / "out", changing)
    assert not (tmp_path / "out").exists()


def test_tokenizers_that_are_there(tmp_path):
    first = written(tmp_path / "first")
    config = GPT2Config(first["vocab_size"], 8, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    text = (tmp_path / "first" / "tokenizer.json").read_text()
    import jax

    save(GPT2.init(config, jax.random.key(0), TextPreprocess(text, 8)), tmp_path / "gpt2")
    expected = tokens.read(tmp_path / "first").fingerprint
    for name, source in (("folder", tmp_path / "first"), ("checkpoint", tmp_path / "gpt2")):
        record = written(tmp_path / name, tokenizer=source, vocab_size=None)
        assert tokens.read(tmp_path / name).fingerprint == expected
        assert record["end_of_text_token"] == "<|endoftext|>"
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 70_000}, unk_token="a"))
    record = written(tmp_path / "words", tokenizer=words, vocab_size=None)
    assert (record["dtype"], record["end_of_text"]) == ("uint32", 70_000)
    assert tokens.read(tmp_path / "words").dtype == np.uint32
    assert tokens.read([tmp_path / "words" / "train.bin"]).dtype == np.uint32
    with pytest.raises(ValueError, match="end_of_text: expected a token"):
        written(tmp_path / "no", tokenizer=words, vocab_size=None, end_of_text="<eot>")


def test_text_cannot_end_a_document(tmp_path):
    texts = [*TALES, "a <|endoftext|> b"]
    written(tmp_path / "out", texts, validation=0)
    assert documents_in(tmp_path / "out", "train") == texts


def test_bytes_of_tokens_are_those_of_the_text(tmp_path):
    tokenizer = tokens.train_tokenizer([*TALES, "é ☀ 鷺"], 400)
    sizes = tokens.bytes_of_tokens(tokenizer)
    for text in ("plain", "é ☀ 鷺 \u0000", " two  spaces\n"):
        assert sizes[tokenizer.encode(text).ids].sum() == len(text.encode())
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="expected a byte-level vocabulary"):
        tokens.bytes_of_tokens(words)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tales.txt").write_text("\n\n".join(TALES))
    assert cli.main(["data", "tokens", "tales.txt", "--out", "out", "--vocab-size", "300"]) == 0
    said = capsys.readouterr().out
    assert "in train.bin" in said
    assert "a document: paragraph; <|endoftext|> (id 0) ends each" in said
    same = ["data", "tokens", "tales.txt", "--out", "out"]
    assert cli.main(same) == 2
    assert "out: expected a new folder, got out" in capsys.readouterr().err
    assert cli.main(["data", "tokens", "taels.txt", "--out", "x"]) == 2
    topics = ["data", "tokens", "topics", "--out", "topics", "--vocab-size", "257", "--json"]
    assert cli.main([*topics, "--min-paragraphs", "60"]) == 0
    record = json.loads(capsys.readouterr().out)
    held_out = data.language.topics(min_paragraphs=60)
    texts = {*held_out.inputs[held_out.splits["validation"]], *held_out.inputs[held_out.splits["test"]]}
    assert record["notes"][-2] == "texts of the training split that are in no other"
    assert not texts & {*documents_in(tmp_path / "topics", "train")}


def test_progress_ends_where_all_is_read(tmp_path):
    told = {}
    written(tmp_path / "out", progress=lambda what, done, total: told.__setitem__(what, (done, total)))
    assert list(told) == ["reading documents", "training the tokenizer", "writing tokens"]
    assert all(done == total for done, total in told.values())

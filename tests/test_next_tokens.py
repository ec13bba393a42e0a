"""Heads of the comparison of language tasks that predict the next token."""

import importlib

import numpy as np
import pytest
import tokenizers

from poolax.backbones import TextPreprocess
from poolax.data import Dataset
from poolax.training import NextToken, Records

WORDS = ("a", "b", "c", "d", "e")


@pytest.fixture
def experiments(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module


@pytest.fixture
def completions():
    """Contexts with two endings: some of what is held out stands in another split as well."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(60)]
    parts = np.array([[text, "a b", "c d"] for text in texts], dtype=object)
    parts[40] = parts[0]
    parts[50] = parts[30]
    targets = np.zeros(60, int)
    targets[1::2] = 1
    targets[[40, 50]] = targets[[0, 30]]
    splits = {"train": np.arange(20), "validation": np.arange(20, 40), "test": np.arange(40, 60)}
    return Dataset("choices", parts, targets, splits, "none", "none", num_classes=2)


def test_texts_are_held_out_of_what_models_are_pretrained_on(experiments, completions):
    script = experiments("next_tokens")
    found = script.held_out(completions)
    texts = {split: set(found.inputs[index]) for split, index in found.splits.items()}
    assert [len(texts[split]) for split in ("train", "validation", "test")] == [16, 3, 19]
    seen = {f"{row[0]} {row[1 + number % 2]}" for number, row in enumerate(completions.inputs[:20])}
    assert not any(seen & own for own in texts.values())
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & (texts["train"] | texts["test"])
    # With the right ending behind each context.
    assert f"{completions.inputs[41, 0]} c d" in texts["test"]
    assert f"{completions.inputs[42, 0]} a b" in texts["test"]


def test_examples_are_beginnings_and_the_tokens_behind_them(experiments, completions):
    script = experiments("next_tokens")
    model = tokenizers.models.WordLevel(
        {"[UNK]": 0, **{w: i + 1 for i, w in enumerate(WORDS)}}, "[UNK]"
    )
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    texts = script.held_out(completions)
    found = script.beginnings(texts, TextPreprocess(words.to_str(), 8), context=4, limit=50)
    assert (found.name, len(found.splits["train"]), found.num_classes) == ("choices", 50, 5)
    # Of 19 texts with four beginnings each.
    whole = script.beginnings(texts, TextPreprocess(words.to_str(), 8), context=4)
    assert [len(whole.splits[split]) for split in ("train", "validation", "test")] == [64, 12, 76]
    names = found.class_names
    starts = set(texts.inputs[texts.splits["test"]])
    for row in found.splits["test"]:
        ids = found.inputs[row][found.mask[row]]
        target = names[found.targets[row]]
        start = " ".join([words.id_to_token(int(one)) for one in ids] + [target])
        assert any(text.startswith(start) for text in starts)
    script.task(found).check_targets(found.targets)
    assert script.task(texts) == NextToken(script.MOST_CLASSES)
    assert any("targets are the 5 most frequent tokens of train" in note for note in found.notes)


def test_names_of_next_tokens(experiments):
    named = experiments("comparison").named_task
    assert named("hellaswag_next_token") == ("hellaswag", "next_token")
    assert named("cifar10_next_token") == ("cifar10_next_token", None)
    assert named("topics_imputation") == ("topics_imputation", None)


@pytest.mark.slow
def test_the_script_has_a_row_of_next_tokens(experiments, bert, tmp_path, capsys):
    arguments = ["--quick", "--datasets", "topics_next_token", "--backbone", str(bert)]
    arguments += ["--poolers", "last", "avg", "--out", str(tmp_path)]
    assert experiments("comparison").main(experiments("language").STUDY, arguments) == 0
    rows = Records.read(tmp_path / "language.jsonl")
    assert {(row["dataset"], row["task"]) for row in rows} == {("topics", "next_token")}
    assert {row["metric"] for row in rows} == {"top_10_accuracy"}
    assert all("accuracy" in row["test_metrics"] for row in rows)
    assert "the token behind the first 1 to" in (tmp_path / "language.md").read_text()
    assert "most frequent tokens" in capsys.readouterr().out

"""Predicting the next token of a text that no model here was trained on: a row of language.py."""

import dataclasses
from typing import Any

import comparison
import numpy as np

from poolax import data, training

#: Most tokens that a head sees, and the most frequent next tokens, which are its classes.
CONTEXT, MOST_CLASSES = 32, 1000
#: Examples of each split: pairs of a text and a length.
_NUMBERS = {"train": 4000, "validation": 1000, "test": 2000}
_VALIDATION_SHARE = 0.2


def case(name, backbone):
    """A row: the token that follows the beginning of a text.

    Args:
        name: Of the data set whose texts are taken.
        backbone: Gives the backbone where none is given, and its name.
    """

    def dataset(context):
        # Of all texts, so that what is cut from a split is not mistaken for unseen.
        options = dataclasses.replace(context.options, num_examples=None)
        return held_out(dataclasses.replace(context, options=options).read(name))

    def fitted(context, texts, model):
        options = context.options
        most = getattr(options, "max_tokens", None) or CONTEXT
        return beginnings(texts, model.preprocess, context=most, limit=options.num_examples), model

    return comparison.Case(dataset=dataset, task=task, backbone=backbone, fitted=fitted)


def task(found):
    """As many classes as the data set has, which before a tokenizer is known are none."""
    return training.NextToken(found.num_classes or MOST_CLASSES)


def held_out(found):
    """Texts of the validation and the test split, on whose training split models are pretrained.

    Heads are trained on texts of the validation split, of which a fifth validates them, and tested on
    those of the test split; of completions the context with the right ending is a text.

    Args:
        found: A data set of texts.
    """
    seen = dict.fromkeys(texts_of(found, "train"), "train")
    texts: dict[str, list[str]] = {}
    for split in ("test", "validation"):
        fresh = [text for text in dict.fromkeys(texts_of(found, split)) if text not in seen]
        seen |= dict.fromkeys(fresh, split)
        texts[split] = fresh
    order = np.random.default_rng(0).permutation(len(texts["validation"]))
    cut = int(_VALIDATION_SHARE * len(order))
    start = len(order)
    return dataclasses.replace(
        found,
        inputs=np.array([*texts["validation"], *texts["test"]], dtype=object),
        mask=None,
        targets={},
        splits={
            "train": np.sort(order[cut:]),
            "validation": np.sort(order[:cut]),
            "test": np.arange(start, start + len(texts["test"])),
        },
        num_classes=None,
        class_names=None,
        notes=(
            *found.notes,
            "next tokens: heads are trained and validated on texts of the validation split, a fifth of "
            "them for validation, and tested on those of the test split; none stands in the training "
            "split",
        ),
    )


def texts_of(found, split):
    """The texts of a split, each of one string."""
    index = np.asarray(found.splits[split])
    texts = np.asarray(found.inputs[index])
    if texts.ndim == 1:
        return texts.tolist()
    if found.num_classes != texts.shape[1] - 1:
        return texts[:, 0].tolist()
    right = texts[np.arange(len(texts)), 1 + np.asarray(found.targets)[index]]
    return [f"{context} {ending}" for context, ending in zip(texts[:, 0], right, strict=True)]


def beginnings(texts, preprocess, *, context, limit=None):
    """Beginnings of texts and the tokens behind them, the most frequent of these alone.

    Args:
        texts: As :func:`held_out` gives them.
        preprocess: Of the backbone.
        context: Most tokens of a beginning.
        limit: Most examples of a split.
    """
    context = min(context, preprocess.max_tokens - len(preprocess.prefix))
    numbers = fitting(texts, preprocess, context, limit)
    how: dict[str, Any] = {"context": context, "num_examples": numbers}
    every = data.next_token(texts, preprocess, **how)
    distinct = len(np.unique(np.asarray(every.targets)[every.splits["train"]]))
    found = data.next_token(texts, preprocess, **how, vocab=min(MOST_CLASSES, distinct))
    return dataclasses.replace(found, name=texts.name)


def fitting(texts, preprocess, context, limit):
    """Examples of each split: as many as there are pairs of a text and a length at most."""
    bare = dataclasses.replace(preprocess, max_tokens=context + 1, prefix=(), suffix=(), pad_to=None)
    _, mask = bare(texts.inputs.tolist())
    pairs = np.maximum(mask.sum(axis=1) - 1, 0)
    return {
        split: int(min(most, limit or most, pairs[texts.splits[split]].sum()))
        for split, most in _NUMBERS.items()
    }

"""Real pretrained weights: all-MiniLM-L6-v2 against the reference implementation."""

import csv
import dataclasses

import numpy as np
import pytest
from parity import real_weights, run, torch, transformers

from poolax import backbones, pooling, training

SENTENCES = (
    "A man is playing a guitar.",
    "Someone plays an acoustic instrument.",
    "The stock market fell sharply on Monday.",
    "Shares dropped at the start of the week.",
    "How do I activate my new card?",
    "a",
)


@pytest.fixture(scope="module")
def directory():
    return real_weights("minilm")


@pytest.fixture(scope="module")
def minilm(directory):
    return backbones.load(directory)


def cosines(vectors):
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors @ vectors.T


@pytest.mark.parametrize("side", ["right", "left"])
def test_sentence_similarities(directory, minilm, side):
    model = transformers.BertModel.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    expected_ids = tokenizer(list(SENTENCES), padding=True)["input_ids"]
    ids, mask = minilm.preprocess(SENTENCES)
    np.testing.assert_array_equal(ids, expected_ids)
    out = run(model, input_ids=ids.astype(np.int64), attention_mask=mask.astype(np.int64))
    states = out.last_hidden_state
    weights = torch.tensor(mask[..., None], dtype=states.dtype)
    reference = ((states * weights).sum(1) / weights.sum(1)).numpy()

    prepare = dataclasses.replace(minilm.preprocess, padding_side=side)
    ours = minilm(*prepare(SENTENCES))
    pooled = np.asarray(pooling.average_pool(ours.states, ours.mask))
    np.testing.assert_allclose(pooled, reference, atol=1e-5)
    np.testing.assert_allclose(cosines(pooled), cosines(reference), atol=1e-5)
    assert cosines(pooled)[0, 1] > 0.5 > 0.2 > cosines(pooled)[0, 2]
    if side == "right":
        real = np.abs(np.asarray(ours.states) - states.numpy())[mask]
        assert real.max() < 1e-5


def test_truncation_keeps_the_end(minilm):
    ids, mask = minilm.preprocess(["word " * 1000, "word"])
    assert ids.shape == (2, 256)
    assert mask[0].all()
    assert ids[0, 0] == ids[1, 0] == 101
    assert ids[0, -1] == ids[1, 2] == 102


def test_stacked_layers_and_round_trip(minilm, tmp_path):
    ids, mask = minilm.preprocess(SENTENCES)
    states = np.asarray(minilm(ids, mask).states)
    scanned = np.asarray(minilm.stack_layers()(ids, mask).states)
    np.testing.assert_allclose(scanned[mask], states[mask], atol=1e-5)
    backbones.save(minilm, tmp_path)
    again = backbones.load(tmp_path)
    np.testing.assert_array_equal(again(*again.preprocess(SENTENCES)).states, states)


def test_poolers_on_real_texts(minilm, test_data):
    """Ten intents of BANKING77, told apart by linear heads on frozen token states."""
    with open(test_data / "banking77" / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    intents = sorted({row["category"] for row in rows})[:10]
    chosen = [[row["text"] for row in rows if row["category"] == intent][:25] for intent in intents]
    texts = [text for texts in chosen for text in texts]
    order = np.random.default_rng(0).permutation(len(texts))
    parts = dict(zip(("train", "validation", "test"), np.split(order, [150, 200]), strict=True))
    tokens = training.extract_states(minilm, texts, batch_size=64)
    records = training.sweep_states(
        tokens.states,
        tokens.mask,
        np.repeat(np.arange(10), 25),
        training.Classification(10),
        splits=parts,
        poolers=["avg", "max"],
        seeds=1,
        epochs=20,
    )
    scores = {row["pooler"]: row["test"] for row in records}
    assert min(scores.values()) > 0.8, scores

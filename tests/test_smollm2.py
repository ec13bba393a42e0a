"""Real pretrained weights: SmolLM2-135M, a decoder, against the reference implementation."""

import numpy as np
import pytest
from parity import real_weights, run, transformers

from poolax import backbones

TEXTS = (
    "The capital of France is",
    "Twelve, 12 or 120: each digit is a token of its own, émigré as well.",
)


@pytest.fixture(scope="module")
def directory():
    return real_weights("smollm2")


@pytest.fixture(scope="module")
def smollm2(directory):
    return backbones.load(directory, stacked=True)


def test_texts_against_the_reference(directory, smollm2):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids, mask = smollm2.preprocess(TEXTS)
    expected = tokenizer(list(TEXTS), padding=True)
    np.testing.assert_array_equal(ids[mask], np.asarray(expected["input_ids"])[mask])
    np.testing.assert_array_equal(mask, expected["attention_mask"])
    model = transformers.LlamaModel.from_pretrained(directory, attn_implementation="eager").eval()
    out = run(model, input_ids=ids.astype(np.int64), attention_mask=mask.astype(np.int64))
    states = np.asarray(smollm2(ids, mask).states)
    reference = out.last_hidden_state.numpy()
    assert np.abs(states - reference)[mask].max() < 2e-4 * np.abs(reference[mask]).max()
    last = states[0][mask[0]][-1]
    logits = smollm2.params["embeddings"]["token"] @ last
    assert smollm2.preprocess.tokenizer.decode([int(logits.argmax())]) == " Paris"

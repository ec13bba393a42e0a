"""Small sentence encoders of the reference library, with random parameters throughout."""

import numpy as np
import pytest
import tokenizers
from parity import build, torch, transformers

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="install with tests/install_parity.sh"
)

WORDS = ("a", "b", "c", "d", "query", ":", "Ask")
TEXTS = ("a b c", "d", "c c b a d d a b c d a b c", "B a", "a")
WIDTH = 8


def tokenizer(path, *, max_tokens=10, padding_side="right"):
    """Write a tokenizer of whole words to a folder."""
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    vocabulary = {word: index for index, word in enumerate((*special, *WORDS))}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=max_tokens,
        padding_side=padding_side,
    ).save_pretrained(path)


def bert_folder(path, **settings):
    """Write a BERT of two layers and its tokenizer."""
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    build(transformers.BertModel, config).save_pretrained(path)
    tokenizer(path, **settings)
    return path


def llama_folder(path, **settings):
    """Write a Llama of one layer, whose positions are relative, and its tokenizer, padding on the left."""
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    build(transformers.LlamaModel, config).save_pretrained(path)
    tokenizer(path, padding_side="left", **settings)
    return path


def encoder(path, *modules, **options):
    """The reference's model of a folder's Transformer and other modules."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    first = Transformer(str(path))
    return sentence_transformers.SentenceTransformer(modules=[first, *modules], device="cpu", **options)


def reload(path, **options):
    """The reference's model of a saved folder."""
    return sentence_transformers.SentenceTransformer(
        str(path), device="cpu", local_files_only=True, **options
    )


def random_dense(width, features, activation):
    """A linear layer of the reference with random parameters."""
    from sentence_transformers.sentence_transformer.modules import Dense

    torch.manual_seed(3)
    dense = Dense(width, features, activation_function=activation)
    with torch.no_grad():
        dense.linear.bias.copy_(torch.randn(features))
    return dense


def assert_same(ours, theirs, atol=1e-5):
    """Compare embeddings, relative to the largest entry."""
    assert np.shape(ours) == np.shape(theirs)
    np.testing.assert_allclose(ours, theirs, atol=atol * np.abs(theirs).max(), rtol=0)

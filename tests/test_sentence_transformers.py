"""Folders of sentence-transformers: what they say is part of the model."""

import json

import numpy as np
import pytest
from parity import real_weights
from sentence_encoders import (
    TEXTS,
    WIDTH,
    assert_same,
    bert_folder,
    encoder,
    llama_folder,
    random_dense,
    reload,
    torch,
)

from poolax import backbones, pooling, training

FLAGS = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
         "lasttoken")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert_folder(tmp_path_factory.mktemp("bert"))


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_old(folder, *, pooling_fields, modules=("Pooling",), **settings):
    """A folder as versions below 5 wrote it."""
    entries = [("", "Transformer"), *((f"{i}_{kind}", kind) for i, kind in enumerate(modules, 1))]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(entries)
    ]
    write(folder / "modules.json", entries)
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH} | pooling_fields)
    for name, content in settings.items():
        write(folder / f"{name}.json", content)


@pytest.mark.parametrize("make", [bert_folder, llama_folder])
def test_folders_of_old_versions(tmp_path, make):
    """All poolings at once, a limit of tokens, lower case, and a prompt that is not pooled."""
    folder = make(tmp_path)
    write_old(
        folder,
        pooling_fields={f"pooling_mode_{flag}": True for flag in FLAGS} | {"include_prompt": False},
        sentence_bert_config={"max_seq_length": 7, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "query: "}, "default_prompt_name": "query"},
    )
    backbone, reference = backbones.load(folder), reload(folder)
    assert backbone.preprocess.max_tokens == 7
    assert [type(part).__name__ for part in backbone.pooler.poolers] == [
        "FirstPool", "MaxPool", "AveragePool", "SqrtPool", "PositionPool", "LastPool",
    ]  # fmt: skip
    for options in ({}, {"prompt_name": "query"}, {"prompt": "Ask"}, {"prompt": ""}):
        expected = reference.encode(list(TEXTS), **options)
        assert_same(training.embed(backbone, list(TEXTS), **options), expected)
    ids, mask = backbone.preprocess(TEXTS, prompt="Ask", max_tokens=5)
    assert ids.shape == mask.shape == (len(TEXTS), 5)
    assert backbone.preprocess.tokens_not_pooled("Ask") == 2


def test_folders_of_the_reference_and_round_trip(folder, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    pooled = Pooling(WIDTH, ("lasttoken", "mean"))
    projection = random_dense(2 * WIDTH, 5, torch.nn.Tanh())
    reference = encoder(folder, pooled, projection, Normalize(), prompts={"passage": "a : "})
    reference.max_seq_length = 6
    reference.save(str(tmp_path / "theirs"))
    expected = reference.encode(list(TEXTS), prompt_name="passage")

    backbone = backbones.load(tmp_path / "theirs")
    concat = pooling.ConcatPool((pooling.LastPool(), pooling.AveragePool()))
    projected = pooling.ProjectedPool(concat, 5, "tanh")
    assert backbone.pooler == pooling.UnitPool(projected)
    assert_same(training.embed(backbone, TEXTS, prompt_name="passage"), expected)

    backbones.save(backbone, tmp_path / "ours")
    again = backbones.load(tmp_path / "ours")
    assert (again.pooler, again.preprocess) == (backbone.pooler, backbone.preprocess)
    assert_same(training.embed(again, TEXTS, prompt_name="passage"), expected)


def test_minilm_reads_what_it_was_trained_on():
    folder = real_weights("minilm")
    minilm = backbones.load(folder, stacked=True)
    assert minilm.pooler == pooling.UnitPool(pooling.AveragePool())
    texts = ["How do I activate my new card?", "It rained all day, and the river rose. " * 40]
    ids, mask = minilm.preprocess(texts)
    assert ids.shape == (2, 256)
    assert mask[1].all()
    cosines = np.sum(training.embed(minilm, texts) * reload(folder).encode(texts), axis=-1)
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_records_name_the_pooler(folder):
    from poolax._dataset import Dataset

    backbone = backbones.load(folder)
    assert backbone.pooler is None
    with pytest.raises(ValueError, match="backbone: expected one with a pooler"):
        training.embed(backbone, TEXTS)
    backbone = backbone.replace(pooler=pooling.MaxPool())
    splits = {name: np.array([k, k + 3]) for k, name in enumerate(("train", "validation", "test"))}
    texts = np.array([f"{word} {other}" for word in "abc" for other in "bd"])
    dataset = Dataset("words", texts, np.array([0, 1] * 3), splits, "made here", "none")
    [row] = training.sweep(
        backbone, dataset, training.Classification(2), poolers=["avg"], seeds=1, epochs=1, batch_size=2
    )
    assert row["backbone_pooler"] == pooling.to_config(backbone.pooler)


@pytest.mark.parametrize(
    ("pooling_fields", "modules", "settings", "message"),
    [
        ({}, ("Pooling", "LSTM"), {}, "expected one of Pooling, Dense, Normalize.* module LSTM"),
        ({}, ("Normalize",), {}, "expected one Pooling, then others, got Normalize"),
        ({}, ("Pooling", "Pooling"), {}, "expected one Pooling, then others, got Pooling"),
        ({"pooling_mode": "median"}, ("Pooling",), {}, "pooling_mode: .*'cls'.* got 'median'"),
        ({"pooling_mode_new": True}, ("Pooling",), {}, "pooling_mode: .* got 'pooling_mode_new'"),
        ({"word_embedding_dimension": 3}, ("Pooling",), {}, "embedding_dimension .* 8, got 3"),
        ({}, ("Pooling",), {"sentence_bert_config": {"max_seq_length": 0}}, "max_seq_length: .* >= 1"),
        (
            {},
            ("Pooling",),
            {"sentence_bert_config": {"transformer_task": "fill-mask"}},
            "transformer_task .*'feature-extraction', got 'fill-mask'",
        ),
        (
            {},
            ("Pooling",),
            {"sentence_bert_config": {"model_args": {"quantize": True}}},
            "model_args: .* got quantize",
        ),
        (
            {},
            ("Pooling",),
            {"config_sentence_transformers": {"default_prompt_name": "query"}},
            "default_prompt",
        ),
        (
            {},
            ("Pooling",),
            {"config_sentence_transformers": {"truncate_dim": 4}},
            "truncate_dim to be one of None, got 4",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path, pooling_fields, modules, settings, message):
    bert_folder(tmp_path)
    write_old(tmp_path, pooling_fields=pooling_fields, modules=modules, **settings)
    with pytest.raises(ValueError, match=message):
        backbones.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a list of modules"),
        ('{"a": 1}', "expected a list"),
        ('[{"type": 3}]', "type: expected a text"),
        ('[{"type": "sentence_transformers.models.CLIPModel"}]', "Transformer first.* CLIPModel"),
        ('[{"type": "sentence_transformers.models.Transformer", "path": "../x"}]', "folder inside"),
    ],
)
def test_damaged_modules(folder, content, message):
    path = folder / "modules.json"
    path.write_text(content)
    try:
        with pytest.raises(ValueError, match=f"modules.json: .*{message}"):
            backbones.load(folder)
    finally:
        path.unlink()

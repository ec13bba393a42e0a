"""Folders of sentence-transformers: what they say is part of the model."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import random_variables
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

from poolax import backbones, cli, pooling, training

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
    longer = (
        {"prompt": "a b c d "},
        {"prompt": "a b c d a b c d "},
    )  # than most texts, and than the limit
    for options in ({}, {"prompt_name": "query"}, {"prompt": "Ask"}, {"prompt": ""}, *longer):
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


def test_a_hub_id_and_the_command_line(folder, tmp_path, monkeypatch, capsys):
    """Folders of the modules are fetched too; the command prints what the reference gives."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    reference = encoder(folder, Pooling(WIDTH, "max"), random_dense(WIDTH, 3, torch.nn.Identity()))
    reference.save(str(tmp_path / "small"))
    expected, asked = reference.encode(["a b", "c"]), []

    def fetch(hub_id, *, revision, allow_patterns, ignore_patterns=None):
        asked.append(allow_patterns)
        return str(tmp_path / hub_id)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    backbone = backbones.load("small")
    inside = ["1_Pooling/*.json", "1_Pooling/*.safetensors", "2_Dense/*.json", "2_Dense/*.safetensors"]
    assert asked == [["*.json"], inside, ["model.safetensors"]]
    assert backbone.pooler == pooling.ProjectedPool(pooling.MaxPool(), 3)

    out = tmp_path / "embeddings.npy"
    arguments = ["embed", str(tmp_path / "small"), "--text", "a b", "c", "--out", str(out), "--json"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert_same([json.loads(line)["embedding"] for line in lines], expected)
    assert_same(np.load(out), expected)
    assert cli.main(["embed", str(folder), "--text", "a"]) == 2
    assert "expected one with a pooler" in capsys.readouterr().err


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


def test_a_sweep_from_a_folder_to_a_folder(folder, tmp_path):
    """Records name the pooler that the checkpoint was trained with; a head is exported as it was."""
    from poolax._dataset import Dataset

    backbone = backbones.load(folder)
    assert backbone.pooler is None
    with pytest.raises(ValueError, match="backbone: expected one with a pooler"):
        training.embed(backbone, TEXTS)
    backbone = backbone.replace(pooler=pooling.MaxPool())
    splits = {name: np.array([k, k + 3]) for k, name in enumerate(("train", "validation", "test"))}
    texts = np.array([f"{word} {other}" for word in "abc" for other in "bd"])
    dataset = Dataset("words", texts, np.array([0, 1] * 3), splits, "made here", "none")
    options = {"seeds": 1, "epochs": 1, "batch_size": 2, "out": tmp_path / "out", "max_tokens": 4}
    task, poolers = training.Classification(2), ["wavg"]
    [row] = training.sweep(backbone, dataset, task, poolers=poolers, include_prefix=False, **options)
    assert row["backbone_pooler"] == pooling.to_config(backbone.pooler)
    head = training.load_head(training.head_directory(tmp_path / "out", row))
    with pytest.raises(ValueError, match=r"expected the one that the head was trained on.*cut_to"):
        training.export_sentence_transformers(head, backbone, tmp_path / "export")
    backbone = backbone.replace(preprocess=backbone.preprocess.cut_to(4))
    training.export_sentence_transformers(head, backbone, tmp_path / "export", with_output=True)

    tokens = backbone(*backbone.preprocess(TEXTS))
    logits = head.predict(tokens.states, tokens.mask)
    reference = reload(tmp_path / "export", trust_remote_code=True)
    assert_same(reference.encode(list(TEXTS)), logits)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        reload(tmp_path / "export")


def every_pooler():
    """All that there is PyTorch code for, in one mixture of width ``WIDTH``."""
    half = pooling.ConcatPool((pooling.MaxPool(), pooling.SqrtPool()))
    return pooling.HybridPool(
        (
            pooling.FirstPool(),
            pooling.LastPool(),
            pooling.AveragePool(),
            pooling.SumPool(),
            pooling.WeightedAveragePool(max_tokens=7),
            pooling.WeightedAveragePool(max_tokens=7, normalize="none"),
            pooling.LatentAttentionPool(num_latents=3, num_heads=2, mlp_dim=5),
            pooling.LatentAttentionPool(num_latents=3, num_heads=2, use_norm=True),
            pooling.QueryAttentionPool(num_queries=2, num_heads=2),
            pooling.QueryAttentionPool(num_heads=2, full=True, mlp_dim=5, activation="quick_gelu"),
            pooling.PositionPool(start=3),
            pooling.L2Pool(),
            pooling.LogSumExpPool(),
            pooling.EfficientProbingPool(num_queries=2),
            pooling.GatedAttentionPool(hidden_dim=3),
            pooling.MultiMaxPool(),
            pooling.RollingPool(window=3),
            pooling.PositionAttentionPool(num_heads=2),
            pooling.SkipPool(pooling.QueryAttentionPool(), 1),
            pooling.NormPool(pooling.SkipPool(pooling.AveragePool(), 1), eps=1e-3),
            pooling.UnitPool(pooling.ProjectedPool(half, WIDTH, "gelu_new", use_bias=False)),
        )
    )


def test_poolers_are_exported_as_pytorch(folder, tmp_path):
    pooler, backbone = every_pooler(), backbones.load(folder)
    tokens = np.zeros((1, 7, WIDTH), np.float32)
    variables = random_variables(pooler, jax.random.key(5), tokens)
    output = {"kernel": np.zeros((WIDTH, 2), np.float32), "bias": np.zeros(2, np.float32)}
    params = {"pooler": variables["params"], "output": output}
    head = training.Head(pooler, {"params": params}, {"num_outputs": 2})
    training.export_sentence_transformers(head, backbone, tmp_path / "export")

    ids, mask = backbone.preprocess(TEXTS, max_tokens=7)
    states = backbone(ids, mask)
    ours = pooler.apply(variables, states.states, states.mask)
    reference = reload(tmp_path / "export", trust_remote_code=True)
    assert_same(reference.encode(list(TEXTS)), ours)
    again = backbones.load(tmp_path / "export")
    assert (again.pooler, again.preprocess.max_tokens) == (pooler, 7)
    assert_same(again.pool(again.params, states), ours)

    reference.save(str(tmp_path / "saved"))
    saved = reload(tmp_path / "saved", trust_remote_code=True)
    np.testing.assert_array_equal(saved.encode(list(TEXTS)), reference.encode(list(TEXTS)))


def test_fixed_poolers_are_exported_natively_with_prompts(folder, tmp_path):
    backbone = backbones.load(folder)
    prompts = {"prompts": (("query", "query :"),), "include_prompt": False}
    prepare = dataclasses.replace(backbone.preprocess, **prompts)
    backbone = backbone.replace(preprocess=prepare)
    native = pooling.UnitPool(pooling.ConcatPool((pooling.PositionPool(), pooling.MaxPool())))
    own = pooling.ConcatPool((pooling.SumPool(), pooling.PositionPool(), pooling.LastPool()))
    for name, pooler, files in (("native", native, False), ("own", own, True)):
        training.export_sentence_transformers(pooler, backbone, tmp_path / name)
        assert (tmp_path / name / "poolax_pooling.py").exists() == files
        reference = reload(tmp_path / name, **({"trust_remote_code": True} if files else {}))
        again = backbones.load(tmp_path / name)
        assert again.pooler == pooler
        for options in ({}, {"prompt_name": "query"}):
            expected = reference.encode(list(TEXTS), **options)
            assert_same(training.embed(again, TEXTS, **options), expected)


def test_a_model_that_was_not_loaded_is_exported_too(folder, tmp_path):
    pooler = pooling.AveragePool()
    backbone = backbones.load(folder).replace(origin=None, pooler=pooler)
    training.export_sentence_transformers(pooler, backbone, tmp_path / "own")
    expected = training.embed(backbone, TEXTS)
    assert_same(reload(tmp_path / "own").encode(list(TEXTS)), expected)


def test_what_cannot_be_exported_is_refused_by_name(folder, tmp_path):
    class OwnPool(pooling.Pooler):
        def __call__(self, z, mask=None):
            return z[..., 0, :]

    backbone = backbones.load(folder)
    for arguments, message in (
        ((OwnPool(), backbone), "pooler: expected one that there is PyTorch code for"),
        (("avg", backbone), "head: expected a Head or a Pooler"),
        ((pooling.QueryAttentionPool(), backbone), "head: expected a Head for QueryAttentionPool"),
        ((pooling.SumPool(), backbone.replace(preprocess=None)), "that tokenises texts, got Bert"),
    ):
        with pytest.raises(ValueError, match=message):
            training.export_sentence_transformers(*arguments, tmp_path / "export")
    assert not list(tmp_path.iterdir())


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

"""A head in service: texts become what poolax makes of them, and nothing is compiled per request."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from parity import real_weights

from poolax import backbones, training

ALONE = "import runpy, sys; sys.modules['poolax'] = sys.modules['flax'] = None; del sys.argv[0]\n"
ALONE += "runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture(scope="module")
def examples(pytestconfig):
    return pytestconfig.rootpath / "experiments" / "examples"


@pytest.fixture(scope="module")
def server(examples):
    spec = importlib.util.spec_from_file_location("server", examples / "server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix": ("[CLS]",), "suffix": ("[SEP]",)},
        {"suffix": ("[SEP]",), "padding_side": "left", "pad_id": 1},
        {"prompts": (("query", "of the "),), "default_prompt": "query"},
    ],
    ids=["bert", "left", "prompt"],
)
def test_texts_become_what_their_preprocessing_makes_of_them(server, settings):
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "the": 3, "of": 4, "is": 5}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    prepare = backbones.TextPreprocess(words.to_str(), max_tokens=7, **settings)
    options = json.loads(json.dumps(prepare.describe_for((1,))))["options"]
    texts = server.Texts(options, tokenizers.Tokenizer.from_str(prepare.tokenizer_json))
    given = ["is", "", "the of is " * 4, "is of"]
    ids, mask = prepare(given)
    rows = texts.rows(given)
    padded = texts.padded(rows, len(given), ids.shape[1])
    np.testing.assert_array_equal(padded[0], ids)
    np.testing.assert_array_equal(padded[1], mask)
    # Rows that are missing are there in the program, and real.
    more, mask = texts.padded(rows[:1], 3, ids.shape[1])
    assert (more == more[0]).all()
    assert (mask == mask[0]).all()


def test_lengths_are_few(server):
    assert server.lengths_up_to(512) == [16, 32, 64, 128, 256, 512]
    assert server.lengths_up_to(100)[-1] == 100
    assert server.lengths_up_to(5) == [5]


def check_served(server, examples, tmp_path, backbone, lengths):
    """Answers are those of the head, and compiled was no more than before the first request."""
    directory, head = saved_head(tmp_path / "sweep", backbone.config.width)
    artefact = tmp_path / "head.jax"
    training.export_head(head, artefact, backbone=backbone, class_names=["bad", "good"])
    assert training.load_head(directory).config == head.config
    requests = [{"texts": [" ".join(["the"] * count)] * (1 + count % 3)} for count in lengths]
    lines = [json.dumps(request) for request in requests]
    lines += ["no JSON", '{"texts": []}', '{"stats": true}']
    command = [sys.executable, "-c", ALONE, str(examples / "server.py"), str(artefact)]
    done = subprocess.run(
        [*command, "--batches", "1", "4"],
        input="\n".join(lines), capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    ready, *answers, invalid, empty, stats = map(json.loads, done.stdout.splitlines())
    num_programs = 2 * len(server.lengths_up_to(backbone.preprocess.max_tokens))
    assert ready["ready"]["programs"] == len(stats["programs"]) == num_programs
    assert stats["compilations"] == num_programs
    assert "expected a line of JSON" in invalid["error"]
    assert "at least one text" in empty["error"]
    for request, found in zip(requests, answers, strict=True):
        ids, mask = backbone.preprocess(request["texts"])
        tokens = backbone(ids, mask)
        expected = head.predict(tokens.states, tokens.mask)
        assert found["tokens"] == mask.sum(axis=1).tolist()
        np.testing.assert_allclose(found["outputs"], expected, rtol=1e-4, atol=1e-4)
        assert found["labels"] == [
            ("bad", "good")[row.argmax()] for row in np.asarray(found["outputs"])
        ]


def saved_head(out, width):
    """A trained head and where it lies."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(60, 3, width)).astype(np.float32)
    splits = {"train": np.arange(40), "validation": np.arange(40, 50), "test": np.arange(50, 60)}
    task = training.Classification(2)
    [row] = training.sweep_states(
        states,
        None,
        np.arange(60) % 2,
        task,
        splits=splits,
        poolers=["avg"],
        seeds=1,
        epochs=1,
        out=out,
    )
    directory = training.head_directory(out, row)
    return directory, training.load_head(directory)


@pytest.mark.slow
def test_a_head_is_served_without_compiling_per_length(server, examples, tmp_path, bert):
    check_served(server, examples, tmp_path, backbones.load(bert), range(1, 30))


@pytest.mark.slow
def test_real_weights_are_served(server, examples, tmp_path):
    minilm = backbones.load(real_weights("minilm"))
    minilm = minilm.replace(preprocess=minilm.preprocess.cut_to(64))
    check_served(server, examples, tmp_path, minilm, [1, 5, 14, 40, 300])


@pytest.mark.slow
def test_latency_is_measured(examples, tmp_path, bert):
    directory, _ = saved_head(tmp_path / "sweep", 8)
    command = [sys.executable, examples / "serve.py", directory, "--backbone", bert, "--repeats", "3"]
    (tmp_path / "a.csv").write_text("text,label\n" + "of,bad\nis,good\n" * 9)
    sizes = ["--words", "2", "40", "--batch", "4", "--out", tmp_path / "served", "--data", "a.csv"]
    done = subprocess.run(
        [*map(str, [*command, *sizes])], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "2 programs compiled in" in done.stdout
    assert "before the first request, 2 in all" in done.stdout
    answer = json.loads(done.stdout.split("Its answer: ")[1])
    assert answer["labels"][0] in ("bad", "good")
    [record] = map(json.loads, (tmp_path / "served" / "serve.jsonl").read_text().splitlines())
    assert [(row["words"], row["batch"]) for row in record["latency"]] == [
        (2, 1),
        (40, 1),
        (2, 4),
        (40, 4),
    ]
    assert all(0 < row["median_ms"] <= row["p95_ms"] for row in record["latency"])

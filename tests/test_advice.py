"""Advice: the right pooler where it is known by construction, and none named where nothing differs."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest

from poolax import backbones, cli, data, reporting, statistics, training
from poolax.pooling import AveragePool, EfficientProbingPool, FirstPool
from poolax.records import Predictions, packed
from poolax.training import Classification, Converged
from poolax.training._advice import evidence
from poolax.training._advice.choice import Price, choose
from poolax.training._advice.clock import Clock
from poolax.training._advice.heads import LENGTHS, Trained, train_in_rounds
from poolax.training._advice.reasons import reasons_of_scores
from poolax.training._advice.runs import runs_of
from poolax.training._engine.heads import Head

NUM, TOKENS, WIDTH = 700, 10, 12
SPLITS = dict(zip(("train", "validation", "test"), np.split(np.arange(NUM), [300, 450]), strict=True))


def instance(kind, seed):
    """Token states whose labels stand where the kind says."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, NUM)
    states = rng.normal(size=(NUM, TOKENS, WIDTH))
    sign, rows = np.where(labels == 1, 1.0, -1.0)[:, None], np.arange(NUM)
    direction, marker = np.linalg.qr(rng.normal(size=(WIDTH, 2)))[0].T
    place = rng.integers(0, TOKENS, NUM)
    if kind == "last":
        states[:, -1] += 2.0 * sign * direction
    elif kind == "mean":
        states += 0.5 * sign[..., None] * direction
    elif kind == "extreme":  # the largest value of one entry or of another, at any place
        states[rows, place, 1 - labels] += 6.0
    elif kind == "marker":  # a token with a marker says it, the others say anything
        others = 2.0 * rng.choice([-1.0, 1.0], (NUM, TOKENS))
        others[rows, place] = 0
        states += others[..., None] * direction
        states[rows, place] += 6.0 * marker + 2.5 * sign * direction
    elif kind == "order":
        half = np.where(np.arange(TOKENS) < TOKENS // 2, 1.0, -1.0)
        states += 0.8 * (sign * half)[..., None] * direction
    elif kind == "second":
        states *= np.where(labels == 1, 1.5, 1.0)[:, None, None]
    return states.astype(np.float32), labels.astype(np.int32)


# Poolers that can tell the classes apart as well as any that are tried.
RIGHT = {
    "last": {"last", "wavg"},
    "mean": {"avg", "sum"},
    "extreme": {"max", "attn", "map"},
    "marker": {"attn", "map"},
    "order": {"wavg"},
    "second": {"max", "attn"},
}


@pytest.mark.parametrize(
    ("kind", "right"), [("last", {"last"}), ("mean", {"avg"}), ("extreme", {"max"})]
)
def test_a_right_pooler_is_recommended(kind, right):
    states, labels = instance(kind, 0)
    advice = training.advise_states(
        states, None, labels, Classification(2), splits=SPLITS, poolers=("avg", "last", "max", "sum")
    )
    assert advice.recommended in right
    assert advice.best in right | {"sum"}
    # As many tokens in each example: average and sum are one, and stand in no other's way.
    assert advice.decided
    assert {name for name, found in advice.comparisons.items() if found.adjusted > 0.05} <= {
        "avg",
        "sum",
    }
    assert advice.runner_up is not None
    assert advice.sentence.endswith("which scores alike.") == (len(advice.equals) > 1)
    assert advice.head.predict(states[:3]).shape == (3, 2)
    assert advice.directory is None


def test_where_nothing_differs_the_cheapest_is_taken():
    states, labels = instance("null", 1)
    advice = training.advise_states(
        states, None, labels, Classification(2), splits=SPLITS, poolers=("last", "max", "avg", "sum")
    )
    assert not advice.decided
    # None has parameters; the average moves least.
    assert advice.recommended == "avg"
    assert "no difference is beyond noise" in advice.sentence


def test_without_splits_a_fifth_is_the_test_and_the_rest_is_crossed(tmp_path):
    states, labels = instance("last", 2)
    advice = training.advise_states(
        states[:200], None, labels[:200], Classification(2), poolers=("avg", "last"), out=tmp_path
    )
    assert advice.recommended == "last"
    assert "cross-validation over 5 parts of 160 examples" in advice.reasons[0]
    assert advice.test["last"].num_examples == 40
    assert advice.test["last"].num_seeds == 5
    head = training.load_head(advice.directory)
    np.testing.assert_array_equal(head.predict(states[:5]), advice.head.predict(states[:5]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*RIGHT, "null"])
def test_all_poolers_on_states_of_known_answers(kind):
    states, labels = instance(kind, 10)
    poolers = ("avg", "last", "max", "sum", "wavg", "attn", "map")
    advice = training.advise_states(
        states, None, labels, Classification(2), splits=SPLITS, poolers=poolers
    )
    if kind == "null":
        assert not advice.decided
    else:
        assert advice.recommended in RIGHT[kind], (advice.sentence, advice.validation)


def predictions(rights, seed=0, metric="accuracy"):
    value = float(np.mean(rights))
    return [Predictions({"score": np.asarray(rights, float)}, seed=seed, metric=metric, value=value)]


def test_the_choice_is_validations_and_the_verdict_the_tests():
    rng = np.random.default_rng(0)
    test = {
        "good": predictions(rng.random(500) < 0.9),
        "same": predictions(rng.random(500) < 0.89),
        "bad": predictions(rng.random(500) < 0.6),
    }
    prices = {"good": Price(10, 1.0), "same": Price(0, 5.0), "bad": Price(0, 0.1)}
    validation = {"good": 0.91, "same": 0.9, "bad": 0.95}
    # Validation was wrong: the best is what it says, and equals of it are cheaper or not there.
    found = choose(validation, statistics.resample(test), prices)
    assert found.best == "bad"
    assert found.sentence.endswith("good, same did better than bad beyond noise.")
    validation["bad"] = 0.5
    found = choose(validation, statistics.resample(test), prices)
    assert (found.best, found.recommended, found.runner_up) == ("good", "same", "good")
    assert found.equals == ("good", "same")
    assert not found.decided
    alone = choose({"good": 0.9}, statistics.resample({"good": test["good"]}), prices)
    assert (alone.recommended, alone.runner_up, alone.decided) == ("good", None, False)


def test_errors_are_better_the_smaller_they_are():
    rng = np.random.default_rng(0)
    scores = {"low": rng.random(300), "high": rng.random(300) + 0.5}
    test = {name: predictions(values, metric="mse") for name, values in scores.items()}
    prices = {"low": Price(5, 1.0), "high": Price(0, 1.0)}
    found = choose({"low": 0.5, "high": 1.0}, statistics.resample(test), prices)
    assert (found.recommended, found.decided) == ("low", True)


def test_that_training_had_not_come_to_its_end_is_said_of_those_alone():
    solved = {"learning_rate": None, "epochs": 12, "pooler": "avg", "diverged": False}
    trained = {**solved, "learning_rate": 1e-2, "pooler": "wavg"}
    rows = {"avg": [solved], "wavg": [trained]}
    [said] = evidence.reasons_of_heads(rows, ["wavg"])
    assert "training of wavg had not come to its end after 12 epochs" in said
    assert evidence.reasons_of_heads(rows, []) == []


def test_collapse_is_seen():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8))
    assert abs(evidence.mean_cosine(vectors)) < 0.2
    assert evidence.mean_cosine(vectors + 100) > 0.99


def test_the_command_line_leaves_table_figure_records_and_head(tmp_path, capsys):
    config = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    vit = backbones.ViT.init(config, jax.random.key(0), backbones.ImagePreprocess(scale=1 / 16))
    backbones.save(vit, tmp_path / "vit")
    out = tmp_path / "out"
    arguments = [
        "advise",
        str(tmp_path / "vit"),
        "digits",
        "--poolers",
        "avg",
        "last",
        "--out",
        str(out),
    ]
    assert cli.main([*arguments, "--num-examples", "150", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["recommended"] in ("avg", "last")
    for name in ("runner_up", "decided", "comparisons", "reasons", "cost"):
        assert name in record
    assert training.load_head(record["head"]).config["num_outputs"] == 10
    endings = ("jsonl", "md", "csv", "tex", "png", "pdf", "svg")
    assert {"records.jsonl", *(f"advice.{ending}" for ending in endings)} <= {
        path.name for path in out.iterdir()
    }
    assert "avg" in reporting.advice_table(record).markdown()


def test_noise_is_left_out_where_entries_that_hardly_vary_are_read_in_units_of_their_spread():
    states = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    states[..., 0] *= 1e-32
    tokens = evidence.Tokens.of(states, None, np.arange(6))
    params = {"output": {"kernel": np.zeros((4, 2)), "bias": np.zeros(2)}}

    def head(deviation):
        scaling = {"mean": np.zeros(4, np.float32), "deviation": np.float32(deviation)}
        variables = {"params": params, "scaling": scaling}
        return Head(AveragePool(), variables, {})

    heads = {"dead": head([1e-32, 1, 1, 1]), "sound": head([1, 1, 1, 1])}
    vectors = {name: evidence.pooled(one, tokens) for name, one in heads.items()}
    curves = evidence.curves(heads, tokens, vectors, seed=0)
    assert set(curves) == {"sound"}
    assert float(curves["sound"].mean[-1]) < 10
    [said] = evidence.reasons_of_noise(heads, tokens)
    assert said.startswith("how far noise moves the vectors of dead is not defined")
    assert evidence.reasons_of_noise({"sound": heads["sound"]}, tokens) == []


def test_a_backbone_of_another_kind_is_refused_before_anything_is_trained(tmp_path, capsys):
    config = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    backbones.save(backbones.ViT.init(config, jax.random.key(0)), tmp_path / "vit")
    file = tmp_path / "own.csv"
    file.write_text("text,label\n" + "a,x\nb,y\n" * 20)
    assert cli.main(["advise", str(tmp_path / "vit"), str(file)]) == 2
    assert "expected a backbone of modality language" in capsys.readouterr().err
    assert data.from_files(file).num_classes == 2


def test_what_does_not_fit_the_memory_is_left_out_and_said():
    config = backbones.ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
    vit = backbones.ViT.init(config, jax.random.key(0), backbones.ImagePreprocess(scale=1 / 16))
    digits = data.load("digits").subset(300)
    # Five tokens of eight numbers an example.
    limits = training.Limits(memory_budget=4 * 5 * 8 * 400)
    advice = training.advise(vit, digits, Classification(10), poolers=["avg"], limits=limits)
    assert any("read 400 of 900 examples" in reason for reason in advice.reasons)
    assert advice.test["avg"].num_examples == 133


def test_words_on_a_cheaper_pooler_are_those_of_the_difference():
    rng = np.random.default_rng(0)
    right = {"dear": rng.random(600) < 0.6, "cheap": rng.random(600) < 0.9}
    test = {name: predictions(values) for name, values in right.items()}
    prices = {"dear": Price(9, 1.0), "cheap": Price(0, 1.0)}
    validation = {"dear": 0.9, "cheap": 0.8}
    choice = choose(validation, statistics.resample(test), prices)
    scores = statistics.resample(test)
    intervals = {name: scores.interval(name) for name in test}
    row = {"metric": "accuracy", "higher_is_better": True}
    said = " ".join(reasons_of_scores(choice, intervals, validation, row, None))
    assert choice.recommended == "cheap"
    assert "better beyond noise, and it costs less" in said
    assert "none beyond noise" not in said


def test_of_few_folds_a_score_is_what_others_lack_there():
    rows = {
        "all": {0: {"validation": 0.9}, 1: {"validation": 0.5}},
        "few": {0: {"validation": 0.95}},
    }
    # The fold is the easier one: 0.05 more than the other pooler there is 0.75 over both.
    assert Trained(rows=rows, is_crossed=True).validation("few") == pytest.approx(0.75)
    assert Trained(rows=rows).validation("few") == pytest.approx(0.95)


def test_tokens_of_a_prompt_are_seen_by_the_first_pooler_alone():
    states = np.arange(12.0, dtype=np.float32).reshape(1, 6, 2)
    mask = np.array([[True, True, True, True, True, False]])
    tokens = evidence.Tokens.of(states, mask, np.arange(1), 2)
    variables = {"params": {"output": {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2)}}}
    heads = {pooler: Head(pooler, variables, {}) for pooler in (AveragePool(), FirstPool())}
    found = [evidence.pooled(head, tokens)[0].tolist() for head in heads.values()]
    assert found == [states[0, 2:5].mean(axis=0).tolist(), states[0, 0].tolist()]
    assert tokens.median_length == 5


def trainer(asked, gains=()):
    """Trains nothing: scores grow by a step for each length, as far as gains go."""

    def train(name, own, rate, length, should_stop):
        asked.append((name, list(own), length))
        rows = {}
        for run in own:
            score = 0.5 + sum(gains[: LENGTHS.index(length)])
            kept = {"validation": packed({"score": np.full(20, score)})}
            row = {"validation": score, "higher_is_better": True, "diverged": False, "pooler": name}
            row |= {
                "id": f"{name}{run}{length}",
                "seed": run,
                "metric": "accuracy",
                "predictions": kept,
            }
            row |= {"learning_rate": None if name == "avg" else 0.01}
            rows[run] = [{**row, "epochs": 10 * length, "epochs_trained": 10 * length}]
        return rows

    return train


def rounds(clock, asked, learned, gains=()):
    labels = np.arange(60) % 2
    runs = dataclasses.replace(runs_of(labels, None, 0), is_crossed=False, seeds=(0, 1))
    return train_in_rounds(
        trainer(asked, gains), ["avg"], learned, runs, clock=clock, say=lambda name: None
    )


def test_one_pooler_is_trained_however_little_time_there_is(tmp_path):
    asked = []
    identity = {"data": "some"}
    clock = Clock.of(0.0, 1.0, tmp_path, identity)
    trained = rounds(clock, asked, ["wavg", "attn"])
    assert (asked, list(trained.rows)) == ([("avg", [0], 1)], ["avg"])
    assert trained.left_out == ["wavg", "attn"]
    # With the same minutes it says the same again, whatever time there is; with more it does more.
    end = time.monotonic() + 1000
    again = rounds(Clock.of(end, 1.05, tmp_path, identity), asked, ["wavg", "attn"])
    assert again.left_out == ["wavg", "attn"]
    more = rounds(Clock.of(end, 2.0, tmp_path, identity), asked, ["wavg", "attn"])
    assert more.left_out == []
    other = rounds(Clock.of(end, 1.0, tmp_path, {"data": "other"}), asked, ["wavg", "attn"])
    assert other.left_out == []


@pytest.mark.parametrize(
    ("gains", "lengths", "ended"),
    [((0.0, 0.0), [1, 4], True), ((0.1, 0.0), [1, 4, 16], True), ((0.1, 0.1), [1, 4, 16], False)],
)
def test_heads_are_trained_longer_as_long_as_that_gains_something(gains, lengths, ended):
    asked = []
    trained = rounds(Clock(time.monotonic() + 1000), asked, ["wavg"], gains)
    assert [length for name, own, length in asked if name == "wavg" and 0 in own] == lengths
    # Other seeds are as long.
    assert asked[-1] == ("wavg", [1], lengths[-1])
    assert trained.has_ended("wavg") is ended
    assert trained.validation("wavg") == pytest.approx(0.5 + sum(gains))
    assert rounds(Clock(None), [], ["wavg"], gains).lengths == {"wavg": 4}


def test_longer_training_is_not_begun_where_it_would_not_end(monkeypatch):
    asked, now = [], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(name, *arguments):
        asked.append((name, arguments[2]))
        now[0] += 10.0 if name == "wavg" else 0.0
        return trainer([], (0.1, 0.1))(name, *arguments)

    labels = np.arange(60) % 2
    runs = dataclasses.replace(runs_of(labels, None, 0), is_crossed=False, seeds=(0,))
    # Two learning rates took 10 seconds: four times the steps of one take 20.
    trained = train_in_rounds(slow, ["avg"], ["wavg"], runs, clock=Clock(28.0), say=lambda name: None)
    assert asked == [("avg", 1), ("wavg", 1)]
    assert not trained.has_ended("wavg")
    trained = train_in_rounds(slow, ["avg"], ["wavg"], runs, clock=Clock(64.0), say=lambda name: None)
    assert asked[2:] == [("avg", 1), ("wavg", 1), ("wavg", 4)]


def test_a_learned_pooler_validates_no_worse_than_the_average():
    states, labels = instance("mean", 3)
    mask = np.arange(states.shape[1]) < np.random.default_rng(0).integers(2, 7, len(states))[:, None]
    poolers = ["avg", "wavg", EfficientProbingPool(num_queries=4), "abmil", "attn"]
    solver = Converged(learning_rates=[1.0], max_epochs=1, from_average=True)
    records = training.sweep_states(
        states[:300], mask[:300], labels[:300], Classification(2), poolers=poolers, solver=solver, seeds=1,
        splits=dict(zip(SPLITS, np.split(np.arange(300), [160, 230]), strict=True)),
    )  # fmt: skip
    average, *learned = [row["validation"] for row in records]
    # Whatever so large a rate has led to.
    assert min(learned) >= average - 1e-6
    assert any(row["best_epoch"] == -1 for row in list(records)[1:])

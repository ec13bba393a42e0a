"""What pretraining reads, and what its models have to beat."""

import collections
import itertools

import jax
import numpy as np
import pytest

from poolax import data
from poolax.backbones import GPT2Config, MomentConfig, ViTConfig
from poolax.data import Dataset, tokens, unlabelled
from poolax.data.series import Series, forecasting
from poolax.training.pretraining import (
    ArrayBatches,
    MaskedPatches,
    MaskedSeries,
    NextToken,
    Optimisation,
    TokenBatches,
    Trigram,
    bits_per_byte,
    interpolated,
    rule_losses,
)
from poolax.training.pretraining._steps import Stepper, of_evaluations

WORDS = ("fox", "goose", "ran", "slept", "and", "the")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty documents, tokenised."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 3 + n)) + f" {n}" for n in range(40)]
    out = tmp_path_factory.mktemp("tokens") / "out"
    tokens.write(texts, out, vocab_size=280, validation=0.2)
    return out


def evaluated(objective, params, evaluation, seed):
    """The loss that a run says of a model, without the steps before."""
    rows = len(next(iter(evaluation.batch(0).values())))
    made = Stepper(objective, Optimisation(), steps=1, rows=rows)
    number = evaluation.steps_per_epoch
    batches = made.split([evaluation.batch(step) for step in range(number)], number)
    loss, weight = of_evaluations(made.evaluate(made.put(made.init(params)), batches, 0, number, seed))
    return loss / weight


def bare(tmp_path, ids):
    path = tmp_path / "train.bin"
    np.asarray(ids, np.uint16).tofile(path)
    return path


def rows_of(batches, steps):
    """Rows that count, of some steps."""
    found = []
    for step in range(steps):
        batch = batches.batch(step)
        weight = batch.get("weight", np.ones(len(batch["ids"])))
        found += [row.tolist() for row, counts in zip(batch["ids"], weight, strict=True) if counts]
    return found


def test_each_token_is_predicted_once_an_epoch(tmp_path):
    batches = TokenBatches(bare(tmp_path, range(40)), block=4, batch_size=4)
    assert batches.steps_per_epoch == 3
    epochs = [rows_of(batches, 3), rows_of(batches, 6)[9:]]
    for epoch in epochs:
        assert sorted(epoch) == [list(range(start, start + 5)) for start in range(0, 36, 4)]
    assert epochs[0] != epochs[1]
    assert batches.predicted == slice(1, 37)
    sequential = TokenBatches(bare(tmp_path, range(41)), 4, 4, order="sequential")
    predicted = [token for row in rows_of(sequential, 3) for token in row[1:]]
    assert predicted == sequential.tokens[sequential.predicted].tolist() == list(range(1, 41))
    without = TokenBatches(bare(tmp_path, range(40)), 4, 4, order="sequential", overlap=0)
    read = [token for row in rows_of(without, without.steps_per_epoch) for token in row]
    assert read == list(range(40))


@pytest.mark.parametrize("order", ["shuffled", "random", "sequential"])
def test_a_batch_is_a_function_of_the_step(order, tmp_path):
    path = bare(tmp_path, range(100))
    one, other = (TokenBatches(path, 8, 3, order=order, seed=5) for _ in range(2))
    steps = [7, 2, 9, 0, 7]
    for step in range(10):
        one.batch(step)
    for step in steps:
        for (name, left), (_, right) in zip(
            one.batch(step).items(), other.batch(step).items(), strict=True
        ):
            np.testing.assert_array_equal(left, right, name)
    assert one.fingerprint == other.fingerprint
    different = TokenBatches(path, 8, 3, order=order, seed=6)
    assert different.fingerprint != one.fingerprint
    if order != "sequential":
        assert rows_of(different, 3) != rows_of(one, 3)


def test_random_crops_reach_both_ends(tmp_path):
    batches = TokenBatches(bare(tmp_path, range(10)), 4, 8, order="random")
    starts = {row[0] for row in rows_of(batches, 20)}
    assert starts == set(range(6))
    assert all(row == list(range(row[0], row[0] + 5)) for row in rows_of(batches, 20))


def test_rows_of_one_document_each(folder):
    found = TokenBatches(folder, 8, 4, order="sequential", documents=True)
    end, ids = found.tokens.end_of_text, found.tokens[:]
    predicted = []
    for step in range(found.steps_per_epoch):
        batch = found.batch(step)
        for row, mask, counts in zip(batch["ids"], batch["mask"], batch["weight"], strict=True):
            real = row[mask]
            assert mask[: len(real)].all()
            if counts:
                predicted += real[1:].tolist()
                # What ends a document stands at its end, and in front of the next one alone.
                assert not (real[1:-1] == end).any()
    assert predicted == ids[found.predicted].tolist()
    alone = TokenBatches(folder, 8, 4, order="sequential", documents=True, overlap=0)
    read = [
        token
        for step in range(alone.steps_per_epoch)
        for row, mask, counts in zip(
            *(alone.batch(step)[k] for k in ("ids", "mask", "weight")), strict=True
        )
        if counts
        for token in row[mask].tolist()
    ]
    assert read == ids.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 50}, "tokens: expected at least 51, got 40"),
        ({"documents": True}, "documents: expected tokens whose record"),
        ({"order": "sorted"}, "order: expected one of"),
        ({"documents": True, "order": "random"}, "order: expected 'shuffled' or 'sequential'"),
        ({"overlap": 2}, "overlap: expected 0 or 1, got 2"),
    ],
)
def test_batches_that_cannot_be_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        TokenBatches(bare(tmp_path, range(40)), **{"block": 4, "batch_size": 2, **options})


def kneser_ney(ids, vocab_size):
    """Interpolated Kneser–Ney with dictionaries, straight from the formula: P(c | a b) or P(c | b)."""
    trigrams = collections.Counter(zip(ids, ids[1:], ids[2:], strict=False))
    bigrams = collections.Counter((b, c) for _, b, c in trigrams)
    singles = collections.Counter(c for _, c in bigrams)
    counts = [collections.Counter({(c,): n for c, n in singles.items()}), bigrams, trigrams]

    def discounts(of):
        n1, n2, n3, n4 = (sum(n == k for n in of.values()) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2) if n1 else 0.5
        if 0 not in (n1, n2, n3, n4):
            three = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
            if all(0 < d <= k for k, d in enumerate(three, 1)):
                return three
        return (y, y, y)

    def probability(token, context):
        if context is None:
            return 1 / vocab_size
        of = counts[len(context)]
        shorter = probability(token, context[1:] if context else None)
        followers = {key[-1]: n for key, n in of.items() if key[:-1] == context}
        if not followers:
            return shorter
        d, total = discounts(of), sum(followers.values())
        cut = lambda n: d[min(n, 3) - 1]  # noqa: E731
        own = followers[token] - cut(followers[token]) if token in followers else 0
        return (own + sum(map(cut, followers.values())) * shorter) / total

    return probability


def test_the_trigram_is_kneser_neys():
    rng = np.random.default_rng(1)
    few = [0, 1, 0, 1, 0, 2]
    many = np.minimum(rng.geometric(0.3, 400) - 1, 7).tolist()
    for ids, vocab_size in ((few, 3), (many, 9)):
        model, expected = Trigram(np.array(ids), vocab_size), kneser_ney(ids, vocab_size)
        text = rng.integers(0, vocab_size, 40).tolist()
        found = np.exp(-model.losses(np.array(text)))
        assert found[0] == pytest.approx(expected(text[1], (text[0],)))
        for index in range(2, 40):
            context = tuple(text[index - 2 : index])
            assert found[index - 1] == pytest.approx(expected(text[index], context)), context
        for a, b in itertools.product(range(vocab_size), repeat=2):
            every = [np.exp(-model.losses(np.array([a, b, c])))[1] for c in range(vocab_size)]
            assert sum(every) == pytest.approx(1)
    # By hand: (2 - 1/2) / 3 and so on.
    assert np.exp(-Trigram(np.array(few), 3).losses(np.array([1, 0, 1]))[1]) == pytest.approx(5 / 12)


def test_long_texts_are_scored_in_parts(monkeypatch):
    from poolax.training.pretraining import _trigram

    ids = np.random.default_rng(2).integers(0, 5, 100)
    model = Trigram(ids, 5)
    whole = model.losses(ids)
    monkeypatch.setattr(_trigram, "_CHUNK", 7)
    np.testing.assert_array_equal(model.losses(ids), whole)
    assert whole.shape == (99,)
    with pytest.raises(ValueError, match="ids from 0 to 4, got 0 to 5"):
        model.losses(np.array([0, 5]))


def test_bits_a_byte_of_both_models_are_of_the_same_bytes(folder):
    """A model without a preference and a trigram model, on what an evaluation predicts."""
    vocabulary = tokens.load_tokenizer(folder).get_vocab_size()
    evaluation = TokenBatches(folder, 8, 4, order="sequential", split="validation")
    sizes = tokens.bytes_of_tokens(tokens.load_tokenizer(folder))
    predicted = evaluation.tokens[evaluation.predicted]
    text = tokens.load_tokenizer(folder).decode(predicted.tolist(), skip_special_tokens=True)
    found = bits_per_byte(np.log(vocabulary), predicted, sizes)
    assert found == pytest.approx(len(predicted) * np.log2(vocabulary) / len(text.encode()), rel=1e-6)
    trigram = Trigram(tokens.read(folder)[:], vocabulary)
    losses = trigram.losses(evaluation.tokens[: evaluation.predicted.stop])
    assert losses.shape == predicted.shape
    assert bits_per_byte(losses.mean(), predicted, sizes) < found / 2
    with pytest.raises(ValueError, match="tokens: expected some that stand for bytes"):
        bits_per_byte(1.0, predicted[:0], sizes)


def test_rules_of_series_have_the_error_of_the_objective():
    """Straight lines are filled in without error, but at ends, where the nearest step stands."""
    objective = MaskedSeries(
        MomentConfig(16, 4, 8, width=8, num_layers=1, num_heads=2, head_dim=4, mlp_dim=8)
    )
    ramps = np.arange(16, dtype=np.float32) * np.array([[1.0], [-3.0], [0.5]], np.float32)
    observed = np.ones(ramps.shape, bool)
    observed[2, :5] = False
    hidden = np.zeros(ramps.shape, bool)
    hidden[:, 8:12] = True
    filled = interpolated(np.where(hidden, 99, ramps), observed & ~hidden)
    assert np.abs(np.asarray(objective.errors(filled, ramps, observed, hidden))).max() < 1e-10
    last = np.zeros(ramps.shape, bool)
    last[:, 12:] = True
    filled = interpolated(ramps, observed & ~last)
    # Off by 1 to 4 steps, in units of the variance of what is observed.
    variance = [ramps[row][observed[row]].var() for row in range(3)]
    expected = 7.5 * np.array([1, 9, 0.25]) / variance
    found = objective.errors(filled, ramps, observed, last)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4)


def test_rules_hide_what_an_evaluation_hides():
    config = MomentConfig(32, 4, 8, width=8, num_layers=1, num_heads=2, head_dim=4, mlp_dim=8)
    objective = MaskedSeries(config)
    series = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    evaluation = ArrayBatches({"series": series}, 3, shuffle=False)
    params = objective.init(jax.random.key(0))
    # A model that says zero, in units of the steps that are seen, says their mean.
    params["head"] = jax.tree.map(np.zeros_like, params["head"])
    found = rule_losses(objective, evaluation, seed=3)
    assert evaluated(objective, params, evaluation, seed=3) == pytest.approx(found["mean"], rel=1e-4)
    assert rule_losses(objective, evaluation, seed=4)["mean"] != pytest.approx(found["mean"], rel=1e-3)


def test_rules_of_images():
    config = ViTConfig(8, 4, 2, width=8, num_layers=1, num_heads=2, mlp_dim=8, use_mask_token=True)
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 2)).astype(np.float32)
    flat = np.broadcast_to(images[:, :1, :1], images.shape).copy()
    evaluation = ArrayBatches({"images": flat}, 4, shuffle=False)
    found = rule_losses(MaskedPatches(config), evaluation, training_images=images)
    assert found["mean of the image"] == pytest.approx(0, abs=1e-10)
    same = np.broadcast_to(images[:1], images.shape)
    evaluation = ArrayBatches({"images": same}, 4, shuffle=False)
    found = rule_losses(MaskedPatches(config), evaluation, training_images=same)
    assert found["mean of training images"] == pytest.approx(0, abs=1e-10)
    assert found["mean of the image"] > 0.5
    with pytest.raises(ValueError, match="objective: expected MaskedSeries or MaskedPatches"):
        rule_losses(
            NextToken(GPT2Config(9, 8, width=8, num_layers=1, num_heads=2, mlp_dim=8)), evaluation
        )


def test_training_series_are_windows_of_one_length():
    rng = np.random.default_rng(0)
    long = Series("long", rng.normal(size=(60, 2)) + 50, ("a", "b"), (20, 40, 60), "none", "none")
    rows = np.arange(30, dtype=np.float32).reshape(5, 6)
    rows[1, :2] = np.nan
    splits = {"train": np.arange(3), "validation": np.array([3]), "test": np.array([4])}
    short = Dataset("short", rows, np.zeros(5), splits, "none", "none")
    series, observed = unlabelled.training_series([long, short], num_steps=8, patch_len=2)
    assert series.shape == (2 * 3 + 3, 8)
    assert series.dtype == np.float32
    # The last window of a channel ends where its training part does.
    part = long.values[12:20, 1]
    np.testing.assert_allclose(series[5], (part - part.mean()) / part.std(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(observed[6], [False] * 2 + [True] * 6)
    np.testing.assert_array_equal(observed[7], [False] * 4 + [True] * 4)
    assert not series[~observed].any()
    for row, mask in zip(series, observed, strict=True):
        np.testing.assert_allclose([row[mask].mean(), row[mask].std()], [0, 1], atol=1e-5)
    constant = np.full((1, 8), 1e6)
    constant = Dataset("constant", constant, np.zeros(1), {"train": np.array([0])}, "none", "none")
    assert not unlabelled.training_series([constant], num_steps=8, patch_len=2)[0].any()
    with pytest.raises(ValueError, match="whose windows overlap"):
        unlabelled.training_series([forecasting(long, context=4, horizon=2)], num_steps=8, patch_len=2)
    with pytest.raises(ValueError, match="expected series of 8 observed steps in a patch, got none"):
        unlabelled.training_series([short], num_steps=8, patch_len=8)


def test_training_texts_are_in_no_other_split():
    inputs = np.array(
        [["c", "w", "x"], ["c", "y", "z"], ["d", "w", "v"], ["e", "u", "u"]], dtype=object
    )
    splits = {"train": np.array([0, 1, 2]), "test": np.array([3])}
    pairs = Dataset("pairs", inputs, np.zeros(4), splits, "none", "none")
    assert unlabelled.training_texts(pairs) == ["c", "w", "x", "y", "z", "d", "v"]
    endings = Dataset("endings", inputs, np.zeros(4), splits, "none", "none", num_classes=2)
    assert unlabelled.training_texts(endings) == ["c", "d"]
    with pytest.raises(ValueError, match="expected one of texts, got 'digits'"):
        unlabelled.training_texts(data.digits())
    with pytest.raises(ValueError, match="expected images"):
        unlabelled.training_images(pairs)

"""Learning rates of heads that are trained to the end: chosen on the first seed, taken by the others."""

import numpy as np
import pytest

from poolax import reporting
from poolax.training import Classification, Converged, Limits, PreemptedError, sweep_states
from poolax.training._sweep.rates import all_rates, search

NUM, TOKENS, WIDTH, CLASSES = 200, 4, 6, 3
SPLITS = dict(zip(("train", "validation", "test"), np.split(np.arange(NUM), [100, 150]), strict=True))


def _searched(rates, score, *, higher_is_better=True):
    scores = {}
    while True:
        found = search(rates, scores, higher_is_better=higher_is_better)
        if found.chosen is not None:
            return found
        assert set(found.next).isdisjoint(scores)
        scores |= {rate: score(rate) for rate in found.next}


def test_the_search_goes_beyond_an_edge_and_ends():
    inside = _searched((1e-3, 1e-2, 1e-1), lambda rate: -abs(np.log10(rate) + 2))
    assert (inside.chosen, inside.tried, inside.at_edge) == (1e-2, (1e-3, 1e-2, 1e-1), False)
    above = _searched((1e-3, 1e-2), lambda rate: abs(np.log10(rate) + 1.5), higher_is_better=False)
    assert (above.chosen, above.tried, above.at_edge) == (0.0316, (1e-3, 1e-2, 0.0316, 0.1), False)
    # Up to a limit, at which it says so.
    for score in (lambda rate: rate, lambda rate: -rate):
        endless = _searched((1e-3, 1e-2), score)
        assert endless.at_edge
        assert endless.chosen in (0.1, 1e-4)
        assert len(endless.tried) == 4
    assert _searched((0.5,), lambda rate: rate)[:4] == ((0.5,), (0.5,), (), 0.5)
    assert max(all_rates((0.3, 0.9))) <= 1
    # Where no others are asked for, the edge is as far as it goes.
    scores = {1e-3: 0.1, 1e-2: 0.2}
    found = search(tuple(scores), scores, higher_is_better=True, further=0)
    assert (found.chosen, found.next, all_rates(tuple(scores), 0)) == (1e-2, (), tuple(scores))


def test_rates_that_diverge_are_not_taken():
    found = _searched((1e-3, 1e-2), lambda rate: float("nan") if rate > 1e-3 else 0.1)
    assert found.chosen == 1e-3
    nothing = _searched((1e-3, 1e-2), lambda rate: float("nan"))
    assert nothing.chosen in nothing.tried


@pytest.fixture(scope="module")
def states():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, NUM)
    directions = np.eye(CLASSES, WIDTH)[labels] * np.arange(1, TOKENS + 1)[:, None, None]
    noise = rng.normal(size=(NUM, TOKENS, WIDTH)) * 2
    return (noise + directions.swapaxes(0, 1)).astype(np.float32), labels


def _sweep(states, out=None, *, should_stop=None):
    return sweep_states(
        states[0], None, states[1], Classification(CLASSES),
        splits=SPLITS, poolers=["wavg"], seeds=3, out=out,
        solver=Converged(learning_rates=[1e-4, 1e-3], max_epochs=6, patience=6),
        limits=Limits(
            checkpoint_every=0.0, **({} if should_stop is None else {"should_stop": should_stop})
        ),
    )  # fmt: skip


def _told(records):
    return [
        {k: v for k, v in row.items() if k not in ("wall_s", "heads_trained_together")}
        for row in records
    ]


def test_the_first_seed_chooses_for_all(states, tmp_path):
    records = _sweep(states, tmp_path)
    by_rate = {}
    for row in records:
        by_rate.setdefault(row["learning_rate"], []).append(row)
    # Too small ones were asked for: the search has gone on.
    assert max(by_rate) > 1e-3
    [(chosen, rows)] = [item for item in by_rate.items() if len(item[1]) > 1]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    best = max((row for row in records if row["seed"] == 0), key=lambda row: row["validation"])
    assert best["learning_rate"] == chosen
    for row in rows:
        assert row["learning_rates_tried"] == sorted(by_rate)
        assert row["chosen_by"] == "validation of the first seed"
        assert row["scores_tried"] == [by_rate[rate][0]["validation"] for rate in sorted(by_rate)]
    mean = np.mean([row["test"] for row in rows])
    assert f"{100 * mean:.2f}" in reporting.score_table(records).markdown()
    # An equal sweep finds all of them, and trains nothing.
    assert list(_sweep(states, tmp_path)) == list(records)


def test_a_search_that_is_stopped_goes_on(states, tmp_path):
    whole = _sweep(states)
    stops, tries = iter(([False] * 5 + [True]) * 4), 0
    while True:
        try:
            records = _sweep(states, tmp_path, should_stop=lambda: next(stops, False))
            break
        except PreemptedError:
            tries += 1
    assert tries >= 3
    assert _told(records) == _told(whole)


def _by_adam(states, out, **options):
    return sweep_states(
        states[0], None, states[1], Classification(CLASSES), splits=SPLITS, poolers=["avg"], seeds=2,
        epochs=2, learning_rates=(1e-4, 1e-3), out=out, **options,
    )  # fmt: skip


def test_adam_goes_beyond_an_edge_too_and_takes_over_what_was_recorded(states, tmp_path):
    alone = _by_adam(states, tmp_path)
    assert not any("at_edge" in row for row in alone)
    found = _by_adam(states, tmp_path, further_rates=2)
    assert _told(row for row in found if row["learning_rate"] == 1e-4) == _told(
        row for row in alone if row["learning_rate"] == 1e-4
    )
    assert {row["id"] for row in alone} < {row["id"] for row in found}
    # So few steps are never enough: the greatest is the best, up to where the search ends.
    means = {}
    for row in found:
        means.setdefault(row["learning_rate"], []).append(row["validation"])
    assert {len(scores) for scores in means.values()} == {2}
    assert sorted(means) == [1e-4, 1e-3, 0.00316, 0.01]
    chosen = [row for row in found if "at_edge" in row]
    assert [(row["learning_rate"], row["seed"]) for row in chosen] == [(0.01, 0), (0.01, 1)]
    for row in chosen:
        assert row["at_edge"]
        assert row["chosen_by"] == "mean validation score over seeds"
        assert row["learning_rates_tried"] == sorted(means)
        assert row["scores_tried"] == pytest.approx([np.mean(means[rate]) for rate in sorted(means)])
    [summary] = reporting.summarize_scores(found)
    assert summary["learning_rate"] == 0.01
    # Finished: nothing is trained again.
    assert list(_by_adam(states, tmp_path, further_rates=2)) == list(found)
    with pytest.raises(ValueError, match="further_rates: expected 0 beside a solver"):
        _by_adam(states, None, further_rates=1, solver="converged")

"""What is said of heads beside their scores."""

import numpy as np
import pytest
from heads import toy

from poolax.records import FEWEST_VALIDATION, warnings_of
from poolax.training import Classification, Converged, sweep_states

SOUND = {"diverged": False, "learning_rate": 0.01, "num_examples": {"validation": 200}}


def codes(*args):
    return [warning.code for warning in warnings_of(*args)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"diverged": True}, [("diverged", "diverged")]),
        ({"converged": False}, [("not_converged", "still improved when training ended")]),
        (
            {"converged": False, "gradient": 0.1},
            [("not_converged", "solving ended with a gradient above the tolerance")],
        ),
        ({"is_constant": True}, [("is_constant", "predicts the same for all test examples")]),
        (
            {"at_edge": True, "strength": 1e-9, "learning_rate": None},
            [("at_edge", "the penalty 1e-09 lies at the edge of those that were tried")],
        ),
        (
            {"at_edge": True, "learning_rates_tried": [0.001, 0.01]},
            [("at_edge", "the learning rate 0.01 lies at the edge of those that were tried")],
        ),
        (
            {"chosen_by": "cross-validation"},
            [
                (
                    "few_validation",
                    "fewer than 50 validation examples: cross-validation of training and validation chose",
                )
            ],
        ),
        ({"num_examples": {"validation": 49}}, []),  # where nothing was chosen
    ],
)
def test_each_warning_and_no_other(change, expected):
    assert warnings_of([SOUND | change]) == expected
    # Heads that diverged have no other faults.
    assert codes([SOUND | change | {"diverged": True}])[:1] == ["diverged"]


def test_warnings_count_the_heads_of_a_pooler():
    rows = [SOUND, SOUND | {"converged": False}, SOUND | {"diverged": True, "is_constant": True}]
    assert [str(warning) for warning in warnings_of(rows)] == [
        "diverged (1 of 3 heads)",
        "still improved when training ended (1 of 3 heads)",
    ]
    with pytest.raises(ValueError, match="chosen: expected at least one record, got none"):
        warnings_of([])


def test_learning_rates_are_compared_with_those_that_were_tried():
    tried = [SOUND | {"learning_rate": rate} for rate in (0.001, 0.01, 0.1)]
    assert codes([SOUND], tried) == []
    assert codes(tried[2:], tried) == ["at_edge"]
    # Of two each is an edge, which says nothing.
    assert codes(tried[:1], tried[:2]) == codes(tried[1:2], tried[:2]) == []
    few = {"num_examples": {"validation": FEWEST_VALIDATION - 1}}
    assert codes([SOUND | few], [row | few for row in tried]) == ["few_validation"]
    assert "49 validation examples chose" in str(warnings_of([SOUND | few], tried)[0])


def test_a_sweep_whose_states_say_nothing_is_warned_of():
    states, mask, targets, splits = toy(60)
    labels = (targets > 0).astype(int)
    [row] = sweep_states(
        np.zeros_like(states), mask, labels, Classification(2), splits=splits, poolers=["avg"],
        solver=Converged(strengths=(1e4,)),
    )  # fmt: skip
    assert set(codes([row])) >= {"is_constant", "few_validation"}

"""What was found, in sentences that are made of records and verdicts."""

import importlib

import pytest

from poolax.reporting import Table


@pytest.fixture
def findings(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module("findings")


def summary(pooler, mean, protocol, chosen=False, **fields):
    row = {"pooler": pooler, "mean": mean, "protocol": protocol, "chosen": chosen, "variant": ""}
    about = {"backbone": "net", "dataset": "digits", "task": "classification", "metric": "accuracy"}
    return row | about | fields


def verdict(name, backbone, solver, told, p_for=0.5, **fields):
    one = {"label": "last", "other": "avg", "relation": "better", "margin": 0.0, "gain": -0.1}
    one |= {"dataset": "digits", "task": "classification", "metric": "accuracy", "paper": None}
    one |= {"low": -0.2, "high": -0.05, "p_for": 1.0, "p_against": 0.001, "num_examples": 9}
    row = {"claim": name, "text": "So it is.", "source": "paper", "backbone": backbone}
    row |= {"pretrained": "by heart", "solver": solver, "verdict": told, "missing": "", "level": 0.05}
    row |= {"p_for": p_for, "adjusted": 0.01, "comparisons": [one | {"num_seeds": 2}], "paper": None}
    return row | {"draws": 10, "num_tested": 3} | fields


def test_sentences_are_those_of_the_records(findings):
    rows = [
        summary("avg", 0.7, "Adam", chosen=True, variant="solver adam"),
        summary("sum", 0.5, "Adam", variant="solver adam"),
        summary("avg", 0.75, "converged", variant="solver converged"),
        summary("sum", 0.75, "converged", chosen=True, variant="solver converged"),
    ]
    told = findings.sentences(
        [Table("scores", [], [], [], rows)],
        [
            verdict("5a", "net", "adam", "undecided"),
            verdict("4a", "net", "adam", "contradicted"),
            verdict("4a", "net", "converged", "undecided"),
            verdict("6", "net", "adam", "not testable", p_for=None),
        ],
        "Many were attempted.",
    )
    assert told[0].endswith("by protocol: Adam: avg 1 (of 1); converged: sum 1 (of 1).")
    assert told[1].endswith("over up to 1 classifications: sum +25.00, avg +5.00.")
    assert told[2] == (
        "**So it is** (claim of the paper, 4a): contradicted with net (Adam); undecided with net "
        "(converged). Most clearly with net: last > avg, digits classification, -10.00 [-20.00, -5.00]."
    )
    # What is decided nowhere stands behind, and what is not tested nowhere.
    assert told[3] == "**So it is** (claim of the paper, 5a): undecided with net."
    assert told[4:] == ["Many were attempted."]


def test_there_are_ten_at_most_and_none_of_nothing(findings):
    assert findings.sentences([], []) == []
    many = [verdict(name, "net", "adam", "contradicted") for name in findings.CLAIMS]
    rows = [summary("avg", 0.7, "Adam", chosen=True), summary("avg", 0.8, "converged")]
    told = findings.sentences([Table("scores", [], [], [], rows)], many, "Many.")
    assert len(told) == findings.MOST
    assert told[-1] == "Many."

"""Bounds of the literature that are computed for the theory's page."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def literature(pytestconfig, monkeypatch):
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
    return importlib.import_module("literature_table")


def test_the_form_at_an_input_is_a_bound(literature):
    rng = np.random.default_rng(0)
    for scale in (0.1, 0.5, 1.0):
        x, query, key = scale * rng.normal(size=(3, 5, 5))

        def head(flat, query=query, key=key):
            z = flat.reshape(5, 5)
            logits = z @ query @ key.T @ z.T / 5**0.5
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            return (weights @ z / weights.sum(axis=-1, keepdims=True)).ravel()

        steps = 1e-6 * np.eye(25)
        jacobian = [(head(x.ravel() + step) - head(x.ravel() - step)) / 2e-6 for step in steps]
        assert np.linalg.norm(jacobian, 2) <= literature.input_form(x, query, key) * (1 + 1e-4)
    # Without logits all that is left is the mean.
    assert literature.input_form(np.zeros((4, 5)), query, key) == pytest.approx(1)


def test_one_change_of_a_token_costs_no_less_than_a_box(literature):
    weights, values = np.array([1.0, 2.0]), np.array([3.0, 1.0])
    a, f = np.array([1.0, 0.0]), np.array([-1.0, 0.5])
    for radius in (0.0, 0.3, 1.0):
        box, one = (
            literature.least_of_box(weights, values, a, f, radius),
            literature.least_of_one(weights, values, a, f, radius),
        )
        assert box <= one + 1e-12
        changes = radius * np.stack([np.cos(t := np.linspace(0, 6.3, 200)), np.sin(t)], axis=-1)
        terms = np.exp(changes @ a) * (values[:, None] + changes @ f)
        assert one <= weights @ terms.min(axis=1) + 1e-3

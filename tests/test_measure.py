"""What is measured beside its bounds, and what earlier programs have recorded of it."""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_tokens

from poolax import attention, bounds, measure
from poolax.attention import MultiHeadAttention
from poolax.measure._search import _projection
from poolax.quickstart._sensitivity import _KINDS, block_identity
from poolax.quickstart._settings import POOLERS, Settings
from poolax.records import Domain, Journal, Records
from poolax.reporting import sensitivity_table

GOLDEN = pathlib.Path(__file__).parent / "golden" / "measure"


def test_records_of_earlier_quickstarts_give_the_same_table():
    records = Records.read(GOLDEN / "records.jsonl")
    table = sensitivity_table(records, title="Sensitivity")
    assert table.markdown() == (GOLDEN / "sensitivity.md").read_text()
    assert [attention.from_config(row["configuration"]) for row in records[::6]] == list(_KINDS)


def test_records_of_earlier_quickstarts_are_found_again(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes((GOLDEN / "records.jsonl").read_bytes())
    identity = {"backbone": "0123456789abcdef", **Settings(epochs=30).sizes()}
    journal = Journal(path, identity=identity, made_with=lambda: {"command": "poolax quickstart"})

    def never():
        raise AssertionError("measured again")

    rows = []
    for kind, pooler in itertools.product(_KINDS, POOLERS):
        what, former = block_identity(kind, pooler)
        rows.append(journal.measured(what, never, formerly=former))
        assert rows[-1]["attention"] == attention.to_config(kind)["name"]
    assert rows == list(Records.read(path))
    assert path.read_bytes() == (GOLDEN / "records.jsonl").read_bytes()
    # Another seed is another measurement.
    other = Journal(path, identity=identity | {"seed": 1})
    with pytest.raises(AssertionError, match="measured again"):
        other.measured(what, never, formerly=former)


def test_a_text_that_is_no_kind_of_attention_is_damage(tmp_path):
    path = tmp_path / "records.jsonl"
    row = next(iter(Records.read(GOLDEN / "records.jsonl")))
    Records([row | {"configuration": {}}]).write_to(path)
    assert Records.read(path)[0]["configuration"] == {}
    line = path.read_text().replace('"configuration": {}', '"configuration": "print(1)"')
    line = line[: line.rindex(', "digest"')] + "}"
    path.write_text(line)
    with pytest.raises(ValueError, match=r"line 1: configuration: expected a kind of attention"):
        Records.read(path)


def test_constants_as_records_hold_them():
    constants = {
        "published": None, "sharp": measure.Constant(800.0), "tight": measure.Constant(-np.inf, 0.0),
        "local": measure.Constant(np.log(2.0), 2.0),
    }  # fmt: skip
    row = measure.constant_fields(constants)
    assert row["published"] is row["log10_published"] is row["sharp"] is row["log10_tight"] is None
    assert (row["tight"], row["local"]) == (0.0, 2.0)
    logs = [measure.log10_of(row, name) for name in constants]
    np.testing.assert_allclose(logs, [np.inf, 800 / np.log(10), -np.inf, np.log10(2)])


@pytest.mark.parametrize(
    ("measured", "known", "message"),
    [
        (2.0, {"local": 1.5}, r"measured <= local does not hold for W: 2\.0 and 1\.5"),
        ([1.0, 2.0], {"local": [1.5, 1.5]}, "measured <= local"),
        (1.0, {"tight": 3.0, "sharp": 2.0}, "tight <= sharp does not hold for W"),
        (1.0, {"sharp": 3.0, "published": 2.0, "tight": None}, "sharp <= published"),
        (np.nan, {"sharp": 3.0}, "expected finite constants for W, got measured nan"),
        (1.0, {"sharp": np.inf}, "expected finite constants for W, got sharp inf"),
    ],
)
def test_what_is_not_in_order_is_refused(measured, known, message):
    with pytest.raises(RuntimeError, match=message):
        measure.check_order(measured, known, what="W")


def test_rounding_may_exceed_a_bound_a_little():
    measure.check_order(1.00005, {"local": 1.0}, what="W")
    with pytest.raises(RuntimeError, match="measured <= local"):
        measure.check_order(1.00005, {"local": 1.0}, what="W", rounding=0)


def test_an_attention_layer_with_a_mask_and_biases():
    """Measured, local, tight and sharp of the same layer are in order."""
    kind = attention.L2()
    layer = MultiHeadAttention(2, kind, use_bias=True)
    x, mask = random_tokens(jax.random.key(0), 4, 8, 1.0), jnp.arange(4) < 3
    params = layer.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def of_layer(x):
        at = measure.layer_at(kind, params, x, mask, key=jax.random.key(2))
        known = measure.layer_bounds(kind, params, jnp.sum(mask), bounds.domain_of(x, mask))
        return at, {name: bound and bound.sequence for name, bound in known.items()}

    at, known = of_layer(x)
    assert known["published"] is None
    assert known["published_without_biases"] > 0
    on_domain = {name: known[name] for name in ("sharp", "tight")}
    measure.check_order(at.measured, {"local": at.local, **on_domain}, what="layer")


def test_a_search_stays_on_its_domain():
    x = random_tokens(jax.random.key(0), 3, 4, 1.0)
    for domain in (Domain(0.5, 0.5), Domain(1.0, 0.1)):
        reached = bounds.domain_of(_projection(domain, None)(x))
        assert reached.radius <= domain.radius * (1 + 1e-5)
        assert reached.spread <= domain.spread * (1 + 1e-5)
    # What is masked is no part of it.
    far, mask = x.at[0].set(100.0), jnp.array([False, True, True])
    np.testing.assert_array_equal(_projection(Domain(5.0, 5.0), mask)(far)[1:], x[1:])

"""The forward benchmark: its matrix products are those of every family, its parts add up."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax.backbones import Decoder, DecoderConfig, ViT, ViTConfig


@pytest.fixture(scope="module")
def benchmarks(pytestconfig):
    """Imports modules of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(scope="module")
def decoder():
    config = DecoderConfig(
        50, width=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=40
    )
    return Decoder.init(config, jax.random.key(0))


def states_of(backbone):
    return jax.jit(lambda params, inputs: backbone.apply(params, inputs).states)


def test_products_of_gated_layers_and_shared_heads(benchmarks, decoder):
    """Counted by hand, whether blocks are stacked or not."""
    products = benchmarks("products")
    ids = jnp.zeros((5, 7), int)
    tokens, width, heads, kv_heads, head, mlp = 35, 24, 4, 2, 8, 40
    projections = width * head * (2 * heads + 2 * kv_heads)
    attention = 2 * 7 * heads * head
    expected = 2 * 3 * tokens * (projections + attention + 3 * width * mlp)
    for model in (decoder, decoder.stack_layers()):
        counts = products.products_of(states_of(model), model.params, ids)
        assert products.flops_of(counts) == expected
        assert counts[products.Product(1, tokens, width, mlp)] == 6
        assert counts[products.Product(10, 14, head, 7)] == 3


def test_products_of_patches(benchmarks):
    products = benchmarks("products")
    config = ViTConfig(8, 4, 3, width=16, num_layers=2, num_heads=2, mlp_dim=32)
    vit = ViT.init(config, jax.random.key(0))
    counts = products.products_of(states_of(vit), vit.params, jnp.zeros((6, 8, 8, 3)))
    assert counts[products.Product(1, 24, 48, 16)] == 1
    block = 4 * 16**2 + 2 * 16 * 32 + 2 * 5 * 16
    assert products.flops_of(counts) == 2 * 24 * 48 * 16 + 2 * 2 * 30 * block
    for run in (products.in_jax, products.in_torch):
        if run is products.in_torch:
            pytest.importorskip("torch")
        run(counts)()


def test_what_cannot_be_counted_is_refused(benchmarks):
    products = benchmarks("products")
    with pytest.raises(ValueError, match=r"fn: .* can be counted, got while"):
        products.products_of(lambda x: jax.lax.while_loop(lambda y: y < 1, jnp.sin, x), 1.0)
    kernel = jnp.ones((1, 1, 3))
    with pytest.raises(ValueError, match="got conv_general_dilated"):
        products.products_of(lambda x: jax.lax.conv(x, kernel, (1,), "SAME"), jnp.ones((1, 1, 8)))


def test_time_of_operations_side_by_side_is_shared_out(benchmarks):
    shared_out = benchmarks("parts").shared_out
    events = [(0, 10e9, "a"), (4e9, 6e9, "b"), (4e9, 6e9, "b"), (20e9, 21e9, "a")]
    assert shared_out(events) == pytest.approx({"a": 9 + 2 / 3, "b": 4 / 3})


def test_parts_have_all_products_and_add_up(benchmarks, decoder):
    parts, products = benchmarks("parts"), benchmarks("products")
    forward, arguments = states_of(decoder), (decoder.params, jnp.zeros((5, 7), int))
    rows = parts.of_program(forward, arguments, 1e9, 2)
    assert sum(row["percent"] for row in rows) == pytest.approx(100)
    flops = sum(row["percent_of_matrix_rate"] * row["seconds"] for row in rows) * 1e7
    assert flops == pytest.approx(products.flops_of(products.products_of(forward, *arguments)))
    by_name = {row["part"]: row for row in rows}
    assert by_name["feed-forward products"]["percent_of_matrix_rate"] > 0
    assert by_name["norms"]["percent_of_matrix_rate"] == 0


def test_ratios_are_those_of_rounds(benchmarks):
    timing = benchmarks("timing")
    seconds = {"one": [1.0, 4.0, 100.0], "other": [2.0, 2.0, 100.0]}
    assert timing.paired_ratio(seconds, "one", "other") == 1.0
    assert timing.medians(seconds) == {"one": 4.0, "other": 2.0}
    found = timing.samples({"one": lambda: None, "other": lambda: None}, 3, 0.0)
    assert [np.size(found[name]) for name in found] == [3, 3]


def test_tables_are_made_of_records(benchmarks):
    tables = importlib.import_module("benchmark").tables
    columns = {"case": "{}", "load_seconds": "{:.1f}", "ratio": "{:.2f}"}
    records = [
        {"suite": "forward", "case": "a", "ratio": 1.234},
        {"suite": "forward", "case": "b", "load_seconds": 0.25},
    ]
    first, second = tables(records, columns)
    assert first.markdown().startswith("## forward\n\n| case | ratio |\n| --- | --- |\n| a | 1.23 |\n")
    assert list(second.columns) == ["case", "load seconds"]
    assert [[cell.text for cell in row] for row in second.rows] == [["b", "0.2"]]


def test_training_steps_are_those_of_pytorch(benchmarks):
    """Of the tiniest size; what is measured and what memory takes is printed by the suite."""
    pytest.importorskip("transformers")
    pretrain = benchmarks("pretrain")
    case = pretrain.Case(width=16, num_layers=1, num_heads=2, block=8, rows=2, vocab_size=20)
    model = pretrain.reference(case)
    ours, theirs = pretrain.with_weights_of(model, case), pretrain.in_torch(model, case.ids)
    losses = [(ours(), theirs()) for _ in range(3)]
    assert np.allclose(*np.transpose(losses), rtol=1e-5)
    assert losses[2][0] < losses[0][0]

"""The trainer of pretraining: what a step is, whatever devices, micro-batches and interruptions."""

import dataclasses
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poolax import backbones
from poolax.attention import L2
from poolax.training import PreemptedError, checkpoint_metadata
from poolax.training.pretraining import (
    ArrayBatches,
    MaskedPatches,
    MaskedSeries,
    MaskedTokens,
    NextToken,
    Optimisation,
    Plan,
    cap_spectral_norms,
    matrix_work,
    pretrain,
    spectral_norms,
)
from poolax.training.pretraining._soft_cap import norm_bound, soft_cap
from poolax.training.pretraining._tokens import token_losses

SIZES = {"width": 8, "num_layers": 2, "num_heads": 2, "mlp_dim": 8}
GPT2 = NextToken(backbones.GPT2Config(12, 8, **SIZES, kind=L2()))
BERT = MaskedTokens(backbones.BertConfig(12, 8, **SIZES), mask_id=11, kept_ids=(10,))
FAST = Optimisation(learning_rate=0.01)
# Adam with a large epsilon is a step along the gradient: others divide its last bits by themselves.
PLAIN = Optimisation(learning_rate=1.0, eps=1.0, weight_decay=0.0, clip=0.1, warmup_steps=0)


def counting():
    """Texts of which every token but the first is known from the one before; of different lengths."""
    ids = (np.arange(14)[:, None] + np.arange(8)) % 10
    mask = np.arange(8) < np.array([8, 3] * 7)[:, None]
    return {"ids": ids, "mask": mask}


def batches(**options):
    return ArrayBatches(counting(), batch_size=5, **options)


@pytest.mark.parametrize("objective", [GPT2, BERT], ids=["next", "masked"])
def test_a_step_is_that_of_one_large_batch_in_plain_jax(objective):
    assert jax.device_count() == 4
    batch = batches().batch(0)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.fold_in(jax.random.key(3), 0), jnp.arange(5)
    )

    @jax.jit
    def step(params):
        def mean(params):
            losses, weights = objective.loss(objective.model(), params, batch, keys)
            return jnp.sum(losses) / jnp.sum(weights)

        loss, gradient = jax.value_and_grad(mean)(params)
        clip, adam = optax.clip_by_global_norm(0.1), optax.adam(1.0, b1=0.9, b2=0.95, eps=1.0)
        gradient = clip.update(gradient, clip.init(params))[0]
        updates, _ = adam.update(gradient, adam.init(params), params)
        return optax.apply_updates(params, updates), loss

    params, loss = step(objective.init(jax.random.key(3)))
    for accumulation in (1, 2):
        optimisation = dataclasses.replace(PLAIN, accumulation=accumulation)
        found = pretrain(objective, batches(), Plan(1, optimisation, seed=3))
        chex.assert_trees_all_close(found.params, params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.records[-1]["loss"], loss, rtol=1e-5)


def test_a_run_killed_after_any_step_goes_on_bit_for_bit(tmp_path):
    plan = Plan(5, FAST, checkpoint_every=1, record_every=2)
    whole = pretrain(GPT2, batches(), plan, evaluation=batches(shuffle=False))

    class KilledError(Exception):
        pass

    def kill(description, step, total):
        if step == 1:
            signal.raise_signal(signal.SIGTERM)
        if step == 3:
            raise KilledError

    def run(progress):
        return pretrain(
            GPT2, batches(), plan, evaluation=batches(shuffle=False), out=tmp_path, progress=progress
        )

    with pytest.raises(PreemptedError, match=r"stopped after step 1, saved in"):
        run(kill)
    with pytest.raises(KilledError):
        run(kill)  # before what is there of step 3 is saved
    assert checkpoint_metadata(tmp_path)["since_record"]["steps"] in (0, 1)
    steps = []
    resumed = run(lambda description, step, total: steps.append(step))
    assert steps[0] == 3
    chex.assert_trees_all_equal(resumed.params, whole.params)
    assert [row["step"] for row in resumed.records] == [0, 2, 4, 5]
    for name in ("loss", "gradient_norm", "evaluation_loss"):
        assert [row[name] for row in resumed.records] == [row[name] for row in whole.records]
    assert run(lambda *_: pytest.fail("nothing is left to do")).records[-1]["step"] == 5
    with pytest.raises(ValueError, match=r"out: .*configuration in .* differs in optimisation"):
        pretrain(GPT2, batches(), dataclasses.replace(plan, optimisation=PLAIN), out=tmp_path)


def waves():
    phase = np.random.default_rng(0).uniform(0, 6, (8, 1))
    return np.sin(phase + np.arange(16)).astype(np.float32)


def images():
    return np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)


WINDOWS = {"width": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 2}
SMALL = {"width": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 32}
FAMILIES = {
    "gpt2": (NextToken(backbones.GPT2Config(12, 8, **SMALL)), counting()),
    "bert": (
        MaskedTokens(backbones.BertConfig(12, 8, **SMALL), mask_id=11, hidden_fraction=0.2),
        {"ids": counting()["ids"][:6]},
    ),
    "vit": (
        MaskedPatches(backbones.ViTConfig(8, 4, 1, **SMALL, use_mask_token=True)),
        {"images": images()},
    ),
    "swin": (MaskedPatches(backbones.SwinConfig(8, 2, 1, **WINDOWS)), {"images": images()}),
    "lipsformer": (
        MaskedPatches(
            backbones.LipsFormerConfig(8, 2, 1, width=16, depths=(1,), num_heads=(2,), window_size=2)
        ),
        {"images": images()},
    ),
    "moment": (
        MaskedSeries(backbones.MomentConfig(16, 4, 4, **SMALL, head_dim=8)),
        {"series": waves()},
    ),
    "patchtst": (
        MaskedSeries(backbones.PatchTSTConfig(16, 4, 4, **SMALL, norm="layer")),
        {"series": waves()},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_examples_are_learned_by_heart(family):
    objective, arrays = FAMILIES[family]
    rows = len(next(iter(arrays.values())))
    few = ArrayBatches(arrays, batch_size=rows)
    optimisation = Optimisation(learning_rate=0.01, weight_decay=0.0)
    found = pretrain(objective, few, Plan(200, optimisation, record_every=10))
    losses = [row["loss"] for row in found.records]
    assert losses[-1] < 0.5 * losses[1]
    backbone = found.backbone
    assert type(backbone) is objective.families[type(objective.config)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(backbone.params))


@pytest.mark.parametrize(
    ("optimizer", "method"), [("adamw", "cap"), ("muon", "cap"), ("adamw", "soft"), ("muon", "soft")]
)
def test_spectral_norms_are_never_above_the_cap(optimizer, method):
    norms = []

    def observe(step, backbone):
        norms.extend(float(norm) for norm in spectral_norms(backbone.params).values())
        return {"largest": max(norms)}

    optimisation = Optimisation(
        optimizer=optimizer,
        learning_rate=0.1,
        muon_learning_rate=0.1,
        spectral_cap=0.7,
        spectral_method=method,
    )
    plan = Plan(4, optimisation, evaluate_every=1)
    found = pretrain(GPT2, batches(), plan, observers=[observe])
    assert len(norms) == 5 * 10
    assert max(norms) <= 0.7
    assert max(norms) > 0.69
    assert found.records[-1]["observed"] == {"largest": max(norms)}


def softened(values):
    """Singular values after rounds of the soft cap at 1, of the roots of its quartic."""
    bound = np.sum(values**8) ** (1 / 8)
    while bound > 1:
        after = max(1.0, 62 / 81 * bound)
        roots = np.roots([-1, 3, -3, 0, 1 - after / bound])
        u = min(root.real for root in roots if abs(root.imag) < 1e-6 and root.real >= 0)
        once = values - u / bound**2 * values**3
        values, bound = once + u / bound**2 * once**3, after
    return values


@pytest.mark.parametrize("method", ["cap", "hammer", "normalize", "soft"])
@pytest.mark.parametrize("shape", [(6, 4), (3, 7), (5, 5)])
def test_caps_do_what_they_say_to_singular_values(method, shape):
    left, right = (
        np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0] for size in shape
    )
    number = min(shape)
    before = np.array([3.0, 2.0, 0.5, 0.25, 0.0])[:number]
    kernel = (left[:, :number] * before) @ right[:number]
    params = {"query": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.full(shape[1], 9.0)}}
    found = cap_spectral_norms(params, 1.0, method)
    after = np.linalg.svd(found["query"]["kernel"], compute_uv=False)
    expected = {
        "cap": np.minimum(before, 1),
        "hammer": np.sort(np.array([1, 2, *before[2:]]) / 2)[::-1],
        "normalize": before / 3,
        "soft": np.sort(softened(before))[::-1],
    }
    np.testing.assert_allclose(after, expected[method], atol=1e-5)
    assert after.max() <= 1 + 1e-6  # of the decomposition itself
    assert (found["query"]["bias"] == 9).all()
    below = jax.tree.map(lambda leaf: leaf / 4, params)
    kept = cap_spectral_norms(below, 1.0, method)
    chex.assert_trees_all_close(kept, below, atol=1e-7)


@pytest.mark.parametrize("shape", [(24, 24), (7, 30), (2, 40, 16)])
def test_a_soft_cap_holds_for_all_singular_values_below_the_norm(shape):
    """Of rounds at their strongest the most is not at the norm, but at its root of a third."""
    rng, cap = np.random.default_rng(0), jax.jit(soft_cap)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    number = min(shape[-2:])
    for norm in (0.9, 1.0001, 1.1, 81 / 62, 1.5, 20.0):
        for share in (
            np.ones(number),
            rng.uniform(0, 1, number),
            np.r_[1, np.full(number - 1, 3**-0.5)],
        ):
            w = jnp.asarray((left * (norm * share)) @ right, jnp.float32)
            found = np.linalg.svd(cap(w, 1.0, jnp.full(shape[:-2], norm)), compute_uv=False)
            assert found.max() <= 1 + 2e-6
            assert found[..., 0].min() > 0.7 * min(norm * share.max(), 1)
            bound, true = norm_bound(w), norm * share.max()
            assert (bound >= true * (1 - 1e-6)).all()
            assert (bound <= true * 1.001 * number**0.125).all()


def test_what_muon_moves_kernels_by_stays_in_its_interval():
    values = np.linspace(0, 1.203, 10_001)
    found = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    assert 0 <= found.min() < found.max() <= 1.203
    assert optax.contrib.muon.__kwdefaults__["consistent_rms"] is None
    gradient = np.random.default_rng(0).normal(size=(6, 40))
    muon = optax.contrib.muon(1.0)
    params = {"kernel": jnp.zeros((6, 40))}
    for power in (1, 4):
        update, _ = muon.update({"kernel": jnp.asarray(gradient**power)}, muon.init(params), params)
        assert np.linalg.norm(update["kernel"], 2) <= 1.203 * (40 / 6) ** 0.5


def test_scanned_layers_remat_and_half_precision_learn_the_same():
    plan = Plan(3, FAST)
    plain = pretrain(GPT2, batches(), plan)
    scanned = dataclasses.replace(FAST, scan_layers=True, remat=True)
    found = pretrain(GPT2, batches(), dataclasses.replace(plan, optimisation=scanned))
    chex.assert_trees_all_close(found.params, plain.params, atol=2e-3)
    half = dataclasses.replace(scanned, dtype="bfloat16")
    found = pretrain(GPT2, batches(), dataclasses.replace(plan, optimisation=half))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found.records[-1]["loss"], plain.records[-1]["loss"], rtol=0.02)


def test_logits_that_are_computed_again_take_no_memory():
    rng = np.random.default_rng(0)
    states, table = rng.normal(size=(18, 60, 4)), rng.normal(size=(640, 4))
    states, table = jnp.asarray(states, jnp.float32), jnp.asarray(table, jnp.float32)
    labels = jnp.asarray(rng.integers(0, 640, (18, 60)))
    gradients, bytes_taken = [], []

    def total(states, table, remat):
        return jnp.sum(token_losses(states, table, labels, remat=remat) ** 2)

    gradient = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)
    for remat in (False, True):
        compiled = gradient.lower(states, table, remat).compile()
        gradients.append(compiled(states, table))
        bytes_taken.append(compiled.memory_analysis().temp_size_in_bytes)
    chex.assert_trees_all_close(*gradients, rtol=1e-5, atol=1e-4)
    assert bytes_taken[0] >= 4 * 18 * 60 * 640
    assert bytes_taken[1] < 0.6 * bytes_taken[0]


def test_training_goes_on_from_a_backbone_and_from_all_parameters():
    still = dataclasses.replace(FAST, learning_rate=1e-12)
    first = pretrain(BERT, batches(), Plan(2, FAST))
    for init in (first.backbone, first.params):
        again = pretrain(BERT, batches(), Plan(1, still), init=init)
        chex.assert_trees_all_close(again.backbone.params, first.backbone.params, atol=1e-6)
    with pytest.raises(ValueError, match=r"init: expected a model of GPT2Config"):
        pretrain(GPT2, batches(), Plan(1), init=first.backbone)


def test_norms_and_biases_do_not_decay():
    decay = Optimisation(learning_rate=1e-9, weight_decay=1e8, warmup_steps=0)
    found = pretrain(GPT2, batches(), Plan(1, decay)).params
    ratio = jax.tree.map(lambda new, old: new / old, found, GPT2.init(jax.random.key(0)))
    block = ratio["encoder"]["block_0"]
    for kernel in (ratio["embeddings"]["token"], block["attention"]["query"]["kernel"]):
        np.testing.assert_allclose(kernel, 0.9, rtol=1e-4)
    np.testing.assert_allclose(block["norm1"]["scale"], 1.0, rtol=1e-4)


def test_work_counts_loops_and_one_branch():
    def twice(x):
        x, _ = jax.lax.scan(lambda x, _: (x @ x, None), x, length=3)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert matrix_work(twice, jnp.ones((4, 4))) == 5 * 2 * 4**3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimisation(optimizer="sgd"), r"optimizer: expected one of"),
        (lambda: Optimisation(spectral_cap=0.0), r"spectral_cap: expected a finite number > 0"),
        (lambda: Optimisation(final_fraction=2.0), r"final_fraction: expected at most 1, got 2"),
        (lambda: Plan(0), r"steps: expected a whole number >= 1"),
        (
            lambda: NextToken(BERT.config),
            r"config: expected one of GPT2Config, DecoderConfig, got Bert",
        ),
        (lambda: ArrayBatches({"a": np.ones(2), "b": np.ones(3)}, 1), r"arrays: expected equally many"),
        (
            lambda: pretrain(GPT2, ArrayBatches({"images": images()}, 2), Plan(1)),
            r"batch: expected 'ids' among its arrays, got images, weight",
        ),
        (
            lambda: MaskedPatches(backbones.SwinConfig(10, 2, 1, **WINDOWS)),
            r"config: expected a grid that 2 divides",
        ),
        (
            lambda: MaskedSeries(backbones.PatchTSTConfig(16, 4, 2, **SMALL, norm="layer")),
            r"config: expected patches that do not overlap",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

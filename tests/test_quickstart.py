import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolax import quickstart
from poolax._progress import no_progress
from poolax.blocks import TBM
from poolax.pooling import AveragePool, from_name
from poolax.quickstart._sensitivity import _searches, _with_weights
from poolax.reporting import joined
from poolax.training import sweep, train_heads
from poolax.training._engine.heads import HeadModule

SETTINGS = quickstart.Settings(pretrain_epochs=1, num_inputs=3)
TASKS = {
    "vision": ["classification", "inpainting", "segmentation"],
    "language": ["classification", "next_token"],
    "series": ["forecasting", "forecasting", "imputation"],
}


@pytest.mark.parametrize("modality", quickstart.MODALITIES)
def test_studies_train_heads_noise_and_blocks(modality, tmp_path):
    """What every stage of the run reads fits, on the real data; the run itself is a slow test."""
    if modality == "series":
        pytest.importorskip("statsmodels", reason="series come with statsmodels")
    study = quickstart.MODALITIES[modality](tmp_path, SETTINGS, no_progress)
    assert [task.name for _, task in study.tasks] == TASKS[modality]
    for dataset, task in study.tasks:
        record = sweep(
            study.backbone,
            dataset.subset(40),
            task,
            poolers=["avg"],
            seeds=1,
            epochs=1,
        )[0]
        assert np.isfinite([record["test"], record["baseline"], *record["train_loss"]]).all()
    assert len(study.noisy.inputs) == 3
    masks = [] if study.noisy.masks is None else [study.noisy.masks[0]]
    states = study.noisy.encode(jnp.asarray(study.noisy.inputs[0]), *masks).states
    assert states.ndim == 2
    tokens = study.tokens
    assert np.isfinite(tokens.values).all()
    used = np.concatenate(list(tokens.splits.values()))
    assert len(np.unique(used)) == len(used) == len(tokens.values)
    heads = train_heads(
        HeadModule(AveragePool(), tokens.task.num_outputs),
        tokens.values[None],
        None,
        tokens.targets,
        tokens.task,
        splits=tokens.splits,
        runs=[(1e-3, 0)],
        epochs=1,
        batch_size=32,
    )
    assert not heads.diverged.any()


def test_texts_are_cut_where_asked(tmp_path):
    """Shorter than beginnings and blocks are by default."""
    settings = dataclasses.replace(SETTINGS, max_tokens=12)
    study = quickstart.MODALITIES["language"](tmp_path, settings, no_progress)
    assert study.backbone.preprocess(["word " * 99])[0].shape == (1, 12)
    assert study.backbone.config.max_tokens == 12
    assert study.tasks[1][0].inputs.shape[1] == study.tokens.values.shape[1] == 12
    assert settings.sizes() == SETTINGS.sizes()


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"modality: expected one of vision, language, series"):
        quickstart.run(tmp_path, modality="audio")
    with pytest.raises(ValueError, match=r"epochs: expected a whole number >= 1, got 0"):
        quickstart.run(tmp_path, dataclasses.replace(SETTINGS, epochs=0))
    with pytest.raises(ValueError, match=r"max_tokens: expected a whole number >= 4, got 3"):
        quickstart.run(tmp_path, dataclasses.replace(SETTINGS, max_tokens=3))


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["language", "series"])
def test_other_modalities_at_full_size(modality, tmp_path):
    report = quickstart.run(tmp_path, modality=modality)
    assert report.num_diverged == 0
    best = {}
    for row in joined(report.scores).tidy:
        sign = 1 if row["higher_is_better"] else -1
        place = (row["dataset"], row["task"])
        best[place] = max(best.get(place, -np.inf), sign * (row["mean"] - row["baseline"]))
    assert min(best.values()) > 0


def test_poolers_with_weights_of_positions_are_searched_by_one_program():
    key, tokens = jax.random.split(jax.random.key(0))
    tokens = jax.random.normal(tokens, (2, 5, 8))
    found = []
    for name in ("last", "avg", "sum", "wavg"):
        model = TBM(num_heads=2, pooler=from_name(name))
        variables = model.init(key, tokens)
        weights = variables["params"].get("pooler", {})
        if weights:  # those that are learned differ
            variables["params"]["pooler"] = {"weights": jnp.arange(5.0)}
        same, own = _with_weights(model, variables, 5)
        np.testing.assert_allclose(same.apply(own, tokens), model.apply(variables, tokens), atol=1e-5)
        found.append(same)
    program = _searches(1.0, dataclasses.replace(SETTINGS, search_steps=1))
    assert len({program(model) for model in found}) == 1


def test_the_former_word_for_series_is_understood(tmp_path):
    (tmp_path / "file").write_text("")
    for word in ("series", "time_series"):
        # The folder is what is wrong, not the word.
        with pytest.raises(ValueError, match="out: "):
            quickstart.run(tmp_path / "file", modality=word)

"""A MOMENT encoder learns to fill in hidden patches of series."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from poolax._checks import check_instance, check_number
from poolax.backbones import Moment, MomentConfig
from poolax.training.pretraining._recipes import MaskedSeries
from poolax.training.pretraining._schedule import Schedule, choose_hidden, run_schedule


def pretrain_masked_series(
    config: MomentConfig,
    series: Float[np.ndarray, "N steps"],
    schedule: Schedule,
    *,
    preprocess=None,
    hidden_fraction: float = 0.3,
) -> Moment:
    """Pretrain a MOMENT encoder to reconstruct hidden patches of series from the others.

    Random patches are replaced by the mask embedding, and the mean squared error of their steps, in
    units of the series' own standard deviation, is minimised. No label is seen, and the loss reads
    patch tokens one by one, so that no pooler is favoured. Steps that are missing, NaN in ``series``,
    are neither seen nor scored.

    Args:
        config: Sizes; ``use_head`` has to be set.
        series: Raw series, shape ``(N, steps)``.
        schedule: How long and how fast, and where checkpoints stand.
        preprocess: Maps raw series to the model's input and its mask; kept in the model.
        hidden_fraction: Fraction of the patches that is hidden, between 0 and 1.

    Returns:
        The model.

    Raises:
        ValueError: for numbers out of range, a model without head, series of the wrong shape, or a
            checkpoint of another configuration or other series.
        FloatingPointError: if the loss does not stay finite.

    Example:
        >>> import numpy as np
        >>> from poolax.backbones import MomentConfig
        >>> config = MomentConfig(16, 4, 8, width=8, num_layers=1, num_heads=2, head_dim=4, mlp_dim=8)
        >>> series = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
        >>> moment = pretrain_masked_series(config, series, Schedule(epochs=1, batch_size=4))
        >>> moment(series).states.shape
        (6, 4, 8)

    Reference:
        Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models" (ICML 2024).
    """
    check_instance("config", config, MomentConfig, "a MomentConfig")
    check_instance("schedule", schedule, Schedule, "a Schedule")
    check_number("hidden_fraction", hidden_fraction, above=0.0, below=1.0)
    if not config.use_head:
        raise ValueError("config: expected use_head=True for pretraining, got False")
    model = Moment.init(config, jax.random.key(schedule.seed), preprocess)
    observed = ~np.isnan(series)
    inputs = np.where(observed, series, 0)
    if preprocess is not None:
        inputs, observed = map(np.asarray, preprocess(series))
    if inputs.ndim != 2 or len(inputs) == 0 or inputs.shape[1] % config.patch_len:
        raise ValueError(
            f"series: expected shape (N, steps), steps in patches of {config.patch_len}, got "
            f"{inputs.shape}"
        )
    num_patches = inputs.shape[1] // config.patch_len
    num_hidden = max(1, round(hidden_fraction * num_patches))

    def loss(params, data, indices, keys):
        x, observed = data["series"][indices], data["observed"][indices]
        hidden = choose_hidden(keys, num_patches, num_hidden)
        hidden = jnp.repeat(hidden, config.patch_len, axis=-1)
        found = model.reconstruct(params, x, observed, hidden)
        count = jnp.maximum(jnp.sum(observed, axis=-1, keepdims=True), 1)
        mean = jnp.sum(x * observed, axis=-1, keepdims=True) / count
        variance = jnp.sum(jnp.square(x - mean) * observed, axis=-1) / count[..., 0]
        whole = observed.reshape(len(x), num_patches, -1).all(axis=-1)
        scored = hidden & jnp.repeat(whole, config.patch_len, axis=-1)
        error = jnp.sum(jnp.where(scored, jnp.square(found - x), 0), axis=-1)
        return error / jnp.maximum(jnp.sum(scored, axis=-1), 1) / (variance + 1e-5)

    recipe = MaskedSeries(config, hidden_fraction)
    arrays = {"series": inputs, "observed": observed}
    params = run_schedule(schedule, model.params, loss, arrays, recipe)
    return dataclasses.replace(model, params=params)

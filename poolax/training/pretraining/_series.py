"""A MOMENT encoder learns to fill in hidden patches of series."""

from typing import Any

import numpy as np
from jaxtyping import Float

from poolax._checks import check_instance
from poolax.backbones import Moment, MomentConfig
from poolax.training.pretraining._masked_series import MaskedSeries
from poolax.training.pretraining._schedule import Schedule, run_schedule


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
    objective = MaskedSeries(config, hidden_fraction)
    observed = ~np.isnan(series)
    inputs = np.where(observed, series, 0)
    if preprocess is not None:
        inputs, observed = map(np.asarray, preprocess(series))
    arrays = {"series": inputs, "observed": observed}
    model: Any = run_schedule(schedule, objective, arrays, preprocess)
    return model

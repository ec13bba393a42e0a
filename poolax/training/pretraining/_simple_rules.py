"""What simple rules fill in at hidden patches, with the error of the objective."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from poolax.training.pretraining._batches import WEIGHT, Batches
from poolax.training.pretraining._masked_patches import MaskedPatches
from poolax.training.pretraining._masked_series import MaskedSeries
from poolax.training.pretraining._steps import evaluation_key


def interpolated(
    series: Float[np.ndarray, "rows steps"], seen: Bool[np.ndarray, "rows steps"]
) -> Float[np.ndarray, "rows steps"]:
    """Series with straight lines between the steps that are seen.

    Before the first of them and behind the last one the nearest is kept; a row without any is zero.

    Args:
        series: The series; what stands at other steps is not looked at.
        seen: True at steps that are seen.

    Returns:
        Shape ``(rows, steps)``.

    Example:
        >>> import numpy as np
        >>> seen = np.array([[False, True, False, False, True, False]])
        >>> interpolated(np.array([[9.0, 1.0, 9.0, 9.0, 4.0, 9.0]]), seen)
        array([[1., 1., 2., 3., 4., 4.]])
    """
    series, seen = np.asarray(series), np.asarray(seen)
    filled = np.zeros_like(series)
    steps = np.arange(series.shape[1])
    for row, (values, of_row) in enumerate(zip(series, seen, strict=True)):
        if of_row.any():
            filled[row] = np.interp(steps, steps[of_row], values[of_row])
    return filled


def rule_losses(
    objective: MaskedSeries | MaskedPatches,
    evaluation: Batches,
    *,
    seed: int = 0,
    training_images: Float[np.ndarray, "N h w c"] | None = None,
) -> dict[str, float]:
    """Losses of rules that learn nothing, in place of a model's evaluation loss.

    Hidden are the patches that an evaluation of :func:`pretrain` hides with the same seed of its
    :class:`Plan`, and the error is that of the objective: the losses stand beside the model's.

    Args:
        objective: The objective.
        evaluation: The batches that the model is evaluated on.
        seed: Seed of the model's plan.
        training_images: Preprocessed images of the training split, whose mean is one of the rules.

    Returns:
        Losses by rule. Of series: ``"linear interpolation"`` between the steps that are seen, and
        ``"mean"`` of those. Of images: ``"mean of the image"``, of the patches that are seen by
        channel, and, with ``training_images``, ``"mean of training images"`` at each pixel.

    Raises:
        ValueError: for another objective, or batches that do not fit it.

    Example:
        >>> import numpy as np
        >>> from poolax.backbones import PatchTSTConfig
        >>> from poolax.training.pretraining import ArrayBatches
        >>> sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
        >>> objective = MaskedSeries(PatchTSTConfig(16, 4, 4, **sizes, norm="layer"))
        >>> ramps = np.arange(16.0) * np.array([[1.0], [-2.0]])
        >>> losses = rule_losses(objective, ArrayBatches({"series": ramps}, 2, shuffle=False))
        >>> losses["linear interpolation"] < losses["mean"]
        True
    """
    if not isinstance(objective, (MaskedSeries, MaskedPatches)):
        raise ValueError(
            f"objective: expected MaskedSeries or MaskedPatches, got {type(objective).__name__}"
        )
    sums: dict[str, float] = {}
    total, key = 0.0, evaluation_key(seed)
    for step in range(evaluation.steps_per_epoch):
        batch = evaluation.batch(step)
        objective.check(batch)
        num_rows = len(next(iter(batch.values())))
        of_batch = jax.random.fold_in(key, step)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(of_batch, jnp.arange(num_rows))
        if isinstance(objective, MaskedSeries):
            errors = _of_series(objective, batch, keys)
        else:
            errors = _of_images(objective, batch, keys, training_images)
        weight = np.asarray(batch.get(WEIGHT, np.ones(num_rows)), float)
        total += float(weight.sum())
        for rule, error in errors.items():
            sums[rule] = sums.get(rule, 0.0) + float(np.sum(np.asarray(error, float) * weight))
    return {rule: found / total for rule, found in sums.items()}


def _of_series(objective, batch, keys):
    series = np.asarray(batch["series"])
    observed = np.asarray(batch.get("observed", np.ones(series.shape, bool)))
    hidden = np.asarray(objective.hide(series, keys))
    seen = observed & ~hidden
    count = np.maximum(seen.sum(axis=-1, keepdims=True), 1)
    mean = np.where(seen, series, 0).sum(axis=-1, keepdims=True) / count
    filled = {
        "linear interpolation": interpolated(series, seen),
        "mean": np.broadcast_to(mean.astype(series.dtype), series.shape),
    }
    return {
        rule: objective.errors(jnp.asarray(found), jnp.asarray(series), jnp.asarray(observed), hidden)
        for rule, found in filled.items()
    }


def _of_images(objective, batch, keys, training_images):
    images = jnp.asarray(batch["images"])
    hidden = objective.hide(images, keys)
    patches = objective.patches(images)
    num_channels = images.shape[-1]
    by_channel = patches.reshape(*patches.shape[:2], -1, num_channels)
    seen = jnp.broadcast_to(~hidden[..., None, None], by_channel.shape)
    mean = jnp.mean(by_channel, axis=(1, 2), where=seen, keepdims=True)
    filled = {"mean of the image": jnp.broadcast_to(mean, by_channel.shape).reshape(patches.shape)}
    if training_images is not None:
        whole = jnp.mean(jnp.asarray(training_images), axis=0)
        filled["mean of training images"] = jnp.broadcast_to(
            objective.patches(whole[None]), patches.shape
        )
    return {rule: objective.errors(found, images, hidden) for rule, found in filled.items()}

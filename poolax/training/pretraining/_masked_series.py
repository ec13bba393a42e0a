"""Series: hidden patches are filled in from the others."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from poolax import codec
from poolax._checks import check_number
from poolax.backbones import Backbone, Moment, MomentConfig, PatchTST, PatchTSTConfig
from poolax.training.pretraining._objective import (
    Objective,
    array_of,
    choose_hidden,
    dense,
    linear,
)

_ADDED_TO_VARIANCE = 1e-5


@codec.register("recipe", "masked_series")
@dataclasses.dataclass(frozen=True)
class MaskedSeries(Objective):
    """Hidden patches of series are filled in from the others.

    Hidden patches stay tokens, without their values, and the mean squared error of their steps, in
    units of the series' own variance, is minimised. A batch has ``"series"``, shape ``(rows, steps)``,
    and maybe ``"observed"``, True at observed steps: all others are neither seen nor scored.

    Attributes:
        config: A :class:`MomentConfig` with ``use_head``, or a :class:`PatchTSTConfig` of one channel
            with layer norms and patches that do not overlap.
        hidden_fraction: Share of the patches that are hidden.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.backbones import PatchTSTConfig
        >>> sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
        >>> objective = MaskedSeries(PatchTSTConfig(16, 4, 4, **sizes, norm="layer"))
        >>> params = objective.init(jax.random.key(0))
        >>> keys, batch = jax.random.split(jax.random.key(1), 2), {"series": jnp.ones((2, 16))}
        >>> objective.loss(objective.model(), params, batch, keys)[0].shape
        (2,)

    Reference:
        Goswami et al., "MOMENT" (ICML 2024); Nie et al., "A Time Series is Worth 64 Words" (ICLR 2023).
    """

    hidden_fraction: float = 0.3

    families: ClassVar = {MomentConfig: Moment, PatchTSTConfig: PatchTST}
    former: ClassVar[str | None] = "masked patch reconstruction"

    def __post_init__(self):
        """Refuse what is out of range."""
        super().__post_init__()
        config = self.config
        check_number("hidden_fraction", self.hidden_fraction, above=0.0, below=1.0)
        if isinstance(config, MomentConfig):
            if not config.use_head:
                raise ValueError("config: expected use_head=True for pretraining, got False")
        elif (config.norm, config.num_channels, config.scaling) != ("layer", 1, "std"):
            raise ValueError(
                "config: expected norm='layer', scaling='std' and one channel for pretraining, got "
                f"{config.norm!r}, {config.scaling!r} and {config.num_channels}"
            )
        elif config.patch_stride != config.patch_len or config.num_steps % config.patch_len:
            raise ValueError(
                "config: expected patches that do not overlap and fill the series, got "
                f"{config.num_steps} steps in patches of {config.patch_len} every {config.patch_stride}"
            )

    def init(self, key):
        """See :class:`Objective`."""
        if isinstance(self.config, MomentConfig):
            return super().init(key)
        model_key, head_key = jax.random.split(key)
        head = dense(head_key, self.config.width, self.config.patch_len)
        return {"backbone": super().init(model_key), "reconstruction": head}

    def of_backbone(self, params):
        """See :class:`Objective`."""
        return params if isinstance(self.config, MomentConfig) else params["backbone"]

    def with_backbone(self, params, of_backbone):
        """See :class:`Objective`."""
        is_moment = isinstance(self.config, MomentConfig)
        return of_backbone if is_moment else {**params, "backbone": of_backbone}

    def check(self, batch: Mapping[str, Any]) -> None:
        """See :class:`Objective`."""
        series, config = array_of(batch, "series", 2, "(rows, steps)"), self.config
        if not np.issubdtype(series.dtype, np.floating):
            raise ValueError(f"series: expected floating numbers, got {series.dtype}")
        steps = series.shape[1]
        if isinstance(config, PatchTSTConfig) and steps != config.num_steps:
            raise ValueError(f"series: expected {config.num_steps} steps, got {steps}")
        if isinstance(config, MomentConfig) and (
            steps % config.patch_len or steps > config.max_patches * config.patch_len
        ):
            raise ValueError(
                f"series: expected shape (N, steps), steps in patches of {config.patch_len}, at most "
                f"{config.max_patches}, got {series.shape}"
            )
        observed = batch.get("observed", np.ones(series.shape, bool))
        if observed.shape != series.shape or observed.dtype != bool:
            found = f"{observed.dtype} {observed.shape}"
            raise ValueError(f"observed: expected bool of shape {series.shape}, got {found}")

    def reconstruct(
        self,
        model: Backbone,
        params: PyTree,
        series: Float[Array, "rows steps"],
        observed: Bool[Array, "rows steps"] | None,
        hidden: Bool[Array, "rows steps"],
    ) -> Float[Array, "rows steps"]:
        """Series with their hidden patches filled in, in the units of the series.

        Args:
            model: The backbone, as :meth:`model` gives it.
            params: As :meth:`init` gives them.
            series: The series.
            observed: True at steps that belong to the series; ``None`` if all do.
            hidden: True at steps that are not looked at, whole patches.

        Returns:
            Shape ``(rows, steps)``.
        """
        if isinstance(self.config, MomentConfig):
            moment: Any = model
            return moment.reconstruct(params, series, observed, hidden)
        seen = ~hidden if observed is None else observed & ~hidden
        count = jnp.maximum(jnp.sum(seen, axis=-1, keepdims=True), 1)
        mean = jnp.sum(jnp.where(seen, series, 0), axis=-1, keepdims=True) / count
        spread = jnp.sum(jnp.where(seen, jnp.square(series - mean), 0), axis=-1, keepdims=True) / count
        scale = jnp.sqrt(spread + _ADDED_TO_VARIANCE)
        # The model's own scaling would look at hidden steps, or take their patches for no tokens.
        as_is = dataclasses.replace(self.config, scaling="none")
        unscaled = dataclasses.replace(model, config=as_is)
        values = jnp.where(seen, (series - mean) / scale, 0)
        tokens = unscaled.apply(params["backbone"], values, observed)
        states = tokens.states[:, model.num_prefix :]
        found = linear(params["reconstruction"], states).astype(series.dtype)
        return found.reshape(series.shape) * scale + mean

    def hide(self, series: Float[Array, "rows steps"], keys: Array) -> Bool[Array, "rows steps"]:
        """True at the steps of random patches, those that :meth:`loss` hides with these keys."""
        num_patches = series.shape[1] // self.config.patch_len
        num_hidden = max(1, round(self.hidden_fraction * num_patches))
        hidden = choose_hidden(keys, num_patches, num_hidden)
        return jnp.repeat(hidden, self.config.patch_len, axis=-1)

    def loss(self, model, params, batch, keys):
        """See :class:`Objective`."""
        x, observed = batch["series"], batch.get("observed")
        hidden = self.hide(x, keys)
        found = self.reconstruct(model, params, x, observed, hidden)
        losses = self.errors(found, x, observed, hidden)
        return losses, jnp.ones_like(losses)

    def errors(
        self,
        found: Float[Array, "rows steps"],
        series: Float[Array, "rows steps"],
        observed: Bool[Array, "rows steps"] | None,
        hidden: Bool[Array, "rows steps"],
    ) -> Float[Array, " rows"]:
        """Mean squared error at hidden patches that are observed, in units of each series' variance.

        Args:
            found: What was filled in, by a model or by a simpler rule.
            series: The series.
            observed: True at observed steps; ``None`` if all are.
            hidden: True at steps of hidden patches.

        Returns:
            Shape ``(rows,)``.
        """
        x, patch_len = series, self.config.patch_len
        known = jnp.ones(x.shape, bool) if observed is None else observed
        count = jnp.maximum(jnp.sum(known, axis=-1, keepdims=True), 1)
        mean = jnp.sum(jnp.where(known, x, 0), axis=-1, keepdims=True) / count
        variance = jnp.sum(jnp.where(known, jnp.square(x - mean), 0), axis=-1) / count[..., 0]
        whole = known.reshape(len(x), -1, patch_len).all(axis=-1)
        scored = hidden & jnp.repeat(whole, patch_len, axis=-1)
        error = jnp.sum(jnp.where(scored, jnp.square(found - x), 0), axis=-1)
        return error / jnp.maximum(jnp.sum(scored, axis=-1), 1) / (variance + _ADDED_TO_VARIANCE)

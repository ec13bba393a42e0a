"""Images: hidden patches are filled in from the others."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from poolax import codec
from poolax._checks import check_number
from poolax._patches import patchify
from poolax.backbones import LipsFormer, LipsFormerConfig, Swin, SwinConfig, ViT, ViTConfig
from poolax.training.pretraining._objective import (
    Objective,
    array_of,
    choose_hidden,
    dense,
    linear,
)


@codec.register("recipe", "masked_patches")
@dataclasses.dataclass(frozen=True)
class MaskedPatches(Objective):
    """Hidden patches of images are filled in from the others; no loss reads the CLS token.

    A share of the patches is replaced by a learned mask token, and the mean squared error of their
    pixels, read linearly from their own token states, is minimised. A Swin or LipsFormer hides what
    becomes one token of its last stage together. A batch has ``"images"``, preprocessed, shape
    ``(rows, h, w, c)``.

    Attributes:
        config: A :class:`ViTConfig` with ``use_mask_token``, :class:`SwinConfig` or
            :class:`LipsFormerConfig` whose grids merge evenly.
        hidden_fraction: Share of the patches that are hidden.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.backbones import SwinConfig
        >>> config = SwinConfig(16, 2, width=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
        >>> objective = MaskedPatches(config, 0.25)
        >>> params = objective.init(jax.random.key(0))
        >>> keys, batch = jax.random.split(jax.random.key(1), 2), {"images": jnp.ones((2, 16, 16, 3))}
        >>> objective.loss(objective.model(), params, batch, keys)[0].shape
        (2,)

    Reference:
        Xie et al., "SimMIM" (CVPR 2022); He et al., "Masked Autoencoders" (CVPR 2022).
    """

    hidden_fraction: float = 0.5

    families: ClassVar = {ViTConfig: ViT, SwinConfig: Swin, LipsFormerConfig: LipsFormer}
    former: ClassVar[str | None] = "masked patch reconstruction"
    facts: ClassVar[Mapping[str, Any]] = {"cls_token_trained": False}

    def __post_init__(self):
        """Refuse what is out of range."""
        super().__post_init__()
        config = self.config
        check_number("hidden_fraction", self.hidden_fraction, above=0.0, below=1.0)
        if isinstance(config, ViTConfig):
            if not config.use_mask_token:
                raise ValueError("config: expected use_mask_token=True for pretraining, got False")
        elif config.grid(0) % self._merged:
            raise ValueError(
                f"config: expected a grid that {self._merged} divides, which becomes one token of the "
                f"last stage, got {config.grid(0)} tokens a row"
            )

    @property
    def _merged(self):
        """Patches a side of what is hidden together."""
        return 1 if isinstance(self.config, ViTConfig) else 2 ** (self.config.num_stages - 1)

    def init(self, key):
        """See :class:`Objective`."""
        model_key, head_key, token_key = jax.random.split(key, 3)
        config = self.config
        side = config.patch_size * self._merged
        is_vit = isinstance(config, ViTConfig)
        width = config.width if is_vit else config.stage_width(config.num_stages - 1)
        head = dense(head_key, width, side * side * config.num_channels)
        params = {"backbone": super().init(model_key), "reconstruction": head}
        if not is_vit:
            params["mask_token"] = 0.02 * jax.random.normal(token_key, (config.width,))
        return params

    def of_backbone(self, params):
        """See :class:`Objective`."""
        return params["backbone"]

    def with_backbone(self, params, of_backbone):
        """See :class:`Objective`."""
        return {**params, "backbone": of_backbone}

    def check(self, batch: Mapping[str, Any]) -> None:
        """See :class:`Objective`."""
        images, config = array_of(batch, "images", 4, "(rows, h, w, c)"), self.config
        expected = (config.image_size, config.image_size, config.num_channels)
        if images.shape[1:] != expected:
            raise ValueError(f"images: expected shape {('N', *expected)}, got {images.shape}")
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"images: expected preprocessed, floating images, got {images.dtype}")

    def loss(self, model, params, batch, keys):
        """See :class:`Objective`."""
        images, config = batch["images"], self.config
        hidden = self.hide(images, keys)
        backbone = params["backbone"]
        if isinstance(config, ViTConfig):
            vit: Any = model
            embeddings = vit.embed(backbone, images, hidden=hidden)[0]
        else:
            embeddings = self._hide(model.embed(backbone, images)[0], params, hidden)
        states = model.encode(backbone, embeddings).states[:, model.num_prefix :]
        losses = self.errors(linear(params["reconstruction"], states), images, hidden)
        return losses, jnp.ones_like(losses)

    def hide(self, images: Float[Array, "rows h w c"], keys: Array) -> Bool[Array, "rows patches"]:
        """True at random patches, those that :meth:`loss` hides with these keys."""
        num_patches = self.patches(images).shape[-2]
        return choose_hidden(keys, num_patches, max(1, round(self.hidden_fraction * num_patches)))

    def patches(self, images: Float[Array, "rows h w c"]) -> Float[Array, "rows patches p"]:
        """Images cut into what is hidden or not."""
        return patchify(images, self.config.patch_size * self._merged)

    def errors(
        self,
        found: Float[Array, "rows patches p"],
        images: Float[Array, "rows h w c"],
        hidden: Bool[Array, "rows patches"],
    ) -> Float[Array, " rows"]:
        """Mean squared error of the pixels of hidden patches.

        Args:
            found: Pixels of all patches, by a model or by a simpler rule.
            images: The images, preprocessed.
            hidden: True at hidden patches.

        Returns:
            Shape ``(rows,)``.
        """
        targets = self.patches(images)
        error = jnp.mean(jnp.square(found.astype(targets.dtype) - targets), axis=-1)
        return jnp.sum(error * hidden, axis=-1) / jnp.sum(hidden, axis=-1)

    def _hide(self, embeddings, params, hidden):
        """Patches of hidden tokens of the last stage have the mask token, and keep their position."""
        side = self.config.grid(0) // self._merged
        grid = hidden.reshape(-1, side, side)
        grid = jnp.repeat(jnp.repeat(grid, self._merged, axis=1), self._merged, axis=2)
        position = params["backbone"]["embeddings"].get("position", 0)
        instead = jnp.broadcast_to(params["mask_token"] + position, embeddings.shape[1:])
        return jnp.where(grid.reshape(len(grid), -1, 1), instead[None], embeddings)

"""What every backbone is: from inputs to token states, as a pure function of parameters."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, PyTree

from poolax._records import TokenStates


@dataclasses.dataclass(frozen=True)
class ImagePreprocess:
    """From pixel values to the model's input: ``(scale * pixels - mean) / std``.

    Attributes:
        scale: What brings pixels to the range from 0 to 1.
        mean: What is subtracted then.
        std: What is divided by then.
    """

    scale: float = 1 / 255
    mean: float = 0.5
    std: float = 0.5

    def __call__(self, images: Array) -> Float[Array, "..."]:
        """Preprocess ``images``, any shape and dtype, in float32."""
        return (jnp.asarray(images, jnp.float32) * self.scale - self.mean) / self.std


@struct.dataclass
class Backbone(abc.ABC):
    """Abstract backbone; a pytree, so that it passes through ``jit``, ``vmap`` and checkpoints.

    Attributes:
        params: Parameters.
        config: Static, hashable configuration.
        preprocess: Static, hashable; maps raw inputs to what :meth:`apply` takes.
        summary_token: What "last" pooling means for this family: ``"first"`` where a CLS token
            stands in front, ``"last"`` for causal models.
    """

    summary_token: ClassVar[str]

    params: PyTree
    config: Any = struct.field(pytree_node=False)
    preprocess: Any = struct.field(pytree_node=False)

    @abc.abstractmethod
    def embed(
        self, params: PyTree, inputs: Any, mask: Bool[Any, "*batch n"] | None = None
    ) -> tuple[Any, Bool[Array, "*batch n"] | None]:
        """Inputs to embeddings, ``(*batch, n, d)``, and the mask of the tokens."""

    @abc.abstractmethod
    def encode(
        self,
        params: PyTree,
        embeddings: Float[Array, "*batch n d"],
        mask: Bool[Array, "*batch n"] | None = None,
        *,
        layer: int = -1,
        return_weights: bool = False,
    ) -> TokenStates:
        """Embeddings to token states; noise, attacks and Jacobians act on the embeddings."""

    def apply(
        self,
        params: PyTree,
        inputs: Array,
        mask: Bool[Array, "*batch n"] | None = None,
        *,
        layer: int = -1,
        return_weights: bool = False,
    ) -> TokenStates:
        """Map preprocessed inputs to token states; a pure function of ``params``.

        Args:
            params: Parameters, such as ``self.params``.
            inputs: Preprocessed inputs.
            mask: True at real tokens; ``None`` if all are real.
            layer: ``-1`` for the model's output after its final norm; ``0`` for the embeddings,
                ``k`` for what comes out of block ``k``.
            return_weights: Also return the attention of every layer.

        Returns:
            The token states.

        Raises:
            ValueError: for a wrong shape or layer, or values that are not finite.
        """
        embeddings, mask = self.embed(params, inputs, mask)
        return self.encode(params, embeddings, mask, layer=layer, return_weights=return_weights)

    def __call__(self, inputs: Array, mask: Bool[Array, "*batch n"] | None = None) -> TokenStates:
        """``apply(self.params, inputs, mask)``."""
        return self.apply(self.params, inputs, mask)

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

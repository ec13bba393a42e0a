"""What every backbone is: from inputs to token states, as a pure function of parameters."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, PyTree

from poolax._checks import broadcast_mask, check_finite, check_tokens
from poolax._layer_specs import LayerSpec
from poolax._numerics import zero_masked
from poolax.backbones import _layers
from poolax.backbones._preprocess import Preprocess, as_preprocess
from poolax.pooling import Pooler, behind
from poolax.records import TokenStates


@struct.dataclass
class Backbone(abc.ABC):
    """Abstract backbone; a pytree, so that it passes through ``jit``, ``vmap`` and checkpoints.

    Attributes:
        params: Parameters.
        config: Static, hashable configuration.
        preprocess: Static, hashable; maps raw inputs to what :meth:`apply` takes: a
            :class:`Preprocess`, a plain function, or ``None`` where there is nothing to do.
        compute_dtype: Dtype that the blocks compute in; ``None`` for that of the parameters. Softmax,
            norms and pooling run in at least float32 whatever it is.
        name: What its checkpoint is called, as records and tables name it; ``None`` for one that was
            not loaded.
        pooler: The pooler that its checkpoint says it was trained with, whose parameters, if it has
            any, are ``params["pooler"]``; ``None`` where the checkpoint says none.
        origin: What is known of the folder in Hugging Face layout that it was loaded from; ``None`` for
            one that was not.
        remat: Compute blocks again in a backward pass instead of keeping what they compute.
        summary_token: What "last" pooling means for this family: ``"first"`` where a CLS token
            stands in front, ``"last"`` for causal models.
        modality: What it reads: ``"language"``, ``"vision"`` or ``"series"``.
        num_prefix: Number of tokens in front that stand for no part of the input.
    """

    summary_token: ClassVar[str]
    modality: ClassVar[str]
    num_prefix: ClassVar[int] = 0

    params: PyTree
    config: Any = struct.field(pytree_node=False)
    preprocess: Any = struct.field(pytree_node=False, default=None)
    compute_dtype: Dtype | None = struct.field(pytree_node=False, default=None)
    remat: bool = struct.field(pytree_node=False, default=False)
    name: str | None = struct.field(pytree_node=False, default=None)
    pooler: Pooler | None = struct.field(pytree_node=False, default=None)
    origin: Any = struct.field(pytree_node=False, default=None)

    @property
    @abc.abstractmethod
    def num_layers(self) -> int:
        """Number of layers that ``layer`` counts."""

    @abc.abstractmethod
    def embed(
        self, params: PyTree, inputs: Any, mask: Bool[Any, "*batch n"] | None = None
    ) -> tuple[Any, Bool[Array, "*batch n"] | None]:
        """Inputs to embeddings, ``(*batch, n, d)``, and the mask of the tokens."""

    @abc.abstractmethod
    def run(
        self,
        params: PyTree,
        embeddings: Float[Array, "*batch n d"],
        mask: Bool[Array, "*batch n"] | None,
        layer: int,
        return_weights: bool,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """The pass through the layers, of checked embeddings: tokens, and attention or ``None``."""

    def run_several(
        self,
        params: PyTree,
        embeddings: Float[Array, "*batch n d"],
        mask: Bool[Array, "*batch n"] | None,
        layers: tuple[int, ...],
        return_weights: bool,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """The same for several layers, whose tokens stand side by side, ``(*batch, n, layers d)``.

        Raises:
            ValueError: for a backbone whose layers have other tokens each.
        """
        del params, embeddings, mask, return_weights
        kind = type(self).__name__
        raise ValueError(f"layer: expected one of {kind}, whose layers differ in tokens, got {layers}")

    @abc.abstractmethod
    def layer_specs(self, params: PyTree) -> list[LayerSpec]:
        """Describe the layers for the bounds, in the order in which they act.

        Args:
            params: Parameters.

        Returns:
            One :class:`LayerSpec` for each attention, feed-forward or other layer.
        """

    def iter_layer_specs(self, params: PyTree) -> Iterator[LayerSpec]:
        """Describe one layer after the other, so that those of large models need not be held at once.

        Args:
            params: Parameters.

        Returns:
            What :meth:`layer_specs` lists.
        """
        return iter(self.layer_specs(params))

    def encode(
        self,
        params: PyTree,
        embeddings: Float[Array, "*batch n d"],
        mask: Bool[Array, "*batch n"] | None = None,
        *,
        layer: int | Sequence[int] = -1,
        return_weights: bool = False,
    ) -> TokenStates:
        """Embeddings to token states; noise, attacks and Jacobians act on the embeddings.

        Args:
            params: Parameters.
            embeddings: What :meth:`embed` returns, shape ``(*batch, n, d)``.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.
            layer: As for :meth:`apply`.
            return_weights: Also return the attention of every layer.

        Returns:
            The token states.

        Raises:
            ValueError: for a wrong shape or layer, or values that are not finite.
        """
        self.check_layer(layer)
        check_tokens("embeddings", embeddings)
        mask = broadcast_mask(mask, embeddings.shape[:-1])
        check_finite("embeddings", embeddings, mask)
        x = zero_masked(jnp.asarray(embeddings), mask)
        dtype = jnp.dtype(self.compute_dtype or jnp.result_type(*jax.tree.leaves(params["encoder"])))
        # Half-precision weights compute in half precision, though images and series are float32.
        if self.compute_dtype is not None or dtype.itemsize < 4:
            x = x.astype(dtype)
        if isinstance(layer, int):
            states, weights = self.run(params, x, mask, layer, return_weights)
        else:
            states, weights = self.run_several(params, x, mask, tuple(layer), return_weights)
        return TokenStates(states=states, mask=mask, num_prefix=self.num_prefix, weights=weights)

    def check_layer(self, layer: int | Sequence[int]) -> None:
        """Refuse anything but a layer, or several, each once.

        Args:
            layer: As for :meth:`apply`.

        Raises:
            ValueError: for a number outside, one that stands there twice, or none.
        """
        for number in [layer] if isinstance(layer, int) or not isinstance(layer, Sequence) else layer:
            if type(number) is not int or not -1 <= number <= self.num_layers:
                raise ValueError(f"layer: expected -1 to {self.num_layers}, got {number!r}")
        if isinstance(layer, Sequence) and (not layer or len(set(layer)) != len(layer)):
            raise ValueError(f"layer: expected several, each once, got {tuple(layer)}")

    def describe_positions(self, shape: tuple[int, ...]) -> str | None:
        """What is done to positions for raw inputs of a shape, as records say it, or ``None``."""
        del shape
        return None

    @property
    def preprocessing(self) -> Preprocess:
        """What ``preprocess`` is, a plain function or ``None`` as well, saying what it takes."""
        return as_preprocess(self.preprocess)

    def prepare(
        self, raw: Any, mask: Bool[Array, "*batch n"] | None = None
    ) -> tuple[Any, Bool[Array, "*batch n"] | None]:
        """Raw inputs and their mask to what :meth:`apply` takes, by ``preprocess`` if there is one.

        Args:
            raw: Images, texts or series; token ids, an array of integers, pass as they are.
            mask: True at real tokens or observed steps; for texts ``None``, since tokenising makes it.

        Returns:
            Inputs and mask.

        Raises:
            ValueError: for texts with a mask, or as ``preprocess`` raises.
        """
        return self.preprocessing.prepare(raw, mask)

    def apply(
        self,
        params: PyTree,
        inputs: Array,
        mask: Bool[Array, "*batch n"] | None = None,
        *,
        layer: int | Sequence[int] = -1,
        return_weights: bool = False,
    ) -> TokenStates:
        """Map preprocessed inputs to token states; a pure function of ``params``.

        Args:
            params: Parameters, such as ``self.params``.
            inputs: Preprocessed inputs.
            mask: True at real tokens; ``None`` if all are real.
            layer: ``-1`` for the model's output after its final norm; ``0`` for the embeddings,
                ``k`` for what comes out of block ``k``. Several of them, in one pass, for states side
                by side in their order: ``(*batch, n, layers d)``.
            return_weights: Also return the attention of every layer.

        Returns:
            The token states.

        Raises:
            ValueError: for a wrong shape or layer, or values that are not finite.

        Example:
            >>> import jax
            >>> from poolax.backbones import ViT, ViTConfig
            >>> config = ViTConfig(4, 2, 1, width=8, num_layers=2, num_heads=2, mlp_dim=8)
            >>> vit, image = ViT.init(config, jax.random.key(0)), jnp.ones((1, 4, 4, 1))
            >>> both = vit.apply(vit.params, image, layer=(1, -1)).states
            >>> both.shape, bool((both[..., 8:] == vit(image).states).all())
            ((1, 5, 16), True)
        """
        embeddings, mask = self.embed(params, inputs, mask)
        return self.encode(params, embeddings, mask, layer=layer, return_weights=return_weights)

    def pool(
        self, params: PyTree, tokens: TokenStates, *, skipped: int = 0
    ) -> Float[Array, "*batch k"]:
        """Token states to the embeddings that the checkpoint was trained for; pure.

        Args:
            params: Parameters, such as ``self.params``.
            tokens: What :meth:`apply` returns.
            skipped: Real tokens in front that are not pooled, such as
                ``preprocess.tokens_not_pooled(prompt)``.

        Returns:
            Pooled vectors, by ``self.pooler``.

        Raises:
            ValueError: if there is no pooler.

        Example:
            >>> import dataclasses, jax
            >>> from poolax.backbones import ViT, ViTConfig
            >>> from poolax.pooling import AveragePool
            >>> config = ViTConfig(4, 2, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
            >>> vit = ViT.init(config, jax.random.key(0)).replace(pooler=AveragePool())
            >>> vit.pool(vit.params, vit(jnp.ones((3, 4, 4, 1)))).shape
            (3, 8)
        """
        pooler, variables = self.pooler, {"params": params.get("pooler", {})}
        if pooler is None:
            raise ValueError(f"pooler: expected one that {self.name or 'the backbone'} has, got None")
        if skipped:
            pooler, variables = behind(pooler, skipped), {"params": {"pooler": variables["params"]}}
        return jnp.asarray(pooler.apply(variables, tokens.states, tokens.mask))

    def check_stackable(self) -> None:
        """Refuse to stack the parameters of blocks that differ.

        Raises:
            ValueError: unless all blocks are equal.
        """
        raise ValueError(f"stacked: expected False for {type(self).__name__}, whose blocks differ")

    def __call__(self, inputs: Array, mask: Bool[Array, "*batch n"] | None = None) -> TokenStates:
        """``apply(self.params, inputs, mask)``."""
        return self.apply(self.params, inputs, mask)

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


@struct.dataclass
class BlockBackbone(Backbone):
    """Abstract backbone of blocks of one width, with a final norm or none.

    Parameters: ``embeddings`` and ``encoder``; in the latter ``block_0``, ``block_1``, … or, after
    :meth:`stack_layers`, ``blocks``, and ``norm`` where there is a final norm.
    """

    norm_first: ClassVar[bool] = True

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return self.config.num_layers

    @abc.abstractmethod
    def block(self, index: int) -> nn.Module:
        """Block number ``index``."""

    @property
    def final_norm(self) -> nn.Module | None:
        """Norm behind the last block, or ``None``."""
        return None

    def logit_bias(self, params: PyTree, num_tokens: int) -> Array | None:
        """What is added to the logits, or ``None``.

        Shape ``(H, n, n)``, or ``(layers, H, n, n)`` where each block has its own.
        """
        del params, num_tokens
        return None

    @classmethod
    @abc.abstractmethod
    def init_embeddings(cls, config: Any, key: Array) -> PyTree:
        """Random parameters of the embeddings."""

    @classmethod
    def init(cls, config: Any, key: Array, preprocess: Any = None) -> Self:
        """A model with random parameters.

        Args:
            config: Sizes and switches.
            key: Random key.
            preprocess: Maps raw inputs to what :meth:`apply` takes; ``None`` if they are that already.

        Returns:
            The model.
        """
        model = cls(params=None, config=config, preprocess=preprocess)

        def random_params(key):
            embed_key, encode_key, norm_key = jax.random.split(key, 3)
            blocks = [model.block(index) for index in range(model.num_layers)]
            encoder = _layers.init_blocks(blocks, encode_key, config.width)
            if model.final_norm is not None:
                norm = model.final_norm.init(norm_key, jnp.zeros((1, config.width)))
                encoder["norm"] = norm["params"]
            return {"embeddings": cls.init_embeddings(config, embed_key), "encoder": encoder}

        # One compiled program instead of some hundred dispatches.
        return dataclasses.replace(model, params=jax.jit(random_params)(key))

    def stack_layers(self) -> Self:
        """The same model with the parameters of its blocks stacked, so that one ``scan`` runs them.

        The program then has one block instead of ``num_layers``: it compiles in a fraction of the time.

        Returns:
            The model.

        Raises:
            ValueError: if the blocks differ, as where only some have a sliding window.
        """
        if _layers.is_stacked(self.params["encoder"]):
            return self
        self.check_stackable()
        encoder = _layers.stack_blocks(self.params["encoder"])
        return dataclasses.replace(self, params={**self.params, "encoder": encoder})

    def unstack_layers(self) -> Self:
        """The same model with parameters by block again; undoes :meth:`stack_layers`.

        Returns:
            The model.

        Example:
            >>> import jax
            >>> from poolax.backbones import ViT, ViTConfig
            >>> config = ViTConfig(4, 2, 1, width=8, num_layers=2, num_heads=2, mlp_dim=8)
            >>> stacked = ViT.init(config, jax.random.key(0)).stack_layers()
            >>> sorted(stacked.params["encoder"]), sorted(stacked.unstack_layers().params["encoder"])
            (['blocks', 'norm'], ['block_0', 'block_1', 'norm'])
        """
        if not _layers.is_stacked(self.params["encoder"]):
            return self
        encoder = _layers.unstack_blocks(self.params["encoder"])
        return dataclasses.replace(self, params={**self.params, "encoder": encoder})

    def check_stackable(self) -> None:
        """See :meth:`Backbone.check_stackable`."""
        blocks = [self.block(index) for index in range(self.num_layers)]
        odd = [index for index, block in enumerate(blocks) if block != blocks[0]]
        if odd:
            raise ValueError(
                f"layers: expected equal blocks to stack, got block {odd[0]} unlike block 0"
            )

    def run(self, params, embeddings, mask, layer, return_weights):
        """See :meth:`Backbone.run`."""
        return self.run_several(params, embeddings, mask, (layer,), return_weights)

    def run_several(self, params, embeddings, mask, layers, return_weights):
        """See :meth:`Backbone.run_several`."""
        bias = self.logit_bias(params, embeddings.shape[-2])
        ends = {layer: self.num_layers if layer == -1 else layer for layer in layers}
        x, weights, first, found = embeddings, (), 0, {}
        for end in sorted(set(ends.values())):
            x, attended = _layers.run_blocks(
                [self.block(index) for index in range(first, end)],
                params["encoder"],
                x,
                mask,
                bias,
                first=first,
                return_weights=return_weights,
                remat=self.remat,
                compute_dtype=self.compute_dtype,
            )
            weights, first = (*weights, *(attended or ())), end
            found |= {layer: x for layer in layers if ends[layer] == end}
        if -1 in found and self.final_norm is not None:
            norm = _layers.cast_floating(params["encoder"]["norm"], self.compute_dtype)
            final_norm: Any = self.final_norm
            found[-1] = final_norm.apply({"params": norm}, found[-1])
        states = [found[layer] for layer in layers]
        together = states[0] if len(states) == 1 else jnp.concatenate(states, axis=-1)
        return together, weights if return_weights else None

    def layer_specs(self, params) -> list[LayerSpec]:
        """See :meth:`Backbone.layer_specs`."""
        return list(self.iter_layer_specs(params))

    def iter_layer_specs(self, params) -> Iterator[LayerSpec]:
        """See :meth:`Backbone.iter_layer_specs`."""
        encoder = params["encoder"]
        for index in range(self.num_layers):
            yield from _layers.block_specs(
                _layers.block_name(index),
                self.block(index),
                _layers.block_params(encoder, index),
                norm_first=self.norm_first,
            )
        if self.final_norm is not None:
            norm = _layers.norm_spec(self.final_norm, encoder["norm"])
            yield LayerSpec(name="norm", norm_after=norm, residual=False)

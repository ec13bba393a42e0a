"""The frozen backbone's pass over the data, where a probe's time goes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from poolax._checks import check_count, check_instance
from poolax._inputs import Inputs
from poolax._processes import agreed
from poolax._programs import kept_program
from poolax._progress import Progress, no_progress
from poolax._signals import PreemptedError, stop_asked
from poolax.backbones import Backbone
from poolax.records import TokenStates
from poolax.training._devices import Mapper, mesh_of
from poolax.training._states.by_length import TextsByLength
from poolax.training._states.host import HostStates
from poolax.training._states.padding import contiguous_starts, count_tokens
from poolax.training._states.prepared import of_rows, prepare


def extract_states(
    backbone: Backbone,
    inputs: Inputs | np.ndarray | Sequence[str],
    mask: Any = None,
    *,
    indices: Int[np.ndarray, " num"] | None = None,
    layer: int | Sequence[int] = -1,
    batch_size: int = 256,
    should_stop: Callable[[], bool] = stop_asked,
    progress: Progress = no_progress,
) -> TokenStates:
    """Token states of inputs, computed once, batches split over the devices.

    Texts are sorted by length, so that their padding is hardly computed. Weights that are split over
    a mesh stay there.

    Args:
        backbone: A frozen backbone.
        inputs: Raw inputs, shape ``(N, ...)``, or texts, shape ``(N,)`` or ``(N, parts)``; the
            backbone's ``preprocess`` is applied. Inputs that are read when indexed are read batch by
            batch.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        indices: Which inputs, shape ``(num,)``; ``None`` for all of them.
        layer: As for ``Backbone.apply``: the layer, or several, whose states then stand side by side.
        batch_size: Inputs at a time over the local devices.
        should_stop: Asked after every batch; see :func:`stop_on_sigterm`.
        progress: Called with a description, the number done and the total.

    Returns:
        The states, shape ``(N, n, d)`` or ``(N, parts, n, d)``, and their mask as NumPy arrays, in the
        order of ``indices`` if given. States of padding tokens of texts are zero.

    Raises:
        ValueError: if there is no input, or as the backbone raises.
        PreemptedError: if asked to stop.

    Example:
        >>> import jax
        >>> from poolax.backbones import ViT, ViTConfig
        >>> config = ViTConfig(4, 2, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> vit = ViT.init(config, jax.random.key(0))
        >>> extract_states(vit, np.zeros((10, 4, 4, 1), np.float32)).states.shape
        (10, 5, 8)
    """
    features = FeaturePass(
        backbone,
        inputs,
        mask,
        indices=indices,
        layer=layer,
        batch_size=batch_size,
        should_stop=should_stop,
    )
    collected: Any = features.collect(progress)
    return TokenStates(collected.states, collected.mask, features.num_prefix)


class FeaturePass:
    """A backbone and the inputs that it is to map, prepared once: texts are tokens.

    Args:
        backbone: A frozen backbone.
        inputs: As for :func:`extract_states`.
        mask: As for :func:`extract_states`.
        indices: As for :func:`extract_states`.
        layer: As for :func:`extract_states`.
        batch_size: As for :func:`extract_states`.
        should_stop: As for :func:`extract_states`.
        mapping: How the backbone is mapped over devices; see :class:`Mapper`.

    Raises:
        ValueError: if there is no input, or as the backbone's ``prepare`` raises for texts.
    """

    def __init__(
        self,
        backbone: Backbone,
        inputs: Inputs | np.ndarray | Sequence[str],
        mask: Any = None,
        *,
        indices: Int[np.ndarray, " num"] | None = None,
        layer: int | Sequence[int] = -1,
        batch_size: int = 256,
        should_stop: Callable[[], bool] = stop_asked,
        mapping: str = "auto",
    ):
        check_instance("backbone", backbone, Backbone, "a Backbone")
        check_count("batch_size", batch_size)
        backbone.check_layer(layer)
        layer = layer if isinstance(layer, int) else tuple(layer)
        backbone, self._given = prepare(backbone, inputs, mask, indices)
        self.num_examples, self.mapping = len(self._given.inputs), mapping
        self.num_prefix = backbone.num_prefix
        self._params, self._should_stop = backbone.params, should_stop
        mesh = mesh_of(backbone.params)
        self._forward = functools.partial(_forward, dataclasses.replace(backbone, params=None), layer)
        self._mapper = _forward_program((), *self._forward.args, batch_size, mesh, mapping)
        # Sequences one by one, in batches of whole examples on every device.
        unit = self._given.parts * (jax.local_device_count() if mesh is None else 1)
        whole = max(1, batch_size // unit) * unit
        self._sequence_mapper = _forward_program((), *self._forward.args, whole, mesh, mapping)

    @property
    def text_mask(self) -> Bool[np.ndarray, "*batch n"] | None:
        """True at real tokens of texts; ``None`` for other inputs."""
        return self._given.text_mask

    def program(self) -> str:
        """The lowered forward program of one input, which is another if the computation is."""
        return jax.jit(self._forward).lower(*self._one_example()).as_text()

    @functools.cached_property
    def one_output(self) -> TokenStates:
        """Shape and dtype of the token states of one input; nothing is computed."""
        return jax.eval_shape(self._forward, *self._one_example())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all states, ``(N, *parts, n, d)``."""
        return (self.num_examples, *self.one_output.states.shape[1:])

    @property
    def token_counts(self) -> tuple[int, int]:
        """Fewest and most real tokens of a sequence, at least one; of series one is the fewest."""
        num_tokens, mask = self.shape[-2], self.text_mask
        if mask is not None:
            return count_tokens(mask, num_tokens)
        return (1 if self.one_output.mask is not None else num_tokens), num_tokens

    def _one_example(self):
        one = {name: np.asarray(array[:1]) for name, array in self._given.arrays.items()}
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)),
            (self._params, one),
        )

    def of_examples(self, positions: Int[np.ndarray, " num"]) -> HostStates:
        """Token states of some inputs, in this order, padded as all are.

        Of texts little is computed on padding, unless several processes ask for other inputs each.
        """
        if self._texts is not None and jax.process_count() == 1:
            return self._texts.of_examples(self._placed, positions)
        rows = {name: of_rows(array, positions) for name, array in self._given.arrays.items()}
        return HostStates.of(self._mapper(self._placed, rows, description="features"))

    def collect(self, progress: Progress = no_progress) -> HostStates:
        """All token states in memory."""
        states, masks = None, None
        for positions, batch in self.batches(progress):
            if states is None:
                states = np.zeros((self.num_examples, *batch.states.shape[1:]), batch.states.dtype)
                if batch.mask is not None:
                    masks = np.zeros(states.shape[:-1], np.bool_)
            states[positions] = batch.states
            if masks is not None:
                masks[positions] = batch.mask
        if states is None:
            raise ValueError("inputs: expected at least one, got none")
        return HostStates(states, masks)

    def batches(
        self, progress: Progress = no_progress, *, first: int = 0
    ) -> Iterator[tuple[Int[np.ndarray, " num"], HostStates]]:
        """All token states, batch by batch, and the positions of their inputs.

        Args:
            progress: Called with a description, the number done and the total.
            first: Number of the first batch; those before it are not computed.

        Raises:
            PreemptedError: if asked to stop, once the batch that was given has been taken.
        """
        if self._texts is None:
            batches = self._as_they_are(progress, first)
        else:
            batches = self._texts.batches(self._placed, first, progress)
        for batch in batches:
            yield batch
            if agreed(self._should_stop())[0]:
                raise PreemptedError("stopped while the backbone maps the data")

    @property
    def layout(self) -> list[int]:
        """What decides which examples are in which batch, beside the data and the backbone."""
        processes = jax.process_count()
        if self._texts is None:
            return [self._mapper.batch_size, processes]
        return [self._sequence_mapper.batch_size, processes, *self._texts.lengths]

    @functools.cached_property
    def _placed(self):
        """Weights on the devices, where they stay while heads ask for states again and again."""
        return self._mapper.place(self._params)

    @functools.cached_property
    def _texts(self) -> TextsByLength | None:
        """Texts whose sequences can be moved to the front; ``None`` for what cannot."""
        mask = self.text_mask
        if mask is None or contiguous_starts(mask) is None:
            return None
        return TextsByLength(self._given.inputs, mask, self._given.parts, self._sequence_mapper)

    def _as_they_are(self, progress, first):
        arrays = self._given.arrays
        done = first * self._mapper.batch_size * jax.process_count()

        def fetch(start, stop, skipped=done):
            rows = slice(start + skipped, stop + skipped)
            return {name: np.asarray(array[rows]) for name, array in arrays.items()}

        for tokens in self._mapper.batches(self._placed, fetch, self.num_examples - done):
            positions = np.arange(done, done + len(tokens.states))
            done += len(positions)
            progress("features", done, self.num_examples)
            yield positions, HostStates.of(tokens)


def _forward(backbone, layer, params, batch):
    prepared = backbone.prepare(batch["inputs"], batch.get("mask"))
    return backbone.apply(params, *prepared, layer=layer)


@kept_program
def _forward_program(backbone, layer, batch_size, mesh, mapping):
    """Token states of batches; of a backbone without its weights, which are given with each call."""
    return Mapper(functools.partial(_forward, backbone, layer), batch_size, mesh, mapping)

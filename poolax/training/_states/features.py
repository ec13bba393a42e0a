"""The frozen backbone's pass over the data, where a probe's time goes."""

import dataclasses
import functools
import itertools
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

# A shorter sequence is another program: what it has to save, in tokens, to be worth compiling.
_LEAST_SAVING = 2**14
_MOST_LENGTHS = 4
_LENGTH_STEP = 8


def extract_states(
    backbone: Backbone,
    inputs: Inputs | np.ndarray | Sequence[str],
    mask: Any = None,
    *,
    indices: Int[np.ndarray, " num"] | None = None,
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
        backbone, inputs, mask, indices=indices, batch_size=batch_size, should_stop=should_stop
    )
    collected: Any = features.collect(progress)
    return TokenStates(collected.states, collected.mask, features.num_prefix)


@dataclasses.dataclass(frozen=True)
class HostStates:
    """Token states on the host.

    Attributes:
        states: Shape ``(N, *parts, n, d)``.
        mask: True at real tokens, shape ``(N, *parts, n)``; ``None`` if all are real.
    """

    states: np.ndarray
    mask: np.ndarray | None


class FeaturePass:
    """A backbone and the inputs that it is to map, prepared once: texts are tokens.

    Args:
        backbone: A frozen backbone.
        inputs: As for :func:`extract_states`.
        mask: As for :func:`extract_states`.
        indices: As for :func:`extract_states`.
        batch_size: As for :func:`extract_states`.
        should_stop: As for :func:`extract_states`.

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
        batch_size: int = 256,
        should_stop: Callable[[], bool] = stop_asked,
    ):
        check_instance("backbone", backbone, Backbone, "a Backbone")
        check_count("batch_size", batch_size)
        is_text = isinstance(inputs, (str, bytes))
        if is_text or not hasattr(inputs, "__len__") or getattr(inputs, "ndim", 1) == 0:
            raise ValueError(f"inputs: expected an array, texts or Inputs, got {inputs!r:.80}")
        if len(inputs) == 0:
            raise ValueError("inputs: expected at least one, got none")
        inputs = np.asarray(inputs) if isinstance(inputs, Sequence) else inputs
        if indices is not None:
            _check_indices(indices, len(inputs))
            inputs = _Rows(inputs, indices)
            mask = None if mask is None else _Rows(mask, indices)
        if getattr(backbone.preprocess, "on_host", False):
            inputs, mask = _prepare_texts(backbone, inputs, mask)
            backbone = dataclasses.replace(backbone, preprocess=None)
        self.num_examples = len(inputs)
        self.num_prefix = backbone.num_prefix
        self._backbone, self._inputs, self._mask = backbone, inputs, mask
        self._should_stop = should_stop
        mesh = mesh_of(backbone.params)
        self._forward = functools.partial(_forward, dataclasses.replace(backbone, params=None))
        self._mapper = _forward_program((), *self._forward.args, batch_size, mesh)
        # Sequences one by one, in batches of whole examples on every device.
        self._parts = inputs.shape[1] if len(inputs.shape) == 3 else 1
        unit = self._parts * (jax.local_device_count() if mesh is None else 1)
        whole = max(1, batch_size // unit) * unit
        self._sequence_mapper = _forward_program((), *self._forward.args, whole, mesh)

    @property
    def _is_text(self):
        """Whether inputs are token ids with a mask, of which padding can be cut off."""
        dtype = getattr(self._inputs, "dtype", None)
        is_integer = dtype is not None and np.issubdtype(dtype, np.integer)
        return self._mask is not None and is_integer

    @property
    def text_mask(self) -> Bool[np.ndarray, "*batch n"] | None:
        """True at real tokens of texts; ``None`` for other inputs."""
        return np.asarray(self._mask[:]) if self._is_text and self._mask is not None else None

    def _arrays(self):
        return {"inputs": self._inputs} | ({} if self._mask is None else {"mask": self._mask})

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
        num_tokens = self.shape[-2]
        if self._is_text and self._mask is not None:
            return count_tokens(self._mask[:], num_tokens)
        return (1 if self.one_output.mask is not None else num_tokens), num_tokens

    def _one_example(self):
        one = {name: np.asarray(array[:1]) for name, array in self._arrays().items()}
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)),
            (self._backbone.params, one),
        )

    def of_examples(self, positions: Int[np.ndarray, " num"]) -> HostStates:
        """Token states of some inputs, in this order, padded as all are.

        Of texts little is computed on padding, unless several processes ask for other inputs each.
        """
        if self._starts is not None and jax.process_count() == 1:
            return self._of_texts(positions)
        rows = {name: _Rows(array, positions) for name, array in self._arrays().items()}
        tokens = self._mapper(self._placed, rows, description="features")
        return _on_host(tokens)

    def _of_texts(self, positions):
        masks = np.asarray(self._mask[positions])
        ids, mask = (
            np.asarray(array).reshape(-1, masks.shape[-1]) for array in (self._inputs[positions], masks)
        )
        longest = self._longest.reshape(-1, self._parts)[positions].ravel()
        states = np.zeros((*mask.shape, self.shape[-1]), self.one_output.states.dtype)
        for shorter, length in itertools.pairwise([0, *self._lengths]):
            rows = np.flatnonzero((longest > shorter) & (longest <= length))
            if not len(rows):
                continue
            front, real = _to_front(ids[rows], mask[rows], length)
            batch = {"inputs": front, "mask": real}
            values = self._sequence_mapper(self._placed, batch, description="features").states
            of_rows = np.zeros((len(rows), *states.shape[1:]), states.dtype)
            of_rows[mask[rows]] = values[real]
            states[rows] = of_rows
        return HostStates(states.reshape(*masks.shape, -1), masks)

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
        batches = self._as_they_are if self._starts is None else self._by_length
        for batch in batches(progress, first):
            yield batch
            if agreed(self._should_stop())[0]:
                raise PreemptedError("stopped while the backbone maps the data")

    @property
    def layout(self) -> list[int]:
        """What decides which examples are in which batch, beside the data and the backbone."""
        processes = jax.process_count()
        if self._starts is None:
            return [self._mapper.batch_size, processes]
        return [self._sequence_mapper.batch_size, processes, *self._lengths]

    @functools.cached_property
    def _placed(self):
        """Weights on the devices, where they stay while heads ask for states again and again."""
        return self._mapper.place(self._backbone.params)

    @functools.cached_property
    def _lengths(self) -> list[int]:
        """Lengths to which sequences are padded."""
        return length_groups(self._longest, self._mask.shape[-1])

    @functools.cached_property
    def _longest(self) -> np.ndarray:
        """Tokens of the longest part of each sequence's example: its parts are given back together."""
        lengths = np.maximum(self._mask[:].sum(-1).reshape(-1, self._parts), 1)
        return np.repeat(lengths.max(-1), self._parts)

    @functools.cached_property
    def _starts(self):
        """Where sequences start that can be moved to the front; ``None`` if they cannot."""
        return contiguous_starts(self._mask[:]) if self._is_text and self._mask is not None else None

    def _as_they_are(self, progress, first):
        arrays = self._arrays()
        done = first * self._mapper.batch_size * jax.process_count()

        def fetch(start, stop, skipped=done):
            rows = slice(start + skipped, stop + skipped)
            return {name: np.asarray(array[rows]) for name, array in arrays.items()}

        for tokens in self._mapper.batches(self._backbone.params, fetch, self.num_examples - done):
            positions = np.arange(done, done + len(tokens.states))
            done += len(positions)
            progress("features", done, self.num_examples)
            yield positions, _on_host(tokens)

    def _by_length(self, progress, first):
        """Sequences of like length together, each moved to the front and back again.

        Positions count from the first real token, so that a sequence may stand anywhere.
        """
        all_masks, parts = self._mask[:], self._parts
        num_tokens = all_masks.shape[-1]
        ids, mask = (
            np.asarray(self._inputs[:]).reshape(-1, num_tokens),
            all_masks.reshape(-1, num_tokens),
        )
        longest, placed = self._longest, self._mapper.place(self._backbone.params)
        stride = self._sequence_mapper.batch_size * jax.process_count()
        done = 0
        for shorter, length in itertools.pairwise([0, *self._lengths]):
            rows = np.flatnonzero((longest > shorter) & (longest <= length))
            skipped = min(first, -(-len(rows) // stride))
            first -= skipped
            before, rows = np.split(rows, [skipped * stride])
            done += len(before) // parts
            front, real = _to_front(ids[rows], mask[rows], length)

            def fetch(start, stop, front=front, real=real):
                return {"inputs": front[start:stop], "mask": real[start:stop]}

            for tokens in self._sequence_mapper.batches(placed, fetch, len(rows)):
                now, rows = np.split(rows, [len(tokens.states)])
                real_now, real = np.split(real, [len(now)])
                values = np.asarray(tokens.states)
                states = np.zeros((len(now), num_tokens, values.shape[-1]), values.dtype)
                states[mask[now]] = values[real_now]
                positions = now[::parts] // parts
                masks = all_masks[positions]
                done += len(positions)
                progress("features", done, self.num_examples)
                yield positions, HostStates(states.reshape(*masks.shape, -1), masks)


def _forward(backbone, params, batch):
    prepared = backbone.prepare(batch["inputs"], batch.get("mask"))
    return backbone.apply(params, *prepared)


@kept_program
def _forward_program(backbone, batch_size, mesh):
    """Token states of batches; of a backbone without its weights, which are given with each call."""
    return Mapper(functools.partial(_forward, backbone), batch_size, mesh)


def _to_front(ids, mask, length):
    """Real tokens of sequences side by side, in front and cut, and where they stand now."""
    starts = np.argmax(mask, axis=-1)
    columns = np.minimum(starts[:, None] + np.arange(length), mask.shape[-1] - 1)
    real = np.arange(length) < mask.sum(axis=-1)[:, None]
    return np.where(real, np.take_along_axis(ids, columns, 1), 0), real


def length_groups(
    lengths: Int[np.ndarray, " num"], num_tokens: int, *, least_saving: float | None = None
) -> list[int]:
    """Lengths to which sequences are padded, so that little is computed on padding.

    Args:
        lengths: Length of each sequence.
        num_tokens: Length that all are padded to otherwise.
        least_saving: Tokens that pay for compiling one more program; ``None`` for those of a backbone.

    Returns:
        Ascending lengths, the last ``num_tokens``'s or that of the longest; a sequence is padded to the
        first that is not below its own. There are at most four, and each saves as many tokens as
        it takes to pay for compiling one more program.

    Example:
        >>> length_groups(np.repeat([5, 30], 5_000), 32)
        [8, 32]
    """
    rounded = np.minimum(-(-np.maximum(lengths, 1) // _LENGTH_STEP) * _LENGTH_STEP, num_tokens)
    candidates, counts = np.unique(rounded, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    last = len(candidates) - 1
    # best[j]: least tokens, and the groups, of all sequences up to candidate j; one more group a turn.
    best = [(before[j + 1] * candidates[j], [int(candidates[j])]) for j in range(last + 1)]
    chosen = best[last]
    for _ in range(_MOST_LENGTHS - 1):
        best = [
            min(
                [best[j]]
                + [
                    (
                        best[i][0] + (before[j + 1] - before[i + 1]) * candidates[j],
                        [*best[i][1], int(candidates[j])],
                    )
                    for i in range(j)
                ]
            )
            for j in range(last + 1)
        ]
        if chosen[0] - best[last][0] < (_LEAST_SAVING if least_saving is None else least_saving):
            break
        chosen = best[last]
    return chosen[1]


def count_tokens(mask: Bool[np.ndarray, "*batch n"] | None, num_tokens: int) -> tuple[int, int]:
    """Fewest and most real tokens of a sequence; one without any counts as one."""
    if mask is None:
        return num_tokens, num_tokens
    lengths = np.maximum(np.asarray(mask).sum(axis=-1), 1)
    return int(lengths.min()), int(lengths.max())


def contiguous_starts(mask: Bool[np.ndarray, "*batch n"]) -> Int[np.ndarray, "*batch"] | None:
    """Where each row's real tokens start, if they stand side by side in every row."""
    mask = np.asarray(mask)
    starts = np.argmax(mask, axis=-1)
    offsets = np.arange(mask.shape[-1]) - starts[..., None]
    whole = (offsets >= 0) & (offsets < mask.sum(-1, keepdims=True))
    return starts if (mask == whole).all() else None


def _on_host(tokens):
    mask = None if tokens.mask is None else np.asarray(tokens.mask)
    return HostStates(np.asarray(tokens.states), mask)


class _Rows:
    """Some rows of an array, or of inputs that are read when indexed."""

    def __init__(self, array: Any, indices: Int[np.ndarray, " num"]):
        self._array = array
        self._indices = indices
        self.shape = (len(indices), *array.shape[1:])
        self.dtype = getattr(array, "dtype", None)

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, batch: Any, /) -> np.ndarray:
        return self._array[self._indices[batch]]


def _check_indices(indices, num_inputs):
    found = np.asarray(indices)
    whole = found.ndim == 1 and np.issubdtype(found.dtype, np.integer)
    if not whole or (found.size and not 0 <= found.min() <= found.max() < num_inputs):
        raise ValueError(f"indices: expected numbers from 0 to {num_inputs - 1}, got {indices!r:.80}")


def _prepare_texts(backbone, texts, mask):
    if isinstance(texts, _Rows):
        texts = texts[:]
    if np.issubdtype(np.asarray(texts).dtype, np.integer):  # token ids already
        return np.asarray(texts), None if mask is None else np.asarray(mask[:])
    shape = np.shape(texts)
    ids, mask = map(np.asarray, backbone.prepare(np.ravel(texts).tolist(), mask))
    return ids.reshape(*shape, -1), mask.reshape(*shape, -1)

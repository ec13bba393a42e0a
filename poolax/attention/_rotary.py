"""Rotary positions, and the ways in which models stretch them to longer texts."""

import abc
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from poolax import codec
from poolax._checks import check_count, check_divides, check_number, check_values
from poolax._numerics import accumulation_dtype, with_leading_axes
from poolax._typing import AnyArray


class RotaryScaling(abc.ABC):
    """Abstract: how frequencies change; frozen, hashable configurations."""

    def __post_init__(self):
        """Refuse numbers that are not positive."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, bool):
                check_values(field.name, np.asarray(value), above=0.0)

    @abc.abstractmethod
    def __call__(self, frequencies: Array, theta: float, lengths: Array) -> Array:
        """Change the frequencies.

        Args:
            frequencies: ``theta^(-2j / d_h)``, shape ``(d_h / 2,)``.
            theta: Base of the frequencies.
            lengths: Numbers of tokens of the sequences, shape ``(*batch, 1)``.

        Returns:
            The new frequencies, shape ``(d_h / 2,)`` or ``(*batch, d_h / 2)``.
        """

    @property
    def feature_scale(self) -> float:
        """What turned features are multiplied with."""
        return 1.0


@codec.register("rotary_scaling", "linear")
@dataclasses.dataclass(frozen=True)
class LinearScaling(RotaryScaling):
    """Positions divided by a factor.

    Attributes:
        factor: The divisor, positive.

    Reference:
        Chen et al., "Extending Context Window of Large Language Models via Positional
        Interpolation" (2023).
    """

    factor: float

    def __call__(self, frequencies, theta, lengths):
        """See :class:`RotaryScaling`."""
        return frequencies / self.factor


@codec.register("rotary_scaling", "dynamic")
@dataclasses.dataclass(frozen=True)
class DynamicScaling(RotaryScaling):
    """The base grows with the length of a sequence that is longer than what the model was made for.

    ``theta (factor n / max_tokens - (factor - 1))^(d_h / (d_h - 2))`` for ``n > max_tokens``. Each
    sequence of a batch has its own length, so that a batch equals its sequences one by one.

    Attributes:
        factor: How fast the base grows, at least 1.
        max_tokens: Longest sequence with the model's own base.

    Reference:
        The dynamic "neural tangent kernel" scaling of the Llama family.
    """

    factor: float
    max_tokens: int

    def __call__(self, frequencies, theta, lengths):
        """See :class:`RotaryScaling`."""
        half = frequencies.shape[-1]
        lengths = jnp.maximum(lengths, self.max_tokens).astype(frequencies.dtype)
        stretch = self.factor * lengths / self.max_tokens - (self.factor - 1)
        # theta^(-j / half) with theta times stretch^(half / (half - 1)).
        exponents = jnp.arange(half, dtype=frequencies.dtype) / max(half - 1, 1)
        return frequencies * stretch ** (-exponents)


@codec.register("rotary_scaling", "yarn")
@dataclasses.dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """Slow frequencies divided by a factor, fast ones kept, a linear ramp between.

    Attributes:
        factor: The divisor of the slow frequencies.
        original_max_tokens: Longest sequence of the pretraining.
        beta_fast: Frequencies with more turns than this over the pretraining length are kept.
        beta_slow: Frequencies with fewer are divided.
        magnitude: Factor of the features; ``None`` takes ``0.1 log(factor) + 1``.
        truncate: Whether the ramp starts and ends at whole indices.

    Reference:
        Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023).
    """

    factor: float
    original_max_tokens: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True

    def __call__(self, frequencies, theta, lengths):
        """See :class:`RotaryScaling`."""
        half = frequencies.shape[-1]

        def index(num_turns):
            """At which index a frequency turns so often over the pretraining length."""
            return (
                half * math.log(self.original_max_tokens / (num_turns * 2 * math.pi)) / math.log(theta)
            )

        low, high = index(self.beta_fast), index(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        ramp = (jnp.arange(half, dtype=frequencies.dtype) - low) / ((high - low) or 1e-3)
        divided = jnp.clip(ramp, 0, 1)
        return frequencies * (divided / self.factor + (1 - divided))

    @property
    def feature_scale(self) -> float:
        """See :class:`RotaryScaling`."""
        return yarn_magnitude(self.factor) if self.magnitude is None else self.magnitude


def yarn_magnitude(factor: float, strength: float = 1.0) -> float:
    """What YaRN multiplies rotated queries and keys with: ``0.1 strength log(factor) + 1``.

    Args:
        factor: How much longer texts may be; nothing is stretched up to 1.
        strength: Of the change.

    Returns:
        The factor, 1 where nothing is stretched.

    Example:
        >>> yarn_magnitude(1.0), round(yarn_magnitude(4.0), 4)
        (1.0, 1.1386)
    """
    return 1.0 if factor <= 1 else 0.1 * strength * math.log(factor) + 1.0


@codec.register("rotary_scaling", "longrope")
@dataclasses.dataclass(frozen=True)
class LongRopeScaling(RotaryScaling):
    """Each frequency with its own divisor: one set for short sequences, one for long ones.

    Attributes:
        short_factors: Divisors up to ``original_max_tokens`` tokens, ``d_h / 2`` of them.
        long_factors: Divisors beyond.
        original_max_tokens: Longest sequence of the pretraining.
        magnitude: Factor of the features.

    Reference:
        Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens" (2024).
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_tokens: int
    magnitude: float = 1.0

    def __call__(self, frequencies, theta, lengths):
        """See :class:`RotaryScaling`."""
        half = frequencies.shape[-1]
        for name in ("short_factors", "long_factors"):
            if len(getattr(self, name)) != half:
                raise ValueError(
                    f"{name}: expected d_h / 2 = {half} numbers, got {len(getattr(self, name))}"
                )
        short, long = (
            jnp.asarray(factors, frequencies.dtype)
            for factors in (self.short_factors, self.long_factors)
        )
        factors = jnp.where(lengths > self.original_max_tokens, long, short)
        return frequencies / factors

    @property
    def feature_scale(self) -> float:
        """See :class:`RotaryScaling`."""
        return self.magnitude


@codec.register("rotary_scaling", "llama3")
@dataclasses.dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    """Frequencies of long waves divided by a factor, those of short waves kept, smooth between.

    Attributes:
        factor: The divisor.
        low_freq_factor: Waves longer than ``original_max_tokens / low_freq_factor`` are divided.
        high_freq_factor: Waves shorter than ``original_max_tokens / high_freq_factor`` are kept.
        original_max_tokens: Longest sequence of the pretraining.

    Reference:
        Grattafiori et al., "The Llama 3 Herd of Models" (2024).
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_tokens: int

    def __post_init__(self):
        """Refuse numbers that are not positive, and wave lengths in the wrong order."""
        super().__post_init__()
        check_number("high_freq_factor", self.high_freq_factor, above=self.low_freq_factor)

    def __call__(self, frequencies, theta, lengths):
        """See :class:`RotaryScaling`."""
        turns = self.original_max_tokens * frequencies / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        kept = jnp.clip((turns - self.low_freq_factor) / span, 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@codec.register("rotary", "rotary")
@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions: each half-split pair of query and key features turns with its position.

    Feature ``j`` of a head is paired with ``j + d_h / 2`` and turns by ``position *
    theta^(-2j / d_h)``. Positions count from the first token of the array; logits depend on
    differences alone, so padding on either side changes nothing.

    Attributes:
        theta: Base of the geometric frequencies, positive.
        scaling: How the frequencies are stretched to longer texts: :class:`LinearScaling`,
            :class:`DynamicScaling`, :class:`YarnScaling`, :class:`LongRopeScaling`,
            :class:`Llama3Scaling`, or ``None``.
        num_turned: How many of a head's features turn, the first ones, in place of all ``d_h``; even.

    Example:
        >>> import jax.numpy as jnp
        >>> Rotary(theta=100.0)(jnp.ones((2, 1, 2)))[:, 0]  # one token, then one that has turned
        Array([[ 1.        ,  1.        ],
               [-0.30116868,  1.3817732 ]], dtype=float32)

    Reference:
        Su et al., "RoFormer" (2021), in the half-split layout of Llama.
    """

    theta: float = 10_000.0
    scaling: RotaryScaling | None = None
    num_turned: int | None = None

    def __post_init__(self):
        """Refuse a base out of range, for YaRN that of equal turns, and an odd number of features."""
        # YaRN tells frequencies apart by their turns.
        check_number("theta", self.theta, above=float(isinstance(self.scaling, YarnScaling)))
        if self.num_turned is not None:
            check_count("num_turned", self.num_turned, at_least=2)
            check_divides("2", 2, "num_turned", self.num_turned)

    @property
    def feature_scale(self) -> float:
        """What turned features are multiplied with; where others do not turn, at least their 1."""
        scale = 1.0 if self.scaling is None else self.scaling.feature_scale
        return scale if self.num_turned is None else max(scale, 1.0)

    def __call__(
        self,
        x: Float[AnyArray, "*batch n H d_h"],
        lengths: Int[AnyArray, "*batch"] | None = None,
        offset: Int[AnyArray, "*batch"] | None = None,
    ) -> Float[Array, "*batch n H d_h"]:
        """Turn the heads' features ``x`` by their positions.

        Args:
            x: Features, shape ``(*batch, n, H, d_h)``.
            lengths: Numbers of real tokens; ``None`` if all are real.
            offset: Index of the token whose position is 0; ``None`` for the first.

        Returns:
            The turned features.
        """
        if self.num_turned is not None:
            first, rest = jnp.split(x, [self.num_turned], axis=-1)
            turned = dataclasses.replace(self, num_turned=None)(first, lengths, offset)
            return jnp.concatenate([turned, rest], axis=-1)
        num_tokens, half = x.shape[-3], x.shape[-1] // 2
        dtype = accumulation_dtype(x)
        # A symbolic size, of an export for any length, is no constant.
        is_fixed = isinstance(num_tokens, int) and offset is None
        if is_fixed and (lengths is None or self.scaling is None):
            cos, sin = _table(self, num_tokens, half, dtype)
        else:
            cos, sin = self._turns(num_tokens, half, dtype, lengths, offset)
        cos, sin = (with_leading_axes(part, x.ndim) for part in (cos, sin))
        left, right = jnp.split(x.astype(dtype), 2, axis=-1)
        turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
        return turned.astype(x.dtype)

    def _turns(self, num_tokens, half, dtype, lengths, offset):
        """Cosines and sines of the angles, shape ``(*batch, n, 1, d_h / 2)``."""
        # In double precision: far positions multiply the error of a frequency.
        frequencies = jnp.asarray(self.theta ** (-np.arange(half) / half), dtype)
        if self.scaling is not None:
            lengths = jnp.asarray(num_tokens if lengths is None else lengths)
            frequencies = self.scaling(frequencies, self.theta, lengths[..., None])
        positions = jnp.arange(num_tokens, dtype=dtype)
        if offset is not None:
            offset = jnp.asarray(offset)[..., None]
            positions = with_leading_axes(positions, offset.ndim) - offset
        positions, frequencies = positions[..., None, None], frequencies[..., None, None, :]
        ndim = max(positions.ndim, frequencies.ndim)
        angles = with_leading_axes(positions, ndim) * with_leading_axes(frequencies, ndim)
        return self.feature_scale * jnp.cos(angles), self.feature_scale * jnp.sin(angles)


@functools.lru_cache(maxsize=16)
def _table(rotary, num_tokens, half, dtype):
    """The cosines and sines of whole sequences as constants.

    Of a function of positions compilers make part of the loop over heads, and take sines for every
    head, sequence and layer. One array for all layers is one constant of the program.
    """
    with jax.ensure_compile_time_eval():
        turns = rotary._turns(num_tokens, half, dtype, None, None)
        return tuple(np.asarray(part) for part in turns)

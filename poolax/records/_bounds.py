"""Bounds of attention, poolers and pooled blocks, and what they say of noise."""

import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from poolax._checks import check_count, check_number, check_values, is_concrete
from poolax._intervals import log_chi2_tail
from poolax.records._domains import TokenRange


@struct.dataclass
class ExpressivityBound:
    """Bound of the probability that an output moves by more than ``sigma``.

    Attributes:
        gamma: The bound; Markov's, ``L epsilon / sigma``, may exceed 1.
        upper: ``min(1, gamma)``.
        certified_zero: Whether the probability is exactly 0, as it is where ``L epsilon <= sigma``.
        log_gamma: Natural logarithm of ``gamma``, which neither over- nor underflows.
    """

    gamma: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    certified_zero: Bool[Array, "*batch"]
    log_gamma: Float[Array, "*batch"]

    @property
    def vacuous(self) -> Bool[Array, "*batch"]:
        """Whether ``gamma >= 1``, which says nothing of a probability.

        For changes of at most ``epsilon``, one global constant gives a bound that is either vacuous
        or exact: ``gamma < 1`` is ``L epsilon < sigma``, where the probability is 0. What lies in
        between takes the constants of the inputs (:func:`poolax.bounds.expressivity`) or the
        distribution of the noise (:meth:`Bound.gamma_gaussian`).
        """
        return self.gamma >= 1


@struct.dataclass
class Certificate:
    """How far inputs may move before their class can change.

    Attributes:
        radius: Every change of a norm below it keeps the class; 0 where it is wrong already.
        labels: The classes.
        geometry: The norm of changes, ``"frobenius"`` or ``"tokens"``.
        attacked: Norms of changes that were found to change the class, infinite where none was found;
            ``None`` where none was looked for.
    """

    radius: Float[Array, "*batch"]
    labels: Int[Array, "*batch"]
    geometry: str = struct.field(pytree_node=False, default="frobenius")
    attacked: Float[Array, "*batch"] | None = None


@struct.dataclass
class AttentionBound:
    """Lipschitz bounds of one multi-head attention layer.

    Attributes:
        sequence: Of the whole map from tokens to tokens.
        per_token: Of one output token; ``None`` where nothing was published.
        mixing: The part that acts through the other tokens, ``S`` in ``|d out_i| <= S |dX| + B
            |dx_i|``; ``None`` where nothing was published.
        own: The part ``B`` that acts through the token itself; ``None`` likewise.
        method: ``"published"``, ``"sharp"`` or ``"tight"``.
        source: Where the formula comes from.
        mixing_largest: ``T`` in ``|d out_i| <= T max_k |dx_k| + B |dx_i|``; ``None`` where it is not
            known.
        pattern: What is known of which tokens see each other; see :func:`poolax.bounds.attention`.
        mixing_entries: ``E``, where the mixing parts of all entries of the output, each at a token of
            its own, move by at most ``E |dX|`` together; ``None`` where it is not known.
        folded_entries: The same of what a block makes of them, where norms and feed-forward layer are
            folded in, which a maximum over tokens reads; ``None`` for a layer by itself.
    """

    sequence: Float[Array, ""]
    per_token: Float[Array, ""] | None
    mixing: Float[Array, ""] | None
    own: Float[Array, ""] | None
    method: str = struct.field(pytree_node=False)
    source: str = struct.field(pytree_node=False)
    mixing_largest: Float[Array, ""] | None = None
    pattern: str = struct.field(pytree_node=False, default="any")
    mixing_entries: Float[Array, ""] | None = None
    folded_entries: Float[Array, ""] | None = None

    @property
    def each_token(self) -> Float[Array, ""] | None:
        """Of the whole map where sequences are measured by their largest token: ``T + B``."""
        if self.mixing_largest is None or self.own is None:
            return None
        return self.mixing_largest + self.own


@struct.dataclass
class PoolerBound:
    """How much a pooler lets its output move, for changes of the tokens of either kind.

    ``|d out| <= l2 |dZ|`` (Frobenius norm), ``|d out| <= l1 max_i |dz_i|``, and for a change that is a
    sum of two, ``|dz_i| <= s + t_i``: ``|d out| <= l1 s + l2 |t|``.

    Attributes:
        l2: Lipschitz constant, Euclidean norm of the output against Frobenius norm of the tokens.
        l1: How much of a change that is common to all rows arrives: if ``|dz_i| <= s`` for every row,
            then ``|d out| <= l1 s``.
        reads_one_token: Whether the output is one token as it is.
        linf: Largest ``c_i`` where ``u . d out <= sum_i c_i |dz_i|`` for a unit ``u``, ``|c|_2 <= l2``
            and ``|c|_1 <= l1``; the ``c_i`` may depend on the tokens and on ``u``. ``None`` where none
            are known, as for max.
        selects: Whether each entry of the output is that entry of a token, of ``l1^2`` tokens at most.
    """

    l2: Float[ArrayLike, ""]
    l1: Float[ArrayLike, ""]
    reads_one_token: bool = struct.field(pytree_node=False, default=False)
    linf: Float[ArrayLike, ""] | None = None
    selects: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class BlockBound:
    """What is known of a block, whatever pooler stands on it.

    Attributes:
        attention: Bounds of its attention.
        ffn: Lipschitz constant of its feed-forward layer. Tight bounds fold this layer and the norms
            into the attention, whose bounds are then relative to ``1 + ffn``.
        norm_scale: Largest ``|scale|`` of the two norms, shape ``(2,)``.
        spread: Half of the largest distance between two tokens of its output; ``None`` where no domain
            of its input is known.
        num_tokens: Numbers of tokens that the bounds hold for.
        dim: Width ``d``.
    """

    attention: AttentionBound
    ffn: Float[Array, ""]
    norm_scale: Float[Array, " 2"]
    spread: Float[ArrayLike, ""] | None
    num_tokens: TokenRange
    dim: int = struct.field(pytree_node=False)


@struct.dataclass
class Bound:
    """Lipschitz bound of a pooled block, with what it is made of.

    ``lipschitz = pooling_factor * norm_factor * c1 * c2``.

    Attributes:
        lipschitz: The bound.
        log_lipschitz: Its natural logarithm, which does not overflow.
        attention: Lipschitz bound of the attention as the pooler sees it.
        c1: ``1 + attention``.
        c2: ``1 +`` Lipschitz bound of the feed-forward layer.
        norm_factor: Product of the norms' Lipschitz constants.
        pooling_factor: Factor of the pooler.
        method: ``"published"``, ``"sharp"``, ``"tight"`` or ``"local"``.
        source: Where the formula comes from.
    """

    lipschitz: Float[Array, ""]
    log_lipschitz: Float[Array, ""]
    attention: Float[Array, ""]
    c1: Float[Array, ""]
    c2: Float[Array, ""]
    norm_factor: Float[Array, ""]
    pooling_factor: Float[Array, ""]
    method: str = struct.field(pytree_node=False)
    source: str = struct.field(pytree_node=False)

    def gamma(
        self, epsilon: Float[ArrayLike, "*batch"], sigma: Float[ArrayLike, "*batch"]
    ) -> ExpressivityBound:
        """Bound the expressivity: how often a change of size ``epsilon`` moves the output far.

        ``E = P(|f(X) - f(X')| > sigma)`` for a neighbour with ``|X - X'| <= epsilon`` (Frobenius
        norm) satisfies ``E <= L epsilon / sigma`` by Markov's inequality, and ``E = 0`` where
        ``L epsilon <= sigma``. So a value below one always comes with certainty: a bound from one
        global constant is either vacuous (``.vacuous``) or exact.

        Both ``X`` and ``X'`` have to lie in the domain that the bound was taken on. If only ``X`` is
        known to lie in ``(radius, spread)``, take the bound on ``(radius + epsilon, spread + epsilon /
        sqrt(2))``.

        Args:
            epsilon: Size of the change, at least 0; any shape.
            sigma: Distance of the outputs that counts as a move, above 0; of a shape that broadcasts
                with that of ``epsilon``.

        Returns:
            ``gamma`` and what it says, of the common shape.

        Raises:
            ValueError: if a concrete ``epsilon`` is negative or not finite, or a concrete ``sigma``
                not positive and finite.

        Example:
            >>> from poolax import bounds
            >>> bound = bounds.pooled_block("avg", attention=3.0, ffn=1.0, dim=64, num_tokens=16)
            >>> small, large = bound.gamma(0.1, 0.5), bound.gamma(1.0, 0.5)
            >>> bool(small.certified_zero), bool(large.vacuous)
            (True, True)

        Reference:
            "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Definition 4.1 and Theorem 4.2; Theory,
            section 2.2.
        """
        check_values("epsilon", epsilon, at_least=0.0)
        check_values("sigma", sigma, above=0.0)
        # An infinite constant times no change is no move.
        moved = jnp.where(jnp.asarray(epsilon) == 0, 0, self.lipschitz * epsilon)
        still = jnp.asarray(epsilon) == 0
        # A quotient below all numbers is no zero.
        gamma = moved / sigma
        least = jnp.finfo(gamma.dtype).tiny
        gamma = jnp.where(still | (self.lipschitz == 0), gamma, jnp.maximum(gamma, least))
        log_ratio = jnp.log(jnp.where(still, 1, epsilon) / sigma)
        log_gamma = jnp.where(still, -jnp.inf, self.log_lipschitz + log_ratio)
        return ExpressivityBound(gamma, jnp.minimum(gamma, 1.0), moved <= sigma, log_gamma)

    def gamma_gaussian(
        self,
        scale: Float[ArrayLike, "*batch"],
        sigma: Float[ArrayLike, "*batch"],
        *,
        num_tokens: float | Array | TokenRange,
        dim: int,
        margin: Float[ArrayLike, "*batch"] = math.inf,
    ) -> ExpressivityBound:
        r"""Bound how often Gaussian noise moves the output far: informative where Markov is not.

        The noise ``N`` has independent entries of standard deviation ``scale`` on the ``n`` real tokens
        of width ``d``; its root mean square norm is ``scale sqrt(n d)``. With ``L`` valid as far as ``r
        = margin`` from ``X``,

            ``P(|f(X + N) - f(X)| > sigma) <= P(|N| > min(r, sigma / L)) = P(chi2_{nd} > t)``,

        ``t = (min(r, sigma / L) / scale)^2``: noise that is no longer than both stays where ``L`` holds
        and moves the output by at most ``sigma``. The probability is bounded from above in logarithms,
        by a normal tail that is equal to it in the limit of many entries.

        Gaussian noise leaves every bounded domain. **With the default margin the bound is valid only
        if L holds for all inputs**, as it does for L2 and normalised cosine attention. A bound taken on
        a domain (dot-product attention, plain values) holds with the ``margin`` by which that domain
        was made larger than the one that ``X`` is known to lie in: taken on ``(radius + margin,
        spread + margin / sqrt(2))``, it holds on the whole ball of radius ``margin`` around ``X``.

        Args:
            scale: Standard deviation of each entry of the noise, at least 0.
            sigma: Distance of the outputs that counts as a move, above 0.
            num_tokens: Number of tokens that carry noise; of a :class:`TokenRange` the most.
            dim: Width ``d``.
            margin: How far from ``X`` (Frobenius norm) the bound holds; infinite for a global one.

        Returns:
            ``gamma``, never below the probability, and what it says; ``log_gamma`` goes on where
            ``gamma`` is the smallest number there is. Zero is certified without noise, or for ``L =
            0`` with an infinite margin.

        Raises:
            ValueError: if a concrete argument is out of range.

        Example:
            >>> from poolax import bounds
            >>> bound = bounds.pooled_block("avg", attention=3.0, ffn=1.0, dim=384, num_tokens=196)
            >>> scale = 0.01
            >>> size = scale * (196 * 384) ** 0.5  # root mean square norm of the noise
            >>> sigma = 1.05 * bound.lipschitz * size
            >>> noisy = bound.gamma_gaussian(scale, sigma, num_tokens=196, dim=384)
            >>> print(f"{bound.gamma(size, sigma).gamma:.2f} 1e{noisy.log_gamma / jnp.log(10):.0f}")
            0.95 1e-82

        Reference:
            Theory, section 2.4; this library's own.
        """
        check_values("scale", scale, at_least=0.0)
        check_values("sigma", sigma, above=0.0)
        check_count("dim", dim)
        num_noisy = num_tokens.high if isinstance(num_tokens, TokenRange) else num_tokens
        check_number("num_tokens", num_noisy, at_least=1)
        if is_concrete(margin) and not np.all(np.asarray(margin) >= 0):
            raise ValueError(f"margin: expected numbers >= 0, got {margin}")
        dtype = self.lipschitz.dtype
        scale = jnp.asarray(scale, dtype)
        moves = self.lipschitz > 0
        reach = jnp.where(moves, sigma / jnp.where(moves, self.lipschitz, 1), jnp.inf)
        # Neither is a quotient beyond all numbers certainty.
        reach = jnp.where(moves, jnp.minimum(reach, jnp.finfo(dtype).max), reach)
        reach = jnp.minimum(reach, margin)
        silent = (scale == 0) | jnp.isposinf(reach)
        # A quotient beyond all numbers is still no certainty.
        quotient = jnp.where(silent, 0, reach) / jnp.where(scale > 0, scale, 1)
        quotient = jnp.minimum(quotient, math.sqrt(float(jnp.finfo(dtype).max)) / 2)
        log_gamma = log_chi2_tail(jnp.where(silent, jnp.inf, quotient**2), num_noisy * dim)
        limits = jnp.finfo(dtype)
        gamma = jnp.minimum(jnp.exp(log_gamma) * (1 + 64 * limits.eps), 1)
        gamma = jnp.where(silent, 0, jnp.maximum(gamma, limits.tiny))
        return ExpressivityBound(gamma, gamma, silent, log_gamma)

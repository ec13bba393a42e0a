"""What else is to be seen in the heads and in the vectors that they read."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from poolax import bounds
from poolax.bounds import NoBoundError, TokenRange
from poolax.empirical import noise_curve
from poolax.pooling import WeightedAveragePool
from poolax.records import NoiseCurve, warnings_of
from poolax.training._advice.choice import Price
from poolax.training._engine.heads import Head
from poolax.training._states.prefixes import leave_out, prefix_of

# Examples that vectors are compared on.
MOST_EXAMPLES = 256
# The mean cosine between the vectors of two examples above which they are as good as one direction.
_COLLAPSED = 0.95
# A mean weight within so much of the uniform one's entropy is flat.
_FLAT = 0.98
_NOISE = (0.0, 0.1, 0.2, 0.5, 1.0)
_NOISE_EXAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token states of some examples, parts of an example one after the other.

    Attributes:
        states: Shape ``(N, n, d)``.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        num_skipped: Tokens in front that no pooler but first sees.
    """

    states: Float[np.ndarray, "N n d"]
    mask: Bool[np.ndarray, "N n"] | None
    num_skipped: int = 0

    @classmethod
    def of(
        cls,
        states: np.ndarray,
        mask: np.ndarray | None,
        examples: np.ndarray,
        num_skipped: int = 0,
    ) -> "Tokens":
        """Of at most 256 examples, evenly spaced."""
        chosen = examples[:: max(1, -(-len(examples) // MOST_EXAMPLES))]
        own = np.asarray(states[chosen], np.float32)
        rows = own.reshape(-1, *own.shape[-2:])
        own = None if mask is None else mask[chosen].reshape(rows.shape[:-1])
        return cls(rows, own, num_skipped)

    @property
    def median_length(self) -> int:
        """Real tokens of the median example, at least one."""
        if self.mask is None:
            return self.states.shape[1]
        return max(1, int(np.median(self.mask.sum(axis=-1))))

    def seen_by(self, head: Head) -> tuple[Float[Array, "N n d"], Bool[Array, "N n"] | None]:
        """States and mask that a pooler sees: in units of their spread, where it was trained so."""
        mask = None if self.mask is None else jnp.asarray(self.mask)
        skipped = prefix_of(head.pooler, self.num_skipped, include_prefix=False)
        return leave_out(_scaled(head, self.states), mask, skipped)


def _token_range(states: Array, mask: Array | None) -> TokenRange:
    """Fewest and most real tokens, at least one."""
    if mask is None:
        return TokenRange(states.shape[1], states.shape[1])
    counts = np.asarray(mask).sum(axis=-1)
    return TokenRange(max(1, int(counts.min())), max(1, int(counts.max())))


@jax.jit
def _spread(states, mask):
    # Compiled, it serves all heads; as it is it would be compiled anew for each of them.
    return bounds.domain_of(states, mask).spread


def price(head: Head, tokens: Tokens) -> Price:
    """What a pooler costs on these tokens."""
    inner = {"params": head.variables["params"].get("pooler", {})}
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(inner))
    states, mask = tokens.seen_by(head)
    factor: Any = np.inf
    with contextlib.suppress(NoBoundError):
        factor = bounds.pooler(
            head.pooler,  # pyright: ignore[reportArgumentType]  heads of single tokens have no bound
            inner,
            num_tokens=_token_range(states, mask),
            dim=states.shape[-1],
            spread=_spread(states, mask),
        ).l2
    return Price(int(num_parameters), float(factor))


def _scaled(head: Head, states: Any) -> Float[Array, "N n d"]:
    """States in units of their spread, where a head was trained so."""
    scaling = head.variables.get("scaling")
    if scaling is None:
        return jnp.asarray(states)
    shift, scale = (jnp.asarray(scaling[name]) for name in ("mean", "deviation"))
    return (jnp.asarray(states) - shift) / scale


def pooled(head: Head, tokens: Tokens) -> Float[np.ndarray, "N k"]:
    """The vectors that a head's linear layer reads."""
    inner = {"params": head.variables["params"].get("pooler", {})}
    return np.asarray(head.pooler.apply(inner, *tokens.seen_by(head)))


def mean_cosine(vectors: Float[np.ndarray, "N k"]) -> float:
    """The mean cosine between the vectors of two examples.

    Example:
        >>> round(mean_cosine(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])), 3)
        0.333
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units = vectors / np.where(lengths > 0, lengths, 1)
    count = len(units)
    if count < 2:
        return 0.0
    total = np.square(units.sum(axis=0)).sum() - np.square(units).sum()
    return float(total / (count * (count - 1)))


def hardly_varying(heads: Mapping[str, Head], tokens: Tokens) -> list[str]:
    """Poolers whose heads read entries of the states that hardly vary, in units of that spread.

    Noise of the size of the others is beyond what float32 tells apart in these units: how far it moves
    the vectors says nothing.

    Args:
        heads: By pooler.
        tokens: What they read.
    """
    deviation = float(tokens.states[:_NOISE_EXAMPLES].std())
    least = np.finfo(np.float32).eps * deviation
    return [
        name
        for name, head in heads.items()
        if "scaling" in head.variables and np.min(head.variables["scaling"]["deviation"]) < least
    ]


def curves(
    heads: Mapping[str, Head],
    tokens: Tokens,
    vectors: Mapping[str, Float[np.ndarray, "N k"]],
    *,
    seed: int,
) -> dict[str, NoiseCurve]:
    """How far noise on token states moves the vectors of each head, both in units of their spread.

    Args:
        heads: By pooler.
        tokens: Of at least two examples.
        vectors: What :func:`pooled` gives of them.
        seed: Of the noise.

    Returns:
        For each pooler, but for those of :func:`hardly_varying`, the mean distance, in units of the
        root mean square distance of a vector from their mean, against the size of the noise in units
        of that of a token's entries.
    """
    left_out = hardly_varying(heads, tokens)
    heads = {name: head for name, head in heads.items() if name not in left_out}
    if not heads:
        return {}
    some = slice(None, _NOISE_EXAMPLES)
    deviation = float(tokens.states[some].std())
    sizes = np.sqrt(np.prod(tokens.states.shape[1:])) * deviation
    spreads = {
        name: float(np.sqrt(np.square(own - own.mean(axis=0)).sum(axis=-1).mean()))
        for name, own in ((name, vectors[name]) for name in heads)
    }

    def move(states, mask=None):
        # All of them in one function: one program, and the same noise for each.
        return {
            name: _vectors_of(head, tokens, states, mask) / max(spreads[name], 1e-30)
            for name, head in heads.items()
        }

    masks = () if tokens.mask is None else (jnp.asarray(tokens.mask[some]),)
    found = noise_curve(
        move,
        jnp.asarray(tokens.states[some]),
        jnp.asarray(_NOISE) * sizes,
        *masks,
        key=jax.random.key(seed),
        num_perturbations=4,
    )
    return {
        name: dataclasses.replace(curve, epsilon=np.asarray(_NOISE)) for name, curve in found.items()
    }


def _vectors_of(head: Head, tokens: Tokens, states: Any, mask: Array | None) -> Float[Array, "N k"]:
    """What the linear layer of a head reads of token states like these."""
    inner = {"params": head.variables["params"].get("pooler", {})}
    skipped = prefix_of(head.pooler, tokens.num_skipped, include_prefix=False)
    seen = leave_out(_scaled(head, states), mask, skipped)
    return jnp.asarray(head.pooler.apply(inner, *seen))


def weights_entropy(head: Head, num_tokens: int) -> float:
    """Entropy of a weighted average's weights, in units of that of equal ones.

    Args:
        head: With a weighted average.
        num_tokens: Tokens that it averages.
    """
    logits = np.asarray(head.variables["params"]["pooler"]["weights"], np.float64)[:num_tokens]
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)))
    return float(entropy / np.log(max(2, len(weights))))


def reasons_of_noise(heads: Mapping[str, Head], tokens: Tokens) -> list[str]:
    """Of which poolers it is not defined how far noise moves vectors, and why: a line, or none."""
    names = hardly_varying(heads, tokens)
    if not names:
        return []
    return [
        f"how far noise moves the vectors of {', '.join(names)} is not defined: the head reads entries "
        "of the token states that hardly vary, in units of their spread"
    ]


def reasons_of_vectors(
    heads: Mapping[str, Head], vectors: Mapping[str, Float[np.ndarray, "N k"]], num_tokens: int
) -> list[str]:
    """What is to be said of pooled vectors and of weights, a line each.

    Args:
        heads: By pooler.
        vectors: What :func:`pooled` gives of some examples.
        num_tokens: Tokens that a weighted average sees.
    """
    said = []
    cosines = {name: mean_cosine(own) for name, own in vectors.items()}
    collapsed = {name: cosine for name, cosine in cosines.items() if cosine > _COLLAPSED}
    if collapsed:
        ends = dict.fromkeys(f"{end(collapsed.values()):.3f}" for end in (min, max))
        said.append(
            f"the vectors of {', '.join(collapsed)} nearly collapse: the mean cosine between two "
            f"examples is {' to '.join(ends)}; a linear head sees little but what they differ by"
        )
    for name, head in heads.items():
        if isinstance(head.pooler, WeightedAveragePool) and head.pooler.normalize == "softmax":
            entropy = weights_entropy(head, num_tokens)
            shape = "flat, as those of the average" if entropy > _FLAT else "peaked"
            said.append(
                f"the weights of {name} are {shape}: their entropy is {entropy:.0%} of equal weights'"
            )
    return said


def reasons_of_heads(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], still_gaining: Sequence[str]
) -> list[str]:
    """What is to be said of training, a line each.

    Args:
        rows: Records of each pooler.
        still_gaining: Poolers whose heads had not come to their end.
    """
    warned: dict[str, list[str]] = {}
    for name, own in rows.items():
        for warning in warnings_of(own):
            is_learned = own[0]["learning_rate"] is not None
            if not (is_learned and _is_said_below(warning.code, name in still_gaining)):
                warned.setdefault(warning.words, []).append(name)
    found = [f"{', '.join(names)}: {words}" for words, names in warned.items()]
    by_epochs: dict[int, list[str]] = {}
    for name in still_gaining:
        by_epochs.setdefault(rows[name][0]["epochs"], []).append(name)
    for epochs, names in by_epochs.items():
        found.append(
            f"training of {', '.join(names)} had not come to its end after {epochs} epochs: more "
            "minutes, or training.sweep with solver=Converged(), may gain something"
        )
    return found


def _is_said_below(code: str, is_still_gaining: bool) -> bool:
    """Whether a warning of a learned head has nothing to add."""
    # Two learning rates are both edges of what was tried.
    return code == "at_edge" or (code == "not_converged" and is_still_gaining)


def reasons_of_time(in_question: Sequence[str], left_out: Sequence[str]) -> list[str]:
    """What there was no time for, a line each.

    Args:
        in_question: Poolers that have fewer heads than those still in question.
        left_out: Poolers without any head.
    """
    said = []
    if in_question:
        has = "has" if len(in_question) == 1 else "have"
        said.append(f"{', '.join(in_question)} {has} fewer heads: the time was over")
    if left_out:
        was = "was" if len(left_out) == 1 else "were"
        said.append(f"{', '.join(left_out)} {was} left out: the time was over")
    return said

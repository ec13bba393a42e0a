"""Token states of which it is known by construction what a pooler has to keep of them."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from poolax.training import Classification, Regression, Task

# Poolers that keep what the labels are made of; what else does so is not among those that are tried.
RIGHT = {
    "last": {"last", "wavg"},
    "mean": {"avg", "sum"},
    "extreme": {"max", "map", "abmil", "attn"},
    "marker": {"map", "abmil", "attn"},
    "order": {"wavg"},
    "second": {"l2", "max", "attn"},
    "null": set(),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What an instance is drawn from.

    Attributes:
        kind: One of :data:`RIGHT`.
        num_examples: Examples of all splits.
        num_tokens: Tokens of each.
        dim: Their width.
        strength: Of the signal, in units of one that is seen well.
        is_regression: Whether targets are numbers and not classes.
        seed: Of everything random.
    """

    kind: str
    num_examples: int
    num_tokens: int
    dim: int
    strength: float
    is_regression: bool
    seed: int


class Instance(NamedTuple):
    """Token states with targets.

    Attributes:
        states: Shape ``(N, n, d)``.
        targets: Classes ``(N,)`` or numbers ``(N, 1)``.
        task: What heads predict.
        splits: Indices of the three splits.
    """

    states: Float[np.ndarray, "N n d"]
    targets: np.ndarray
    task: Task
    splits: dict[str, np.ndarray]


def draw(case: Case) -> Instance:
    """The instance: noise of unit variance, and a signal where its kind says so.

    Example:
        >>> found = draw(Case("last", 100, 4, 8, 1.0, False, 0))
        >>> found.states.shape, sorted(set(found.targets.tolist()))
        ((100, 4, 8), [0, 1])
    """
    rng = np.random.default_rng(case.seed)
    num, tokens, dim = case.num_examples, case.num_tokens, case.dim
    # What is to be read of an example: a sign, or a number of about the same size.
    signal = rng.choice([-1.0, 1.0], num)
    if case.is_regression:
        signal = rng.uniform(-1.7, 1.7, num)
    states = rng.normal(size=(num, tokens, dim))
    rows, place = np.arange(num), rng.integers(0, tokens, num)
    direction, marker = np.linalg.qr(rng.normal(size=(dim, 2)))[0].T
    size = case.strength * signal
    if case.kind == "last":
        states[:, -1] += 2.0 * size[:, None] * direction
    elif case.kind == "mean":
        # Of as many tokens the mean has that much less noise.
        states += 2.0 / np.sqrt(tokens) * size[:, None, None] * direction
    elif case.kind == "extreme":  # the largest value of an entry, at any place
        states[rows, place, 0] += 6.0 + 3.0 * size
    elif case.kind == "marker":  # a token with a marker says it, the others say anything
        others = 2.0 * rng.choice([-1.0, 1.0], (num, tokens))
        others[rows, place] = 0
        # As large as the marker, in other directions: no extreme value of an entry is the marker's.
        decoys = rng.normal(size=states.shape)
        decoys -= (decoys @ marker)[..., None] * marker
        decoys *= 6.0 / np.linalg.norm(decoys, axis=-1, keepdims=True)
        decoys[rows, place] = 0
        states += others[..., None] * direction + decoys
        states[rows, place] += 6.0 * marker + 2.5 * size[:, None] * direction
    elif case.kind == "order":  # what one half has more than the other
        half = np.where(np.arange(tokens) < tokens // 2, 1.0, -1.0)
        states += 2.5 / np.sqrt(tokens) * (size[:, None] * half)[..., None] * direction
    elif case.kind == "second":  # how far tokens are from 0
        states *= np.exp(0.2 * size)[:, None, None]
    targets = signal[:, None].astype(np.float32)
    task: Task = Regression()
    if not case.is_regression:
        targets, task = (signal > 0).astype(np.int32), Classification(2)
    parts = np.split(np.arange(num), [num * 6 // 10, num * 3 // 4])
    splits = dict(zip(("train", "validation", "test"), parts, strict=True))
    return Instance(states.astype(np.float32), targets, task, splits)


def cases(kind: str, number: int, seed: int) -> list[Case]:
    """So many cases of a kind: few shapes, so that programs serve many, and any strength.

    Example:
        >>> len({case.strength for case in cases("mean", 40, 0)})
        40
    """
    rng = np.random.default_rng([seed, sorted(RIGHT).index(kind)])
    shapes = [(1200, 6, 8), (1600, 10, 12)]
    found = []
    for place in range(number):
        shape = shapes[place * len(shapes) // number]
        strength = float(rng.uniform(0.8, 1.5))
        own = int(rng.integers(2**31))
        found.append(Case(kind, *shape, strength, bool(place % 2), own))
    return found

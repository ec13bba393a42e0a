"""What a bootstrap draws: examples, and seeds."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

# Numbers of weights that are held at once.
_AT_ONCE = 2**19


def example_weights(num_examples: int, draws: int, seed: int) -> Iterator[Float[np.ndarray, "N b"]]:
    """How often each draw has each example, some draws at a time."""
    rng = np.random.default_rng((seed, 0))
    at_once = max(1, _AT_ONCE // num_examples)
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        # One draw after the other, so that how many there are at once changes nothing.
        chosen = rng.integers(num_examples, size=(some, num_examples))
        places = chosen * some + np.arange(some)[:, None]
        counts = np.bincount(places.ravel(), minlength=some * num_examples)
        yield counts.reshape(num_examples, some).astype(np.float64)


def seed_shares(
    known: set[tuple[int, ...]], draws: int, seed: int
) -> dict[tuple[int, ...], Float[np.ndarray, "B seeds"]]:
    """Of each draw the share of each seed in the mean."""
    found = {}
    for seeds in sorted(known):
        rng = np.random.default_rng((seed, 1, *[number % 2**63 for number in seeds]))
        chosen = rng.integers(len(seeds), size=(draws, max(1, len(seeds) - 1)))
        found[seeds] = np.mean(chosen[..., None] == np.arange(len(seeds)), axis=1)
    return found

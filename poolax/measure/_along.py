"""Norms and bounds of a backbone along its training."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from poolax._checks import check_count
from poolax.backbones import Backbone
from poolax.measure._backbones import PooledNorms
from poolax.measure._order import check_order

_LEAST = 1e-300  # in place of a norm of zero, which has no logarithm
# What was computed beside it is rounded as well, and some bounds are attained: a factor of 1 + 1e-4.
_ROUNDING = math.log10(1 + 1e-4)


def along_training(
    inputs: Any, mask: Bool[Any, "N n"] | None = None, *, pooler: str = "avg", seed: int = 0
) -> Callable[[int, Backbone], dict[str, Any]]:
    """Observe how much a backbone's pooled outputs change with their inputs, while it trains.

    For a model ``f`` of embeddings ``x`` and a pooler ``p`` it measures ``|J_(p o f)(x)|`` at the
    embeddings of each input, by Lanczos iteration, beside the bound of the local ledger there and those
    of the tight and the sharp ledger on the smallest domain that holds these embeddings. Embeddings are
    those of the backbone at that step, so the domain goes along with training.

    Args:
        inputs: Preprocessed inputs, ``N`` of them: token ids, images or series.
        mask: True at real tokens, shape ``(N, n)``; ``None`` if all are real.
        pooler: Name of a pooler without parameters.
        seed: Of the Lanczos iteration.

    Returns:
        A pure function of step and backbone, as ``training.pretrain`` calls its observers. It gives
        ``{"lipschitz": row}``, plain JSON, where ``row`` is what :func:`measure_backbone` says of the
        pooler. It raises ``RuntimeError`` where a norm exceeds one of its bounds, which would be an
        error of this library.

    Raises:
        ValueError: for an unknown pooler or a seed out of range.

    Example:
        >>> import jax
        >>> from poolax.backbones import GPT2, GPT2Config
        >>> config = GPT2Config(12, 4, width=8, num_layers=1, num_heads=2, mlp_dim=8)
        >>> observe = along_training(np.arange(8).reshape(2, 4))
        >>> row = observe(0, GPT2.init(config, jax.random.key(0)))["lipschitz"]
        >>> max(row["measured"]) <= row["tight"] <= row["sharp"]
        True
    """
    check_count("seed", seed, at_least=0)
    measure = PooledNorms([pooler], jax.random.key(seed))

    def observe(step: int, backbone: Backbone) -> dict[str, Any]:
        embeddings, real = backbone.embed(backbone.params, inputs, mask)
        [row] = measure(backbone, embeddings, real)
        check_along(row, what=f"{pooler} of {type(backbone).__name__} after step {step}")
        return {"lipschitz": row}

    return observe


def check_along(row: Mapping[str, Any], *, what: str) -> None:
    """Refuse norms above a bound, in a row of :func:`measure_backbone`.

    Logarithms are compared, for bounds of deep backbones are beyond the range of numbers.

    Args:
        row: The row.
        what: Whose it is, for the error.

    Raises:
        RuntimeError: if a norm is not finite or above one of its bounds, or the tight bound above the
            sharp one.
    """
    norms = np.asarray(row["measured"], float)
    if not np.isfinite(norms).all():
        raise RuntimeError(f"expected finite norms for {what}, got {row['measured']}")
    logs = np.log10(np.maximum(norms, _LEAST)) - _ROUNDING
    bounds: dict[str, Any] = {name: row[f"log10_{name}"] for name in ("tight", "sharp")}
    if None not in row["log10_local"]:
        bounds["local"] = row["log10_local"]
    check_order(logs, bounds, what=f"the decimal logarithms of {what}", rounding=0.0)

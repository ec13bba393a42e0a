"""Variables of heads as they are saved: for token states as a backbone gives them."""

import flax.linen as nn
import numpy as np
from jaxtyping import PyTree

from poolax.training._states.scaled import ScaledSource
from poolax.training._states.sources import TokenSource
from poolax.training.token_head import TokenHead


def for_raw_states(variables: PyTree, pooler: nn.Module, source: TokenSource) -> PyTree:
    """Variables of a head that takes raw token states, of one that was trained on those of a source.

    Args:
        variables: Of the head as it was trained.
        pooler: Its pooler.
        source: What it was trained on.

    Returns:
        The same variables where these are raw states. Otherwise those of a head that brings them to
        units of their spread itself; a :class:`TokenHead`, which is linear, has them in its weights.
    """
    if not isinstance(source, ScaledSource):
        return variables
    if not isinstance(pooler, TokenHead):
        mean, deviation = (part.astype(np.float32) for part in source.scaling)
        return {**variables, "scaling": {"mean": mean, "deviation": deviation}}
    output = variables["params"]["output"]
    kernel, bias = source.scaling.fold(output["kernel"], output["bias"])
    return {"params": {"output": {"kernel": kernel, "bias": bias}}}

"""Variables of heads as they are saved: for token states as a backbone gives them."""

import flax.linen as nn
import numpy as np
from jaxtyping import PyTree

from poolax.training._scaling import Scaling
from poolax.training.token_head import TokenHead


def for_raw_states(variables: PyTree, pooler: nn.Module, scaling: Scaling | None) -> PyTree:
    """Variables of a head that takes raw token states, of one that was trained on scaled ones.

    Args:
        variables: Of the head as it was trained.
        pooler: Its pooler.
        scaling: Of the states that it was trained on; ``None`` for raw ones.

    Returns:
        The same variables for raw states. Otherwise those of a head that brings them to
        units of their spread itself; a :class:`TokenHead`, which is linear, has them in its weights.
    """
    if scaling is None:
        return variables
    if not isinstance(pooler, TokenHead):
        mean, deviation = (part.astype(np.float32) for part in scaling)
        return {**variables, "scaling": {"mean": mean, "deviation": deviation}}
    output = variables["params"]["output"]
    kernel, bias = scaling.fold(output["kernel"], output["bias"])
    return {"params": {"output": {"kernel": kernel, "bias": bias}}}

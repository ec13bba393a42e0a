"""Variables of heads as they are saved: for token states as a backbone gives them."""

import numpy as np
from jaxtyping import PyTree

from poolax.training._scaling import Scaling


def for_raw_states(variables: PyTree, scaling: Scaling | None, *, folds: bool) -> PyTree:
    """Variables of a head that takes raw token states, of one that was trained on scaled inputs.

    Args:
        variables: Of the head as it was trained.
        scaling: Of what it was trained on; ``None`` for raw states.
        folds: Whether its linear layer read the scaled inputs, whose units it then has in its weights:
            vectors, or the states themselves.

    Returns:
        The same variables for raw states. Otherwise those of a head that folds, or that brings token
        states to units of their spread itself.
    """
    if scaling is None:
        return variables
    if not folds:
        mean, deviation = (part.astype(np.float32) for part in scaling)
        return {**variables, "scaling": {"mean": mean, "deviation": deviation}}
    output = variables["params"]["output"]
    kernel, bias = scaling.fold(output["kernel"], output["bias"])
    return {"params": {**variables["params"], "output": {"kernel": kernel, "bias": bias}}}

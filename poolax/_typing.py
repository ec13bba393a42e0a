"""The arrays that functions take: JAX's, tracers among them, or NumPy's; what they give is JAX's."""

import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray
"""As ``Float[AnyArray, "*batch n d"]``."""

Real = Float[AnyArray, ""] | np.floating | float
"""A number: Python's, NumPy's, or an array without axes."""

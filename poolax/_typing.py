"""The arrays that functions take: JAX's, tracers among them, or NumPy's; what they give is JAX's."""

import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray
"""As ``Float[AnyArray, "*batch n d"]``; ``Float[ArrayLike, ""]`` takes Python's numbers as well."""

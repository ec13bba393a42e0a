"""What the heads of a pooler see of token states: which tokens, and which entries of their width."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from poolax.training._states.prefixes import leave_out


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of token states.

    Attributes:
        num_prefix: Real tokens in front that are not seen.
        columns: Entries of the width that are, from one to before another, side by side; none for all.

    Example:
        >>> view = View(num_prefix=1, columns=((2, 4), (0, 1)))
        >>> view.apply(np.arange(10).reshape(2, 5), None)[0].tolist()
        [[7, 8, 5]]
    """

    num_prefix: int = 0
    columns: tuple[tuple[int, int], ...] = ()

    def take(self, states: Any) -> Any:
        """These entries of the width, of arrays of NumPy or JAX."""
        if not self.columns:
            return states
        parts = [states[..., start:stop] for start, stop in self.columns]
        join = np.concatenate if isinstance(states, np.ndarray) else jnp.concatenate
        return parts[0] if len(parts) == 1 else join(parts, axis=-1)

    def apply(self, states: Any, mask: Any) -> tuple[Any, Any]:
        """Token states ``(*batch, n, d)`` and their mask as they are seen."""
        return leave_out(self.take(states), mask, self.num_prefix)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of states of a shape ``(N, *parts, n, d)``, tokens that are not seen included."""
        width = sum(stop - start for start, stop in self.columns) if self.columns else shape[-1]
        return (*shape[:-1], width)

    @property
    def of_tokens(self) -> "View":
        """The same of states of which these entries have been taken."""
        return View(self.num_prefix)


WHOLE = View()

"""A learned mixture of the layers of a backbone, in front of a pooler."""

from typing import Any, final

import flax.linen as nn
import jax
import jax.numpy as jnp

from poolax._checks import check_count, check_instance
from poolax._numerics import accumulation_dtype, zero_masked
from poolax.pooling._base import Pooler, check_input


@final
class LayerMixPool(Pooler):
    r"""A pooler of a learned convex mixture of layers, whose states stand side by side.

    With states :math:`z_1, \dots, z_L` of ``L`` layers, it pools
    :math:`\sum_l \mathrm{softmax}(w)_l \, z_l`. A scale of the whole mixture, as ELMo has one, is that
    of the linear layer behind it.

    Attributes:
        pooler: What pools the mixture.
        num_layers: Number of layers, which cut the width into equal parts.

    Parameters: ``mixture``, shape ``(num_layers,)``, all equal at first; those of the pooler under
    ``pooler``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from poolax.pooling import AveragePool
        >>> pooler = LayerMixPool(AveragePool(), num_layers=2)
        >>> z = jnp.array([[0.0, 2.0, 4.0, 6.0]])
        >>> pooler.apply(pooler.init(jax.random.key(0), z), z)
        Array([2., 4.], dtype=float32)

    Reference:
        Peters et al., Deep contextualized word representations, 2018, equation 1.
    """

    pooler: Pooler
    num_layers: int

    @nn.compact
    def __call__(self, z, mask=None) -> Any:
        """Pool ``z``.

        Args:
            z: Tokens, shape ``(*batch, n, num_layers d)``, as ``Backbone.apply(layer=(k, …))`` gives.
            mask: True at real tokens, broadcastable to ``(*batch, n)``; ``None`` if all are real.

        Returns:
            Pooled vectors, shape ``(*batch, d)`` where the pooler gives ``d`` numbers.

        Raises:
            ValueError: for a width that is not that of so many layers, or as the pooler raises.
        """
        check_instance("pooler", self.pooler, Pooler, "a Pooler")
        check_count("num_layers", self.num_layers)
        z, mask = check_input(z, mask)
        if z.shape[-1] % self.num_layers:
            raise ValueError(
                f"z: expected the width of {self.num_layers} layers side by side, got {z.shape[-1]}"
            )
        logits = self.param("mixture", nn.initializers.zeros, (self.num_layers,), jnp.float32)
        dtype = accumulation_dtype(z)
        shares = jax.nn.softmax(logits.astype(dtype))
        # (*batch, n, layers, d); what is masked meets the shares and their gradient as zeros.
        layers = zero_masked(z, mask).reshape(*z.shape[:-1], self.num_layers, -1).astype(dtype)
        return self.pooler(jnp.einsum("l,...ld->...d", shares, layers).astype(z.dtype), mask)

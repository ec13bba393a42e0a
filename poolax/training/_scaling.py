"""Inputs of a linear head in units of their own spread."""

from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float


class Scaling(NamedTuple):
    """Mean and standard deviation of each entry of the vectors that a head reads.

    A penalty on the weights then means the same for every entry and every pooling: a sum of tokens and
    their average are the same inputs.

    Attributes:
        mean: Shape ``(d,)``.
        deviation: Shape ``(d,)``; 1 where an entry does not vary.
    """

    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, vectors: Float[np.ndarray, "*batch d"]) -> Self:
        """Over all rows, in double precision."""
        rows = np.asarray(vectors, np.float64).reshape(-1, np.shape(vectors)[-1])
        return cls.of_moments(rows.mean(axis=0), rows.var(axis=0))

    @classmethod
    def of_moments(cls, mean: Float[np.ndarray, " d"], variance: Float[np.ndarray, " d"]) -> Self:
        """From mean and variance; an entry that varies by less than its rounding errors is constant."""
        deviation = np.sqrt(np.maximum(variance, 0.0))
        noise = np.finfo(np.float32).eps * np.abs(mean)
        return cls(mean, np.where(deviation > noise, deviation, 1.0))

    @property
    def largest_factor(self) -> float:
        """How far these units move at most where the entries themselves move by 1."""
        return float(1 / self.deviation.min())

    def apply(self, vectors: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
        """The vectors in these units, with mean 0 and deviation 1 where they come from; float32."""
        return ((np.asarray(vectors, np.float64) - self.mean) / self.deviation).astype(np.float32)

    def fold(
        self, kernel: Float[np.ndarray, "*batch d k"], bias: Float[np.ndarray, "*batch k"]
    ) -> tuple[Float[np.ndarray, "*batch d k"], Float[np.ndarray, "*batch k"]]:
        """The head that gives for raw vectors what this one gives for those in units of the spread.

        Example:
            >>> vectors = np.array([[1.0, 5.0], [3.0, 5.0]])
            >>> scaling = Scaling.of(vectors)
            >>> kernel, bias = scaling.fold(np.ones((2, 1)), np.zeros(1))
            >>> (vectors @ kernel + bias).ravel().tolist(), scaling.apply(vectors).sum(-1).tolist()
            ([-1.0, 1.0], [-1.0, 1.0])
        """
        own = np.asarray(kernel, np.float64) / self.deviation[:, None]
        shifted = np.asarray(bias, np.float64) - np.einsum("d,...dk->...k", self.mean, own)
        return own.astype(np.float32), shifted.astype(np.float32)

"""Lipschitz constants by their logarithms, which do not overflow, and as records hold them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

_LARGEST_LOG = 700.0


@dataclasses.dataclass(frozen=True)
class Constant:
    """A Lipschitz constant.

    Attributes:
        log: Its natural logarithm.
        value: The constant itself, where it is known better than by its logarithm; ``None`` takes
            ``exp(log)``.
    """

    log: float
    value: float | None = None

    @property
    def number(self) -> float | None:
        """The constant; ``None`` where it is beyond the range of numbers."""
        value = math.exp(min(self.log, _LARGEST_LOG)) if self.value is None else self.value
        return value if math.isfinite(value) and self.log < _LARGEST_LOG else None

    @property
    def log10(self) -> float | None:
        """Its decimal logarithm; ``None`` for zero, and where the logarithm is not finite."""
        return self.log / math.log(10) if math.isfinite(self.log) else None


def constant_fields(constants: Mapping[str, Constant | None]) -> dict[str, float | None]:
    """Constants and their decimal logarithms, as a record holds them.

    Args:
        constants: By name; ``None`` where there is none.

    Returns:
        ``{name: ..., "log10_" + name: ...}`` of each; null where there is no constant, where it is
        beyond the range of numbers, and for the logarithm of zero.

    Example:
        >>> constant_fields({"local": Constant(0.0), "published": None})
        {'local': 1.0, 'log10_local': 0.0, 'published': None, 'log10_published': None}
    """
    fields: dict[str, float | None] = {}
    for name, constant in constants.items():
        number, log10 = (None, None) if constant is None else (constant.number, constant.log10)
        fields |= {name: number, f"log10_{name}": log10}
    return fields


def log10_of(row: Mapping[str, Any], name: str) -> float:
    """Decimal logarithm of a constant of a record.

    Args:
        row: With the fields of :func:`constant_fields`.
        name: Of the constant.

    Returns:
        The logarithm; of zero minus infinity, of a constant that is not known infinity.

    Example:
        >>> log10_of({"sharp": 0.0, "log10_sharp": None}, "sharp")
        -inf
    """
    log10 = row[f"log10_{name}"]
    if log10 is not None:
        return log10
    return -math.inf if row[name] == 0 else math.inf

"""Numbers for people."""

import math

_MANY_DIGITS = 6


def number_text(value: float | None, log10: float | None = None) -> str:
    """A number for people; beyond a million, and where only its logarithm is known, as ``10^x``.

    Args:
        value: The number; ``None`` where it is not known, or too large to be one.
        log10: Its decimal logarithm, where that is known.

    Returns:
        The text; a dash where nothing is known.

    Example:
        >>> number_text(0.12345), number_text(2e9), number_text(None, 102.5), number_text(None)
        ('0.123', '10^9.3', '10^102.5', '–')
    """
    if value is not None and not math.isfinite(value):
        value = None
    if log10 is None and value:
        log10 = math.log10(abs(value))
    if log10 is not None and (value is None or log10 > _MANY_DIGITS):
        return f"10^{log10:.1f}"
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if value == 0 or value >= 1e-3 else f"{value:.1e}"

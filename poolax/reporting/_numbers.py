"""Numbers for people: one rule for all tables and figures."""

import math

_LEAST, _MOST = 1e-3, 1e5
# Beyond it a float may be infinite, or stand for a larger one.
_MOST_LOG10 = 300.0


def number_text(value: float | None, log10: float | None = None) -> str:
    """A number for people, in three significant digits; from 1,000 to 100,000 it is whole.

    Larger and smaller ones have a power of ten, and so do those of which only the logarithm is known.

    Args:
        value: The number; ``None`` where it is not known, or too large to be one.
        log10: Its decimal logarithm, where that is known.

    Returns:
        The text; a dash where nothing is known.

    Example:
        >>> number_text(18.0), number_text(22.94), number_text(0.12345), number_text(12345.6)
        ('18.0', '22.9', '0.123', '12346')
        >>> number_text(794373.0), number_text(2e-5), number_text(None, 102.5), number_text(None)
        ('7.94e5', '2.00e-5', '3.16e102', '–')
    """
    if value is not None and not math.isfinite(value):
        value = None
    if log10 is not None and math.isfinite(log10):
        if abs(log10) > _MOST_LOG10:
            exponent = math.floor(log10)
            return _scientific(10.0 ** (log10 - exponent), exponent)
        value = 10.0**log10 if value is None else value
    if value is None:
        return "–"
    if value == 0:
        return "0"
    # As it would be written: what rounds to 100,000 is beyond it.
    if float(f"{abs(value):.2e}") < _LEAST or abs(value) >= _MOST - 0.5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return _scientific(float(mantissa), int(exponent))
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def signed_texts(*values: float) -> tuple[str, ...]:
    """Numbers that stand beside one another, with signs: the largest in three digits, all as finely.

    Args:
        values: The numbers, finite.

    Returns:
        A text for each.

    Example:
        >>> signed_texts(-0.026, 0.01, 0.00111)
        ('-0.0260', '+0.0100', '+0.0011')
        >>> signed_texts(0.0, 123.4)
        ('+0', '+123')
    """
    # As it would be written: what rounds to the next power of ten has a digit less behind the point.
    exponent = int(f"{max(map(abs, values)):.2e}".split("e")[1])
    return tuple(f"{value:+.{max(0, 2 - exponent)}f}" for value in values)


def _scientific(mantissa: float, exponent: int) -> str:
    text = f"{mantissa:.2f}"
    return f"1.00e{exponent + 1}" if text == "10.00" else f"{text}e{exponent}"

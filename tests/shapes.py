"""Annotations checked as tests run, shapes included: ``POOLAX_CHECK_SHAPES=1 pytest``.

An argument is compared with its annotation once the function has returned, together with the result. A test
that hands out wrong arguments on purpose thus sees the function's own message, as users do, and a function
that takes what it does not announce fails.
"""

import re
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# An int will do for a float, as for type checkers.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping's hook makes of a signature, made to refuse what the annotations do not allow.

    The hook asks twice for each function: with the result as one more argument, called at the end, and
    without, called before the function itself.
    """
    is_before = not any(re.fullmatch(r"ret\d+", name) for name in fn.__code__.co_varnames)
    # Constructors of dataclasses: transformations put axes and placeholders into the fields of a pytree,
    # and modules refuse wrong parts where they are applied.
    if is_before or fn.__qualname__.endswith(".__init__"):
        return fn
    # The hook calls this only where there is an annotation of the result.
    return _checked(fn)

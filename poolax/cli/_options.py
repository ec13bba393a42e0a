"""Types of options that may be left out, as the help shows them."""

from typing import Annotated

import tyro
from tyro.constructors import PrimitiveConstructorSpec

OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
OptionalPath = Annotated[str | None, tyro.conf.arg(metavar="PATH")]
OptionalCount = Annotated[int | None, tyro.conf.arg(metavar="COUNT")]
OptionalNumber = Annotated[float | None, tyro.conf.arg(metavar="NUMBER")]


_SAID = {"true": True, "false": False}


def _flag(words: list[str]) -> bool:
    word = words[0].lower() if words else "true"
    if word not in _SAID:
        raise ValueError(f"expected true or false, got {words[0]}")
    return _SAID[word]


#: A flag that is left to something else where it is not given: ``--flag``, or ``--flag false``.
OptionalFlag = Annotated[
    bool | None,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[true|false]",
        instance_from_str=_flag,
        is_instance=lambda value: value is None or isinstance(value, bool),
        str_from_instance=lambda value: ["None" if value is None else str(value).lower()],
    ),
]

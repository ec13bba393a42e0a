"""Options of a data set from the command line."""

import ast
import contextlib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Annotated, Any

import tyro

from poolax import data
from poolax._files import DamagedFileError
from poolax.data import Entry

DatasetOptions = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(
        metavar="KEY=VALUE",
        help="Option of the data set; --size 128 is short for --option size=128.",
    ),
]


def with_option_flags(arguments: Sequence[str], command_flags: Collection[str]) -> list[str]:
    """Arguments with ``--size 128`` as ``--option size=128``.

    Which flags are options depends on the data set, whose name stands among the arguments.

    Args:
        arguments: Those of ``poolax data``.
        command_flags: Flags of its commands, such as ``"--out"``.

    Raises:
        ValueError: for a flag that is neither the command's nor an option of the data set.
    """
    entry = next((data.entry(name) for name in arguments if name in data.names()), None)
    if entry is None:
        return list(arguments)
    expanded, rest = [], iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or _flag(key.removeprefix("no_")) in command_flags:
            expanded.append(argument)
        elif key in entry.all_options:
            value = value if equals else next(rest, "")
            expanded += ["--option", f"{key}={value}"]
        else:
            options = ", ".join(map(_flag, entry.all_options)) or "none"
            own = ", ".join(sorted(command_flags))
            raise ValueError(
                f"{flag}: expected an option of {entry.name!r} ({options}) or of the command ({own}), "
                "got it"
            )
    return expanded


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextlib.contextmanager
def errors_in_flags(entry: Entry) -> Iterator[None]:
    """Errors of a data set with its options as one writes them on the command line."""
    try:
        yield
    except ValueError as error:
        kind = DamagedFileError if isinstance(error, DamagedFileError) else ValueError
        raise kind(in_flags(str(error), entry.all_options)) from error


def in_flags(text: str, options: Iterable[str]) -> str:
    """A text with options as one writes them on the command line.

    Example:
        >>> in_flags("got NaN; missing='drop' leaves it out", ["missing"])
        'got NaN; --missing drop leaves it out'
    """
    names = "|".join(map(re.escape, options))
    if not names:
        return text
    return re.sub(
        rf"\b({names})=(?:'([^']*)'|([\w.-]*\w))",
        lambda found: f"{_flag(found[1])} {found[2] or found[3]}",
        text,
    )


def parse_options(entry: Entry, given: Sequence[str]) -> dict[str, Any]:
    """Options as their values, by the type of the reader's default where it has one.

    Args:
        entry: The data set.
        given: ``"KEY=VALUE"`` for each.

    Raises:
        ValueError: for an option that the data set does not take, and a value of another type.

    Example:
        >>> from poolax import data
        >>> parse_options(data.entry("cifar10"), ["size=64"])
        {'size': 64}
    """
    defaults = _defaults(entry)
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value:
            raise ValueError(f"option: expected KEY=VALUE, got {text!r}")
        entry.check_options({name: True})  # the name; a value is checked where it is used
        options[name] = _parse(name, value, defaults.get(name))
    return options


def _defaults(entry: Entry) -> dict[str, Any]:
    reader = entry.embedded or entry.read
    if reader is None:
        return {}
    parameters = inspect.signature(reader).parameters.values()
    empty = inspect.Parameter.empty
    return {one.name: one.default for one in parameters if one.default is not empty}


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    value = _literal(text)
    if default is None or value is None:
        return value
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name}: expected true or false, got {text!r}")
        return text.lower() == "true"
    if isinstance(default, int) and not isinstance(value, int):
        raise ValueError(f"{name}: expected a whole number, got {text!r}")
    if isinstance(default, float) and not isinstance(value, (int, float)):
        raise ValueError(f"{name}: expected a number, got {text!r}")
    return value


def _literal(text: str) -> Any:
    """A number, a truth value, None or several of them as Python writes them; else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

"""What the parser of a command line says, in one line."""

import re

from poolax._checks import did_you_mean

_COMMANDS = "Available subcommands: "


def parser_message(box: str) -> str:
    """The first sentence of a boxed message of the parser, and what may have been meant.

    Args:
        box: What the parser printed.

    Returns:
        One line.
    """
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯|+ ")
        if set(text) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(text)
    said, *hints = [" ".join(" ".join(part).split()) for part in parts if part] or [""]
    if not said:
        return " ".join(box.split())
    return said + _hint(said, hints)


def _hint(said: str, hints: list[str]) -> str:
    for hint in hints:
        if hint.startswith(_COMMANDS):
            commands = hint.removeprefix(_COMMANDS).split(", ")
            wrong = said.rpartition(": ")[2].split(", ")[0]
            return f"; expected one of {', '.join(commands)}{did_you_mean(wrong, commands)}"
        flags = re.findall(r"(?<!\S)--[a-z][a-z-]*", hint)
        if hint.startswith("Perhaps you meant") and flags:
            return f"; did you mean {flags[0]}?"
    return ""

"""The entry point of ``poolax``: which command to run, and how what goes wrong is told."""

import contextlib
import io
import sys
import traceback
from collections.abc import Sequence

import tyro

import poolax
from poolax.cli._bounds import Bounds
from poolax.cli._console import COMPLETE, FAILURE, INTERRUPTED, USAGE
from poolax.cli._data import Data, expand_options
from poolax.cli._lipschitz import Lipschitz
from poolax.cli._quickstart import Quickstart

_COMMANDS = {"quickstart": Quickstart, "bounds": Bounds, "lipschitz": Lipschitz, "data": Data}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the result is the process's exit code.

    0 complete, 1 failure, 2 usage, 3 complete with diverged heads, 75 interrupted and resumable.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"poolax {poolax.__version__}")
        return COMPLETE
    if arguments[:1] == ["data"]:
        try:
            arguments = expand_options(arguments)
        except ValueError as error:
            print(f"poolax: {error}", file=sys.stderr)
            return USAGE
    app = tyro.extras.SubcommandApp()
    for name, command in _COMMANDS.items():
        app.command(name=name)(command)
    problems = io.StringIO()
    try:
        with contextlib.redirect_stderr(problems):
            command = app.cli(prog="poolax", description=poolax.__doc__, args=arguments)
    except SystemExit as stop:
        if not stop.code:
            return COMPLETE
        print(f"poolax: {_first_sentence(problems.getvalue())}", file=sys.stderr)
        return USAGE
    return _execute(command)


def _execute(command):
    try:
        return command.run()
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from what is finished" if command.resumable else ""
        print(f"poolax: interrupted{goes_on}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if command.debug:
            traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"poolax: {message}", file=sys.stderr)
        return USAGE if isinstance(error, ValueError) else FAILURE


def _first_sentence(box: str) -> str:
    """What a boxed message of the parser says before its first rule, on one line."""
    lines = [line.strip("│╭╮╰╯|+ ") for line in box.splitlines()[1:]]
    said = []
    for line in lines:
        if set(line) <= {"─", "-"}:
            if said:
                break
            continue
        said.append(line)
    return " ".join(" ".join(said).split()) or " ".join(box.split())

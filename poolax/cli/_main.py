"""The entry point of ``poolax``: which command to run."""

import contextlib
import sys
from collections.abc import Sequence

import tyro

import poolax
from poolax._text import one_line
from poolax.cli._advise import Advise
from poolax.cli._bounds import Bounds
from poolax.cli._certify import Certify
from poolax.cli._compare import Compare
from poolax.cli._console import COMPLETE, USAGE, without_progress
from poolax.cli._data import Data, expand_options
from poolax.cli._docs import Docs
from poolax.cli._embed import Embed
from poolax.cli._families import Models
from poolax.cli._lipschitz import Lipschitz
from poolax.cli._program import run_program
from poolax.cli._quickstart import Quickstart
from poolax.cli._report import Report

#: The commands by name.
COMMANDS = {
    "quickstart": Quickstart,
    "bounds": Bounds,
    "lipschitz": Lipschitz,
    "certify": Certify,
    "advise": Advise,
    "compare": Compare,
    "report": Report,
    "embed": Embed,
    "models": Models,
    "data": Data,
    "docs": Docs,
}

_EVERYWHERE = (
    "\n\nEvery command takes --quiet, which leaves out progress, and --version; NO_COLOR=1 in the "
    "environment leaves out colours."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the result is the process's exit code.

    0 complete, 1 failure, 2 usage, 3 complete with diverged heads, 75 interrupted and resumable.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Of every command, so that none of them has to have it.
    quiet = "--quiet" in arguments
    arguments = [one for one in arguments if one != "--quiet"]
    if arguments[:1] == ["data"]:
        try:
            arguments = expand_options(arguments)
        except ValueError as error:
            print(f"poolax: {one_line(str(error))}", file=sys.stderr)
            return USAGE
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)

    def parse():
        if arguments[-1:] == ["--version"] and (len(arguments) == 1 or arguments[0] in COMMANDS):
            print(f"poolax {poolax.__version__}")
            sys.exit(COMPLETE)
        return app.cli(prog="poolax", description=f"{poolax.__doc__}{_EVERYWHERE}", args=arguments)

    with without_progress() if quiet else contextlib.nullcontext():
        return run_program("poolax", parse)

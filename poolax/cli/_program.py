"""How a program runs: what goes wrong is one line and an exit code."""

import contextlib
import io
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import jax
import tyro

from poolax._progress import Progress
from poolax._signals import PreemptedError, Watch, stop_if_asked, taking_signals
from poolax._text import one_line, printable
from poolax.cli._console import COMPLETE, FAILURE, INTERRUPTED, USAGE
from poolax.cli._parser_messages import parser_message
from poolax.cli._processes import has_lost_another, leave

_LONGEST = 1_000


class Command(Protocol):
    """What a command line is parsed to.

    Attributes:
        resumable: Whether the same command goes on from what is finished.
        debug: Whether to show where an error comes from.
    """

    resumable: ClassVar[bool]

    @property
    def debug(self) -> bool: ...

    def run(self) -> int:
        """Run the command and give its exit code."""
        ...


def run_program(name: str, parse: Callable[[], Command]) -> int:
    """Parse a command line and run the command; what goes wrong is told in one line.

    SIGTERM and Ctrl-C ask a command to stop: one that is resumable saves first what it is at, others
    end within seconds. A second signal ends either. Where nobody reads on, as behind ``| head``, the
    program ends without a word, as a failure.

    Args:
        name: Name of the program, in front of every line.
        parse: Gives the command, or raises ``SystemExit`` as argument parsers do.

    Returns:
        The process's exit code: 0 complete, 1 failure, 2 usage, 3 complete with diverged heads,
        75 interrupted and resumable.
    """
    try:
        code = _run(name, parse)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would fail again when Python flushes it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return code


def _run(name, parse):
    command: Command | None = None
    try:
        with taking_signals(), Watch(name)() as watch:
            command, code = _parsed(name, parse)
            if command is None:
                return code
            watch.saves = command.resumable
            stop_if_asked()
            if not command.debug:
                # Orbax writes tracebacks of what it raises as well.
                logging.getLogger("absl").setLevel(logging.CRITICAL)
            return command.run()
    except (KeyboardInterrupt, PreemptedError):
        resumable = command is not None and command.resumable
        goes_on = "; the same command goes on from what is finished" if resumable else ""
        print(f"{name}: interrupted{goes_on}", file=sys.stderr)
        return leave(INTERRUPTED, at_once=False)
    except Exception as error:
        if command is None or (isinstance(error, BrokenPipeError) and _is_broken(sys.stdout)):
            raise
        if command.debug:
            traceback.print_exc()
        if has_lost_another(error):
            print(f"{name}: another process of this run has ended: {_told(error)}", file=sys.stderr)
            return leave(FAILURE, at_once=True)
        print(f"{name}: {_told(error)}", file=sys.stderr)
        is_usage = isinstance(error, ValueError) and not isinstance(error, OSError)
        return leave(USAGE if is_usage else FAILURE, at_once=False)


def _parsed(name, parse) -> tuple[Command | None, int]:
    """The command, and the exit code where there is none to run."""
    problems = io.StringIO()
    try:
        with contextlib.redirect_stderr(problems), _plain_if_asked():
            return parse(), COMPLETE
    except SystemExit as stop:
        if not stop.code:
            return None, COMPLETE
        print(f"{name}: {printable(parser_message(problems.getvalue()))}", file=sys.stderr)
        return None, USAGE


@contextlib.contextmanager
def _plain_if_asked() -> Iterator[None]:
    """Inside, help has no colours where ``NO_COLOR`` is set, which tyro itself does not look at."""
    before = tyro._experimental_options["ansi_codes"]
    tyro._experimental_options["ansi_codes"] = before and not os.environ.get("NO_COLOR")
    try:
        yield
    finally:
        tyro._experimental_options["ansi_codes"] = before


def _told(error: Exception) -> str:
    """One line of bounded length; of the system's errors the file comes first, without their number."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return one_line(text, longest=_LONGEST) or type(error).__name__


def _is_broken(stream):
    """Whether a stream is a pipe that nobody reads; others, as a connection, break as well."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def simulate_devices(count: int) -> None:
    """Split the CPU into ``count`` devices; to be called before JAX is used for the first time."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    if count > 1:
        # A collective waits until every device has a thread, and the runtime makes one for each core
        # that it believes to have.
        os.environ.setdefault("PJRT_NPROC", str(2 * count))


def asking(progress: Progress) -> Progress:
    """Progress of a command that saves nothing, which stops between two reports when it is asked to."""

    def report(description: str, done: int, total: int) -> None:
        progress(description, done, total)
        stop_if_asked()

    return report

"""What there was time for, written down: the same call on the same records says the same again."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Self

from etils import epath

from poolax._signals import PreemptedError, stop_asked
from poolax.records import Records, digest

_FILE = "time.jsonl"
# With so many times the minutes what there was no time for is tried again.
_MORE = 1.1


@dataclasses.dataclass
class Clock:
    """Until when something may be done, and what there was no time for.

    Attributes:
        end: Of ``time.monotonic``; ``None`` for no end.
        minutes: That were given in all; infinite where there is no end.
        path: File of what there was no time for; ``None`` where nothing is kept.
        identity: Of what the time is for.
        over: What there was no time for, and the minutes that were given then.
    """

    end: float | None
    minutes: float = math.inf
    path: epath.Path | None = None
    identity: str = ""
    over: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, end: float | None, minutes: float | None, folder: epath.Path | None, identity: Any
    ) -> Self:
        """A clock that knows what it wrote into a folder before.

        Args:
            end: As of the class.
            minutes: As of :func:`advise`.
            folder: ``None`` where nothing is kept.
            identity: Plain JSON of what the time is for.
        """
        known, path, own = {}, None, digest(identity)
        if folder is not None:
            path = folder / _FILE
            rows = Records.read(path) if path.exists() else ()
            known = {row["what"]: row["minutes"] for row in rows if row["of"] == own}
        return cls(end, math.inf if minutes is None else minutes, path, own, known)

    def until(self, end: float | None) -> "Clock":
        """The same with another end; what is written down is shared."""
        return dataclasses.replace(self, end=end)

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return math.inf if self.end is None else self.end - time.monotonic()

    def within(
        self, what: str, do: Callable[..., Any], *arguments: Any, seconds: float = 0.0
    ) -> Any | None:
        """What is done in time; ``None`` where it is not, or was not the last time.

        Args:
            what: Name of it, by which it is known.
            do: Takes the arguments, and a function that says whether to stop.
            arguments: Of it.
            seconds: That it takes at least, as far as is known: it is not begun where fewer are left.

        Raises:
            PreemptedError: if a signal has asked to stop.
        """
        if self.minutes < _MORE * self.over.get(what, 0.0):
            return None
        if self.left > seconds:
            try:
                return do(*arguments, lambda: stop_asked() or self.left <= 0)
            except PreemptedError:
                if stop_asked():
                    raise
        self._write(what)
        return None

    def _write(self, what: str) -> None:
        self.over[what] = self.minutes
        if self.path is not None:
            row = {"of": self.identity, "what": what}
            Records([{"id": digest(row), **row, "minutes": self.minutes}]).write_to(self.path)

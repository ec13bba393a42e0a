"""Where the time of a forward pass goes on a CPU, by XLA's own profile of the compiled program.

Operations run side by side; at each moment time is shared out evenly among those that run, so that
parts add up to the time in which anything does.
"""

import collections
import glob
import math
import re
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import jax

from poolax.training.profile import module_of

# What stands in the names of a part's operations; the first that fits counts.
_PARTS = {
    "feed-forward products": r"/ffn/.*dot_general",
    "activation": r"/ffn/",
    "query, key and value products": r"/attention\._project/.*dot_general",
    "output product": r"/attention/dot_general",
    "logits, softmax and values": r"/attention\._attention/|/attention/.*dot_general",
    "heads to the front and back": r"/attention/",
    "norms": r"norm",
    "embeddings, residuals and the rest": r"",
}
Event = tuple[float, float, str]


def of_program(
    forward: Callable[..., jax.Array], arguments: tuple[Any, ...], rate: float, repeats: int
) -> list[dict[str, object]]:
    """Parts of a compiled program, most time first.

    Args:
        forward: A function under ``jax.jit``.
        arguments: What it is called with.
        rate: Operations a second of one large matrix product.
        repeats: Calls that are profiled.

    Returns:
        Of each part its seconds a call, their percentage of all, and in percent of ``rate`` what its
        matrix products reach, with all else in the part.
    """
    compiled = forward.lower(*arguments).compile()  # type: ignore[attr-defined]
    compiled(*arguments).block_until_ready()
    text = compiled.as_text()
    with tempfile.TemporaryDirectory() as trace:
        with jax.profiler.trace(trace):
            for _ in range(repeats):
                compiled(*arguments).block_until_ready()
        [path] = glob.glob(f"{trace}/**/*.xplane.pb", recursive=True)
        planes = jax.profiler.ProfileData.from_file(path).planes
        events = [event for plane in planes for event in _events(plane, module_of(text))]
    seconds: dict[str, float] = collections.defaultdict(float)
    flops = collections.Counter[str]()
    operations = _operations(text)
    for name, value in shared_out(events).items():
        path, work = operations.get(name, ("", 0))
        part = next(part for part, pattern in _PARTS.items() if re.search(pattern, path))
        seconds[part] += value / repeats
        flops[part] += work
    whole = sum(seconds.values())
    return [
        {
            "part": part,
            "seconds": value,
            "percent": 100 * value / whole,
            "percent_of_matrix_rate": 100 * flops[part] / value / rate,
        }
        for part, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def _events(plane, module: str) -> Iterable[Event]:
    for line in plane.lines:
        for event in line.events:
            stats = dict(event.stats)
            if stats.get("hlo_module") == module:
                start = event.start_ns
                yield start, start + event.duration_ns, str(stats["hlo_op"])


def shared_out(events: Iterable[Event]) -> dict[str, float]:
    """Seconds of each operation, time in which several run being shared out evenly.

    Args:
        events: Start, end in nanoseconds, and name of operations.

    Example:
        >>> shared_out([(0, 4e9, "a"), (2e9, 4e9, "b")])
        {'a': 3.0, 'b': 1.0}
    """
    changes = sorted(
        (when, step, name) for start, end, name in events for when, step in ((start, 1), (end, -1))
    )
    seconds: dict[str, float] = collections.defaultdict(float)
    running: collections.Counter[str] = collections.Counter()
    before = 0.0
    for when, step, name in changes:
        count = running.total()
        for one in +running:
            seconds[one] += running[one] * (when - before) / count * 1e-9
        running[name] += step
        running += collections.Counter()
        before = when
    return dict(seconds)


def _operations(text: str) -> dict[str, tuple[str, int]]:
    """Name in the source and operations of matrix products of each instruction of a program's text."""
    shapes: dict[str, list[int]] = {}
    inside: collections.Counter[str] = collections.Counter()
    found = {}
    computation = ""
    for line in text.splitlines():
        heading = re.match(r"(?:ENTRY )?%(\S+) \(", line)
        computation = heading.group(1) if heading else computation
        defined = re.match(r"\s+(?:ROOT )?%(\S+) = \w+\[([\d,]*)\]", line)
        if not defined:
            continue
        name = defined.group(1)
        shapes[name] = [int(size) for size in defined.group(2).split(",") if size]
        called = re.search(r"calls=%([\w.\-]+)", line)
        work = inside[called.group(1)] if called else 0
        product = re.search(r"\bdot\(%([\w.\-]+),.*lhs_contracting_dims=\{([\d,]*)\}", line)
        if product:
            axes = [int(axis) for axis in product.group(2).split(",")]
            inner = math.prod(shapes[product.group(1)][axis] for axis in axes)
            work = 2 * math.prod(shapes[name]) * inner
            inside[computation] += work
        path = re.search(r'op_name="([^"]*)"', line)
        found[name] = (path.group(1) if path else "", work)
    return found

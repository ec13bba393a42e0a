"""Where the time of heads goes, in parts that add up.

A step is taken apart by XLA's own profile of the compiled loop: each operation's time belongs to one
part, and the parts are all there is. A sweep is taken apart by clocks inside of one run, which contain
each other. Nothing is a difference of programs that were timed apart.
"""

import collections
import contextlib
import glob
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from poolax.pooling import AveragePool, from_name
from poolax.training import Classification, HeadModule
from poolax.training._devices import Trainer
from poolax.training._engine.evaluation import Evaluation
from poolax.training._engine.feed import Feed, Protocol
from poolax.training._engine.train import HeadGroup, Member
from poolax.training._states.pooled import is_fixed, pool
from poolax.training._states.sources import MemorySource, PooledSource
from poolax.training._states.views import WHOLE

_REPEATS = 5
_STEPS = 60
PARTS = (
    "matrix products",
    "rest of loss and gradient",
    "reading the batch",
    "norm of the gradient",
    "optimizer",
    "loop and copies",
)
_COMPILED = "/jax/core/compile/backend_compile_duration"


def profile(
    states: np.ndarray,
    mask: np.ndarray,
    targets: np.ndarray,
    poolers: Sequence[str],
    *,
    num_classes: int,
    num_runs: int,
    batch_size: int,
    learning_rate: float,
) -> dict[str, tuple[float, float, float]]:
    """Seconds of the parts of a step of all heads of some poolers, by XLA's profile.

    Args:
        states: Token states of the training split, shape ``(N, n, d)``.
        mask: Shape ``(N, n)``.
        targets: Labels, shape ``(N,)``.
        poolers: Names: some without parameters, which train on pooled vectors together, or one with.
        num_classes: Number of labels.
        num_runs: Seeds of each pooler.
        batch_size: Examples a step.
        learning_rate: Of Adam.

    Returns:
        Of each part the median over profiles, the least and the most. The median is that of the profile
        whose total is the median one, so that parts add up.
    """
    modules = {name: from_name(name) for name in poolers}
    source: MemorySource | PooledSource = MemorySource(states, mask)
    pooler, num_groups = modules[poolers[0]], 1
    if is_fixed(pooler, states.shape):
        vectors = pool(modules, dict.fromkeys(modules, WHOLE), source)
        source = PooledSource(np.stack(list(vectors.values()), axis=1))
        pooler, num_groups = AveragePool(), len(poolers)
    runs = tuple((learning_rate, seed) for seed in range(num_runs))
    group = HeadGroup(HeadModule(pooler, num_classes), runs, num_groups)
    protocol = Protocol(1, batch_size)
    member = Member(group, source, Classification(num_classes), protocol)
    train = np.arange(len(states))
    [(member, data, batches)] = Feed(source, targets, train, protocol).chunk([member], 0, 0)
    batches = jax.tree.map(lambda leaf: leaf[:, :_STEPS], batches)
    num_steps = batches.indices.shape[1]
    program = member.program(data, batches)
    member.train(data, batches)
    found = []
    for _ in range(_REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                member.train(data, batches)
            [path] = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
            planes = jax.profiler.ProfileData.from_file(path).planes
            seconds = parts_of(program, operations(module_of(program), planes))
        found.append({part: value / num_steps for part, value in seconds.items()})
    found.sort(key=lambda parts: sum(parts.values()))
    middle = found[len(found) // 2]
    return {
        part: (middle[part], min(p[part] for p in found), max(p[part] for p in found)) for part in PARTS
    }


def module_of(program: str) -> str:
    """Name of a compiled program, from its text."""
    return program.split(maxsplit=2)[1].rstrip(",")


def operations(module: str, planes: Iterable[Any]) -> dict[str, float]:
    """Seconds that each operation of a program took itself, without operations inside of it."""
    seconds: collections.Counter[str] = collections.Counter()
    for plane in planes:
        for line in plane.lines:
            events = []
            for event in line.events:
                stats = dict(event.stats)
                if stats.get("hlo_module") == module:
                    start = event.start_ns
                    events.append((start, start + event.duration_ns, str(stats["hlo_op"])))
            # A thread's events nest: what begins inside of another one is its part.
            open_events: list[tuple[float, str]] = []
            for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
                while open_events and open_events[-1][0] <= start:
                    open_events.pop()
                if open_events:
                    seconds[open_events[-1][1]] -= (end - start) * 1e-9
                seconds[name] += (end - start) * 1e-9
                open_events.append((end, name))
    return dict(seconds)


def parts_of(program: str, seconds: dict[str, float]) -> dict[str, float]:
    """The parts of a step, from the seconds of each operation of its program.

    Raises:
        ValueError: if there are no operations, or one took less than no time: such a profile is none.
    """
    if not seconds or min(seconds.values()) < -1e-6:
        raise ValueError(f"seconds: expected times of operations, got {seconds}")
    products, names = set(), {}
    with_products: set[str] = set()
    computation = ""
    for line in program.splitlines():
        heading = re.match(r"(?:ENTRY )?%(\S+) \(", line)
        computation = heading.group(1) if heading else computation
        found = re.match(r"\s+(?:ROOT )?%(\S+) = ", line)
        if not found:
            continue
        name = found.group(1)
        called = re.search(r"calls=%([\w.\-]+)", line)
        if re.search(r"\bdot\(", line):
            with_products.add(computation)
            products.add(name)
        if called and called.group(1) in with_products:
            products.add(name)
        path = re.search(r'op_name="([^"]*)"', line)
        names[name] = path.group(1) if path else ""
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for name, value in seconds.items():
        parts[_part(name in products, names.get(name, ""))] += max(value, 0.0)
    return parts


def _part(is_product: bool, path: str) -> str:
    scopes = {"read_batch": 2, "gradient_norm": 3, "optimizer": 4}
    if is_product:
        return PARTS[0]
    for scope, part in scopes.items():
        if scope in path:
            return PARTS[part]
    return PARTS[1] if "jvp(" in path else PARTS[5]


class Clocks:
    """Seconds of the phases of sweeps, by clocks that contain each other.

    Compilation is taken out of the phase that it happens in, on the same clock, so that phases and the
    rest add up to the whole.
    """

    def __init__(self):
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._compiled = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any):
        if event == _COMPILED:
            self._compiled += duration_secs

    def _timed(self, phase: str, fn: Callable):
        def timed(*args, **kwargs):
            start, compiled = time.perf_counter(), self._compiled
            out = fn(*args, **kwargs)
            own = time.perf_counter() - start - (self._compiled - compiled)
            self.seconds[phase] += own
            return out

        return timed

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Clocks run inside of the block, around steps, evaluation and Lipschitz constants."""
        phases = ((Trainer, "steps", "steps"), (Evaluation, "__call__", "evaluation"))
        phases += ((Member, "end_epoch", "Lipschitz constants"),)
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in phases]
        start, compiled = time.perf_counter(), self._compiled
        for owner, name, phase in phases:
            setattr(owner, name, self._timed(phase, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, fn in before:
                setattr(owner, name, fn)
        whole = time.perf_counter() - start
        self.seconds["compilation"] = self._compiled - compiled
        rest = whole - sum(self.seconds.values())
        if min(rest, *self.seconds.values()) < 0:
            raise ValueError(f"phases: expected parts of {whole} s, got {dict(self.seconds)}")
        self.seconds["orders, records and the rest"] = rest

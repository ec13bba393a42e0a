"""Side-by-side timing: interleaved calls, medians, ratios from one run alone; peaks of memory."""

import pathlib
import re
import resource
import statistics
import time
from collections.abc import Callable


def samples(
    calls: dict[str, Callable[[], object]], repeats: int, pause: float
) -> dict[str, list[float]]:
    """Seconds of each call in each round, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(pause)
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(calls: dict[str, Callable[[], object]], repeats: int, pause: float) -> dict[str, float]:
    """Median seconds of each call, interleaved."""
    return medians(samples(calls, repeats, pause))


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def paired_ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median over rounds of one contestant's seconds divided by another's."""
    return statistics.median(
        one / other for one, other in zip(seconds[over], seconds[under], strict=True)
    )


def peak_mebibytes() -> float:
    """Most memory of this process so far."""
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def own_peak_mebibytes() -> float:
    """Most memory since this program started.

    Of this program alone: what getrusage says goes on from the process that started it.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError("/proc/self/status: expected the peak of memory, VmHWM, got none")
    return int(found.group(1)) / 2**10

"""Side-by-side timing: interleaved calls, medians, ratios from one run alone; peaks of memory."""

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

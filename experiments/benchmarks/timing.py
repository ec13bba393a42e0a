"""Side-by-side timing: interleaved calls, medians, ratios from one run alone."""

import statistics
import time
from collections.abc import Callable


def measure(calls: dict[str, Callable[[], object]], repeats: int, pause: float) -> dict[str, float]:
    """Median seconds of each call, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(pause)
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}

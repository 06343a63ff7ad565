"""Where a call runs: how many threads, which instruction set, CPU or GPU."""

from __future__ import annotations

import os

from ._validate import number


def n_threads(threads: int | None) -> int:
    """Return `threads`, or OMP_NUM_THREADS, or the cores this process may use."""
    if threads is not None:
        return int(number("threads", threads, low=1, high=4096))
    from_environment = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if from_environment.isdigit() and int(from_environment) > 0:
        return int(from_environment)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

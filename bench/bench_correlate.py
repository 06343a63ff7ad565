"""correlate and screen in each arithmetic: random frames and views of the size of sim_4bed.

Run: pytest bench/bench_correlate.py --benchmark-enable --benchmark-columns=min,median,rounds

The rate is frame-orientations per second. bf16 is what AMX tiles are for; on other instruction
sets it runs in software.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from conftest import THREADS

from spicore import _core
from spicore.emc.polar.correlate import Arithmetic, Views, correlate, screen
from spicore.emc.polar.engine import SCREEN_ORDERS
from spicore.emc.polar.orders import GROUP, AngularOrders

N_FRAMES, N_GROUPS, N_RADII, N_ANGLES, MIRRORS = 1024, 16, 65, 128, 2


@pytest.fixture(scope="module")
def problem():
    """Frames, views, fluence, beta; few terms reach the posterior."""
    rng = np.random.default_rng(0)
    orders = AngularOrders.from_limits(N_ANGLES, np.full(N_RADII, N_ANGLES // 2))
    n = orders.n_coefficients
    frames = rng.normal(0.0, 1.0 / N_ANGLES, (N_FRAMES, n, 2)).astype(np.float32)
    logs = rng.normal(0.0, 10.0, (N_GROUPS, n, 2, GROUP)).astype(np.float32)
    totals = np.zeros((N_GROUPS, MIRRORS, N_ANGLES, GROUP), np.float32)
    views = Views(orders, logs, totals, np.zeros(N_GROUPS * GROUP, np.float32))
    return frames, views, *np.ones((2, N_FRAMES), np.float32)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("arithmetic", get_args(Arithmetic))
@pytest.mark.parametrize("operation", ["correlate", "screen"])
def test_correlate(benchmark, problem, operation, arithmetic, threads):
    options = {"arithmetic": arithmetic, "threads": threads}

    def work():
        if operation == "correlate":
            return correlate(*problem, **options)
        return screen(*problem, SCREEN_ORDERS, 32, **options)

    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    benchmark.extra_info["simd"] = _core.simd()
    if benchmark.stats is not None:  # benchmarks are enabled
        n = N_FRAMES * problem[1].n_orientations
        benchmark.extra_info["frame_orientations_per_s"] = n / benchmark.stats.stats.min

"""expand at the size of sim_4bed: 151^3 voxels, 150 x 150 pixels, one tile of orientations.

Run: pytest bench/bench_expand.py --benchmark-enable --benchmark-columns=min,median,rounds

A sample is one pixel of one orientation. Traffic beside the copy bandwidth of the same run:
    compulsory  half the volume, q, exposure and reference read once, the panels written once
    logical     what the samples ask of caches and memory: 8 corners, and the result
"""

from __future__ import annotations

import numpy as np
import pytest
from bench_ewald_slice import describe
from conftest import THREADS

from spicore import orientations
from spicore.emc.kernels import LANES, expand


def traffic(job, n):
    panels = -(-n // LANES) * LANES * job.n_orient * 4
    rows = 4 * (3 + 1 + 1) * job.n_orient
    return {
        "compulsory": 2 * job.volume.size + rows + panels,
        "logical": (8 * 4 + 4) * n * job.n_orient,
    }


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("form", ["linear", "logarithm"])
@pytest.mark.parametrize("friedel", [True, False])
def test_expand(benchmark, job, copy_bandwidth, form, friedel, threads):
    reference = job.reference if form == "logarithm" else None
    out = job.panels(reference)

    def work():
        job.panels(reference, friedel=friedel, out=out, threads=threads)

    benchmark.pedantic(work, rounds=10, warmup_rounds=1)
    samples = job.n_tile * job.n_orient
    describe(benchmark, samples, traffic(job, job.n_tile), copy_bandwidth[threads])


def test_instruction_sets(benchmark, job, copy_bandwidth, level):
    test_expand(benchmark, job, copy_bandwidth, "logarithm", True, 1)


def test_peer_numpy(benchmark, job, copy_bandwidth):
    """float32 NumPy, one orientation at a time, logarithms included; one thread."""
    size, n = len(job.volume), LANES
    flat, steps = job.volume.ravel(), np.array([size * size, size, 1])
    matrices = orientations.to_matrix(job.quats[:n]).astype(np.float32)
    out = np.empty((n, job.n_orient), np.float32)

    def work():
        for matrix, row in zip(matrices, out, strict=True):
            position = matrix @ job.q + np.float32(size // 2)
            inside = ((position >= 0) & (position < size - 1)).all(axis=0)
            low = np.where(inside, position, 0).astype(np.intp)
            f = np.where(inside, position - low, np.float32(0))
            base = steps @ low
            row[:] = 0
            for dx, wx in ((0, 1 - f[0]), (1, f[0])):
                for dy, wy in ((0, 1 - f[1]), (1, f[1])):
                    for dz, wz in ((0, 1 - f[2]), (1, f[2])):
                        row += wx * wy * wz * flat[base + (dx * size + dy) * size + dz]
            row *= inside * job.exposure
            row[:] = np.log(np.maximum(row, 1e-36)) - job.reference

    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    describe(benchmark, n * job.n_orient, traffic(job, n), copy_bandwidth[1])
    panels, _ = expand(job.volume, job.quats[:n], job.q, job.exposure, job.reference)
    assert np.median(np.abs(panels[0].T - out)) < 1e-5  # the same work

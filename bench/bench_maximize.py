"""maximize at the size of sim_4bed: 2,000 frames of 894 photons, one tile of orientations.

Run: pytest bench/bench_maximize.py --benchmark-enable --benchmark-columns=min,median,rounds

A sample is one lit pixel of one frame in one orientation ("photon-orientation"), in the dense
form one pixel. Traffic beside the copy bandwidth of the same run:
    compulsory  panels and photons read once, log-likelihoods written once
    logical     what is asked of caches and memory: each lit pixel loads a row of the panel
                and its own 6 bytes; in the dense form each pixel 4 bytes per panel
"""

from __future__ import annotations

import numpy as np
import pytest
from bench_ewald_slice import describe
from conftest import THREADS

from spicore.emc.kernels import LANES, maximize

DENSE_FRAMES = 256  # of the dense form, which does 20 times the work


def traffic(job, n_values, value_bytes):
    n_panels = -(-job.n_tile // LANES)
    panels, scores = 4 * n_panels * LANES * job.n_orient, 4 * job.n_frames * job.n_tile
    return {
        "compulsory": panels + value_bytes * n_values + scores,
        "logical": n_panels * n_values * (4 * LANES + value_bytes) + scores,
    }


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("form", ["sparse", "background"])
def test_maximize(benchmark, job, copy_bandwidth, form, threads):
    panels = job.panels(job.reference if form == "sparse" else None)
    offset = np.zeros(job.n_tile, np.float32)
    ll = np.empty((job.n_frames, job.n_tile), np.float32)
    background = None
    if form == "background":
        noise = np.full(job.n_orient, 0.01, np.float32)
        background = (noise, np.ones(job.n_frames, np.float32), job.reference)

    def work():
        maximize(
            panels, job.photons, job.fluence, offset, ll, background=background, threads=threads
        )

    benchmark.pedantic(work, rounds=10, warmup_rounds=1)
    samples = job.n_lit * job.n_tile
    describe(benchmark, samples, traffic(job, job.n_lit, 6), copy_bandwidth[threads])


@pytest.mark.parametrize("form", ["sparse", "background"])
def test_instruction_sets(benchmark, job, copy_bandwidth, form, level):
    test_maximize(benchmark, job, copy_bandwidth, form, 1)


@pytest.mark.parametrize("threads", THREADS)
def test_maximize_dense(benchmark, job, copy_bandwidth, threads):
    panels, offset = job.panels(job.reference), np.zeros(job.n_tile, np.float32)
    values = np.ascontiguousarray(job.photons.to_dense(job.n_orient)[:DENSE_FRAMES])
    ll = np.empty((DENSE_FRAMES, job.n_tile), np.float32)

    def work():
        maximize(panels, values, job.fluence[:DENSE_FRAMES], offset, ll, threads=threads)

    benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    describe(
        benchmark, values.size * job.n_tile, traffic(job, values.size, 4), copy_bandwidth[threads]
    )


def tomograms(job):
    """[T, R], as the peers need them."""
    panels = job.panels(job.reference)
    rows = panels.transpose(1, 0, 2).reshape(job.n_orient, -1)
    return np.ascontiguousarray(rows[:, : job.n_tile])


def test_peer_scipy(benchmark, job, copy_bandwidth):
    """scipy.sparse: csr @ dense in float32; it runs on one thread."""
    frames, logs = job.csr(job.n_orient), tomograms(job)
    result = benchmark.pedantic(lambda: frames @ logs, rounds=3, warmup_rounds=1)
    describe(benchmark, job.n_lit * job.n_tile, traffic(job, job.n_lit, 8), copy_bandwidth[1])
    ll = np.empty_like(result)
    zero = np.zeros(job.n_tile, np.float32)
    maximize(job.panels(job.reference), job.photons, job.fluence, zero, ll)
    np.testing.assert_allclose(ll, result, atol=0.02)  # the same work


def test_peer_numpy_dense(benchmark, job, copy_bandwidth):
    """NumPy's BLAS: dense @ dense in float32, on its own threads."""
    values = np.ascontiguousarray(job.photons.to_dense(job.n_orient)[:DENSE_FRAMES])
    logs = tomograms(job)
    benchmark.pedantic(lambda: values @ logs, rounds=5, warmup_rounds=1)
    describe(
        benchmark, values.size * job.n_tile, traffic(job, values.size, 4),
        copy_bandwidth[max(THREADS)],
    )  # fmt: skip

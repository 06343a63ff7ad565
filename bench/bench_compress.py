"""compress at the size of sim_4bed: 2,000 frames of 894 photons, one tile of orientations.

Run: pytest bench/bench_compress.py --benchmark-enable --benchmark-columns=min,median,rounds

A sample is one lit pixel of one frame in one orientation ("photon-orientation"), in the dense
form one pixel; frames without posterior in a tile count too. Traffic beside the copy bandwidth of
the same run:
    compulsory  photons and posterior read once, slices written once
    logical     what is asked of caches and memory: each lit pixel updates (reads and writes) a
                row of the panel; the panels are cleared, and transposed into slices
"""

from __future__ import annotations

import numpy as np
import pytest
from bench_ewald_slice import describe
from conftest import THREADS

from spicore.emc.kernels import LANES, compress, expand

BETAS = {"broad": 0.03, "sharp": 1.0}  # all orientations of the tile, few of them
DENSE_FRAMES = 256


def probabilities(job, beta):
    p = job.scores.copy()
    job.posterior(p, beta)
    return p


def traffic(job, n_values, value_bytes):
    n_panels = -(-job.n_tile // LANES)
    slices, p = 4 * job.n_tile * job.n_rows, 4 * job.n_frames * job.n_tile
    return {
        "compulsory": value_bytes * n_values + p + slices,
        "logical": n_panels * n_values * (8 * LANES + value_bytes) + p + 3 * slices,
    }


def arguments(job, p, threads):
    """Scratch and result that are kept, as the engine keeps them."""
    return {
        "out": np.empty((job.n_tile, job.n_rows), np.float32),
        "scratch": np.empty((threads, job.n_rows, LANES), np.float32),
        "threads": threads,
    }


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("form", ["sparse", "background"])
@pytest.mark.parametrize("kind", BETAS)
def test_compress(benchmark, job, copy_bandwidth, kind, form, threads):
    p = probabilities(job, BETAS[kind])
    options = arguments(job, p, threads)
    if form == "background":
        panels, _ = expand(job.volume, job.quats, job.layout.q, job.layout.exposure)
        noise = np.full(job.n_rows, 0.01, np.float32)
        options["background"] = (panels, job.fluence, noise, np.ones_like(job.fluence))

    def work():
        compress(p, job.photons, job.n_tile, job.n_rows, **options)

    benchmark.pedantic(work, rounds=10, warmup_rounds=1)
    panels = p[:, : job.n_tile // LANES * LANES].reshape(job.n_frames, -1, LANES)
    benchmark.extra_info["panels_with_posterior"] = float((panels > 0).any(axis=2).mean())
    samples = job.n_lit_merged * job.n_tile
    describe(benchmark, samples, traffic(job, job.n_lit_merged, 6), copy_bandwidth[threads])


def test_instruction_sets(benchmark, job, copy_bandwidth, level):
    test_compress(benchmark, job, copy_bandwidth, "broad", "sparse", 1)


@pytest.mark.parametrize("threads", THREADS)
def test_compress_dense(benchmark, job, copy_bandwidth, threads):
    p = probabilities(job, BETAS["broad"])[:DENSE_FRAMES]
    values = job.photons.to_dense(job.n_rows)[:DENSE_FRAMES].copy()
    options = arguments(job, p, threads)

    def work():
        compress(p, values, job.n_tile, job.n_rows, **options)

    benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    samples = values.size * job.n_tile
    describe(benchmark, samples, traffic(job, values.size, 4), copy_bandwidth[threads])


@pytest.mark.parametrize("kind", BETAS)
def test_peer_scipy(benchmark, job, copy_bandwidth, kind):
    """scipy.sparse: (csr of the frames, transposed) @ dense, or sparse where it is sharp.

    It runs on one thread; the transposed frames are made before, the result stays [T, R].
    """
    p = probabilities(job, BETAS[kind])
    frames = job.csr(job.n_rows).T.tocsr()
    sharp = kind == "sharp"
    right = type(frames)(p) if sharp else p

    result = benchmark.pedantic(lambda: frames @ right, rounds=3, warmup_rounds=1)
    samples = job.n_lit_merged * job.n_tile
    describe(benchmark, samples, traffic(job, job.n_lit_merged, 8), copy_bandwidth[1])
    slices, _ = compress(p, job.photons, job.n_tile, job.n_rows)
    dense = result.toarray() if sharp else result
    np.testing.assert_allclose(slices, dense.T, rtol=1e-4, atol=1e-4)  # the same work

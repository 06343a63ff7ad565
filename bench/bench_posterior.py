"""posterior at the size of sim_4bed: 2,000 frames, 10,860 orientations (num_div = 6).

Run: pytest bench/bench_posterior.py --benchmark-enable --benchmark-columns=min,median,rounds

A sample is one log-likelihood. Traffic beside the copy bandwidth of the same run:
    compulsory  log-likelihoods read once, probabilities written once
    logical     what the passes ask of caches and memory: the largest (read), the exponential
                (read, write), the norm (read, write)
"""

from __future__ import annotations

import numpy as np
import pytest
from bench_ewald_slice import describe
from conftest import THREADS

N_FRAMES, N_ORIENTATIONS = 2000, 10_860
BETAS = {"broad": 0.03, "sharp": 1.0}  # all terms survive, few do
TRAFFIC = {"compulsory": 8 * N_FRAMES * N_ORIENTATIONS, "logical": 20 * N_FRAMES * N_ORIENTATIONS}


@pytest.fixture(scope="module")
def scores(job):
    """Log-likelihoods of the tile, drawn with replacement to as many as a run has."""
    rng = np.random.default_rng(0)
    columns = rng.integers(0, job.n_tile, N_ORIENTATIONS)
    return np.take(job.scores, columns, axis=1)[rng.integers(0, job.n_frames, N_FRAMES)]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("kind", BETAS)
def test_posterior(benchmark, job, scores, copy_bandwidth, kind, threads):
    ll = np.empty_like(scores)

    def restore():
        np.copyto(ll, scores)

    def work():
        job.posterior(ll, BETAS[kind], threads)

    benchmark.pedantic(work, setup=restore, rounds=10, warmup_rounds=1)
    benchmark.extra_info["kept"] = float((ll > 0).mean())
    describe(benchmark, scores.size, TRAFFIC, copy_bandwidth[threads])


def test_instruction_sets(benchmark, job, scores, copy_bandwidth, level):
    test_posterior(benchmark, job, scores, copy_bandwidth, "broad", 1)


@pytest.mark.parametrize("kind", BETAS)
def test_peer_numpy(benchmark, job, scores, copy_bandwidth, kind):
    """Softmax in float32 and the expectations, in blocks of frames that fit the cache."""
    beta, total = np.float32(BETAS[kind]), np.ones(N_ORIENTATIONS, np.float32)
    ll = np.empty_like(scores)

    def restore():
        np.copyto(ll, scores)

    def work():
        for first in range(0, N_FRAMES, 16):
            block = ll[first : first + 16]
            s = beta * block
            s -= s.max(axis=1, keepdims=True)
            p = np.exp(s)
            p /= p.sum(axis=1, keepdims=True)
            s.argmax(axis=1)
            np.einsum("dr,dr->d", p, block)
            np.einsum("dr,dr->d", p, s)
            p @ total
            block[:] = p

    benchmark.pedantic(work, setup=restore, rounds=3, warmup_rounds=1)
    describe(benchmark, scores.size, TRAFFIC, copy_bandwidth[1])
    ours = scores.copy()
    job.posterior(ours, BETAS[kind])
    np.testing.assert_allclose(ours, ll, rtol=1e-2, atol=1e-6)  # the same work

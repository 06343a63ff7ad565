"""ewald_slice at the size of sim_4bed: 151^3 voxels, 150 x 150 pixels, 256 orientations.

Run: pytest bench/bench_ewald_slice.py --benchmark-enable --benchmark-columns=min,median,rounds

Traffic is given by two models beside the copy bandwidth of the same memory, bytes read plus
bytes written in both:
    compulsory  every input read once, every output written once
    logical     what the samples ask of caches and memory: 8 corners, q, and the result
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest

import spicore as sp
from spicore import orientations
from spicore._dispatch import cuda_status, n_threads

SIZE = 151
N_PIXELS = 150  # per edge of the detector
N_SLICES = 256
COPIED = 256 << 20  # bytes of the copy that measures bandwidth, larger than any cache
LOGICAL_BYTES = 8 * 4 + 3 * 4 + 4  # per sample

BACKENDS = ["cpu-1", "cpu-all", "cuda"]


def copy_bandwidth():
    """Bytes read plus written per second by a copy on one thread."""
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    return 2 * COPIED / best_time(lambda: np.copyto(target, source))


def best_time(work, rounds=5):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.fixture(scope="session")
def bandwidth():
    """Copy bandwidth of host memory."""
    return copy_bandwidth()


def inputs():
    """Orientations and q [T, 3]: a flat-panel detector, its corners beyond the volume."""
    quats = orientations.random(N_SLICES, np.random.default_rng(0))
    return quats, sp.Detector.square(N_PIXELS).q_voxels.astype(np.float32)


def rotated(quats, q):
    """Positions in the volume [R, T, 3], as the peers need them."""
    return np.matmul(q, orientations.to_matrix(quats).swapaxes(1, 2).astype(np.float32)) + SIZE // 2


def n_inside(quats, q):
    points = rotated(quats, q)
    return int(((points >= 0) & (points < SIZE - 1)).all(axis=-1).sum())


class Cuda:
    """torch on the first GPU: arrays, waiting, and the copy bandwidth of its memory."""

    def __init__(self):
        status = cuda_status()
        if not status.usable:
            pytest.skip(f"CUDA: {status.reason}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.torch = pytest.importorskip("torch")

    def to(self, *arrays):
        return [self.torch.tensor(x, device="cuda") for x in arrays]

    def timed(self, work):
        """Return `work` as a call that ends when the GPU is done."""

        def run():
            work()
            self.torch.cuda.synchronize()

        return run

    def bandwidth(self):
        source = self.torch.ones(4 * COPIED, dtype=self.torch.uint8, device="cuda")
        target = self.torch.zeros_like(source)
        return 8 * COPIED / best_time(self.timed(lambda: target.copy_(source)))


def describe(benchmark, samples, bytes_of, bandwidth):
    """Put rates into the benchmark; `bytes_of` names models and their bytes per call."""
    benchmark.extra_info["samples"] = samples
    benchmark.extra_info["copy_GB_per_s"] = bandwidth / 1e9
    if benchmark.stats is None:  # benchmarks are disabled
        return
    seconds = benchmark.stats.stats.min
    benchmark.extra_info["samples_per_s"] = samples / seconds
    for model, n_bytes in bytes_of.items():
        benchmark.extra_info[f"{model}_bytes"] = n_bytes
        benchmark.extra_info[f"{model}_GB_per_s"] = n_bytes / seconds / 1e9


def traffic(samples, quats, q):
    n_out = len(quats) * len(q)
    return {
        "compulsory": 4 * SIZE**3 + quats.nbytes + q.nbytes + 4 * n_out,
        "logical": LOGICAL_BYTES * samples,
    }


@pytest.mark.parametrize("friedel", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ewald_slice(benchmark, backend, friedel, bandwidth):
    quats, q = inputs()
    samples, bytes_of = n_inside(quats, q), traffic(n_inside(quats, q), quats, q)
    volume = np.random.default_rng(1).random((SIZE,) * 3, np.float32)
    out = np.empty((len(quats), len(q)), np.float32)
    if backend == "cuda":
        cuda = Cuda()
        arrays = cuda.to(volume, quats, q, out)
        bandwidth = cuda.bandwidth()
        work = cuda.timed(lambda: sp.ewald_slice(*arrays[:3], friedel=friedel, out=arrays[3]))
    else:
        threads = 1 if backend == "cpu-1" else n_threads(None)
        benchmark.extra_info["threads"] = threads

        def work():
            sp.ewald_slice(volume, quats, q, friedel=friedel, out=out, threads=threads)

    benchmark.pedantic(work, rounds=10, warmup_rounds=2)
    describe(benchmark, samples, bytes_of, bandwidth)


def test_peer_map_coordinates(benchmark, bandwidth):
    """scipy.ndimage.map_coordinates(order=1), slice by slice; it runs on one thread."""
    ndimage = pytest.importorskip("scipy.ndimage")
    quats, q = inputs()
    volume = np.random.default_rng(1).random((SIZE,) * 3, np.float32)
    out = np.empty((len(quats), len(q)), np.float32)

    def work():
        for quat, row in zip(quats, out, strict=True):
            points = rotated(quat[None], q)[0].T
            ndimage.map_coordinates(volume, points, output=row, order=1, mode="constant")

    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    samples = n_inside(quats, q)
    describe(benchmark, samples, traffic(samples, quats, q), bandwidth)
    inside = ((rotated(quats, q) >= 0.01) & (rotated(quats, q) < SIZE - 1.01)).all(axis=-1)
    assert np.abs(out - sp.ewald_slice(volume, quats, q))[inside].max() < 1e-4  # the same work

"""ewald_merge at the size of sim_4bed: 151^3 voxels, 150 x 150 pixels, 256 orientations.

Run: pytest bench/bench_ewald_merge.py --benchmark-enable --benchmark-columns=min,median,rounds

Traffic as in bench_ewald_slice: compulsory is the inputs read once and the sums, 16 bytes a
voxel, read and written once; logical is, per sample, 8 pairs of float64 read and written.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bench_ewald_slice import BACKENDS, SIZE, Cuda, bandwidth, describe, inputs, n_inside, rotated

import spicore as sp
from spicore import _core
from spicore._dispatch import n_threads

__all__ = ["bandwidth"]  # a fixture

LOGICAL_BYTES = 8 * 2 * 16 + 3 * 4 + 2 * 4  # per sample


def problem():
    quats, q = inputs()
    rng = np.random.default_rng(1)
    slices = rng.random((len(quats), len(q)), np.float32)
    weights = rng.random(len(quats), np.float32), rng.random((1, len(q)), np.float32)
    return slices, *weights, quats, np.ascontiguousarray(q.T)


def traffic(samples, arrays):
    return {
        "compulsory": sum(x.nbytes for x in arrays) + 2 * 16 * SIZE**3,
        "logical": LOGICAL_BYTES * samples,
    }


@pytest.mark.parametrize("friedel", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ewald_merge(benchmark, backend, friedel, bandwidth):
    """The kernel alone: an engine keeps its accumulator over many calls."""
    arrays = problem()
    sums = np.zeros((SIZE, SIZE, SIZE, 2))
    if backend == "cuda":
        cuda = Cuda()
        from spicore import _cuda

        *on_gpu, gpu_sums = cuda.to(*arrays, sums)
        bandwidth = cuda.bandwidth()
        stream = cuda.torch.cuda.current_stream().cuda_stream
        work = cuda.timed(lambda: _cuda.ewald_merge(*on_gpu, friedel, gpu_sums, stream))
    else:
        threads = 1 if backend == "cpu-1" else n_threads(None)
        benchmark.extra_info["threads"] = threads

        def work():
            _core.ewald_merge(*arrays, friedel, sums, threads)

    benchmark.pedantic(work, rounds=10, warmup_rounds=2)
    samples = n_inside(arrays[3], arrays[4].T)
    describe(benchmark, samples, traffic(samples, arrays), bandwidth)


def add_with_bincount(sums, index, weight):
    sums += np.bincount(index, weight, minlength=SIZE**3)


def add_with_add_at(sums, index, weight):
    np.add.at(sums, index, weight)


def numpy_merge(add, slices, slice_weights, pixel_weights, quats, planes):
    """Value and weight sums, each corner of all samples in one call of `add`."""
    points = rotated(quats, planes.T)
    inside = ((points >= 0) & (points < SIZE - 1)).all(axis=-1)
    points = points[inside]
    low = points.astype(np.int64)
    fraction = points - low
    terms = slices[inside], np.outer(slice_weights, pixel_weights)[inside]
    sums = np.zeros((2, SIZE**3))
    for corner in itertools.product((0, 1), repeat=3):
        f = np.where(corner, fraction, 1 - fraction).prod(axis=1)
        index = np.ravel_multi_index(tuple((low + corner).T), (SIZE,) * 3)
        for total, term in zip(sums, terms, strict=True):
            add(total, index, f * term)
    return sums.reshape(2, SIZE, SIZE, SIZE)


@pytest.mark.parametrize("add", [add_with_bincount, add_with_add_at])
def test_peer_numpy(benchmark, add, bandwidth):
    arrays = problem()
    got = benchmark.pedantic(lambda: numpy_merge(add, *arrays), rounds=3)
    samples = n_inside(arrays[3], arrays[4].T)
    describe(benchmark, samples, traffic(samples, arrays), bandwidth)
    slices, slice_weights, pixel_weights, quats, planes = arrays
    value, _ = sp.ewald_merge(
        slices, quats, planes.T, SIZE, slice_weights=slice_weights, pixel_weights=pixel_weights[0]
    )
    assert np.abs(got[0] - value).max() < 1e-3 * value.max()  # the same work

"""accumulate at the size of sim_4bed: 2,000 frames of 573 lit bins of 65 rings x 256 angles.

Run: pytest bench/bench_accumulate.py --benchmark-enable --benchmark-columns=min,median,rounds

A sample is one lit bin of one frame in one term ("photon-orientation"). Sharp posteriors are runs
of neighbouring angles in a few views of each frame; broad ones are all orientations of a coarse
grid. Traffic beside the copy bandwidth of the same run:
    compulsory  photons and terms read once, tomograms added to once
    logical     each lit bin of each term updates (reads and writes) a sum
"""

from __future__ import annotations

import numpy as np
import pytest
from bench_ewald_slice import describe
from conftest import THREADS

from spicore.emc.kernels import Photons
from spicore.emc.polar.accumulate import Terms, accumulate
from spicore.emc.polar.orders import GROUP

# Frames, lit bins, rings, angles, views, runs of a frame, angles of a run, views of a frame
SIZES = {
    "sharp-40": (2000, 573, 65, 256, 512, 8, 5, 3),
    "sharp-450": (2000, 573, 65, 256, 512, 45, 10, 12),
    "broad-4096": (1000, 500, 22, 32, 64, 128, 32, 64),
    "broad-12288": (1000, 500, 30, 64, 96, 192, 64, 96),
}


def photons_of(n_frames, lit, n_bins, rng):
    row = np.sort(rng.permuted(np.tile(np.arange(n_bins), (n_frames, 1)), axis=1)[:, :lit])
    begin = np.arange(n_frames + 1, dtype=np.int64) * lit
    count = rng.integers(1, 3, row.size).astype(np.uint16)
    return Photons(begin, begin[1:].copy(), row.astype(np.uint32).ravel(), count)


def terms_of(n_frames, n_angles, n_views, n_runs, width, near, rng):
    """Runs of `width` angles in `near` views from a random one on, or all orientations."""
    frame = np.arange(n_frames)[:, None, None]
    run = np.arange(n_runs)[None, :, None]
    view = (rng.integers(n_views, size=(n_frames, 1, 1)) + run % near) % n_views
    first = rng.integers(n_angles, size=(n_frames, n_runs, 1))
    orientation = (view * 2 + run // near % 2) * n_angles + (first + np.arange(width)) % n_angles
    frame, orientation = (x.ravel() for x in np.broadcast_arrays(frame, orientation))
    group = orientation // (GROUP * 2 * n_angles)
    order = np.argsort(group * n_frames + frame, kind="stable")
    begin = np.searchsorted(group[order], np.arange(n_views // GROUP + 1))[None]
    p = rng.random(len(order), np.float32) / (n_runs * width)
    return Terms(
        begin.astype(np.int64), orientation[order].astype(np.uint32),
        frame[order].astype(np.uint32), p,
    )  # fmt: skip


@pytest.fixture(scope="module", params=SIZES)
def problem(request):
    n_frames, lit, n_rings, n_angles, n_views, n_runs, width, near = SIZES[request.param]
    rng = np.random.default_rng(0)
    photons = photons_of(n_frames, lit, n_rings * n_angles, rng)
    terms = terms_of(n_frames, n_angles, n_views, n_runs, width, near, rng)
    tomograms = np.zeros((n_views, n_rings * n_angles), np.float32)
    exposures = np.zeros((n_views, 2, n_angles))
    fluence = np.ones(n_frames, np.float32)
    return terms, photons, fluence, n_angles, tomograms, exposures


@pytest.mark.parametrize("threads", THREADS)
def test_accumulate(benchmark, problem, copy_bandwidth, threads):
    terms, photons, tomograms = problem[0], problem[1], problem[4]
    benchmark.pedantic(accumulate, problem, {"threads": threads}, rounds=5, warmup_rounds=1)
    samples = int(np.diff(photons.begin)[terms.frame].sum())
    compulsory = 12 * len(terms.frame) + 6 * len(photons.row) + 8 * tomograms.size
    traffic = {"compulsory": compulsory, "logical": 8 * samples}
    describe(benchmark, samples, traffic, copy_bandwidth[threads])


def test_instruction_sets(benchmark, problem, copy_bandwidth, level):
    test_accumulate(benchmark, problem, copy_bandwidth, 1)

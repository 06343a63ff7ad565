"""match on sim_1bxr: 2,000 frames of 2,000 photons, orientations 5 degrees apart.

Run: pytest bench/bench_match.py --benchmark-enable --benchmark-columns=min,median,rounds

The rate is frame-orientations per second: one frame compared with one slice. `match` is timed
whole, from the volume and the sparse frames to the best orientations. The peer is what other
programs do: a matrix product of dense frames and slices at the same pixels, float32, on NumPy's
BLAS; once with the slices given, once made by `ewald_slice` beside it. It does a tile of the
orientations, and its rate does not depend on how many.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import THREADS

import spicore as sp
from spicore.matching import MIRRORS, SCORES
from spicore.orientations import n_pairs_for, pair_quaternions, view_pairs

SPACING = 5.0
N_ANGLES = 128
TILE = 1024  # orientations of the peer
REFINED = 100  # frames


class Job:
    """Frames, detector and true intensity."""

    def __init__(self, folder: Path) -> None:
        self.detector = sp.Detector.load(folder / "detector.h5")
        self.frames = sp.Frames.open(folder / "photons.h5").load()
        with h5py.File(folder / "true_intensity.h5") as file:
            self.volume = file["intens"][()].astype(np.float32)
        self.views, _ = view_pairs(n_pairs_for(SPACING))
        self.n_orientations = len(self.views) * MIRRORS * N_ANGLES
        self.pixel = np.flatnonzero(self.detector.mask == 0)

    def match(self, n_frames=None, **options):
        return sp.match(
            self.frames[:n_frames], self.detector, self.volume,
            spacing=SPACING, n_angles=N_ANGLES, **options,
        )  # fmt: skip

    def dense(self):
        """Frames [D, T] on the pixels that orient, of length 1."""
        values = self.frames.dense(0, len(self.frames))[:, self.pixel]
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    def slices(self, quats, threads=None):
        """Expected patterns [R, T], of length 1."""
        q = self.detector.q_voxels[self.pixel].astype(np.float32)
        slices = sp.ewald_slice(self.volume, quats, q, threads=threads)
        slices *= self.detector.correction[self.pixel].astype(np.float32)
        return slices / np.linalg.norm(slices, axis=1, keepdims=True)

    def tile(self):
        """Every so many orientations of the grid."""
        index = np.linspace(0, self.n_orientations - 1, TILE).astype(np.int64)
        return pair_quaternions(self.views, N_ANGLES, index)


@pytest.fixture(scope="module")
def job():
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPICORE_SHARED_DATA", beside)) / "sim_1bxr"
    if not folder.is_dir():
        pytest.skip(f"third-party data is not at {folder} (set SPICORE_SHARED_DATA)")
    return Job(folder)


def describe(benchmark, n_frames, n_orientations):
    benchmark.extra_info["frames"] = n_frames
    benchmark.extra_info["orientations"] = n_orientations
    if benchmark.stats is not None:  # benchmarks are enabled
        rate = n_frames * n_orientations / benchmark.stats.stats.min
        benchmark.extra_info["frame_orientations_per_s"] = rate


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("ring_width", [0.5, 1.0])
@pytest.mark.parametrize("score", SCORES)
def test_match(benchmark, job, score, ring_width, threads):
    def work():
        return job.match(score=score, ring_width=ring_width, threads=threads)

    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    describe(benchmark, len(job.frames), job.n_orientations)


@pytest.mark.parametrize("score", SCORES)
def test_refinement(benchmark, job, score):
    """Grid and refinement; most of the time is the latter's."""
    benchmark.pedantic(lambda: job.match(REFINED, score=score, refine=True), rounds=2)
    benchmark.extra_info["frames"] = REFINED


@pytest.mark.parametrize("slices", ["given", "made"])
def test_peer_gemm(benchmark, job, slices):
    """NumPy's BLAS on its own threads: frames [D, T] @ slices [T, R], then the best."""
    frames, quats = job.dense(), job.tile()
    given = job.slices(quats)

    def work():
        w = given if slices == "given" else job.slices(quats)
        return (frames @ w.T).argmax(axis=1)

    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    describe(benchmark, len(frames), TILE)
    found = job.match(score="l2")
    exact = (frames * job.slices(found.orientation)).sum(axis=1)
    np.testing.assert_allclose(found.score, exact, atol=0.01)  # the same work

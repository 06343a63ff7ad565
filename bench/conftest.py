"""The job that the benchmarks of EMC's kernels share: sim_4bed, true model, one tile."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pytest
from bench_ewald_slice import COPIED, best_time

from spicore import Detector, Frames, _core, orientations
from spicore._dispatch import n_threads
from spicore.emc import kernels
from spicore.emc.layout import PixelLayout

THREADS = sorted({1, n_threads(None)})


class Job:
    """2,000 frames of 150 x 150 pixels with 894 photons, against one tile of orientations."""

    def __init__(self, folder: Path) -> None:
        self.detector = Detector.load(folder / "detector.h5")
        frames = Frames.open(folder / "photons.h5")
        self.n_frames = frames.n_frames
        self.block = frames.read(0, self.n_frames)
        self.layout = PixelLayout(self.detector)
        self.n_rows, self.n_orient = self.layout.n_rows, self.layout.n_orient
        self.photons = self.layout.photons(self.block, n_threads(None))
        with h5py.File(folder / "true_intensity.h5") as file:
            volume = file[next(iter(file))][()].astype(np.float32)
        self.volume = np.ascontiguousarray(volume.reshape(volume.shape[-3:]))
        quats, _ = orientations.grid600(6)
        self.quats = quats[orientations.sort_by_view(quats)][: self.layout.tile_size()]
        self.n_tile = len(self.quats)
        self.q = np.ascontiguousarray(self.layout.q[:, : self.n_orient])
        self.exposure = self.layout.exposure[: self.n_orient]
        _, total = kernels.expand(self.volume, self.quats, self.q, self.exposure)
        self.volume *= np.float32(self.lit_orient / total.mean())
        # Log of the mean over the tile: as good as the radial mean to keep sums small.
        linear = self.panels(None).mean(axis=(0, 2))
        self.reference = np.log(np.maximum(linear, 1e-30)).astype(np.float32)
        self.fluence = np.ones(self.n_frames, np.float32)

    @property
    def lit_orient(self) -> float:
        """Photons per frame in rows that orient."""
        return float(self.photons.to_dense(self.n_orient).sum(dtype=np.float64)) / self.n_frames

    @cached_property
    def n_lit(self) -> int:
        """Lit pixels of all frames in rows that orient."""
        return int((self.photons.orient_end - self.photons.begin[:-1]).sum())

    @cached_property
    def n_lit_merged(self) -> int:
        """Lit pixels of all frames in all rows."""
        return int(self.photons.begin[-1])

    def panels(self, reference, **options):
        return kernels.expand(self.volume, self.quats, self.q, self.exposure, reference, **options)[
            0
        ]

    @cached_property
    def scores(self):
        """Log-likelihoods of all frames in the tile, float32 [D, R]."""
        panels, total = kernels.expand(
            self.volume, self.quats, self.q, self.exposure, self.reference
        )
        ll = np.empty((self.n_frames, self.n_tile), np.float32)
        offset = (total - np.exp(self.reference).sum(dtype=np.float64)).astype(np.float32)
        kernels.maximize(panels, self.photons, self.fluence, offset, ll)
        return ll

    def posterior(self, ll, beta, threads=None):
        """Overwrite log-likelihoods by probabilities."""
        n = ll.shape[1]
        return kernels.posterior(
            ll, np.full(len(ll), beta, np.float32), np.full(n, -np.log(n), np.float32),
            np.ones(n), threads=threads,
        )  # fmt: skip

    def csr(self, n_rows):
        """Frames as scipy's compressed rows, float32 [D, n_rows]."""
        sparse = pytest.importorskip("scipy.sparse")
        frame = np.repeat(np.arange(self.n_frames), np.diff(self.photons.begin))
        used = self.photons.row < n_rows
        values = self.photons.count[used].astype(np.float32)
        return sparse.csr_array(
            (values, (frame[used], self.photons.row[used])), shape=(self.n_frames, n_rows)
        )


@pytest.fixture(scope="session")
def job():
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPICORE_SHARED_DATA", beside)) / "sim_4bed"
    if not folder.is_dir():
        pytest.skip(f"third-party data is not at {folder} (set SPICORE_SHARED_DATA)")
    return Job(folder)


@pytest.fixture(scope="session")
def copy_bandwidth():
    """Bytes read plus written per second by a copy, by number of threads."""
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)

    def measured(threads):
        parts = list(zip(np.array_split(source, threads), np.array_split(target, threads),
                         strict=True))  # fmt: skip
        with ThreadPoolExecutor(threads) as pool:
            return (
                2
                * COPIED
                / best_time(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts)))
            )

    return {threads: measured(threads) for threads in THREADS}


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def level(request):
    """Each instruction set in turn: what one gains over another should be explicable."""
    if request.param not in _core.simd_levels():
        pytest.skip(f"this machine cannot run {request.param}")
    before = _core.simd()
    _core.set_simd(request.param)
    yield request.param
    _core.set_simd(before)

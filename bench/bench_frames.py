"""Frames: opening a large file, and reading its photons.

Run: pytest bench/bench_frames.py --benchmark-enable --benchmark-columns=min,median,rounds
"""

from __future__ import annotations

import numpy as np
import pytest

from spicore.frames import Frames

N_FRAMES = 100_000
PHOTONS = 1_000  # per frame, before pixels are lit twice
N_PIXELS = 128 * 128
N_READ = 20_000  # frames of a timed read


@pytest.fixture(scope="module", params=["emc", "h5"])
def path(request, tmp_path_factory):
    """A file of 100,000 frames (0.4 GB); blocks repeat so that making it takes seconds."""
    rng = np.random.default_rng(0)
    rates = rng.dirichlet(np.full(N_PIXELS, 0.2)) * PHOTONS
    part = Frames.from_dense(rng.poisson(rates, (1000, N_PIXELS)).astype("u2")).load()
    many = part[np.arange(N_FRAMES) % len(part)]
    path = tmp_path_factory.mktemp("frames") / f"frames.{request.param}"
    (many.save_emc if request.param == "emc" else many.save_h5)(path)
    yield path
    path.unlink()


def test_open(benchmark, path):
    assert len(benchmark(Frames.open, path)) == N_FRAMES


@pytest.mark.parametrize("select", ["all", "odd", "random"])
def test_read(benchmark, path, select):
    frames = Frames.open(path)
    if select == "odd":
        frames = frames.half("odd")
    elif select == "random":
        frames = frames[np.random.default_rng(1).permutation(N_FRAMES)]
    frames = frames[:N_READ]
    lit = sum(block.pixel.size for _, block in frames.blocks())

    def read():
        for _ in frames.blocks():
            pass

    benchmark.extra_info["lit_pixels"] = lit
    benchmark.pedantic(read, rounds=5, warmup_rounds=1)
    benchmark.extra_info["ns_per_lit_pixel"] = 1e9 * benchmark.stats.stats.min / lit


def test_load(benchmark, path):
    frames = Frames.open(path)[:N_READ]
    loaded = benchmark.pedantic(frames.load, rounds=3)
    sparse = loaded.read(0, N_READ)
    benchmark.extra_info["bytes_per_lit_pixel"] = sparse.nbytes / sparse.pixel.size

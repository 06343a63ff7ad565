"""EMC on a GPU: what the engines find there is what they find on the CPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from test_polar_engine import (
    Problem,
    at_scale,
    masked_detector,
    reconstruct_module,
    relative,
)

from spicore import _dispatch, simulate
from spicore.emc import ClassifyConfig, Config, classify2d, reconstruct
from spicore.emc.polar import engine as engine_module
from spicore.emc.polar.blocks import read_ahead
from spicore.emc.polar.engine import Arithmetics
from spicore.emc.polar.shared import SharedPolarEngine
from spicore.emc.state import FrameState
from spicore.errors import InputError
from spicore.matching import match

COLUMNS = ["cuda-emulated", "torch-emulated", "cuda-torch", "cuda-cupy"]
pytestmark = [
    pytest.mark.usefixtures("column"),
    pytest.mark.parametrize("column", COLUMNS, indirect=True),
]

DEVICES = ("cpu", "cuda")
FLOAT32 = Arithmetics("float32", "float32")


@pytest.fixture(scope="module")
def detector():
    return masked_detector(24, 2, (-3, 4))


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=6), detector.size)


@pytest.fixture(scope="module")
def frames(detector, volume):
    return simulate.frames(volume, detector, 21, 300, seed=1, fluence_spread=0.1)[0]


def both(problem, **changes):
    """An iteration on the CPU and on the GPU: volumes, weights and state, and the engines."""
    found = []
    for backend in (_dispatch.CPU, _dispatch.gpu()):
        problem.settings = replace(problem.settings, backend=backend, **changes)
        engine = problem.engine
        found.append((*problem.iterate(engine), engine))
    return found


def assert_same(got, want, *, volume=1e-5, nats=2e-3):
    for a, b in zip(got[:2], want[:2], strict=True):
        assert type(a) is np.ndarray
        assert relative(a, b) < volume
    np.testing.assert_allclose(got[3].occupancy, want[3].occupancy, atol=100 * volume)
    for name in FrameState.names():
        assert type(getattr(got[2], name)) is np.ndarray
    got, want = got[2], want[2]
    np.testing.assert_allclose(got.fluence, want.fluence, rtol=max(volume, 2e-5))
    np.testing.assert_allclose(got.log_likelihood, want.log_likelihood, atol=nats)
    np.testing.assert_allclose(got.mutual_information, want.mutual_information, atol=nats)
    np.testing.assert_array_equal(got.mode, want.mode)
    np.testing.assert_array_equal(got.orientation, want.orientation)


CASES = {
    "fluence": {},
    "two modes, C2, no fluence": {"n_modes": 2, "symmetry": "C2", "fluence": False},
    "hot, 48 angles": {"beta": 0.02, "n_angles": 48, "radius": 9.0},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_an_iteration_is_that_of_the_cpu(options, frames, detector, volume, monkeypatch):
    """In the same arithmetic but for rounding; the control: the mirror images elsewhere."""
    monkeypatch.setattr(engine_module, "ON_MATRIX_UNITS", FLOAT32)
    problem = Problem(frames, detector, volume, n_pairs=12, **options)
    want, got = both(problem)
    assert_same(got, want)
    problem.volumes = problem.volumes[:, ::-1]
    _, other = both(problem)
    assert relative(other[0], want[0]) > 1e-2


def test_an_iteration_with_screening_and_splits(frames, detector, volume, monkeypatch):
    """In the arithmetic of tensor cores; terms that do not fit are looked for in halves."""
    monkeypatch.setattr(engine_module, "SCREEN_ORDERS", 8)
    monkeypatch.setattr(engine_module, "SCREEN_BELOW", 2.0)
    problem = Problem(frames[:11], detector, volume, n_pairs=100, beta=1.0)
    problem.volumes = at_scale(problem, volume, 300)
    tried = []
    correlate = engine_module.correlate
    monkeypatch.setattr(
        engine_module, "correlate",
        lambda *args, **kwargs: tried.append(len(args[0])) or correlate(*args, **kwargs),
    )  # fmt: skip
    want, got = both(problem, block_bytes=1 << 14)
    assert sum(tried) > 2 * 11  # some frames more than once
    assert want[3].kept_share <= got[3].kept_share < 1.0
    assert_same(got, want, volume=1e-3, nats=5e-3)


def test_evidence_is_that_of_the_cpu(frames, detector, volume):
    problem = Problem(frames, detector, volume, n_pairs=12)
    found = []
    for backend in (_dispatch.CPU, _dispatch.gpu()):
        problem.settings = replace(problem.settings, backend=backend)
        found.append(problem.engine.evidence(problem.model(), problem.grid, problem.state()))
    assert found[1] == pytest.approx(found[0], abs=5e-3)


def quick(**options):
    fixed = {"multiresolution": False, "num_div": 1, "n_angles": 32, "seeds": 1, "beta": 0.3,
             "prior": 1.0, "iterations": 2, "refine": 0, "smooth": False}  # fmt: skip
    return Config(**fixed | options)


def test_a_run_is_that_of_the_cpu(frames, detector, tmp_path, monkeypatch):
    """Half sets and a resumed run too. The control: another seed."""
    monkeypatch.setattr(engine_module, "ON_MATRIX_UNITS", FLOAT32)
    monkeypatch.setattr(reconstruct_module, "HALF_ITERATIONS", 1)
    runs = []
    iterate = engine_module.PolarEngine.iterate

    def counted(engine, *arguments):
        runs.append(engine.backend is not _dispatch.CPU)
        return iterate(engine, *arguments)

    monkeypatch.setattr(engine_module.PolarEngine, "iterate", counted)
    want = reconstruct(frames, detector, quick(), threads=2)
    assert runs
    assert not any(runs)
    runs.clear()
    path = tmp_path / "result.h5"
    reconstruct(frames, detector, quick(iterations=1), out=path, threads=2, device="cuda")
    got = reconstruct(frames, detector, quick(), out=path, threads=2, device="cuda", resume=True)
    assert len(runs) == 6  # one in each half
    assert all(runs)
    assert relative(got.intensity, want.intensity) < 1e-3
    for half in ("even", "odd"):
        assert relative(got.half_sets[half], want.half_sets[half]) < 1e-3
    np.testing.assert_allclose(got.fluence, want.fluence, rtol=1e-3)
    np.testing.assert_allclose(got.log_likelihood, want.log_likelihood, rtol=1e-3)
    config = quick(seed=1, half_sets=False)
    other = reconstruct(frames, detector, config, threads=2, device="cuda")
    assert relative(other.intensity, want.intensity) > 1e-2


def test_gpus_share_the_frames(frames, detector, volume, monkeypatch):
    """Two of them, of two modes; one has no frame where there is but one."""
    monkeypatch.setattr(engine_module, "ON_MATRIX_UNITS", FLOAT32)
    backends = _dispatch.backends_on("cuda:all")
    problem = Problem(frames, detector, volume, n_pairs=12, n_modes=2)
    for some in (frames, frames[:1]):
        problem.frames, n = some, some.n_frames
        problem.beta, problem.fluence = problem.beta[:n], problem.fluence[:n]
        alone, _ = both(problem)
        arguments = some, problem.layout, problem.orders, problem.settings
        engine = SharedPolarEngine(*arguments, backends)
        assert sum(e.frames.n_frames for _, e in engine.shares) == n
        assert len(engine.shares) == (min(n, len(backends)))
        assert_same((*problem.iterate(engine), engine), alone)
        assert engine.terms_per_frame == pytest.approx(alone[3].terms_per_frame)
        want = problem.engine.evidence(problem.model(), problem.grid, problem.state())
        got = engine.evidence(problem.model(), problem.grid, problem.state())
        assert got == pytest.approx(want, abs=1e-4)


def test_a_run_of_several_gpus_is_that_of_one(frames, detector, monkeypatch):
    made = []
    share = reconstruct_module.SharedPolarEngine
    monkeypatch.setattr(
        reconstruct_module, "SharedPolarEngine", lambda *args: made.append(args) or share(*args)
    )
    config = quick(half_sets=False)
    several, one = (
        reconstruct(frames, detector, config, threads=2, device=d) for d in ("cuda:all", "cuda")
    )
    assert len(made) == (len(_dispatch.backends_on("cuda:all")) > 1)
    assert relative(several.intensity, one.intensity) < 1e-3
    np.testing.assert_allclose(several.fluence, one.fluence, rtol=1e-3)


def test_a_run_on_exact_pixels_is_that_of_the_cpu(frames, detector):
    """With a local refinement. The control: another seed."""
    config = quick(engine="pixel", iterations=2, refine=1, half_sets=False, tolerance=1.0)
    want, got = (reconstruct(frames, detector, config, threads=2, device=d) for d in DEVICES)
    assert len(got.history["iteration"]) == 2
    assert relative(got.intensity, want.intensity) < 1e-3
    np.testing.assert_allclose(got.log_likelihood, want.log_likelihood, rtol=1e-3)
    config = replace(config, seed=1, iterations=1)
    other = reconstruct(frames, detector, config, threads=2, device="cuda")
    assert relative(other.intensity, want.intensity) > 1e-2


def test_what_only_the_cpu_does_is_refused(frames, detector):
    with pytest.raises(InputError, match=r'merge = "dragonfly" runs on the CPU only'):
        reconstruct(frames, detector, quick(merge="dragonfly", fluence=False), device="cuda")


def test_a_block_takes_a_quarter_of_the_memory_at_most():
    backend = _dispatch.gpu()
    quarter = backend.free_memory() // 4
    assert quarter > 0
    assert backend.block_bytes(1) == pytest.approx(min(quarter, 4 << 30), rel=0.1)
    assert backend.block_bytes(1 << 50) == pytest.approx(quarter, rel=0.1)


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_arrays_are_there_when_an_upload_returns(n):
    backend = _dispatch.gpu()
    arrays = [np.arange(2 * n, dtype=np.uint16)[::2], np.arange(n, dtype=np.uint32)]
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(backend.upload, arrays, backend.mark()).result()
    for x, y in zip(arrays, there, strict=True):
        back = backend.to_host(y)
        assert back.dtype == x.dtype
        np.testing.assert_array_equal(back, x)


def test_blocks_are_read_one_ahead(frames):
    """In their order, by another thread; what goes wrong there is raised here."""
    backend, read, readers = _dispatch.gpu(), [], set()

    def blocks():
        for start in range(0, 20, 5):
            readers.add(threading.get_ident())
            read.append(start)
            yield start, frames.read(start, start + 5)
        raise InputError("no more")

    coming = read_ahead(blocks(), backend)
    for start in range(0, 20, 5):
        first, sparse = next(coming)
        assert first == start
        assert len(read) <= start // 5 + 2
        want = frames.read(start, start + 5)
        for name in ("offset", "pixel", "count"):
            got = backend.to_host(getattr(sparse, name))
            np.testing.assert_array_equal(got, getattr(want, name))
    with pytest.raises(InputError, match="no more"):
        next(coming)
    assert threading.get_ident() not in readers


def test_classes_are_those_of_the_cpu(frames, detector):
    """The control: another seed."""
    config = ClassifyConfig(n_classes=2, n_angles=32, iterations=2)
    want, got = (classify2d(frames, detector, config, threads=2, device=d) for d in DEVICES)
    for name in ("averages", "occupancy", "fluence", "log_likelihood", "mutual_information"):
        a, b = getattr(got, name), getattr(want, name)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.nanmax(np.abs(b)), err_msg=name)
    np.testing.assert_array_equal(got.class_of, want.class_of)
    other = classify2d(frames, detector, replace(config, seed=1), threads=2, device="cuda")
    assert np.abs(other.occupancy - want.occupancy).max() > 0.1


@pytest.mark.parametrize("score", ["poisson", "correlation"])
def test_matches_are_those_of_the_cpu(score, frames, detector, volume):
    options = {"score": score, "spacing": 30.0, "threads": 2}
    want, got = (match(frames, detector, volume, **options, device=d) for d in DEVICES)
    scale = np.ptp(want.score)
    for name, a, b in zip(got._fields, got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
    other = match(frames, detector, volume[::-1], **options, device="cuda")
    assert np.abs(other.score - want.score).max() > 1e-3 * scale

"""The pixel engine on a GPU: the iterations that it makes on the CPU, which test_emc checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from columns import COLUMNS, CPU, Column

from spicore import Detector, Frames, _dispatch, orientations, simulate
from spicore.emc.engine import FrameState, Grid, PixelEngine, Settings
from spicore.emc.layout import PixelLayout
from spicore.emc.model import Model, complete
from spicore.errors import InputError

pytestmark = [
    pytest.mark.usefixtures("column"),
    pytest.mark.parametrize("column", ["torch-emulated", *COLUMNS[len(CPU) :]], indirect=True),
]

N_FRAMES = 66  # two blocks of the smallest size, of 64 frames

CASES = {
    "counts": {},
    "no fluence": {"fluence": False},
    "modes and patterns": {"n_modes": 2, "n_patterns": 2},
    "symmetry": {"symmetry": "D2"},
    "gaussian, pattern": {"gaussian": True, "n_patterns": 1},
    "background, pattern": {"background": True, "n_patterns": 1},
    "background, no fluence": {"background": True, "fluence": False},
}


def backend():
    """The backend of the test's column, as `Settings` takes it."""
    return _dispatch.backend_of(x=Column.current.to(np.zeros(1)))


@pytest.fixture(scope="module")
def detector():
    return Detector.square(14, pixel_size=0.1 / 14, distance=0.1, stop_radius=1.5)


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=5), detector.size)


class Experiment:
    """Frames, a model and a grid; iterations from there with settings that vary."""

    def __init__(self, detector, volume, *, n_modes=1, n_patterns=0, symmetry="C1", fluence=True,
                 gaussian=False, background=False):  # fmt: skip
        rng = np.random.default_rng(0)
        noise = rng.uniform(0.02, 0.3, detector.n_pixels) if background else None
        self.frames, _ = simulate.frames(
            volume, detector, N_FRAMES, 100, seed=1, fluence_spread=0.1, background=noise
        )
        if gaussian:
            values = self.frames.dense(0, N_FRAMES)
            self.frames = Frames.from_dense(values + rng.normal(0.0, 1.0, values.shape))
        self.layout = PixelLayout(detector)
        self.settings = Settings(
            fluence=fluence, dragonfly=False, prior=0.1, gaussian_sigma=1.5, block_bytes=1,
            threads=2, symmetry=orientations.point_group(symmetry), background=noise,
        )  # fmt: skip
        quats = rng.normal(size=(45, 4))  # in a regular grid some are equivalent
        quats /= np.linalg.norm(quats, axis=1, keepdims=True)
        self.grid = Grid(quats, np.full(len(quats), 1 / len(quats)))
        shape = (n_modes, *volume.shape)
        volumes = complete((volume * rng.uniform(0.5, 1.5, shape)).astype(np.float32))
        powder = self.frames.dense(0, N_FRAMES)[:, self.layout.pixel].mean(axis=0)
        powder = np.maximum(powder, 0.01) / self.layout.exposure
        patterns = powder * rng.uniform(0.3, 1.7, (n_patterns, self.layout.n_rows))
        self.model = Model(volumes, patterns.astype(np.float32))
        photons = (powder * self.layout.exposure)[: self.layout.n_orient].sum()
        self.model.volumes *= np.float32(
            photons / self.engine(_dispatch.CPU).mean_total(self.model, self.grid)
        )

    def engine(self, where):
        return PixelEngine(self.frames, self.layout, replace(self.settings, backend=where))

    def run(self, where, local=None, model=None):
        """Two iterations, or one and one of refinement: all that comes out of it."""
        engine, state = self.engine(where), FrameState.start(N_FRAMES)
        beta = np.linspace(0.2, 0.6, N_FRAMES, dtype=np.float32)
        profile = self.model.radial_mean()
        model, _ = engine.iterate(model or self.model, self.grid, state, beta, profile)
        if local is None:
            model, weight = engine.iterate(model, self.grid, state, beta, profile)
        else:
            model, weight = engine.refine(model, local, state, profile)
        half = volume_half(model.volumes)
        found = {"volumes": half, "weight": volume_half(weight), "patterns": model.patterns}
        return found | {name: getattr(state, name) for name in FrameState.names()}


def volume_half(volumes):
    """The half x >= 0, which alone is made."""
    return volumes[:, volumes.shape[1] // 2 :]


def assert_agree(got, want):
    """float32 sums in another order; log-likelihoods of hundreds, so P to some 1e-4."""
    for name in ("volumes", "weight", "patterns", "fluence", "background_scale"):
        error = np.linalg.norm(got[name] - want[name])
        assert error <= 1e-5 * np.linalg.norm(want[name]), name
    for name in ("log_likelihood", "mutual_information"):
        np.testing.assert_allclose(got[name], want[name], atol=1e-3, err_msg=name)
    np.testing.assert_array_equal(got["mode"], want["mode"])
    np.testing.assert_allclose(got["orientation"], want["orientation"], atol=1e-6)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_iterations_are_those_of_the_cpu(options, detector, volume):
    experiment = Experiment(detector, volume, **options)
    want = experiment.run(_dispatch.CPU)
    assert_agree(experiment.run(backend()), want)
    assert len(set(want["mode"])) > 1 or "n_patterns" not in options


def test_control_of_another_model(detector, volume):
    """The bounds tell a model from one that is brighter by 1e-3 in one voxel of ten."""
    experiment = Experiment(detector, volume)
    other = experiment.model.volumes * np.float32(1.001) ** (np.arange(volume.shape[0]) % 10 == 0)
    model = Model(other.astype(np.float32), experiment.model.patterns)
    with pytest.raises(AssertionError):
        assert_agree(experiment.run(backend(), model=model), experiment.run(_dispatch.CPU))


def test_the_scale_of_the_model(detector, volume):
    experiment = Experiment(detector, volume, n_modes=2)
    got, want = (
        experiment.engine(where).mean_total(experiment.model, experiment.grid)
        for where in (backend(), _dispatch.CPU)
    )
    assert got == pytest.approx(want, rel=1e-6)


REFINED = {name: CASES[name] for name in CASES if "pattern" in name}  # and frames that stay


@pytest.mark.parametrize("options", REFINED.values(), ids=REFINED)
def test_refinement_is_that_of_the_cpu(options, detector, volume):
    """Frames in tiles, where the CPU takes them one by one."""
    experiment = Experiment(detector, volume, **options)
    local = orientations.local_grid(20.0, 17.0)
    assert_agree(experiment.run(backend(), local), experiment.run(_dispatch.CPU, local))


def test_dragonfly_is_refused(detector, volume):
    experiment = Experiment(detector, volume)
    experiment.settings = replace(experiment.settings, dragonfly=True)
    experiment.engine(_dispatch.CPU)
    with pytest.raises(InputError, match='"dragonfly" runs on the CPU only: use device "cpu"'):
        experiment.engine(backend())


def test_photons_bound_a_block(detector, volume):
    """Where scores are few, as in a refinement; on the CPU a thousand frames share tomograms."""
    experiment = Experiment(detector, volume)
    photons = len(experiment.frames.read(0, 64).pixel) / 64
    frames = experiment.frames.select(np.arange(5000) % N_FRAMES)
    settings = replace(experiment.settings, block_bytes=1 << 20)
    engines = [
        PixelEngine(frames, experiment.layout, replace(settings, backend=where))
        for where in (_dispatch.CPU, backend())
    ]
    few, many = ([e._frames_per_block(n) for e in engines] for n in (4, 1 << 11))
    assert few == [1024, pytest.approx((1 << 20) / (72 * photons), rel=0.05)]  # bytes an entry
    assert many == [128, 128]  # as many as have scores

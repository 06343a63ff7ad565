"""Simulated particles, intensities and frames."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from spicore import Detector, Frames, ewald_slice, metrics, simulate
from spicore.errors import InputError
from spicore.orientations import conjugate, random

DIAMETER = 10.0


@pytest.fixture(scope="module")
def density():
    return simulate.particle(0, diameter=DIAMETER)


@pytest.fixture(scope="module")
def detector():
    return Detector.square(24, stop_radius=2)


@pytest.fixture(scope="module")
def volume(density, detector):
    return simulate.intensity(density, detector.size)


def dense(frames):
    return frames.read(0, len(frames)).to_dense()


# Particle


@pytest.mark.parametrize("size", [None, 13, 14, 20])
def test_particle_is_compact_and_centred_on_the_origin(size):
    density = simulate.particle(3, diameter=DIAMETER, size=size)
    assert density.dtype == np.float32
    assert density.shape == ((size or 13),) * 3
    assert density.min() == 0.0
    lit = np.argwhere(density > 0) - len(density) // 2
    assert 3.5 < np.linalg.norm(lit, axis=1).max() <= DIAMETER / 2


def test_particle_does_not_depend_on_the_cube_but_on_the_seed(density):
    larger = simulate.particle(0, diameter=DIAMETER, size=17)
    np.testing.assert_allclose(larger[2:-2, 2:-2, 2:-2], density, rtol=1e-6)
    assert not np.allclose(density, simulate.particle(1, diameter=DIAMETER))


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_particle_has_no_symmetry(density, axes):
    # Mirrors, half turns and inversion of the density.
    assert np.corrcoef(density.ravel(), np.flip(density, axes).ravel())[0, 1] < 0.85
    if len(axes) == 2:
        volume = simulate.intensity(density, 41)
        cc = metrics.shell_cc(volume, np.flip(volume, axes))[1]
        assert np.nanmean(cc[4:]) < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diameter": 3}, "diameter must be between 4 and 1021, got 3"),
        ({"size": 12}, "size must be at least 13 for this diameter, got 12"),
        ({"size": 13.5}, "size must be a whole number, got 13.5"),
        ({"blobs": 0}, "blobs must be between 1 and 100000, got 0"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"seed": None}, "seed must be a whole number, got None"),
    ],
)
def test_particle_rejects_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        simulate.particle(**{"diameter": 12} | options)


# Intensity


@pytest.mark.parametrize("n", [2, 5])
def test_intensity_is_the_squared_transform(n):
    density = np.random.default_rng(1).normal(size=(n, n, n))
    size = 7
    intensity = simulate.intensity(density, size)
    q = (np.indices((size,) * 3).reshape(3, -1).T - size // 2) / size
    x = np.indices((n,) * 3).reshape(3, -1)
    expected = np.abs(np.exp(-2j * np.pi * q @ x) @ density.ravel()) ** 2
    assert intensity.dtype == np.float32
    np.testing.assert_allclose(intensity.ravel(), expected, rtol=1e-5, atol=1e-5)


def test_intensity_is_exactly_centrosymmetric(density, volume):
    np.testing.assert_array_equal(volume, volume[::-1, ::-1, ::-1])
    assert volume.min() >= 0.0
    np.testing.assert_allclose(volume.max(), density.sum(dtype=np.float64) ** 2, rtol=1e-6)


def test_a_finer_grid_samples_the_same_intensity(density):
    # 3 voxels of the fine grid are 1 of the coarse: q = 1 / (21 a) each.
    coarse, fine = simulate.intensity(density, 21), simulate.intensity(density, 63)
    np.testing.assert_allclose(fine[31 % 3 :: 3, 31 % 3 :: 3, 31 % 3 :: 3], coarse, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "message"),
    [(16, "size must be odd"), (11, "size must be between 13 and"), (15.0, "whole number")],
)
def test_intensity_rejects_bad_sizes(density, size, message):
    with pytest.raises(InputError, match=message):
        simulate.intensity(density, size)


# Frames


def test_frames_have_the_mean_that_was_asked_for(volume, detector):
    frames, truth = simulate.frames(volume, detector, 1500, 200.0, seed=1)
    assert isinstance(frames, Frames)
    assert (frames.n_frames, frames.n_pixels, frames.kind) == (1500, 576, "sparse")
    photons = dense(frames)
    oriented = photons[:, detector.mask == 0].sum(axis=1)
    # Totals scatter by 11 % from orientation and 7 % from Poisson statistics.
    np.testing.assert_allclose(oriented.mean(), 200.0, rtol=0.02)
    assert photons[:, detector.mask == 1].sum() > 0
    assert photons[:, detector.mask == 2].sum() == 0
    np.testing.assert_array_equal(truth["fluence"], 1.0)


def test_photons_are_poisson_about_the_stated_mean(volume, detector):
    background = np.linspace(0.0, 0.2, detector.n_pixels)
    frames, truth = simulate.frames(
        volume, detector, 400, 500.0, seed=2, fluence_spread=0.25, background=background
    )
    used = detector.mask < 2
    slices = ewald_slice(volume, truth["quats"], detector.q_voxels[used])
    expected = truth["scale"] * truth["fluence"][:, None] * detector.correction[used] * slices
    expected += background[used]
    residual = dense(frames)[:, used] - expected
    # The variance of each pixel is its mean. Its square scatters by 2 mean^2 + mean, which sums to
    # 0.7 % of the total here.
    assert abs(residual.sum()) < 4.0 * np.sqrt(expected.sum())
    np.testing.assert_allclose((residual**2).sum() / expected.sum(), 1.0, atol=0.03)
    # Negative control: the wrong sense of rotation does not fit.
    wrong = ewald_slice(volume, conjugate(truth["quats"]), detector.q_voxels[used])
    wrong = truth["scale"] * truth["fluence"][:, None] * detector.correction[used] * wrong
    wrong += background[used]
    assert ((dense(frames)[:, used] - wrong) ** 2).sum() / expected.sum() > 1.2


def test_fluence_is_gamma_distributed(volume, detector):
    _, truth = simulate.frames(volume, detector, 4000, 1.0, fluence_spread=0.25)
    assert truth["fluence"].min() > 0.0
    np.testing.assert_allclose(truth["fluence"].mean(), 1.0, atol=0.04)
    np.testing.assert_allclose(truth["fluence"].var(), 0.25, rtol=0.15)


def test_frames_do_not_depend_on_blocks_threads_or_how_many_follow(volume, detector, monkeypatch):
    options = {"seed": 3, "fluence_spread": 0.1}
    whole, truth = simulate.frames(volume, detector, 20, 300.0, threads=2, **options)
    monkeypatch.setattr(simulate, "_SAMPLES_AT_ONCE", 3 * int((detector.mask < 2).sum()))
    parts, _ = simulate.frames(volume, detector, 20, 300.0, threads=1, **options)
    first, truth_of_first = simulate.frames(volume, detector, 7, 300.0, **options)
    np.testing.assert_array_equal(dense(parts), dense(whole))
    np.testing.assert_array_equal(dense(first), dense(whole)[:7])
    np.testing.assert_array_equal(truth_of_first["quats"], truth["quats"][:7])
    np.testing.assert_array_equal(truth_of_first["fluence"], truth["fluence"][:7])
    other, _ = simulate.frames(volume, detector, 20, 300.0, **options | {"seed": 4})
    assert (dense(other) != dense(whole)).any()


def test_given_orientations_are_used_and_leave_the_scale(volume, detector):
    quats = random(5, np.random.default_rng(8))
    _, truth = simulate.frames(volume, detector, 5, 100.0, quats=quats)
    np.testing.assert_array_equal(truth["quats"], quats)
    assert truth["scale"] == simulate.frames(volume, detector, 2, 100.0)[1]["scale"]


def test_background_of_the_detector_is_the_default(volume, detector):
    level = np.where(detector.mask == 2, 0.0, 0.5)
    noisy = Detector(
        detector.q_voxels,
        detector.correction,
        detector.mask,
        detector.ewald_radius,
        detector.distance_pixels,
        background=level,
    )
    frames, _ = simulate.frames(volume, noisy, 50, 0.0)
    np.testing.assert_allclose(frames.photons_per_frame.mean(), level.sum(), rtol=0.05)
    dark, _ = simulate.frames(volume, noisy, 3, 0.0, background=np.zeros(noisy.n_pixels))
    assert dark.photons_per_frame.tolist() == [0, 0, 0]


def test_progress_ends_at_all_frames(volume, detector):
    calls = []
    simulate.frames(volume, detector, 9, 10.0, progress=lambda *call: calls.append(call))
    assert calls[-1] == (9, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intensity": np.ones((9, 9, 9))}, r"intensity must reach beyond q_max = 16\.\d+ voxels"),
        ({"intensity": -np.ones((45, 45, 45))}, "intensity must not be negative, got -1"),
        ({"intensity": np.zeros((45, 45, 45))}, "intensity must be positive somewhere"),
        ({"n_frames": 0}, "n_frames must be between 1"),
        ({"n_frames": 2.5}, "n_frames must be a whole number"),
        ({"mean_photons": -1}, "mean_photons must be between 0 and 1e"),
        ({"mean_photons": 1e9}, "the photon count of a lit pixel must be 1 to 65535"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"fluence_spread": -0.1}, "fluence_spread must be between 0 and 100"),
        ({"quats": np.eye(4)[:2]}, r"quats must have shape \[3, 4\], got \[2, 4\]"),
        ({"background": np.zeros(5)}, r"background must have shape \[576\], got \[5\]"),
        ({"background": np.full(576, -1.0)}, "background must be 0 to 65535 .*, got -1"),
        ({"background": np.full(576, np.nan)}, "background must be 0 to 65535 .*, got nan"),
    ],
)
def test_frames_reject_bad_input(volume, detector, change, message):
    options = {"intensity": volume, "detector": detector, "n_frames": 3, "mean_photons": 10.0}
    with pytest.raises(InputError, match=message):
        simulate.frames(**options | change)


# Truth


def test_truth_round_trips_under_the_names_of_results(volume, detector, tmp_path):
    _, truth = simulate.frames(volume, detector, 4, 10.0, fluence_spread=0.2)
    path = tmp_path / "truth.h5"
    simulate.save_truth(path, truth, intensity=volume)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["orientation"][:], truth["quats"])
        np.testing.assert_array_equal(file["fluence"][:], truth["fluence"])
        np.testing.assert_array_equal(file["intensity"][:], volume)
        assert file.attrs["scale"] == truth["scale"]
    simulate.save_truth(path, truth)
    with h5py.File(path) as file:
        assert sorted(file) == ["fluence", "orientation"]


def test_a_failed_write_keeps_the_old_truth(volume, detector, tmp_path):
    _, truth = simulate.frames(volume, detector, 4, 10.0)
    path = tmp_path / "truth.h5"
    simulate.save_truth(path, truth)
    before = path.read_bytes()
    with pytest.raises(InputError, match="intensity must be cubic"):
        simulate.save_truth(path, truth, intensity=volume[:-1])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["truth.h5"]
    with pytest.raises(InputError, match="cannot write"):
        simulate.save_truth(tmp_path / "missing" / "truth.h5", truth)


# Data that spicore did not make


def test_scale_and_photons_of_1bxr(shared_data):
    folder = shared_data / "sim_1bxr"
    with h5py.File(folder / "true_intensity.h5") as file:
        volume = file["intens"][:].astype(np.float32)
    with h5py.File(folder / "photons_truth.h5") as file:
        quats, fluence = file["quaternions_wxyz"][:200], file["fluence"][:200]
        scale = file["scale"][()]
    with h5py.File(folder / "detector.h5") as file:
        scale *= file["corr"][:].mean()  # Detector divides by it
    detector = Detector.load(folder / "detector.h5")
    ours, truth = simulate.frames(volume, detector, 200, 2000.0, quats=quats)
    np.testing.assert_allclose(truth["scale"], scale, rtol=0.01)
    theirs = Frames.open(folder / "photons.h5")[:200].photons_per_frame / fluence
    # Same orientations: totals differ by Poisson noise only.
    np.testing.assert_allclose(ours.photons_per_frame.sum() / theirs.sum(), 1.0, rtol=0.01)

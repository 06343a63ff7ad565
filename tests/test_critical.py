"""Angular statistics: the critical inverse temperature and the angular orders with signal."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import numpy as np
import pytest

import spicore as sp
from spicore import Detector, Frames, simulate
from spicore.emc.critical import AngularStatistics, _degree_weights
from spicore.emc.kernels import Photons
from spicore.emc.polar.layout import PolarLayout
from spicore.errors import InputError

N_ANGLES = 64
N_FRAMES = 1500


def statistics(detector, frames, radius=0.0, n_angles=N_ANGLES, block=400):
    """Return the statistics of all frames, and their layout."""
    layout = PolarLayout(detector, radius, n_angles)
    blocks = [layout.photons(x, 2) for _, x in frames.blocks(block)]
    powder = sum(x.to_dense(layout.n_radii * n_angles).sum(axis=0) for x in blocks)
    result = AngularStatistics(layout, powder.reshape(-1, n_angles) / len(frames))
    for x in blocks:
        result.add(x)
    return result, layout


def from_dense(values):
    """Return photons [D, Q, A] as a block whose rows all orient."""
    frame, row = np.nonzero(values.reshape(len(values), -1))
    begin = np.searchsorted(frame, np.arange(len(values) + 1)).astype(np.int64)
    count = values.reshape(len(values), -1)[frame, row].astype(np.uint16)
    return Photons(begin, begin[1:].copy(), row.astype(np.uint32), count)


def polar_photons(frames, layout):
    """Return all frames as integers [D, Q, A]."""
    photons = layout.photons(frames.read(0, len(frames)), 2)
    dense = photons.to_dense(layout.n_radii * layout.n_angles)
    return dense.reshape(len(frames), layout.n_radii, layout.n_angles).astype(np.int64)


def add_dense(layout, values):
    result = AngularStatistics(layout, values.mean(axis=0))
    result.add(from_dense(values))
    return result


def with_gap(detector):
    """Mask a stripe and a corner: a sixth of the pixels."""
    x, y = detector.pixel_xy.T
    mask = np.where((np.abs(y - 3) < 2) | ((x > 3) & (y > 6)), 2, detector.mask)
    return replace(detector, mask=mask)


def seen(frames, detector):
    """Return the frames without the photons of masked pixels, which a layout would drop too."""
    dense = frames.dense(0, len(frames)).reshape(len(frames), -1)
    return Frames.from_dense((dense * (detector.mask < 2)).astype(np.uint16))


@pytest.fixture(scope="module")
def detector():
    return Detector.square(n_pixels=48, pixel_size=1.0, distance=60.0, stop_radius=2.5)


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=10.0), detector.size)


@pytest.fixture(scope="module")
def frames(detector, volume):
    return simulate.frames(volume, detector, N_FRAMES, 200, seed=1, fluence_spread=0.2)[0]


@pytest.fixture(scope="module")
def isotropic_frames(detector, volume):
    """Frames of the radial mean of the intensity."""
    x = np.arange(len(volume)) - len(volume) // 2
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    shell = np.rint(radius).astype(int).ravel()
    mean = np.bincount(shell, volume.ravel()) / np.bincount(shell)
    radial = np.interp(radius, np.arange(len(mean)), mean).astype(np.float32)
    return simulate.frames(radial, detector, N_FRAMES, 200, seed=2, fluence_spread=0.2)[0]


def test_degree_weights_are_those_of_legendre():
    """P_l(cos t) = sum_m w_lm cos(m t), by the addition theorem on the equator."""
    t = np.linspace(0.1, 3.0, 7)
    for half, weights in enumerate(_degree_weights(6), 1):
        degree = 2 * half
        series = sum(w * np.cos(2 * k * t) for k, w in enumerate(weights))
        legendre = np.polynomial.Legendre.basis(degree)(np.cos(t))
        np.testing.assert_allclose(series, legendre, atol=1e-12)
        assert weights.sum() == pytest.approx(1.0)
        assert weights[0] == pytest.approx((comb(degree, half) / 4**half) ** 2)


def test_against_the_definition(detector, frames):
    """The formula written out for few frames, order by order."""
    layout = PolarLayout(detector, 8.0, 32)
    values = polar_photons(frames[:60], layout)
    exposure = layout.exposure[0, : layout.n_radii].astype(float)
    mu = exposure * (values.mean(axis=0).sum(axis=1) / exposure.sum(axis=1))[:, None]
    fluence = values.sum(axis=(1, 2)) / mu.sum()
    x = np.fft.fft(values - fluence[:, None, None] * mu)
    n = values.mean(axis=0).sum(axis=1)
    b = np.einsum("dqm,drm->mqr", x.conj(), x).real / len(x) / np.sqrt(np.outer(n, n))
    largest = []
    for half, weights in enumerate(_degree_weights(8), 1):
        g = sum(w * b[2 * k] for k, w in enumerate(weights[: half + 1]))
        largest.append(np.linalg.eigvalsh(g)[-1])
    got = add_dense(layout, values)
    assert got.critical_beta() == pytest.approx(1 / max(largest), rel=1e-4)


def test_signal_and_isotropic_control(detector, frames, isotropic_frames):
    signal = statistics(detector, frames)[0].critical_beta()
    control = statistics(detector, isotropic_frames)[0].critical_beta()
    assert 0.0 < signal < 0.2
    # Shot noise alone: lambda is 1 and a little, for the frames are finite.
    assert 0.7 < control < 1.1
    assert control > 4 * signal


def test_blocks_do_not_matter(detector, frames, monkeypatch):
    whole = statistics(detector, frames, block=N_FRAMES)[0]
    monkeypatch.setattr("spicore.emc.critical._VALUES_AT_ONCE", 100_000)
    parts = statistics(detector, frames, block=70)[0]
    assert parts.n_frames == whole.n_frames == N_FRAMES
    assert parts.critical_beta() == pytest.approx(whole.critical_beta(), rel=1e-5)
    np.testing.assert_allclose(parts.angular_power(), whole.angular_power(), atol=1e-3)


def test_inplane_rotation_changes_nothing(detector, frames):
    layout = PolarLayout(detector, 12.0, N_ANGLES)
    values = polar_photons(frames, layout)
    # On rings of uniform exposure: elsewhere turned frames are not what the detector would see.
    layout.exposure[:] = 1.0
    shifts = np.random.default_rng(5).integers(N_ANGLES, size=len(values))
    turned = np.stack([np.roll(x, s, axis=1) for x, s in zip(values, shifts, strict=True)])
    before, after = add_dense(layout, values), add_dense(layout, turned)
    assert after.critical_beta() == pytest.approx(before.critical_beta(), rel=1e-5)


def test_thinned_photons_follow_the_law(detector, frames):
    """lambda = 1 + c N."""
    layout = PolarLayout(detector, 12.0, N_ANGLES)
    values = polar_photons(frames, layout)
    half = np.random.default_rng(6).binomial(values, 0.5)
    full, thin = (1 / add_dense(layout, x).critical_beta() - 1 for x in (values, half))
    assert thin == pytest.approx(full / 2, rel=0.15)


def test_gaps_are_no_signal(detector, frames, isotropic_frames):
    gap = with_gap(detector)
    whole, _ = statistics(detector, frames)
    part, _ = statistics(gap, seen(frames, gap))
    assert 1.0 < part.critical_beta() / whole.critical_beta() < 1.5
    control, _ = statistics(gap, seen(isotropic_frames, gap))
    assert 0.7 < control.critical_beta() < 1.1


def true_power(volume, layout, photons):
    """Return the mean angular power of slices, per shot noise of `photons` [Q]."""
    q = np.ascontiguousarray(layout.q.T[: layout.n_radii * layout.n_angles])
    quats = sp.orientations.random(400, np.random.default_rng(7))
    slices = sp.ewald_slice(volume, quats, q).reshape(400, layout.n_radii, -1)
    slices /= slices.mean(axis=(0, 2))[:, None]
    return (np.abs(np.fft.rfft(slices) / layout.n_angles) ** 2).mean(axis=0) * photons[:, None]


@pytest.mark.parametrize("gaps", [False, True])
def test_angular_power_is_that_of_the_particle(detector, volume, gaps):
    used = with_gap(detector) if gaps else detector
    frames, _ = simulate.frames(volume, detector, N_FRAMES, 400, seed=8)
    got, layout = statistics(used, seen(frames, used))
    power = got.angular_power()
    photons = polar_photons(seen(frames, used), layout).mean(axis=0).sum(axis=1)
    expected = true_power(volume, layout, photons)
    rings = layout.radius[: layout.n_radii] > 5.0
    low, high = slice(1, 8), slice(16, 28)
    size = expected[rings, low].sum()
    # 1,500 frames, the width of rings and pixels, 400 slices: a tenth.
    assert power[rings, low].sum() == pytest.approx(size, rel=0.15)
    assert np.abs(power - expected)[rings, low].sum() < 0.25 * size
    assert abs(power[rings, high].sum()) < 0.05 * size
    assert power.shape == (layout.n_radii, N_ANGLES // 2 + 1)


def test_band_limits_hold_the_power(detector, volume, frames):
    got, layout = statistics(detector, frames)
    limits = got.band_limits()
    assert limits.shape == (layout.n_radii,)
    assert (np.diff(limits) <= 0).all()  # the layout begins with the largest ring
    assert limits.min() >= 8
    assert limits.max() <= N_ANGLES // 2
    expected = true_power(volume, layout, polar_photons(frames, layout).mean(axis=0).sum(axis=1))
    kept = np.arange(N_ANGLES // 2 + 1) <= limits[:, None]
    assert expected[kept][1:].sum() > 0.99 * expected[:, 1:].sum()
    assert (got.band_limits(0.9) <= limits).all()


def test_larger_particles_have_more_orders(detector):
    slopes = []
    for diameter in (6.0, 18.0):
        density = simulate.particle(3, diameter=diameter)
        volume = simulate.intensity(density, detector.size)
        frames, _ = simulate.frames(volume, detector, 600, 2000, seed=4)
        slopes.append(statistics(detector, frames)[0].band_limits().max())
    assert slopes[0] < slopes[1]


def test_band_limits_without_signal(detector, isotropic_frames):
    got, layout = statistics(detector, isotropic_frames)
    assert got.band_limits().tolist() == [8] * layout.n_radii


def test_shared_pattern_is_no_power(detector, isotropic_frames):
    """A wrong exposure, the same in all frames."""
    layout = PolarLayout(detector, 0.0, N_ANGLES)
    x = np.arange(N_ANGLES)
    layout.exposure *= (1 + 0.1 * np.cos(4 * np.pi * x / N_ANGLES)).astype(np.float32)
    power = add_dense(layout, polar_photons(isotropic_frames, layout)).angular_power()
    rings = layout.radius[: layout.n_radii] > 5.0
    assert np.abs(power[rings]).max() < 0.3


@pytest.mark.parametrize(
    ("name", "radius", "beta"),
    [
        ("sim_4bed", 16, 0.023),
        ("sim_4bed", 22, 0.0111),
        ("sim_4bed", 34, 0.0094),
        ("sim_1bxr", 12, 0.0045),
    ],
)
def test_known_onsets(shared_data, name, radius, beta):
    """Where growth was seen to begin in runs on these sets."""
    folder = shared_data / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not in {shared_data}")
    detector = Detector.load(folder / "detector.h5")
    frames = Frames.open(folder / "photons.h5")
    got, _ = statistics(detector, frames[:1000], radius)
    assert got.critical_beta() == pytest.approx(beta, rel=0.25)


def test_band_limits_of_known_frames(shared_data):
    """Rings of few pixels, whose exposure is divided out only roughly, do not widen the band."""
    folder = shared_data / "sim_4bed"
    if not folder.is_dir():
        pytest.skip(f"sim_4bed is not in {shared_data}")
    frames = Frames.open(folder / "photons.h5")
    limits = statistics(Detector.load(folder / "detector.h5"), frames, 34)[0].band_limits()
    # The particle's diameter allows 27; 99.9 % of the true power at radius 34 lie below 15.
    assert 14 <= limits[0] <= 20


def test_rings_without_photons_take_no_part(detector, frames):
    """Some that the sample has none on, one that no frame has any on."""
    layout = PolarLayout(detector, 10.0, 32)
    values = polar_photons(frames, layout)
    dark = values.copy()
    dark[:, :2] = 0
    values[:, 1] = 0
    got = AngularStatistics(layout, values.mean(axis=0))
    got.add(from_dense(dark))
    expected = add_dense(layout, dark)
    assert got.critical_beta() == pytest.approx(expected.critical_beta(), rel=0.01)
    np.testing.assert_array_equal(got.angular_power()[:2], 0.0)
    np.testing.assert_array_equal(got.band_limits(), expected.band_limits())


def test_errors(detector, frames):
    layout = PolarLayout(detector, 8.0, 32)
    shape = (layout.n_radii, 32)
    with pytest.raises(InputError, match="powder must have shape"):
        AngularStatistics(layout, np.ones((3, 32)))
    with pytest.raises(InputError, match="powder must be finite"):
        AngularStatistics(layout, np.full(shape, np.nan))
    with pytest.raises(InputError, match="powder must be non-negative"):
        AngularStatistics(layout, np.zeros(shape))
    empty = AngularStatistics(layout, np.ones(shape))
    for ask in (empty.critical_beta, empty.angular_power, empty.band_limits):
        with pytest.raises(InputError, match="add frames with photons first"):
            ask()
    empty.add(layout.photons(frames.read(0, 10), 1))
    with pytest.raises(InputError, match=r"share must be between 0\.5 and 1"):
        empty.band_limits(0.1)

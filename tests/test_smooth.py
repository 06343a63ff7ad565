"""Smoothing merged intensities: better than the merge, exact where photons are many."""

from __future__ import annotations

import numpy as np
import pytest

from spicore import emc, metrics, simulate
from spicore.emc.smooth import _Band
from spicore.errors import InputError

SIZE, DIAMETER = 49, 12
EXTENT = DIAMETER / 2 / SIZE


@pytest.fixture(scope="module")
def truth():
    return simulate.intensity(simulate.particle(seed=2, diameter=DIAMETER), SIZE)


@pytest.fixture(scope="module")
def radius():
    axis = np.arange(SIZE) - SIZE // 2
    return np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)


def merged(truth, radius, photons, seed=0):
    """Poisson counts of exposures that fall off as those of slices do, with a hole and Friedel."""
    exposure = np.where((radius > 2) & (radius < 23), 1.0 / np.maximum(radius, 1.0), 0.0)
    scale = photons / (truth * exposure)[radius > 15].mean()
    counts = np.random.default_rng(seed).poisson(truth * exposure * scale / 2)
    counts = counts + counts[::-1, ::-1, ::-1]
    weight = (exposure * scale).astype(np.float32)
    intensity = np.divide(counts, weight, out=np.zeros(counts.shape), where=weight > 0)
    return intensity.astype(np.float32), weight


def quality(volume, truth, radius, first, last):
    shell, cc = metrics.shell_cc(volume, truth)
    return cc[(shell >= first) & (shell <= last)].mean()


def test_outer_shells_gain(truth, radius):
    intensity, weight = merged(truth, radius, 0.1)
    smoothed = emc.smooth(intensity, weight, EXTENT)
    before = quality(intensity, truth, radius, 14, 21)
    after = quality(smoothed, truth, radius, 14, 21)
    assert before < 0.6
    assert after > 0.9


def test_shuffled_voxels_do_not(truth, radius):
    """Negative control: what neighbours do not share cannot be found from them."""
    intensity, weight = merged(truth, radius, 0.5)
    rng = np.random.default_rng(1)
    shell = np.rint(radius).astype(int)
    for r in range(shell.max() + 1):
        at = np.flatnonzero(shell == r)
        order = rng.permutation(at)
        intensity.flat[at] = intensity.flat[order]
    smoothed = emc.smooth(intensity, weight, EXTENT)
    assert quality(smoothed, truth, radius, 14, 21) < 0.2


def test_many_photons_are_left_alone(truth, radius):
    intensity, weight = merged(truth, radius, 1e6)
    smoothed = emc.smooth(intensity, weight, EXTENT)
    seen = (weight > 0) & (truth > 0.01 * truth[radius > 20].mean())
    change = np.abs(smoothed - intensity)[seen] / intensity[seen]
    assert np.median(change) < 1e-3


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_size_may_be_wrong_by_a_fifth(truth, radius, factor):
    intensity, weight = merged(truth, radius, 0.5)
    right, wrong = (emc.smooth(intensity, weight, EXTENT * f) for f in (1.0, factor))
    loss = quality(right, truth, radius, 14, 21) - quality(wrong, truth, radius, 14, 21)
    assert loss < 0.05


def test_the_unseen_is_filled(truth, radius):
    """Near what was seen from neighbours, in the corners with the mean of the last shell."""
    intensity, weight = merged(truth, radius, 100.0)
    smoothed = emc.smooth(intensity, weight, EXTENT)
    assert smoothed.min() > 0.0
    next_to = (radius > 23) & (radius < 24)
    assert np.corrcoef(smoothed[next_to], truth[next_to])[0, 1] > 0.7
    corner = smoothed[radius > 38.2]  # beyond the cube that holds what was seen
    assert corner.std() < 1e-3 * corner.mean()


def test_the_result_is_centrosymmetric_and_keeps_its_input(truth, radius):
    intensity, weight = merged(truth, radius, 2.0)
    before = intensity.copy(), weight.copy()
    smoothed = emc.smooth(intensity, weight, EXTENT)
    np.testing.assert_array_equal(intensity, before[0])
    np.testing.assert_array_equal(weight, before[1])
    assert smoothed.dtype == np.float32
    np.testing.assert_array_equal(smoothed[25:], smoothed[23::-1, ::-1, ::-1])
    np.testing.assert_allclose(smoothed[24], smoothed[24, ::-1, ::-1], rtol=2e-3)


def test_mates_are_averaged(truth, radius):
    """Photons and exposures of both count, wherever they stand."""
    intensity, weight = merged(truth, radius, 2.0)
    share = np.random.default_rng(3).uniform(0.0, 2.0, weight.shape).astype(np.float32)
    share = share / (share + share[::-1, ::-1, ::-1]) * 2
    uneven = intensity * np.random.default_rng(4).uniform(0.5, 1.5, weight.shape)
    photons = uneven * weight * share
    photons = 0.5 * (photons + photons[::-1, ::-1, ::-1])
    mean = np.divide(photons, weight, out=np.zeros_like(photons), where=weight > 0)
    one = emc.smooth(uneven.astype(np.float32), weight * share, EXTENT)
    two = emc.smooth(mean.astype(np.float32), weight, EXTENT)
    np.testing.assert_allclose(one[weight > 0], two[weight > 0], rtol=1e-4)


@pytest.mark.parametrize("size", [1, 15])
def test_nothing_to_correct(size):
    """Of flat volumes, and of a single voxel seen."""
    weight = np.zeros((15, 15, 15), np.float32)
    seen = slice(7 - size // 2, 8 + size // 2)
    weight[seen, seen, seen] = 2.0
    smoothed = emc.smooth(np.ones_like(weight), weight, 0.1)
    np.testing.assert_allclose(smoothed, 1.0, rtol=1e-5)


def test_threads_do_not_matter(truth, radius):
    intensity, weight = merged(truth, radius, 2.0)
    one, two = (emc.smooth(intensity, weight, EXTENT, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_transforms_are_adjoint():
    """Over the whole cube, whose planes x > 0 have mates."""
    band, rng = _Band(15, 0.15, 1), np.random.default_rng(0)
    field = rng.normal(size=(band.half, 15, 15)).astype(np.float32)
    field[0] += field[0, ::-1, ::-1]
    coefficients = rng.normal(size=band.root.shape).astype(np.float32)
    coefficients[..., 0] += coefficients[-np.arange(2 * band.b + 1)][
        :, -np.arange(2 * band.b + 1), 0
    ]
    made = np.concatenate(band.each(band.lines(coefficients), lambda planes, x: x))
    left = field.astype(np.float64) * made
    left[1:] *= 2.0
    right = band.dot(band.coefficients(band.lines_of(field)), coefficients)
    assert left.sum() == pytest.approx(right, rel=1e-4)


def test_fields_are_those_of_the_whole_cube():
    """As inverse transforms of all coefficients, about the centre."""
    band, rng = _Band(15, 0.15, 1), np.random.default_rng(0)
    cube = rng.normal(size=(band.edge,) * 3)
    cube += np.roll(cube[::-1, ::-1, ::-1], 1, (0, 1, 2))
    at = np.ix_(band.axis, band.axis, np.arange(band.b + 1))
    coefficients = np.fft.rfftn(cube, norm="ortho")[at].real.astype(np.float32)
    spectrum = np.zeros((band.edge, band.edge, band.edge // 2 + 1))
    spectrum[at] = coefficients * band.root
    whole = np.roll(
        np.fft.irfftn(spectrum, (band.edge,) * 3, (0, 1, 2), norm="ortho"), 7, (0, 1, 2)
    )
    made = np.concatenate(band.each(band.lines(coefficients), lambda planes, x: x))
    np.testing.assert_allclose(made, whole[7:15, :15, :15], atol=1e-5 * np.abs(whole).max())


def test_the_prior_has_unit_variance():
    """White noise of unit variance on all coefficients makes a field of variance 1."""
    band, rng = _Band(45, 0.12, 1), np.random.default_rng(0)
    fields = []
    for _ in range(8):
        white = rng.normal(size=band.root.shape).astype(np.float32)
        mates = white[-np.arange(2 * band.b + 1)][:, -np.arange(2 * band.b + 1), 0]
        white[..., 0] = (white[..., 0] + mates) / np.sqrt(2.0)
        fields += band.each(band.lines(white), lambda planes, x: x)
    assert np.var(np.concatenate(fields)) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, w: (i[:-1], w, EXTENT), "intensity must be a cube of odd edge"),
        (lambda i, w: (i[:-1, :-1, :-1], w, EXTENT), "intensity must be a cube of odd edge"),
        (lambda i, w: (i, w[1:-1, 1:-1, 1:-1], EXTENT), "weight"),
        (lambda i, w: (-i, w, EXTENT), "intensity must be non-negative"),
        (lambda i, w: (i, -w, EXTENT), "weight must be non-negative"),
        (lambda i, w: (i * np.nan, w, EXTENT), "intensity must be finite"),
        (lambda i, w: (i, 0 * w, EXTENT), "must hold photons"),
        (lambda i, w: (i, w, 0.3), "extent must be between"),
        (lambda i, w: (i, w, 0.0), "extent must be between"),
    ],
)
def test_bad_input_is_named(truth, radius, change, words):
    with pytest.raises(InputError, match=words):
        emc.smooth(*change(*merged(truth, radius, 2.0)))

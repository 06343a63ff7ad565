"""Sharpening: the blur of merging comes out, and little noise comes in."""

from __future__ import annotations

import numpy as np
import pytest

from spicore import emc, ewald_merge, ewald_slice, metrics, orientations, simulate
from spicore.errors import InputError

SIZE, DIAMETER = 33, 14  # a particle of nearly half the cell: speckles of 2.4 voxels


@pytest.fixture(scope="module")
def truth():
    density = simulate.particle(seed=2, diameter=DIAMETER)
    return simulate.intensity(density, SIZE) + np.float32(1.0)


@pytest.fixture(scope="module")
def merged(truth):
    """Slices through the truth without noise, merged with their true poses."""
    axis = np.arange(-15, 16)
    x, y = (a.ravel() for a in np.meshgrid(axis, axis))
    q = np.stack([x, y, np.zeros_like(x)], axis=1).astype(np.float32)
    q = q[np.linalg.norm(q, axis=1) <= 15]
    quats = orientations.random(4000, np.random.default_rng(1))
    slices = ewald_slice(truth, quats, q)
    sums = ewald_merge(slices, quats, q, SIZE, friedel=True)
    weight = sums[1].astype(np.float32)
    intensity = np.divide(sums[0], sums[1], out=np.zeros(truth.shape), where=weight > 0)
    return intensity.astype(np.float32), weight


def test_the_blur_of_merging_comes_out(truth, merged):
    intensity, weight = merged
    radius, before = metrics.shell_cc(intensity, truth, weight=weight)
    after = metrics.shell_cc(emc.sharpen(intensity, weight), truth, weight=weight)[1]
    shells = (radius >= 3) & (radius <= 12)
    assert (1 - after[shells]).mean() < 0.3 * (1 - before[shells]).mean()


def test_a_model_linear_between_voxels_is_blurred_by_the_stated_kernel():
    rng = np.random.default_rng(0)
    line = rng.uniform(1, 2, 21).astype(np.float32)
    volume = np.broadcast_to(line, (21, 21, 21)).copy()
    weight = np.ones_like(volume)
    blurred = line.copy()
    blurred[1:-1] = line[:-2] / 6 + 2 / 3 * line[1:-1] + line[2:] / 6
    volume[...] = blurred
    found = emc.sharpen(volume, weight, rounds=300)[10, 10]
    np.testing.assert_allclose(found[4:-4], line[4:-4], rtol=0.02)


def test_a_constant_and_no_rounds_change_nothing():
    intensity = np.full((9, 9, 9), 3.0, np.float32)
    weight = np.ones_like(intensity)
    weight[4, 4, 4] = 0
    intensity[4, 4, 4] = 0
    np.testing.assert_allclose(emc.sharpen(intensity, weight), 3.0, rtol=1e-5)
    noise = np.random.default_rng(0).uniform(0, 1, (9, 9, 9)).astype(np.float32)
    seen = weight > 0
    np.testing.assert_array_equal(emc.sharpen(noise, weight, rounds=0)[seen], noise[seen])
    found = emc.sharpen(noise, weight, variance=0.0)
    np.testing.assert_allclose(found[seen], noise[seen], rtol=1e-6)


def test_dark_voxels_stay_finite_and_the_symmetry_stays(merged):
    intensity, weight = merged
    intensity = np.where(intensity < np.median(intensity), 0, intensity).astype(np.float32)
    found = emc.sharpen(intensity, weight)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    np.testing.assert_allclose(found, found[::-1, ::-1, ::-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": 0.6}, "variance"),
        ({"rounds": -1}, "rounds"),
        ({"weight": np.ones((9, 9, 7), np.float32)}, "weight"),
    ],
)
def test_bad_input(change, message):
    arrays = {"intensity": np.ones((9, 9, 9), np.float32), "weight": np.ones((9, 9, 9), np.float32)}
    with pytest.raises(InputError, match=message):
        emc.sharpen(**(arrays | change))

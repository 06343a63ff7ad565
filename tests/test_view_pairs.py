"""View directions in mirror pairs."""

from __future__ import annotations

import numpy as np
import pytest

import spicore as sp
from spicore import orientations as o
from spicore.errors import InputError
from spicore.orientations.view_pairs import n_pairs_for, pair_quaternions, view_pairs

BEAM = (0.0, 0.0, 1.0)

# Farthest that a direction may be from a view or its copies, in spacings; 0.71 on a square
# lattice, more where copies join.
HOLES = {"C1": 0.85, "C2": 1.1, "C7": 1.1, "D2": 1.1, "D5": 1.2, "T": 1.1, "O": 1.75, "I": 1.6}


@pytest.fixture
def rng():
    return np.random.default_rng(31)


def centrosymmetric_volume(rng, size=33):
    """Return a smooth positive volume: Gaussians at +x and -x."""
    x = np.arange(size) - size // 2
    centres = rng.uniform(-8, 8, size=(12, 3))
    centres = np.concatenate([centres, -centres])
    along = np.exp(-0.5 * ((x - centres.T[..., None]) / 3.0) ** 2)
    volume = np.einsum("bx,by,bz->xyz", *along)
    return (0.5 * (volume + volume[::-1, ::-1, ::-1])).astype(np.float32)


def curved_rings(n_angles, radii=(3.0, 7.0, 12.0), ewald=20.0):
    """Return float32 [rings * A, 3] on an Ewald sphere."""
    angle = 2 * np.pi * np.arange(n_angles) / n_angles
    z = -np.square(radii) / (2 * ewald)
    flat = np.sqrt(np.square(radii) - z**2)
    planes = [np.outer(flat, np.cos(angle)), np.outer(flat, np.sin(angle))]
    planes.append(np.repeat(z[:, None], n_angles, axis=1))
    return np.stack(planes, axis=-1).reshape(-1, 3).astype(np.float32)


def test_views_are_twist_free_unit_quaternions_above_the_equator():
    views, weights = view_pairs(100)
    assert views.shape == (100, 4)
    np.testing.assert_allclose(np.linalg.norm(views, axis=1), 1.0, atol=1e-14)
    np.testing.assert_array_equal(views[:, 3], 0.0)
    z = o.rotate(views, BEAM)[:, 2]
    np.testing.assert_allclose(z, 1 - (np.arange(100) + 0.5) / 100, atol=1e-14)
    np.testing.assert_allclose(weights, 0.01)


@pytest.mark.parametrize("group", HOLES)
@pytest.mark.parametrize("n_pairs", [200, 1000])
def test_coverage_and_count(group, n_pairs, rng):
    """Views, their copies under the group and their opposites leave no hole and do not pile up."""
    views, weights = view_pairs(n_pairs, group)
    rotations = o.point_group(group)
    spacing = np.sqrt(2 * np.pi / n_pairs)
    # Off by at most the views within half a spacing of the boundary of the cell.
    expected = n_pairs / len(rotations)
    assert abs(len(views) - expected) <= 1.0 * np.sqrt(expected)
    assert weights.sum() == pytest.approx(1.0)
    copies = o.rotate(rotations[:, None], o.rotate(views, BEAM)).reshape(-1, 3)
    directions = rng.normal(size=(20_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = np.abs(directions @ copies.T).max(axis=1)
    assert np.arccos(np.minimum(cosines, 1.0)).max() < HOLES[group] * spacing


def test_even_functions_keep_their_mean(rng):
    views, weights = view_pairs(1000)
    z = o.rotate(views, BEAM) @ np.array([0.36, 0.48, 0.8])
    for power in (2, 4, 6):
        assert weights @ z**power == pytest.approx(1 / (power + 1), rel=0.01)


@pytest.mark.parametrize("group", ["D5", "I"])
def test_every_orbit_has_one_view(group):
    """No view is an image of another, up to sign."""
    lines = o.rotate(view_pairs(2000, group)[0], BEAM)
    copies = o.rotate(o.point_group(group)[:, None], lines)
    cosines = np.abs(np.einsum("gvi,wi->gvw", copies, lines)).max(axis=0)
    np.fill_diagonal(cosines, 0.0)
    assert cosines.max() < 1 - 1e-6


def test_mirror_slice_is_the_slice_at_negative_angles(rng):
    volume = centrosymmetric_volume(rng)
    n_angles = 24
    views, _ = view_pairs(7)
    q = curved_rings(n_angles)
    plain = 2 * n_angles * np.arange(7)
    slices = sp.ewald_slice(volume, pair_quaternions(views, n_angles, plain), q)
    mirrors = sp.ewald_slice(volume, pair_quaternions(views, n_angles, plain + n_angles), q)
    slices, mirrors = (x.reshape(7, 3, n_angles) for x in (slices, mirrors))
    negative = -np.arange(n_angles) % n_angles
    np.testing.assert_allclose(mirrors, slices[:, :, negative], atol=1e-4 * slices.max())
    assert np.abs(mirrors - slices).max() > 0.05 * slices.max()


def test_inplane_numbers_shift_the_slice(rng):
    volume = centrosymmetric_volume(rng)
    n_angles, q = 24, curved_rings(24)
    views, _ = view_pairs(5)
    for mirror in (0, 1):
        numbers = (2 * 3 + mirror) * n_angles + np.array([0, 5])
        slices = sp.ewald_slice(volume, pair_quaternions(views, n_angles, numbers), q)
        slices = slices.reshape(2, 3, n_angles)
        shifted = np.roll(slices[0], -5, axis=1)
        np.testing.assert_allclose(slices[1], shifted, atol=1e-4 * slices.max())


def test_pair_quaternions_are_products(rng):
    views, _ = view_pairs(9)
    numbers = rng.integers(2 * 16 * 9, size=50)
    view, mirror, j = numbers // 32, numbers // 16 % 2, numbers % 16
    expected = o.multiply(views[view], o.from_axis_angle((0, 1, 0), 180.0 * mirror))
    expected = o.multiply(expected, o.from_axis_angle(BEAM, 22.5 * j))
    got = pair_quaternions(views, 16, numbers)
    assert o.angle(got, expected).max() < 1e-9
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-14)
    assert pair_quaternions(views, 16, []).shape == (0, 4)


def test_n_pairs_for_a_spacing():
    assert n_pairs_for(np.degrees(np.sqrt(2 * np.pi / 500)) + 1e-9) == 500
    assert n_pairs_for(8.0) == 323
    assert n_pairs_for(180.0) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: view_pairs(0), "n_pairs must be between 1"),
        (lambda: view_pairs(2.5), "n_pairs must be a whole number"),
        (lambda: view_pairs(10, "X"), "group must be one of"),
        (lambda: view_pairs(1, "D99"), "n_pairs must be larger for D99, got 1"),
        (lambda: n_pairs_for(0.0), "spacing_degrees must be between"),
        (lambda: pair_quaternions(np.eye(3), 4, [0]), r"views must have shape \[any, 4\]"),
        (lambda: pair_quaternions(2 * np.eye(4), 4, [0]), "views must have unit norm"),
        (lambda: pair_quaternions(np.eye(4), 0, [0]), "n_angles must be between 1"),
        (lambda: pair_quaternions(np.eye(4), 4, [0.5]), "orientation must be whole numbers"),
        (lambda: pair_quaternions(np.eye(4), 4, 3), "orientation must be whole numbers"),
        (lambda: pair_quaternions(np.eye(4), 4, [32]), r"orientation must be in \[0, 32\)"),
        (lambda: pair_quaternions(np.eye(4), 4, [-1]), r"orientation must be in \[0, 32\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()

"""ewald_slice against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest

import spicore as sp
from spicore import orientations, reference
from spicore.errors import InputError

EPS = 2.0**-24  # relative rounding error of one float32 operation


def position_error(q, size):
    """Bound of the rounding error of a rotated position, in voxels.

    The float32 matrix, its products and their sum: 4 roundings of terms whose magnitudes sum to
    |q| at most, since the rows have unit norm; one more of a number below N for the centre.
    """
    finite = q[np.isfinite(q).all(axis=1)]
    longest = np.linalg.norm(finite, axis=1).max(initial=0.0)
    return EPS * (4 * longest + size)


def slice_error(volume, q):
    """Bound of the error of a sample.

    Each derivative of the interpolant is below 2 max |v|; a lerp has below 5 roundings of
    numbers below 2 max |v|, and a sample is 3 lerps deep.
    """
    return np.abs(volume).max() * (6 * position_error(q, len(volume)) + 15 * EPS * 2)


def near_boundary(quats, q, size):
    """Samples [R, T] that rounding may move into the volume or out of it."""
    points = np.einsum("rij,tj->rti", orientations.to_matrix(quats), q.astype(float)) + size // 2
    margin = 2 * position_error(q, size)
    return ((np.abs(points) < margin) | (np.abs(points - (size - 1)) < margin)).any(axis=-1)


def problem(size, n_slices, n_pixels, seed=0, reach=0.7):
    """A random volume, orientations, and scattering vectors up to `reach` N from the centre."""
    rng = np.random.default_rng(seed)
    volume = rng.normal(size=(size, size, size)).astype(np.float32)
    quats = orientations.random(n_slices, rng)
    q = rng.uniform(-reach * size, reach * size, (n_pixels, 3)).astype(np.float32)
    return volume, quats, q


def centrosymmetric(volume):
    return volume + volume[::-1, ::-1, ::-1]


def coordinates(size, axis):
    """The volume whose value is its own coordinate: trilinear sampling returns (R q)[axis]."""
    return (np.indices((size,) * 3)[axis] - size // 2).astype(np.float32)


# --- against the reference


@pytest.mark.parametrize("size", [2, 3, 16, 17])
@pytest.mark.parametrize("shape", [(1, 1), (3, 63), (2, 64), (2, 65), (5, 1500)])
def test_matches_reference(column, size, shape):
    volume, quats, q = problem(size, *shape)
    got = column(sp.ewald_slice, volume, quats, q)
    want = reference.ewald_slice(volume, quats, q)
    sure = ~near_boundary(quats, q, size)
    assert sure.mean() > 0.99
    assert got.dtype == np.float32
    assert np.abs(got - want)[sure].max(initial=0) <= slice_error(volume, q)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(column, shape):
    assert column(sp.ewald_slice, *problem(5, *shape)).shape == shape


def test_friedel_is_the_full_operation_on_a_centrosymmetric_volume(column):
    volume, quats, q = problem(17, 7, 500, reach=0.4)
    volume = centrosymmetric(volume)
    got = column(sp.ewald_slice, volume, quats, q, friedel=True)
    want = reference.ewald_slice(volume, quats, q)
    # A sample and its inverse are both inside unless they are on the boundary.
    sure = ~(near_boundary(quats, q, 17) | near_boundary(quats, -q, 17))
    assert np.abs(got - want)[sure].max() <= slice_error(volume, q)


def test_friedel_reads_only_the_upper_half(column):
    volume, quats, q = problem(9, 4, 200)
    volume[:4] = 1e9
    assert np.abs(column(sp.ewald_slice, volume, quats, q, friedel=True)).max() < 1e6


# --- what must hold


def rotated_coordinates(column, quats, q, size=33):
    """R q [R, T, 3], measured with three coordinate volumes."""
    return np.stack(
        [column(sp.ewald_slice, coordinates(size, axis), quats, q) for axis in range(3)], axis=-1
    )


def test_rotation_is_active(column):
    _, quats, q = problem(33, 9, 100, reach=0.25)
    got = rotated_coordinates(column, quats, q)
    error = slice_error(coordinates(33, 0), q)
    matrices = orientations.to_matrix(quats)
    assert np.abs(got - np.einsum("rij,tj->rti", matrices, q)).max() <= error
    # The control: turned the other way, nothing matches.
    assert np.abs(got - np.einsum("rji,tj->rti", matrices, q)).max() > 1e4 * error


def test_more_slices_than_a_grid_axis_has_blocks(column):
    _, quats, q = problem(9, 70_000, 3, reach=0.2)
    got = column(sp.ewald_slice, coordinates(9, 2), quats, q)
    want = np.einsum("rj,tj->rt", orientations.to_matrix(quats)[:, 2], q)
    assert np.abs(got - want).max() <= slice_error(coordinates(9, 2), q)


def test_in_plane_rotation_is_a_circular_shift(column):
    n_radii, n_angles = 6, 16
    volume, quats, _ = problem(21, 3, 0)
    radius, angle = np.meshgrid(
        np.arange(1.0, n_radii + 1), 2 * np.pi * np.arange(n_angles) / n_angles, indexing="ij"
    )
    curved = -(radius**2) / 40  # an Ewald sphere
    q = np.stack([radius * np.cos(angle), radius * np.sin(angle), curved], -1).reshape(-1, 3)
    q = q.astype(np.float32)
    base = column(sp.ewald_slice, volume, quats, q).reshape(3, n_radii, n_angles)
    for j in (1, 5):
        turn = orientations.from_axis_angle((0, 0, 1), 360.0 * j / n_angles)
        turned = column(sp.ewald_slice, volume, orientations.multiply(quats, turn), q)
        # q on the grid is rounded too, by EPS |q|: within twice the error of a position.
        np.testing.assert_allclose(
            turned.reshape(base.shape), np.roll(base, -j, axis=2), atol=3 * slice_error(volume, q)
        )


def test_shifting_volume_and_q_together_changes_nothing(column):
    volume, _, q = problem(17, 1, 200, reach=0.2)
    identity = np.array([[1.0, 0.0, 0.0, 0.0]])
    moved = np.roll(volume, (2, -1, 3), axis=(0, 1, 2))
    shifted = q + np.float32([2, -1, 3])
    np.testing.assert_allclose(
        column(sp.ewald_slice, moved, identity, shifted),
        column(sp.ewald_slice, volume, identity, q),
        atol=2 * slice_error(volume, shifted),
    )


@pytest.mark.parametrize("friedel", [False, True])
def test_outside_and_not_finite_is_zero(column, friedel):
    volume = np.ones((7, 7, 7), np.float32)
    quats = problem(7, 5, 0)[1]
    q = np.zeros((70, 3), np.float32)  # more than one block of 64
    bad = [3, 20, 21, 22, 23, 69]
    q[bad, [0, 1, 2, 0, 1, 2]] = [np.nan, np.nan, np.nan, np.inf, -np.inf, 3e38]
    q[40] = 10.0
    want = np.ones((5, 70))
    want[:, [*bad, 40]] = 0
    np.testing.assert_array_equal(column(sp.ewald_slice, volume, quats, q, friedel=friedel), want)


def test_lower_edge_is_inside_and_upper_edge_outside(column):
    volume, q = np.ones((5, 5, 5), np.float32), np.zeros((4, 3), np.float32)
    q[:, 1] = [-2.0, np.nextafter(np.float32(-2), np.float32(-3)), 1.999, 2.0]
    identity = np.array([[1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(column(sp.ewald_slice, volume, identity, q), [[1, 0, 1, 0]])


def test_out(column):
    volume, quats, q = problem(9, 3, 130)
    out = column.to(np.full((3, 130), np.nan, np.float32))
    result = sp.ewald_slice(*map(column.to, (volume, quats, q)), out=out)
    assert result is out
    np.testing.assert_array_equal(column.back(out), column(sp.ewald_slice, volume, quats, q))


def test_inputs_are_left_alone(column):
    arrays = [column.to(x) for x in problem(9, 3, 130)]
    before = [column.back(x).copy() for x in arrays]
    sp.ewald_slice(*arrays)
    for x, y in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(column.back(x), y)


def test_threads_do_not_change_a_bit(column):
    if column.library:
        pytest.skip("threads mean nothing on a GPU")
    arrays = problem(33, 11, 3001)
    one, *others = (sp.ewald_slice(*arrays, threads=n) for n in (1, 2, 3))
    for other in others:
        assert one.tobytes() == other.tobytes()


def test_read_only_and_strided_arguments():
    volume, quats, q = problem(9, 3, 130)
    want = sp.ewald_slice(volume, quats, q)
    volume.flags.writeable = False
    strided = np.repeat(q, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(sp.ewald_slice(volume, quats, strided), want)
    np.testing.assert_array_equal(sp.ewald_slice(volume, quats.tolist(), q.tolist()), want)


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": np.zeros((4, 5, 5))}, r"volume must be cubic with N >= 2, got shape \[4, 5"),
        ({"volume": np.zeros((5, 5))}, r"volume must have shape \[any, any, any\], got \[5, 5\]"),
        ({"volume": np.zeros((1, 1, 1))}, "volume must be cubic with N >= 2"),
        ({"volume": np.full((5, 5, 5), np.nan)}, "volume must be finite, got 125 NaN"),
        ({"volume": "ball"}, "volume must be an array of float32"),
        ({"volume": np.zeros((6, 6, 6)), "friedel": True}, "friedel needs an odd volume edge"),
        ({"quats": np.zeros((2, 3))}, r"quats must have shape \[any, 4\], got \[2, 3\]"),
        ({"quats": np.full((2, 4), 0.6)}, "quats must have unit norm to 1e-4"),
        ({"quats": np.full((2, 4), np.nan)}, "quats must be finite"),
        ({"q": np.zeros((3, 7))}, r"q must have shape \[any, 3\], got \[3, 7\]"),
        ({"threads": 0}, "threads must be between 1 and 4096, got 0"),
        ({"out": np.zeros((2, 7))}, r"out must be C-contiguous float32 \[2, 7\], got float64"),
        ({"out": np.zeros((7, 2), "f4")}, r"float32 \[2, 7\], got float32 \[7, 2\]"),
        ({"out": np.zeros((2, 14), "f4")[:, ::2]}, "out must be C-contiguous"),
        ({"out": np.broadcast_to(np.float32(0), (2, 7))}, "out must be C-contiguous"),
        ({"out": [[0.0] * 7] * 2}, "out must be an array, got list"),
    ],
)
def test_errors(change, message):
    volume, quats, q = problem(5, 2, 7)
    arguments = {"volume": volume, "quats": quats, "q": q, **change}
    with pytest.raises(InputError, match=message):
        sp.ewald_slice(**arguments)


def test_read_only_out():
    out = np.zeros((2, 7), np.float32)
    out.flags.writeable = False
    with pytest.raises(InputError, match="out must be writeable, got a read-only array"):
        sp.ewald_slice(*problem(5, 2, 7), out=out)

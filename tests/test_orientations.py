"""Quaternion algebra, grids over SO(3), point groups and searches."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from spicore import orientations as o
from spicore.errors import InputError
from spicore.orientations.search import _hilbert

# SHA-256 (first 16 digits) of quaternions and of weights times R, in units of 1e-8, of the grids
# of Dragonfly 0.1.0 (dragonfly.quaternion.Quaternion.generate_3d), run as a black box.
DRAGONFLY_SHA = {
    1: ("79e1f190b00c947e", "32bcb9251d10da53"),
    2: ("edc91fdb747f4863", "99416396ef087e53"),
    3: ("4817a7654769edf1", "9d018f507bf78eee"),
    4: ("f81bcbc4a9431797", "a727becfcc5d0c7d"),
    5: ("82161028c2560490", "afcfee25cff8e492"),
    6: ("ad41e38d569eb6bc", "30837b4df2f97406"),
    7: ("4ea50a1602b904cb", "8941d738ea6bf82d"),
    8: ("2c875c1ed7d6f037", "942fdc9c1eb7874f"),
}

# Rows of Dragonfly's n = 4 grid: vertices, edges, faces, cells. The first and the last are
# published anchors; they say where a wrong hash comes from.
DRAGONFLY_ROWS = {
    0: (0.5, -0.5, -0.5, -0.5, 2.07312814e-4),
    59: (0.0, 0.8090169944, 0.3090169944, 0.5, 2.07312814e-4),
    60: (-0.3702680924, -0.7594638151, -0.5189276302, -0.1297319076, 2.806210e-4),
    1500: (0.4819306317, -0.3996070517, 0.3487282812, 0.6974565623, 3.207856e-4),
    3000: (0.3535533906, -0.790569415, 0.3535533906, 0.3535533906, 3.38911452e-4),
    3239: (0.2185080122, 0.0, 0.5720614028, 0.790569415, 3.38911452e-4),
}

GROUP_ORDERS = {"C1": 1, "C2": 2, "C7": 7, "D1": 2, "D5": 10, "T": 12, "O": 24, "I": 60}


@pytest.fixture
def rng():
    return np.random.default_rng(20240)


def digest(values):
    return hashlib.sha256(np.rint(values * 1e8).astype("<i8").tobytes()).hexdigest()[:16]


def same_rotations(a, b):
    return np.max(o.angle(a, b)) < 1e-9


# --- quaternions


def test_product_is_composition(rng):
    a, b = o.random(50, rng), o.random(50, rng)
    np.testing.assert_allclose(
        o.to_matrix(o.multiply(a, b)), o.to_matrix(a) @ o.to_matrix(b), atol=1e-14
    )


def test_rotate_is_the_active_matrix(rng):
    q, v = o.random(20, rng), rng.normal(size=(20, 3))
    np.testing.assert_allclose(
        o.rotate(q, v), np.einsum("rij,rj->ri", o.to_matrix(q), v), atol=1e-13
    )
    quarter = o.from_axis_angle((0, 0, 1), 90.0)
    np.testing.assert_allclose(o.rotate(quarter, (1, 0, 0)), (0, 1, 0), atol=1e-15)
    np.testing.assert_allclose(o.to_matrix(quarter), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)


def test_dragonfly_matrix_is_that_of_the_conjugate():
    published = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    quat = np.array([1, -1, -1, -1]) / 2
    np.testing.assert_allclose(o.to_matrix(o.conjugate(quat)), published, atol=1e-15)
    assert np.abs(o.to_matrix(quat) - published).max() > 0.5


def test_leading_axes_broadcast(rng):
    a, b = o.random(3, rng)[:, None], o.random(4, rng)
    product = o.multiply(a, b)
    assert product.shape == (3, 4, 4)
    np.testing.assert_array_equal(product[2, 1], o.multiply(a[2, 0], b[1]))
    assert o.angle(a, b).shape == (3, 4)
    assert o.rotate(a, rng.normal(size=(5, 3))).shape == (3, 5, 3)
    assert o.to_matrix(product).shape == (3, 4, 3, 3)
    assert o.from_matrix(o.to_matrix(product)).shape == (3, 4, 4)
    assert o.from_axis_angle(np.eye(3)[:, None], [10.0, 20.0]).shape == (3, 2, 4)
    assert o.multiply(np.empty((0, 4)), b[0]).shape == (0, 4)
    assert o.from_matrix(np.empty((0, 3, 3))).shape == (0, 4)


def test_matrix_round_trip(rng):
    half_turns = [(0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0.6, 0.8, 0), (1, 0, 0, 0)]
    q = o.canonical(np.vstack([o.random(200, rng), half_turns]))
    np.testing.assert_allclose(o.from_matrix(o.to_matrix(q)), q, atol=1e-14)


def test_float32_input_gives_exact_rotations(rng):
    matrices = o.to_matrix(o.random(50, rng).astype(np.float32))
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-14)


def test_axis_angle_and_angle():
    q = o.from_axis_angle((1, 2, -2), [0.0, 1e-7, 30.0, 180.0, 350.0])
    np.testing.assert_allclose(
        o.angle(q, (1, 0, 0, 0)), [0, 1e-7, 30, 180, 10], rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(o.rotate(q, (1, 2, -2)), [(1, 2, -2)] * 5, atol=1e-14)


def test_angle_ignores_sign_and_frame(rng):
    a, b, c = o.random(20, rng), o.random(20, rng), o.random(1, rng)
    np.testing.assert_allclose(o.angle(a, -a), 0.0, atol=1e-12)
    np.testing.assert_allclose(o.angle(o.multiply(c, a), o.multiply(c, -b)), o.angle(a, b))
    assert o.angle(a, b).max() <= 180.0


def test_random_is_uniform_and_seeded():
    q = o.random(20000, np.random.default_rng(1))
    np.testing.assert_array_equal(q, o.random(20000, np.random.default_rng(1)))
    # Moments of the uniform 3-sphere: <q q^T> = 1/4; five standard deviations of the mean.
    np.testing.assert_allclose(q.T @ q / len(q), np.eye(4) / 4, atol=5 * 0.2 / len(q) ** 0.5)
    assert o.random(0, np.random.default_rng(1)).shape == (0, 4)


def test_mean_ignores_signs_and_uses_weights(rng):
    centre = o.random(1, rng)
    ball = o.local_grid(10.0, 4.0)
    cloud = o.multiply(centre, ball) * rng.choice([-1, 1], size=(len(ball), 1))
    assert o.angle(o.mean(cloud), centre[0]) < 1e-9
    assert o.angle(o.mean(cloud, np.eye(len(ball))[3]), cloud[3]) < 1e-9


def test_canonical_makes_the_first_component_positive():
    q = np.array([(-1, 0, 0, 0), (0, -0.6, 0.8, 0), (0, 0, 0, -1), (0.6, -0.8, 0, 0)])
    expected = [(1, 0, 0, 0), (0, 0.6, -0.8, 0), (0, 0, 0, 1), (0.6, -0.8, 0, 0)]
    np.testing.assert_array_equal(o.canonical(q), expected)
    assert not np.signbit(o.canonical(q)[:, 0]).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: o.multiply([1, 0, 0], [1, 0, 0, 0]), r"a must have shape \[4\], got \[3\]"),
        (lambda: o.conjugate(1.0), r"q must have shape \[4\], got \[\]"),
        (lambda: o.to_matrix([[1, 1, 0, 0]]), "q must have unit norm to 1e-4"),
        (lambda: o.to_matrix([np.nan, 0, 0, 0]), "q must be finite"),
        (lambda: o.rotate([1, 0, 0, 0], [1, 0]), r"v must have shape \[3\], got \[2\]"),
        (lambda: o.angle(np.eye(4)[:3], np.eye(4)[:2]), r"a and b .* broadcast, got \[3\]"),
        (lambda: o.multiply(np.eye(4)[:3], np.eye(4)[:2]), r"a and b .* broadcast, got \[3\]"),
        (lambda: o.rotate(np.eye(4)[:3], np.eye(3)[:2]), r"q and v .* broadcast, got \[3\]"),
        (lambda: o.from_axis_angle(np.eye(3), [1, 2]), r"axis and angle_deg .* got \[3\] and"),
        (lambda: o.from_axis_angle([0, 0, 0], 1), "axis must have a length above zero"),
        (lambda: o.from_matrix(np.eye(4)), r"matrix must have shape \[3, 3\], got \[4, 4\]"),
        (lambda: o.from_matrix(-np.eye(3)), "matrix must be a rotation .* determinant down to -1"),
        (lambda: o.from_matrix(1.1 * np.eye(3)), r"matrix must be a rotation .* up to 0\.21"),
        (lambda: o.random(2.5, np.random.default_rng(0)), "n must be a whole number, got 2.5"),
        (lambda: o.random(2, 0), "rng must be a numpy.random.Generator, got int"),
        (lambda: o.mean(np.eye(4), [1, 1, 1]), r"weights must have shape \[4\], got \[3\]"),
        (lambda: o.mean(np.eye(4), [1, 1, 1, -1]), "weights must be non-negative"),
        (lambda: o.mean(np.empty((0, 4))), "weights must be .* positive sum"),
        (lambda: o.canonical([[2, 0, 0, 0]]), "q must have unit norm"),
    ],
)
def test_quaternion_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- 600-cell grid


@pytest.mark.parametrize("n", DRAGONFLY_SHA)
def test_grid600_equals_dragonfly(n):
    quats, weights = o.grid600(n)
    assert len(quats) == 10 * (5 * n**3 + n)
    assert (digest(quats), digest(weights * len(weights))) == DRAGONFLY_SHA[n]


def test_grid600_digest_sees_order_and_sign():
    quats, _ = o.grid600(3)
    swapped = quats.copy()
    swapped[[100, 101]] = swapped[[101, 100]]
    flipped = quats.copy()
    flipped[700] *= -1
    assert DRAGONFLY_SHA[3][0] not in (digest(swapped), digest(flipped))


def test_grid600_published_rows():
    table = np.column_stack(o.grid600(4))
    for row, expected in DRAGONFLY_ROWS.items():
        np.testing.assert_allclose(table[row], expected, rtol=0, atol=5e-10)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_grid600_is_a_grid(n):
    quats, weights = o.grid600(n)
    assert not quats.flags.writeable
    assert not weights.flags.writeable
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1.0, atol=1e-15)
    others = np.abs(quats @ quats.T) - np.eye(len(quats))
    assert others.max() < 0.9999  # no rotation twice, also modulo sign
    # The 600-cell is its own inverse, so Dragonfly's transposed rotations are the same set.
    assert same_rotations(quats[o.nearest(quats, o.conjugate(quats))], o.conjugate(quats))


def test_grid600_integrates_over_so3():
    """Characters of spin 1 to 5 average to 0 by icosahedral symmetry, spin 6 by the weights."""
    quats, weights = o.grid600(3)
    half = np.arccos(np.clip(np.abs(quats[:, 0]), 0, 1))
    for spin in range(1, 6):
        character = 1 + 2 * np.cos(2 * np.outer(np.arange(1, spin + 1), half)).sum(axis=0)
        assert abs(weights @ character) < 1e-12
    character = 1 + 2 * np.cos(2 * np.outer(np.arange(1, 7), half)).sum(axis=0)
    assert abs(weights @ character) < 0.5 * abs(character.mean())


@pytest.mark.parametrize("n", [2, 4])
def test_grid600_agrees_with_another_group(shared_data, n):
    """Their 600-cell has y and z swapped, another order, and shares by solid angle."""
    h5py = pytest.importorskip("h5py")
    path = shared_data / "rotation_grids" / f"fxihub_emc_rotations_{n}.h5"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with h5py.File(path) as file:
        table = file["rotations"][:].astype(float)
    quats, weights = o.grid600(n)
    theirs = table[:, [0, 1, 3, 2]]
    index = o.nearest(quats, theirs)
    assert len(np.unique(index)) == len(quats)
    assert o.angle(quats[index], theirs).max() < 1e-4  # their float32, degrees

    counts = [60, 360 * (n - 1), 600 * (n - 1) * (n - 2) // 2, 50 * (n - 1) * (n - 2) * (n - 3)]
    dihedral = np.arccos(1 / 3)
    vertex, edge = 20 * (3 * dihedral - np.pi) / (4 * np.pi), 5 * dihedral / (2 * np.pi)
    by_angle = weights * np.repeat([vertex / (5 / 6), edge / (35 / 36), 1, 1], counts)
    np.testing.assert_allclose(table[:, 4], (by_angle / by_angle.sum())[index], rtol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_grid_spacing_is_the_mean_neighbour_angle(n):
    quats, _ = o.grid600(n)
    closeness = np.abs(quats @ quats.T) - 2 * np.eye(len(quats))
    measured = o.angle(quats, quats[closeness.argmax(axis=1)]).mean()
    assert o.grid_spacing(n) == pytest.approx(measured, rel=0.021)


@pytest.mark.parametrize("function", [o.grid600, o.grid_spacing])
@pytest.mark.parametrize(
    ("n", "message"),
    [(0, "n must be between 1 and 60, got 0"), (61, "got 61"), (2.5, "n must be a whole number")],
)
def test_grid600_errors(function, n, message):
    with pytest.raises(InputError, match=message):
        function(n)


# --- Hopf grid


def test_hopf_views_cover_the_sphere_evenly():
    views, _ = o.hopf(400, 1)
    directions = o.rotate(views, (0, 0, 1))
    # Equal weights integrate second moments: <x_i x_j> = 1/3.
    np.testing.assert_allclose(directions.T @ directions / 400, np.eye(3) / 3, atol=2e-3)
    cosines = directions @ directions.T - 2 * np.eye(400)
    neighbour = np.arccos(cosines.max(axis=1)) / np.sqrt(4 * np.pi / 400)
    assert neighbour.min() > 0.75
    assert neighbour.max() < 1.1
    assert (np.diff(directions[:, 2]) < 0).all()


def test_hopf_views_have_no_twist():
    views, inplane = o.hopf(50, 8)
    np.testing.assert_array_equal(views[:, 3], 0.0)
    np.testing.assert_allclose(inplane, np.arange(8) * np.pi / 4)


def test_hopf_quaternions_are_view_times_inplane():
    views, inplane = o.hopf(7, 5)
    quats = o.hopf_quaternions(views, inplane)
    about_z = o.from_axis_angle((0, 0, 1), np.degrees(inplane))
    np.testing.assert_allclose(
        quats.reshape(7, 5, 4), o.multiply(views[:, None], about_z), atol=1e-15
    )
    beams = o.rotate(quats, (0, 0, 1)).reshape(7, 5, 3)
    np.testing.assert_allclose(beams, np.broadcast_to(beams[:, :1], beams.shape), atol=1e-14)


def test_hopf_grid_integrates_over_so3():
    quats = o.hopf_quaternions(*o.hopf(300, 32))
    np.testing.assert_allclose(o.to_matrix(quats).mean(axis=0), 0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: o.hopf(0, 4), "n_views must be between 1"),
        (lambda: o.hopf(4, 1.5), "n_inplane must be a whole number, got 1.5"),
        (lambda: o.hopf_quaternions([1, 0, 0, 0], [0.0]), r"views must have shape \[any, 4\]"),
        (lambda: o.hopf_quaternions([[1, 0, 0, 0]], 0.0), r"inplane must have shape \[any\]"),
        (lambda: o.hopf_quaternions([[1, 0, 0, 0]], [np.inf]), "inplane must be finite"),
    ],
)
def test_hopf_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- local grid


@pytest.mark.parametrize(("radius", "spacing"), [(6.0, 2.0), (10.0, 2.5), (60.0, 20.0)])
def test_local_grid_is_an_even_ball(radius, spacing):
    grid = o.local_grid(radius, spacing)
    np.testing.assert_array_equal(grid[0], (1, 0, 0, 0))
    angles = o.angle(grid, grid[0])
    assert (np.diff(angles) > -1e-9).all()
    assert angles.max() <= radius * (1 + 1e-9)
    assert len(grid) == pytest.approx(5.44 * (radius / spacing) ** 3, rel=0.35)

    closeness = np.abs(grid @ grid.T) - 2 * np.eye(len(grid))
    neighbour = o.angle(grid, grid[closeness.argmax(axis=1)]) / spacing
    shrink = np.sin(np.radians(radius / 2)) / np.radians(radius / 2)
    assert neighbour.max() < 1 + 1e-9
    assert neighbour.min() > shrink - 1e-9


def test_local_grid_leaves_no_hole(rng):
    grid = o.local_grid(8.0, 2.0)
    queries = o.from_axis_angle(rng.normal(size=(500, 3)), 6.0 * rng.random(500) ** (1 / 3))
    distance = o.angle(queries, grid[o.nearest(grid, queries)])
    # Covering radius of the lattice: sqrt(5)/4 of the cube edge, which is 2/sqrt(3) neighbours.
    assert distance.max() < 2.0 * np.sqrt(5 / 12) * 1.01


def test_local_grid_of_one():
    np.testing.assert_array_equal(o.local_grid(0.0, 1.0), [(1, 0, 0, 0)])
    np.testing.assert_array_equal(o.local_grid(1.0, 2.0), [(1, 0, 0, 0)])


@pytest.mark.parametrize(
    ("radius", "spacing", "message"),
    [
        (91.0, 10.0, "radius_deg must be between 0 and 90, got 91"),
        (np.nan, 10.0, "radius_deg must be between"),
        (5.0, 0.0, "spacing_deg must be between"),
        (5.0, 0.1, "spacing_deg must be at least radius_deg / 40, got 0.1"),
    ],
)
def test_local_grid_errors(radius, spacing, message):
    with pytest.raises(InputError, match=message):
        o.local_grid(radius, spacing)


# --- symmetry


@pytest.mark.parametrize(("name", "order"), GROUP_ORDERS.items())
def test_point_group_is_a_group(name, order):
    group = o.point_group(name)
    assert group.shape == (order, 4)
    np.testing.assert_array_equal(group[0], (1, 0, 0, 0))
    np.testing.assert_array_equal(group, o.canonical(group))
    closeness = np.abs(group @ group.T) - np.eye(order)
    assert closeness.max() < 0.9999  # all different
    products = o.multiply(group[:, None], group).reshape(-1, 4)
    assert same_rotations(group[o.nearest(group, products)], products)
    assert same_rotations(group[o.nearest(group, o.conjugate(group))], o.conjugate(group))


@pytest.mark.parametrize(
    ("name", "axis", "fold"),
    [
        ("C4", (0, 0, 1), 4),
        ("D5", (0, 0, 1), 5),
        ("D5", (1, 0, 0), 2),
        ("T", (0, 0, 1), 2),
        ("T", (1, 1, 1), 3),
        ("O", (1, 0, 0), 4),
        ("O", (1, 1, 0), 2),
        ("I", (1, 0, 0), 2),
        ("I", (0, 1, 0), 2),
        ("I", (1, 1, 1), 3),
        ("I", (1, 0, (1 + 5**0.5) / 2), 5),
    ],
)
def test_point_group_setting(name, axis, fold):
    group = o.point_group(name)

    def contains(angle):
        turn = o.from_axis_angle([axis], angle)
        return same_rotations(group[o.nearest(group, turn)], turn)

    assert contains(360 / fold)
    assert not contains(360 / (2 * fold))


@pytest.mark.parametrize("name", ["A5", "C0", "D", "i", "C1000", "", 3, None])
def test_point_group_errors(name):
    with pytest.raises(InputError, match=r"group must be one of C1, Cn, Dn .* T, O, I, got"):
        o.point_group(name)


def invariant(quats, group, rng):
    """Return [R] values of a smooth function that is the same for all `g R`."""
    target = o.random(1, rng)[0]
    dots = o.multiply(group[:, None], quats) @ target
    return np.exp(3 * dots**2).mean(axis=0)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        *[(name, 1e-12) for name in ("C1", "C2", "D2", "T", "I")],  # symmetries of the grid
        # Elsewhere the step of 12 degrees shows at the faces of the cell, the more the narrower.
        ("O", 1e-3),
        ("D5", 5e-3),
        ("C4", 1e-2),
        ("C7", 3e-2),
    ],
)
def test_asymmetric_unit_keeps_the_mean(name, tolerance, rng):
    quats, weights = o.grid600(6)
    group = o.point_group(name)
    index, kept = o.asymmetric_unit(quats, weights, name)
    assert kept.sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.diff(index) > 0).all()
    assert len(index) > 0.95 * len(quats) / len(group)
    values = invariant(quats, group, rng)
    assert kept @ values[index] == pytest.approx(weights @ values, rel=tolerance)


def test_asymmetric_unit_shares_ties(rng):
    """Without the share the mean over the icosahedral cell is off: its boundary counts twice."""
    quats, weights = o.grid600(6)
    index, _ = o.asymmetric_unit(quats, weights, "I")
    assert len(index) == 237  # as Dragonfly's reduced grid
    assert weights[index].sum() * 60 > 1.2
    values = invariant(quats, o.point_group("I"), rng)
    unshared = weights[index] @ values[index] / weights[index].sum()
    assert abs(unshared / (weights @ values) - 1) > 1e-6


@pytest.mark.parametrize(("n", "count"), [(4, 75), (6, 237), (8, 509)])
def test_asymmetric_unit_counts_every_orbit_once(n, count):
    """An inner point stands for 60 rotations; Dragonfly loses 36 of the 509 to rounding."""
    quats, _ = o.grid600(n)
    index, kept = o.asymmetric_unit(quats, np.ones(len(quats)), "I")
    assert len(index) == count
    assert kept.max() == pytest.approx(60 / len(quats), rel=1e-12)


def test_asymmetric_unit_is_the_voronoi_cell():
    quats, weights = o.grid600(4)
    group = o.point_group("D3")
    index, _ = o.asymmetric_unit(quats, weights, group)
    equivalents = o.angle(o.multiply(group[:, None], quats), (1, 0, 0, 0))
    closest = equivalents.min(axis=0)
    own = equivalents[0]
    np.testing.assert_array_equal(index, np.flatnonzero(own < closest + 1e-3))


def test_asymmetric_unit_accepts_float32():
    quats, weights = o.grid600(4)
    expected = o.asymmetric_unit(quats, weights, "I")
    got = o.asymmetric_unit(quats.astype(np.float32), weights, "I")
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1])


@pytest.mark.parametrize(
    ("quats", "weights", "group", "message"),
    [
        (np.eye(4), [1, 1, 1], "T", r"weights must have shape \[4\], got \[3\]"),
        (np.eye(4), [1, 1, 1, -1], "T", "weights must be non-negative"),
        (np.eye(4), [0, 0, 0, 0], "T", "positive sum"),
        (np.eye(4), [1, 1, 1, 1], "X", "group must be one of"),
        (np.eye(4), [1, 1, 1, 1], [1, 0, 0, 0], r"group must have shape \[any, 4\]"),
        ([[0, 0, 0, 1.0]], [1], "C2", "quats must cover SO"),
    ],
)
def test_asymmetric_unit_errors(quats, weights, group, message):
    with pytest.raises(InputError, match=message):
        o.asymmetric_unit(quats, weights, group)


# --- searches


def test_nearest_finds_the_smallest_angle(rng):
    quats, queries = o.random(300, rng), o.random(40, rng)
    expected = o.angle(queries[:, None], quats).argmin(axis=1)
    np.testing.assert_array_equal(o.nearest(quats, queries), expected)
    np.testing.assert_array_equal(o.nearest(quats, -quats), np.arange(300))
    assert o.nearest(quats, np.empty((0, 4))).shape == (0,)


def test_nearest_blocks_do_not_matter(rng, monkeypatch):
    quats, queries = o.random(50, rng), o.random(40, rng)
    whole = o.nearest(quats, queries)
    monkeypatch.setattr("spicore.orientations.search._PRODUCTS_AT_ONCE", 150)
    np.testing.assert_array_equal(o.nearest(quats, queries), whole)


def test_nearest_errors():
    with pytest.raises(InputError, match="quats must hold at least one rotation"):
        o.nearest(np.empty((0, 4)), np.eye(4))
    with pytest.raises(InputError, match="queries must have unit norm"):
        o.nearest(np.eye(4), 2 * np.eye(4))


def view_jumps(quats):
    """Return the angles in degrees between consecutive beam directions, modulo antipodes."""
    beams = o.rotate(quats, (0, 0, 1))
    cosines = np.abs((beams[1:] * beams[:-1]).sum(axis=1))
    return np.degrees(np.arccos(np.minimum(cosines, 1.0)))


def test_sort_by_view_puts_neighbours_together():
    quats, _ = o.grid600(6)
    order = o.sort_by_view(quats)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(quats)))
    assert view_jumps(quats[order]).mean() < 1.5
    assert view_jumps(quats).mean() > 10.0  # the grid's own order


def test_sort_by_view_ignores_signs_and_antipodes(rng):
    quats = o.random(200, rng)
    order = o.sort_by_view(quats)
    np.testing.assert_array_equal(o.sort_by_view(-quats), order)
    turned = o.multiply(quats, o.from_axis_angle((1, 0, 0), 180.0))  # beam reversed
    np.testing.assert_array_equal(o.sort_by_view(turned), order)


def test_sort_by_view_keeps_inplane_order():
    quats = o.hopf_quaternions(*o.hopf(60, 16))
    shuffle = np.random.default_rng(3).permutation(len(quats))
    order = shuffle[o.sort_by_view(quats[shuffle])].reshape(60, 16)
    np.testing.assert_array_equal(order % 16, np.tile(np.arange(16), (60, 1)))
    np.testing.assert_array_equal(order // 16, np.repeat(order[:, :1] // 16, 16, axis=1))


def test_hilbert_curve_is_connected():
    u, v = np.indices((64, 64)).reshape(2, -1)
    position = _hilbert(u, v)
    np.testing.assert_array_equal(np.sort(position), np.arange(64 * 64))
    order = np.argsort(position)
    np.testing.assert_array_equal(np.abs(np.diff(u[order])) + np.abs(np.diff(v[order])), 1)


def test_sort_by_view_errors():
    with pytest.raises(InputError, match=r"quats must have shape \[any, 4\], got \[4\]"):
        o.sort_by_view([1, 0, 0, 0])

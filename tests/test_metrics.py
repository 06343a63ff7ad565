"""Metrics: shell correlations, alignment and pose errors, each with a case that must fail it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from spicore import metrics, simulate
from spicore.errors import InputError
from spicore.orientations import (
    angle,
    conjugate,
    from_axis_angle,
    multiply,
    point_group,
    random,
    rotate,
)

N, CENTRE = 45, 22
GROUPS = ("C1", "C3", "D2", "D5", "T", "O", "I")


@pytest.fixture(scope="module")
def truth():
    """Intensity of a particle 12 voxels wide: speckles of 3.75 voxels."""
    return simulate.intensity(simulate.particle(0, diameter=12), N)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def radius_grid(size):
    x = np.arange(size) - size // 2
    return np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)


def featureless(volume):
    """The smooth model that depends on radius only."""
    return np.interp(radius_grid(len(volume)), *metrics.radial_average(volume))


# Shells


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_radial_average_counts_every_voxel_of_a_shell_once(size, rng):
    volume = rng.random((size,) * 3)
    radius, mean = metrics.radial_average(volume)
    shell = np.rint(radius_grid(size))
    assert radius.tolist() == list(range((size - 1) // 2 + 1))
    np.testing.assert_allclose(mean, [volume[shell == r].mean() for r in radius])


@pytest.mark.parametrize("size", [16, 17])
def test_shell_cc_is_the_pearson_correlation_of_what_a_line_in_radius_leaves(size, rng):
    a, b = rng.normal(size=(2, size, size, size))
    b += 0.5 * a
    radius, cc = metrics.shell_cc(a, b)
    assert radius.dtype == cc.dtype == np.float64
    r = radius_grid(size)
    for k in radius[1:]:
        inside = np.rint(r) == k
        x = r[inside]
        rests = [v[inside] - np.polyval(np.polyfit(x, v[inside], 1), x) for v in (a, b)]
        np.testing.assert_allclose(cc[int(k)], np.corrcoef(*rests)[0, 1], atol=1e-6)


def test_shell_cc_ignores_scale_and_offset_of_each_shell(truth):
    shell = np.rint(radius_grid(N))
    _, cc = metrics.shell_cc(truth, truth * (1.0 + shell) + 100.0 * shell)
    assert np.isnan(cc[0])
    np.testing.assert_allclose(cc[1:], 1.0, atol=1e-6)


def test_featureless_model_scores_nothing_although_fsc_flatters_it(truth):
    model = featureless(truth)
    _, cc = metrics.shell_cc(model, truth)
    assert abs(np.nanmean(cc)) < 0.03
    assert np.nanmax(np.abs(cc[6:])) < 0.15
    assert np.nanmean(metrics.fsc(np.sqrt(model), np.sqrt(truth))[1]) > 0.8


def test_a_shell_mean_alone_would_flatter_the_featureless_model(truth):
    model, shell = featureless(truth), np.rint(radius_grid(N))
    plain = [np.corrcoef(model[shell == k], truth[shell == k])[0, 1] for k in range(1, 5)]
    assert min(plain) > 0.3


def test_shell_cc_falls_with_noise_as_theory_says(truth, rng):
    inside, shell, _ = metrics._shells(N)
    mean = metrics.radial_average(truth)[1]
    spread = np.sqrt(metrics.radial_average((truth - featureless(truth)) ** 2)[1])
    noisy = truth.astype(np.float64)
    noisy[inside] = mean[shell] + (truth[inside] - mean[shell])
    noisy[inside] += spread[shell] * rng.normal(size=shell.size)
    # Noise as strong as the signal: 1 / sqrt(2); a shell of 4 pi r^2 voxels scatters by 1/(2 sqrt).
    np.testing.assert_allclose(metrics.shell_cc(noisy, truth)[1][8:], 0.5**0.5, atol=0.06)


def test_shell_cc_leaves_out_masked_and_unobserved_voxels(truth, rng):
    hidden = rng.random(truth.shape) < 0.3
    spoiled = np.where(hidden, np.nan, truth)
    weight = np.where(hidden, 0.0, rng.random(truth.shape) + 0.1)
    by_weight = metrics.shell_cc(spoiled, truth, weight=weight)[1]
    by_mask = metrics.shell_cc(spoiled, truth, mask=~hidden)[1]
    np.testing.assert_array_equal(by_weight, by_mask)
    np.testing.assert_allclose(by_mask[3:], 1.0, atol=1e-6)


def test_shell_cc_of_few_voxels_or_no_spread_is_nan(truth):
    few = np.zeros(truth.shape, bool)
    few[CENTRE + 10, CENTRE, CENTRE - 4 : CENTRE + 5] = True
    radius, cc = metrics.shell_cc(truth, truth, mask=few)
    assert radius.size == CENTRE + 1
    assert np.isnan(cc).all()
    shells = metrics.radial_average(truth)[1]
    constant = np.pad(shells, (0, N))[np.rint(radius_grid(N)).astype(int)]
    assert np.isnan(metrics.shell_cc(constant.astype(np.float32), truth)[1]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_fsc_is_the_normalised_product_of_each_shell(dtype, rng):
    a, b = rng.normal(size=(2, 9, 9, 9)).astype(dtype)
    if dtype is np.complex128:
        a, b = a + 1j * rng.normal(size=a.shape), b - 2j * a
    _, curve = metrics.fsc(a, b)
    for k in range(5):
        x, y = (v[np.rint(radius_grid(9)) == k] for v in (a, b))
        expected = np.vdot(y, x).real / (np.linalg.norm(x) * np.linalg.norm(y))
        np.testing.assert_allclose(curve[k], expected, atol=1e-12)


def test_fsc_of_an_empty_shell_is_nan(truth):
    assert np.isnan(metrics.fsc(truth, np.where(radius_grid(N) < 5, 0.0, truth))[1][:4]).all()


@pytest.mark.parametrize("function", [metrics.shell_cc, metrics.fsc])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((4, 4)), np.ones((4, 4, 4)), r"a must have shape \[any, any, any\]"),
        (np.ones((4, 4, 5)), np.ones((4, 4, 4)), r"a must be cubic with N >= 2, got .*\[4, 4, 5\]"),
        (np.ones((4, 4, 4)), np.ones((5, 5, 5)), r"a and b must have the same shape, got \[4"),
        (np.ones((4, 4, 4)), np.full((4, 4, 4), np.nan), r"b must be finite .*, got 19 that"),
    ],
)
def test_correlations_reject_bad_volumes(function, a, b, message):
    with pytest.raises(InputError, match=message):
        function(a, b)


@pytest.mark.parametrize("name", ["mask", "weight"])
def test_shell_cc_rejects_a_selection_of_another_shape(name, truth):
    with pytest.raises(
        InputError, match=rf"{name} must have shape \[45, 45, 45\], got \[3, 3, 3\]"
    ):
        metrics.shell_cc(truth, truth, **{name: np.ones((3, 3, 3))})


def test_radial_average_rejects_what_is_not_finite():
    with pytest.raises(InputError, match="volume must be finite, got 8 NaN"):
        metrics.radial_average(np.full((2, 2, 2), np.nan))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1.0, 0.9, 0.5, 0.1], 2.0),
        ([1.0, 0.8, 0.2, 0.9], 1.5),
        ([0.1, 0.9, 0.7, 0.3], 2.5),  # starts behind the beam stop
        ([np.nan, 0.9, np.nan, 0.1], 2.0),
        ([0.9, 0.9, 0.8, 0.7], 3.0),  # never falls
        ([0.1, 0.2, 0.3, np.nan], np.nan),  # never reaches it
        ([np.nan] * 4, np.nan),
    ],
)
def test_resolution_is_the_first_crossing(curve, expected):
    np.testing.assert_allclose(metrics.resolution_at(np.arange(4.0), curve, 0.5), expected)


@pytest.mark.parametrize(
    ("radius", "curve", "threshold", "message"),
    [
        ([0, 1], [1.0], 0.5, r"curve must have shape \[2\], got \[1\]"),
        ([0, 0], [1.0, 0.0], 0.5, "radius must rise"),
        ([0, 1], [1.0, 0.0], 1.5, "threshold must be between -1 and 1, got 1.5"),
    ],
)
def test_resolution_rejects_bad_input(radius, curve, threshold, message):
    with pytest.raises(InputError, match=message):
        metrics.resolution_at(radius, curve, threshold)


# Alignment


@pytest.mark.parametrize("size", [20, 21])
def test_identity_rotation_copies_every_shell(size, rng):
    volume = rng.random((size,) * 3, dtype=np.float32)
    rotated = metrics.rotate_volume(volume, (1.0, 0.0, 0.0, 0.0))
    inside = np.rint(radius_grid(size)) <= (size - 1) // 2
    np.testing.assert_array_equal(rotated, np.where(inside, volume, 0.0))


def test_rotation_sense(rng):
    # rotated(q) = volume(R q): a dot at R q of the volume is found at q.
    quat = from_axis_angle((0.0, 0.0, 1.0), 90.0)
    volume = np.zeros((21, 21, 21), np.float32)
    q = np.array([6, 2, 3])
    volume[tuple(10 + np.rint(rotate(quat, q)).astype(int))] = 1.0
    assert np.unravel_index(metrics.rotate_volume(volume, quat).argmax(), volume.shape) == (
        *(10 + q),
    )


def test_rotations_compose_and_do_not_depend_on_blocks_or_threads(truth, rng, monkeypatch):
    a, b = random(2, rng)
    twice = metrics.rotate_volume(metrics.rotate_volume(truth, a), b)
    # volume(R_a (R_b q)): only interpolation differs.
    once = metrics.rotate_volume(truth, multiply(a, b))
    assert np.nanmean(metrics.shell_cc(twice, once)[1][2:20]) > 0.98
    assert np.nanmean(metrics.shell_cc(twice, truth)[1][2:20]) < 0.5
    monkeypatch.setattr(metrics, "_POINTS_AT_ONCE", 1000)
    np.testing.assert_array_equal(metrics.rotate_volume(truth, multiply(a, b), threads=1), once)


def test_alignment_finds_the_rotation(truth, rng):
    for rotation in random(3, rng):
        moving = metrics.rotate_volume(truth, rotation) * 7.0
        quat, aligned, cc = metrics.align_volumes(moving, truth)
        # moving(R(quat) q) = truth(R(rotation) R(quat) q)
        assert angle(quat, conjugate(rotation)) < 0.3
        np.testing.assert_array_equal(aligned, metrics.rotate_volume(moving, quat))
        np.testing.assert_allclose(cc, np.mean(metrics.shell_cc(aligned, truth)[1][3:]))
        assert cc > 0.95


def test_alignment_survives_noise_and_a_missing_centre(truth, rng):
    rotation = random(1, rng)[0]
    moving = metrics.rotate_volume(truth, rotation)
    inside, shell, _ = metrics._shells(N)
    spread = np.sqrt(metrics.radial_average((truth - featureless(truth)) ** 2)[1])
    moving[inside] += (spread[shell] * rng.normal(size=shell.size)).astype(np.float32)
    moving[radius_grid(N) < 5] = 0.0
    quat, _, cc = metrics.align_volumes(moving, truth, radius=(5, 21))
    assert angle(quat, conjugate(rotation)) < 1.0
    # The noise itself allows 0.71; interpolation averages part of it away.
    assert 0.71 < cc < 0.9


def test_alignment_with_a_group_returns_the_smallest_rotation(truth, rng):
    group = point_group("D3")
    symmetric = sum(metrics.rotate_volume(truth, g) for g in group)
    rotation = random(1, rng)[0]
    moving = metrics.rotate_volume(symmetric, rotation)
    quat, _, cc = metrics.align_volumes(moving, symmetric, group="D3")
    equivalent = multiply(conjugate(rotation), group)
    assert angle(equivalent, quat).min() < 0.3
    assert cc > 0.9
    assert np.abs(quat[0]) >= np.abs(multiply(quat, group)[:, 0]).max() - 1e-9
    without = metrics.align_volumes(moving, symmetric)[0]
    assert angle(equivalent, without).min() < 0.3


def test_alignment_of_different_particles_scores_low(truth):
    other = simulate.intensity(simulate.particle(1, diameter=12), N)
    assert metrics.align_volumes(other, truth)[2] < 0.4


def test_alignment_cannot_tell_hands(truth):
    # A mirror is an inversion and a half turn, and inversion leaves intensities as they are.
    assert metrics.align_volumes(truth[::-1], truth)[2] > 0.999


def test_alignment_is_deterministic(truth, rng):
    moving = metrics.rotate_volume(truth, random(1, rng)[0])
    first = metrics.align_volumes(moving, truth, threads=1)
    second = metrics.align_volumes(moving, truth, threads=2)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[2] == second[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moving": np.ones((9, 9, 9))}, r"moving and reference must have the same shape"),
        ({"moving": np.ones((9, 9, 8))}, "moving must be cubic"),
        ({"reference": np.full((N, N, N), np.inf)}, "reference must be finite"),
        ({"reference": np.ones((N, N, N))}, "must vary on shells 3 to 22, one does not"),
        (dict.fromkeys(("moving", "reference"), np.ones((4, 4, 4))), "moving must have N >= 5"),
        ({"group": "K5"}, "group must be one of"),
        ({"group": np.empty((0, 4))}, "group must hold at least the identity"),
        ({"radius": (5, 23)}, r"radius\[1\] must be between 1 and 22, got 23"),
        ({"radius": (0, 9)}, r"radius\[0\] must be between 1 and 22, got 0"),
        ({"radius": (9, 9.5)}, "radius must hold at least 2 shells of 1 to 22, got 9 to 9"),
    ],
)
def test_alignment_rejects_bad_input(truth, change, message):
    with pytest.raises(InputError, match=message):
        metrics.align_volumes(**{"moving": truth, "reference": truth} | change)


@pytest.mark.parametrize(
    ("quat", "message"),
    [((1.0, 0.0, 0.0), r"quat must have shape \[4\]"), ((1, 1, 0, 0), "must have unit norm")],
)
def test_rotate_volume_rejects_bad_quaternions(truth, quat, message):
    with pytest.raises(InputError, match=message):
        metrics.rotate_volume(truth, quat)


# Poses


def poses(group, n, rng, noise_deg=0.0):
    """Return (found, true, A) with found = A g true, disturbed by exactly `noise_deg`."""
    rotation, true = random(1, rng)[0], random(n, rng)
    element = point_group(group)[rng.integers(len(point_group(group)), size=n)]
    found = multiply(multiply(rotation, element), true)
    found = multiply(found, from_axis_angle(rng.normal(size=(n, 3)), np.full(n, noise_deg)))
    return found * rng.choice([-1.0, 1.0], size=(n, 1)), true, rotation


def random_level(group, n, rng):
    """Median distance of independent random orientations, divided by the group."""
    return np.median(
        angle(multiply(random(n, rng)[:, None], point_group(group)), random(n, rng)[:, None]).min(1)
    )


@pytest.mark.parametrize("group", GROUPS)
def test_exact_poses_have_no_error(group, rng):
    found, true, rotation = poses(group, 50, rng)
    errors, fitted = metrics.pose_error(found, true, group=group)
    assert errors.shape == (50,)
    assert errors.max() < 1e-6
    equivalent = multiply(rotation, point_group(group))
    assert angle(equivalent, fitted).min() < 1e-6
    assert np.abs(fitted[0]) >= np.abs(equivalent[:, 0]).max() - 1e-9


@pytest.mark.parametrize("group", GROUPS)
def test_noise_is_measured_and_averages_out_of_the_alignment(group, rng):
    found, true, rotation = poses(group, 1000, rng, noise_deg=3.0)
    errors, fitted = metrics.pose_error(found, true, group=group)
    # Each component of the mean is off by 3 / sqrt(3 N) = 0.055 degrees.
    assert angle(multiply(rotation, point_group(group)), fitted).min() < 0.3
    np.testing.assert_allclose(errors, 3.0, atol=0.3)


@pytest.mark.parametrize("group", ["C1", "D2", "D5", "I"])
def test_outliers_do_not_move_the_alignment(group, rng):
    found, true, _ = poses(group, 1000, rng, noise_deg=3.0)
    wild = rng.random(1000) < 0.4
    found[wild] = random(wild.sum(), rng)
    errors, _ = metrics.pose_error(found, true, group=group)
    np.testing.assert_allclose(errors[~wild], 3.0, atol=0.6)
    assert np.median(errors[wild]) > 0.8 * random_level(group, 1000, rng)


@pytest.mark.parametrize("group", ["C1", "D2", "D5", "I"])
def test_wrong_pairing_is_at_the_random_level(group, rng):
    found, true, _ = poses(group, 1000, rng, noise_deg=3.0)
    errors, _ = metrics.pose_error(found, true[rng.permutation(1000)], group=group)
    # The alignment is fitted, so a little below.
    assert np.median(errors) > 0.9 * random_level(group, 1000, rng)


def test_a_group_that_is_left_out_shows_as_large_errors(rng):
    found, true, _ = poses("D2", 400, rng)
    assert np.median(metrics.pose_error(found, true)[0]) > 90.0


def test_group_in_another_setting(rng):
    turn = random(1, rng)[0]
    group = multiply(multiply(turn, point_group("D5")), conjugate(turn))
    true = random(300, rng)
    found = multiply(group[rng.integers(10, size=300)], true)
    assert metrics.pose_error(found, true, group=group)[0].max() < 1e-6
    assert np.median(metrics.pose_error(found, true, group="D5")[0]) > 10.0


def test_flat_ewald_sphere_leaves_a_half_turn_about_the_beam(rng):
    found, true, _ = poses("C1", 400, rng, noise_deg=2.0)
    turned = rng.random(400) < 0.5
    found[turned] = multiply(found[turned], (0.0, 0.0, 0.0, 1.0))
    np.testing.assert_allclose(metrics.pose_error(found, true, friedel_flat=True)[0], 2.0, atol=0.4)
    assert metrics.pose_error(found, true)[0].max() > 170.0


def test_pose_alignment_is_that_of_the_volumes(truth, rng):
    # A model that is the truth turned, and poses found with that model.
    rotation = random(1, rng)[0]
    model = metrics.rotate_volume(truth, rotation)
    true = random(50, rng)
    found = multiply(conjugate(rotation), true)
    by_poses = metrics.pose_error(found, true)[1]
    assert angle(metrics.align_volumes(model, truth)[0], by_poses) < 0.3


def test_blocks_of_frames_do_not_matter(rng, monkeypatch):
    found, true, _ = poses("D2", 100, rng, noise_deg=3.0)
    whole = metrics.pose_error(found, true, group="D2", friedel_flat=True)
    monkeypatch.setattr(metrics, "_POINTS_AT_ONCE", 8 * 7)
    parts = metrics.pose_error(found, true, group="D2", friedel_flat=True)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-9)


@pytest.mark.parametrize(
    ("quats", "truth", "group", "message"),
    [
        (np.eye(4), np.eye(4)[:3], "C1", r"must have the same shape .*, got \[4, 4\] and \[3, 4\]"),
        (np.empty((0, 4)), np.empty((0, 4)), "C1", "with N >= 1"),
        (2 * np.eye(4), np.eye(4), "C1", "quats must have unit norm"),
        (np.eye(4), np.eye(3), "C1", r"truth must have shape \[any, 4\]"),
        (np.eye(4), np.eye(4), "D0", "group must be one of"),
    ],
)
def test_pose_error_rejects_bad_input(quats, truth, group, message):
    with pytest.raises(InputError, match=message):
        metrics.pose_error(quats, truth, group=group)


# Data that spicore did not make


def test_poses_of_1bxr(shared_data, rng):
    with h5py.File(shared_data / "sim_1bxr" / "photons_truth.h5") as file:
        true = file["quaternions_wxyz"][:]
    found = multiply(random(1, rng)[0], true)
    found = multiply(found, from_axis_angle(rng.normal(size=(len(true), 3)), np.full(len(true), 4)))
    np.testing.assert_allclose(metrics.pose_error(found, true)[0], 4.0, atol=0.4)


def test_alignment_and_symmetry_of_4bed(shared_data, rng):
    with h5py.File(shared_data / "sim_4bed" / "true_intensity.h5") as file:
        truth = file["intens"][:].astype(np.float32)
    # D5 with a 2-fold axis along y: the setting of `point_group` turned by 90 degrees about z.
    turn = from_axis_angle((0.0, 0.0, 1.0), 90.0)
    group = multiply(multiply(turn, point_group("D5")), conjugate(turn))
    rotation = random(1, rng)[0]
    quat, _, cc = metrics.align_volumes(metrics.rotate_volume(truth, rotation), truth, group=group)
    assert angle(multiply(conjugate(rotation), group), quat).min() < 0.2
    assert cc > 0.995

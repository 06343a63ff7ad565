"""ewald_merge against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest
from test_ewald_slice import centrosymmetric, near_boundary, position_error, problem, slice_error

import spicore as sp
from spicore import orientations, reference
from spicore.errors import InputError


def merge_error(slices, quats, q, size):
    """Bound of the error of a voxel: each of the trilinear weights of a sample is off by at most
    the error of its three coordinates, and the float64 sum adds nothing to that."""
    touched = np.zeros(size**3)
    for quat in quats:
        for index, f in reference.trilinear(q @ orientations.to_matrix(quat).T, size):
            touched += np.bincount(index, f > 0, minlength=size**3)
    # One sample more: rounding may move one into a neighbouring cell, with a weight near 0.
    return 3 * position_error(q, size) * np.abs(slices).max(initial=1.0) * (touched.max() + 1)


def data(size, n_slices, n_pixels, seed=1, reach=0.7):
    """Slices, orientations, q and both weights; no sample so near the boundary that it may flip."""
    _, quats, q = problem(size, n_slices, n_pixels, seed, reach)
    assert not near_boundary(quats, q, size).any()
    assert not near_boundary(quats, -q, size).any()
    rng = np.random.default_rng(seed)
    slices = rng.normal(size=(n_slices, n_pixels)).astype(np.float32)
    slice_weights = rng.uniform(0.1, 1, n_slices).astype(np.float32)
    pixel_weights = rng.uniform(0.1, 1, n_pixels).astype(np.float32)
    return slices, quats, q, slice_weights, pixel_weights


def merge(column, slices, quats, q, size, slice_weights=None, pixel_weights=None, **options):
    return column(
        sp.ewald_merge,
        slices,
        quats,
        q,
        size,
        slice_weights=slice_weights,
        pixel_weights=pixel_weights,
        **options,
    )


# --- against the reference


@pytest.mark.parametrize("size", [2, 3, 16, 17])
@pytest.mark.parametrize("shape", [(1, 1), (3, 63), (2, 64), (2, 65), (5, 1500)])
def test_matches_reference(column, size, shape):
    slices, quats, q, *weights = data(size, *shape)
    got = merge(column, slices, quats, q, size, *weights)
    want = reference.ewald_merge(slices, quats, q, size, *weights)
    error = merge_error(slices, quats, q, size)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float64
        assert a.flags.c_contiguous
        assert np.abs(a - b).max() <= error


@pytest.mark.parametrize("shape", [(1, 1), (2, 65), (5, 1500)])
def test_weights_per_slice_match_reference(column, shape):
    slices, quats, q, slice_weights, _ = data(17, *shape)
    pixel_weights = np.random.default_rng(3).random(shape, np.float32)
    got = merge(column, slices, quats, q, 17, slice_weights, pixel_weights)
    want = reference.ewald_merge(slices, quats, q, 17, slice_weights, pixel_weights)
    error = merge_error(slices, quats, q, 17)
    for a, b in zip(got, want, strict=True):
        assert np.abs(a - b).max() <= error


@pytest.mark.parametrize("shape", [(1, 1), (5, 1500)])
def test_friedel_matches_reference(column, shape):
    slices, quats, q, *weights = data(17, *shape)
    got = merge(column, slices, quats, q, 17, *weights, friedel=True)
    want = reference.ewald_merge(slices, quats, q, 17, *weights, friedel=True)
    error = 2 * merge_error(slices, quats, q, 17)
    for a, b in zip(got, want, strict=True):
        assert np.abs(a - b).max() <= error


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("friedel", [False, True])
def test_empty(column, shape, friedel):
    slices, quats, q, *weights = data(5, *shape)
    for volume in merge(column, slices, quats, q, 5, *weights, friedel=friedel):
        np.testing.assert_array_equal(volume, np.zeros((5, 5, 5)))


# --- what must hold


@pytest.mark.parametrize("friedel", [False, True])
def test_adjoint_of_slice(column, friedel):
    noise, quats, q, *_ = data(17, 6, 700)
    volume = problem(17, 0, 0)[0]
    if friedel:
        volume = centrosymmetric(volume)
    sampled = column(sp.ewald_slice, volume, quats, q, friedel=friedel)
    slices = sampled + noise / 2  # alike, so that the product is far from 0
    value, _ = merge(column, slices, quats, q, 17, friedel=friedel)
    # friedel merges every sample twice, and a centrosymmetric volume sees both alike.
    left = (1 + friedel) * np.vdot(sampled.astype(float), slices.astype(float))
    error = 2 * np.abs(slices).sum() * slice_error(volume, q)
    assert abs(left - np.vdot(volume, value)) <= error
    # The control: the adjoint of the inverse rotations is another operator.
    other, _ = merge(column, slices, orientations.conjugate(quats), q, 17, friedel=friedel)
    assert abs(left - np.vdot(volume, other)) > 100 * error


def test_weights_of_a_sample_sum_to_one(column):
    slices, quats, q, *weights = data(17, 6, 700, reach=0.25)
    value, weight = merge(column, slices, quats, q, 17, *weights)
    total = np.outer(*weights)
    # Exact in float64 but for the rounding of each product of weights to float32.
    assert weight.sum() == pytest.approx(total.astype(float).sum(), rel=1e-7)
    magnitudes = np.abs(slices).astype(float).sum()
    assert value.sum() == pytest.approx(slices.astype(float).sum(), abs=1e-12 * magnitudes)


def test_friedel_is_merging_at_q_and_at_minus_q(column):
    slices, quats, q, *weights = data(17, 6, 700)
    got = merge(column, slices, quats, q, 17, *weights, friedel=True)
    plus = merge(column, slices, quats, q, 17, *weights)
    minus = merge(column, slices, quats, -q, 17, *weights)
    error = 2 * merge_error(slices, quats, q, 17)
    for a, b, c in zip(got, plus, minus, strict=True):
        assert np.abs(a - (b + c)).max() <= error
        np.testing.assert_allclose(a, a[::-1, ::-1, ::-1], atol=1e-12 * np.abs(a).max())


@pytest.mark.parametrize("friedel", [False, True])
def test_symmetry_is_merging_explicit_copies(column, friedel):
    slices, quats, q, slice_weights, pixel_weights = data(17, 4, 300, reach=0.25)
    group = orientations.point_group("T")
    got = merge(
        column, slices, quats, q, 17, slice_weights, pixel_weights, symmetry=group, friedel=friedel
    )
    copies = np.concatenate([orientations.multiply(g, quats) for g in group])
    many, many_weights = np.tile(slices, (12, 1)), np.tile(slice_weights, 12)
    want = merge(column, many, copies, q, 17, many_weights, pixel_weights, friedel=friedel)
    error = (1 + friedel) * merge_error(slices, copies, q, 17)
    for a, b in zip(got, want, strict=True):
        assert np.abs(a - b).max() <= error


def test_symmetry_is_that_of_the_volume(column):
    slices, quats, q, *_ = data(17, 6, 300, reach=0.25)
    group = orientations.point_group("C4")  # about z: quarter turns map the grid onto itself
    value, _ = merge(column, slices, quats, q, 17, symmetry=group)
    error = 2 * 4 * merge_error(slices, quats, q, 17)
    assert np.abs(value - np.rot90(value, axes=(0, 1))).max() <= error
    assert np.abs(value - np.rot90(value, axes=(1, 2))).max() > 1e3 * error


def test_default_weights_are_one(column):
    slices, quats, q, *_ = data(9, 3, 130)
    ones = np.ones(3, np.float32), np.ones(130, np.float32)
    for a, b in zip(
        merge(column, slices, quats, q, 9), merge(column, slices, quats, q, 9, *ones), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(a).max())


def test_weight_zero_is_left_out_of_both_sums(column):
    slices, quats, q, slice_weights, pixel_weights = data(9, 5, 200)
    slice_weights[[0, 3]] = 0
    pixel_weights[[0, 64, 65, 199]] = 0
    slices[slice_weights == 0] = np.nan
    slices[:, pixel_weights == 0] = np.nan
    got = merge(column, slices, quats, q, 9, slice_weights, pixel_weights)
    used, lit = slice_weights > 0, pixel_weights > 0
    want = merge(
        column, slices[used][:, lit], quats[used], q[lit], 9, slice_weights[used],
        pixel_weights[lit],
    )  # fmt: skip
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.nanmax(np.abs(b)))


@pytest.mark.parametrize("friedel", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38, 20.0])
def test_outside_and_not_finite_is_left_out(column, bad, friedel):
    """Neighbours of such a pixel, in the same block of 64, are merged all the same."""
    slices, quats, q, *weights = data(9, 5, 200, reach=0.25)
    out = [0, 70, 71, 199]
    inside = np.delete(np.arange(200), out)
    want = merge(column, slices[:, inside], quats, q[inside], 9, weights[0], weights[1][inside],
                 friedel=friedel)  # fmt: skip
    q[out, 1] = bad
    got = merge(column, slices, quats, q, 9, *weights, friedel=friedel)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max())


def test_more_slices_than_a_grid_axis_has_blocks(column):
    slices, quats, q, *_ = data(9, 70_000, 3, reach=0.2)
    value, weight = merge(column, slices, quats, q, 9)
    assert weight.sum() == pytest.approx(210_000, rel=1e-12)
    magnitudes = np.abs(slices).astype(float).sum()
    assert value.sum() == pytest.approx(slices.astype(float).sum(), abs=1e-12 * magnitudes)


@pytest.mark.parametrize("friedel", [False, True])
def test_threads_do_not_change_a_bit(column, friedel):
    if column.library:
        pytest.skip("threads mean nothing on a GPU")
    slices, quats, q, *weights = data(33, 20, 3001)
    one, *others = (
        merge(column, slices, quats, q, 33, *weights, friedel=friedel, threads=n)
        for n in (1, 2, 3, 7)
    )
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert a.tobytes() == b.tobytes()


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": np.zeros((3, 7))}, r"slices must have shape \[2, 7\] to match quats and q"),
        ({"slices": np.zeros(7)}, r"slices must have shape \[any, any\], got \[7\]"),
        ({"quats": np.full((2, 4), 0.6)}, "quats must have unit norm to 1e-4"),
        ({"q": np.zeros((3, 7))}, r"q must have shape \[any, 3\], got \[3, 7\]"),
        ({"slice_weights": np.ones(3)}, r"slice_weights must have shape \[2\], got \[3\]"),
        ({"pixel_weights": np.ones(3)}, r"pixel_weights must have shape \[7\], got \[3\]"),
        ({"size": 1}, "size must be between 2 and 1024, got 1"),
        ({"size": 1025}, "size must be between 2 and 1024, got 1025"),
        ({"size": "big"}, "size must be a number, got 'big'"),
        ({"size": 6, "friedel": True}, "friedel needs an odd volume edge .* got 6"),
        ({"symmetry": np.ones((1, 4))}, "symmetry must have unit norm to 1e-4"),
        ({"symmetry": np.ones(4) / 2}, r"symmetry must have shape \[any, 4\], got \[4\]"),
        ({"threads": 0}, "threads must be between 1 and 4096, got 0"),
    ],
)
def test_errors(change, message):
    slices, quats, q, *_ = data(5, 2, 7)
    arguments = {"slices": slices, "quats": quats, "q": q, "size": 5, **change}
    with pytest.raises(InputError, match=message):
        sp.ewald_merge(**arguments)

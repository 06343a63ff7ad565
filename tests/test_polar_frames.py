"""polar_frames against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest
from columns import cpu_only, on_column
from test_ewald_slice import EPS

from spicore import _core, reference
from spicore.emc.kernels import Photons
from spicore.emc.polar import transform
from spicore.emc.polar.layout import ANGLES
from spicore.emc.polar.orders import AngularOrders
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

polar_frames = on_column(transform.polar_frames)

# Frames, rings, angles: none, one, and around the 16 rings that are transformed side by side.
SIZES = [(0, 3, 32), (1, 1, 32), (7, 15, 48), (5, 16, 144), (4, 17, 256), (3, 33, 512)]


def all_orders(n_radii, n_angles):
    return AngularOrders.from_limits(n_angles, np.full(n_radii, n_angles // 2))


def limited(n_radii, n_angles):
    """A band limit that falls with the ring, so that it ends within blocks of 16 rings."""
    limits = np.linspace(0.9, 0.1, n_radii) * n_angles / 2
    return AngularOrders.from_limits(n_angles, limits.astype(int))


def binned(n_frames, n_radii, n_angles, seed=0):
    """Photons in rings that orient and two that only merge; counts [D, Q, A] of the first.

    Many bins have two entries, every fifth frame is empty, and some counts are the largest.
    """
    rng = np.random.default_rng(seed)
    shape = (n_frames, (n_radii + 2) * n_angles, 2)
    entries = rng.geometric(0.4, shape) * (rng.random(shape) < 0.2)
    entries[rng.random(shape) < 0.01] = 65535
    entries[3::5] = 0
    frame, row, _ = np.nonzero(entries)
    begin = np.searchsorted(frame, np.arange(n_frames + 1))
    oriented = entries[:, : n_radii * n_angles]
    orient_end = begin[:-1] + (oriented > 0).sum(axis=(1, 2))
    count = entries[entries > 0].astype(np.uint16)
    photons = Photons(begin, orient_end, row.astype(np.uint32), count)
    return photons, oriented.sum(axis=2).reshape(n_frames, n_radii, n_angles)


def transform_rounding(n_angles):
    """Bound of the error of a transform, relative to the sum of its inputs' magnitudes.

    Each of the log2(A) levels has at most four roundings on any path: the product with a twiddle
    factor, that factor's own, and two sums. Six more split and scale a real transform.
    """
    return (4 * np.log2(n_angles) + 6) * EPS


def frame_rounding(counts, orders):
    """Bound [D, C, 1] for the coefficients of counts [D, Q, A]."""
    ring = counts.sum(axis=2) / orders.n_angles * transform_rounding(orders.n_angles)
    return np.concatenate([ring[:, :kept] for kept in orders.radii], axis=1)[..., None]


# --- against the reference


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("band", [all_orders, limited])
def test_matches_reference(size, band):
    photons, counts = binned(*size)
    orders = band(*size[1:])
    got = polar_frames(photons, orders)
    assert got.dtype == np.float32
    want = reference.polar_frames(counts, orders.radii)
    assert got.shape == want.shape == (size[0], orders.n_coefficients, 2)
    assert (np.abs(got - want) <= frame_rounding(counts, orders)).all()


@pytest.mark.parametrize("n_angles", ANGLES)
def test_every_number_of_angles(n_angles):
    photons, counts = binned(3, 3, n_angles)
    orders = all_orders(3, n_angles)
    error = polar_frames(photons, orders) - reference.polar_frames(counts, orders.radii)
    assert (np.abs(error) <= frame_rounding(counts, orders)).all()


def test_control_of_other_frames_and_angles():
    """The bound tells frames apart, and a frame from itself turned by one bin."""
    photons, counts = binned(3, 17, 144)
    orders = limited(17, 144)
    got, bound = polar_frames(photons, orders), frame_rounding(counts, orders)
    for other in (counts[::-1], np.roll(counts, 1, axis=2)):
        wrong = np.abs(got - reference.polar_frames(other, orders.radii)) > 100 * bound
        assert wrong[::2].mean() > 0.9


# --- what must hold


def test_order_zero_is_the_mean_of_a_ring():
    """The scale is 1 / A; the imaginary parts of orders 0 and A / 2 are 0."""
    photons, counts = binned(3, 5, 64)
    got = polar_frames(photons, all_orders(5, 64))
    np.testing.assert_allclose(got[:, :5, 0], counts.mean(axis=2), rtol=1e-6)
    np.testing.assert_array_equal(got[:, :5, 1], 0.0)
    np.testing.assert_array_equal(got[:, -5:, 1], 0.0)


def test_empty_frames_are_zero():
    photons, _ = binned(9, 17, 48)
    got = polar_frames(photons, all_orders(17, 48), out=np.full((9, 17 * 25, 2), np.nan, "f4"))
    np.testing.assert_array_equal(got[3::5], 0.0)
    assert np.isfinite(got).all()
    assert got[::3].any()


def test_photons_that_only_merge_do_not_count():
    """Neither rows beyond the rings nor rows of the rings themselves."""
    photons, _ = binned(4, 17, 48)
    orders = all_orders(17, 48)
    empty = photons._replace(orient_end=photons.begin[:-1].copy())
    np.testing.assert_array_equal(polar_frames(empty, orders), 0.0)
    changed = photons.count.copy()
    for end, last in zip(photons.orient_end, photons.begin[1:], strict=True):
        changed[end:last] += 1
    assert (changed != photons.count).any()
    got = polar_frames(photons._replace(count=changed), orders)
    assert got.tobytes() == polar_frames(photons, orders).tobytes()


def test_a_band_limit_leaves_the_kept_orders_alone():
    photons, _ = binned(4, 33, 96)
    whole, part = all_orders(33, 96), limited(33, 96)
    everything, some = polar_frames(photons, whole), polar_frames(photons, part)
    for m, kept in enumerate(part.radii):
        first, all_first = part.begin[m], whole.begin[m]
        np.testing.assert_array_equal(
            some[:, first : first + kept], everything[:, all_first : all_first + kept]
        )


def test_dropped_orders_leave_the_others_alone():
    photons, _ = binned(4, 33, 96)
    limits = np.linspace(48, 8, 33)
    whole = AngularOrders.from_limits(96, limits)
    even = AngularOrders.from_limits(96, limits, even=True)
    everything, some = polar_frames(photons, whole), polar_frames(photons, even)
    assert even.n_coefficients < 0.55 * whole.n_coefficients
    for m in range(0, 49, 2):
        want = everything[:, whole.begin[m] : whole.begin[m + 1]]
        np.testing.assert_array_equal(some[:, even.begin[m] : even.begin[m + 1]], want)


def test_nothing_beyond_the_result_is_written():
    photons, _ = binned(3, 19, 48)
    orders = limited(19, 48)
    frame = np.full((5, orders.n_coefficients, 2), 7, np.float32)
    out = polar_frames(photons, orders, out=frame[1:4])
    assert out.base is frame
    np.testing.assert_array_equal(out, polar_frames(photons, orders))
    np.testing.assert_array_equal(frame[[0, 4]], 7)


@cpu_only
def test_threads_do_not_change_a_bit():
    photons, _ = binned(70, 17, 64)
    one, *others = (polar_frames(photons, limited(17, 64), threads=n) for n in (1, 2, 3))
    assert all(one.tobytes() == other.tobytes() for other in others)


def test_frames_that_are_not_sorted_stay_within_memory():
    """The result is not defined; the kernel must neither crash nor write elsewhere."""
    photons, _ = binned(3, 33, 48)
    backwards = photons.row.copy()
    for first, end in zip(photons.begin, photons.orient_end, strict=False):
        backwards[first : max(end - 1, first)] = photons.row[first : max(end - 1, first)][::-1]
    polar_frames(photons._replace(row=backwards), limited(33, 48))


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": np.empty((3, 74, 2), "f4")}, r"out must be \[D, C, 2\]"),
        ({"out": np.empty((3, 75, 1), "f4")}, r"out must be \[D, C, 2\]"),
        ({"out": np.empty((2, 75, 2), "f4")}, "photons and the block must agree in frames"),
        ({"orders": all_orders(2, 48)}, "a row lies beyond the tomogram"),
        ({"orders": AngularOrders(50, 3, np.full(2, 3, "i4"))}, "no transform for this number"),
        ({"orders": AngularOrders(48, 3, np.full(26, 3, "i4"))}, "radii and begin must agree"),
        ({"orders": AngularOrders(48, 3, np.array([2, -1], "i4"))}, "radii must be at most Q"),
        ({"orders": AngularOrders(48, 3, np.array([4, 3], "i4"))}, "radii must be at most Q"),
        ({"threads": 0}, "threads must be between 1 and 4096, got 0"),
    ],
)
@cpu_only
def test_errors(change, message):
    arguments = {"photons": binned(3, 3, 48)[0], "orders": all_orders(3, 48), **change}
    with pytest.raises((ValueError, InputError), match=message):
        polar_frames(**arguments)


@cpu_only
def test_begin_must_be_the_sum_of_radii():
    photons, orders = binned(3, 3, 48)[0], all_orders(3, 48)
    n_angles, n_radii, radii, begin = orders.as_tuple()
    out = np.empty((3, orders.n_coefficients, 2), np.float32)
    wrong = begin.copy()
    wrong[1] += 1
    with pytest.raises(ValueError, match="begin must be their running sum"):
        _core.polar_frames(tuple(photons), (n_angles, n_radii, radii, wrong), out, 1)


@pytest.mark.parametrize(
    "out",
    [np.empty((3, 75, 2)), np.empty((3, 75, 4), "f4")[:, :, ::2]],
    ids=["float64", "strided"],
)
@cpu_only
def test_out_of_another_type_or_layout_is_refused(out):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        polar_frames(binned(3, 3, 48)[0], all_orders(3, 48), out=out)

"""Detector pixels as polar bins, and the angular orders of their rings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spicore import Detector, Frames
from spicore.emc.polar.layout import ANGLES, PolarLayout
from spicore.emc.polar.orders import AngularOrders
from spicore.emc.polar.start import polar_layout
from spicore.emc.schedule import Stage
from spicore.errors import InputError


def square(n=31, **options):
    return Detector.square(n, pixel_size=0.1 / n, distance=0.1, **options)


def with_gap(n=41):
    """A dead sector, some pixels that only merge, and corners that only merge."""
    detector = square(n, stop_radius=2.0)
    x, y = (np.indices((n, n)) - n // 2).reshape(2, -1)
    mask = detector.mask.copy()
    mask[(x > 4) & (np.abs(y) < 3)] = 2
    mask[(x < -6) & (y > 6) & (mask == 0)] = 1
    return replace(detector, mask=mask)


def odd_shaped(seed=0):
    """Pixels anywhere on a curved surface, weights anything: no square, no centre."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(0.0, 6.0, (400, 2))
    z = -(flat**2).sum(axis=1) / 60.0
    mask = rng.choice(3, 400, p=(0.6, 0.2, 0.2))
    return Detector(
        np.column_stack([flat, z]), rng.uniform(0.2, 1.8, 400), mask, 100.0, 100.0
    )  # fmt: skip


DETECTORS = {
    "square": square(),
    "even edge": square(24),
    "gap": with_gap(),
    "odd shaped": odd_shaped(),
}
everywhere = pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)


def bins_of(layout):
    """Bin of each pixel, -1 for those not used, and whether it orients."""
    only_merge = layout.row_of >= layout.n_bins
    return layout.row_of - np.where(only_merge, layout.n_bins, 0), layout.row_of >= 0, only_merge


@everywhere
@pytest.mark.parametrize("radius", [0.0, 8.0])
@pytest.mark.parametrize(("n_angles", "width"), [(32, 1.0), (48, 2.0), (144, 0.7)])
def test_every_used_pixel_is_in_the_nearest_bin(detector, radius, n_angles, width):
    layout = PolarLayout(detector, radius, n_angles, width)
    bins, used, only_merge = bins_of(layout)
    q_abs = np.linalg.norm(detector.q_voxels, axis=1)
    np.testing.assert_array_equal(
        used, (detector.mask < 2) & ((q_abs <= radius) if radius else True)
    )
    np.testing.assert_array_equal(only_merge, used & (detector.mask == 1))
    assert bins[used].max() < layout.n_bins == layout.n_rings * n_angles
    ring, t = np.divmod(bins[used], n_angles)
    # A ring holds |q| within half its width of a multiple of the width, so the rings' mean
    # radius is too.
    centre = np.rint(layout.radius / width) * width
    assert (np.abs(q_abs[used] - centre[ring]) <= 0.5 * width + 1e-9).all()
    assert (np.abs(layout.radius - centre) <= 0.5 * width + 1e-9).all()
    assert len(set(np.rint(centre / width))) == layout.n_rings
    x, y = detector.q_voxels[used, :2].T
    off = np.angle(np.exp(1j * (np.arctan2(y, x) - 2 * np.pi * t / n_angles)))
    assert np.abs(off).max() <= np.pi / n_angles + 1e-9


@everywhere
def test_bins_lie_at_their_ring_and_angle(detector):
    """At the mean radius and height of the ring's pixels: on the sphere but for the averages."""
    layout = PolarLayout(detector, 0.0, 32)
    bins, used, _ = bins_of(layout)
    ring = bins[used] // 32
    vectors = detector.q_voxels[used]
    x, y, z = layout.q.reshape(3, layout.n_rings, 32).astype(np.float64)
    for r in range(layout.n_rings):
        here = vectors[ring == r]
        assert layout.radius[r] == pytest.approx(np.linalg.norm(here, axis=1).mean())
        np.testing.assert_allclose(z[r], here[:, 2].mean(), rtol=1e-6, atol=1e-6)
    length = np.sqrt(x**2 + y**2 + z**2)
    np.testing.assert_allclose(length, layout.radius[:, None] * np.ones(32), rtol=1e-5, atol=1e-6)
    angle = 2 * np.pi * np.arange(32) / 32
    flat = np.hypot(x, y)
    np.testing.assert_allclose(x, flat * np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(y, flat * np.sin(angle), atol=1e-5)
    assert layout.q.dtype == np.float32


@everywhere
def test_exposures_are_sums_over_pixels(detector):
    layout = PolarLayout(detector, 0.0, 48)
    bins, used, only_merge = bins_of(layout)
    for kind, chosen in enumerate((used & ~only_merge, used)):
        want = np.zeros(layout.n_bins)
        for t in np.flatnonzero(chosen):
            want[bins[t]] += detector.correction[t]
        np.testing.assert_allclose(layout.exposure[kind].ravel(), want, rtol=1e-6)
        assert layout.exposure[kind].sum() == pytest.approx(
            detector.correction[chosen].sum(), rel=1e-6
        )
    for b in np.unique(bins[used & ~only_merge]):
        here = detector.correction[(bins == b) & used & ~only_merge]
        assert layout.log_exposure[b] == pytest.approx(np.log(here).mean())


@everywhere
def test_rings_that_orient_come_first_from_the_largest(detector):
    layout = PolarLayout(detector, 0.0, 64)
    bins, used, only_merge = bins_of(layout)
    for rings in (layout.radius[: layout.n_radii], layout.radius[layout.n_radii :]):
        assert (np.diff(rings) < 0).all()
    orienting = np.unique(bins[used & ~only_merge] // 64)
    np.testing.assert_array_equal(orienting, np.arange(layout.n_radii))
    assert (layout.exposure[0, : layout.n_radii].sum(axis=1) > 0).all()
    assert (layout.exposure[0, layout.n_radii :] == 0).all()
    assert (layout.exposure[1, layout.n_radii :].sum(axis=1) > 0).all()


def test_corners_are_rings_that_only_merge():
    """Beyond the inscribed circle of 15 pixels; the control without corners has none."""
    detector = square(31)
    layout = PolarLayout(detector, 0.0, 32)
    assert layout.n_radii == 15  # to |q| = 13.9 voxels: the sphere is curved
    assert layout.n_rings == 19
    assert layout.radius[0] < layout.radius[layout.n_rings - 1]
    without = replace(detector, mask=np.where(detector.mask == 1, 2, detector.mask))
    layout = PolarLayout(without, 0.0, 32)
    assert layout.n_radii == layout.n_rings == 15


def test_the_pixel_in_the_centre_is_a_ring_of_its_own():
    layout = PolarLayout(square(31), 0.0, 32)
    centre = layout.row_of[31 * 31 // 2]
    assert centre == (layout.n_radii - 1) * 32
    assert layout.radius[layout.n_radii - 1] == 0.0
    assert (layout.row_of == centre).sum() == 1


def test_gaps_have_no_exposure():
    layout = PolarLayout(with_gap(), 0.0, 32)
    angle = np.arange(32)
    dead = (angle <= 1) | (angle >= 31)
    ring = np.argmin(np.abs(layout.radius[: layout.n_radii] - 8.0))
    assert (layout.exposure[:, ring, dead] == 0).all()
    assert (layout.exposure[0, ring, ~dead] > 0).sum() > 20
    assert (layout.log_exposure.reshape(layout.n_rings, 32)[ring, dead] == 0).all()
    # What only merges has exposure in the second table alone.
    partial = (layout.exposure[0] == 0) & (layout.exposure[1] > 0)
    assert partial[: layout.n_radii].any()
    whole = PolarLayout(square(41), 0.0, 32)
    assert (whole.exposure[0, np.argmin(np.abs(whole.radius[: whole.n_radii] - 8.0))] > 0).all()


def test_the_radius_limits():
    everything, limited = (PolarLayout(square(), r, 32) for r in (0.0, 9.0))
    assert limited.radius.max() <= 9.0 < everything.radius.max()
    assert limited.n_rings == limited.n_radii == 10
    same = PolarLayout(square(), 1e3, 32)
    np.testing.assert_array_equal(same.row_of, everything.row_of)


def test_wide_rings_are_few():
    narrow, wide = (PolarLayout(square(), 0.0, 32, width) for width in (1.0, 2.0))
    assert narrow.width == 1.0
    assert wide.width == 2.0
    assert (narrow.n_radii, wide.n_radii) == (15, 8)
    np.testing.assert_allclose(
        wide.exposure.sum(axis=(1, 2)), narrow.exposure.sum(axis=(1, 2)), rtol=1e-6
    )


def test_photons_are_binned():
    """A frame of a photon in every pixel has as many in every bin as the bin has pixels."""
    detector = with_gap()
    layout = PolarLayout(detector, 0.0, 32)
    bins, used, only_merge = bins_of(layout)
    values = np.random.default_rng(0).integers(0, 3, (4, detector.n_pixels))
    photons = layout.photons(Frames.from_dense(values.astype(np.uint16)).read(0, 4), 2)
    dense = photons.to_dense(2 * layout.n_bins)
    for d, frame in enumerate(values):
        orient = np.bincount(
            bins[used & ~only_merge], frame[used & ~only_merge], minlength=layout.n_bins
        )
        merge = np.bincount(bins[only_merge], frame[only_merge], minlength=layout.n_bins)
        np.testing.assert_array_equal(dense[d, : layout.n_bins], orient)
        np.testing.assert_array_equal(dense[d, layout.n_bins :], merge)
        part = slice(photons.begin[d], photons.orient_end[d])
        assert photons.row[part].max() < layout.n_radii * 32


def test_errors_of_a_layout():
    with pytest.raises(InputError, match=r"no pixel that orients .* within radius 2\.5 voxels"):
        PolarLayout(square(stop_radius=4.0), 2.5, 32)
    detector = square()
    inner = np.linalg.norm(detector.q_voxels, axis=1) < 5
    only_outside = replace(detector, mask=np.where(inner, 1, detector.mask))
    with pytest.raises(
        InputError, match=r"no pixel that orients \(mask 0\) within radius 4 voxels"
    ):
        PolarLayout(only_outside, 4.0, 32)


# --- angular orders


def test_orders_are_prefixes_of_rings():
    """Rings 0 .. radii[m] - 1, from the largest, keep order m: as their limits say."""
    limits = np.array([12, 12, 9, 5, 5, 2, 0])
    orders = AngularOrders.from_limits(32, limits)
    assert orders.n_angles == 32
    assert orders.n_radii == 7
    assert len(orders.radii) == 13
    for m, kept in enumerate(orders.radii):
        np.testing.assert_array_equal(np.arange(7) < kept, limits >= m)
    assert orders.radii.dtype == np.int32
    np.testing.assert_array_equal(orders.begin, np.concatenate([[0], np.cumsum(orders.radii)]))
    assert orders.n_coefficients == (limits + 1).sum() == orders.begin[-1]


def test_limits_are_raised_to_be_monotone():
    orders = AngularOrders.from_limits(64, [4, 9, 3, 20, 6])
    raised = AngularOrders.from_limits(64, [20, 20, 20, 20, 6])
    np.testing.assert_array_equal(orders.radii, raised.radii)
    assert (np.diff(orders.radii) <= 0).all()
    assert orders.n_coefficients == 4 * 21 + 7


@pytest.mark.parametrize("n_angles", ANGLES)
def test_orders_end_at_half_the_angles(n_angles):
    orders = AngularOrders.from_limits(n_angles, np.full(3, 10_000))
    np.testing.assert_array_equal(orders.radii, np.full(n_angles // 2 + 1, 3))


def test_the_first_orders_alone():
    orders = AngularOrders.from_limits(96, [40, 30, 10])
    few = orders.up_to(17, 48)
    np.testing.assert_array_equal(few.radii, orders.radii[:17])
    np.testing.assert_array_equal(few.begin, orders.begin[:18])
    assert few.n_angles == 48
    assert few.n_radii == 3
    assert len(orders.up_to(100, 32).radii) == 17  # no more than the angles hold
    assert len(orders.up_to(100, 96).radii) == 41  # nor than there are
    few.radii[0] = 0
    assert orders.radii[0] == 3


def test_odd_orders_can_be_dropped():
    limits = [40, 30, 10]
    orders = AngularOrders.from_limits(96, limits)
    even = AngularOrders.from_limits(96, limits, even=True)
    np.testing.assert_array_equal(even.radii[::2], orders.radii[::2])
    assert not even.radii[1::2].any()
    assert even.n_coefficients == orders.radii[::2].sum()


def test_flat_detectors_have_no_odd_orders():
    """The whole detector decides: a stage inside it may not drop what tells the hand."""
    stage = Stage(0, 5.0, n_pairs=50, n_angles=96)
    far = Detector.square(31, pixel_size=0.001, distance=10.0)
    assert np.ptp(far.q_voxels[:, 2]) < 0.25 < np.ptp(square().q_voxels[:, 2])
    assert not polar_layout(far, stage)[1].radii[1::2].any()
    assert polar_layout(square(), stage)[1].radii[1::2].any()


@pytest.mark.parametrize("n_angles", [0, 31, 33, 100, 1024])
def test_a_number_of_angles_that_transforms_do_not_know(n_angles):
    with pytest.raises(InputError, match=rf"n_angles must be one of \(32, .*, got {n_angles}"):
        AngularOrders.from_limits(n_angles, [8, 8])


@pytest.mark.parametrize("width", [1.0, 2.0])
def test_the_orders_of_a_stage_grow_with_the_radius(width):
    """As many as pixels resolve, pi |q|, and at least 8."""
    stage = Stage(0, 12.0, n_pairs=50, n_angles=96, width=width)
    layout, orders = polar_layout(with_gap(), stage)
    assert layout.n_angles == orders.n_angles == 96
    assert orders.n_radii == layout.n_radii
    assert layout.radius.max() <= 12.0
    kept = (orders.radii[:, None] > np.arange(layout.n_radii)).sum(axis=0) - 1
    want = np.clip(np.ceil(np.pi * layout.radius[: layout.n_radii]), 8, 48)
    np.testing.assert_array_equal(kept, want)

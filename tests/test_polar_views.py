"""polar_views against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest
from columns import cpu_only, on_column
from test_ewald_slice import EPS
from test_expand import FAST_LOG, packed
from test_polar_frames import all_orders, limited, transform_rounding

from spicore import reference
from spicore.emc.kernels import LANES
from spicore.emc.polar import transform
from spicore.emc.polar.layout import ANGLES
from spicore.emc.polar.orders import GROUP
from spicore.emc.polar.transform import exposure_transform
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

polar_views = on_column(transform.polar_views)

# Views, rings, angles: within one group of 16, in both of a panel, in several panels.
SIZES = [(1, 1, 32), (33, 15, 48), (17, 16, 144), (5, 17, 256), (3, 5, 512)]


class Problem:
    """Random tomograms [V, Q, A] above 0.01 and exposures [Q, A], some bins without pixels."""

    def __init__(self, n_views, n_radii, n_angles, seed=0):
        rng = np.random.default_rng(seed)
        self.views = rng.gamma(1.5, 2.0, (n_views, n_radii, n_angles)).astype(np.float32)
        self.views += np.float32(0.01)
        self.exposure = rng.uniform(0.5, 3.0, (n_radii, n_angles))
        self.exposure[rng.random(self.exposure.shape) < 0.2] = 0.0
        self.exposure = self.exposure.astype(np.float32)
        self.log_mean = np.log(self.views.mean(axis=(0, 2)))

    @property
    def panels(self):
        return packed(self.views.reshape(len(self.views), -1))

    def arguments(self, orders):
        return self.panels, orders, self.log_mean, exposure_transform(self.exposure)

    def reference(self, orders, mirrors):
        return reference.polar_views(
            self.views, orders.radii, self.log_mean, self.exposure.astype(float), mirrors
        )

    def log_rounding(self, orders):
        """Bound [V, C, 1]: the error of the logarithms, then of their transform."""
        logs = np.log(self.views.astype(float))
        size = np.abs(logs - self.log_mean[:, None])
        ring = (FAST_LOG * np.abs(logs) + EPS * size).sum(axis=2)
        ring += transform_rounding(orders.n_angles) * size.sum(axis=2)
        return np.concatenate([ring[:, :kept] for kept in orders.radii], axis=1)[..., None]

    def total_rounding(self):
        """Bound [V, 1, 1] of a correlation by way of three transforms and a sum over Q rings.

        A transform of x is wrong by as much of its norm (in the mean over its orders), so by
        Cauchy-Schwarz and Parseval all errors are shares of ``sum_q |e_q| |I_q|``.
        """
        n_radii, n_angles = self.exposure.shape
        norms = np.linalg.norm(self.views, axis=2) @ np.linalg.norm(self.exposure, axis=1)
        return (3 * transform_rounding(n_angles) + (n_radii + 4) * EPS) * norms[:, None, None]


def ungrouped(x, n):
    """Arrays [V, ...] of groups [G, ..., 16]."""
    return np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])[:n]


# --- against the reference


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mirrors", [1, 2])
@pytest.mark.parametrize("band", [all_orders, limited])
def test_matches_reference(size, mirrors, band):
    problem, orders = Problem(*size), band(*size[1:])
    logs, totals = polar_views(*problem.arguments(orders), mirrors=mirrors)
    n_groups = -(-size[0] // LANES) * LANES // GROUP
    assert logs.dtype == totals.dtype == np.float32
    assert logs.shape == (n_groups, orders.n_coefficients, 2, GROUP)
    assert totals.shape == (n_groups, mirrors, orders.n_angles, GROUP)
    want_logs, want_totals = problem.reference(orders, mirrors)
    logs, totals = ungrouped(logs, size[0]), ungrouped(totals, size[0])
    assert (np.abs(logs - want_logs) <= problem.log_rounding(orders)).all()
    assert (np.abs(totals - want_totals) <= problem.total_rounding()).all()


@pytest.mark.parametrize("n_angles", ANGLES)
def test_every_number_of_angles(n_angles):
    problem, orders = Problem(2, 3, n_angles), all_orders(3, n_angles)
    logs, totals = (ungrouped(x, 2) for x in polar_views(*problem.arguments(orders)))
    want_logs, want_totals = problem.reference(orders, 2)
    assert (np.abs(logs - want_logs) <= problem.log_rounding(orders)).all()
    assert (np.abs(totals - want_totals) <= problem.total_rounding()).all()


def test_control_of_other_views_and_angles():
    """The bounds tell views, the sense of rotation and a shift by one angle apart."""
    problem, orders = Problem(17, 17, 144), limited(17, 144)
    logs, totals = (ungrouped(x, 17) for x in polar_views(*problem.arguments(orders)))
    log_bound, total_bound = problem.log_rounding(orders), problem.total_rounding()
    right = problem.views
    for other in (right[::-1], right[..., ::-1], np.roll(right, 1, axis=2)):
        problem.views = other
        want_logs, want_totals = problem.reference(orders, 2)
        some = np.arange(17) != 8  # the middle view stays where it is when all are reversed
        assert (np.abs(logs - want_logs) > 30 * log_bound)[some].mean() > 0.9
        assert (np.abs(totals - want_totals) > 3 * total_bound)[some].mean() > 0.9


# --- what must hold


def test_totals_come_from_all_orders():
    """The band limit is of the logarithms alone."""
    problem = Problem(20, 17, 96)
    everything, some = (
        polar_views(*problem.arguments(band(17, 96)))[1] for band in (all_orders, limited)
    )
    assert everything.tobytes() == some.tobytes()


def test_totals_are_the_photons_of_each_shift():
    """One lit bin counts the tomogram's values in turn, backwards in the mirror image."""
    problem = Problem(3, 2, 48)
    problem.exposure[:] = 0.0
    problem.exposure[1, 5] = 2.0
    totals = ungrouped(polar_views(*problem.arguments(all_orders(2, 48)))[1], 3)
    j = np.arange(48)
    ring = 2.0 * problem.views[:, 1]
    np.testing.assert_allclose(totals[:, 0], ring[:, (5 + j) % 48], atol=2e-5)
    np.testing.assert_allclose(totals[:, 1], ring[:, -(5 + j) % 48], atol=2e-5)


def test_the_mirror_image_is_that_of_mirrored_tomograms():
    problem = Problem(4, 5, 64)
    orders = all_orders(5, 64)
    totals = polar_views(*problem.arguments(orders))[1]
    problem.views = np.roll(problem.views[..., ::-1], 1, axis=2)  # I(q, -t)
    mirrored = polar_views(*problem.arguments(orders))[1]
    bound = 2 * problem.total_rounding()
    assert (np.abs(ungrouped(totals[:, ::-1] - mirrored, 4)) <= bound).all()


def test_mirrors_do_not_change_the_rest():
    problem, orders = Problem(20, 17, 96), limited(17, 96)
    logs, totals = polar_views(*problem.arguments(orders), mirrors=1)
    both_logs, both_totals = polar_views(*problem.arguments(orders), mirrors=2)
    assert logs.tobytes() == both_logs.tobytes()
    assert totals.tobytes() == both_totals[:, :1].tobytes()


def test_rows_beyond_the_rings_do_not_count():
    problem, orders = Problem(40, 3, 48), all_orders(3, 48)
    want = polar_views(*problem.arguments(orders))
    _, *rest = problem.arguments(orders)
    more = np.concatenate([problem.panels, np.full((2, 96, LANES), np.nan, np.float32)], axis=1)
    for a, b in zip(polar_views(more, *rest), want, strict=True):
        assert a.tobytes() == b.tobytes()


def test_zero_intensity_has_a_finite_logarithm():
    """Lanes past the last view too; they expect no photons."""
    problem, orders = Problem(1, 3, 48), all_orders(3, 48)
    logs, totals = polar_views(*problem.arguments(orders))
    assert np.isfinite(logs).all()
    np.testing.assert_array_equal(ungrouped(totals, 32)[1:], 0.0)
    empty = ungrouped(logs, 32)[1]
    np.testing.assert_allclose(empty[:3, 0], 48 * (np.log(1e-36) - problem.log_mean), rtol=1e-6)


def test_a_panel_is_its_views_one_by_one():
    problem, orders = Problem(40, 5, 48), limited(5, 48)
    whole = [ungrouped(x, 40) for x in polar_views(*problem.arguments(orders))]
    views = problem.views
    for v in (0, 15, 16, 31, 32, 39):
        problem.views = views[v : v + 1]
        single = [ungrouped(x, 1)[0] for x in polar_views(*problem.arguments(orders))]
        for a, b in zip(single, whole, strict=True):
            np.testing.assert_array_equal(a, b[v])


@cpu_only
def test_threads_do_not_change_a_bit():
    problem, orders = Problem(100, 17, 64), limited(17, 64)
    one, *others = (polar_views(*problem.arguments(orders), threads=n) for n in (1, 2, 3))
    for other in others:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_results_are_written_where_they_belong():
    problem, orders = Problem(33, 17, 48), limited(17, 48)
    out_logs = np.full((6, orders.n_coefficients, 2, GROUP), 7, np.float32)
    out_totals = np.full((6, 2, 48, GROUP), 7, np.float32)
    arguments = problem.arguments(orders)
    logs, totals = polar_views(*arguments, out_logs=out_logs[1:5], out_totals=out_totals[1:5])
    for got, frame, want in zip(
        (logs, totals), (out_logs, out_totals), polar_views(*arguments), strict=True
    ):
        assert got.base is frame
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(frame[[0, 5]], 7)


def test_no_views():
    problem, orders = Problem(1, 3, 48), all_orders(3, 48)
    _, *rest = problem.arguments(orders)
    logs, totals = polar_views(np.empty((0, 144, LANES), np.float32), *rest)
    assert logs.shape == (0, 75, 2, GROUP)
    assert totals.shape == (0, 2, 48, GROUP)


def test_exposure_transform():
    exposure = Problem(1, 3, 48).exposure
    got = exposure_transform(exposure)
    assert got.dtype == np.float32
    assert got.shape == (3, 25, 2)
    angle = 2 * np.pi / 48 * np.outer(np.arange(48), np.arange(25))
    np.testing.assert_allclose(got[..., 0], exposure @ np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(got[..., 1], exposure @ -np.sin(angle), atol=1e-5)


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"panels": np.ones((1, 143, LANES), "f4")}, r"panels must be \[P, at least Q A, lanes\]"),
        ({"panels": np.ones((1, 144, 16), "f4")}, r"panels must be \[P, at least Q A, lanes\]"),
        ({"orders": all_orders(3, 64)}, r"panels must be \[P, at least Q A, lanes\]"),
        ({"reference": np.ones(2, "f4")}, r"reference must be \[Q\]"),
        ({"exposure": np.ones((2, 25, 2), "f4")}, r"exposure must be \[Q, A / 2 \+ 1, 2\]"),
        ({"exposure": np.ones((3, 24, 2), "f4")}, r"exposure must be \[Q, A / 2 \+ 1, 2\]"),
        ({"exposure": np.ones((3, 25, 1), "f4")}, r"exposure must be \[Q, A / 2 \+ 1, 2\]"),
        ({"mirrors": 0}, "mirrors must be 1 or 2"),
        ({"mirrors": 3}, "mirrors must be 1 or 2"),
        ({"out_logs": np.ones((2, 74, 2, 16), "f4")}, r"logs must be \[2 P, C, 2, 16\]"),
        ({"out_logs": np.ones((1, 75, 2, 16), "f4")}, r"logs must be \[2 P, C, 2, 16\]"),
        ({"out_totals": np.ones((2, 1, 48, 16), "f4")}, r"totals must be \[2 P, mirrors, A, 16\]"),
        ({"out_totals": np.ones((2, 2, 48, 32), "f4")}, r"totals must be \[2 P, mirrors, A, 16\]"),
        ({"threads": 0}, "threads must be between 1 and 4096, got 0"),
    ],
)
@cpu_only
def test_errors(change, message):
    names = ("panels", "orders", "reference", "exposure")
    arguments = dict(zip(names, Problem(2, 3, 48).arguments(all_orders(3, 48)), strict=True))
    with pytest.raises((ValueError, InputError), match=message):
        polar_views(**{**arguments, **change})


@pytest.mark.parametrize("name", ["panels", "reference", "exposure"])
def test_arrays_of_another_type_are_not_converted(name):
    names = ("panels", "orders", "reference", "exposure")
    arguments = dict(zip(names, Problem(2, 3, 48).arguments(all_orders(3, 48)), strict=True))
    arguments[name] = arguments[name].astype(np.float64)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        polar_views(**arguments)

"""expand against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest
from columns import cpu_only, on_column
from test_ewald_slice import EPS, centrosymmetric, near_boundary, problem, slice_error

import spicore as sp
from spicore import _core, reference
from spicore.emc import kernels
from spicore.emc.kernels import LANES
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

expand = on_column(kernels.expand)
ewald_slice = on_column(sp.ewald_slice)

FAST_LOG = 4e-7  # relative error that elementary.hpp states (3e-7), and the rounding of a result
SIZES = [(1, 1), (2, 63), (31, 64), (32, 65), (33, 200), (70, 17)]  # orientations, rows


def unpacked(panels, n):
    """Tomograms [n, T] of panels [P, T, LANES]."""
    return panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])[:n]


def packed(tomograms):
    """Panels [P, T, LANES] of tomograms [R, T]; lanes past the last are 0."""
    n, n_rows = tomograms.shape
    n_panels = -(-n // LANES)
    lanes = np.zeros((n_panels * LANES, n_rows), np.float32)
    lanes[:n] = tomograms
    return np.ascontiguousarray(lanes.reshape(n_panels, LANES, n_rows).transpose(0, 2, 1))


def tile(size, n, n_rows, *, reach=0.7, seed=0):
    """A positive centrosymmetric volume, orientations, q [3, T], exposure and reference."""
    volume, quats, q = problem(size, n, n_rows, seed, reach)
    volume = centrosymmetric(np.abs(volume) + np.float32(0.1))
    rng = np.random.default_rng(seed)
    exposure = rng.uniform(0.5, 1.5, n_rows).astype(np.float32)
    log_mean = rng.normal(0.0, 1.0, n_rows).astype(np.float32)
    return volume, quats, np.ascontiguousarray(q.T), exposure, log_mean


def sure(quats, q, size):
    """Samples [R, T] that rounding cannot move into the volume or out of it."""
    return ~(near_boundary(quats, q.T, size) | near_boundary(quats, -q.T, size))


# --- against the reference


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("friedel", [False, True])
def test_linear_matches_reference(shape, friedel):
    volume, quats, q, exposure, _ = tile(17, *shape)
    panels, total = expand(volume, quats, q, exposure, friedel=friedel)
    want, want_total = reference.expand(volume, quats, q.T, exposure, None)
    assert panels.dtype == np.float32
    assert panels.shape == (-(-shape[0] // LANES), shape[1], LANES)
    # One more rounding for the exposure.
    error = slice_error(volume, q.T) * exposure.max() + EPS * np.abs(want)
    inside = sure(quats, q, 17)
    assert inside.mean() > 0.99
    assert (np.abs(unpacked(panels, shape[0]) - want) <= error)[inside].all()
    # Sums of 64 in float32 (63 roundings), the rest in float64.
    some = inside.all(axis=1)
    bound = (error + 63 * EPS * np.abs(want)).sum(axis=1)
    assert (np.abs(total - want_total) <= bound)[some].all()


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("friedel", [False, True])
def test_logarithm_matches_reference(shape, friedel):
    volume, quats, q, exposure, log_mean = tile(17, *shape)
    panels, total = expand(volume, quats, q, exposure, log_mean, friedel=friedel)
    want, want_total = reference.expand(volume, quats, q.T, exposure, log_mean)
    linear, _ = reference.expand(volume, quats, q.T, exposure, None)
    error = slice_error(volume, q.T) * exposure.max() + EPS * linear
    # The volume is at least 0.2 inside, so the relative error of W is that of a logarithm; 0
    # outside becomes log(1e-36), as the reference has it.
    smallest = np.where(linear > 0, linear, np.inf)
    log_error = error / smallest + FAST_LOG * np.abs(want + log_mean) + EPS * np.abs(want)
    inside = sure(quats, q, 17)
    assert (np.abs(unpacked(panels, shape[0]) - want) <= log_error)[inside].all()
    some = inside.all(axis=1)
    bound = (error + 63 * EPS * linear).sum(axis=1)
    assert (np.abs(total - want_total) <= bound)[some].all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("log", [False, True])
def test_empty(shape, log):
    volume, quats, q, exposure, log_mean = tile(5, *shape)
    panels, total = expand(volume, quats, q, exposure, log_mean if log else None)
    assert panels.shape == (-(-shape[0] // LANES), shape[1], LANES)
    np.testing.assert_array_equal(total, np.zeros(shape[0]))


# --- what must hold


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("n", [1, 31, 33])
def test_lanes_past_the_last_orientation_are_zero(n, log):
    volume, quats, q, exposure, log_mean = tile(9, n, 130)
    out = np.full((-(-n // LANES), 130, LANES), np.nan, np.float32)
    panels, _ = expand(volume, quats, q, exposure, log_mean if log else None, out=out)
    assert panels is out
    past = out[-1, :, n % LANES :]
    np.testing.assert_array_equal(past, np.zeros_like(past))
    assert np.isfinite(out).all()


def test_agrees_with_ewald_slice():
    volume, quats, q, exposure, _ = tile(17, 40, 300)
    panels, _ = expand(volume, quats, q, exposure)
    slices = ewald_slice(volume, quats, np.ascontiguousarray(q.T), friedel=True)
    np.testing.assert_allclose(unpacked(panels, 40), slices * exposure, rtol=2 * EPS)


def test_friedel_reads_only_the_upper_half():
    volume, quats, q, exposure, _ = tile(9, 4, 200)
    volume[:4] = 1e9
    folded, _ = expand(volume, quats, q, exposure, friedel=True)
    whole, _ = expand(volume, quats, q, exposure, friedel=False)
    assert folded.max() < 1e6 < whole.max()


def test_total_is_the_same_with_and_without_the_logarithm():
    volume, quats, q, exposure, log_mean = tile(17, 33, 500)
    _, linear = expand(volume, quats, q, exposure)
    _, log = expand(volume, quats, q, exposure, log_mean)
    np.testing.assert_allclose(log, linear, rtol=1e-6)  # 63 roundings at the most: 4e-6


def test_outside_is_zero_and_its_logarithm_finite():
    volume, quats, q, exposure, _ = tile(9, 3, 100)
    q[:, ::2] *= 100
    q[0, 0] = np.nan
    zero = np.zeros(100, np.float32)
    linear = unpacked(expand(volume, quats, q, exposure)[0], 3)
    log = unpacked(expand(volume, quats, q, exposure, zero)[0], 3)
    np.testing.assert_array_equal(linear[:, ::2], 0.0)
    np.testing.assert_allclose(log[:, ::2], np.log(1e-36), rtol=1e-6)


def test_zero_intensity_has_a_finite_logarithm():
    volume, quats, q, exposure, log_mean = tile(9, 3, 100, reach=0.2)
    log, total = expand(np.zeros_like(volume), quats, q, exposure, log_mean)
    np.testing.assert_allclose(unpacked(log, 3) + log_mean, np.log(1e-36), rtol=1e-6)
    np.testing.assert_array_equal(total, np.zeros(3))


def test_control_of_other_rotations():
    volume, quats, q, exposure, _ = tile(17, 33, 200, reach=0.25)
    panels, _ = expand(volume, sp.orientations.conjugate(quats), q, exposure)
    want, _ = reference.expand(volume, quats, q.T, exposure, None)
    error = slice_error(volume, q.T) * exposure.max() + EPS * np.abs(want)
    assert (np.abs(unpacked(panels, 33) - want) > 100 * error).mean() > 0.9


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape", [(33, 130), (100, 999)])
@cpu_only
def test_threads_do_not_change_a_bit(shape, log):
    volume, quats, q, exposure, log_mean = tile(17, *shape)
    one, *others = (
        expand(volume, quats, q, exposure, log_mean if log else None, threads=n) for n in (1, 2, 3)
    )
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_tile_is_its_orientations_one_by_one():
    volume, quats, q, exposure, log_mean = tile(17, 40, 333)
    whole, total = expand(volume, quats, q, exposure, log_mean)
    for r in (0, 5, 31, 32, 39):
        single, one_total = expand(volume, quats[r : r + 1], q, exposure, log_mean)
        np.testing.assert_array_equal(unpacked(single, 1)[0], unpacked(whole, 40)[r])
        assert one_total[0] == total[r]


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": np.ones((4, 4, 4))}, "volume must be cubic with an odd edge, got"),
        ({"volume": np.ones((5, 5, 3))}, "volume must be cubic with an odd edge, got"),
        ({"volume": np.ones((5, 5))}, r"volume must have shape \[any, any, any\], got \[5, 5\]"),
        ({"quats": np.ones((2, 3))}, r"quats must have shape \[any, 4\], got \[2, 3\]"),
        ({"quats": np.full((2, 4), 0.6)}, "quats must have unit norm to 1e-4"),
        ({"quats": np.full((2, 4), np.nan)}, "quats must be finite, got 8 NaN"),
        ({"q": np.zeros((7, 3))}, r"q must have shape \[3, any\], got \[7, 3\]"),
        ({"exposure": np.ones(6)}, r"exposure must have shape \[7\], got \[6\]"),
        ({"exposure": "bright"}, "exposure must be an array of float32"),
        ({"reference": np.ones(8)}, r"reference must have shape \[7\], got \[8\]"),
        ({"out": np.ones((1, 7, 16), "f4")}, r"out must have shape \[1, 7, 32\], got \[1, 7, 16\]"),
        ({"threads": 0}, "threads must be between 1 and 4096, got 0"),
    ],
)
@cpu_only
def test_errors(change, message):
    volume, quats, q, exposure, _ = tile(5, 2, 7)
    arguments = {"volume": volume, "quats": quats, "q": q, "exposure": exposure, **change}
    with pytest.raises(InputError, match=message):
        expand(**arguments)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.ones((5, 5, 4), "f4"), "volume must be cubic"),
        (1, np.ones((2, 3)), r"quats \[R, 4\], q \[3, T\]"),
        (2, np.ones((2, 7), "f4"), r"quats \[R, 4\], q \[3, T\]"),
        (3, np.ones(6, "f4"), "exposure, reference and q must agree in T"),
        (4, np.ones(6, "f4"), "exposure, reference and q must agree in T"),
        (7, np.ones((2, 7, LANES), "f4"), r"out must be \[panels, T, lanes\], total \[R\]"),
        (8, np.ones(3), r"out must be \[panels, T, lanes\], total \[R\]"),
    ],
)
@cpu_only
def test_the_module_guards_itself(place, value, message):
    """What the function above cannot pass on; the kernel would read beyond the arrays."""
    volume, quats, q, exposure, log_mean = tile(5, 2, 7)
    arguments = [volume, quats, q, exposure, log_mean, True, True,
                 np.empty((1, 7, LANES), np.float32), np.empty(2), 1]  # fmt: skip
    _core.expand(*arguments)
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        _core.expand(*arguments)


@pytest.mark.parametrize(
    "out",
    [np.empty((1, 7, LANES)), np.empty((1, 7, 2 * LANES), np.float32)[:, :, ::2]],
    ids=["float64", "strided"],
)
@cpu_only
def test_out_of_another_type_or_layout_is_refused(out):
    volume, quats, q, exposure, _ = tile(5, 2, 7)
    with pytest.raises((InputError, TypeError), match=r"out must|incompatible function arguments"):
        expand(volume, quats, q, exposure, out=out)

"""PRTF, FSC, modes, and what a missing centre leaves open."""

from __future__ import annotations

import numpy as np
import pytest

from spicore.phasing import frequencies, trust
from spicore.phasing.supports import ball

SHAPE = (20, 21)
ALL = np.ones(SHAPE, bool)


def unrelated(n, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).standard_normal((n, *shape))


def test_prtf_of_equal_and_of_unrelated_objects():
    x = unrelated(1)
    radius, curve = trust.prtf(np.repeat(x, 5, axis=0), ALL)
    np.testing.assert_allclose(curve, 1.0)
    assert radius.tolist() == list(range(11))
    _, chance = trust.prtf(unrelated(64), ALL)
    assert chance[2:].mean() == pytest.approx(0.886 / 8, rel=0.1)


def test_curves_leave_out_what_was_not_measured():
    measured = frequencies.radius(SHAPE) > 2.5
    objects = unrelated(4)
    for curve in (trust.prtf(objects, measured)[1], trust.fsc(*objects[:2], measured)[1]):
        assert np.isnan(curve[:3]).all()
        assert np.isfinite(curve[3:]).all()


def test_fsc():
    x, noise = unrelated(2)
    np.testing.assert_allclose(trust.fsc(x, x)[1], 1.0)
    np.testing.assert_allclose(trust.fsc(x, -2 * x)[1], -1.0)
    assert np.abs(trust.fsc(x, noise)[1][3:]).mean() < 0.25
    both = trust.fsc(x + noise, x - noise)[1][3:]
    assert np.abs(both).mean() < 0.35  # equal powers: no correlation


@pytest.mark.parametrize("kind", [float, complex])
def test_modes(kind):
    objects = unrelated(6).astype(kind)
    if kind is complex:
        objects = objects + 1j * unrelated(6, seed=1)
    modes, weights = trust.decompose(objects, 6)
    flat = objects.reshape(6, -1)
    singular = np.linalg.svd(flat, compute_uv=False)
    np.testing.assert_allclose(weights, singular**2 / (singular**2).sum(), atol=1e-12)
    gram = np.einsum("ix,jx->ij", modes.reshape(6, -1).conj(), modes.reshape(6, -1))
    np.testing.assert_allclose(gram, np.diag(singular**2 / 6), atol=1e-9 * singular[0] ** 2)
    same, weights = trust.decompose(np.repeat(objects[:1], 4, axis=0))
    assert weights[0] == pytest.approx(1.0)
    np.testing.assert_allclose(same[0], objects[0], atol=1e-9)


def hole(radius, shape=SHAPE):
    return frequencies.radius(shape) >= radius


def test_missing_centre_is_not_the_corners():
    measured = hole(2.5) & (frequencies.radius(SHAPE) < 9)
    centre = trust.missing_centre(measured)
    assert (centre == (frequencies.radius(SHAPE) < 2.5)).all()
    assert not trust.missing_centre(ALL).any()


def test_undetermined_modes_are_those_of_the_dense_operator():
    measured, support = hole(2.5), ball(SHAPE, 9.0)
    n = support.size
    columns = np.fft.fftn(np.eye(n).reshape(n, *SHAPE), axes=(1, 2)).reshape(n, n).T / np.sqrt(n)
    cut = columns.conj().T @ (~measured.ravel()[:, None] * columns)
    cut = cut[np.ix_(support.ravel(), support.ravel())]
    power, vectors = np.linalg.eigh(cut)
    objects = np.where(support, unrelated(5), 0)
    found = trust.undetermined(objects, support, measured)
    k = len(found.missing)
    np.testing.assert_allclose(found.missing, power[::-1][:k], atol=1e-9)
    assert found.n_modes == (power > trust.FREE_MODE).sum() > 0
    first = vectors[:, -1]
    along = objects[:, support] @ first.conj()
    assert found.value[0] == pytest.approx(abs(along.mean()), rel=1e-6)
    assert found.spread[0] == pytest.approx(along.std(), rel=1e-6)
    constant = support[support] / np.sqrt(support.sum())
    share = (np.abs(constant @ vectors[:, power > trust.FREE_MODE]) ** 2).sum()
    assert found.charge_free == pytest.approx(share, rel=1e-6)


def test_a_free_mode_changes_no_measured_value():
    """The negative of it: with a smaller hole the same change shows."""
    support = ball(SHAPE, 7.0)
    found = trust.undetermined(np.where(support, 1.0, 0)[None], support, hole(4.5))
    assert found.missing[0] > 0.99
    f = np.abs(np.fft.fftn(support.astype(float))) ** 2
    assert f[hole(4.5)].sum() / f.sum() < 0.2
    assert trust.undetermined(np.where(support, 1.0, 0)[None], support, hole(0.5)).missing[0] < 0.5


def test_charge():
    objects = np.zeros((2, *SHAPE))
    objects[:, 0, 0] = 9.1, 10.9
    support = ball(SHAPE, 5.0)
    found = trust.undetermined(objects, support, ALL)
    assert found.charge == pytest.approx(10.0)
    assert found.charge_spread == pytest.approx(0.09)
    assert found.charge_measured
    assert found.n_modes == 0
    assert found.missing.size == 0
    assert not found.charge_is_open
    hidden = trust.undetermined(objects, support, hole(1.5))
    assert not hidden.charge_measured
    assert not hidden.charge_is_open  # a small support holds it: 9 % spread, no free mode
    apart = trust.undetermined(objects * np.array([1.0, 2.0])[:, None, None], support, hole(1.5))
    assert apart.charge_is_open


def test_a_large_centre_is_left_alone():
    shape = (80, 80)
    support = ball(shape, 20.0)
    objects = np.where(support, unrelated(2, shape), 0)
    found = trust.undetermined(objects, support, hole(30.0, shape))
    assert np.isnan(found.n_modes)
    assert found.radius[-1] == 30


def test_r_factor():
    amplitude = np.full(SHAPE, 2.0)
    assert trust.r_factor(amplitude**2, amplitude, ALL) == 0
    assert trust.r_factor(np.full(SHAPE, 9.0), amplitude, ALL) == pytest.approx(0.5)

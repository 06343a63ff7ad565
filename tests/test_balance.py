"""The prior that keeps orientations uniform: what it measures, and that it pulls back."""

from __future__ import annotations

import numpy as np
import pytest

from spicore import orientations
from spicore.emc.polar.balance import Balance, directions

TENSOR = np.array([[0.3, 0.1, 0.0], [0.1, -0.2, 0.05], [0.0, 0.05, -0.1]])


@pytest.fixture(scope="module")
def views():
    return orientations.view_pairs(400)[0]


def balance(group="C1"):
    return Balance(orientations.point_group(group))


def density(views, tensor):
    n = directions(views)
    return 1.0 + np.einsum("vi,ij,vj->v", n, tensor, n)


def test_measures_a_quadrupole(views):
    b = balance()
    b.measure(views, 7.0 * density(views, TENSOR))
    np.testing.assert_allclose(b.quadrupole, TENSOR, atol=0.01)
    want = (density(views, TENSOR) - 1.0).std()
    assert b.imbalance == pytest.approx(want, rel=0.03)


def test_a_uniform_occupancy_has_none(views):
    b = balance()
    b.measure(views, np.ones(len(views)))
    assert b.imbalance < 0.005


def test_views_stand_for_their_opposites(views):
    b, turned = balance(), balance()
    half_turn = np.array([0.0, 0.0, 1.0, 0.0])  # about y: the beam turns round
    b.measure(views, density(views, TENSOR))
    turned.measure(orientations.multiply(views, half_turn), density(views, TENSOR))
    np.testing.assert_allclose(turned.quadrupole, b.quadrupole, atol=1e-12)


def test_symmetric_particles_show_what_their_symmetry_allows():
    """A cell of views stands for all of its images: no quadrupole is left of a cube's."""
    for group, allowed in (("D5", True), ("O", False)):
        views, _ = orientations.view_pairs(4000, group)
        b = balance(group)
        b.measure(views, density(views, np.diag([-0.2, -0.2, 0.4])))
        axial = np.diag(np.diag(b.quadrupole))
        np.testing.assert_allclose(b.quadrupole, axial, atol=1e-3)
        assert (b.imbalance > 0.1) == allowed


def test_weights_oppose_the_quadrupole(views):
    b = balance()
    for beta in (0.01, 1.0):
        b.measure(views, density(views, TENSOR))
        b.tensor = np.zeros((3, 3))
        b.correct(beta, 10**9)
        weights = b.weights(views, beta)
        assert weights.sum() == pytest.approx(1.0)
        # A first step undoes it to first order, whatever beta.
        b.measure(views, density(views, TENSOR) * weights)
        assert b.imbalance < 0.15 * np.sqrt(2.0 / 15.0) * np.linalg.norm(TENSOR)


def test_without_correction_weights_are_equal(views):
    np.testing.assert_allclose(balance().weights(views, 0.5), 1.0 / len(views))


def test_chance_is_left_alone():
    """The quadrupole of uniform frames passes for chance two times in three, or nearly does."""
    rng = np.random.default_rng(3)
    norms = []
    for _ in range(100):
        b = balance()
        b.measure(orientations.random(500, rng), np.ones(500))
        b.correct(1.0, 500)
        norms.append(np.linalg.norm(b.tensor) / np.linalg.norm(b.quadrupole))
    assert np.mean(norms) < 0.3
    crowded = balance()
    q = orientations.random(20_000, rng)
    crowded.measure(q, density(q, TENSOR))
    crowded.correct(1.0, 20_000)
    assert np.linalg.norm(crowded.tensor) > 0.9 * np.linalg.norm(crowded.quadrupole)


def test_corrections_add_up(views):
    b = balance()
    b.measure(views, density(views, TENSOR))
    b.correct(0.5, 10**9)
    once = b.tensor.copy()
    b.correct(0.5, 10**9)
    np.testing.assert_allclose(b.tensor, 2 * once)
    assert np.trace(b.tensor) == pytest.approx(0.0, abs=1e-9)

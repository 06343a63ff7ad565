"""Alignment of objects that have the same intensity."""

from __future__ import annotations

import numpy as np
import pytest

from spicore.errors import InputError
from spicore.phasing import align
from spicore.phasing.align import _wave, inverse, like, moved


def an_object(shape, real=True, seed=0):
    """A smooth object of some extent, without symmetry."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.fft.fftfreq(n) * n for n in shape), indexing="ij")
    x = np.zeros(shape, float if real else complex)
    for _ in range(12):
        centre = rng.uniform(-0.15, 0.15, len(shape)) * shape
        weight = rng.uniform(0.5, 1.5)
        blob = np.exp(-sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) / 8)
        x = x + weight * blob * (1 if real else np.exp(1j * rng.uniform(-2, 2)))
    return x


CASES = [((40, 41), True), ((40, 41), False), ((24, 26, 27), True), ((24, 26, 27), False)]


@pytest.mark.parametrize(("shape", "real"), CASES)
@pytest.mark.parametrize("inverted", [False, True])
def test_finds_what_was_done(shape, real, inverted):
    x = an_object(shape, real)
    shift = np.array([3.27, -5.61, 1.4])[: len(shape)]
    other = moved(inverse(x) if inverted else x, shift)
    if not real:
        ramp = np.array([0.31, -0.22, 0.4])[: len(shape)]
        other = other * _wave(shape, ramp) * np.exp(0.7j)
    aligned, alignment = align(other, x)
    assert alignment.inverted == inverted
    assert alignment.correlation > 0.999
    tolerance = 0.01 if real else 0.02
    assert np.linalg.norm(aligned - x) < tolerance * np.linalg.norm(x)


def test_scale_only_on_request():
    x = an_object((30, 30))
    aligned, alignment = align(0.25 * x, x, scale=True)
    assert alignment.scale == pytest.approx(4.0)
    np.testing.assert_allclose(aligned, x, atol=1e-6)
    assert align(0.25 * x, x)[1].scale == 1.0


def test_control_other_objects_do_not_agree():
    x = an_object((40, 40))
    other = np.random.default_rng(1).permutation(an_object((40, 40), seed=1).ravel())
    assert align(other.reshape(40, 40), x)[1].correlation < 0.6
    with_itself = align(moved(x, np.array([0.5, 2.5])), x)[1].correlation
    assert with_itself > 0.999


def test_supports_follow():
    support = np.zeros((20, 20), bool)
    support[1:4, 2:9] = True
    rng = np.random.default_rng(0)
    x = np.where(support, rng.uniform(1, 2, support.shape), 0)
    other = np.roll(inverse(x), (5, -3), (0, 1))
    _, alignment = align(other, x)
    assert (like(other != 0, alignment) == support).all()


def test_integer_moves_are_exact():
    x = an_object((9, 8)).astype(np.float32)
    assert (moved(x, np.array([2.0, -1.0])) == np.roll(x, (2, -1), (0, 1))).all()
    assert moved(x, np.array([0.5, 0.0])).dtype == np.float32


def test_bad_input():
    x = an_object((8, 8))
    with pytest.raises(InputError, match=r"moving must be like reference, float64 \[8, 8\], got"):
        align(x[1:], x)
    with pytest.raises(InputError, match="got complex128"):
        align(x + 0j, x)
    with pytest.raises(InputError, match="moving must be finite and not 0 everywhere"):
        align(0 * x, x)

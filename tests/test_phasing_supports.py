"""The first support and shrink-wrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from spicore.errors import InputError
from spicore.phasing import frequencies
from spicore.phasing.pattern import prepare
from spicore.phasing.supports import (
    autocorrelation_support,
    ball,
    blur,
    filled_intensity,
    half_of,
    shrink_wrap,
)  # fmt: skip

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(16, 21), (8, 9, 10)])
@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_blur_is_a_periodic_gaussian(shape, sigma):
    values = RNG.uniform(0, 1, (3, *shape))
    expected = [ndimage.gaussian_filter(v, sigma, mode="wrap", truncate=8) for v in values]
    np.testing.assert_allclose(blur(values, sigma), expected, atol=1e-9)
    assert (blur(values, sigma, threads=3) == blur(values, sigma)).all()
    assert (blur(values, 0.0) == values).all()
    assert blur(values.astype(np.float32), sigma).dtype == np.float32


def objects(shape=(24, 20)):
    values = np.zeros((2, *shape), np.float32)
    values[0, 2:8, 3:9] = RNG.uniform(1, 2, (6, 6))
    values[1, 10:12, 3:5] = 1.0
    return values


def test_kinds_of_thresholds():
    values = objects()
    everywhere = np.ones(values.shape, bool)
    found = shrink_wrap(values, everywhere, "max", [0.5, 0.5], sigma=0.0)
    assert (found[0] == (values[0] > 0.5 * values[0].max())).all()
    found = shrink_wrap(values, values > 0, "rms", [0.9, 0.9], sigma=0.0)
    rms = np.sqrt((values[0][values[0] > 0] ** 2).mean())
    assert (found[0] == (values[0] > 0.9 * rms)).all()
    assert (found[1] == (values[1] > 0)).all()
    found = shrink_wrap(values, everywhere, "volume", [0.03, 0.1], sigma=0.0)
    assert found.sum(axis=(1, 2)).tolist() == [round(0.03 * 480), 48]  # ties in the second
    assert values[0][found[0]].min() >= values[0][~found[0]].max()


def test_bound_and_blur():
    values = objects()
    bound = np.zeros(values.shape[1:], bool)
    bound[:6] = True
    everywhere = np.ones(values.shape, bool)
    found = shrink_wrap(values, everywhere, "max", [0.1, 0.1], sigma=2.0, bound=bound)
    assert not found[:, ~bound].any()
    assert found[0].any()
    wide = shrink_wrap(values, everywhere, "max", [0.1, 0.1], sigma=2.0)
    assert wide[1].sum() > (values[1] > 0).sum()
    inside = shrink_wrap(values, everywhere, "volume", [1.0, 1.0], sigma=0.0, bound=bound)
    assert (inside == bound).all()


def test_autocorrelation_holds_the_object_and_filled_centre():
    x = np.zeros((48, 48))
    x[:9, :7] = RNG.uniform(0.5, 1, (9, 7))
    intensity = np.abs(np.fft.fftn(x)) ** 2
    support = autocorrelation_support(intensity, [0.02, 0.2])
    assert support[:, 0, 0].all()
    assert support[0].sum() > support[1].sum()
    assert support[0, :7, :5].all()
    assert not support[0, 14:-14].any()
    shuffled = RNG.permutation(intensity.ravel()).reshape(intensity.shape)
    assert autocorrelation_support(shuffled, [0.02])[0, 14:-14].any()  # control: no extent
    hidden = np.fft.fftshift(np.where(frequencies.radius(x.shape) < 3, np.nan, intensity))
    filled = filled_intensity(prepare(hidden))
    assert filled[0, 0] > filled[3:5, 0].max()
    assert filled[0, 0] < 10 * intensity[0, 0]


def test_ball():
    found = np.fft.fftshift(ball((9, 10), 5.0))
    assert found.sum() == 21  # points within 2.5 of the origin
    assert found[4, 5]
    with pytest.raises(InputError, match=r"diameter must be at most the 9 voxels .* got 12"):
        ball((9, 10), 12.0)


def test_half_of():
    support = np.repeat(ball((16, 16), 8.0)[None], 2, axis=0)
    half = half_of(support, np.array([0, 1]))
    for h in half:
        assert 0.4 < h.sum() / support[0].sum() < 0.65
    assert (half[1] == half[0].T).all()
    assert (half <= support).all()


def test_bad_input():
    values = objects()
    with pytest.raises(InputError, match="kind must be one of max, rms, volume, got 'best'"):
        shrink_wrap(values, values > 0, "best", [1, 1], sigma=1.0)
    with pytest.raises(InputError, match=r"support must have shape \[2, 24, 20\], got \[24, 20\]"):
        shrink_wrap(values, values[0] > 0, "max", [1, 1], sigma=1.0)
    with pytest.raises(InputError, match=r"thresholds must have shape \[2\], got \[1\]"):
        shrink_wrap(values, values > 0, "max", [1], sigma=1.0)

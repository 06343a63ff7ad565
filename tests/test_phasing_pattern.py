"""What phase retrieval makes of an intensity, voxels held out, and likelihoods."""

from __future__ import annotations

import numpy as np
import pytest

from spicore.errors import InputError
from spicore.phasing import frequencies
from spicore.phasing.pattern import CENTRE, free_voxels, prepare

RNG = np.random.default_rng(0)


def fft_order(x):
    return np.fft.ifftshift(x)


@pytest.mark.parametrize("shape", [(9, 12), (7, 8, 9)])
def test_what_counts_as_measured(shape):
    values = RNG.uniform(1, 2, shape)
    values.flat[:4] = np.nan, -1.0, np.inf, 0.0
    mask = np.ones(shape, bool)
    mask.flat[5] = False
    weight = np.ones(shape)
    weight.flat[6] = 0.0
    pattern = prepare(values, weight=weight, mask=mask, real=False, free_fraction=0)
    expected = np.ones(values.size, bool)
    expected[[0, 1, 2, 5, 6]] = False
    assert (pattern.measured == fft_order(expected.reshape(shape))).all()
    assert pattern.likelihood == "poisson"


def test_origin_and_average_of_q_and_minus_q():
    shape = (8, 9)
    values, weight = RNG.uniform(1, 2, shape), RNG.uniform(1, 3, shape)
    values[4, 4] = 100.0  # the origin, n // 2
    weight[6, 5] = 0.0  # then the value at -q is taken
    pattern = prepare(values, weight=weight, real=True, free_fraction=0)
    assert pattern.intensity[0, 0] == pytest.approx(100.0)
    assert pattern.intensity[2, 1] == pytest.approx(values[2, 3])
    a, b = (5, 4), (3, 4)
    mean = (values[a] * weight[a] + values[b] * weight[b]) / (weight[a] + weight[b])
    assert pattern.intensity[1, 0] == pytest.approx(mean)
    assert pattern.precision[-1, 0] == pytest.approx(weight[a] + weight[b])


def test_crop_keeps_the_origin():
    values = RNG.uniform(1, 2, (10, 11, 7))
    values[5, 5, 3] = 50.0
    pattern = prepare(values, real=False, size=6, free_fraction=0)
    assert pattern.shape == (6, 6, 6)
    assert pattern.intensity[0, 0, 0] == 50.0


def test_likelihood_follows_what_is_known():
    counts = RNG.poisson(3.0, (8, 8)).astype(float)
    assert prepare(counts).likelihood == "poisson"
    assert prepare(counts + 0.5).likelihood == "amplitude"
    assert prepare(counts, sigma=np.ones((8, 8))).likelihood == "gauss"


@pytest.mark.parametrize("kind", ["poisson", "gauss", "amplitude"])
def test_llk_is_smallest_for_the_truth(kind):
    truth = RNG.uniform(2, 40, (32, 32))
    options = {}
    if kind == "poisson":
        measured = RNG.poisson(truth).astype(float)
    else:
        measured = np.abs(truth + RNG.normal(0, 2.0, truth.shape))
    if kind == "gauss":
        options["sigma"] = np.full(truth.shape, 2.0)
    pattern = prepare(measured, real=False, free_fraction=0, **options)
    assert pattern.likelihood == kind
    truth, where = fft_order(truth), pattern.measured
    assert pattern.llk(pattern.intensity, where) == pytest.approx(0, abs=0.03)
    right = pattern.llk(truth, where)
    if kind != "amplitude":
        assert right == pytest.approx(0.5, abs=0.08)  # half a degree of freedom per voxel
    assert pattern.llk(1.2 * truth, where) > right
    assert pattern.llk(RNG.permutation(truth.ravel()).reshape(truth.shape), where) > 5 * right


@pytest.mark.parametrize("shape", [(64, 65), (24, 25, 26)])
@pytest.mark.parametrize("real", [True, False])
def test_free_voxels(shape, real):
    measured = frequencies.radius(shape) < 0.5 * min(shape)
    free = free_voxels(measured, 0.05, 3, real=real)
    assert free.sum() == pytest.approx(0.05 * measured.sum(), rel=0.2)
    assert not (free & ~measured).any()
    assert frequencies.radius(shape)[free].min() > CENTRE * min(shape)
    assert (free == free_voxels(measured, 0.05, 3, real=real)).all()
    assert (free != free_voxels(measured, 0.05, 4, real=real)).any()
    if real:
        assert (free == frequencies.mirrored(free)).all()


def test_limit_beyond_the_last_shell():
    values = np.ones((16, 16)) * 4.0
    shifted = np.fft.fftshift(frequencies.radius((16, 16)))
    values[shifted > 7] = np.nan
    values[8, 8] = np.nan  # a missing centre stays free
    measured = prepare(values, free_fraction=0).to_measured()
    assert np.isinf(measured.limit[0, 0])
    corner = measured.limit[8, 8]
    assert 0 < corner < 2.0
    assert prepare(np.ones((16, 16))).to_measured().limit is None


ONES = np.ones((8, 8))
BAD = {
    "NaN": (lambda: prepare(ONES * np.nan), "intensity must be above 0 in some .* got 0 measured"),
    "negative": (lambda: prepare(-ONES), "intensity must be above 0 .* got 0 measured"),
    "zero": (lambda: prepare(0 * ONES), "intensity must be above 0 .* got 64 measured voxels, all"),
    "masked": (lambda: prepare(ONES, mask=ONES < 0), "mask must be True where measured, got False"),
    "axes": (lambda: prepare(np.ones(8)), r"intensity must have 2 or 3 axes .* got shape \[8\]"),
    "complex": (lambda: prepare(ONES * 1j), "intensity must be real numbers, got complex128"),
    "words": (lambda: prepare([["a", "b"]] * 2), "intensity must be real numbers, got <U1"),
    "mask": (
        lambda: prepare(ONES, mask=ONES[1:] > 0),
        r"mask must have shape \[8, 8\], got \[7, 8",
    ),
    "weight": (lambda: prepare(ONES, weight=-ONES), "weight must be finite and at least 0, got 64"),
    "sigma": (lambda: prepare(ONES, sigma=ONES[1:]), r"sigma must have shape \[8, 8\]"),
    "both": (lambda: prepare(ONES, sigma=ONES, weight=ONES), "weight and sigma must not both"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind):
    call, text = BAD[kind]
    with pytest.raises(InputError, match=text):
        call()

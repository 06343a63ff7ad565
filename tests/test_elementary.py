"""The logarithm and exponential inside the kernels, reached through expand and posterior."""

from __future__ import annotations

import numpy as np
import pytest
from columns import CPU
from test_ewald_slice import EPS
from test_expand import unpacked

from spicore import _core
from spicore.emc.kernels import expand, posterior

pytestmark = [
    pytest.mark.usefixtures("column"),
    pytest.mark.parametrize("column", CPU, indirect=True),
]

TINY = np.float32(1e-36)
STATED = 3e-7  # relative error of both, from elementary.hpp


def fast_log(x):
    """A volume of ones at q = 0 is exactly 1, so `exposure` is what the logarithm is taken of."""
    x = np.asarray(x, np.float32)
    zero = np.zeros_like(x)
    panels, _ = expand(
        np.ones((3, 3, 3)), [[1.0, 0, 0, 0]], np.zeros((3, len(x))), x, reference=zero
    )
    return unpacked(panels, 1)[0]


def fast_exp(x):
    """Two orientations with log-likelihoods 0 and x: the ratio of their probabilities."""
    ll = np.stack([np.zeros_like(x), x], axis=1).astype(np.float32)
    one = np.ones(len(x), np.float32)
    posterior(ll, one, np.zeros(2, np.float32), np.zeros(2), cut=200.0)
    return ll[:, 1].astype(np.float64) / ll[:, 0]


def log_samples():
    """All exponents, mantissas around the seams of the reduction, and neighbours of 1."""
    rng = np.random.default_rng(0)
    wide = np.exp2(rng.uniform(np.log2(TINY) + 1e-6, 127.99, 200_000)).astype(np.float32)
    seams = np.float32([0.5, np.sqrt(0.5), 1.0, np.sqrt(2.0), 2.0, TINY, 3.4e38])
    bits = seams.view(np.int32)[:, None] + np.arange(-500, 501)
    near = bits.astype(np.int32).view(np.float32).ravel()
    return np.concatenate([wide, near[np.isfinite(near) & (near >= TINY)]])


def test_log_is_as_accurate_as_stated():
    x = log_samples()
    want = np.log(x.astype(np.float64))
    error = np.abs(fast_log(x) - want)
    assert (error <= STATED * np.abs(want)).all()
    # The control: the next float is further away than the bound almost everywhere.
    wide = np.abs(want) > 1
    shifted = np.abs(fast_log(x * np.float32(1 + 1e-5)) - want)
    assert (shifted > STATED * np.abs(want))[wide & (np.abs(want) < 10) & (x < 1e38)].all()


def test_log_of_one_is_zero():
    np.testing.assert_array_equal(fast_log(np.ones(67)), np.zeros(67))


def test_log_is_monotonic_where_it_matters():
    """Never falls by more than its own rounding from one float to the next."""
    x = np.sort(log_samples())
    y = fast_log(x).astype(np.float64)
    assert (np.diff(y) >= -2 * STATED * np.maximum(np.abs(y[1:]), EPS)).all()


@pytest.mark.parametrize("x", [0.0, -0.0, 1e-37, 1e-40, -1.0, -np.inf, np.nan])
def test_log_of_what_has_none_is_that_of_tiny(x):
    for n in (1, 64, 65):  # vector loop and its remainder
        np.testing.assert_allclose(fast_log(np.full(n, x)), np.log(1e-36), rtol=STATED)


def test_exp_is_as_accurate_as_stated():
    rng = np.random.default_rng(1)
    seams = -np.log(2.0) * np.arange(0.0, 124.0, 0.5)  # where the reduction changes its exponent
    near = (seams[:, None] + np.linspace(-1e-5, 1e-5, 21)).ravel()
    # Above -86 no probability is subnormal, which would cost bits.
    x = np.concatenate([rng.uniform(-86.0, 0.0, 50_000), near, [0.0, -0.0]])
    x = np.minimum(x, 0.0).astype(np.float32)
    x = x[x > -86.0]
    want = np.exp(x.astype(np.float64))
    # Two more roundings: both probabilities are scaled by 1 / norm.
    assert (np.abs(fast_exp(x) / want - 1.0) <= STATED + 2 * EPS).all()


def test_exp_far_below_is_zero():
    x = np.float32([-87.1, -88.0, -100.0, -199.0, -1e4, -1e30, -np.inf])
    np.testing.assert_array_equal(fast_exp(x), np.zeros(7))


def test_instruction_sets_with_fma_agree_bit_for_bit(column):
    """elementary.hpp promises it; the baseline has no fused multiply-add and may differ."""
    if column.name == "baseline":
        pytest.skip("the baseline has no fused multiply-add")
    x = log_samples()
    y = np.linspace(-86.0, 0.0, 10_007, dtype=np.float32)
    here = fast_log(x), fast_exp(y)
    _core.set_simd("avx2")
    for a, b in zip(here, (fast_log(x), fast_exp(y)), strict=True):
        np.testing.assert_array_equal(a, b)

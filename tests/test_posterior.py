"""posterior against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest
from columns import Column, cpu_only
from test_elementary import STATED
from test_ewald_slice import EPS

from spicore import _core, reference
from spicore.emc import kernels
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

# Frames and orientations: one, around 16 and 64 of a block, several blocks.
SIZES = [(1, 1), (3, 2), (5, 63), (17, 64), (16, 65), (33, 130), (4, 3240)]


def problem(n_frames, n, seed=0, spread=30.0):
    """Log-likelihoods of thousands, of which a few orientations of each frame matter."""
    rng = np.random.default_rng(seed)
    ll = rng.normal(-3000.0, 500.0, (n_frames, 1)) - rng.gamma(2.0, spread, (n_frames, n))
    prior = rng.uniform(0.5, 1.5, n)
    return {
        "ll": ll.astype(np.float32),
        "beta": rng.uniform(0.02, 1.0, n_frames).astype(np.float32),
        "log_prior": np.log(prior / prior.sum()).astype(np.float32),
        "total": rng.uniform(500.0, 1500.0, n),
        "prior_power": rng.uniform(0.0, 1.0, n_frames).astype(np.float32),
    }


def run(arguments, **options):
    column = Column.current
    there = {name: column.to(x) for name, x in arguments.items() if name != "ll"}
    p = column.to(arguments["ll"].copy())
    result = kernels.posterior(p, **there, **options)
    return column.back(p), column.back(result)


def check(arguments, cut=14.0, **options):
    """Compare with the reference, every number with its own bound; return P."""
    arguments = dict(arguments)
    n_frames = len(arguments["ll"])
    p, got = run(arguments, cut=cut, **options)
    if arguments.get("prior_power") is None:
        arguments["prior_power"] = np.ones(n_frames, np.float32)
    exact = {k: v.astype(np.float64) for k, v in arguments.items()}
    want = reference.posterior(**exact, cut=cut)

    ll, log_prior = exact["ll"], exact["log_prior"]
    parts = [exact["beta"][:, None] * ll, exact["prior_power"][:, None] * log_prior]
    s = sum(parts)
    size = sum(map(np.abs, parts))
    kept = want["p"] > 0
    # s is two products, their sum and the difference to the largest s, which has the same error.
    rounded = 3 * EPS * (size + np.take_along_axis(size, s.argmax(1)[:, None], 1))
    # P: its own error and that of the norm, each with an exponential; scaling rounds twice.
    largest = np.where(kept, rounded, 0.0).max(axis=1, keepdims=True)
    relative = np.expm1(rounded + largest) + 2 * STATED + 2 * EPS
    below = s - s.max(axis=1, keepdims=True)
    at_cut = np.abs(below + cut) <= rounded  # may be kept by one and dropped by the other
    error = np.where(kept, relative, 0.0) * want["p"] + at_cut * np.exp(-cut)
    assert (np.abs(p - want["p"]) <= error).all()
    assert np.abs(p.sum(axis=1, dtype=np.float64) - 1).max(initial=0) <= 4 * EPS

    best = np.take_along_axis(s, got.best[:, None], 1)[:, 0]
    assert (s.max(axis=1) - best <= 2 * rounded.max(axis=1)).all()
    information = np.log(np.where(kept, want["p"], 1.0)) - log_prior
    for name, values, extra in (
        ("expected_ll", ll, 0.0),
        ("expected_total", exact["total"], 0.0),
        # log P is s - log norm, with the error of s; the prior is normalised in float64
        ("information", information, largest[:, 0] + STATED),
    ):
        bound = (error * np.abs(values)).sum(axis=1) + extra + 1e-12 * np.abs(want[name])
        assert (np.abs(getattr(got, name) - want[name]) <= bound).all(), name
    return p


# --- against the reference


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("cut", [14.0, 3.0, 80.0])
def test_matches_reference(shape, cut):
    p = check(problem(*shape), cut)
    assert p.dtype == np.float32


@pytest.mark.parametrize("shape", SIZES)
def test_prior_power_is_one_by_default(shape):
    arguments = problem(*shape)
    arguments["prior_power"] = None
    p = check(arguments)
    ones = np.ones(shape[0], np.float32)
    np.testing.assert_array_equal(p, run(arguments | {"prior_power": ones})[0])


def test_flat_log_likelihood_gives_the_prior():
    arguments = problem(5, 200) | {"ll": np.full((5, 200), -1234.5, np.float32)}
    arguments["prior_power"] = None
    p = check(arguments)
    prior = np.exp(arguments["log_prior"].astype(float))
    np.testing.assert_allclose(p, np.tile(prior / prior.sum(), (5, 1)), rtol=1e-3)
    assert np.abs(run(arguments)[1].information).max() < 1e-3  # float32 of -1234.5 / EPS


def test_beta_of_zero_forgets_the_frames():
    arguments = problem(5, 200) | {"beta": np.zeros(5, np.float32)}
    arguments["prior_power"] = np.ones(5, np.float32)
    check(arguments)
    assert np.abs(run(arguments)[1].information).max() < 1e-6


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 2.0])
def test_prior_power(power):
    arguments = problem(9, 150)
    arguments["prior_power"] = np.full(9, power, np.float32)
    check(arguments)


# --- the ends of the range


def test_no_frames():
    p, got = run(problem(0, 5))
    assert p.shape == (0, 5)
    assert [x.shape for x in got] == [(0,)] * 4


def test_one_orientation_is_certain():
    arguments = problem(7, 1)
    p, got = run(arguments)
    np.testing.assert_array_equal(p, np.ones((7, 1)))
    np.testing.assert_array_equal(got.best, np.zeros(7))
    np.testing.assert_allclose(got.expected_ll, arguments["ll"][:, 0], rtol=1e-12)
    np.testing.assert_allclose(got.expected_total, np.full(7, arguments["total"][0]), rtol=1e-12)
    np.testing.assert_allclose(got.information, np.zeros(7), atol=1e-6)


@pytest.mark.parametrize("low", [-1e6, -1e30, -3.4e38, -np.inf])
def test_huge_negative_values(low):
    """Orientations that are out of the question, however far out, also in the first block."""
    arguments = problem(6, 200)
    arguments["ll"][:, :70] = low
    arguments["ll"][:, 130:150] = low
    p, got = run(arguments)
    np.testing.assert_array_equal(p[:, :70], 0)
    kept = np.r_[70:130, 150:200]
    shorter = {k: arguments[k][..., kept] for k in ("ll", "log_prior", "total")}
    want, rest = run(arguments | shorter)
    np.testing.assert_allclose(p[:, kept], want, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(got.best, kept[rest.best])
    np.testing.assert_allclose(got.expected_ll, rest.expected_ll, rtol=1e-7)
    np.testing.assert_allclose(got.expected_total, rest.expected_total, rtol=1e-6)


def test_all_values_huge_and_negative():
    ll = np.full((3, 100), -1e30, np.float32)
    ll[:, 37] = -0.9e30
    p, got = run(problem(3, 100) | {"ll": ll, "beta": np.ones(3, np.float32)})
    np.testing.assert_array_equal(p, np.tile(np.eye(100)[37], (3, 1)))
    np.testing.assert_array_equal(got.best, np.full(3, 37))


@pytest.mark.parametrize("places", [(0, 1), (63, 64), (5, 70), (64, 129), (198, 199)])
def test_the_first_of_equals_is_best(places):
    arguments = problem(4, 200) | {"log_prior": np.full(200, -np.log(200), np.float32)}
    arguments["ll"][:, places] = arguments["ll"].max(axis=1, keepdims=True) + 1
    p, got = run(arguments)
    np.testing.assert_array_equal(got.best, np.full(4, places[0]))
    np.testing.assert_array_equal(p[:, places[0]], p[:, places[1]])


def test_all_equal():
    n = 130
    arguments = problem(3, n) | {
        "ll": np.full((3, n), -7.0, np.float32), "log_prior": np.zeros(n, np.float32)
    }  # fmt: skip
    p, got = run(arguments)
    np.testing.assert_allclose(p, np.full((3, n), 1 / n), rtol=4 * EPS)
    np.testing.assert_array_equal(got.best, np.zeros(3))


# --- what must hold


def test_cut_drops_terms_below_it_and_nothing_else():
    ll = np.linspace(0.0, -30.0, 301, dtype=np.float32)[None]
    plain = {"beta": np.ones(1, np.float32), "log_prior": np.zeros(301, np.float32),
             "total": np.ones(301), "ll": ll}  # fmt: skip
    for cut in (0.05, 5.05, 14.05, 29.95):
        p, _ = run(plain, cut=cut)
        np.testing.assert_array_equal(p[0] > 0, ll[0] >= -cut)


@pytest.mark.parametrize("spread", [5.0, 30.0, 100.0])
def test_what_is_cut_at_14_holds_less_than_1e_5(spread):
    """As posterior.hpp says, for 3,240 orientations whose log-likelihoods trail off like these."""
    arguments = problem(20, 3240, spread=spread)
    cut, _ = run(arguments, cut=14.0)
    whole, _ = run(arguments, cut=80.0)
    assert 0 < (cut == 0).mean() < 1
    assert (whole * (cut == 0)).sum(axis=1).max() < 1e-5


def test_cut_is_of_the_tempered_posterior():
    """Terms are dropped 14 / beta below the best: hot frames keep more."""
    arguments = problem(2, 500) | {"beta": np.array([1.0, 0.02], np.float32)}
    arguments["ll"][1] = arguments["ll"][0]
    arguments["prior_power"] = np.zeros(2, np.float32)
    p, _ = run(arguments)
    below = arguments["ll"][0].max() - arguments["ll"][0]
    np.testing.assert_array_equal(p[0] > 0, below <= 14)
    np.testing.assert_array_equal(p[1] > 0, below <= 700)


def test_a_shift_of_a_frame_changes_only_its_log_likelihood():
    arguments = problem(20, 130)
    arguments["ll"] = np.round(arguments["ll"])  # so that the shift is exact
    arguments["beta"] = np.full(20, 0.25, np.float32)
    p, got = run(arguments)
    moved, after = run(arguments | {"ll": arguments["ll"] + np.float32(1024)})
    np.testing.assert_allclose(moved, p, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(after.expected_ll, got.expected_ll + 1024, atol=1e-2)
    np.testing.assert_allclose(after.information, got.information, atol=1e-3)
    np.testing.assert_array_equal(after.best, got.best)


def test_frames_do_not_mix():
    arguments = problem(40, 130)
    p, got = run(arguments)
    for d in (0, 15, 16, 39):
        one = {k: arguments[k][d : d + 1] for k in ("ll", "beta", "prior_power")}
        alone, rest = run(arguments | one)
        np.testing.assert_array_equal(alone[0], p[d])
        for a, b in zip(rest, got, strict=True):
            assert a[0] == b[d]


def test_control_of_shuffled_priors_and_betas():
    arguments = problem(33, 130)
    p, _ = run(arguments)
    other, _ = run(arguments | {"beta": arguments["beta"][::-1].copy()})
    assert np.abs(other - p).max(axis=1).mean() > 0.05
    flipped = arguments["log_prior"][::-1].copy()
    other, _ = run(arguments | {"log_prior": flipped, "prior_power": None})
    assert np.abs(other - p).max(axis=1).mean() > 0.01


@cpu_only
def test_threads_do_not_change_a_bit():
    arguments = problem(70, 333)
    one, *others = (run(arguments, threads=n) for n in (1, 2, 3))
    for other in others:
        assert one[0].tobytes() == other[0].tobytes()
        for a, b in zip(one[1], other[1], strict=True):
            assert a.tobytes() == b.tobytes()


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ll": np.zeros((3, 0), "f4")}, "ll must have at least one orientation"),
        ({"beta": np.ones(2, "f4")}, "arrays per frame must agree with ll"),
        ({"prior_power": np.ones(4, "f4")}, "arrays per frame must agree with ll"),
        ({"log_prior": np.zeros(4, "f4")}, "arrays per orientation must agree with ll"),
        ({"total": np.zeros(6)}, "arrays per orientation must agree with ll"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        run(problem(3, 5) | change)


@cpu_only
def test_bad_threads():
    with pytest.raises(InputError, match="threads must be between 1 and 4096, got 0"):
        run(problem(3, 5), threads=0)


@pytest.mark.parametrize("name", ["ll", "beta", "log_prior", "prior_power"])
def test_arrays_of_another_type_are_not_converted(name):
    arguments = problem(3, 5)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        run(arguments | {name: arguments[name].astype(np.float64)})


@cpu_only
def test_the_module_guards_its_outputs():
    a = problem(3, 5)
    outputs = [np.empty(3, np.int64), np.empty(3), np.empty(3), np.empty(3)]
    fixed = (a["beta"], a["prior_power"], a["log_prior"], 14.0, a["total"])
    _core.posterior(a["ll"].copy(), *fixed, *outputs, 1)
    for place in range(4):
        short = [x[:-1] if k == place else x for k, x in enumerate(outputs)]
        with pytest.raises(ValueError, match="arrays per frame must agree with ll"):
            _core.posterior(a["ll"].copy(), *fixed, *short, 1)

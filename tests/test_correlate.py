"""correlate, screen and match against their reference, for every column and AMX tiles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from columns import COLUMNS, Column, columns, cpu_only, on_column

from spicore import _core, reference
from spicore.emc.polar import correlate as polar
from spicore.emc.polar.correlate import BF16_ROUNDING, CUT, Overflow, Views, bf16_error
from spicore.emc.polar.layout import ANGLES
from spicore.emc.polar.orders import GROUP, AngularOrders

pytestmark = pytest.mark.usefixtures("column")

correlate = on_column(polar.correlate)
match = on_column(polar.match)
screen = on_column(polar.screen)


@pytest.fixture(params=[*COLUMNS, "cpu-amx"])
def column(request, monkeypatch):
    yield from columns(request.param, monkeypatch)


# Frames, views, rings, angles: one of each, around register blocks, tiles and groups.
SIZES = [(1, 1, 1, 32), (2, 17, 3, 48), (7, 16, 17, 64), (25, 33, 5, 96), (13, 5, 4, 144)]
# The same around tiles of 16 frames on the CPU and 8 on a GPU, both of 16 radii.
TILE_SIZES = [
    ((1, 1, 1, 32), (1, 1, 1, 32)),
    ((15, 17, 16, 48), (7, 17, 16, 48)),
    ((16, 5, 31, 32), (8, 5, 31, 32)),
    ((17, 33, 33, 64), (9, 33, 33, 32)),
]
SCORE_ERROR = 2e-5
"""float32 products, sums and transforms, relative to the scores' spread."""

BF16 = ["bf16", "bf16_split"]
ROUNDING = {"bf16": BF16_ROUNDING, "bf16_split": BF16_ROUNDING**2}
"""Rms error of a product; what a split leaves out is rounded twice."""
LARGEST = {"bf16": 2.0**-7, "bf16_split": 2.0**-15}


class Problem:
    """Random polar frames and tomograms, and the same transformed."""

    def __init__(self, size, mirrors=2, limits=None, seed=0):
        n_frames, self.n_views, n_radii, self.n_angles = size
        rng = np.random.default_rng(seed)
        a = self.n_angles
        self.frames = rng.poisson(0.3, (n_frames, n_radii, a)).astype(float)
        self.logs = rng.normal(0.0, 1.0, (self.n_views, n_radii, a))
        even, limits = limits == "even", limits if callable(limits) else all_orders
        self.orders = AngularOrders.from_limits(a, limits(n_radii, a), even=even)
        self.frames, self.logs = self.banded(self.frames), self.banded(self.logs)
        self.totals = rng.uniform(0.0, 5.0, (self.n_views, mirrors, a))
        self.norm = rng.uniform(0.5, 1.5, self.totals.shape)
        self.fluence = rng.uniform(0.5, 2.0, n_frames).astype(np.float32)
        self.beta = rng.uniform(0.1, 1.0, n_frames).astype(np.float32)
        prior = rng.uniform(0.5, 1.5, self.n_views)
        self.log_prior = np.log(prior / prior.sum() / mirrors / a)

    def banded(self, x):
        """Without the coefficients that are not kept."""
        transform = np.fft.rfft(x, axis=-1)
        for m in range(transform.shape[-1]):
            kept = self.orders.radii[m] if m < len(self.orders.radii) else 0
            transform[:, kept:, m] = 0
        return np.fft.irfft(transform, self.n_angles, axis=-1)

    def coefficients(self, x):
        transform = np.fft.rfft(x, axis=-1)
        parts = [transform[:, :kept, m] for m, kept in enumerate(self.orders.radii)]
        flat = np.concatenate(parts, axis=1)
        return np.stack([flat.real, flat.imag], axis=-1).astype(np.float32)

    def transformed_frames(self):
        return np.ascontiguousarray(self.coefficients(self.frames) / np.float32(self.n_angles))

    def in_groups(self, x, fill=0.0):
        """[V, ...] as [G, ..., 16]."""
        n = -(-self.n_views // GROUP) * GROUP
        padded = np.full((n, *x.shape[1:]), fill, np.float32)
        padded[: self.n_views] = x
        return np.ascontiguousarray(np.moveaxis(padded.reshape(-1, GROUP, *x.shape[1:]), 1, -1))

    def views(self, norm=False):
        return Views(
            self.orders,
            self.in_groups(self.coefficients(self.logs)),
            self.in_groups(self.totals),
            self.in_groups(self.log_prior, -np.inf).ravel(),
            self.in_groups(self.norm) if norm else None,
        )

    def scores(self, norm=False):
        return reference.correlate(
            self.frames, self.logs, self.totals, self.fluence, self.norm if norm else None
        )

    def exponents(self):
        """beta score + log prior, float64 [D, orientations]."""
        scores = self.scores()
        prior = self.log_prior[:, None, None]
        return (self.beta[:, None, None, None] * scores + prior).reshape(len(scores), -1)


def dense(terms, n_frames, n_orientations):
    p = np.zeros((n_frames, n_orientations))
    for begin in terms.begin:
        used = slice(begin[0], begin[-1])
        p[terms.frame[used], terms.orientation[used]] += terms.probability[used]
    return p


def all_orders(n_radii, n_angles):
    return np.full(n_radii, n_angles // 2)


def narrow(n_radii, n_angles):
    return np.minimum(2 + np.arange(n_radii)[::-1], n_angles // 2)


@pytest.mark.parametrize("limits", [None, narrow, "even"])
@pytest.mark.parametrize("mirrors", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_posterior_matches_reference(size, mirrors, limits):
    problem = Problem(size, mirrors, limits)
    exponent = problem.exponents()
    terms, sums = correlate(
        problem.transformed_frames(), problem.views(), problem.fluence, problem.beta, chunk=8
    )
    error = SCORE_ERROR * np.abs(exponent).max()
    largest = exponent.max(axis=1, keepdims=True)
    want = np.where(exponent > largest - CUT, np.exp(exponent - largest), 0.0)
    want /= want.sum(axis=1, keepdims=True)
    got = dense(terms, *exponent.shape)
    np.testing.assert_allclose(got, want, atol=2 * error)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-5)
    evidence = np.logaddexp.reduce(exponent, axis=1)
    np.testing.assert_allclose(sums.evidence, evidence, atol=error + 1e-4)
    scores, totals = problem.scores().reshape(exponent.shape), problem.totals.ravel()
    np.testing.assert_allclose(sums.expected_total, want @ totals, rtol=1e-3)
    np.testing.assert_allclose(
        sums.expected_score, (want * scores).sum(axis=1), atol=20 * error + 1e-3
    )
    best = exponent[np.arange(len(exponent)), sums.best]
    assert (best >= largest[:, 0] - error).all()
    prior = np.repeat(problem.log_prior, mirrors * problem.n_angles)
    ratio = np.where(want > 0, np.log(np.maximum(want, 1e-300)) - prior, 0.0)
    np.testing.assert_allclose(sums.information, (want * ratio).sum(axis=1), atol=20 * error + 1e-3)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("mirrors", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_match_matches_reference(size, mirrors, norm):
    problem = Problem(size, mirrors)
    scores = problem.scores(norm).reshape(size[0], -1)
    got = match(problem.transformed_frames(), problem.views(norm), problem.fluence)
    error = SCORE_ERROR * np.abs(scores).max()
    np.testing.assert_allclose(got.best, scores.max(axis=1), atol=error)
    np.testing.assert_allclose(got.mean, scores.mean(axis=1), atol=error)
    found = scores[np.arange(size[0]), got.orientation]
    np.testing.assert_allclose(found, scores.max(axis=1), atol=error)


@pytest.mark.parametrize("mirrors", [1, 2])
@pytest.mark.parametrize("n_angles", ANGLES)
def test_every_number_of_angles(n_angles, mirrors):
    """Tiles of 8, 4 and 2 frames on a GPU, as its shared memory holds them."""
    problem = Problem((9, 17, 2, n_angles), mirrors)
    scores = problem.scores().reshape(9, -1)
    got = match(problem.transformed_frames(), problem.views(), problem.fluence)
    error = SCORE_ERROR * np.abs(scores).max()
    np.testing.assert_allclose(got.best, scores.max(axis=1), atol=error)
    np.testing.assert_allclose(got.mean, scores.mean(axis=1), atol=error)
    np.testing.assert_allclose(scores[np.arange(9), got.orientation], got.best, atol=error)


@pytest.mark.parametrize("size", [(7, 40, 9, 64), (3, 16, 5, 144)])
def test_screen_is_the_best_of_each_group_in_low_orders(size):
    problem = Problem(size, limits=lambda q, a: np.full(q, 9))
    n_angles = {64: 32, 144: 48}[problem.n_angles]
    step = problem.n_angles // n_angles
    exponent = problem.exponents().reshape(size[0], size[1], 2, -1)[..., ::step].max(axis=(2, 3))
    got = screen(
        problem.transformed_frames(), problem.views(), problem.fluence, problem.beta, 10, n_angles
    )
    want = [exponent[:, g : g + GROUP].max(axis=1) for g in range(0, size[1], GROUP)]
    np.testing.assert_allclose(got, np.stack(want, axis=1), atol=SCORE_ERROR * np.abs(want).max())


def all_scores(problem, arithmetic, threads=None, keep=None):
    """[D, orientations] from the posterior of `correlate`, -inf where there is no term.

    Exponents within a nat: none is cut, and the logarithm of each is good to 1e-6.
    """
    beta = np.full(len(problem.fluence), 0.9 / np.ptp(problem.scores()), np.float32)
    terms, sums = correlate(
        problem.transformed_frames(), problem.views(), problem.fluence, beta,
        arithmetic=arithmetic, threads=threads, keep=keep, chunk=32,
    )  # fmt: skip
    p = dense(terms, *problem.exponents().shape)
    prior = np.repeat(problem.log_prior, p.shape[1] // problem.n_views)
    with np.errstate(divide="ignore"):
        return (np.log(p) + sums.evidence[:, None] - prior) / beta[:, None]


def products(problem, n_orders=None):
    """|K| and |L| [.., C] of the coefficients above order 0, of all orders or the first."""
    begin = problem.orders.begin
    used = slice(begin[1], begin[-1] if n_orders is None else begin[n_orders])
    k, logs = (
        np.linalg.norm(problem.coefficients(x)[:, used], axis=-1)
        for x in (problem.frames, problem.logs)
    )
    return k / problem.n_angles, logs


@pytest.mark.parametrize("limits", [None, narrow])
@pytest.mark.parametrize("mirrors", [1, 2])
@pytest.mark.parametrize("sizes", TILE_SIZES)
def test_bf16_scores_have_the_stated_errors(sizes, mirrors, limits):
    """Their rms, the largest, and that it is bf16 that ran: float32 is much better."""
    size = sizes[Column.current.library is not None]
    problem = Problem(size, mirrors, limits)
    want = problem.scores().reshape(size[0], -1)
    k, logs = products(problem)
    rest = SCORE_ERROR * np.abs(want).max()
    single = np.abs(all_scores(problem, "float32") - want)
    assert single.max() < rest
    bound = np.repeat(2.0 * np.sqrt(2.0) * k @ logs.T, mirrors * size[3], axis=1)
    for arithmetic in BF16:
        error = np.abs(all_scores(problem, arithmetic) - want)
        assert (error < LARGEST[arithmetic] * bound + rest).all()
        rms = ROUNDING[arithmetic] * np.sqrt(2.0 * np.mean(k**2 @ logs.T**2))
        assert np.sqrt(np.mean(error**2)) < 1.5 * rms + rest
        if arithmetic == "bf16" and size[0] > 1:
            assert 0.7 * rms < np.sqrt(np.mean(error**2)) > 50 * np.sqrt(np.mean(single**2))


def views_with_padding(problem):
    return -(-problem.n_views // GROUP) * GROUP


@pytest.mark.parametrize("arithmetic", BF16)
@pytest.mark.parametrize("n_orders", [1, 2, 10])
@pytest.mark.parametrize("size", [(17, 40, 9, 64), (21, 16, 21, 144)])
def test_bf16_screen_is_near_that_in_float32(size, n_orders, arithmetic):
    """Order 0 alone is the same; with more the error is that of `bf16_error`."""
    problem = Problem(size)
    n_angles = {64: 32, 144: 48}[problem.n_angles]
    arguments = problem.transformed_frames(), problem.views(), problem.fluence, problem.beta
    want, got = (
        screen(*arguments, n_orders, n_angles, arithmetic=a) for a in ("float32", arithmetic)
    )
    if n_orders == 1:
        np.testing.assert_array_equal(got, want)
        return
    rms = bf16_error(*arguments[:2], n_orders)
    k, logs = products(problem, n_orders)
    power = (logs**2).sum(axis=0) / views_with_padding(problem)
    np.testing.assert_allclose(rms, BF16_ROUNDING * np.sqrt(2.0 * k**2 @ power), rtol=1e-4)
    sigma = (problem.beta * rms * ROUNDING[arithmetic] / BF16_ROUNDING)[:, None]
    assert (np.abs(got - want) < 6.0 * sigma + SCORE_ERROR * np.abs(want).max()).all()
    if arithmetic == "bf16":
        assert np.abs(got - want).mean() > 0.3 * sigma.mean()


@pytest.mark.parametrize("arithmetic", BF16)
@pytest.mark.parametrize("norm", [False, True])
def test_bf16_match_finds_an_orientation_as_good(arithmetic, norm):
    problem = Problem((33, 20, 17, 48))
    scores = problem.scores(norm).reshape(33, -1)
    arguments = problem.transformed_frames(), problem.views(norm), problem.fluence
    got = match(*arguments, arithmetic=arithmetic)
    k, logs = products(problem)
    error = 6.0 * ROUNDING[arithmetic] * np.sqrt(2.0 * (k**2 @ logs.T**2).max())
    error += SCORE_ERROR * np.abs(scores).max()
    np.testing.assert_allclose(got.best, scores.max(axis=1), atol=1.5 * error)
    np.testing.assert_allclose(got.mean, scores.mean(axis=1), atol=error)
    found = scores[np.arange(33), got.orientation]
    np.testing.assert_allclose(found, scores.max(axis=1), atol=3 * error)


@pytest.mark.parametrize("arithmetic", BF16)
def test_bf16_tiles_of_any_frames_give_the_same_bits(arithmetic):
    """Whichever frames share a tile or a chunk, on any number of threads."""
    problem = Problem((35, 40, 18, 48))
    want = all_scores(problem, arithmetic, threads=1)
    np.testing.assert_array_equal(all_scores(problem, arithmetic, threads=2), want)
    keep = np.random.default_rng(3).integers(0, 2, (35, 3)).astype(np.uint8)
    keep[:, 1] = 1
    got = all_scores(problem, arithmetic, keep=keep).reshape(35, 40, -1)
    kept = np.repeat(keep, GROUP, axis=1)[:, :40] != 0
    assert np.isneginf(got[~kept]).all()
    # Probabilities are of fewer terms: not the same bits, but those of the scores are.
    np.testing.assert_allclose(got[kept], want.reshape(got.shape)[kept], rtol=1e-5, atol=1e-3)
    arguments = problem.transformed_frames(), problem.views(), problem.fluence
    one = match(*arguments, arithmetic=arithmetic, threads=1)
    two = match(*arguments, arithmetic=arithmetic, threads=2)
    some = range(0, 35, 6)
    alone = [match(arguments[0][d : d + 1], arguments[1], arguments[2][d : d + 1],
                   arithmetic=arithmetic) for d in some]  # fmt: skip
    for a, b, c in zip(one, two, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[some], np.concatenate(c))


def test_amx_tiles_agree_with_their_emulation(column):
    """The same sums of the same bf16: only float32 roundings could differ."""
    if column.name != "amx":
        pytest.skip("this instruction set has no tiles")
    problem = Problem((37, 40, 35, 64))
    arguments = problem.transformed_frames(), problem.views(), problem.fluence, problem.beta
    for arithmetic in BF16:
        _core.set_simd("amx")
        got = screen(*arguments, 17, 32, arithmetic=arithmetic)
        _core.set_simd("avx512")
        want = screen(*arguments, 17, 32, arithmetic=arithmetic)
        np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())


def test_groups_not_kept_have_no_terms():
    problem = Problem((9, 48, 4, 48))
    keep = np.random.default_rng(2).integers(0, 2, (9, 3)).astype(np.uint8)
    keep[:, 1] |= ~keep.any(axis=1)
    arguments = problem.transformed_frames(), problem.views(), problem.fluence, problem.beta
    p = dense(correlate(*arguments, keep=keep)[0], 9, 48 * 2 * 48).reshape(9, 3, -1)
    assert not p[keep == 0].any()
    np.testing.assert_allclose(p.sum(axis=(1, 2)), 1.0, atol=1e-5)
    exponent = problem.exponents().reshape(9, 3, -1)
    exponent = np.where(keep[..., None] != 0, exponent, -np.inf)
    kept = np.exp(exponent - exponent.max(axis=(1, 2), keepdims=True))
    kept /= kept.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(p, kept, atol=2e-4)


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_results_do_not_depend_on_threads_or_chunks(chunk):
    problem = Problem((33, 40, 6, 48))
    arguments = problem.transformed_frames(), problem.views(), problem.fluence, problem.beta
    want = correlate(*arguments, threads=1)
    got = correlate(*arguments, chunk=chunk, threads=2)
    for a, b in zip(want[1], got[1], strict=True):
        np.testing.assert_array_equal(a, b)
    shape = 33, 40 * 2 * 48
    np.testing.assert_array_equal(dense(want[0], *shape), dense(got[0], *shape))
    for a, b in zip(
        match(*arguments[:3], threads=1), match(*arguments[:3], threads=2), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_terms_are_sorted_by_group():
    problem = Problem((20, 70, 4, 48))
    terms, _ = correlate(
        problem.transformed_frames(), problem.views(), problem.fluence, problem.beta, chunk=8
    )
    for chunk, begin in enumerate(terms.begin):
        for group, (a, b) in enumerate(pairwise(begin)):
            assert (terms.orientation[a:b] // (GROUP * 2 * 48) == group).all()
            assert (terms.frame[a:b] // 8 == chunk).all()


def test_small_lists_are_compacted_or_overflow():
    problem = Problem((16, 64, 8, 48))
    problem.beta[:] = 8.0  # few terms survive of the many that pass on the way
    arguments = problem.transformed_frames(), problem.views(), problem.fluence, problem.beta
    want = dense(correlate(*arguments)[0], 16, 64 * 2 * 48)
    survivors = int((want > 0).sum())
    got = dense(correlate(*arguments, chunk=16, capacity=2 * survivors + 200)[0], *want.shape)
    np.testing.assert_array_equal(got, want)
    problem.beta[:] = 0.5
    survivors = correlate(*arguments, chunk=16)[0].begin[0, -1]
    assert survivors // 2 > 48  # fewer than the angles are never taken
    with pytest.raises(Overflow):
        correlate(*arguments, chunk=16, capacity=survivors // 2)


def test_control_of_shuffled_frames():
    problem = Problem((20, 20, 8, 48))
    frames = problem.transformed_frames()
    arguments = problem.views(), problem.fluence, problem.beta
    want = correlate(frames, *arguments)[1].best
    got = correlate(np.ascontiguousarray(frames[::-1]), *arguments)[1].best
    assert (got != want).mean() > 0.8


def test_no_frames():
    problem = Problem((1, 16, 2, 32))
    empty = problem.transformed_frames()[:0]
    for arithmetic in ("float32", *BF16):
        terms, sums = correlate(
            empty, problem.views(), problem.fluence[:0], problem.beta[:0], arithmetic=arithmetic
        )
        assert len(terms.begin) == 0
        assert len(sums.best) == 0


def test_an_unknown_arithmetic_is_refused():
    problem = Problem((1, 16, 2, 32))
    with pytest.raises(ValueError, match="float32, bf16 or bf16_split, got half"):
        match(problem.transformed_frames(), problem.views(), problem.fluence, arithmetic="half")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fluence": np.ones(4, np.float32)}, "fluence and beta"),
        ({"views": "half"}, "log_prior must be"),
        ({"frames": "short"}, "views \\[G, C, 2, 16\\]"),
    ],
)
def test_bad_input_is_refused(change, message):
    problem = Problem((3, 32, 4, 32))
    frames, views, fluence = problem.transformed_frames(), problem.views(), problem.fluence
    if change.get("views"):
        views = Views(views.orders, views.logs, views.totals, views.log_prior[:16])
    if change.get("frames"):
        frames = np.ascontiguousarray(frames[:, :-1])
    fluence = change.get("fluence", fluence)
    with pytest.raises(ValueError, match=message):
        match(frames, views, fluence)


@cpu_only
def test_workspace_grows_with_the_angles():
    orders = [AngularOrders.from_limits(a, np.full(8, a // 2)) for a in (32, 144, 512)]
    for arithmetic in ("float32", *BF16):
        sizes = [_core.correlate_workspace(o.as_tuple(), 2, arithmetic, 8) for o in orders]
        assert sizes == sorted(sizes)

"""phase against its reference and what must hold, on every instruction set and on GPUs."""

from __future__ import annotations

import numpy as np
import pytest
from columns import COLUMNS, CPU, cpu_only

from spicore import reference
from spicore.errors import InputError
from spicore.phasing import ALGORITHMS, Measured, Seeds, kernels, parse_schedule
from spicore.phasing.histogram import project_histogram
from spicore.phasing.layout import SMALL, SpectrumLayout

pytestmark = pytest.mark.usefixtures("current")
gpu_only = pytest.mark.parametrize("column", [x for x in COLUMNS if x not in CPU], indirect=True)

# One to three axes; powers of two, every radix, primes beyond them (61, 67 and 151 by convolution,
# 83 not), one row or plane.
SIZES = [
    (1,), (30,), (23,), (122,), (61 * 67,), (166,), (16, 16), (13, 21), (6, 35), (3, 151), (1, 9),
    (9, 1), (8, 16, 32), (7, 11, 13), (12, 5, 18), (3, 40, 2), (33, 1, 10), (1, 1, 2), (17, 22, 26),
]  # fmt: skip
ERROR = {np.float32: 1e-5, np.float64: 1e-12}
"""After a few iterations, root mean square, relative to that of the values."""
N = 3


@pytest.fixture
def current(column, monkeypatch):
    """Makes `iterate` and `estimate` take starts in host memory to the column's and back."""
    monkeypatch.setattr(Problem, "column", column)


def iterate(measured, seeds, *arguments, **options):
    column = Problem.column
    if column.library is None:
        return kernels.iterate(measured, seeds, *arguments, **options)
    there = on_column(seeds)
    errors = kernels.iterate(measured, there, *arguments, **options)
    seeds.x[...] = column.back(there.x)
    if seeds.background is not None:
        seeds.background[...] = column.back(there.background)
    return column.back(errors)


def estimate(measured, seeds, **options):
    return Problem.column.back(kernels.estimate(measured, on_column(seeds), **options))


def on_column(seeds):
    to = Problem.column.to
    return Seeds(to(seeds.x), to(seeds.support), to(seeds.background))


class Problem:
    """Two starts for a small object: data, supports, masks, limits and backgrounds."""

    column = None

    def __init__(self, shape, dtype=np.float64, real=True, seed=0):
        self.rng = rng = np.random.default_rng(seed)
        self.shape, self.dtype, self.real = shape, dtype, real
        inside = np.zeros(shape, bool)
        inside[tuple(slice(0, n // 2 + 1) for n in shape)] = True
        self.support = np.stack([inside, np.roll(inside, 1, 0) | inside]).astype(np.uint8)
        truth = np.where(inside, self.values(shape), 0)
        self.amplitude = np.abs(np.fft.fftn(truth)).astype(dtype)
        self.x = self.values((2, *shape))
        self.mask = self.symmetric(rng.random(shape)) > 0.25
        self.mask.flat[0] = True
        self.limit = np.where(self.mask, np.nan, 0.8 * self.amplitude + 0.1).astype(dtype)
        self.limit[self.symmetric(rng.random(shape)) > 0.6] = np.inf
        blurred = self.amplitude.mean() * self.symmetric(rng.random((2, *shape)))
        self.background = (0.3 * blurred).astype(dtype)
        box = [min(5 if len(shape) < 3 else 3, n - 1 + n % 2) for n in shape]
        kernel = self.symmetric(rng.random((2, *box)), roll=0)
        kernel[(slice(None), *(n // 2 for n in kernel.shape[1:]))] += 1
        self.kernel = kernel / kernel.reshape(2, -1).sum(1).reshape(2, *[1] * len(shape))
        self.histogram = rng.gamma(2.0, 1.0, 37)

    def values(self, shape):
        x = self.rng.normal(0.3, 1.0, shape)
        if not self.real:
            x = x + 1j * self.rng.normal(0.3, 1.0, shape)
        return x.astype(self.dtype if self.real else np.result_type(self.dtype, np.complex64))

    def symmetric(self, x, roll=1):
        """Equal at q and -q along the last axes, if the object is real; 0 at index 0, or (`roll`
        0) in the middle."""
        if not self.real:
            return x
        axes = tuple(range(x.ndim - len(self.shape), x.ndim))
        return 0.5 * (x + np.roll(np.flip(x, axes), roll, axes))

    def measured(self, mask=False, limit=False):
        return Measured(
            self.amplitude, self.mask if mask else None, self.limit if limit else None, self.real
        )

    def seeds(self, background=False, coherence=False):
        return Seeds(
            self.x.copy(), self.support, self.background.copy() if background else None,
            self.kernel if coherence else None,
        )  # fmt: skip

    def wanted(
        self, algorithm, n=N, mask=False, limit=False, background=False, coherence=False, **options
    ):
        """x [S, *shape], background and errors [S, n] of the reference."""
        results = [
            reference.phase(
                self.x[s], self.amplitude, self.support[s] != 0, algorithm, n,
                mask=self.mask if mask else None, limit=self.limit if limit else None,
                background=self.background[s] if background else None,
                coherence=self.kernel[s] if coherence else None, **options,
            )
            for s in range(2)
        ]  # fmt: skip
        return tuple(np.array(part) for part in zip(*results, strict=True))


def assert_close(got, want, dtype):
    assert np.isfinite(got).all()
    assert np.linalg.norm(got - want) <= ERROR[dtype] * np.linalg.norm(want)


def compare(
    problem, algorithm, *, mask=False, limit=False, background=False, coherence=False, **options
):
    seeds = problem.seeds(background, coherence)
    errors = iterate(problem.measured(mask, limit), seeds, algorithm, N, **options)
    parts = {"mask": mask, "limit": limit, "background": background, "coherence": coherence}
    x, b, want = problem.wanted(algorithm, **parts, **options)
    assert_close(seeds.x, x, problem.dtype)
    assert_close(errors, want, problem.dtype)
    if background:
        assert_close(seeds.background, b, problem.dtype)
    return seeds.x


# --- against the reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", SIZES)
def test_sizes_match_reference(shape, real, dtype):
    compare(Problem(shape, dtype, real), "HIO", mask=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("beta", [0.7, 1.0])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithms_match_reference(algorithm, beta, positive, real, dtype):
    compare(Problem((6, 9, 20), dtype, real), algorithm, beta=beta, positive=positive)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", [(24, 18), (5, 8, 12), (6, 4, 9)])
@pytest.mark.parametrize("algorithm", ["ER", "RAAR", "DM"])
def test_mask_limit_and_background_match_reference(algorithm, shape, real, dtype):
    problem = Problem(shape, dtype, real)
    without = compare(problem, algorithm, mask=True, beta=0.8)
    limited = compare(problem, algorithm, mask=True, limit=True, beta=0.8)
    with_background = compare(problem, algorithm, mask=True, limit=True, background=True, beta=0.8)
    assert np.abs(limited - without).max() > 1e-3  # each of them is seen
    assert np.abs(with_background - limited).max() > 1e-3


@pytest.mark.parametrize("bounds", [(-0.5, 1.2), (0.3, 5.0), (2.0, 4.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phase_bounds_match_reference(dtype, bounds):
    problem = Problem((5, 8, 9), dtype, real=False)
    x = compare(problem, "ER", phase_bounds=bounds)
    turned = np.angle(x[x != 0] * np.exp(-0.5j * sum(bounds)))
    assert np.abs(turned).max() <= (bounds[1] - bounds[0]) / 2 + 1e-6


def test_phase_bounds_of_a_whole_turn_are_none():
    problem = Problem((6, 7), real=False)
    results = []
    for bounds in None, (-4.0, 3.0):
        seeds = problem.seeds()
        iterate(problem.measured(), seeds, "ER", 2, phase_bounds=bounds)
        results.append(seeds.x)
    np.testing.assert_array_equal(*results)


@cpu_only
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", [(3,), (24,), (13, 18), (5, 8, 12), (6, 4, 9)])
@pytest.mark.parametrize("algorithm", ["ER", "RAAR", "DM"])
def test_coherence_matches_reference(algorithm, shape, real, dtype):
    problem = Problem(shape, dtype, real)
    without = compare(problem, algorithm, mask=True, limit=True, beta=0.8)
    got = compare(problem, algorithm, mask=True, limit=True, coherence=True, beta=0.8)
    assert np.abs(got - without).max() > 1e-3


@cpu_only
def test_a_kernel_of_one_frequency_is_full_coherence():
    problem = Problem((6, 8, 10), np.float32)
    problem.kernel[...] = np.zeros(problem.kernel.shape[1:])
    problem.kernel[:, 1, 1, 1] = 1
    x = [problem.seeds(coherence=coherence) for coherence in (False, True)]
    for seeds in x:
        iterate(problem.measured(mask=True), seeds, "RAAR", 3)
    assert_close(x[1].x, x[0].x, np.float32)


@cpu_only
@pytest.mark.parametrize(
    ("shape", "dtype"),  # of many float32 values, some are close enough to change their order
    [((30,), np.float32), ((30,), np.float64), ((13, 18), np.float64), ((5, 8, 12), np.float64)],
)
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "DM"])
def test_histogram_matches_reference(algorithm, shape, dtype):
    problem = Problem(shape, dtype)
    histogram = problem.histogram
    without = compare(problem, algorithm, mask=True)
    got = compare(problem, algorithm, mask=True, positive=True, histogram=histogram)
    assert np.abs(got - without).max() > 1e-3


@cpu_only
@pytest.mark.parametrize("part", ["background", "coherence"])
def test_histogram_with_background_or_coherence_matches_reference(part):
    problem = Problem((5, 8, 12))
    for algorithm in "RAAR", "ER":
        compare(problem, algorithm, limit=True, mask=True, histogram=problem.histogram,
                **{part: True})  # fmt: skip
    compare(problem, "DM", histogram=problem.histogram, beta=1.0, **{part: True})


@cpu_only
def test_histogram_is_a_projection_up_to_a_factor():
    problem = Problem((9, 10), np.float64)
    seeds = problem.seeds()
    x = estimate(problem.measured(), seeds, histogram=problem.histogram)[0]
    inside = np.sort(x[problem.support[0] > 0])
    places = (np.arange(inside.size) + 0.5) / inside.size
    wanted = np.interp(places, (np.arange(37) + 0.5) / 37, np.sort(problem.histogram))
    np.testing.assert_allclose(inside / wanted, inside.sum() / wanted.sum())
    twice = project_histogram(x, problem.support[0] > 0, np.sort(5 * problem.histogram))
    np.testing.assert_allclose(twice, x, atol=1e-12)


def test_values_that_are_not_measured_may_be_anything():
    problem = Problem((6, 7))
    want = problem.seeds()
    iterate(problem.measured(mask=True), want, "ER", 2)
    problem.amplitude[~problem.mask] = np.nan
    got = problem.seeds()
    iterate(problem.measured(mask=True), got, "ER", 2)
    np.testing.assert_array_equal(got.x, want.x)


@cpu_only
def test_image_too_large_for_one_plane_matches_reference():
    shape = (SMALL // 240, 300)
    for real in True, False:
        problem = Problem(shape, np.float32, real)
        assert SpectrumLayout.of(shape, real, np.float32).grid[:3] == (shape[0], 1, shape[1])
        compare(problem, "HIO", mask=True, background=True)


# On a GPU spectra of these do not fit into shared memory.
LARGE = {
    (np.float32, True): (40, 37, 42),
    (np.float32, False): (31, 32, 33),
    (np.float64, True): (31, 30, 33),
    (np.float64, False): (120, 130),
}


@pytest.mark.parametrize("algorithm", ["HIO", "DM"])
@pytest.mark.parametrize(("dtype", "real"), LARGE)
def test_large_objects_match_reference(dtype, real, algorithm):
    problem = Problem(LARGE[dtype, real], dtype, real)
    compare(problem, algorithm, mask=True, beta=0.8)
    compare(problem, algorithm, mask=True, limit=True, background=True, beta=0.8)


@pytest.mark.parametrize("shape", [(190, 1, 172), (1, 40000), (2, 179, 90)])
def test_large_flat_objects_match_reference(shape):
    compare(Problem(shape, np.float32, real=False), "RAAR", mask=True, background=True)


@gpu_only
@pytest.mark.parametrize(("dtype", "real"), LARGE)
def test_small_objects_need_no_memory_and_large_ones_cufft(dtype, real):
    from spicore import _cuda

    def sizes(*grid):
        return _cuda.phase_sizes((*grid, real), dtype == np.float64, 2, 0, 1)

    assert sizes(1, 64, 64)[3:] == [0, 0]
    n0, n1, n2 = SpectrumLayout(LARGE[dtype, real], real, 1, 0, 0).grid[:3]
    spectrum = n0 * n1 * (n2 // 2 + 1 if real else n2)
    assert sizes(n0, n1, n2)[3] >= 2 * spectrum


@pytest.mark.parametrize(("dtype", "real"), LARGE)
@pytest.mark.parametrize("small", [False, True])
def test_batches_of_seeds_are_seeds_alone(small, dtype, real):
    """Three starts; in the emulation two large ones are a batch."""
    shape = (12, 10) if small else LARGE[dtype, real]
    problem = Problem(shape, dtype, real)
    x = np.concatenate([problem.x, problem.x[:1] + problem.dtype(1)])
    both = Seeds(x.copy(), problem.support[:1])
    errors = iterate(problem.measured(mask=True), both, "RAAR", 2)
    for s in range(3):
        alone = Seeds(x[s : s + 1].copy(), problem.support[:1])
        one = iterate(problem.measured(mask=True), alone, "RAAR", 2)
        np.testing.assert_array_equal(alone.x[0], both.x[s])
        np.testing.assert_array_equal(one[0], errors[s])


def test_control_of_a_wrong_beta():
    problem = Problem((8, 9, 10), np.float32)
    seeds = problem.seeds()
    iterate(problem.measured(), seeds, "HIO", N, beta=0.9)
    with pytest.raises(AssertionError):
        assert_close(seeds.x, problem.wanted("HIO", beta=0.9001)[0], np.float32)


# --- what must hold


def result_of(problem, algorithm, n=6, **options):
    seeds = problem.seeds()
    errors = iterate(problem.measured(mask=True), seeds, algorithm, n, **options)
    return seeds.x, errors


@pytest.mark.parametrize("positive", [False, True])
def test_identities(positive):
    problem = Problem((10, 7, 12))
    same = [
        [("ASR", 0.9), ("DM", 1.0), ("RRR", 1.0), ("RAAR", 1.0), ("DRAP", 1.0)],
        [("HIO", 0.7), ("HPR", 0.7)],
        [("DRAP", 0.0), ("ER", 0.5)],
    ]
    first = []
    for group in same:
        x = [result_of(problem, name, beta=beta, positive=positive)[0] for name, beta in group]
        for other in x[1:]:
            np.testing.assert_allclose(other, x[0], rtol=0, atol=1e-12)
        first.append(x[0])
    assert np.abs(first[0] - first[1]).max() > 1e-2  # the groups differ


def test_dm_is_continuous_at_one():
    problem = Problem((9, 8))
    near = result_of(problem, "DM", beta=1 + 1e-9)[0]
    np.testing.assert_allclose(near, result_of(problem, "DM", beta=1.0)[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 10), (7, 9), (6, 8, 10), (5, 6, 7)])
@pytest.mark.parametrize("algorithm", ["RAAR", "DM"])
def test_half_spectrum_equals_complex(algorithm, shape):
    problem = Problem(shape)
    real = problem.seeds(background=True)
    errors = iterate(problem.measured(mask=True, limit=True), real, algorithm, 5)
    problem.real = False
    full = problem.seeds(background=True)
    full.x = full.x.astype(complex)
    want = iterate(problem.measured(mask=True, limit=True), full, algorithm, 5)
    np.testing.assert_allclose(errors, want, rtol=1e-12)
    np.testing.assert_allclose(real.x, full.x, atol=1e-12)
    np.testing.assert_allclose(real.background, full.background, atol=1e-11)


@cpu_only
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", [(40, 40), (12, 24, 40), (600, 260), (64, 64, 40)])
def test_results_do_not_depend_on_threads(shape, real):
    problem = Problem(shape, np.float32, real)
    results = []
    for threads in (1, 2, 3):
        seeds = problem.seeds(background=True)
        errors = iterate(problem.measured(mask=True), seeds, "DM", 3, threads=threads)
        results.append((errors, seeds.x, seeds.background))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@cpu_only
@pytest.mark.parametrize("shape", [(40, 40), (16, 24, 40)])
def test_coherent_results_do_not_depend_on_threads(shape):
    problem = Problem(shape, np.float32)
    results = []
    for threads in (1, 2, 3):
        seeds = problem.seeds(coherence=True)
        options = {"histogram": problem.histogram, "threads": threads}
        errors = iterate(problem.measured(mask=True), seeds, "RAAR", 3, **options)
        results.append((errors, seeds.x))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("algorithm", ["RAAR", "DM"])
def test_calls_continue_where_the_last_one_ended(algorithm):
    problem = Problem((10, 12, 14))
    measured, whole, parts = problem.measured(), *(problem.seeds(True) for _ in range(2))
    want = iterate(measured, whole, algorithm, 5)
    got = [iterate(measured, parts, algorithm, n) for n in (2, 0, 3)]
    np.testing.assert_allclose(np.concatenate(got, axis=1), want, rtol=1e-12)
    np.testing.assert_allclose(parts.x, whole.x, atol=1e-12)
    np.testing.assert_allclose(parts.background, whole.background, atol=1e-11)


def test_shared_support_is_that_of_every_seed():
    problem = Problem((9, 10))
    shared, own = problem.seeds(), problem.seeds()
    shared.support = problem.support[:1].astype(bool)
    own.support = np.repeat(problem.support[:1], 2, axis=0)
    for seeds in shared, own:
        iterate(problem.measured(), seeds, "HIO", 3)
    np.testing.assert_array_equal(shared.x, own.x)


@pytest.mark.parametrize("real", [True, False])
def test_vanishing_transform_takes_the_modulus_with_phase_0(real):
    problem = Problem((8, 10, 12), np.float32, real)
    seeds = Seeds(np.zeros_like(problem.x), np.ones_like(problem.support))
    errors = iterate(problem.measured(), seeds, "ER", 1)
    want = np.fft.ifftn(problem.amplitude.astype(np.float64))
    np.testing.assert_allclose(seeds.x[1], want.real if real else want, atol=1e-5)
    np.testing.assert_allclose(errors, 1.0, rtol=1e-6)


def test_estimate_is_one_projection_each_and_changes_nothing():
    problem = Problem((8, 9))
    seeds = problem.seeds(background=True)
    got = estimate(problem.measured(), seeds, positive=True)
    want = problem.wanted("ER", 1, background=True, positive=True)[0]
    np.testing.assert_allclose(got, want, atol=1e-12)
    np.testing.assert_array_equal(seeds.x, problem.x)
    np.testing.assert_array_equal(seeds.background, problem.background)


def test_wide_dynamic_range_stays_finite():
    problem = Problem((16, 16, 16), np.float32)
    problem.amplitude *= np.float32(1e5) / problem.amplitude.max()
    problem.amplitude[problem.amplitude < 1e2] = 0
    x, errors = result_of(problem, "RAAR", 50, positive=True)
    assert np.isfinite(x).all()
    assert np.isfinite(errors).all()


def test_a_known_object_is_found():
    rng = np.random.default_rng(1)
    truth = np.zeros((24, 24, 24), np.float32)
    truth[4:11, 5:13, 6:12] = rng.random((7, 8, 6))
    support = (truth > 0)[None]
    amplitude = np.abs(np.fft.fftn(truth)).astype(np.float32)
    seeds = Seeds(rng.random((2, *truth.shape), np.float32), support)
    measured = Measured(amplitude)
    for algorithm, n in parse_schedule("100HIO 50ER"):
        errors = iterate(measured, seeds, algorithm, n, positive=True)
    assert errors[:, -1].min() < 1e-3
    assert np.abs(seeds.x - truth).max(axis=(1, 2, 3)).min() < 1e-2


def test_no_seeds_and_no_iterations():
    problem = Problem((6, 6))
    assert iterate(problem.measured(), problem.seeds(), "ER", 0).shape == (2, 0)
    empty = Seeds(problem.x[:0], problem.support[:1])
    assert iterate(problem.measured(), empty, "ER", 3).shape == (0, 3)


# --- layout


@cpu_only
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", SIZES)
def test_blocks_hold_every_frequency_once(shape, real):
    problem = Problem(shape, real=real)
    layout = SpectrumLayout.of(shape, real, np.float64)
    x = problem.symmetric(problem.rng.random((2, *shape)))
    blocks = layout.to_blocks(x, np.nan)
    kept = blocks[np.isfinite(blocks)]
    np.testing.assert_array_equal(np.sort(kept), np.sort(x[..., : layout.half].ravel()))
    np.testing.assert_array_equal(layout.from_blocks(blocks), x)


# --- refusals


def measured_with(**changes):
    arguments = {"amplitude": np.ones((4, 6), np.float32), "mask": None, "limit": None}
    return lambda: Measured(**(arguments | changes))


def iterate_with(algorithm="ER", n=1, options=None, real=True, **changes):
    arguments = {"x": np.ones((2, 4, 6), np.float32), "support": np.ones((1, 4, 6), bool)}

    def call():
        seeds = Seeds(**(arguments | changes))
        iterate(Measured(np.ones((4, 6), np.float32), real=real), seeds, algorithm, n,
                **(options or {}))  # fmt: skip

    return call


def kernel_of(*shape):
    return {"coherence": np.full((2, *shape), 1 / np.prod(shape))}


COMPLEX = {"real": False, "x": np.ones((2, 4, 6), np.complex64)}


@cpu_only
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (measured_with(amplitude=np.ones((2, 2), int)), "amplitude must be a float32 or float64"),
        (measured_with(amplitude=np.ones((1, 1, 1, 1))), r"1 to 3 axes, got float64 \[1, 1, 1, 1"),
        (measured_with(amplitude=np.full((4, 6), np.nan)), "amplitude must be finite.* got 24"),
        (measured_with(amplitude=np.full((4, 6), -1.0)), "amplitude must be at least 0.* got 24"),
        (measured_with(amplitude=np.zeros((4, 6))), "amplitude must be above 0 somewhere"),
        (measured_with(mask=np.zeros((4, 6), bool)), "mask must be True somewhere"),
        (measured_with(mask=np.ones((4, 5), bool)), r"mask must be bool \[4, 6\], got bool \[4, 5"),
        (measured_with(mask=np.ones((4, 6))), r"mask must be bool \[4, 6\], got float64"),
        (measured_with(limit=np.ones((4, 5))), r"limit must have shape \[4, 6\]"),
        (measured_with(limit=np.zeros((4, 6)), mask=np.eye(4, 6) > 0), "limit must be"),
        (iterate_with("CF"), "algorithm must be one of ER, .*, got 'CF'"),
        (iterate_with(n=-1), "n must be a whole number >= 0, got -1"),
        (iterate_with(options={"beta": 0.0}), "beta must be above 0 for ER"),
        (iterate_with(options={"beta": np.nan}), "beta must be between 0 and 2"),
        (iterate_with(options={"phase_bounds": (0, 1)}), "phase_bounds must be None with a real"),
        (iterate_with(options={"phase_bounds": (1, 0)}, **COMPLEX), "phase_bounds must be low < "),
        (iterate_with(options={"phase_bounds": 3}, **COMPLEX), "phase_bounds must be two angles"),
        (iterate_with(options={"threads": 0}), "threads must be between 1"),
        (iterate_with(x=np.ones((2, 4, 6), int)), "x must be float32 or float64 for a real"),
        (iterate_with(real=False), "x must be complex64 or complex128 for a complex object"),
        (iterate_with(x=np.ones((4, 6))), r"x must be .* \[S, 4, 6\], got float64 \[4, 6\]"),
        (iterate_with(x=np.ones((2, 6, 4)).swapaxes(1, 2)), "x must be C-contiguous"),
        (iterate_with(x=np.full((2, 4, 6), np.nan)), "x must be finite, got 48"),
        (iterate_with(support=np.ones((1, 4, 6))), "support must be uint8 or bool, got float64"),
        (iterate_with(support=np.ones((3, 4, 6), bool)), "support must have length 1 or 2, got 3"),
        (iterate_with(support=np.ones((2, 4, 5), bool)), r"support must be .*\[1 or S, 4, 6\]"),
        (iterate_with(background=np.ones((2, 4, 6))), "background must be float32"),
        (iterate_with(**kernel_of(3, 3), background=np.ones((2, 4, 6), np.float32)),
         "background must be None with coherence, got both"),
        (iterate_with(coherence=np.ones((1, 3, 3))), r"coherence must be float64 \[2, box, box\]"),
        (iterate_with(coherence=3), r"coherence must be float64 \[2, box, box\], got 3"),
        (iterate_with(**kernel_of(3, 4)), r"coherence must have odd axes .*\[4, 6\], got \[3, 4\]"),
        (iterate_with(**kernel_of(5, 3)), r"odd axes of at most \[4, 6\], got \[5, 3\]"),
        (iterate_with(coherence=np.ones((2, 1, 1)) * 2), r"coherence must have sums of 1, got \[2"),
        (iterate_with(coherence=-np.ones((2, 1, 1))), "coherence must be finite and at least 0"),
        (iterate_with(coherence=np.array([[[0.5, 0, 0.5]]] * 2)), "coherence must be above 0 in"),
        (iterate_with(options={"histogram": [1]}, **COMPLEX), "histogram must be None with a"),
        (iterate_with("DM", options={"histogram": [1]}), "histogram must be None with DM unless"),
        (iterate_with(options={"histogram": [1, np.nan]}), "histogram must be finite .* 1 NaN"),
        (iterate_with(options={"histogram": []}), "histogram must be finite values, not all 0"),
        (iterate_with(options={"histogram": "no"}), "histogram must be an array of numbers"),
        (iterate_with(options={"histogram": [-1.0, 1.0], "positive": True}), "histogram must be "),
        (iterate_with(background=np.full((2, 4, 6), np.inf, np.float32)), "background must be fin"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@gpu_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((2, 4, 6), np.complex64)}, "x must be float32 or float64 for a real obj"),
        (
            {"x": np.ones((2, 4, 5), np.float32)},
            r"x must be float32 \[any, 4, 6\] \(on a GPU",
        ),
        ({"support": np.ones((1, 4, 6), np.float32)}, "support must be uint8 or bool, got float32"),
        ({"support": np.ones((3, 4, 6), bool)}, "support must have length 1 or 2, got 3"),
        ({"background": np.ones((2, 4, 6))}, r"background must be float32 \[2, 4, 6\]"),
    ],
)
def test_bad_arrays_on_a_gpu_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        iterate_with(**change)()


@gpu_only
def test_arrays_on_a_gpu_must_be_contiguous_and_on_one_device():
    to = Problem.column.to
    x, support = to(np.ones((2, 6, 4), np.float32)), to(np.ones((1, 4, 6), bool))
    measured = Measured(np.ones((4, 6), np.float32))
    with pytest.raises(InputError, match="x must be C-contiguous"):
        kernels.iterate(measured, Seeds(x.swapaxes(1, 2), support), "ER", 1)
    with pytest.raises(InputError, match="x and support must be on one device"):
        kernels.iterate(measured, Seeds(np.ones((2, 4, 6), np.float32), support), "ER", 1)


@gpu_only
def test_large_real_objects_must_be_aligned():
    problem = Problem((41, 39, 43), np.float32)
    there = Problem.column.to(np.concatenate([problem.x, problem.x]))
    with pytest.raises(ValueError, match="x must be aligned to two values"):
        kernels.iterate(
            problem.measured(), Seeds(there[1:2], Problem.column.to(problem.support[:1])), "ER", 1
        )


@gpu_only
def test_results_are_on_the_gpu_and_nothing_else_changes():
    problem = Problem((8, 9), np.float32)
    seeds = on_column(problem.seeds())
    errors = kernels.iterate(problem.measured(), seeds, "HIO", 2)
    assert type(errors) is type(seeds.x)
    np.testing.assert_array_equal(Problem.column.back(seeds.support), problem.support)


@cpu_only
def test_read_only_objects_are_refused():
    x = np.ones((2, 4, 6), np.float32)
    x.flags.writeable = False
    with pytest.raises(InputError, match="x must be writeable"):
        iterate_with(x=x)()


@gpu_only
@pytest.mark.parametrize("part", ["coherence", "histogram"])
def test_coherence_and_histogram_are_refused_on_a_gpu(part):
    problem = Problem((4, 6))
    seeds = on_column(problem.seeds())
    seeds.coherence = problem.kernel if part == "coherence" else None
    histogram = problem.histogram if part == "histogram" else None
    with pytest.raises(InputError, match="coherence and histogram must be None for starts on a"):
        kernels.iterate(problem.measured(), seeds, "ER", 1, histogram=histogram)


# --- schedules


@cpu_only
@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("100DM 200RAAR 100ER", [("DM", 100), ("RAAR", 200), ("ER", 100)]),
        ("2*(20ER+180HIO)+20er", [("ER", 20), ("HIO", 180)] * 2 + [("ER", 20)]),
        ("2*(3*(1ER) 2SF)", ([("ER", 1)] * 3 + [("SF", 2)]) * 2),
        (" 5 DRAP+ 6 HPR ", [("DRAP", 5), ("HPR", 6)]),
    ],
)
def test_schedules(text, steps):
    assert parse_schedule(text) == steps


@cpu_only
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "schedule must have a step such as 100ER, got ''"),
        ("10XX", "one of ER, .* at character 3, got 'XX'"),
        ("ER", "a step such as 100ER at character 1, got 'ER'"),
        ("3*20ER", r"\( after \* at character 3, got '20'"),
        ("2*(10ER", r"\) or a step at character 8, got 'the end'"),
        ("10ER)", r"at character 5, got '\)'"),
        ("10ER+", "a step such as 100ER at character 6, got 'the end'"),
        (None, "schedule must be a string, got NoneType"),
    ],
)
def test_bad_schedules_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_schedule(text)

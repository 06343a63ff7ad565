"""compress against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest
from columns import Column, cpu_only, on_column
from test_ewald_slice import EPS
from test_expand import packed
from test_maximize import EMPTY, SIZES, block

from spicore import _core, reference
from spicore.emc import kernels
from spicore.emc.kernels import LANES, Photons
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

compress = on_column(kernels.compress)

FORMS = ["sparse", "dense", "background"]


def weights(n_frames, n, seed=0, *, lit=0.3):
    """Posterior probabilities [D, R], most of them 0; some frames have none, some panels too."""
    rng = np.random.default_rng(seed + 300)
    p = rng.gamma(0.5, 1.0, (n_frames, n)) * (rng.random((n_frames, n)) < lit)
    p[2::7] = 0
    p[:, 16:32] *= rng.random((n_frames, 1)) < 0.5  # half panels: lanes 0-15 or 16-31 alone
    p[:, :16] *= rng.random((n_frames, 1)) < 0.5
    p[:, 64:96] = 0
    return (p / np.maximum(p.sum(axis=1, keepdims=True), 1e-30)).astype(np.float32)


def rounding(p, values):
    """Bound of the error of a sum over frames in float32, in any order; products round once."""
    n = (p > 0).sum(axis=0)[:, None] + 1
    return n * EPS * (p.T.astype(float) @ np.abs(values).astype(float))


def with_background(n_frames, n, n_rows):
    """Linear tomograms, fluence, background, scale; some W and B, and both, are 0."""
    rng = np.random.default_rng(5)
    linear = rng.gamma(0.5, 2.0, (n, n_rows)).astype(np.float32)
    linear[:, ::7] = 0
    background = rng.gamma(0.5, 0.5, n_rows).astype(np.float32)
    background[::14] = 0
    background[1::3] = 0
    fluence = rng.gamma(4.0, 0.25, n_frames).astype(np.float32)
    scale = rng.uniform(0.2, 3.0, n_frames).astype(np.float32)
    return linear, fluence, background, scale


def problem(form, n_frames, n, n_rows):
    """Arguments of `compress` and the reference's (slices, signal or None)."""
    photons, dense = block(n_frames, n_rows)
    p = weights(n_frames, n)
    arguments = [p, photons, n, n_rows]
    if form == "dense":
        dense = np.random.default_rng(1).normal(0.0, 3.0, dense.shape).astype(np.float32)
        arguments[1] = dense
    if form != "background":
        return arguments, {}, dense, (reference.compress(p, dense), None)
    linear, fluence, background, scale = with_background(n_frames, n, n_rows)
    exact = [x.astype(np.float64) for x in (p, dense, linear, fluence, background, scale)]
    slices, _ = reference.compress_background(*exact)
    oriented = exact[1] * (np.arange(n_rows) < n_rows - n_rows // 4)
    _, signal = reference.compress_background(exact[0], oriented, *exact[2:])
    options = {"background": (packed(linear), fluence, background, scale)}
    return arguments, options, dense, (slices, signal)


# --- against the reference


@pytest.mark.parametrize("shape", SIZES + EMPTY)
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference(form, shape):
    arguments, options, dense, (want, want_signal) = problem(form, *shape)
    slices, signal = compress(*arguments, **options)
    assert slices.dtype == np.float32
    assert slices.shape == shape[1:]
    # The share of signal rounds 5 times: two products, a sum, a division, a product.
    error = rounding(arguments[0], dense) + (5 * EPS * np.abs(want) if options else 0.0)
    assert (np.abs(slices - want) <= error).all()
    if form == "background":
        # Each photon's 32 lanes are summed in float32, the rest in float64.
        assert signal.dtype == np.float64
        np.testing.assert_allclose(signal, want_signal, rtol=(5 + LANES) * EPS)
    else:
        assert signal is None


# --- what must hold


def test_counts_of_probability_one_are_exact():
    """Sums of whole numbers below 2^24 do not round: every photon is counted once."""
    photons, dense = block(200, 97, largest=65535)
    p = np.zeros((200, 70), np.float32)
    p[np.arange(200), np.arange(200) % 70] = 1
    want = np.zeros((70, 97))
    np.add.at(want, np.arange(200) % 70, dense)
    np.testing.assert_array_equal(compress(p, photons, 70, 97)[0], want)
    np.testing.assert_array_equal(compress(p, dense, 70, 97)[0], want)


def test_photons_are_conserved():
    photons, dense = block(100, 65)
    p = weights(100, 40)
    slices, _ = compress(p, photons, 40, 65)
    want = (p.sum(axis=1, dtype=float) * dense.sum(axis=1)).sum()
    assert slices.sum(dtype=float) == pytest.approx(want, rel=100 * EPS)


def test_sparse_and_dense_agree():
    photons, dense = block(65, 130)
    p = weights(65, 70)
    a, b = (compress(p, values, 70, 130)[0] for values in (photons, dense))
    assert (np.abs(a - b) <= 2 * rounding(p, dense)).all()


def test_rows_that_only_merge_are_merged():
    photons, _ = block(30, 64, n_orient=10)
    p = weights(30, 33)
    slices, _ = compress(p, photons, 33, 64)
    assert (slices[:, 10:] > 0).any()
    oriented = photons._replace(orient_end=photons.begin[1:].copy())
    np.testing.assert_array_equal(compress(p, oriented, 33, 64)[0], slices)


def test_without_background_everything_is_signal():
    photons, dense = block(65, 130, n_orient=130)
    p = weights(65, 40)
    linear, fluence, _, scale = with_background(65, 40, 130)
    options = {"background": (packed(linear + 1), fluence, np.zeros(130, np.float32), scale)}
    slices, signal = compress(p, photons, 40, 130, **options)
    plain, _ = compress(p, photons, 40, 130)
    np.testing.assert_allclose(slices, plain, rtol=65 * EPS)
    want = p.sum(axis=1, dtype=float) * dense.sum(axis=1)
    np.testing.assert_allclose(signal, want, rtol=(5 + LANES) * EPS)


def test_without_intensity_nothing_is_signal():
    """Also where signal and background are both 0: no 0 / 0."""
    photons, _ = block(65, 130)
    _, fluence, background, scale = with_background(65, 40, 130)
    zero = packed(np.zeros((40, 130), np.float32))
    slices, signal = compress(
        weights(65, 40), photons, 40, 130, background=(zero, fluence, background, scale)
    )
    np.testing.assert_array_equal(slices, 0)
    np.testing.assert_array_equal(signal, 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", [0, 1, 32, 45])
def test_a_tile_is_its_columns(form, first):
    n = 40
    arguments, options, *_ = problem(form, 30, 100, 65)
    p = arguments[0]
    if form == "background":
        linear, *rest = with_background(30, 100, 65)
        options = {"background": (packed(linear[first : first + n]), *rest)}
    out = np.full((n, 65), np.nan, np.float32)
    tile, signal = compress(p, arguments[1], n, 65, first, out=out, **options)
    assert tile is out
    alone = np.ascontiguousarray(p[:, first : first + n])
    want, want_signal = compress(alone, arguments[1], n, 65, **options)
    np.testing.assert_array_equal(tile, want)
    np.testing.assert_array_equal(signal, want_signal)


@pytest.mark.parametrize("form", FORMS)
def test_frames_without_posterior_cost_and_change_nothing(form):
    arguments, options, *_ = problem(form, 30, 40, 65)
    if form == "dense":
        arguments[1][2::7] = np.nan  # never read
    else:
        used = np.arange(30) % 7 == 2
        count = arguments[1].count.copy()
        count[np.repeat(used, np.diff(arguments[1].begin))] = 9
        arguments[1] = arguments[1]._replace(count=count)
    slices, signal = compress(*arguments, **options)
    assert np.isfinite(slices).all()
    np.testing.assert_array_equal(slices, compress(*problem(form, 30, 40, 65)[0], **options)[0])
    if signal is not None:
        np.testing.assert_array_equal(signal[2::7], 0)


def test_control_of_shuffled_photons():
    arguments, _, dense, (want, _) = problem("sparse", 65, 40, 130)
    photons = arguments[1]
    lit = want > 0
    error = rounding(arguments[0], dense)
    other = np.random.default_rng(0).permutation(photons.count)
    slices, _ = compress(arguments[0], photons._replace(count=other), 40, 130)
    assert (np.abs(slices - want) > 10 * error)[lit].mean() > 0.5
    slices, _ = compress(arguments[0][::-1].copy(), photons, 40, 130)
    assert (np.abs(slices - want) > 10 * error)[lit].mean() > 0.5


@cpu_only
@pytest.mark.parametrize("form", FORMS)
def test_threads_do_not_change_a_bit(form):
    arguments, options, *_ = problem(form, 100, 200, 130)
    one, *others = (compress(*arguments, threads=n, **options) for n in (1, 2, 3))
    for other in others:
        assert one[0].tobytes() == other[0].tobytes()
        if form == "background":
            assert one[1].tobytes() == other[1].tobytes()


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 1}, "the tile must lie inside the columns of the posterior"),
        ({"first": -1}, "the tile must lie inside the columns of the posterior"),
        ({"n_orientations": 6}, "the tile must lie inside the columns of the posterior"),
        ({"photons": block(2, 7)[0]}, "photons and the block must agree in frames"),
        ({"photons": np.zeros((3, 8), "f4")}, r"values must be \[D, T\]"),
        ({"photons": np.zeros((2, 7), "f4")}, r"values must be \[D, T\]"),
    ],
)
def test_errors(change, message):
    arguments = {
        "probability": weights(3, 5),
        "photons": block(3, 7, lit=1.0)[0],
        "n_orientations": 5,
        "n_rows": 7,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        compress(**arguments)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.zeros((1, 8, LANES), "f4"), r"panels must be \[panels, T, lanes\]"),
        (0, np.zeros((0, 7, LANES), "f4"), r"panels must be \[panels, T, lanes\]"),
        (0, np.zeros((2, 7, LANES), "f4"), r"panels must be \[panels, T, lanes\]"),
        (1, np.ones(4, "f4"), r"fluence and background_scale \[D\], background \[T\]"),
        (2, np.ones(3, "f4"), r"fluence and background_scale \[D\], background \[T\]"),
        (3, np.ones(4, "f4"), r"fluence and background_scale \[D\], background \[T\]"),
    ],
)
def test_background_is_checked(place, value, message):
    arguments, options, *_ = problem("background", 3, 5, 7)
    compress(*arguments, **options)
    background = list(options["background"])
    background[place] = value
    with pytest.raises(ValueError, match=message):
        compress(*arguments, background=tuple(background))


@pytest.mark.parametrize("place", [0, 1])
def test_arrays_of_another_type_are_not_converted(place):
    arguments, *_ = problem("dense", 3, 5, 7)
    arguments[place] = arguments[place].astype(np.float64)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        compress(*arguments)


@cpu_only
def test_bad_threads():
    with pytest.raises(InputError, match="threads must be between 1 and 4096, got 0"):
        compress(*problem("sparse", 3, 5, 7)[0], threads=0)


@cpu_only
@pytest.mark.parametrize("form", FORMS)
def test_scratch_of_the_caller_is_used(form):
    arguments, options, *_ = problem(form, 30, 40, 65)
    scratch = np.full((2, 65, LANES), np.nan, np.float32)
    slices, _ = compress(*arguments, scratch=scratch, threads=2, **options)
    np.testing.assert_array_equal(slices, compress(*arguments, threads=2, **options)[0])
    assert np.isfinite(scratch).any()
    with pytest.raises(ValueError, match=r"scratch must be \[threads, T, lanes\]"):
        compress(*arguments, scratch=scratch, threads=3, **options)


@cpu_only
def test_the_module_guards_its_scratch():
    p, photons, n, n_rows = problem("sparse", 3, 5, 7)[0]
    for shape in [(1, 7, LANES), (2, 6, LANES), (2, 7, 16)]:
        with pytest.raises(ValueError, match=r"scratch must be \[threads, T, lanes\]"):
            _core.compress(p, 0, tuple(photons), np.empty(shape, "f4"), np.empty((n, n_rows), "f4"),
                           2)  # fmt: skip


def test_rows_beyond_the_tomogram():
    """Refused on the CPU; on a GPU, where values are not read, left out."""
    p, (photons, _) = weights(30, 40), block(30, 65)
    background = (packed(with_background(30, 40, 64)[0]), *with_background(30, 40, 64)[1:])
    for options in ({}, {"background": background}):
        if Column.current.library is None:
            with pytest.raises(ValueError, match="a row lies beyond the tomogram"):
                compress(p, photons, 40, 64, **options)
            continue
        slices, _ = compress(p, photons, 40, 64, **options)
        kept = photons.row < 64
        begin = np.concatenate([[0], np.cumsum(kept)])
        fewer = Photons(
            begin[photons.begin], begin[photons.orient_end], photons.row[kept], photons.count[kept]
        )
        assert len(fewer.row) < len(photons.row)
        np.testing.assert_array_equal(slices, compress(p, fewer, 40, 64, **options)[0])


@cpu_only
def test_photons_of_merge_only_rows_are_checked():
    photons = Photons(
        np.array([0, 2]), np.array([1]), np.array([0, 9], np.uint32), np.ones(2, np.uint16)
    )
    with pytest.raises(ValueError, match="a row lies beyond the tomogram"):
        compress(weights(1, 3), photons, 3, 9)

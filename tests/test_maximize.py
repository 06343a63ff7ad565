"""maximize against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

import numpy as np
import pytest
from columns import Column, cpu_only, on_column
from test_elementary import STATED
from test_ewald_slice import EPS
from test_expand import packed

from spicore import Detector, orientations, reference, simulate
from spicore.emc import kernels
from spicore.emc.kernels import LANES, Photons
from spicore.emc.layout import PixelLayout
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

expand = on_column(kernels.expand)


def maximize(panels, photons, fluence, offset, ll, *first, **options):
    """The operation in the column of the test."""
    to = Column.current.to
    written = to(ll)
    options = {name: to(x) for name, x in options.items()}
    arguments = *map(to, (panels, photons, fluence, offset)), written, *first
    kernels.maximize(*arguments, **options)
    ll[...] = Column.current.back(written)


# Frames, orientations, rows: one, and around 16, 32, 64 lanes and 8 and 256 frames of a block.
SIZES = [(1, 1, 1), (3, 31, 15), (7, 32, 64), (9, 33, 65), (65, 100, 17), (257, 5, 130)]
EMPTY = [(0, 3, 4), (3, 0, 4), (3, 4, 0)]


def block(n_frames, n_rows, seed=0, *, n_orient=None, lit=0.3, largest=65535):
    """Photons with counts from 1 to `largest`, and their dense form [D, n_rows].

    Every fifth frame is empty; rows from `n_orient` on (default: three quarters) only merge.
    """
    rng = np.random.default_rng(seed)
    n_orient = n_rows - n_rows // 4 if n_orient is None else n_orient
    dense = rng.geometric(0.4, (n_frames, n_rows)) * (rng.random((n_frames, n_rows)) < lit)
    dense[rng.random(dense.shape) < 0.01] = largest
    dense[3::5] = 0
    frame, row = np.nonzero(dense)
    begin = np.searchsorted(frame, np.arange(n_frames + 1))
    orient_end = begin[:-1] + (dense[:, :n_orient] > 0).sum(axis=1)
    count = dense[frame, row].astype(np.uint16)
    photons = Photons(begin, orient_end, row.astype(np.uint32), count)
    return photons, dense.astype(np.float32)


def tomograms(n, n_rows, seed=0):
    """Logarithms of intensities over their radial mean, float32 [R, T]."""
    return np.random.default_rng(seed + 100).normal(0.0, 1.5, (n, n_rows)).astype(np.float32)


def terms_of(n_frames, n, seed=0):
    """Fluence [D] and offset [R]."""
    rng = np.random.default_rng(seed + 200)
    fluence = rng.gamma(4.0, 0.25, n_frames).astype(np.float32)
    return fluence, rng.normal(0.0, 100.0, n).astype(np.float32)


def rounding(values, logs, fluence, offset):
    """Bound of the error of a sum of n products in float32, added in any order.

    Each product is rounded, then at most n sums, the product with the fluence and the last
    difference: n + 3 roundings of numbers below the sum of magnitudes.
    """
    n = (values != 0).sum(axis=1)[:, None] + 3
    size = np.abs(values).astype(float) @ np.abs(logs).astype(float).T
    return n * EPS * (size + np.abs(np.outer(fluence, offset)))


def scores(panels, photons, fluence, offset, **options):
    ll = np.full((len(fluence), len(offset)), np.nan, np.float32)
    maximize(panels, photons, fluence, offset, ll, **options)
    return ll


# --- against the reference


@pytest.mark.parametrize("shape", SIZES + EMPTY)
def test_sparse_matches_reference(shape):
    n_frames, n, n_rows = shape
    photons, dense = block(n_frames, n_rows)
    dense[:, n_rows - n_rows // 4 :] = 0  # rows that only merge say nothing of the orientation
    logs, (fluence, offset) = tomograms(n, n_rows), terms_of(n_frames, n)
    got = scores(packed(logs), photons, fluence, offset)
    want = reference.maximize(dense, logs, fluence, offset)
    assert (np.abs(got - want) <= rounding(dense, logs, fluence, offset)).all()


@pytest.mark.parametrize("shape", SIZES + EMPTY)
@pytest.mark.parametrize("kind", ["counts", "reals"])
def test_dense_matches_reference(shape, kind):
    n_frames, n, n_rows = shape
    dense = block(n_frames, n_rows, lit=0.8)[1]
    if kind == "reals":
        dense = np.random.default_rng(1).normal(0.0, 3.0, dense.shape).astype(np.float32)
    logs, (fluence, offset) = tomograms(n, n_rows), terms_of(n_frames, n)
    got = scores(packed(logs), dense, fluence, offset)
    want = reference.maximize(dense, logs, fluence, offset)
    assert (np.abs(got - want) <= rounding(dense, logs, fluence, offset)).all()


def with_background(n_frames, n, n_rows):
    """Linear tomograms, fluence, offset and (background, scale, reference); some W and B are 0."""
    rng = np.random.default_rng(5)
    linear = rng.gamma(0.5, 2.0, (n, n_rows)).astype(np.float32)
    linear[:, ::7] = 0
    background = rng.gamma(0.5, 0.5, n_rows).astype(np.float32)
    background[::14] = 0
    scale = rng.uniform(0.2, 3.0, n_frames).astype(np.float32)
    log_mean = rng.normal(0.0, 1.0, n_rows).astype(np.float32)
    return linear, *terms_of(n_frames, n), (background, scale, log_mean)


def background_rounding(dense, linear, fluence, offset, background, scale, log_mean):
    """Bound for `maximize_background`: the sum as above, its logarithms with their own error.

    The argument of a logarithm has two roundings (relative, so absolute in the logarithm), the
    logarithm its stated relative error, and the reference is subtracted with one more.
    """
    expected = np.multiply.outer(fluence, linear).astype(float)
    expected += (scale[:, None] * background)[:, None]
    size = np.abs(np.log(np.maximum(expected, 1e-36))) + np.abs(log_mean)
    n = (dense != 0).sum(axis=1)[:, None] + 4
    each = (n[..., None] * EPS + STATED) * size + 3 * EPS
    summed = np.einsum("dt,drt->dr", dense.astype(float), each)
    return summed + 3 * EPS * np.abs(np.outer(fluence, offset))


@pytest.mark.parametrize("shape", SIZES + EMPTY)
def test_background_matches_reference(shape):
    n_frames, _, n_rows = shape
    photons, dense = block(n_frames, n_rows)
    dense[:, n_rows - n_rows // 4 :] = 0
    linear, fluence, offset, background = with_background(*shape)
    got = scores(packed(linear), photons, fluence, offset, background=background)
    want = reference.maximize_background(dense, linear, fluence, offset, *background)
    error = background_rounding(dense, linear, fluence, offset, *background)
    assert (np.abs(got - want) <= error).all()


# --- what must hold


def test_background_of_zero_is_the_plain_form():
    """log(fluence W) summed is the plain form with N log(fluence) added."""
    photons, dense = block(40, 70, n_orient=70)
    linear = np.exp(tomograms(33, 70))
    fluence, offset = terms_of(40, 33)
    zero = np.zeros(70, np.float32)
    got = scores(packed(linear), photons, fluence, offset, background=(zero, fluence, zero))
    logs = np.log(linear)
    want = scores(packed(logs), photons, fluence, offset)
    want += dense.sum(axis=1)[:, None] * np.log(fluence)[:, None]
    error = background_rounding(dense, linear, fluence, offset, zero, fluence, zero)
    assert (np.abs(got - want) <= 3 * error).all()


def test_frames_and_orientations_do_not_mix():
    """One photon in one frame is one element of one row."""
    logs = tomograms(70, 40)
    n = 300
    one = Photons(
        np.arange(n + 1), np.arange(1, n + 1), (np.arange(n) % 40).astype(np.uint32),
        (1 + np.arange(n)).astype(np.uint16),
    )  # fmt: skip
    got = scores(packed(logs), one, np.zeros(n, np.float32), np.zeros(70, np.float32))
    want = (1 + np.arange(n, dtype=np.float32))[:, None] * logs[:, np.arange(n) % 40].T
    np.testing.assert_array_equal(got, want)


def test_control_of_shuffled_photons():
    photons, dense = block(65, 130, n_orient=130)
    logs, (fluence, offset) = tomograms(40, 130), terms_of(65, 40)
    want = reference.maximize(dense, logs, fluence, offset)
    error = rounding(dense, logs, fluence, offset)
    lit = np.diff(photons.begin) > 0
    moved = photons._replace(row=(129 - photons.row).astype(np.uint32))
    other = photons._replace(count=np.roll(photons.count, 1))
    for shuffled in (moved, other):
        got = scores(packed(logs), shuffled, fluence, offset)
        assert (np.abs(got - want) > 10 * error)[lit].mean() > 0.9


@pytest.mark.parametrize("form", ["sparse", "dense", "background"])
@pytest.mark.parametrize("first", [0, 1, 32, 37])
def test_only_the_columns_of_the_tile_are_written(form, first):
    n_frames, n, n_rows = 9, 33, 65
    photons, dense = block(n_frames, n_rows)
    linear, fluence, offset, background = with_background(n_frames, n, n_rows)
    options = {"background": background} if form == "background" else {}
    values = dense if form == "dense" else photons
    want = scores(packed(linear), values, fluence, offset, **options)
    ll = np.full((n_frames, 37 + n), np.nan, np.float32)
    maximize(packed(linear), values, fluence, offset, ll, first, **options)
    np.testing.assert_array_equal(ll[:, first : first + n], want)
    ll[:, first : first + n] = np.nan
    assert np.isnan(ll).all()


@pytest.mark.parametrize("form", ["sparse", "dense", "background"])
def test_a_frame_does_not_depend_on_its_neighbours(form):
    """Nor on where in a block or tile it is: selections and tiles give the same numbers."""
    n_frames, n, n_rows = 259, 40, 65
    photons, dense = block(n_frames, n_rows)
    linear, fluence, offset, background = with_background(n_frames, n, n_rows)
    values = dense if form == "dense" else photons
    options = {"background": background} if form == "background" else {}
    want = scores(packed(linear), values, fluence, offset, **options)
    d = 258
    if form == "dense":
        values = np.ascontiguousarray(dense[d:])
    else:
        a, b = photons.begin[d : d + 2]
        values = Photons(
            np.array([0, b - a]), photons.orient_end[d:] - a, photons.row[a:b], photons.count[a:b]
        )
    if form == "background":
        options = {"background": (background[0], background[1][d:], background[2])}
    got = scores(packed(linear[32:]), values, fluence[d:], offset[32:], **options)
    # The register block of 8 dense frames may round in another order than a single frame.
    error = rounding(dense, linear, fluence, offset)[d, 32:] if form == "dense" else 0
    assert (np.abs(got[0] - want[d, 32:]) <= error).all()


@cpu_only
@pytest.mark.parametrize("form", ["sparse", "dense", "background"])
def test_threads_do_not_change_a_bit(form):
    n_frames, n, n_rows = 600, 100, 130
    photons, dense = block(n_frames, n_rows)
    linear, fluence, offset, background = with_background(n_frames, n, n_rows)
    values = dense if form == "dense" else photons
    options = {"background": background} if form == "background" else {}
    one, two, three = (
        scores(packed(linear), values, fluence, offset, threads=k, **options) for k in (1, 2, 3)
    )
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_sparse_and_dense_agree():
    photons, dense = block(65, 130, n_orient=130)
    logs, (fluence, offset) = tomograms(70, 130), terms_of(65, 70)
    sparse = scores(packed(logs), photons, fluence, offset)
    error = rounding(dense, logs, fluence, offset)
    assert (np.abs(sparse - scores(packed(logs), dense, fluence, offset)) <= 2 * error).all()


@pytest.fixture(scope="module")
def experiment():
    """Frames of 3,000 photons, the intensity they come from and a grid."""
    detector = Detector.square(48)
    volume = simulate.intensity(simulate.particle(0, diameter=12), detector.size)
    frames, truth = simulate.frames(volume, detector, 50, 3000, seed=1)
    quats = np.concatenate([truth["quats"][:14], orientations.grid600(2)[0][::10]])
    return detector, volume * np.float32(truth["scale"]), frames, quats


@pytest.mark.parametrize("subtracted", [True, False])
def test_log_likelihood_is_exact_to_a_thousandth(experiment, subtracted):
    """Against float64 throughout, expand included, for 3,000 photons per frame.

    Measured, largest of 2,800: 8.4e-4, of which expand makes 7.2e-4; 2.5e-4 among orientations
    that can matter, within 50 nats of a frame's best. Without the reference the sums reach 3,300
    instead of 1,500 and the error 1.6e-3 to 3.4e-3, near the best 0.9e-3 to 2.1e-3, by the order
    of the sum. Errors grow with the photons: 2.7e-3 and 7.5e-4 for 10,000.
    """
    detector, volume, frames, quats = experiment
    layout = PixelLayout(detector)
    rows = slice(0, layout.n_orient)
    q, exposure = np.ascontiguousarray(layout.q[:, rows]), layout.exposure[rows]
    linear, total = reference.expand(volume, quats, q.T.astype(float), exposure.astype(float), None)
    log_mean = np.log(linear.mean(axis=0)) if subtracted else np.zeros(layout.n_orient)
    log_mean = log_mean.astype(np.float32)
    centre = np.exp(log_mean.astype(float)).sum() if subtracted else 0.0
    photons = layout.photons(frames.read(0, 50), 1)
    dense = photons.to_dense(layout.n_orient)
    fluence = np.ones(50, np.float32)

    panels, sums = expand(volume, quats, q, exposure, log_mean)
    got = scores(panels, photons, fluence, (sums - centre).astype(np.float32))
    want = reference.maximize(dense, np.log(linear) - log_mean, fluence, total - centre)
    constant = dense.astype(float) @ log_mean - centre
    assert np.abs(want + constant[:, None]).max() > 3000
    error = np.abs(got - want)
    matters = want > want.max(axis=1, keepdims=True) - 50
    if subtracted:
        assert error.max() < 1e-3
        assert error[matters].max() < 4e-4
    else:  # the control
        assert error.max() > 1.2e-3
        assert error[matters].max() > 6e-4


@pytest.mark.parametrize("form", ["sparse", "background"])
def test_rows_beyond_the_tomograms(form):
    """Refused on the CPU; on a GPU, where values are not read, left out."""
    photons, _ = block(9, 65, n_orient=65, lit=1.0)
    linear, fluence, offset, background = with_background(9, 33, 60)
    options = {"background": background} if form == "background" else {}
    if Column.current.library is None:
        with pytest.raises(ValueError, match="a row lies beyond the tomogram"):
            scores(packed(linear), photons, fluence, offset, **options)
        return
    got = scores(packed(linear), photons, fluence, offset, **options)
    none = photons._replace(count=np.where(photons.row < 60, photons.count, 0).astype(np.uint16))
    more = [np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 5)]) for x in (linear, background[0])]
    if form == "background":
        padded = np.pad(background[2], (0, 5))
        options = {"background": (more[1], background[1], padded)}
    np.testing.assert_array_equal(got, scores(packed(more[0]), none, fluence, offset, **options))


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"panels": np.zeros((2, 7, LANES), "f4")}, r"panels must be \[ceil\(R / lanes\), T,"),
        ({"panels": np.zeros((1, 7, 16), "f4")}, r"panels must be \[ceil\(R / lanes\), T, lanes"),
        ({"fluence": np.zeros(4, "f4")}, "fluence and ll must agree in frames"),
        ({"ll": np.zeros((3, 4), "f4")}, "the tile must lie inside the columns of ll"),
        ({"first": 1}, "the tile must lie inside the columns of ll"),
        ({"first": -1}, "the tile must lie inside the columns of ll"),
        ({"photons": block(2, 7)[0]}, "photons and the block must agree in frames"),
        ({"photons": np.zeros((3, 8), "f4")}, r"values must be \[D, T\]"),
        ({"photons": np.zeros((2, 7), "f4")}, r"values must be \[D, T\]"),
    ],
)
def test_errors(change, message):
    fluence, offset = terms_of(3, 5)
    arguments = {
        "panels": packed(tomograms(5, 7)),
        "photons": block(3, 7, lit=1.0)[0],
        "fluence": fluence,
        "offset": offset,
        "ll": np.empty((3, 5), np.float32),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        maximize(**arguments)


@cpu_only
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("begin", [1, 2, 4], "begin must stay inside row and count"),
        ("begin", [0, 2, 5], "begin must stay inside row and count"),
        ("begin", [0, 3, 2], "orient_end must lie within its frame"),
        ("orient_end", [3, 4], "orient_end must lie within its frame"),
        ("orient_end", [1, 1], "orient_end must lie within its frame"),
        ("row", [0, 7, 1, 2], "a row lies beyond the tomogram"),
        ("count", [1, 1, 1], "begin must stay inside row and count"),
    ],
)
def test_photons_are_checked(field, value, message):
    arrays = {
        "begin": np.array([0, 2, 4]),
        "orient_end": np.array([2, 4]),
        "row": np.array([0, 1, 1, 2], np.uint32),
        "count": np.ones(4, np.uint16),
    }
    arguments = [*terms_of(2, 5), np.empty((2, 5), np.float32)]
    panels = packed(tomograms(5, 7))
    maximize(panels, Photons(**arrays), *arguments)
    arrays[field] = np.array(value, arrays[field].dtype)
    with pytest.raises(ValueError, match=message):
        maximize(panels, Photons(**arrays), *arguments)


@pytest.mark.parametrize(
    ("place", "length", "message"),
    [
        (0, 6, r"background and reference must be \[T\]"),
        (1, 2, "background_scale must have one value per frame"),
        (2, 8, r"background and reference must be \[T\]"),
    ],
)
def test_background_is_checked(place, length, message):
    linear, fluence, offset, background = with_background(3, 5, 7)
    background = list(background)
    background[place] = np.ones(length, np.float32)
    with pytest.raises(ValueError, match=message):
        scores(packed(linear), block(3, 7)[0], fluence, offset, background=tuple(background))


@pytest.mark.parametrize("name", ["panels", "fluence", "offset", "ll", "photons"])
def test_arrays_of_another_type_are_not_converted(name):
    fluence, offset = terms_of(3, 5)
    arguments = {"panels": packed(tomograms(5, 7)), "photons": block(3, 7)[1],
                 "fluence": fluence, "offset": offset, "ll": np.empty((3, 5), "f4")}  # fmt: skip
    maximize(**arguments)
    arguments[name] = arguments[name].astype(np.float64)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        maximize(**arguments)


@cpu_only
def test_a_read_only_result_is_refused():
    ll = np.zeros((3, 5), np.float32)
    ll.flags.writeable = False
    with pytest.raises(TypeError, match="incompatible function arguments"):
        maximize(packed(tomograms(5, 7)), block(3, 7)[1], *terms_of(3, 5), ll)


@cpu_only
def test_bad_threads():
    with pytest.raises(InputError, match="threads must be between 1 and 4096, got -1"):
        scores(packed(tomograms(5, 7)), block(3, 7)[1], *terms_of(3, 5), threads=-1)

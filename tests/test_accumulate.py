"""accumulate against its reference and what must hold, for every column of conftest."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from columns import Column, cpu_only, gpu_only
from test_ewald_slice import EPS

import spicore as sp
from spicore import _core, reference
from spicore.emc.kernels import Photons
from spicore.emc.polar.accumulate import Terms, accumulate
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

ANGLES = [32, 48, 144, 256]
N_RINGS = 5
GROUPS = 3
# Terms per frame and view and mirror: few are scattered; many, with the photons of `block` on
# a fifth of the bins, are twice what it takes for matrix products at any A.
FORMS = {"scatter": 2, "products": 20}


def block(n_frames, n_angles, seed=0, *, lit=0.2, largest=300, n_rings=N_RINGS):
    """Photons of polar bins, some bins twice (orient and merge), and [D, Q, A]; some are empty."""
    rng = np.random.default_rng(seed)
    n_bins = n_rings * n_angles
    parts = rng.geometric(0.4, (n_frames, 2 * n_bins))
    parts *= rng.random(parts.shape) < np.repeat([lit, lit / 3], n_bins)
    parts[rng.random(parts.shape) < 0.002] = largest
    parts[3::5] = 0
    frame, row = np.nonzero(parts)
    begin = np.searchsorted(frame, np.arange(n_frames + 1))
    orient_end = begin[:-1] + (parts[:, :n_bins] > 0).sum(axis=1)
    photons = Photons(begin, orient_end, row.astype(np.uint32), parts[frame, row].astype(np.uint16))
    dense = parts.reshape(n_frames, 2, n_rings, n_angles).sum(axis=1)
    return photons, dense


def pack(frame, view, mirror, j, p, *, n_angles, mirrors, chunk):
    """Terms in chunks of frames, sorted by group of views; the last chunk is empty."""
    group, n_chunks = view // 16, frame.max(initial=0) // chunk + 2
    order = np.lexsort((view, j, frame, group, frame // chunk))
    key = (frame // chunk * GROUPS + group)[order]
    begin = np.searchsorted(key, np.arange(n_chunks)[:, None] * GROUPS + np.arange(GROUPS + 1))
    orientation = (view * mirrors + mirror) * n_angles + j
    return Terms(
        begin.astype(np.int64),
        orientation[order].astype(np.uint32),
        frame[order].astype(np.uint32),
        p[order].astype(np.float32),
    )


def terms_of(n_frames, n_angles, mirrors, per_view, seed=0, *, chunk=7):
    """Terms [T] x (frame, view, mirror, j, p) and their packed form.

    A third are runs of neighbouring angles across 0; some have P = 0, some are given twice. The
    first view, the last group, and every seventh frame have none.
    """
    rng = np.random.default_rng(seed + 50)
    n = n_frames * 31 * mirrors * per_view
    frame, view = rng.integers(0, n_frames, n), rng.integers(1, 32, n)
    mirror, j = rng.integers(0, mirrors, n), rng.integers(0, n_angles, n)
    near = rng.random(n) < 0.3
    j[near] = (n_angles - 3 + rng.integers(0, 6, near.sum())) % n_angles
    p = rng.random(n).astype(np.float32) * (rng.random(n) < 0.9)
    keep = frame % 7 != 2
    listed = tuple(x[keep] for x in (frame, view, mirror, j, p))
    return listed, pack(*listed, n_angles=n_angles, mirrors=mirrors, chunk=chunk)


def problem(form, n_angles, mirrors, n_frames=20, n_rings=N_RINGS):
    """Arguments of `run`, and the reference's tomograms [V, bins] and exposures."""
    photons, dense = block(n_frames, n_angles, n_rings=n_rings)
    fluence = np.random.default_rng(1).gamma(4.0, 0.25, n_frames).astype(np.float32)
    listed, terms = terms_of(n_frames, n_angles, mirrors, FORMS[form])
    tomograms, exposures = reference.accumulate(
        zip(*listed, strict=True), dense, fluence, 16 * GROUPS, mirrors
    )
    arguments = (terms, photons, fluence, n_angles, mirrors)
    return arguments, tomograms.reshape(16 * GROUPS, -1), exposures


def added(terms, photons, fluence, n_angles, *sums, **others):
    """Tomograms and exposures after a call in the column of the test."""
    column = Column.current
    sums = column.to(tuple(x.copy() for x in sums))
    accumulate(*column.to((terms, photons, fluence, n_angles)), *sums, **others)
    return column.back(sums)


def run(terms, photons, fluence, n_angles, mirrors=2, threads=None, n_rings=N_RINGS):
    """Tomograms and exposures of a call that starts from 0."""
    start = (
        np.zeros((16 * GROUPS, n_rings * n_angles), np.float32),
        np.zeros((16 * GROUPS, mirrors, n_angles)),
    )
    return added(terms, photons, fluence, n_angles, *start, mirrors=mirrors, threads=threads)


def rounding(terms, want):
    """Bound of the error of either form: that of transforms goes with the largest bin."""
    return 20 * EPS * np.sqrt(len(terms.frame)) * want.max()


def uniform(n_frames, n_angles, per_view, mirrors=2):
    """Terms of probability 1 at the first angles of every view of the first group."""
    shape = (n_frames, 16, mirrors, per_view)
    listed = [x.ravel() for x in np.indices(shape)]
    p = np.ones(len(listed[0]), np.float32)
    return listed, pack(*listed, p, n_angles=n_angles, mirrors=mirrors, chunk=7)


# --- against the reference


@pytest.mark.parametrize("mirrors", [1, 2])
@pytest.mark.parametrize("n_angles", ANGLES)
@pytest.mark.parametrize("form", FORMS)
def test_matches_reference(form, n_angles, mirrors):
    arguments, want, want_exposures = problem(form, n_angles, mirrors)
    tomograms, exposures = run(*arguments)
    assert np.abs(tomograms - want).max() <= rounding(arguments[0], want)
    assert (tomograms >= 0).all()
    np.testing.assert_array_equal(tomograms[[0, *range(32, 48)]], 0)  # views without terms
    np.testing.assert_allclose(exposures, want_exposures, rtol=1e-12)


@pytest.mark.parametrize("n_frames", [63, 64, 65, 513])
def test_products_over_many_frames(n_frames):
    """Around the frames of one product, and the frames held at a time."""
    _, terms = uniform(n_frames, 32, 32)
    photons, dense = block(n_frames, 32)
    tomograms, _ = run(terms, photons, np.ones(n_frames, np.float32), 32)
    # Every angle of both mirror images: each bin holds the photons of its ring.
    want = np.repeat(2 * dense.sum(axis=(0, 2)), 32)
    np.testing.assert_allclose(tomograms[:16], np.tile(want, (16, 1)), rtol=20 * EPS)


@pytest.mark.parametrize("n_rings", [41, 81, 321])
def test_products_of_many_rings(n_rings):
    """On a GPU two, four or eight warps share an order, with 40 rings each."""
    arguments, want, _ = problem("products", 32, 2, n_frames=6, n_rings=n_rings)
    tomograms, _ = run(*arguments, n_rings=n_rings)
    assert np.abs(tomograms - want).max() <= rounding(arguments[0], want)


def test_more_rings_than_a_block_scatters_to():
    """On a GPU, in shared memory: 72 KB, 36 of these rings."""
    photons, dense = block(4, 512, lit=0.01, n_rings=75)
    fluence = np.ones(4, np.float32)
    listed, terms = terms_of(4, 512, 2, 1)
    tomograms, exposures = run(terms, photons, fluence, 512, n_rings=75)
    want, want_exposures = reference.accumulate(
        zip(*listed, strict=True), dense, fluence, 16 * GROUPS, 2
    )
    np.testing.assert_allclose(tomograms, want.reshape(tomograms.shape), rtol=20 * EPS)
    np.testing.assert_allclose(exposures, want_exposures, rtol=1e-12)


# --- what must hold


def test_the_two_forms_are_used():
    """Scattered whole numbers do not round; products do, so both were run."""
    photons, dense = block(30, 144)
    fluence = np.ones(30, np.float32)
    exact = {}
    for per_view in (1, 100):
        listed, terms = uniform(30, 144, per_view)
        tomograms, _ = run(terms, photons, fluence, 144)
        want, _ = reference.accumulate(
            zip(*listed, np.ones(len(listed[0])), strict=True), dense, fluence, 16 * GROUPS, 2
        )
        exact[per_view] = (tomograms == want.reshape(tomograms.shape)).all()
        assert np.abs(tomograms - want.reshape(tomograms.shape)).max() <= 50 * EPS * want.max()
    assert exact == {1: True, 100: False}


@pytest.mark.parametrize("form", FORMS)
def test_photons_and_fluence_are_conserved(form):
    (terms, photons, fluence, *rest), *_ = problem(form, 48, 2)
    tomograms, exposures = run(terms, photons, fluence, *rest)
    per_frame = np.add.reduceat(np.append(photons.count, 0), photons.begin[:-1]) * (
        np.diff(photons.begin) > 0
    )
    p = terms.probability.astype(float)
    want = (p * per_frame[terms.frame]).sum()
    assert tomograms.sum(dtype=float) == pytest.approx(want, rel=100 * EPS)
    assert exposures.sum() == pytest.approx((p * fluence[terms.frame]).sum(), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_it_adds_to_what_is_there(form):
    (terms, photons, fluence, n_angles, mirrors), *_ = problem(form, 32, 2)
    once = run(terms, photons, fluence, n_angles, mirrors)
    twice = added(terms, photons, fluence, n_angles, *once)
    any_order = 0.0 if Column.current.library is None else rounding(terms, once[0])
    np.testing.assert_allclose(twice[0], 2 * once[0], rtol=2 * EPS, atol=any_order)
    np.testing.assert_allclose(twice[1], 2 * once[1], rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_photons_that_merge_count_like_those_that_orient(form):
    arguments, want, _ = problem(form, 48, 2)
    photons, n_bins = arguments[1], N_RINGS * 48
    assert (photons.row >= n_bins).any()
    merged = photons._replace(
        orient_end=photons.begin[:-1].copy(), row=(photons.row % n_bins).astype(np.uint32)
    )
    tomograms, _ = run(arguments[0], merged, *arguments[2:])
    assert np.abs(tomograms - want).max() <= rounding(arguments[0], want)


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_terms_in_a_group_is_free(form):
    (terms, *rest), want, want_exposures = problem(form, 48, 2)
    order, rng = np.arange(len(terms.frame)), np.random.default_rng(3)
    for row in terms.begin:
        for first, last in pairwise(row):
            order[first:last] = rng.permutation(order[first:last])
    mixed = terms._replace(**{k: getattr(terms, k)[order] for k in terms._fields[1:]})
    tomograms, exposures = run(mixed, *rest)
    assert np.abs(tomograms - want).max() <= rounding(terms, want)
    np.testing.assert_allclose(exposures, want_exposures, rtol=1e-12)


def test_no_terms_no_frames_no_groups():
    none = Terms(np.zeros((2, GROUPS + 1), np.int64), *(np.zeros(0, t) for t in ("u4", "u4", "f4")))
    photons, _ = block(5, 32)
    tomograms, exposures = run(none, photons, np.ones(5, np.float32), 32)
    assert not tomograms.any()
    assert not exposures.any()
    no_photons = Photons(np.zeros(1, np.int64), *(np.zeros(0, t) for t in ("i8", "u4", "u2")))
    run(none, no_photons, np.ones(0, np.float32), 32)
    empty = np.zeros((0, 160), np.float32), np.zeros((0, 2, 32))
    added(none._replace(begin=np.zeros((1, 1), np.int64)), photons, np.ones(5, np.float32), 32,
          *empty)  # fmt: skip


def test_control_of_shuffled_frames():
    for form in FORMS:
        arguments, want, _ = problem(form, 48, 2)
        terms = arguments[0]
        other = np.random.default_rng(0).permutation(20)[terms.frame].astype(np.uint32)
        tomograms, _ = run(terms._replace(frame=other), *arguments[1:])
        wrong = np.abs(tomograms - want) > 10 * rounding(terms, want)
        assert wrong[want > 0].mean() > 0.5


@gpu_only
def test_what_lies_outside_is_left_out():
    """Photons beyond the bins; terms of another group, and of no frame."""
    photons, _ = block(3, 32, lit=1.0)
    _, terms = uniform(3, 32, 2)
    fluence, n_bins = np.ones(3, np.float32), N_RINGS * 32
    want = run(terms, photons, fluence, 32)
    strange = np.tile(np.array([2 * n_bins, 3 * n_bins + 7, 2**32 - 1], np.uint32), 3)
    last = np.repeat(photons.begin[1:], 3)
    more = photons._replace(
        begin=photons.begin + 3 * np.arange(4),
        orient_end=photons.orient_end + 3 * np.arange(3),
        row=np.insert(photons.row, last, strange),
        count=np.insert(photons.count, last, np.uint16(5)),
    )
    end = terms.begin[0, 1]  # of the first group, whose terms go on
    begin = terms.begin.copy()
    begin[0, 1:] += 3
    begin[1:] += 3
    longer = Terms(
        begin,
        np.insert(terms.orientation, end, np.array([16 * 64, 2**32 - 1, 5], np.uint32)),
        np.insert(terms.frame, end, np.array([0, 0, 3], np.uint32)),
        np.insert(terms.probability, end, np.ones(3, np.float32)),
    )
    for got, same in zip(run(longer, more, fluence, 32), want, strict=True):
        np.testing.assert_allclose(got, same, rtol=20 * EPS)


@cpu_only
@pytest.mark.parametrize("form", FORMS)
def test_threads_do_not_change_a_bit(form):
    arguments, *_ = problem(form, 48, 2)
    one, *others = (run(*arguments, threads=n) for n in (1, 2, 3))
    for other in others:
        assert one[0].tobytes() == other[0].tobytes()
        assert one[1].tobytes() == other[1].tobytes()


# --- errors


def small():
    """Arguments of `accumulate` by name."""
    photons, _ = block(3, 32, lit=1.0)
    _, terms = uniform(3, 32, 2)
    return {
        "terms": terms,
        "photons": photons,
        "fluence": np.ones(3, np.float32),
        "n_angles": 32,
        "tomograms": np.zeros((48, 160), np.float32),
        "exposures": np.zeros((48, 2, 32)),
    }


def changed_begin(place, value):
    terms = small()["terms"]
    begin = terms.begin.copy()
    begin[place] = value
    return {"terms": terms._replace(begin=begin)}


def changed(name, value):
    array = getattr(small()["terms"], name).copy()
    array[5] = value
    return {"terms": small()["terms"]._replace(**{name: array})}


def refused(change, error, message):
    with pytest.raises(error, match=message):
        accumulate(**{k: Column.current.to(x) for k, x in (small() | change).items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": small()["terms"]._replace(frame=np.zeros(1, np.uint32))}, "of one length"),
        ({"n_angles": 40}, "no transform for this number of angles"),
        ({"mirrors": 3}, "mirrors must be 1 or 2"),
        ({"tomograms": np.zeros((48, 161), "f4")}, "rings of n_angles bins"),
        ({"tomograms": np.zeros((32, 160), "f4")}, "16 views for each group"),
        ({"exposures": np.zeros((48, 1, 32))}, r"exposures must be \[views, mirrors, angles\]"),
        ({"fluence": np.ones(4, "f4")}, "photons and the block must agree in frames"),
    ],
)
def test_shapes_that_disagree(change, message):
    refused(change, ValueError, message)


@cpu_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_begin((0, 0), -1), "begin must stay inside the terms"),
        (changed_begin((0, 1), 10**6), "begin must not decrease and stay inside"),
        (changed_begin((0, 2), 1), "begin must not decrease and stay inside"),
        (changed("orientation", 16 * 64), "an orientation lies outside its group"),
        (changed("orientation", 2**32 - 1), "an orientation lies outside its group"),
        (changed("frame", 3), "a frame lies beyond the block"),
        ({"tomograms": np.zeros((48, 128), "f4")}, "a row lies beyond the tomogram"),
    ],
)
def test_indices_outside_their_arrays(change, message):
    refused(change, ValueError, message)


@pytest.mark.parametrize("change", [{"fluence": np.ones(3)}, {"exposures": np.zeros(48)}])
def test_arrays_of_another_type_are_not_converted(change):
    refused(change, TypeError, "incompatible function arguments")


@cpu_only
def test_bad_threads():
    with pytest.raises(InputError, match="threads must be between 1 and 4096, got 0"):
        accumulate(**small(), threads=0)


@cpu_only
def test_the_module_guards_its_scratch():
    a = small()
    with pytest.raises(ValueError, match="no transform for this number of angles"):
        _core.accumulate_workspace(0, 2, 160, GROUPS, 1, 1)
    size = _core.accumulate_workspace(32, 2, 160, GROUPS, len(a["photons"].row), 2)
    for short in (0, 1):
        work = np.full(size - short, np.nan, np.float32)
        call = (tuple(a["terms"]), tuple(a["photons"]), a["fluence"], 32, 2, work, a["tomograms"],
                a["exposures"], 2)  # fmt: skip
        if short:
            with pytest.raises(ValueError, match="work is smaller than accumulate_workspace"):
                _core.accumulate(*call)
        else:
            _core.accumulate(*call)
            assert np.isfinite(a["tomograms"]).all()


@gpu_only
def test_a_gpu_is_given_its_scratch():
    a, column = small(), Column.current
    terms = a["terms"]
    size = _core.accumulate_device_workspace(32, 160, len(terms.begin), GROUPS, 3, len(terms.frame))
    work = np.zeros(size - 1, np.float32)
    call = map(column.to, (terms, a["photons"], a["fluence"], 32, 2, work, a["tomograms"],
                           a["exposures"]))  # fmt: skip
    with pytest.raises(ValueError, match="work is smaller than accumulate_workspace"):
        sp._cuda.accumulate(*call, 0)

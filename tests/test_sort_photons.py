"""sort_photons and the methods of Photons against NumPy, for every column of conftest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from columns import Column, cpu_only, gpu_only, on_column

from spicore import _core
from spicore.emc import kernels
from spicore.emc.kernels import Photons
from spicore.errors import InputError

pytestmark = pytest.mark.usefixtures("column")

sort_photons = on_column(kernels.sort_photons)
per_frame = on_column(Photons.per_frame)
to_dense = on_column(Photons.to_dense)
dense_part = on_column(lambda photons, a, b, n_rows: photons.part(a, b).to_dense(n_rows))
sums_of_part = on_column(lambda photons, a, b, values: photons.part(a, b).per_frame(values))


def sparse(lengths, n_pixels, seed=0, *, repeats=False):
    """Frames with the given numbers of lit pixels, in any order: offset, pixel, count."""
    rng = np.random.default_rng(seed)
    pixel = [rng.choice(n_pixels, n, replace=repeats) for n in lengths]
    offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count = np.minimum(rng.geometric(0.3, offset[-1]) ** 5, 65535)  # from 1 to the largest
    return offset, np.concatenate([*pixel, []]).astype(np.uint32), count.astype(np.uint16)


def rows(n_pixels, seed=0, ignored=0.2, merged=0.2):
    """Rows of the pixels in random order, those that orient first; and how many orient."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n_pixels, p=[1 - ignored - merged, merged, ignored])
    order = np.lexsort((rng.random(n_pixels), kind))
    row_of = np.full(n_pixels, -1, np.int32)
    used = order[kind[order] < 2]
    row_of[used] = np.arange(len(used), dtype=np.int32)
    return row_of, int((kind == 0).sum())


def expected(offset, pixel, count, row_of, n_orient):
    """The same with NumPy: (row, count) of each frame, sorted, and how many of them orient."""
    frames = []
    for a, b in itertools.pairwise(offset):
        row = row_of[pixel[a:b]]
        kept = row >= 0
        pairs = sorted(zip(row[kept].tolist(), count[a:b][kept].tolist(), strict=True))
        frames.append((pairs, int((row[kept] < n_orient).sum())))
    return frames


def as_frames(photons):
    """What `expected` returns, of `Photons`; pairs of one row in any order."""
    assert photons.begin[0] == 0
    assert min(len(photons.row), len(photons.count)) >= photons.begin[-1]
    frames = []
    for a, end, b in zip(photons.begin[:-1], photons.orient_end, photons.begin[1:], strict=True):
        row = photons.row[a:b]
        assert (np.diff(row.astype(np.int64)) >= 0).all()
        pairs = zip(row.tolist(), photons.count[a:b].tolist(), strict=True)
        frames.append((sorted(pairs), int(end - a)))
    return frames


LENGTHS = {
    "one": [1],
    "one empty": [0],
    "empty at both ends": [0, 0, 5, 0, 17, 0],
    "around the block": [15, 16, 17, 31, 32, 33, 63, 64, 65],
    "many": list(range(120)),
    "long": [3000, 1, 2999],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("kinds", [(0.2, 0.2), (0.0, 0.0), (0.0, 0.5), (0.9, 0.05)])
def test_matches_numpy(lengths, kinds):
    n_pixels = 3001
    frames = sparse(lengths, n_pixels)
    row_of, n_orient = rows(n_pixels, 1, *kinds)
    photons = sort_photons(*frames, row_of, n_orient)
    assert [x.dtype for x in photons] == [np.int64, np.int64, np.uint32, np.uint16]
    assert as_frames(photons) == expected(*frames, row_of, n_orient)
    unused = slice(photons.begin[-1], None)  # there are some on a GPU only
    assert not photons.row[unused].any()
    assert not photons.count[unused].any()


def test_counts_up_to_the_largest_travel_with_their_pixels():
    frames = sparse([500], 1000)
    assert frames[2].max() == 65535
    row_of, n_orient = rows(1000)
    photons = sort_photons(*frames, row_of, n_orient)
    want = expected(*frames, row_of, n_orient)
    assert as_frames(photons) == want
    # The control: counts that do not travel with their rows are another frame.
    kept = photons.count[: photons.begin[-1]]
    shuffled = photons._replace(count=np.random.default_rng(0).permutation(kept))
    assert as_frames(shuffled) != want


def test_a_pixel_listed_twice_stays_listed_twice():
    frames = sparse([40, 300, 7], 25, repeats=True)
    row_of, n_orient = rows(25)
    assert as_frames(sort_photons(*frames, row_of, n_orient)) == expected(*frames, row_of, n_orient)


@pytest.mark.parametrize("repeats", [False, True])
def test_around_the_shared_memory_of_a_block(repeats):
    """Frames of up to 7168 entries are sorted there on a GPU, longer ones in place."""
    frames = sparse([7168, 0, 7169, 16385, 7167], 20_000, repeats=repeats)
    row_of, n_orient = rows(20_000, ignored=0.0)
    assert as_frames(sort_photons(*frames, row_of, n_orient)) == expected(*frames, row_of, n_orient)


def test_many_photons_in_one_frame():
    """Beyond the largest gap of a Shell sort, in the worst order."""
    n = 100_003 if Column.current.name == "emulated" else 2_000_003  # for the time it takes
    frames = np.array([0, n]), np.arange(n, dtype=np.uint32)[::-1].copy(), np.ones(n, np.uint16)
    photons = sort_photons(*frames, np.arange(n, dtype=np.int32), n // 2)
    np.testing.assert_array_equal(photons.row, np.arange(n))
    assert photons.orient_end[0] == n // 2


def test_only_ignored_pixels():
    photons = sort_photons(*sparse([4, 9], 20), np.full(20, -1, np.int32), 0)
    np.testing.assert_array_equal(photons.begin, [0, 0, 0])
    np.testing.assert_array_equal(photons.orient_end, [0, 0])


def test_no_frames():
    photons = sort_photons(*sparse([], 20), np.arange(20, dtype=np.int32), 20)
    np.testing.assert_array_equal(photons.begin, [0])
    assert photons.orient_end.shape == (0,)


@cpu_only
def test_threads_do_not_change_a_bit():
    frames = sparse(list(range(200)), 300, repeats=True)
    row_of, n_orient = rows(300)
    one, *others = (sort_photons(*frames, row_of, n_orient, threads=n) for n in (1, 2, 3))
    for other in others:
        for a, b in zip(one, other, strict=True):
            n = one.begin[-1] if a.dtype in (np.uint32, np.uint16) else len(a)
            assert a[:n].tobytes() == b[:n].tobytes()


# --- methods of Photons


def dense_of(frames, row_of, n_orient):
    """The frames as [D, rows], with NumPy."""
    want = np.zeros((len(frames[0]) - 1, row_of.max() + 1))
    for d, (pairs, _) in enumerate(expected(*frames, row_of, n_orient)):
        for row, count in pairs:
            want[d, row] += count
    return want


def test_to_dense():
    frames = sparse([0, 40, 7, 0], 25, repeats=True)
    row_of, n_orient = rows(25)
    photons = sort_photons(*frames, row_of, n_orient)
    want = dense_of(frames, row_of, n_orient)
    dense = to_dense(photons, want.shape[1])
    assert dense.dtype == np.float32
    np.testing.assert_array_equal(dense, want)
    np.testing.assert_array_equal(to_dense(photons, n_orient), want[:, :n_orient])


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_per_frame_sums_what_orients(dtype):
    """Whatever stands in the unused rest, and whichever entries merely merge."""
    frames = sparse([0, 40, 7, 0, 300, 0], 60, repeats=True)
    row_of, n_orient = rows(60)
    photons = sort_photons(*frames, row_of, n_orient)
    values = photons.count.astype(dtype)
    values[photons.begin[-1] :] = 77
    want = dense_of(frames, row_of, n_orient)[:, :n_orient].sum(axis=1)
    sums = per_frame(photons, values)
    assert sums.dtype == np.float64
    np.testing.assert_array_equal(sums, want)
    assert want[4] > 0
    np.testing.assert_array_equal(
        per_frame(sort_photons(*sparse([], 9), row_of, 9), values[:0]), []
    )


@pytest.mark.parametrize(("first", "last"), [(0, 5), (0, 2), (1, 4), (3, 3), (4, 5)])
def test_a_part_is_its_frames(first, last):
    frames = sparse([9, 40, 0, 7, 300], 400)
    row_of, n_orient = rows(400)
    photons = sort_photons(*frames, row_of, n_orient)
    want = dense_of(frames, row_of, n_orient)[first:last]
    np.testing.assert_array_equal(dense_part(photons, first, last, want.shape[1]), want)
    if Column.current.library is None:
        a, b = photons.begin[first], photons.begin[last]
        sums = sums_of_part(photons, first, last, photons.count[a:b])
    else:
        sums = sums_of_part(photons, first, last, photons.count)
    np.testing.assert_array_equal(sums, want[:, :n_orient].sum(axis=1))


# --- errors


@cpu_only
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.array([0, 2, 3]), "offset must run from 0 to the number of lit pixels"),
        (0, np.array([1, 2, 4]), "offset must run from 0 to the number of lit pixels"),
        (0, np.array([0, 5, 4]), "offset must not decrease"),
        (1, np.array([0, 1, 2, 10], np.uint32), "pixel holds an index beyond the detector"),
        (1, np.array([0, 1, 2], np.uint32), "offset must run|must have one length"),
        (2, np.array([1, 1, 1], np.uint16), "must have one length"),
    ],
)
def test_errors(place, value, message):
    arguments = [
        np.array([0, 2, 4]),
        np.array([0, 3, 9, 2], np.uint32),
        np.ones(4, np.uint16),
        np.arange(10, dtype=np.int32),
        10,
    ]
    sort_photons(*arguments)
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        sort_photons(*arguments)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_arrays_of_another_type_are_not_converted(place):
    arguments = [*sparse([2, 2], 10), np.arange(10, dtype=np.int32), 10]
    arguments[place] = arguments[place].astype(np.float64)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        sort_photons(*arguments)


@cpu_only
def test_bad_threads():
    with pytest.raises(InputError, match="threads must be between 1 and 4096, got 0"):
        sort_photons(*sparse([2], 10), np.arange(10, dtype=np.int32), 10, threads=0)


@gpu_only
def test_pixels_beyond_the_detector_are_left_out():
    offset, pixel, count = sparse([20, 30], 40)
    row_of = np.arange(40, dtype=np.int32)
    got = sort_photons(offset, pixel, count, row_of[:25], 25)
    row_of[25:] = -1
    assert as_frames(got) == expected(offset, pixel, count, row_of, 25)


@cpu_only
def test_the_module_guards_its_outputs():
    offset, pixel, count = sparse([2, 2], 10)
    row_of = np.arange(10, dtype=np.int32)
    out = [np.empty(3, np.int64), np.empty(2, np.int64), np.empty(4, np.uint32),
           np.empty(4, np.uint16)]  # fmt: skip
    _core.sort_photons(offset, pixel, count, row_of, 10, *out, 1)
    for place, message in [(0, "one element more"), (2, "one length"), (3, "one length")]:
        short = list(out)
        short[place] = out[place][:-1]
        with pytest.raises(ValueError, match=message):
            _core.sort_photons(offset, pixel, count, row_of, 10, *short, 1)

"""Frames: formats, selections, checks and writers."""

from __future__ import annotations

import os
import pickle
from contextlib import contextmanager

import h5py
import numpy as np
import pytest

from spicore.errors import InputError
from spicore.frames import Frames
from spicore.io import dense_stack, emc_binary, emc_hdf5

N, SHAPE = 23, (6, 7)
T = 42


@pytest.fixture
def counts():
    """Photon counts [N, 6, 7] with empty frames, ones, and counts up to the limit."""
    rng = np.random.default_rng(5)
    counts = rng.poisson(0.7, (N, *SHAPE)).astype(np.int32)
    counts[[0, 11, N - 1]] = 0
    counts[3] = 1
    counts[4, 2, 3] = 65535
    return counts


def write_stack(path, counts, name="data", **options):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=counts, **options)


def write_dense_emc(path, values, layout):
    header = np.zeros(256, "<i4")
    header[:3] = len(values), values[0].size, layout
    path.write_bytes(header.tobytes() + values.tobytes())


@pytest.fixture(params=["memory", "array", "emc", "h5", "emc1", "stack", "chunked", "flat"])
def frames(request, counts, tmp_path):
    """The same counts through every source."""
    dense = Frames.from_dense(counts)
    path = tmp_path / f"frames.{request.param}"
    if request.param == "memory":
        return dense.load()
    if request.param == "array":
        return dense
    if request.param == "emc":
        dense.save_emc(path)
    elif request.param == "h5":
        dense.save_h5(path)
    elif request.param == "emc1":
        write_dense_emc(path, counts, 1)
    elif request.param == "flat":
        write_stack(path, counts.reshape(N, T).astype("u2"))
    else:
        write_stack(path, counts, chunks=(5, 4, 3) if request.param == "chunked" else None)
    return Frames.open(path)


def dense_of(frames):
    return frames.read(0, len(frames)).to_dense()


# Reading


def test_every_source_gives_the_same_counts(frames, counts):
    assert (len(frames), frames.n_frames, frames.n_pixels, frames.kind) == (N, N, T, "sparse")
    np.testing.assert_array_equal(dense_of(frames), counts.reshape(N, T))
    np.testing.assert_array_equal(frames.photons_per_frame, counts.sum(axis=(1, 2)))
    np.testing.assert_array_equal(frames.dense(2, 9), counts.reshape(N, T)[2:9])
    assert frames.dense(2, 9).dtype == np.float32
    assert frames.shape in (SHAPE, (T,), None)


def test_layout_is_compact(frames):
    sparse = frames.read(0, N)
    assert sparse.offset.dtype == np.int64
    assert sparse.pixel.dtype == np.uint32
    assert sparse.count.dtype == np.uint16
    lit = sparse.pixel.size
    assert sparse.nbytes <= 6 * lit + 8 * (N + 1)
    assert sparse.offset[-1] == lit == sparse.count.size
    assert sparse.photons_per_frame.dtype == np.int64


@pytest.mark.parametrize("size", [1, 4, 22, 23, 100])
def test_blocks_cover_all_frames_in_order(frames, counts, size):
    blocks = list(frames.blocks(size))
    assert [start for start, _ in blocks] == list(range(0, N, size))
    joined = np.concatenate([block.to_dense() for _, block in blocks])
    np.testing.assert_array_equal(joined, counts.reshape(N, T))


def test_default_blocks_keep_the_byte_budget(counts, monkeypatch, tmp_path):
    many = Frames.from_dense(np.concatenate([counts] * 8))
    many.save_emc(tmp_path / "a")
    many.save_h5(tmp_path / "b")
    write_dense_emc(tmp_path / "c", np.ones((100, T)), 2)
    monkeypatch.setattr(dense_stack, "BLOCK_BYTES", 4000)
    for module in (emc_binary, emc_hdf5):
        monkeypatch.setattr(module, "BLOCK_BYTES", 4000)
    for frames in (many, many.load(), *(Frames.open(tmp_path / name) for name in "ab")):
        sizes = [len(block) for _, block in frames.blocks()]
        assert max(sizes) <= 60
        assert sum(sizes) == 8 * N
    assert Frames.open(tmp_path / "c")._source.block == 4000 // (8 * T)


@pytest.mark.parametrize("budget", [100, 400, 3000])
@pytest.mark.parametrize("chunks", [(1, 6, 7), (5, 4, 3), (23, 1, 7), (23, 4, 4)])
def test_stack_is_cut_along_its_chunks(counts, tmp_path, monkeypatch, budget, chunks):
    path = tmp_path / "stack.h5"
    write_stack(path, counts, chunks=chunks)
    monkeypatch.setattr(dense_stack, "BLOCK_BYTES", budget)
    frames = Frames.open(path)
    for frame, row in frames._source._tiles(3, N):
        assert frame.start in (3, *range(0, N, chunks[0]))
        assert row.start % chunks[1] == 0
    np.testing.assert_array_equal(dense_of(frames[3:]), counts.reshape(N, T)[3:])
    assert sum(len(block) for _, block in frames.blocks()) == N


def test_opening_reads_no_photons(counts, tmp_path, monkeypatch):
    dense = Frames.from_dense(counts)
    dense.save_emc(tmp_path / "a")
    dense.save_h5(tmp_path / "b")
    write_stack(tmp_path / "c", counts)
    read = []
    fromfile, getitem = np.fromfile, h5py.Dataset.__getitem__
    monkeypatch.setattr(np, "fromfile", lambda *args: read.append(v := fromfile(*args)) or v)
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda *args: read.append(v := getitem(*args)) or v
    )
    opened = [Frames.open(tmp_path / name)[::2] for name in "abc"]
    assert sum(values.nbytes for values in read) == 12 + 8 * N + 4  # header, ones, multi; num_pix
    assert [len(frames) for frames in opened] == [12, 12, 12]


def test_pixel_listed_twice_adds_up(tmp_path):
    frames = Frames.from_arrays([0, 3], [5, 5, 1], [1, 3, 2], 6)
    frames.save_emc(tmp_path / "a.emc")
    again = Frames.open(tmp_path / "a.emc")
    for each in (frames, again):
        np.testing.assert_array_equal(dense_of(each), [[0, 2, 0, 0, 0, 4]])
        assert each.photons_per_frame.tolist() == [6]


def test_frames_survive_pickling(frames, counts):
    again = pickle.loads(pickle.dumps(frames[3:9]))
    np.testing.assert_array_equal(dense_of(again), counts.reshape(N, T)[3:9])


def test_repr_names_source_and_size(counts):
    frames = Frames.from_dense(counts)
    assert repr(frames) == "Frames('frames', n_frames=23, n_pixels=42, kind='sparse')"


# Selecting


def test_selections_compose(frames, counts):
    flat = counts.reshape(N, T)
    mask = np.random.default_rng(1).random(N) < 0.6
    picked = np.array([7, 2, 2, -1, 0, 11])
    cases = {
        "slice": (frames[3:20:4], flat[3:20:4]),
        "back": (frames[::-1], flat[::-1]),
        "one": (frames[-2], flat[-2:-1]),
        "numbers": (frames[picked], flat[picked]),
        "select": (frames.select(picked.tolist()), flat[picked]),
        "mask": (frames[mask], flat[mask]),
        "mask, slice": (frames[mask][1:6], flat[mask][1:6]),
        "slice, numbers": (frames[4::2][[5, 1]], flat[4::2][[5, 1]]),
        "numbers, one": (frames[picked][3], flat[[-1]]),
        "even": (frames.half("even"), flat[::2]),
        "odd of mask": (frames[mask].half("odd"), flat[mask][1::2]),
        "even of odd": (frames.half("odd").half("even"), flat[1::4]),
    }
    for name, (selected, expected) in cases.items():
        np.testing.assert_array_equal(dense_of(selected), expected, err_msg=name)
        np.testing.assert_array_equal(
            selected.photons_per_frame, expected.sum(axis=1), err_msg=name
        )
        parts = [block.to_dense() for _, block in selected.blocks(3)]
        np.testing.assert_array_equal(np.concatenate(parts), expected, err_msg=name)
        np.testing.assert_array_equal(dense_of(selected.load()), expected, err_msg=name)


@pytest.mark.parametrize(("gap", "block"), [(0, 1), (0, 100), (2, 3), (50, 4), (50, 100)])
def test_gather_does_not_depend_on_where_it_cuts(counts, tmp_path, monkeypatch, gap, block):
    Frames.from_dense(counts).save_emc(tmp_path / "a.emc")
    monkeypatch.setattr(emc_binary.EmcSparse, "gap", gap)
    monkeypatch.setattr(emc_binary.EmcSparse, "block", block)
    picked = np.random.default_rng(2).integers(0, N, 30)
    frames = Frames.open(tmp_path / "a.emc")[picked]
    np.testing.assert_array_equal(dense_of(frames), counts.reshape(N, T)[picked])


def test_iteration_ends(counts):
    assert len(list(Frames.from_dense(counts))) == N


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (slice(5, 5), "keeps none of 23 frames"),
        ([], "keeps none of 23 frames"),
        (np.zeros(N, bool), "keeps none of 23 frames"),
        (np.ones(N - 1, bool), "mask of frames must have length 23, got 22"),
        ([0, 23], "frame numbers must be 0 to 22, got 23"),
        ([-24], "frame numbers must be 0 to 22, got -24"),
        ([0.5], r"selected by integers or a mask \[N\], got float64 \[1\]"),
        (True, r"selected by integers or a mask \[N\], got bool \[\]"),
        (np.zeros((2, 2), int), r"got int64 \[2, 2\]"),
    ],
)
def test_bad_selection(counts, key, message):
    with pytest.raises(InputError, match=message):
        Frames.from_dense(counts)[key]


def test_bad_arguments(counts):
    frames = Frames.from_dense(counts)
    with pytest.raises(IndexError):
        frames[N]
    with pytest.raises(InputError, match="which must be one of even, odd, got 'left'"):
        frames.half("left")
    with pytest.raises(InputError, match=r"a < b <= 23, got 3, 24"):
        frames.read(3, 24)
    with pytest.raises(InputError, match="n_frames_per_block must be between 1 and inf, got 0"):
        next(frames.blocks(0))


# Memory


def test_load_copies_nothing_but_photons(frames, counts):
    loaded = frames.load()
    sparse = loaded.read(0, N)
    assert sparse.nbytes <= 6 * np.count_nonzero(counts) + 8 * (N + 1)
    assert loaded.shape == frames.shape
    assert np.shares_memory(sparse.pixel, loaded.read(3, 9).pixel)


def test_from_arrays_copies_no_arrays_of_the_layout():
    offset, pixel, count = np.array([0, 2]), np.array([1, 0], "u4"), np.array([1, 9], "u2")
    sparse = Frames.from_arrays(offset, pixel, count, 3).read(0, 1)
    assert np.shares_memory(sparse.pixel, pixel)
    assert np.shares_memory(sparse.count, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": [1, 2]}, "offset must be"),
        ({"offset": [0]}, "offset must be"),
        ({"offset": [0, 2, 1, 2]}, "offset must be"),
        ({"offset": [0.0, 2.0]}, r"offset must be integers of one dimension, got float64 \[2\]"),
        ({"offset": [0, 3]}, r"length offset\[-1\] = 3, got 2 and 2"),
        ({"count": [1]}, r"length offset\[-1\] = 2, got 2 and 1"),
        ({"pixel": [[0, 1]]}, r"pixel must be integers of one dimension, got int64 \[1, 2\]"),
        ({"pixel": [0, 3]}, "frame 1: pixel index must be 0 to 2, got 3"),
        ({"pixel": [-1, 0]}, "frame 0: pixel index must be 0 to 2, got -1"),
        ({"count": [1, 0]}, "frame 1: the photon count .* 1 to 65535, got 0"),
        ({"count": [65536, 1]}, "frame 0: the photon count .* 1 to 65535, got 65536"),
        ({"n_pixels": 0}, "n_pixels must be between 1 and"),
    ],
)
def test_bad_arrays(change, message):
    good = {"offset": [0, 1, 2], "pixel": [0, 1], "count": [1, 1], "n_pixels": 3}
    assert len(Frames.from_arrays(**good)) == 2
    with pytest.raises(InputError, match=message):
        Frames.from_arrays(**(good | change))


def test_no_lit_pixel_at_all(tmp_path):
    empty = Frames.from_arrays([0, 0, 0], [], [], 4)
    empty.save_emc(tmp_path / "a.emc")
    empty.save_h5(tmp_path / "a.h5")
    for frames in (empty, *(Frames.open(tmp_path / name) for name in ("a.emc", "a.h5"))):
        assert frames.photons_per_frame.tolist() == [0, 0]
        assert not dense_of(frames[::-1]).any()
        assert len(frames.load()) == 2


@pytest.mark.parametrize("lit", [1, 2])
@pytest.mark.parametrize("photons", [1, 3])
def test_frames_of_one_length(tmp_path, lit, photons):
    counts = np.zeros((6, 9), int)
    for d in range(6):
        counts[d, d : d + lit] = photons
    Frames.from_dense(counts).save_h5(tmp_path / "a.h5")
    np.testing.assert_array_equal(dense_of(Frames.open(tmp_path / "a.h5")), counts)


# Dense values


def test_dense_values_round_trip(tmp_path):
    values = np.random.default_rng(3).normal(size=(9, 3, 4))
    frames = Frames.from_dense(values)
    frames.save_emc(tmp_path / "a.emc")
    again = Frames.open(tmp_path / "a.emc")
    flat = values.reshape(9, 12)
    for each in (frames, again, again.load()):
        assert each.kind == "dense"
        np.testing.assert_array_equal(each.dense(2, 7), flat[2:7].astype("f4"))
        np.testing.assert_array_equal(each[::-2].dense(1, 4), flat[::-2][1:4].astype("f4"))
        np.testing.assert_allclose(each.photons_per_frame, flat.sum(axis=1), rtol=1e-12)
    again[[4, 1]].save_emc(tmp_path / "b.emc")
    written = np.fromfile(tmp_path / "b.emc", "<f8", offset=1024).reshape(2, 12)
    np.testing.assert_array_equal(written, flat[[4, 1]])


def test_dense_values_are_not_photons(tmp_path):
    frames = Frames.from_dense(np.ones((2, 3)))
    with pytest.raises(InputError, match="frames holds real values, not photons: use dense"):
        frames.read(0, 1)
    with pytest.raises(InputError, match="EMC HDF5 holds photon counts only"):
        frames.save_h5(tmp_path / "a.h5")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_dense_values_must_be_finite(tmp_path, value):
    values = np.ones((4, 5))
    values[2, 3] = value
    write_dense_emc(tmp_path / "a.emc", values, 2)
    frames = Frames.open(tmp_path / "a.emc")
    with pytest.raises(InputError, match=rf"a\.emc: frame 2: .* finite, got {value} at pixel 3"):
        frames.dense(0, 4)


@pytest.mark.parametrize(("value", "got"), [(-3, "-3"), (65536, "65536")])
def test_dense_counts_must_fit(counts, tmp_path, value, got):
    counts[7, 1, 1] = value
    write_stack(tmp_path / "a.h5", counts)
    frames = Frames.open(tmp_path / "a.h5")
    frames.read(0, 7)
    with pytest.raises(InputError, match=rf"a\.h5:/data: frame 7: .* 1 to 65535, got {got}"):
        frames.read(0, N)
    with pytest.raises(InputError, match="frame 7"):
        frames[::-1].load()


@pytest.mark.parametrize("bad", [np.ones(3, int), np.ones((2, 2), bool), [["a"]]])
def test_from_dense_rejects(bad):
    with pytest.raises(InputError, match=r"integer or float array \[N, \.\.\.\]"):
        Frames.from_dense(bad)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_from_dense_without_frames(shape):
    with pytest.raises(InputError, match=r"at least one frame and one pixel, got shape \["):
        Frames.from_dense(np.ones(shape, int))


# EMC binary


@pytest.fixture
def emc(counts, tmp_path):
    path = tmp_path / "frames.emc"
    Frames.from_dense(counts).save_emc(path)
    return path


def words(path):
    return np.fromfile(path, "<i4")


@pytest.mark.parametrize("layout", [0, 1, 2])
@pytest.mark.parametrize(("cut", "message"), [(-1, "is truncated"), (3, "has trailing bytes")])
def test_emc_size_against_header(counts, tmp_path, layout, cut, message):
    path = tmp_path / "a.emc"
    if layout == 0:
        Frames.from_dense(counts).save_emc(path)
    else:
        write_dense_emc(path, counts.astype("i4" if layout == 1 else "f8"), layout)
    content = path.read_bytes()
    path.write_bytes(content[:cut] if cut < 0 else content + bytes(cut))
    expected = rf"a\.emc {message}: .* implies {len(content)} bytes, got {len(content) + cut}"
    with pytest.raises(InputError, match=expected):
        Frames.open(path)


@pytest.mark.parametrize("size", [0, 11])
def test_file_too_short_for_a_header(tmp_path, size):
    (tmp_path / "a.emc").write_bytes(bytes(size))
    with pytest.raises(InputError, match=f"neither HDF5 nor EMC binary: it has {size} bytes"):
        Frames.open(tmp_path / "a.emc")


def test_emc_cut_in_its_tables(emc):
    emc.write_bytes(emc.read_bytes()[: 1024 + 8 * N - 4])
    with pytest.raises(InputError, match=f"is truncated: .* {1024 + 8 * N} bytes, got"):
        Frames.open(emc)


def test_text_is_no_emc_file(tmp_path):
    (tmp_path / "notes.emc").write_text("These are notes, not photons.\n" * 50)
    with pytest.raises(InputError, match=r"notes\.emc is neither HDF5 nor EMC binary: expected"):
        Frames.open(tmp_path / "notes.emc")


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (0, -1, "neither HDF5 nor EMC binary: .* got -1, 42 and 0"),
        (0, 0, "must hold at least one frame, got 0"),
        (1, 0, "neither HDF5 nor EMC binary: .* got 23, 0 and 0"),
        (1, -5, "neither HDF5 nor EMC binary: .* got 23, -5 and 0"),
        (2, 3, "neither HDF5 nor EMC binary: .* got 23, 42 and 3"),
        (256 + 5, -2, "frame 5: the number of pixels in 'ones' must not be negative, got -2"),
        (256 + N + 6, -2, "frame 6: the number of pixels in 'multi' must not be negative"),
        (256 + 5, 10**6, "is truncated"),
    ],
)
def test_bad_emc_header(emc, word, value, message):
    content = words(emc)
    content[word] = value
    content.tofile(emc)
    with pytest.raises(InputError, match=message):
        Frames.open(emc)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("place_ones", -1, "pixel index must be 0 to 41, got -1"),
        ("place_ones", 42, "pixel index must be 0 to 41, got 42"),
        ("place_multi", 42, "pixel index must be 0 to 41, got 42"),
        ("count_multi", 0, "1 to 65535, got 0"),
        ("count_multi", -7, "1 to 65535, got -7"),
        ("count_multi", 65536, "1 to 65535, got 65536"),
    ],
)
def test_bad_emc_photons_name_the_frame(emc, section, value, message):
    content = words(emc)
    ones, multi = content[256 : 256 + 2 * N].reshape(2, N)
    start = {
        "place_ones": ones[:8].sum(),
        "place_multi": ones.sum() + multi[:8].sum(),
        "count_multi": ones.sum() + multi.sum() + multi[:8].sum(),
    }[section]
    assert ones[8] > 0
    assert multi[8] > 0
    content[256 + 2 * N + start] = value
    content.tofile(emc)
    frames = Frames.open(emc)
    frames.read(0, 8)
    for selection in (frames, frames[5:], frames[[8]], frames[::-1]):
        with pytest.raises(InputError, match=rf"frames\.emc: frame 8: .*{message}"):
            selection.load()


def test_emc_that_shrinks_after_opening(emc):
    frames = Frames.open(emc)
    emc.write_bytes(emc.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"frames\.emc is truncated: expected \d+ more values"):
        frames.read(0, N)


def test_emc_that_vanishes_after_opening(emc):
    frames = Frames.open(emc)
    emc.unlink()
    with pytest.raises(InputError, match=r"cannot read .*frames\.emc: No such file"):
        frames.read(0, N)


# HDF5


@pytest.fixture
def emc_h5(counts, tmp_path):
    path = tmp_path / "frames.h5"
    Frames.from_dense(counts).save_h5(path)
    return path


def replace(path, name, data, **options):
    with h5py.File(path, "r+") as file:
        del file[name]
        if data is not None:
            file.create_dataset(name, data=data, **options)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("count_multi", None, "need count_multi, which it lacks"),
        ("num_pix", None, "need num_pix, which it lacks"),
        ("num_pix", [0], r"num_pix must be one positive integer, got \[0\]"),
        ("num_pix", [2, 3], r"num_pix must be one positive integer, got \[2 3\]"),
        ("num_pix", 2.5, r"num_pix must be one positive integer, got \[2.5\]"),
        ("place_ones", np.ones(N), r"variable-length integers \[N\], got float64 \(23,\)"),
    ],
)
def test_bad_emc_hdf5_header(emc_h5, name, data, message):
    replace(emc_h5, name, data)
    with pytest.raises(InputError, match=rf"frames\.h5: .*{message}"):
        Frames.open(emc_h5)


def test_emc_hdf5_tables_of_other_kinds(emc_h5):
    replace(emc_h5, "place_multi", None)
    with h5py.File(emc_h5, "r+") as file:
        table = file.create_dataset("place_multi", (N,), h5py.vlen_dtype(np.float32))
    with pytest.raises(InputError, match=r"place_multi must hold .* got variable-length float32"):
        Frames.open(emc_h5)
    with h5py.File(emc_h5, "r+") as file:
        del file["place_multi"]
        table = file.create_dataset("place_multi", (N - 1,), h5py.vlen_dtype(np.int32))
        assert table.shape == (N - 1,)
    with pytest.raises(InputError, match=r"must be equally long, got .*'place_multi': 22"):
        Frames.open(emc_h5)
    with h5py.File(emc_h5, "r+") as file:
        del file["place_multi"]
        file.create_group("place_multi")
    with pytest.raises(InputError, match=r"place_multi must hold .* got a group"):
        Frames.open(emc_h5)


def test_emc_hdf5_without_frames(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["num_pix"] = [3]
        for table in emc_hdf5.TABLES:
            file.create_dataset(table, (0,), h5py.vlen_dtype(np.int32))
    with pytest.raises(InputError, match=r"a\.h5 must hold at least one frame, got 0"):
        Frames.open(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("place_ones", [-1], "pixel index must be 0 to 41, got -1"),
        ("place_ones", [42], "pixel index must be 0 to 41, got 42"),
        ("count_multi", [2] * 99, r"count_multi must be as long as place_multi \(\d+\), got 99"),
        ("count_multi", None, "1 to 65535, got 0"),
    ],
)
def test_bad_emc_hdf5_photons_name_the_frame(emc_h5, name, row, message):
    with h5py.File(emc_h5, "r+") as file:
        old = file[name][8]
        file[name][8] = np.zeros_like(old) if row is None else np.array(row, "i4")
    frames = Frames.open(emc_h5)
    frames.read(0, 8)
    for selection in (frames, frames[5:], frames[::-1]):
        with pytest.raises(InputError, match=rf"frames\.h5: frame 8: .*{message}"):
            selection.load()


def test_truncated_hdf5(emc_h5):
    emc_h5.write_bytes(emc_h5.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"cannot read .*frames\.h5: .*truncated") as caught:
        Frames.open(emc_h5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", dense_stack.CXI_STACKS)
def test_cxi_location_is_taken(counts, tmp_path, location):
    with h5py.File(tmp_path / "a.cxi", "w") as file:
        file["another/stack"] = counts
        file[location] = counts[:5]
    frames = Frames.open(tmp_path / "a.cxi")
    assert (len(frames), frames.shape) == (5, SHAPE)
    assert len(Frames.open(tmp_path / "a.cxi", dataset="another/stack")) == N


def test_stack_among_other_datasets(counts, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/photons"] = counts
        file["mask"] = np.ones(SHAPE, int)
        file["energy"] = 4600.0
        file["model"] = np.ones((3, 3, 3))
        file["note"] = h5py.Empty("i4")
    assert Frames.open(tmp_path / "a.h5").shape == SHAPE


def test_ambiguous_stack_lists_candidates(counts, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = counts, counts[:4]
    listed = r"with dataset= .*/x int32 \[23, 6, 7\], /y int32 \[4, 6, 7\]"
    with pytest.raises(InputError, match=listed):
        Frames.open(tmp_path / "a.h5")
    assert len(Frames.open(tmp_path / "a.h5", dataset="y")) == 4


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("z", r"no dataset 'z'; it has /g/x float32 \[3, 2, 2\], /row int64 \[2\]"),
        ("g", "no dataset 'g'"),
        ("g/x", r"/g/x must be an integer stack .* got /g/x float32 \[3, 2, 2\]"),
        ("row", r"/row must be an integer stack .* got /row int64 \[2\]"),
        (None, r"expected EMC frames .* or an integer stack .* got /g/x float32"),
    ],
)
def test_unusable_dataset(tmp_path, dataset, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g/x"] = np.ones((3, 2, 2), np.float32)
        file["row"] = [1, 2]
    with pytest.raises(InputError, match=message):
        Frames.open(tmp_path / "a.h5", dataset=dataset)


def test_type_without_a_numpy_equivalent(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((3, 2, 2))
        h5py.h5d.create(file.id, b"x", h5py.h5t.UNIX_D32LE, space)
    with pytest.raises(InputError, match=r"cannot read .*a\.h5: No NumPy equivalent"):
        Frames.open(tmp_path / "a.h5")


def test_long_listing_is_cut(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(20):
            file[f"d{i:02d}"] = 1.0
    with pytest.raises(InputError, match=r"/d07 float64 \[\], and 12 more"):
        Frames.open(tmp_path / "a.h5")


def test_stack_without_frames(tmp_path):
    write_stack(tmp_path / "a.h5", np.zeros((0, 4, 4), int))
    with pytest.raises(InputError, match=r"at least one frame .* got shape \[0, 4, 4\]"):
        Frames.open(tmp_path / "a.h5")


def test_dataset_needs_hdf5(emc):
    with pytest.raises(InputError, match=r"frames\.emc: dataset 'data' needs an HDF5 file"):
        Frames.open(emc, dataset="data")


# Files that cannot be read or written


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.emc: No such file"):
        Frames.open(tmp_path / "none.emc")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        Frames.open(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_forbidden_file(emc):
    emc.chmod(0)
    with pytest.raises(InputError, match=r"cannot read .*frames\.emc: Permission denied"):
        Frames.open(emc)


@pytest.mark.parametrize("method", ["save_emc", "save_h5"])
def test_round_trip_keeps_order_and_bytes(frames, counts, tmp_path, method):
    done = []
    getattr(frames, method)(tmp_path / "x", progress=lambda *step: done.append(step))
    first = Frames.open(tmp_path / "x")
    np.testing.assert_array_equal(dense_of(first), counts.reshape(N, T))
    assert done[-1] == (N, N)
    first.save_emc(tmp_path / "y")
    Frames.open(tmp_path / "y").load().save_emc(tmp_path / "z")
    assert (tmp_path / "y").read_bytes() == (tmp_path / "z").read_bytes()


def test_writing_a_selection(frames, counts, tmp_path):
    frames.half("odd")[::-1].save_emc(tmp_path / "x.emc")
    again = Frames.open(tmp_path / "x.emc")
    np.testing.assert_array_equal(dense_of(again), counts.reshape(N, T)[1::2][::-1])


@pytest.mark.parametrize("method", ["save_emc", "save_h5"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("frame 9 is bad")])
def test_failed_write_leaves_the_old_file(counts, tmp_path, monkeypatch, method, error):
    monkeypatch.setattr(dense_stack, "BLOCK_BYTES", 1000)
    path = tmp_path / "kept"
    path.write_text("old")

    def fail(done, total):
        raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        getattr(Frames.from_dense(counts), method)(path, progress=fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize("method", ["save_emc", "save_h5"])
def test_cannot_write(counts, tmp_path, method):
    save = getattr(Frames.from_dense(counts), method)
    with pytest.raises(InputError, match=r"cannot write .*x/y: No such file or directory"):
        save(tmp_path / "x" / "y")
    with pytest.raises(InputError, match=r"cannot write .*: it is not a regular file"):
        save(tmp_path)


@contextmanager
def little_room(room):
    """Let no file grow beyond a size; HDF5 sees what it would see on a full disk.

    Only within the block: pytest's own report may go to a file that is larger already.
    """
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("method", ["save_emc", "save_h5"])
@pytest.mark.parametrize("room", [0, 2000, 50_000])
def test_full_disk(tmp_path, method, room):
    frames = Frames.from_dense(np.random.default_rng(0).poisson(1, (800, T)))
    refused = pytest.raises(InputError, match=r"cannot write .*x: File too large")
    with refused, little_room(room):
        getattr(frames, method)(tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("method", ["save_emc", "save_h5"])
def test_input_is_not_overwritten(emc, method):
    before = emc.read_bytes()
    link = emc.with_name("link")
    link.symlink_to(emc)
    for path in (emc, link):
        with pytest.raises(InputError, match="the frames are read from it"):
            getattr(Frames.open(emc)[2:], method)(path)
    assert emc.read_bytes() == before


def test_written_through_a_link(counts, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    Frames.from_dense(counts).save_emc(link)
    assert link.is_symlink()
    assert len(Frames.open(tmp_path / "target")) == N


# Files that others made


def test_dragonfly_pair_is_equal(shared_data):
    folder = shared_data / "dragonfly_parity"
    binary, hdf5 = (Frames.open(folder / name) for name in ("photons.emc", "photons.h5"))
    assert len(binary) == len(hdf5) == 400
    assert binary.n_pixels == hdf5.n_pixels == 61 * 61
    for name in ("offset", "pixel", "count"):
        np.testing.assert_array_equal(
            getattr(binary.read(0, 400), name), getattr(hdf5.read(0, 400), name)
        )


@pytest.mark.parametrize("name", ["photons.emc", "photons.h5"])
def test_binary_is_byte_identical_with_dragonfly(shared_data, tmp_path, name):
    folder = shared_data / "dragonfly_parity"
    Frames.open(folder / name).save_emc(tmp_path / "photons.emc")
    assert (tmp_path / "photons.emc").read_bytes() == (folder / "photons.emc").read_bytes()


def test_real_dense_stack(shared_data):
    path = shared_data / "pr772" / "pnccd_25frames_128_labelled.h5"
    frames = Frames.open(path)
    assert (len(frames), frames.shape) == (25, (128, 128))
    with h5py.File(path) as file:
        patterns = file["patterns"][:]
    np.testing.assert_array_equal(dense_of(frames), patterns.reshape(25, -1))
    np.testing.assert_array_equal(frames.photons_per_frame, patterns.sum(axis=(1, 2)))

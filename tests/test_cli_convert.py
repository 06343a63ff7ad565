"""`spicore convert`: what it writes, prints and refuses."""

from __future__ import annotations

import argparse

import h5py
import numpy as np
import pytest

from spicore.cli import convert
from spicore.errors import InputError
from spicore.frames import Frames


@pytest.fixture
def stack(tmp_path):
    """A file with two stacks of 20 frames; `b` has one photon more per pixel."""
    counts = np.random.default_rng(0).poisson(0.5, (20, 5, 8))
    path = tmp_path / "stack.h5"
    with h5py.File(path, "w") as file:
        file["a"], file["b"] = counts, counts + 1
    return path, counts.reshape(20, 40)


def run(*words):
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", *map(str, words)])
    return args.run(args)


def read(path):
    frames = Frames.open(path)
    return frames.read(0, len(frames)).to_dense()


@pytest.mark.parametrize(
    ("name", "options", "is_hdf5"),
    [
        ("x.emc", [], False),
        ("x.h5", [], True),
        ("x.CXI", [], True),
        ("x.hdf5", [], True),
        ("x.h5", ["--format", "emc"], False),
        ("x", ["--format", "h5"], True),
    ],
)
def test_format(stack, tmp_path, name, options, is_hdf5):
    path, counts = stack
    out = tmp_path / name
    assert run(path, out, "--dataset", "a", *options) == 0
    assert h5py.is_hdf5(out) == is_hdf5
    np.testing.assert_array_equal(read(out), counts)


def test_last_line_sums_up(stack, tmp_path, capsys):
    path, counts = stack
    run(path, tmp_path / "x.emc", "--dataset", "b")
    out, err = capsys.readouterr()
    mean = (counts + 1).sum(axis=1).mean()
    size = (tmp_path / "x.emc").stat().st_size / 1e6
    assert out == f"{tmp_path}/x.emc: 20 frames, {mean:.1f} mean photons, {size:.2f} MB\n"
    assert "20/20" in err
    assert "frames/s" in err


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("3:9", slice(3, 9)),
        ("::-2", slice(None, None, -2)),
        ("1::3", slice(1, None, 3)),
        (":", slice(None)),
        ("-4:", slice(-4, None)),
    ],
)
def test_frames_are_a_slice(stack, tmp_path, text, kept):
    path, counts = stack
    run(path, tmp_path / "x.emc", "--dataset", "a", f"--frames={text}")
    np.testing.assert_array_equal(read(tmp_path / "x.emc"), counts[kept])


@pytest.mark.parametrize("text", ["3", "a:b", "1:2:0", "1:2:3:4", ""])
def test_bad_frames(stack, tmp_path, text):
    with pytest.raises(InputError, match=f"--frames must be A:B or A:B:STEP, .* got '{text}'"):
        run(stack[0], tmp_path / "x.emc", "--dataset", "a", "--frames", text)


def test_no_frames_left(stack, tmp_path):
    with pytest.raises(InputError, match="keeps none of 20 frames"):
        run(stack[0], tmp_path / "x.emc", "--dataset", "a", "--frames", "30:")


def test_unknown_extension(stack, tmp_path):
    with pytest.raises(InputError, match=r"OUT must end in \.emc, .* or name a --format, got"):
        run(stack[0], tmp_path / "x.dat", "--dataset", "a")


def test_ambiguous_dataset_names_the_option(stack, tmp_path):
    with pytest.raises(InputError, match=r"dataset= \(--dataset\): /a int64"):
        run(stack[0], tmp_path / "x.emc")


def test_input_is_not_overwritten(stack):
    before = stack[0].read_bytes()
    with pytest.raises(InputError, match="the frames are read from it"):
        run(stack[0], stack[0], "--dataset", "a")
    assert stack[0].read_bytes() == before


def test_bad_photons_leave_no_file(tmp_path):
    counts = np.ones((4, 3, 3), int)
    counts[2, 1, 1] = -1
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = counts
    with pytest.raises(InputError, match=r"in\.h5:/x: frame 2"):
        run(tmp_path / "in.h5", tmp_path / "out.emc")
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]

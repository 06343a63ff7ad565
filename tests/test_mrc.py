"""MRC maps: round trip, axes, other programs' files, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from spicore.errors import InputError
from spicore.io import mrc

RNG = np.random.default_rng(0)


def test_round_trip(tmp_path):
    values = RNG.standard_normal((3, 4, 5)).astype(np.float32)
    path = tmp_path / "a.mrc"
    mrc.write(path, values, voxel_size=2.5, origin=[1, -2, 3])
    assert mrc.is_mrc(path)
    read = mrc.read(path)
    np.testing.assert_array_equal(read.values, values)
    np.testing.assert_allclose(read.voxel_size, 2.5)
    np.testing.assert_allclose(read.origin, [1, -2, 3])
    mrc.write(path, values[:, :, 0])
    read = mrc.read(path)
    np.testing.assert_array_equal(read.values, values[:, :, :1])
    assert read.voxel_size is None


def test_header_is_mrc2014(tmp_path):
    """Bytes as the standard places them; x runs fastest in the file."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    mrc.write(tmp_path / "a.mrc", values, voxel_size=1.5)
    raw = (tmp_path / "a.mrc").read_bytes()
    header = np.frombuffer(raw[:1024], "<i4")
    floats = np.frombuffer(raw[:1024], "<f4")
    assert header[:4].tolist() == [2, 3, 4, 2]
    assert floats[10:16].tolist() == [3.0, 4.5, 6.0, 90.0, 90.0, 90.0]
    assert header[16:19].tolist() == [1, 2, 3]
    assert floats[19:22].tolist() == [0.0, 23.0, 11.5]
    assert raw[208:216] == b"MAP \x44\x44\x00\x00"
    assert np.frombuffer(raw[1024:], "<f4")[:3].tolist() == [0.0, 12.0, 4.0]
    assert len(raw) == 1024 + 4 * 24


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "mode", [(0, "i1"), (1, "i2"), (2, "f4"), (4, "c8"), (6, "u2"), (12, "f2")]
)
def test_reads_other_kinds(tmp_path, order, mode):
    number, dtype = mode
    values = RNG.integers(0, 100, (2, 3, 4)).astype(np.dtype(dtype))
    header = np.zeros(256, order + "i4")
    # Sections along x, rows along z, columns along y; 80 bytes of symmetry in between.
    header[:4] = 3, 4, 2, number
    header[7:10] = 2, 3, 4
    header.view(order + "f4")[10:13] = 4.0, 6.0, 8.0
    header[16:19] = 2, 3, 1
    header[23] = 80
    raw = bytearray(header.tobytes())
    raw[208:212] = b"MAP "
    raw[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    data = values.transpose(0, 2, 1).astype(np.dtype(dtype).newbyteorder(order)).tobytes()
    (tmp_path / "a.map").write_bytes(bytes(raw) + bytes(80) + data)
    read = mrc.read(tmp_path / "a.map")
    np.testing.assert_array_equal(read.values, values)
    np.testing.assert_allclose(read.voxel_size, 2.0)


def test_map_of_others(shared_data):
    read = mrc.read(shared_data / "maps" / "ribosome70S_65.mrc")
    assert read.values.shape == (65, 65, 65)
    assert np.isfinite(read.values).all()


def test_bad_input(tmp_path):
    path = tmp_path / "a.mrc"
    with pytest.raises(InputError, match=r"values must be real numbers .* got complex128 \[2, 2\]"):
        mrc.write(path, np.ones((2, 2)) * 1j)
    with pytest.raises(InputError, match=r"cannot read .*a\.mrc: No such file"):
        mrc.read(path)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="must be an MRC2014 or CCP4 map"):
        mrc.read(path)
    mrc.write(path, np.ones((4, 4, 4)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="must hold 4 x 4 x 4 values, it has 246 bytes"):
        mrc.read(path)
    path.write_bytes(whole[:12] + b"\x63" + whole[13:])
    with pytest.raises(InputError, match="mode must be one of 0, 1, 2, 4, 6, 12, got 99"):
        mrc.read(path)

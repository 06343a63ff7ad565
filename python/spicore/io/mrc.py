"""MRC2014 maps (also CCP4): read and write. In memory volumes are [x, y, z], C order.

Source: Cheng et al., J. Struct. Biol. 192, 146 (2015).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from ..errors import InputError
from .files import atomic_path

HEADER = 1024

_MODES = {
    0: np.dtype(np.int8),
    1: np.dtype(np.int16),
    2: np.dtype(np.float32),
    4: np.dtype(np.complex64),
    6: np.dtype(np.uint16),
    12: np.dtype(np.float16),
}
_LITTLE, _BIG = b"\x44\x44", b"\x11\x11"


@dataclass(frozen=True)
class Map:
    """A map and where it lies.

    Attributes
    ----------
    values : [x, y, z]
        As stored: float32, an integer type or complex64.
    voxel_size : float64 [3] or None
        Angstrom; None where the header tells none.
    origin : float64 [3]
        Position of voxel [0, 0, 0] in Angstrom.
    """

    values: NDArray
    voxel_size: NDArray[np.float64] | None
    origin: NDArray[np.float64]


def is_mrc(path: str | os.PathLike) -> bool:
    """Return whether a file carries the mark of MRC2014 or CCP4."""
    try:
        with open(path, "rb") as file:
            file.seek(208)
            return file.read(4) == b"MAP "
    except OSError:
        return False


def write(
    path: str | os.PathLike,
    values: ArrayLike,
    *,
    voxel_size: float | None = None,
    origin: ArrayLike | None = None,
) -> None:
    """Write a volume as float32 (mode 2).

    Parameters
    ----------
    path : path
        Replaced only when the new file is complete.
    values : float [x, y, z] or [x, y]
        An image becomes a volume of one section.
    voxel_size : float, optional
        Edge of a voxel in Angstrom. Left out, the header's cell is 0.
    origin : float [3], optional
        Position of voxel [0, 0, 0] in Angstrom; default 0.

    Raises
    ------
    InputError
        The values are not real, not 2 or 3 axes, or the file cannot be written.
    """
    values = np.asarray(values)
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiub":
        raise InputError(
            f"values must be real numbers [x, y] or [x, y, z], got {values.dtype} "
            f"{list(values.shape)}"
        )
    data = np.ascontiguousarray(values.reshape(*values.shape[:2], -1).T, dtype="<f4")
    size = 0.0 if voxel_size is None else _validate.number("voxel_size", voxel_size, low=0.0)
    shift = np.zeros(3) if origin is None else _validate.array("origin", origin, np.float64, (3,))
    header = np.zeros(HEADER // 4, "<i4")
    floats = header.view("<f4")
    n = data.shape[::-1]
    header[0:3] = header[7:10] = n
    header[3] = 2
    floats[10:13] = np.array(n) * size
    floats[13:16] = 90.0
    header[16:19] = 1, 2, 3
    mean = data.mean(dtype=np.float64) if data.size else 0.0
    floats[19:22] = (data.min(), data.max(), mean) if data.size else 0.0
    header[22] = 1  # space group P1: a volume
    header[27] = 20141
    floats[49:52] = shift
    text = header.view("u1")
    text[208:212] = np.frombuffer(b"MAP ", "u1")
    text[212:214] = np.frombuffer(_LITTLE, "u1")
    floats[54] = data.std(dtype=np.float64) if data.size else 0.0
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(header.tobytes())
        file.write(data.tobytes())


def read(path: str | os.PathLike) -> Map:
    """Read a map.

    Parameters
    ----------
    path : path

    Returns
    -------
    Map
        Axes are put in the order x, y, z whatever the file's; an image has one voxel along z.

    Raises
    ------
    InputError
        The file cannot be read, is shorter than its header says, or of an unknown mode.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if len(raw) < HEADER or raw[208:212] != b"MAP ":
        raise InputError(f"{path} must be an MRC2014 or CCP4 map, it has no such header")
    order = ">" if raw[212:214] == _BIG else "<"
    header = np.frombuffer(raw[:HEADER], order + "i4")
    floats = np.frombuffer(raw[:HEADER], order + "f4")
    n, mode = tuple(int(k) for k in header[:3]), int(header[3])
    if mode not in _MODES:
        raise InputError(f"{path}: mode must be one of {', '.join(map(str, _MODES))}, got {mode}")
    dtype = _MODES[mode].newbyteorder(order)
    first = HEADER + int(header[23])  # after the symmetry records
    count = int(np.prod(n, dtype=np.int64))
    if min(n) < 1 or len(raw) < first + count * dtype.itemsize:
        raise InputError(
            f"{path} must hold {n[0]} x {n[1]} x {n[2]} values, it has {len(raw) - first} bytes "
            f"after the header"
        )
    data = np.frombuffer(raw, dtype, count, first).reshape(n[::-1]).T
    axes = [int(k) - 1 for k in header[16:19]]
    if sorted(axes) == [0, 1, 2]:
        data = data.transpose(np.argsort(axes))
    cell, sampling = floats[10:13].astype(np.float64), header[7:10]
    known = (cell > 0).all() and (sampling > 0).all() and np.isfinite(cell).all()
    return Map(
        np.ascontiguousarray(data, data.dtype.newbyteorder("=")),
        cell / sampling if known else None,
        floats[49:52].astype(np.float64),
    )

"""Dragonfly's detector files, ASCII and HDF5, as plain dictionaries of `Detector` fields.

Written from the description of the format; q in voxels, `detd` in pixels, `ewald_rad` in voxels.
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

# 15 decimals are what Dragonfly writes; with the leading digit they keep float64 to 1e-15.
_ROW_FORMAT = "%21.15e %21.15e %21.15e %21.15e %d"


def read_dataset(file: h5py.File, name: str) -> NDArray:
    """Return one numeric dataset of an open HDF5 file.

    Raises
    ------
    InputError
        The dataset is missing, cannot be read or does not hold real numbers.
    """
    node = file.get(name)
    if not isinstance(node, h5py.Dataset):
        present = ", ".join(sorted(map(str, file))) or "nothing"
        raise InputError(f"dataset '{name}' is missing; the file has {present}")
    try:
        value = np.asarray(node[()])
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"dataset '{name}' cannot be read: {error}") from None
    if value.dtype.kind not in "iuf":
        raise InputError(f"dataset '{name}' must hold real numbers, got {value.dtype}")
    return value


def read_hdf5(file: h5py.File) -> dict[str, Any]:
    """Return `Detector` fields from Dragonfly's HDF5 form.

    Parameters
    ----------
    file : h5py.File
        Open file with scalars `detd` and `ewald_rad` and, of any one shape, `qx`, `qy`, `qz`,
        `corr`, `mask` (integers) and optionally `background`.

    Returns
    -------
    fields : dict
        Arguments of `Detector`; `shape` is set where the datasets have more than one axis.

    Raises
    ------
    InputError
        A dataset is missing, unreadable or of another length than `qx`.
    """
    columns = {name: read_dataset(file, name) for name in ("qx", "qy", "qz", "corr", "mask")}
    if "background" in file:
        columns["background"] = read_dataset(file, "background")
    shape = columns["qx"].shape
    for name, values in columns.items():
        if values.size != columns["qx"].size:
            raise InputError(
                f"dataset '{name}' must have {columns['qx'].size} values like qx, got {values.size}"
            )
    return {
        "q_voxels": np.stack([columns[name].ravel() for name in ("qx", "qy", "qz")], axis=1),
        "correction": columns["corr"].ravel(),
        "mask": columns["mask"].ravel(),
        "ewald_radius": _scalar(file, "ewald_rad"),
        "distance_pixels": _scalar(file, "detd"),
        "shape": shape if len(shape) > 1 else None,
        "background": columns["background"].ravel() if "background" in columns else None,
    }


def read_text(text: str) -> dict[str, Any]:
    """Return `Detector` fields from Dragonfly's ASCII form.

    Parameters
    ----------
    text : str
        A header `num_pix detd ewald_rad` and num_pix rows `qx qy qz corr mask`. Old files have
        `num_pix` alone; the Ewald radius then follows from the rows, and the distance is taken
        as equal to it (1 voxel = 1 pixel at small angles, Dragonfly's default).

    Returns
    -------
    fields : dict
        Arguments of `Detector`.

    Raises
    ------
    InputError
        The header or a row has another form, or there are more or fewer rows than announced.
    """
    header, _, body = text.lstrip().partition("\n")
    n_pixels, lengths = _header(header)
    rows = _rows(body, n_pixels)
    q = np.ascontiguousarray(rows[:, :3])
    distance, ewald_radius = lengths or (ewald_radius_of(q),) * 2
    return {
        "q_voxels": q,
        "correction": rows[:, 3],
        "mask": _integers("mask", rows[:, 4]),
        "ewald_radius": ewald_radius,
        "distance_pixels": distance,
    }


def ewald_radius_of(q: NDArray[np.float64]) -> float:
    """Return the radius of the Ewald sphere on which all q lie, in the units of q.

    Parameters
    ----------
    q : float64 [T, 3]
        Scattering vectors, beam along +z. Every one obeys `|q|^2 = -2 E qz`.

    Raises
    ------
    InputError
        q is flat (qz = 0 throughout) or not on one sphere to 1e-6 of the largest |q|^2.
    """
    q = q[np.isfinite(q).all(axis=1)]
    squared, qz = (q**2).sum(axis=1), q[:, 2]
    weight = (qz**2).sum()
    radius = -0.5 * (squared @ qz) / weight if weight > 0 else 0.0
    if not radius > 0 or np.abs(squared + 2 * radius * qz).max() > 1e-6 * squared.max():
        raise InputError(
            "the header must be 'num_pix detd ewald_rad'; it has num_pix alone, "
            "and the rows do not lie on one Ewald sphere from which to tell the rest"
        )
    return float(radius)


def write_hdf5(path: Path, fields: dict[str, Any]) -> None:
    """Write Dragonfly's HDF5 form; `fields` are the arguments of `Detector`."""
    with h5py.File(path, "w") as file:
        file["detd"] = float(fields["distance_pixels"])
        file["ewald_rad"] = float(fields["ewald_radius"])
        for name, column in zip(("qx", "qy", "qz"), fields["q_voxels"].T, strict=True):
            file[name] = column
        file["corr"] = fields["correction"]
        file["mask"] = fields["mask"]
        if fields["background"] is not None:
            file["background"] = fields["background"]


def write_text(path: Path, fields: dict[str, Any]) -> None:
    """Write Dragonfly's ASCII form; `fields` are the arguments of `Detector`.

    Raises
    ------
    InputError
        The detector has a background, which this form cannot hold.
    """
    if fields["background"] is not None:
        raise InputError("the .dat form cannot hold a background: write .h5 instead")
    rows = np.column_stack([fields["q_voxels"], fields["correction"], fields["mask"]])
    header = f"{len(rows)} {fields['distance_pixels']!r} {fields['ewald_radius']!r}"
    np.savetxt(path, rows, fmt=_ROW_FORMAT, header=header, comments="")


def _scalar(file: h5py.File, name: str) -> float:
    value = read_dataset(file, name)
    if value.size != 1:
        raise InputError(f"dataset '{name}' must be one number, got shape {list(value.shape)}")
    return float(value.reshape(()))


def _header(line: str) -> tuple[int, tuple[float, float] | None]:
    words = line.split()
    try:
        n_pixels = int(words[0])
        lengths = tuple(float(word) for word in words[1:])
    except (IndexError, ValueError):
        n_pixels, lengths = 0, ()
    if n_pixels < 1 or len(lengths) not in (0, 2):
        raise InputError(f"the header must be 'num_pix detd ewald_rad', got {line[:80]!r}")
    return n_pixels, lengths or None


def _rows(body: str, n_pixels: int) -> NDArray[np.float64]:
    if not body.strip():
        raise InputError(f"the header announces {n_pixels} pixels, got no rows")
    try:
        rows = np.loadtxt(StringIO(body), dtype=np.float64, comments=None, ndmin=2)
    except ValueError as error:
        raise InputError(f"rows must be 'qx qy qz corr mask': {error}") from None
    if rows.shape != (n_pixels, 5):
        raise InputError(
            f"the header announces {n_pixels} rows of 5 values, "
            f"got {rows.shape[0]} rows of {rows.shape[1]}"
        )
    return rows


def _integers(name: str, values: NDArray[np.float64]) -> NDArray[np.int64]:
    with np.errstate(invalid="ignore"):  # NaN casts to some integer, which then differs from it
        result = values.astype(np.int64)
    if not np.array_equal(result, values):
        raise InputError(f"{name} must hold integers, got other values")
    return result

"""What `spicore phase` reads: intensities of several kinds of files, told apart by content."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from ..emc.result import FORMAT as EMC_FORMAT
from ..emc.sharpen import sharpen
from ..errors import InputError
from ..io import mrc
from ..io.files import reading_hdf5
from ..report.inputs import read_numbers

NAMES = ("intensity", "intens", "data")
"""Datasets that are looked for in HDF5 files of others."""


@dataclass(frozen=True)
class Intensity:
    """An intensity as read.

    Attributes
    ----------
    intensity : float [*shape]
    weight : float [*shape] or None
        Merged exposure.
    voxel_size : float or None
        1/Angstrom.
    """

    intensity: NDArray
    weight: NDArray | None = None
    voxel_size: float | None = None


def read_intensity(
    path: str, dataset: str | None = None, *, mode: int = 1, amplitude: bool = False
) -> Intensity:
    """Read an intensity.

    Parameters
    ----------
    path : str
        Result of `spicore emc`, other HDF5, MRC or .npy.
    dataset : str, optional
        Of an HDF5 file; default: the first of `NAMES`.
    mode : int
        Mode of an EMC result, from 1.
    amplitude : bool
        The file holds square roots: they are squared; negative ones were not measured.

    Raises
    ------
    InputError
        The file cannot be read or has no such numbers.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"cannot read intensity {path}: {error.strerror or error}") from None
    if h5py.is_hdf5(path):
        result = _from_hdf5(path, dataset, mode)
    elif mrc.is_mrc(path):
        result = Intensity(_squeezed(mrc.read(path).values))
    else:
        result = Intensity(_squeezed(read_numbers("intensity", path, NAMES)))
    if amplitude:
        values = np.asarray(result.intensity, np.float64)
        squared = np.where(values >= 0, values**2, -1.0)
        return Intensity(squared, result.weight, result.voxel_size)
    return result


def read_array(what: str, path: str, name: str) -> NDArray:
    """Read an array from MRC, .npy, or a dataset of HDF5."""
    if mrc.is_mrc(path):
        return _squeezed(mrc.read(path).values)
    return _squeezed(read_numbers(what, path, (name,)))


def _from_hdf5(path: str, dataset: str | None, mode: int) -> Intensity:
    with reading_hdf5(path) as file:
        if file.attrs.get("format") == EMC_FORMAT and dataset is None:
            # Unsmoothed where there are both: voxels held out must be news, and photons Poisson.
            name = "merged" if "merged" in file else "intensity"
            values, weight = file[name][()], file["weight"][()]
            voxel_size = float(file.attrs["voxel_size"])
            if values.ndim == 4:
                if not 1 <= mode <= len(values):
                    raise InputError(f"mode must be 1 to {len(values)}, got {mode}")
                values, weight = values[mode - 1], weight[mode - 1]
            values = sharpen(values, weight)
            return Intensity(values, weight, voxel_size if voxel_size > 0 else None)
    names = NAMES if dataset is None else (dataset,)
    return Intensity(_squeezed(read_numbers("intensity", path, names)))


def _squeezed(values: NDArray) -> NDArray:
    """Return an array without the axes of one voxel that images have in files of volumes."""
    return values.reshape([n for n in values.shape if n > 1]) if values.ndim > 2 else values

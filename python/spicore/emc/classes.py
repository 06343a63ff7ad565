"""The result of a 2D classification and its file."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..io.files import arrays_of, reading_result, writing_hdf5

FORMAT = "spicore-classes"

ARRAYS = (
    "averages",
    "polar",
    "radius",
    "occupancy",
    "class_of",
    "angle",
    "fluence",
    "log_likelihood",
    "mutual_information",
)


@dataclass
class Classes:
    """What `classify2d` returns and `classes.h5` holds: R runs, K classes, D frames.

    Attributes
    ----------
    averages : float32 [R, K, N, N]
        Photons per unit exposure at fluence 1, first axis x, second y, as volumes are; origin at
        ``N // 2``, pixels of one voxel. NaN where no frame of the class saw.
    polar : float32 [R, K, Q, A]     the same in polar bins, angle ``2 pi t / A`` from x to y
    radius : float64 [Q]             of the rings, in voxels, rising
    occupancy : float64 [R, K]       expected number of frames
    class_of : int32 [R, D]          most probable class; -1 for frames not used in the run
    angle : float32 [R, D]           radians by which the frame is turned from x to y to lie on
                                     its class average; NaN for frames not used
    fluence : float32 [R, D]         1 is the mean frame; NaN for frames not used
    log_likelihood : float64 [R, D]  expected over the posterior, all constants included
    mutual_information : float64 [R, D]  between frame and orientation, nats
    history : dict of arrays [iterations of all runs]
    voxel_size : float or None       1/Angstrom
    config : str                     TOML
    """

    averages: NDArray[np.float32]
    polar: NDArray[np.float32]
    radius: NDArray[np.float64]
    occupancy: NDArray[np.float64]
    class_of: NDArray[np.int32]
    angle: NDArray[np.float32]
    fluence: NDArray[np.float32]
    log_likelihood: NDArray[np.float64]
    mutual_information: NDArray[np.float64]
    history: dict[str, NDArray]
    config: str
    voxel_size: float | None = None

    def save(self, path: str | os.PathLike) -> None:
        """Write to HDF5: a temporary file first, which then replaces `path`."""
        from .. import __version__

        with writing_hdf5(path) as (file, _):
            for name in ARRAYS:
                file[name] = getattr(self, name)
            for name, value in self.history.items():
                file[f"history/{name}"] = value
            file.attrs.update(
                format=FORMAT,
                voxel_size=np.nan if self.voxel_size is None else self.voxel_size,
                spicore_version=__version__,
                config=self.config,
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Classes:
        """Read a file that `save` wrote."""
        with reading_result(path, FORMAT, "classify2d") as file:
            voxel_size = float(file.attrs["voxel_size"])
            return cls(
                **{name: file[name][()] for name in ARRAYS},
                history=arrays_of(file["history"]),
                voxel_size=None if np.isnan(voxel_size) else voxel_size,
                config=str(file.attrs["config"]),
            )

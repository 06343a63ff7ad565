"""The result of a reconstruction and its file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.files import arrays_of, reading_result, writing_hdf5

FORMAT = "spicore-emc"

GROUPS = ("history", "half_sets", "seeds")

OPTIONAL = ("merged", "previous")

PER_FRAME = (
    "orientation",
    "mode",
    "fluence",
    "background_scale",
    "log_likelihood",
    "mutual_information",
)


@dataclass
class Result:
    """What `reconstruct` returns and `result.h5` holds.

    Attributes
    ----------
    intensity : float32 [N, N, N] or [M, N, N, N]   photons per unit exposure at fluence 1
    weight : float32, same shape                    merged exposure, 0 where nobody saw
    orientation : float32 [D, 4]     best quaternion per frame; NaN for frames not used
    mode : int32 [D]                 best mode; M and above are fixed patterns; -1 not used
    fluence : float32 [D]            mean 1; NaN for frames not used
    background_scale : float32 [D]
    log_likelihood : float64 [D]     expected over the posterior, all constants included
    mutual_information : float64 [D] between frame and orientation, nats
    history : dict of arrays [iterations]
    half_sets : dict                 even, odd [N, N, N], radius, shell_cc; empty if not made
    seeds : dict                     random starts tried: seed, evidence (nats per frame),
                                     agreement (shell correlation with the best), reheated
    merged : float32 or None         intensity before it was smoothed; None: it was not
    previous : float32 or None       intensity one iteration before, for resuming
    patterns : float32 [K, n_pixels] fixed patterns on the detector, NaN on unused pixels
    voxel_size : float or None       1/Angstrom
    config : str                     TOML
    schedule : dict                  where the run stands, for resuming
    """

    intensity: NDArray[np.float32]
    weight: NDArray[np.float32]
    orientation: NDArray[np.float32]
    mode: NDArray[np.int32]
    fluence: NDArray[np.float32]
    background_scale: NDArray[np.float32]
    log_likelihood: NDArray[np.float64]
    mutual_information: NDArray[np.float64]
    history: dict[str, NDArray]
    patterns: NDArray[np.float32]
    config: str
    half_sets: dict[str, NDArray] = field(default_factory=dict)
    seeds: dict[str, NDArray] = field(default_factory=dict)
    merged: NDArray[np.float32] | None = None
    previous: NDArray[np.float32] | None = None
    voxel_size: float | None = None
    schedule: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike) -> None:
        """Write to HDF5: a temporary file first, which then replaces `path`."""
        from .. import __version__

        with writing_hdf5(path) as (file, _):
            for name in ("intensity", "weight", "patterns", *PER_FRAME):
                file[name] = getattr(self, name)
            for group in GROUPS:
                file.create_group(group)
                for name, value in getattr(self, group).items():
                    file[f"{group}/{name}"] = value
            for name in OPTIONAL:
                if getattr(self, name) is not None:
                    file[name] = getattr(self, name)
            file.create_group("schedule").attrs.update(self.schedule)
            file.attrs.update(
                format=FORMAT,
                voxel_size=np.nan if self.voxel_size is None else self.voxel_size,
                spicore_version=__version__,
                config=self.config,
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Result:
        """Read a file that `save` wrote."""
        with reading_result(path, FORMAT, "emc") as file:
            arrays = {n: file[n][()] for n in ("intensity", "weight", "patterns", *PER_FRAME)}
            groups = {g: arrays_of(file[g]) for g in GROUPS if g in file}
            optional = {n: file[n][()] if n in file else None for n in OPTIONAL}
            voxel_size = float(file.attrs["voxel_size"])
            return cls(
                **arrays,
                **groups,
                **optional,
                voxel_size=None if np.isnan(voxel_size) else voxel_size,
                config=str(file.attrs["config"]),
                schedule=dict(file["schedule"].attrs),
            )

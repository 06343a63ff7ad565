"""The solutions of a phase retrieval and their file."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io import mrc
from ..io.files import arrays_of, reading_result, writing_hdf5
from .trust import Undetermined

FORMAT = "spicore-phasing"

_ARRAYS = ("density", "best", "support", "modes", "mode_weights")
_GROUPS = ("scores", "curves", "history")


@dataclass
class Solutions:
    """What `reconstruct` returns and `solutions.h5` holds.

    Attributes
    ----------
    density : float32 or complex64 [*shape]
        Average of the aligned seeds that passed; origin at ``n // 2``, which is near the centre
        of mass. Its squared transform is the intensity.
    best : [*shape]
        The seed with the best free log-likelihood, not averaged.
    support : bool [*shape]
        Where at least half of the seeds that passed have theirs.
    modes : [M, *shape]
        Orthogonal modes of the aligned seeds, strongest first.
    mode_weights : float64 [K]
        Share of the power in each; the first tells how reproducible the solution is.
    scores : dict of arrays [S]
        Of all seeds: seed, kept, rank (0 best, by free log-likelihood), free_llk, llk (per
        voxel, 0 a perfect fit), r_factor, outside (share of power outside of the support),
        support (share of voxels), threshold, restarts, agreement (correlation with the best
        after alignment), inverted, and reason (why it was rejected; empty if it was not).
    curves : dict of arrays [shells]
        radius (in voxels of the intensity), prtf, fsc (of two halves of the seeds that passed:
        how reproducible phases are, on the same data), power (of the density, blurred by
        `coherence`), data (measured mean intensity), background (mean over seeds; absent
        without).
    history : dict
        r_factor [S, iterations], support [S, segments], segment [segments]: iterations done
        at the end of each.
    likelihood : str
        "poisson", "gauss" or "amplitude"; see `phasing.pattern`.
    r_factor : float
        Of the average, without the free voxels.
    free_r_factor : float
        Of the average on the free voxels.
    undetermined : Undetermined
        What neither data nor support determine.
    voxel_size : float64 [axes] or None
        Of the density, in Angstrom.
    coherence : float64 [*box] or None
        Kernel that blurs the intensity, the origin in its middle: mean of the seeds that passed.
        Its value there is the share of each intensity that is not spread, 1 if light is coherent.
    config : str
        TOML.
    """

    density: NDArray
    best: NDArray
    support: NDArray[np.bool_]
    modes: NDArray
    mode_weights: NDArray[np.float64]
    scores: dict[str, NDArray]
    curves: dict[str, NDArray]
    history: dict[str, NDArray]
    likelihood: str
    r_factor: float
    free_r_factor: float
    undetermined: Undetermined
    config: str
    voxel_size: NDArray[np.float64] | None = field(default=None)
    coherence: NDArray[np.float64] | None = None

    @property
    def n_kept(self) -> int:
        """Seeds that passed."""
        return int(self.scores["kept"].sum())

    @property
    def in_place(self) -> float | None:
        """Share of each intensity that partially coherent light leaves in place; None: coherent."""
        kernel = self.coherence
        return None if kernel is None else float(kernel[tuple(n // 2 for n in kernel.shape)])

    def crossing(self, curve: str, threshold: float) -> float:
        """Return the radius in voxels where a curve first falls below a threshold.

        Parameters
        ----------
        curve : {"prtf", "fsc"}
        threshold : float
            1/e and 0.5 are usual for the PRTF, 0.5 and 0.143 for the FSC.

        Returns
        -------
        float
            As of `metrics.resolution_at`: the last shell if it never falls, NaN if it never
            reaches the threshold.
        """
        from ..metrics import resolution_at

        return resolution_at(self.curves["radius"], self.curves[curve], threshold)

    def in_angstrom(self, radius: float) -> float | None:
        """Return the full period d = 1/q at a radius in voxels; None if the size is unknown."""
        if self.voxel_size is None or not radius > 0:
            return None
        longest = int(np.argmax(self.density.shape))
        return float(self.density.shape[longest] * self.voxel_size[longest] / radius)

    def save(self, path: str | os.PathLike) -> None:
        """Write to HDF5: a temporary file first, which then replaces `path`."""
        from .. import __version__

        with writing_hdf5(path) as (file, _):
            for name in _ARRAYS:
                file[name] = getattr(self, name)
            if self.coherence is not None:
                file["coherence"] = self.coherence
            for group in _GROUPS:
                file.create_group(group)
                for name, value in getattr(self, group).items():
                    file[f"{group}/{name}"] = value.astype(object) if name == "reason" else value
            opened = file.create_group("undetermined")
            for name, value in dataclasses.asdict(self.undetermined).items():
                opened[name] = value
            file.attrs.update(
                format=FORMAT,
                likelihood=self.likelihood,
                r_factor=self.r_factor,
                free_r_factor=self.free_r_factor,
                voxel_size=np.zeros(0) if self.voxel_size is None else self.voxel_size,
                spicore_version=__version__,
                config=self.config,
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Solutions:
        """Read a file that `save` wrote."""
        with reading_result(path, FORMAT, "phase") as file:
            groups = {group: arrays_of(file[group]) for group in _GROUPS}
            groups["scores"]["reason"] = np.array(
                [text.decode() for text in groups["scores"]["reason"]], dtype=np.str_
            )
            opened = arrays_of(file["undetermined"])
            size = file.attrs["voxel_size"]
            return cls(
                **{n: file[n][()] for n in _ARRAYS},
                **groups,
                likelihood=str(file.attrs["likelihood"]),
                r_factor=float(file.attrs["r_factor"]),
                free_r_factor=float(file.attrs["free_r_factor"]),
                undetermined=Undetermined(
                    **{n: v if isinstance(v, np.ndarray) else v.item() for n, v in opened.items()}
                ),
                config=str(file.attrs["config"]),
                voxel_size=size if len(size) else None,
                coherence=file["coherence"][()] if "coherence" in file else None,
            )

    def export_mrc(self, path: str | os.PathLike) -> None:
        """Write the density as an MRC map; of a complex one its absolute value.

        Parameters
        ----------
        path : path

        Raises
        ------
        InputError
            The file cannot be written, or voxels are not cubes.
        """
        density = self.density
        size = None
        if self.voxel_size is not None:
            if np.ptp(self.voxel_size) > 1e-6 * self.voxel_size.max():
                raise InputError(f"voxel_size must be the same along all axes, {self.voxel_size}")
            size = float(self.voxel_size[0])
        origin = np.zeros(3)
        if size is not None:
            origin[: density.ndim] = [-(n // 2) * size for n in density.shape]
        values = np.abs(density) if np.iscomplexobj(density) else density
        mrc.write(path, values, voxel_size=size, origin=origin)

"""Densities of structures of the protein data bank, for simulations with a known truth."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ELECTRONS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "NA": 11, "MG": 12, "P": 15, "S": 16,
             "CL": 17, "K": 19, "CA": 20, "MN": 25, "FE": 26, "ZN": 30, "SE": 34}  # fmt: skip


def atoms(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions [n, 3] in Angstrom and electrons [n] of a PDB file without its water."""
    positions, electrons = [], []
    with gzip.open(path, "rt") as file:
        for line in file:
            if line.startswith("ENDMDL"):
                break
            if not line.startswith(("ATOM", "HETATM")) or line[17:20] == "HOH":
                continue
            if line[16] not in " A":  # other conformations
                continue
            positions.append([float(line[i : i + 8]) for i in (30, 38, 46)])
            electrons.append(ELECTRONS[line[76:78].strip().upper()])
    return np.array(positions), np.array(electrons, np.float64)


def extent(positions: NDArray[np.float64]) -> float:
    """Return the largest distance between two atoms, nearly: between the outermost of 500 axes."""
    axes = np.random.default_rng(0).standard_normal((500, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return float(np.ptp(positions @ axes.T, axis=0).max())


def density(
    positions: NDArray[np.float64],
    electrons: NDArray[np.float64],
    size: int,
    voxel: float,
    sigma: float,
    *,
    fine: int = 4,
) -> NDArray[np.float32]:
    """Return electrons per voxel [N, N, N], the middle of the structure at N // 2.

    Atoms are Gaussians of standard deviation `sigma`, in voxels of edge `voxel` Angstrom, and
    are rounded to the `fine`-th part of a voxel.
    """
    from scipy import ndimage

    middle = 0.5 * (positions.min(axis=0) + positions.max(axis=0))
    n = size * fine
    at = np.rint((positions - middle) / voxel * fine).astype(int) + (size // 2) * fine
    charge = np.bincount(np.ravel_multi_index(at.T, (n,) * 3), electrons, n**3)
    charge = charge.astype(np.float32).reshape((n,) * 3)
    blurred = ndimage.gaussian_filter(charge, sigma * fine, truncate=6)
    return np.ascontiguousarray(blurred[::fine, ::fine, ::fine]) * np.float32(fine**3)

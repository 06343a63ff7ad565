"""Where the symmetry axes of a volume are: a named point group in the volume's own frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..ewald import ewald_slice
from ..orientations import conjugate, grid600, grid_spacing, local_grid, multiply, point_group

Float64 = NDArray[np.float64]

_GRID = 8  # of `grid600`: 9 degrees apart, so that an axis is missed by 4
_SHELLS = (4, 10)  # voxels, at first; there a miss of 4 degrees moves a sample by 1 voxel
_FINAL_SPACING = 0.5  # degrees
_SAMPLES = 1500
_ELEMENTS = 4  # of the group that are tried; more tell nothing new
_KEPT = 30


def find_group(
    volume: NDArray[np.float32], name: str, threads: int | None = None
) -> tuple[Float64, float]:
    """Turn a point group to where a volume has it.

    Parameters
    ----------
    volume : float32 [N, N, N]
    name : str
        As of `orientations.point_group`.
    threads : int, optional
        Default: all cores.

    Returns
    -------
    elements : float64 [G, 4]
    score : float
        Mean correlation of the volume with itself turned by some elements, on shells with the
        mean removed: near 1 if it has the symmetry, near 0 if not.
    """
    group = point_group(name)
    if len(group) == 1:
        return group, 1.0
    picked = group[1 :: max(1, (len(group) - 1) // _ELEMENTS)][:_ELEMENTS]
    last = (len(volume) - 1) // 2
    turns, spacing = grid600(_GRID)[0], grid_spacing(_GRID)
    low, outer = min(_SHELLS[0], last - 1), min(_SHELLS[1], last)
    while True:
        scores = _scores(volume, turns, picked, low, outer, threads)
        best = np.argsort(scores, kind="stable")[::-1][:_KEPT]
        if spacing <= _FINAL_SPACING:
            turn = turns[best[0]]
            return multiply(multiply(turn, group), conjugate(turn)), float(scores[best[0]])
        spacing /= 3.0
        local = local_grid(2.5 * spacing, spacing)
        turns = multiply(turns[best][:, None], local).reshape(-1, 4)
        outer = min(round(outer * 1.6), last)


def _scores(
    volume: NDArray[np.float32],
    turns: Float64,
    picked: Float64,
    low: int,
    outer: int,
    threads: int | None,
) -> Float64:
    """Return the mean correlation of the volume with itself turned by each `t g 1/t`."""
    radii = np.arange(low, outer + 1)
    q = _points(radii, _SAMPLES // len(radii))
    here = _standardized(ewald_slice(volume, np.eye(4)[:1], q, threads=threads), len(radii))
    total = np.zeros(len(turns))
    for element in picked:
        quats = multiply(multiply(turns, element), conjugate(turns))
        for start in range(0, len(quats), 4096):
            part = slice(start, start + 4096)
            there = ewald_slice(volume, quats[part], q, threads=threads)
            total[part] += (_standardized(there, len(radii)) * here).mean(axis=(1, 2))
    return total / len(picked)


def _points(radii: NDArray[np.int64], n: int) -> Float64:
    """Return n points on the sphere of each radius, by radius, evenly spread (Fibonacci)."""
    k = np.arange(n) + 0.5
    z = 1.0 - 2.0 * k / n
    angle = np.pi * (1.0 + 5.0**0.5) * k
    across = np.sqrt(1.0 - z**2)
    sphere = np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)
    return (radii[:, None, None] * sphere).reshape(-1, 3)


def _standardized(samples: NDArray, n_shells: int) -> NDArray:
    """Return samples [R, shells, n] with mean 0 and variance 1 on each shell."""
    samples = samples.reshape(len(samples), n_shells, -1)
    samples = samples - samples.mean(axis=2, keepdims=True)
    return samples / np.maximum(samples.std(axis=2, keepdims=True), 1e-30)

"""Trilinear sampling of a volume on rotated Ewald surfaces."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Corners = list[tuple[NDArray[np.int64], NDArray[np.float64]]]


def rotation_matrix(quat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Active rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def trilinear(points: NDArray[np.float64], size: int) -> Corners:
    """Return the eight (flat voxel index [T], weight [T]) of points [T, 3] about size // 2.

    Points without all eight corners have index 0 and weight 0.
    """
    position = points + size // 2
    inside = ((position >= 0) & (position < size - 1)).all(axis=1)
    position = np.where(inside[:, None], position, 0.0)
    low = np.floor(position).astype(np.int64)
    fraction = position - low
    corners = []
    for step in itertools.product((0, 1), repeat=3):
        weight = np.where(step, fraction, 1 - fraction).prod(axis=1) * inside
        ix, iy, iz = (low + step).T
        corners.append(((ix * size + iy) * size + iz, weight))
    return corners


def ewald_slice(
    volume: NDArray, quats: NDArray[np.float64], q: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return slices [R, T] of volume [N, N, N] at R(quats) q, q [T, 3] in voxels."""
    values = np.asarray(volume, np.float64).ravel()
    return np.array(
        [
            sum(
                weight * values[index]
                for index, weight in trilinear(q @ rotation_matrix(quat).T, len(volume))
            )
            for quat in quats
        ]
    ).reshape(len(quats), len(q))

"""The adjoint of `ewald_slice`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .ewald_slice import rotation_matrix, trilinear


def ewald_merge(
    slices: NDArray,
    quats: NDArray[np.float64],
    q: NDArray[np.float64],
    size: int,
    slice_weights: NDArray,
    pixel_weights: NDArray,
    friedel: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return value and weight [N, N, N] of slices [R, T] scattered at R(quats) q."""
    value, weight = np.zeros(size**3), np.zeros(size**3)
    weights = np.outer(slice_weights, np.ones(len(q))) * pixel_weights
    for row, quat, weight_row in zip(slices, quats, weights, strict=True):
        points = q @ rotation_matrix(quat).T
        used = weight_row != 0
        for signed in (points, -points) if friedel else (points,):
            for index, f in trilinear(signed, size):
                np.add.at(value, index, f * row * used)
                np.add.at(weight, index, f * weight_row)
    return value.reshape(size, size, size), weight.reshape(size, size, size)

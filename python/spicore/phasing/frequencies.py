"""Frequencies of a grid in FFT order (zero frequency at index 0): radii, shells, mates."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def radius(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return |q| of each frequency, float32 [*shape], in steps of the longest axis."""
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij", sparse=True)
    result = (max(shape) * np.sqrt(sum(f**2 for f in axes))).astype(np.float32)
    result.flags.writeable = False
    return result


@lru_cache(maxsize=4)
def shells(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the rounded radius of each frequency, int [*shape]."""
    result = np.rint(radius(shape)).astype(np.intp)
    result.flags.writeable = False
    return result


def n_shells(shape: tuple[int, ...]) -> int:
    """Return how many shells fit into the longest axis, the first of them 0."""
    return (max(shape) - 1) // 2 + 1


def shell_sums(values: NDArray, where: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return sums of real values [*shape] over the shells that fit, float64 [n_shells]."""
    shell = shells(values.shape)
    if where is not None:
        shell, values = shell[where], values[where]
    n = n_shells(values.shape if where is None else where.shape)
    return np.bincount(shell.ravel(), values.ravel(), minlength=n)[:n]


def shell_counts(where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how many voxels of `where` [*shape] the shells that fit hold, [n_shells]."""
    return shell_sums(where.astype(np.float32))


def mirrored(values: NDArray, n_axes: int | None = None) -> NDArray:
    """Return values at -q (or -r), of the last `n_axes` axes (default: all)."""
    axes = tuple(range(values.ndim - (n_axes or values.ndim), values.ndim))
    return np.roll(np.flip(values, axes), 1, axes)

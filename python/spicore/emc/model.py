"""The model of EMC: volumes, fixed patterns, and their update from merged photons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._validate import InputError


def radius_index(size: int) -> NDArray[np.int16]:
    """Return |x| rounded, int16 [N // 2 + 1, N, N], of the half x >= 0 of a volume."""
    axis = np.arange(size, dtype=np.float32) - size // 2
    square = axis**2
    r2 = square[size // 2 :, None, None] + square[:, None] + square
    return np.rint(np.sqrt(r2)).astype(np.int16)


@dataclass
class Model:
    """What the frames are compared with.

    Attributes
    ----------
    volumes : float32 [M, N, N, N]   centrosymmetric intensities, photons per unit exposure
    patterns : float32 [K, T]        fixed patterns on the rows, same unit
    """

    volumes: NDArray[np.float32]
    patterns: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Edge of the volumes."""
        return self.volumes.shape[1]

    def scale(self, factor: float) -> None:
        """Multiply everything by a factor, in place."""
        self.volumes *= np.float32(factor)
        self.patterns *= np.float32(factor)

    def radial_mean(self, index: NDArray[np.int16]) -> NDArray[np.float64]:
        """Mean over modes and directions at each integer radius; `index` of `radius_index`."""
        half = self.volumes[:, self.size // 2 :].mean(axis=0, dtype=np.float32)
        n = np.bincount(index.ravel())
        return np.bincount(index.ravel(), half.ravel()) / np.maximum(n, 1)


class Accumulator:
    """Merged photons and exposure of one volume; only the half x >= 0 is held.

    The other half of the array is never touched, so it never becomes resident.
    """

    def __init__(self, size: int) -> None:
        self.pairs = np.zeros((size, size, size, 2), np.float64)

    def half(self) -> NDArray[np.float64]:
        """Complete the plane x = 0 and return the half [N // 2 + 1, N, N, 2]."""
        half = self.pairs[len(self.pairs) // 2 :]
        half[0] += half[0, ::-1, ::-1].copy()
        return half


def unfold(half: NDArray) -> NDArray[np.float32]:
    """Return the whole centrosymmetric volume of its half x >= 0."""
    size = half.shape[1]
    centre = size // 2
    volume = np.empty((size, size, size), np.float32)
    volume[centre:] = half
    volume[:centre] = volume[:centre:-1, ::-1, ::-1]
    return volume


def estimate(
    half: NDArray[np.float64], prior_mean: NDArray[np.float64], prior: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return intensity and weight [N, N, N] from the half of an accumulator.

    ``(photons + prior * mean) / (exposure + prior)``: the Poisson maximum a posteriori
    value under a Gamma prior about the radial mean. `prior_mean` is per voxel of the half.
    """
    photons, exposure = half[..., 0], half[..., 1]
    denominator = exposure + prior
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (photons + prior * prior_mean) / denominator
    value[denominator <= 0] = 0.0
    return unfold(np.maximum(value, 0.0)), unfold(exposure)


def at_radius(profile: NDArray[np.float64], index: NDArray[np.int16]) -> NDArray[np.float64]:
    """Spread a radial profile over voxels; radii beyond its end take the last value."""
    return profile[np.minimum(index, len(profile) - 1)]


def random_model(
    size: int,
    n_modes: int,
    profile: NDArray[np.float64],
    pattern: NDArray[np.float64],
    n_patterns: int,
    rng: np.random.Generator,
) -> Model:
    """Start: the radial mean of the frames times uniform random numbers, per mode."""
    index = radius_index(size)
    base = at_radius(profile, index)
    volumes = np.stack([unfold(base * rng.uniform(0.0, 2.0, base.shape)) for _ in range(n_modes)])
    patterns = pattern * rng.uniform(0.5, 1.5, (n_patterns, len(pattern)))
    return Model(volumes, patterns.astype(np.float32))


def checked_start(
    value: NDArray, size: int, n_modes: int, *, symmetrize: bool = True
) -> NDArray[np.float32]:
    """Check a start model [N, N, N] or [M, N, N, N]; make it centrosymmetric by default."""
    volumes = np.asarray(value, np.float32)
    volumes = volumes[None] if volumes.ndim == 3 else volumes
    if volumes.shape != (n_modes, size, size, size):
        raise InputError(
            f"start model must have shape {[n_modes, size, size, size]} (modes, N, N, N), "
            f"got {list(np.shape(value))}"
        )
    if not np.isfinite(volumes).all():
        bad = int((~np.isfinite(volumes)).sum())
        raise InputError(f"start model must be finite, got {bad} NaN or infinite voxels")
    if (volumes < 0).any() or not volumes.any():
        raise InputError("start model must be non-negative and not all 0")
    return 0.5 * (volumes + volumes[:, ::-1, ::-1, ::-1]) if symmetrize else volumes.copy()

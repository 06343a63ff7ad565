"""The model of EMC: volumes, fixed patterns, and their update from merged photons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._dispatch import CPU, CpuBackend, CudaBackend
from .._validate import InputError


def radius_planes(size: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield (k, |x| rounded [N, N]) of the planes x = k >= 0 of a volume.

    Work on volumes goes plane by plane: temporaries stay in the cache, and no array of the
    volume's size is needed beside the result.
    """
    axis = np.arange(size, dtype=np.float32) - size // 2
    square = axis**2
    plane = square[:, None] + square
    for k in range(size - size // 2):
        yield k, np.rint(np.sqrt(plane + np.float32(k * k))).astype(np.intp)


def n_radii(size: int) -> int:
    """Number of integer radii in a cube."""
    return int(np.ceil(np.sqrt(3.0) * (size // 2))) + 1


@dataclass
class Model:
    """What the frames are compared with.

    Attributes
    ----------
    volumes : float32 [M, N, N, N]
        Centrosymmetric intensities, photons per unit exposure. EMC reads and writes only the
        half x >= 0; the planes x < 0 are filled by `complete`, and until then cost no memory.
    patterns : float32 [K, T]
        Fixed patterns on the rows, same unit.
    centrosymmetric : bool
        False only in Dragonfly's merge: volumes are whole and lack the symmetry.
    """

    volumes: NDArray[np.float32]
    patterns: NDArray[np.float32]
    centrosymmetric: bool = True

    @property
    def size(self) -> int:
        """Edge of the volumes."""
        return self.volumes.shape[1]

    def scale(self, factor: float) -> None:
        """Multiply all that is in use by a factor, in place."""
        first = self.size // 2 if self.centrosymmetric else 0
        self.volumes[:, first:] *= np.float32(factor)
        self.patterns *= np.float32(factor)

    def radial_mean(self) -> NDArray[np.float64]:
        """Mean over modes and directions (of the half x >= 0) at each integer radius."""
        n = n_radii(self.size)
        total, voxels = np.zeros(n), np.zeros(n)
        for k, index in radius_planes(self.size):
            flat = index.ravel()
            plane = self.volumes[:, self.size // 2 + k].mean(axis=0, dtype=np.float64)
            total += np.bincount(flat, plane.ravel(), n)
            voxels += np.bincount(flat, minlength=n)
        return total / np.maximum(voxels, 1)

    def radial_mean_at(self, radius: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate the radial mean at radii in voxels."""
        return interpolated(self.radial_mean(), radius)


class Accumulator:
    """Merged photons and exposure of one volume [N, N, N, 2], folded to the half x >= 0.

    The other half of the array is never touched, so in host memory it never becomes resident.
    """

    def __init__(self, size: int, backend: CpuBackend | CudaBackend = CPU) -> None:
        self.backend = backend
        with backend.device:
            self.pairs: Any = backend.zeros((size, size, size, 2), np.float64)

    def planes(
        self,
    ) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]]:
        """Yield (k, |x| rounded, photons, exposure), all [N, N], of the planes x = k >= 0.

        Friedel mates are added. From a GPU the half is copied.
        """
        size = len(self.pairs)
        half = self.backend.to_host(self.pairs[size // 2 :])
        for k, index in radius_planes(size):
            plane = half[k]
            if k == 0:  # both mates lie in this plane
                plane = plane + plane[::-1, ::-1]
            yield k, index, plane[..., 0], plane[..., 1]


def complete(volumes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill, in place, the planes x < 0 of centrosymmetric volumes [M, N, N, N]."""
    centre = volumes.shape[1] // 2
    for k in range(1, volumes.shape[1] - centre):
        volumes[:, centre - k] = volumes[:, centre + k, ::-1, ::-1]
    return volumes


def estimate(
    accumulator: Accumulator, profile: NDArray[np.float64], prior: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return intensity and weight [N, N, N], their half x >= 0.

    ``(photons + prior * mean) / (exposure + prior)``: the Poisson maximum a posteriori
    value under a Gamma prior about the radial mean `profile`.
    """
    size = len(accumulator.pairs)
    intensity, weight = (np.empty((size, size, size), np.float32) for _ in range(2))
    for k, index, photons, exposure in accumulator.planes():
        denominator = exposure + prior
        value = photons + prior * at_radius(profile, index)
        value = np.divide(value, denominator, out=np.zeros_like(value), where=denominator > 0)
        intensity[size // 2 + k] = np.maximum(value, 0.0)
        weight[size // 2 + k] = exposure
    return intensity, weight


def estimate_as_dragonfly(
    accumulator: Accumulator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return intensity [N, N, N] and weight of an unfolded accumulator, as that program does.

    It makes the sums centrosymmetric, weighted by the weights of both sides, *before* it
    divides by the weight of one; where the weights are not centrosymmetric neither is the
    result. The weight returned is of both sides.
    """
    pairs = accumulator.pairs
    size = len(pairs)
    intensity, weight = (np.zeros((size, size, size), np.float32) for _ in range(2))
    for x in range(size):
        value, w = pairs[x, ..., 0], pairs[x, ..., 1]
        mate_value, mate_w = (pairs[size - 1 - x, ::-1, ::-1, i] for i in (0, 1))
        weight[x] = w + mate_w
        used = w > 0
        mixed = (value * w + mate_value * mate_w)[used] / (w + mate_w)[used]
        intensity[x][used] = mixed / w[used]
    return intensity, weight


def interpolated(profile: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate a profile at integer radii linearly; beyond its end it takes the last value."""
    return np.interp(radius, np.arange(len(profile), dtype=np.float64), profile)


def stacked(volumes: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Stack volumes; one alone is not copied."""
    return volumes[0][None] if len(volumes) == 1 else np.stack(volumes)


def at_radius(profile: NDArray[np.float64], index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Spread a radial profile over voxels; radii beyond its end take the last value."""
    return profile[np.minimum(index, len(profile) - 1)]


def low_passed(model: Model, profile: NDArray[np.float64], radius: float) -> Model:
    """Return a copy with everything beyond a radius replaced by the radial mean `profile`."""
    volumes = model.volumes.copy()
    for k, index in radius_planes(model.size):
        mean = at_radius(profile, index)
        for volume in volumes:
            plane = volume[model.size // 2 + k]
            plane[index > radius] = mean[index > radius]
    return Model(complete(volumes), model.patterns.copy())


def extrapolated(new: Model, old: Model, share: float) -> Model:
    """Go on from `new` by a share of the last step, voxels not below a fifth of `new`."""
    first = new.size // 2
    volumes = np.empty_like(new.volumes)
    step = new.volumes[:, first:] - old.volumes[:, first:]
    volumes[:, first:] = np.maximum(
        new.volumes[:, first:] + np.float32(share) * step, np.float32(0.2) * new.volumes[:, first:]
    )
    return Model(volumes, new.patterns)


def change_between(old: Model, new: Model, photons: NDArray[np.float64]) -> float:
    """Relative change of the model: per shell, then averaged with the shells' `photons`.

    A plain L2 norm would hear the innermost shells alone, whose intensity is thousands of
    times that of the shells which tell orientations apart.
    """
    n = n_radii(old.size)
    power = np.zeros((2, len(old.volumes), n))
    for k, index in radius_planes(old.size):
        flat = index.ravel()
        x = old.size // 2 + k
        for mode, (a, b) in enumerate(zip(old.volumes[:, x], new.volumes[:, x], strict=True)):
            power[0, mode] += np.bincount(flat, np.square(b - a).ravel(), n)
            power[1, mode] += np.bincount(flat, np.square(a).ravel(), n)
    ratio = (power[0] / np.maximum(power[1], 1e-30)).mean(axis=0)
    return float(np.sqrt(photons @ ratio[: len(photons)]))


def random_model(
    size: int,
    n_modes: int,
    profile: NDArray[np.float64],
    pattern: NDArray[np.float64],
    n_patterns: int,
    rng: np.random.Generator,
) -> Model:
    """Start: the radial mean of the frames times uniform random numbers, per mode."""
    volumes = np.empty((n_modes, size, size, size), np.float32)
    for k, index in radius_planes(size):
        for volume in volumes:
            volume[size // 2 + k] = at_radius(profile, index) * rng.uniform(0, 2, index.shape)
    volumes[:, size // 2] += volumes[:, size // 2, ::-1, ::-1]  # the plane x = 0 in itself
    volumes[:, size // 2] *= 0.5
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

"""Intensities made ready for phasing: what is measured, what is held out, how likely a model is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from ..errors import InputError
from . import frequencies
from .kernels import Measured

CENTRE = 0.05
"""Share of the edge: frequencies nearer to the origin are never held out."""

ISLAND = 3
"""Radius of held-out islands in voxels: neighbours, which oversampling ties, go together."""

_EDGE = 2.0  # voxels: the shell beyond which limits continue
_FALL = 4.0
"""Decay of the limit, over the radius of the last shell. Of 16 seeds of a simulated particle (48^3,
hole of one speckle) 4 passed without a limit, 6 with this one, 9 with 0; the free likelihood of the
best at ten times the photons was 0.54, 0.55 and 0.87."""

_LEAST_PHOTONS = 1e-2  # of a model, where photons came: keeps a likelihood finite


NOISE = {"poisson": 0.5, "gauss": 0.5, "amplitude": 0.01}
"""What a true model scores on average (half a degree of freedom per voxel); without a unit, a
misfit of 10 % of the modulus. Differences below it tell nothing."""


@dataclass(frozen=True)
class Pattern:
    """An intensity; all arrays [*shape] in FFT order (zero frequency at index 0).

    Attributes
    ----------
    intensity : float64     0 where not measured
    precision : float64     exposure if photons, 1 / variance if Gaussian, else 1; 0: not measured
    free : bool             measured, but held out from the iterations
    real : bool             the object is real; all arrays are the same at q and -q
    likelihood : {"poisson", "gauss", "amplitude"}
    """

    intensity: NDArray[np.float64]
    precision: NDArray[np.float64]
    free: NDArray[np.bool_]
    real: bool
    likelihood: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.intensity.shape

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Where there is a value, held out or not."""
        return self.precision > 0

    @property
    def used(self) -> NDArray[np.bool_]:
        """Where the iterations put the modulus in."""
        return self.measured & ~self.free

    def to_measured(self) -> Measured:
        """Return what the iterations take.

        Beyond the last shell that was measured (the corners of a cube) the modulus stays below
        a limit. Left free, it fills with what fits the support by chance: seeds then differ there
        most. Set to 0, it cuts so sharply that the density cannot stay inside of its support.
        """
        amplitude = np.sqrt(self.intensity).astype(np.float32)
        return Measured(amplitude, self.used, self._limit(), self.real)

    def _limit(self) -> NDArray[np.float32] | None:
        radius, measured = frequencies.radius(self.shape), self.measured
        last = float(radius[measured].max())
        beyond = radius > last
        rms = np.sqrt(self.intensity[measured & (radius > last - _EDGE)].mean())
        if not beyond.any() or not rms or not last:
            return None
        limit = np.full(self.shape, np.inf, np.float32)
        limit[beyond] = rms * np.exp(-_FALL * (radius[beyond] - last) / last)
        return limit

    def llk(self, model: NDArray, where: NDArray[np.bool_]) -> float:
        """Return how much less likely a model is than the data themselves, per voxel, >= 0.

        Parameters
        ----------
        model : float [*shape]
            Expected intensity.
        where : bool [*shape]
            Measured voxels to use.

        Returns
        -------
        float
            With o measured, c the model and w the precision, the mean of
            ``w (c - o + o log(o/c))`` (Poisson), ``w (c - o)^2 / 2`` (Gauss) or, where the unit
            of the intensity is not known, ``(sqrt(o) - sqrt(c))^2 / mean(o)`` (amplitude).
            NaN if there is no voxel.
        """
        if not where.any():
            return float("nan")
        o, w = self.intensity[where], self.precision[where]
        c = np.asarray(model)[where].astype(np.float64)
        if self.likelihood == "gauss":
            return float(np.mean(w * (c - o) ** 2) / 2)
        if self.likelihood == "amplitude":
            return float(np.mean((np.sqrt(o) - np.sqrt(c)) ** 2) / max(o.mean(), 1e-300))
        o, c = w * o, np.maximum(w * c, _LEAST_PHOTONS)
        return float(np.mean(c - o + o * np.log(np.maximum(o, 1e-300) / c)))


def prepare(
    intensity: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    real: bool = True,
    size: int = 0,
    free_fraction: float = 0.05,
    seed: int = 0,
) -> Pattern:
    """Check an intensity and put it into FFT order.

    Parameters
    ----------
    intensity : float [*shape], 2 or 3 axes
        Origin at ``n // 2``. NaN, infinite and negative values were not measured.
    weight : float [*shape], optional
        Merged exposure: weight times intensity is a number of photons. 0: not measured.
    mask : bool [*shape], optional
        True where measured.
    sigma : float [*shape], optional
        Standard deviation of Gaussian errors.
    real : bool
        Values at q and -q are averaged with their precision.
    size : int
        Crop to this many voxels along each axis; 0: all.
    free_fraction : float
        Share of measured voxels that is held out.
    seed : int
        Of the choice of these.

    Returns
    -------
    Pattern
        Likelihoods are Gaussian with `sigma`; of photons with `weight`, or if all values are
        whole numbers; otherwise without unit ("amplitude").

    Raises
    ------
    InputError
        An array has a wrong shape or nothing is measured.
    """
    values = _checked("intensity", intensity)
    shape = values.shape
    measured = np.isfinite(values) & (values >= 0)
    precision = np.ones(shape)
    if weight is not None and sigma is not None:
        raise InputError("weight and sigma must not both be given, got both")
    likelihood = "amplitude"
    if weight is not None:
        precision = _not_negative("weight", weight, shape)
        likelihood = "poisson"
    elif sigma is not None:
        spread = _not_negative("sigma", sigma, shape)
        precision = np.divide(1.0, spread**2, out=np.zeros(shape), where=spread > 0)
        likelihood = "gauss"
    elif (values[measured] == np.rint(values[measured])).all() and measured.any():
        likelihood = "poisson"
    measured &= precision > 0
    if mask is not None:
        measured &= _mask(mask, shape)
    arrays = (_central(np.where(measured, a, 0.0), size) for a in (values, precision))
    values, precision = (np.fft.ifftshift(a) for a in arrays)
    if not values.any():
        n = int((precision > 0).sum())
        raise InputError(
            f"intensity must be above 0 in some measured voxel, got {n} measured voxels"
            + (", all 0" if n else "")
        )
    if real:
        values, precision = _friedel(values, precision)
    free = free_voxels(precision > 0, free_fraction, seed, real=real)
    return Pattern(values, precision, free, real, likelihood)


def free_voxels(
    measured: NDArray[np.bool_], fraction: float, seed: int = 0, *, real: bool = True
) -> NDArray[np.bool_]:
    """Choose voxels to hold out, in islands.

    Parameters
    ----------
    measured : bool [*shape]
        FFT order.
    fraction : float
        Share of the measured voxels.
    seed : int
    real : bool
        Choose q and -q together.

    Returns
    -------
    bool [*shape]
        A subset of `measured`, at least `CENTRE` of the shortest edge away from the origin.
    """
    shape = measured.shape
    free = np.zeros(shape, bool)
    wanted = fraction * np.count_nonzero(measured)
    away = frequencies.radius(shape) > CENTRE * min(shape)
    candidates = np.flatnonzero(measured & away)
    if not wanted or not candidates.size:
        return free
    offsets = _ball(min(ISLAND, max(1, min(shape) // 20)), len(shape))
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    centres = order.permutation(candidates)
    first = 0
    while np.count_nonzero(free) < wanted and first < centres.size:
        left = wanted - np.count_nonzero(free)
        n = max(1, int(left / (len(offsets) * (1 + real)) / 2))
        at = np.stack(np.unravel_index(centres[first : first + n], shape), axis=-1)
        island = (at[:, None, :] + offsets) % np.array(shape)
        free[tuple(np.moveaxis(island, -1, 0))] = True
        free &= measured & away
        if real:
            free |= frequencies.mirrored(free)
        first += n
    return free


def _ball(radius: int, n_axes: int) -> NDArray[np.intp]:
    """Return the offsets [n, n_axes] of voxels within a radius."""
    axes = [np.arange(-radius, radius + 1)] * n_axes
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, n_axes)
    return offsets[(offsets**2).sum(axis=1) <= radius**2]


def _friedel(values: NDArray, precision: NDArray) -> tuple[NDArray, NDArray]:
    """Return the average of q and -q, and the sum of their precisions."""
    both = precision + frequencies.mirrored(precision)
    sums = values * precision
    sums = sums + frequencies.mirrored(sums)
    return np.divide(sums, both, out=np.zeros_like(sums), where=both > 0), both


def _checked(name: str, value: ArrayLike) -> NDArray[np.float64]:
    try:
        kind = np.asarray(value).dtype
        if kind.kind not in "fiub":
            raise InputError(f"{name} must be real numbers, got {kind}")
        result = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} must be an array of numbers: {error}") from None
    if result.ndim not in (2, 3) or min(result.shape) < 2:
        raise InputError(
            f"{name} must have 2 or 3 axes of at least 2 voxels, got shape {list(result.shape)}"
        )
    return result


def _not_negative(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    result = _validate.array(name, value, np.float64, shape)
    result = np.where(np.isnan(result), 0.0, result)
    if (result < 0).any() or np.isinf(result).any():
        bad = int(((result < 0) | np.isinf(result)).sum())
        raise InputError(f"{name} must be finite and at least 0, got {bad} other values")
    return result


def _mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    values = np.asarray(mask)
    if values.dtype.kind not in "bui" or (values.dtype != bool and (values > 1).any()):
        raise InputError(f"mask must be bool (or 0 and 1), got {values.dtype}")
    values = _validate.array("mask", values, np.bool_, shape)
    if not values.any():
        raise InputError("mask must be True where measured, got False everywhere")
    return values


def _central(values: NDArray, size: int) -> NDArray:
    """Return the part of at most `size` voxels along each axis that keeps the origin."""
    if not size:
        return values
    cut = []
    for n in values.shape:
        first = max(0, n // 2 - size // 2)
        cut.append(slice(first, first + min(n, size)))
    return values[tuple(cut)]

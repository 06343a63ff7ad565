"""Where the object may be: the first support, and shrink-wrap, on batches of seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from ..errors import InputError
from . import frequencies
from .batches import in_threads
from .pattern import Pattern

KINDS = ("max", "rms", "volume")

_INNER = 4
"""Shells next to a missing centre from which it is filled for the autocorrelation."""


def filled_intensity(pattern: Pattern) -> NDArray[np.float64]:
    """Return the intensity with shell means where not measured; only good for a first look.

    Parameters
    ----------
    pattern : Pattern

    Returns
    -------
    float64 [*shape]
        FFT order. In the missing centre a Gaussian continues the innermost shells (Guinier);
        beyond the last shell measured it is 0.
    """
    shape = pattern.shape
    shell = frequencies.shells(shape)
    n = int(shell.max()) + 1
    measured = pattern.measured
    count = np.bincount(shell[measured], minlength=n)
    sums = np.bincount(shell[measured], pattern.intensity[measured], minlength=n)
    seen = np.flatnonzero(count)
    mean = np.interp(np.arange(n), seen, sums[seen] / count[seen], right=0.0)
    inner = seen[:_INNER]
    if inner[0] > 0 and len(inner) > 1 and (mean[inner] > 0).all():
        slope, level = np.polyfit(inner**2.0, np.log(mean[inner]), 1)
        mean[: inner[0]] = np.exp(level + min(slope, 0.0) * np.arange(inner[0]) ** 2.0)
    return np.where(measured, pattern.intensity, mean[shell])


def autocorrelation_support(
    intensity: NDArray, thresholds: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return where the autocorrelation exceeds shares of its largest value.

    Parameters
    ----------
    intensity : float [*shape]
        FFT order, complete.
    thresholds : float [S]

    Returns
    -------
    bool [S, *shape]
        The origin at index 0. As wide as the object twice over, and never empty.

    Notes
    -----
    High frequencies are damped by a Gaussian that blurs the autocorrelation by one voxel: the
    threshold should not see their noise.
    """
    damping = np.exp(-2 * (np.pi * frequencies.radius(intensity.shape) / max(intensity.shape)) ** 2)
    blurred = np.abs(np.fft.ifftn(intensity * damping))
    levels = np.asarray(thresholds, np.float64) * blurred.flat[0]
    result = blurred > levels.reshape(-1, *[1] * blurred.ndim)
    result.reshape(len(result), -1)[:, 0] = True
    return result


def ball(shape: tuple[int, ...], diameter: float) -> NDArray[np.bool_]:
    """Return a ball about index 0, bool [*shape]; its diameter is in voxels."""
    if diameter > min(shape):
        raise InputError(
            f"diameter must be at most the {min(shape)} voxels of the density, got {diameter:g}"
        )
    axes = np.meshgrid(*(n * np.fft.fftfreq(n) for n in shape), indexing="ij", sparse=True)
    return np.sqrt(sum(x**2 for x in axes)) <= diameter / 2


def blur(values: NDArray, sigma: float, *, threads: int = 1) -> NDArray:
    """Blur real values with a Gaussian that is periodic along all axes but the first.

    Parameters
    ----------
    values : float32 or float64 [S, *shape]
    sigma : float
        Standard deviation in voxels, at least 0.
    threads : int
        Seeds at a time; results do not depend on it.

    Returns
    -------
    float [S, *shape]
        Of the type of `values`.
    """
    sigma = _validate.number("sigma", sigma, low=0.0)
    if not sigma:
        return values.copy()
    shape = values.shape[1:]
    result = np.empty_like(values)
    factors = [_transfer(n, sigma, i == len(shape) - 1) for i, n in enumerate(shape)]

    def one(s: int) -> None:
        f = np.fft.rfftn(values[s])
        for i, factor in enumerate(factors):
            f *= factor.astype(values.dtype).reshape(-1, *[1] * (len(shape) - 1 - i))
        result[s] = np.fft.irfftn(f, shape, tuple(range(len(shape))))

    in_threads(one, range(len(values)), threads)
    return result


def _transfer(n: int, sigma: float, half: bool) -> NDArray[np.float64]:
    """Return the transform of a Gaussian of n samples that was wrapped around."""
    x = np.arange(n)
    wraps = int(np.ceil(6 * sigma / n)) + 1
    kernel = sum(np.exp(-0.5 * ((x + k * n) / sigma) ** 2) for k in range(-wraps, wraps + 1))
    f = np.fft.fft(kernel / kernel.sum()).real
    return f[: n // 2 + 1] if half else f


def shrink_wrap(
    size: NDArray,
    support: NDArray,
    kind: str,
    thresholds: NDArray[np.float64],
    *,
    sigma: float,
    bound: NDArray[np.bool_] | None = None,
    threads: int = 1,
) -> NDArray[np.bool_]:
    """Return where blurred objects are large.

    Parameters
    ----------
    size : float32 or float64 [S, *shape]
        Absolute values of the objects, not cut by a support.
    support : bool [S, *shape]
        The supports so far, for "rms".
    kind : {"max", "rms", "volume"}
        See `phasing.Config`.
    thresholds : float [S]
        Share of the largest value, of the root mean square inside of the support, or of all
        voxels.
    sigma : float
        Of the blur, in voxels.
    bound : bool [*shape] or [S, *shape], optional
        The support stays inside.
    threads : int

    Returns
    -------
    bool [S, *shape]

    Raises
    ------
    InputError
        `kind` is unknown or a shape is wrong.

    Notes
    -----
    Marchesini et al., Phys. Rev. B 68, 140101 (2003). "volume" keeps exactly
    ``round(threshold * voxels)`` voxels (ties: the first in memory), fewer if the bound is
    smaller.
    """
    _validate.choice("kind", kind, KINDS)
    thresholds = _validate.array("thresholds", thresholds, np.float64, (len(size),), finite=True)
    if support.shape != size.shape:
        raise InputError(f"support must have shape {list(size.shape)}, got {list(support.shape)}")
    blurred = blur(size, sigma, threads=threads)
    if bound is not None:
        blurred = np.where(bound, blurred, -np.inf).astype(blurred.dtype)
    result = np.empty(size.shape, bool)
    for s, threshold in enumerate(thresholds):
        if kind == "volume":
            result[s] = _largest(blurred[s], round(threshold * blurred[s].size))
        elif kind == "max":
            result[s] = blurred[s] > threshold * blurred[s].max()
        else:
            inside = size[s][support[s]].astype(np.float64)
            rms = np.sqrt(np.mean(inside**2)) if inside.size else 0.0
            result[s] = blurred[s] > threshold * rms
    return result


def _largest(values: NDArray, n: int) -> NDArray[np.bool_]:
    """Return the n largest finite values, the first in memory among equals."""
    flat = values.ravel()
    n = min(n, int(np.isfinite(flat).sum()))
    result = np.zeros(flat.size, bool)
    if n:
        level = np.partition(flat, flat.size - n)[flat.size - n]
        result = flat > level
        equal = np.flatnonzero(flat == level)
        result[equal[: n - int(result.sum())]] = True
    return result.reshape(values.shape)


def half_of(support: NDArray[np.bool_], axes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return each support's half on one side of its centre of mass.

    Parameters
    ----------
    support : bool [S, *shape]
        Periodic; the object about index 0.
    axes : int [S]
        The axis across which each is cut.
    """
    result = support.copy()
    for s, axis in enumerate(axes):
        n = support.shape[1 + axis]
        place = np.rint(n * np.fft.fftfreq(n))
        others = tuple(i for i in range(support.ndim - 1) if i != axis)
        along = support[s].sum(axis=others)
        if along.any():
            kept = place >= (place * along).sum() / along.sum()
            shape = [1] * (support.ndim - 1)
            shape[axis] = n
            result[s] &= kept.reshape(shape)
    return result

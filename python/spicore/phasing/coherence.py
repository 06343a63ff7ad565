"""Partially coherent light: what is measured is the intensity convolved with a kernel.

Kernels are small: [S, *box], odd along each axis, the origin in the middle, their sum 1. They and
intensities are float64: weak ones would drown in the rounding errors of strong ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from .._dispatch import n_threads
from ..errors import InputError
from .batches import in_threads

if TYPE_CHECKING:
    from .kernels import Measured, Seeds

STEPS = 20
"""Richardson-Lucy steps of an update (as in cohere)."""

HALF = 5
"""Voxels of a first kernel on each side of its middle."""

MOST_VOXELS = 1 << 16
"""About the origin, from which kernels are estimated: there are most of the photons."""


def first_kernel(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a kernel to start from, float64 [*box].

    Notes
    -----
    ``(1 + r^2)^-1.5``, wide on purpose: from a narrow one Richardson-Lucy ends too narrow, as the
    object adapts to it. Of simulated images (Gaussians of 0.5 and 0.8 voxels, Lorentzian of 0.7)
    this start found kernels to 8 to 14 % of their sum and one of 0.3 voxels to 26 to 60 %.
    """
    axes = [np.arange(-half, half + 1) for half in (min(HALF, (n - 1) // 2) for n in shape)]
    squares = (x**2 for x in np.meshgrid(*axes, indexing="ij", sparse=True))
    kernel = (1.0 + sum(squares)) ** -1.5
    return kernel / kernel.sum()


def blurred(power: NDArray, kernel: NDArray[np.float64], threads: int = 1) -> NDArray[np.float64]:
    """Return the convolution of an intensity with a kernel.

    Parameters
    ----------
    power : float [*shape]
        Periodic.
    kernel : float64 [*box]
    threads : int

    Returns
    -------
    float64 [*shape]
        At least 0.
    """
    import scipy.fft

    with scipy.fft.set_workers(threads):
        f = scipy.fft.rfftn(np.asarray(power, np.float64))
        f *= scipy.fft.rfftn(_padded(kernel, power.shape))
        return np.maximum(scipy.fft.irfftn(f, power.shape), 0.0)


def neighbours(
    x: NDArray, kernel: NDArray[np.float64], threads: int = 1
) -> tuple[NDArray[np.float64], float]:
    """Split the blurred intensity of an object: centre |F|^2 + neighbours^2.

    Parameters
    ----------
    x : [*shape]
    kernel : float64 [*box]
    threads : int

    Returns
    -------
    float64 [*shape]
        Square root of what the other frequencies give to each.
    float
        The kernel at its middle.
    """
    import scipy.fft

    with scipy.fft.set_workers(threads):
        power = np.abs(scipy.fft.fftn(x)).astype(np.float64) ** 2
    others, middle = kernel.copy(), _middle(kernel)
    others[middle] = 0.0
    return np.sqrt(blurred(power, others, threads)), float(kernel[middle])


def update_coherence(
    measured: Measured, seeds: Seeds, *, steps: int = STEPS, threads: int | None = None
) -> None:
    """Fit the kernel of each start to the measurement, in place, by Richardson-Lucy steps.

    Parameters
    ----------
    measured : Measured
    seeds : Seeds
        With `coherence`, which changes; the object is x inside of the support.
    steps : int
        Of the iteration below, at least 0.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Raises
    ------
    InputError
        There is no `coherence`, or an argument has a wrong shape, type or value.

    Notes
    -----
    With I measured, P = |F|^2 and B = P conv kernel, over measured frequencies about the origin
    (`MOST_VOXELS`), ``kernel *= corr(I / B, P) / corr(1, P)``, then normalised: steps of
    expectation maximisation for photons, which keep it at least 0, and 0 where it was. With a real
    object it is kept symmetric; with a complex one a shift of it is a phase ramp of the object.
    Cost: four Fourier transforms of at most `MOST_VOXELS` voxels a step and start.

    Clark et al., Nat. Commun. 3, 993 (2012); cohere's `pcdi`.
    """
    import scipy.fft

    from .kernels import check

    check(measured, seeds)
    if seeds.coherence is None:
        raise InputError("coherence must be given to update it, got None")
    steps = int(_validate.number("steps", steps, low=0))
    intensity = np.where(measured.measured, measured.amplitude, 0).astype(np.float64) ** 2
    half = [n // 2 for n in seeds.coherence.shape[1:]]
    data, weight = (_centre(a, half) for a in (intensity, measured.measured.astype(np.float64)))
    weight = weight * _inner(weight.shape, measured.shape, half)

    def one(s: int) -> None:
        x = np.where(seeds.support[s % len(seeds.support)], seeds.x[s], 0)
        power = _centre(np.abs(scipy.fft.fftn(x)).astype(np.float64) ** 2, half)
        kernel = _richardson_lucy(seeds.coherence[s], data, weight, power, steps)
        seeds.coherence[s] = (kernel + np.flip(kernel)) / 2 if measured.real else kernel

    in_threads(one, range(len(seeds.x)), n_threads(threads))


def _richardson_lucy(
    kernel: NDArray, data: NDArray, weight: NDArray, power: NDArray, steps: int
) -> NDArray[np.float64]:
    import scipy.fft

    shape = data.shape
    factor = scipy.fft.rfftn(power)

    def correlated(values: NDArray) -> NDArray:
        whole = scipy.fft.irfftn(scipy.fft.rfftn(values) * factor.conj(), shape)
        return np.maximum(_boxed(whole, kernel.shape), 0.0)

    least = 1e-300 + np.finfo(np.float64).eps * power.max()
    norm = np.maximum(correlated(weight), least)
    for _ in range(steps):
        model = scipy.fft.irfftn(scipy.fft.rfftn(_padded(kernel, shape)) * factor, shape)
        new = kernel * correlated(weight * data / np.maximum(model, least)) / norm
        if not new[_middle(new)] > 0:  # no object, or one that nothing measured sees
            break
        kernel = new / new.sum()
    return kernel


def _middle(kernel: NDArray) -> tuple[int, ...]:
    return tuple(n // 2 for n in kernel.shape)


def _padded(kernel: NDArray, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a kernel in zeros, its origin at index 0."""
    result = np.zeros(shape)
    result[tuple(slice(n) for n in kernel.shape)] = kernel
    return np.roll(result, [-m for m in _middle(kernel)], tuple(range(kernel.ndim)))


def _boxed(values: NDArray, box: tuple[int, ...]) -> NDArray:
    """Return what `_padded` put in."""
    moved = np.roll(values, [n // 2 for n in box], tuple(range(values.ndim)))
    return moved[tuple(slice(n) for n in box)]


def _centre(values: NDArray, half: list[int]) -> NDArray:
    """Return the central part of periodic values [*shape], index 0 still its origin."""
    side = int(MOST_VOXELS ** (1 / values.ndim))
    kept = [
        np.arange(-(m // 2), m - m // 2) % n
        for n, m in (
            (n, min(n, max(side, 4 * h + 1))) for n, h in zip(values.shape, half, strict=True)
        )
    ]
    return np.fft.ifftshift(values[np.ix_(*kept)])


def _inner(part: tuple[int, ...], shape: tuple[int, ...], half: list[int]) -> NDArray[np.bool_]:
    """Return where in a central part convolution with a kernel needs nothing beyond it."""
    result = np.ones(part, bool)
    for axis, (m, n, h) in enumerate(zip(part, shape, half, strict=True)):
        place = np.rint(m * np.fft.fftfreq(m))
        inside = (m == n) | ((place >= h - m // 2) & (place < m - m // 2 - h))
        result &= inside.reshape([-1 if i == axis else 1 for i in range(len(part))])
    return result


def check_coherence(kernel: object, n_starts: int, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless these are kernels for starts of this shape."""
    if (
        not isinstance(kernel, np.ndarray)
        or kernel.dtype != np.float64
        or kernel.ndim != 1 + len(shape)
        or len(kernel) != n_starts
    ):
        got = f"{kernel.dtype} {list(kernel.shape)}" if isinstance(kernel, np.ndarray) else kernel
        box = ", ".join(["box"] * len(shape))
        raise InputError(f"coherence must be float64 [{n_starts}, {box}], got {got}")
    if any(k % 2 == 0 or k > n for k, n in zip(kernel.shape[1:], shape, strict=True)):
        raise InputError(
            f"coherence must have odd axes of at most {list(shape)}, got {list(kernel.shape[1:])}"
        )
    if not (np.isfinite(kernel) & (kernel >= 0)).all():
        raise InputError("coherence must be finite and at least 0, got other values")
    flat = kernel.reshape(n_starts, -1)
    if np.abs(flat.sum(1) - 1).max(initial=0) > 1e-6:
        raise InputError(f"coherence must have sums of 1, got {flat.sum(1)}")
    if (flat[:, flat.shape[1] // 2] <= 0).any():
        raise InputError("coherence must be above 0 in the middle, got 0")

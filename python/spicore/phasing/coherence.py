"""The kernel of partially coherent light, fitted to the measurement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from .._dispatch import n_threads
from ..errors import InputError
from .batches import in_threads
from .blur import box_of, middle_of, power_of, transfer_of
from .kernels import Measured, Seeds, check

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
        power = _centre(power_of(x), half)
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
        return np.maximum(whole[box_of(kernel.shape)], 0.0)

    least = 1e-300 + np.finfo(np.float64).eps * power.max()
    norm = np.maximum(correlated(weight), least)
    for _ in range(steps):
        model = scipy.fft.irfftn(transfer_of(kernel, shape) * factor, shape)
        new = kernel * correlated(weight * data / np.maximum(model, least)) / norm
        if not new[middle_of(new)] > 0:  # no object, or one that nothing measured sees
            break
        kernel = new / new.sum()
    return kernel


def _centre(values: NDArray, half: list[int]) -> NDArray:
    """Return the central part of periodic values [*shape], index 0 still its origin."""
    side = int(MOST_VOXELS ** (1 / values.ndim))
    lengths = [min(n, max(side, 4 * h + 1)) for n, h in zip(values.shape, half, strict=True)]
    kept = [
        np.arange(-(m // 2), m - m // 2) % n for n, m in zip(values.shape, lengths, strict=True)
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

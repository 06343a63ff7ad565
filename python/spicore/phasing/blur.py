"""Partially coherent light: what is measured is the intensity convolved with a kernel.

Kernels are small: [*box], odd along each axis, the origin in the middle, their sum 1. They and
intensities are float64: weak ones would drown in the rounding errors of strong ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


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
    return _product(power, transfer_of(kernel, power.shape), threads)


class Neighbours:
    """Splits blurred intensities of objects: centre |F|^2 + neighbours^2.

    Parameters
    ----------
    kernel : float64 [*box]
    shape : tuple of int

    Attributes
    ----------
    centre : float
        The kernel at its middle.
    """

    def __init__(self, kernel: NDArray[np.float64], shape: tuple[int, ...]) -> None:
        middle = middle_of(kernel)
        self.centre = float(kernel[middle])
        others = kernel.copy()
        others[middle] = 0.0
        self._transfer = transfer_of(others, shape)

    def __call__(self, x: NDArray, threads: int = 1) -> NDArray[np.float64]:
        """Return the root of what the other frequencies of x give to each, float64 [*shape]."""
        result = _product(power_of(x, threads), self._transfer, threads)
        return np.sqrt(result, out=result)


def power_of(x: NDArray, threads: int = 1) -> NDArray[np.float64]:
    """Return |F|^2 of an object."""
    import scipy.fft

    with scipy.fft.set_workers(threads):
        f = scipy.fft.fftn(x)
    power = np.square(f.real, dtype=np.float64)
    power += np.square(f.imag, dtype=np.float64)
    return power


def transfer_of(kernel: NDArray, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    """Return the half transform of a kernel in zeros of a shape, its origin at index 0."""
    import scipy.fft

    return scipy.fft.rfftn(_padded(kernel, shape))


def _product(power: NDArray, transfer: NDArray, threads: int) -> NDArray[np.float64]:
    import scipy.fft

    with scipy.fft.set_workers(threads):
        f = scipy.fft.rfftn(np.asarray(power, np.float64))
        f *= transfer
        result = scipy.fft.irfftn(f, power.shape, overwrite_x=True)
    return np.maximum(result, 0.0, out=result)


def middle_of(kernel: NDArray) -> tuple[int, ...]:
    """Return the index of the origin."""
    return tuple(n // 2 for n in kernel.shape)


def box_of(box: tuple[int, ...]) -> tuple[NDArray, ...]:
    """Return the place of a box in periodic arrays whose index 0 is its middle."""
    return np.ix_(*(np.arange(n) - n // 2 for n in box))


def _padded(kernel: NDArray, shape: tuple[int, ...]) -> NDArray[np.float64]:
    result = np.zeros(shape)
    result[box_of(kernel.shape)] = kernel
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

"""Alignment of reconstructions: what intensities leave open is made the same.

Shifts are periodic; the origin of an inversion is index 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import frequencies

_FINE = ((0.25, 1.0), (0.05, 0.25), (0.01, 0.05))
"""Steps and reaches of the searches around a peak, in voxels."""


@dataclass(frozen=True)
class Alignment:
    """What was done to an object, in this order.

    Attributes
    ----------
    inverted : bool
        ``conj(x(-r))`` was taken.
    shift : float64 [axes]
        Voxels by which it was moved.
    ramp : float64 [axes]
        Voxels by which its transform was moved; 0 for real objects.
    phase : float
        Radians that were added; 0 for real objects.
    scale : float
        Factor; 1 unless asked for.
    correlation : float
        ``|<reference, aligned>| / (|reference| |aligned|)``.
    """

    inverted: bool
    shift: NDArray[np.float64]
    ramp: NDArray[np.float64]
    phase: float
    scale: float
    correlation: float


def align(moving: NDArray, reference: NDArray, *, scale: bool = False) -> tuple[NDArray, Alignment]:
    """Move an object onto another one that has, in theory, the same intensity.

    Parameters
    ----------
    moving, reference : float or complex [*shape]
        Both real or both complex.
    scale : bool
        Also fit a factor. The data of one measurement fix it already.

    Returns
    -------
    aligned : [*shape]
        Of the type of `moving`.
    alignment : Alignment

    Raises
    ------
    InputError
        Shapes or kinds differ, or an object is 0 or not finite.

    Notes
    -----
    Peaks of correlations of |x| (complex objects; of x for real ones), located to 0.01 voxels by
    evaluating the Fourier sum off the grid (Guizar-Sicairos, Opt. Lett. 33, 156 (2008)).
    """
    if moving.shape != reference.shape or np.iscomplexobj(moving) != np.iscomplexobj(reference):
        raise InputError(
            f"moving must be like reference, {reference.dtype} {list(reference.shape)}, "
            f"got {moving.dtype} {list(moving.shape)}"
        )
    for name, x in (("moving", moving), ("reference", reference)):
        if not (np.isfinite(x).all() and x.any()):
            raise InputError(f"{name} must be finite and not 0 everywhere, it is not")
    is_real = not np.iscomplexobj(moving)
    target = np.fft.fftn(_modulus(reference))
    candidates = []
    for inverted in (False, True):
        x = inverse(moving) if inverted else moving
        cross = target.conj() * np.fft.fftn(_modulus(x))
        candidates.append((float(np.fft.ifftn(cross).real.max()), inverted, x, cross))
    _, inverted, x, cross = max(candidates, key=lambda c: c[0])
    shift = -_peak(cross, _integer_peak(np.fft.ifftn(cross).real), absolute=False)
    x = moved(x, shift)
    ramp, phase = np.zeros(x.ndim), 0.0
    if not is_real:
        product = reference.conj() * x
        at = _integer_peak(np.abs(np.fft.fftn(product)))
        # The transform of `product` at q is what `_peak` sums with the sign turned.
        ramp = -_peak(product, -at, absolute=True)
        x = x * _wave(x.shape, -ramp)
        phase = -float(np.angle(np.vdot(reference, x)))
        x, ramp = x * np.exp(1j * phase), -ramp
    factor = 1.0
    if scale:
        factor = float(np.vdot(x, reference).real / np.vdot(x, x).real)
        x = x * factor
    norms = np.linalg.norm(x.ravel()) * np.linalg.norm(reference.ravel())
    correlation = float(np.abs(np.vdot(reference, x)) / norms) if norms else 0.0
    return x.astype(moving.dtype), Alignment(inverted, shift, ramp, phase, factor, correlation)


def inverse(x: NDArray) -> NDArray:
    """Return the twin conj(x(-r)), which has the same intensity."""
    return frequencies.mirrored(x).conj()


def moved(x: NDArray, shift: NDArray) -> NDArray:
    """Return an object moved by a vector in voxels, whole or not, along periodic axes."""
    shift = np.asarray(shift, np.float64)
    if (shift == np.rint(shift)).all():
        return np.roll(x, np.rint(shift).astype(int), tuple(range(x.ndim)))
    f = np.fft.fftn(x)
    for i, n in enumerate(x.shape):
        factor = np.exp(-2j * np.pi * np.fft.fftfreq(n) * shift[i]).astype(f.dtype)
        f *= factor.reshape([-1 if j == i else 1 for j in range(x.ndim)])
    result = np.fft.ifftn(f)
    return (result if np.iscomplexobj(x) else result.real).astype(x.dtype)


def like(support: NDArray[np.bool_], alignment: Alignment) -> NDArray[np.bool_]:
    """Return a support inverted and moved, to the nearest voxel, as its object was."""
    x = frequencies.mirrored(support) if alignment.inverted else support
    return np.roll(x, np.rint(alignment.shift).astype(int), tuple(range(x.ndim)))


def _modulus(x: NDArray) -> NDArray:
    return np.abs(x) if np.iscomplexobj(x) else x


def _wave(shape: tuple[int, ...], ramp: NDArray) -> NDArray[np.complex64]:
    """Return exp(2 pi i ramp r / n) with r from -n/2 to n/2, in FFT order."""
    result = np.ones(shape, np.complex64)
    for i, n in enumerate(shape):
        wave = np.exp(2j * np.pi * np.fft.fftfreq(n) * ramp[i]).astype(np.complex64)
        result *= wave.reshape([-1 if j == i else 1 for j in range(len(shape))])
    return result


def _integer_peak(values: NDArray) -> NDArray[np.float64]:
    """Return the place of the largest value, negative beyond the middle."""
    at = np.unravel_index(int(values.argmax()), values.shape)
    return np.array([i if i <= n // 2 else i - n for i, n in zip(at, values.shape, strict=True)],
                    np.float64)  # fmt: skip


def _peak(cross: NDArray, at: NDArray[np.float64], *, absolute: bool) -> NDArray[np.float64]:
    """Return where |or Re| of sum_k cross(k) exp(2 pi i k s / n) peaks near `at`."""
    for step, reach in _FINE:
        offsets = np.arange(-round(reach / step), round(reach / step) + 1) * step
        values = cross
        for i, n in enumerate(cross.shape):
            k = n * np.fft.fftfreq(n)
            waves = np.exp(2j * np.pi * np.outer(at[i] + offsets, k) / n).astype(cross.dtype)
            # The axis in front is summed and comes back as the last: after all axes, in order.
            values = np.tensordot(values, waves, axes=(0, 1))
        values = np.abs(values) if absolute else values.real
        best = np.unravel_index(int(values.argmax()), values.shape)
        at = at + offsets[list(best)]
    return at

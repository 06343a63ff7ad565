"""Fourier coefficients of polar frames along the in-plane angle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def kept_coefficients(values: NDArray, radii: Sequence[int]) -> NDArray[np.float64]:
    """Return [N, C, 2] of values [N, Q, A]: order m of the rings below radii[m], m by m.

    ``sum_t values[n, q, t] exp(-2 pi i m t / A)``, real and imaginary part.
    """
    transform = np.fft.rfft(np.asarray(values, np.float64), axis=-1)
    kept = [transform[:, :n_rings, m] for m, n_rings in enumerate(radii)]
    flat = np.concatenate(kept, axis=1)
    return np.stack([flat.real, flat.imag], axis=-1)


def polar_frames(counts: NDArray, radii: Sequence[int]) -> NDArray[np.float64]:
    """Return [D, C, 2] from counts [D, Q, A], divided by A."""
    return kept_coefficients(counts, radii) / counts.shape[-1]

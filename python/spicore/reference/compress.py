"""Posterior-weighted sums of frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def compress(posterior: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Return [R, T] from posterior [D, R] and values [D, T]."""
    return np.asarray(posterior, np.float64).T @ np.asarray(values, np.float64)


def compress_background(
    posterior: NDArray,
    counts: NDArray,
    tomograms: NDArray,
    fluence: NDArray,
    background: NDArray,
    background_scale: NDArray,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the expected signal photons per tomogram pixel [R, T] and per frame [D]."""
    signal = np.multiply.outer(fluence, tomograms)
    noise = np.multiply.outer(background_scale, background)[:, None, :]
    share = signal / np.maximum(signal + noise, np.finfo(float).tiny)
    terms = posterior[:, :, None] * counts[:, None, :] * share
    return terms.sum(axis=0), terms.sum(axis=(1, 2))

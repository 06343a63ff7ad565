"""Log-likelihoods of frames in orientations, up to a constant per frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .expand import TINY


def maximize(
    values: NDArray, tomograms: NDArray, fluence: NDArray, offset: NDArray
) -> NDArray[np.float64]:
    """Return [D, R] from values [D, T] and (log) tomograms [R, T]."""
    values, tomograms = np.asarray(values, np.float64), np.asarray(tomograms, np.float64)
    return values @ tomograms.T - np.outer(fluence, offset)


def maximize_background(
    counts: NDArray,
    tomograms: NDArray,
    fluence: NDArray,
    offset: NDArray,
    background: NDArray,
    background_scale: NDArray,
    reference: NDArray,
) -> NDArray[np.float64]:
    """Return [D, R] from counts [D, T], linear tomograms [R, T], background [T]."""
    expected = (
        np.multiply.outer(fluence, tomograms)
        + np.multiply.outer(background_scale, background)[:, None, :]
    )
    logs = np.log(np.maximum(expected, TINY)) - reference
    return np.einsum("dt,drt->dr", counts, logs) - np.outer(fluence, offset)

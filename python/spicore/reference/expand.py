"""Tomograms of a tile of orientations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .ewald_slice import ewald_slice

TINY = 1e-36
"""Smallest intensity whose logarithm is taken."""


def expand(
    volume: NDArray,
    quats: NDArray[np.float64],
    q: NDArray[np.float64],
    exposure: NDArray,
    reference: NDArray | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return W or log W - reference [R, T], and the sum of W over pixels [R]."""
    tomograms = ewald_slice(volume, quats, q) * exposure
    total = tomograms.sum(axis=1)
    if reference is None:
        return tomograms, total
    return np.log(np.maximum(tomograms, TINY)) - reference, total

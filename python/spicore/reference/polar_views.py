"""Transformed logarithms of tomograms, and the photons they expect in each orientation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .expand import TINY
from .polar_frames import kept_coefficients


def polar_views(
    views: NDArray, radii: Sequence[int], reference: NDArray, exposure: NDArray, mirrors: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return logs [V, C, 2] and totals [V, mirrors, A] of tomograms [V, Q, A].

    `logs` holds the coefficients of ``log I - reference[q]``; `totals` is
    ``sum_qt e[q, t] I[q, t + j]``, with ``I[q, -(t + j)]`` for the mirror image.
    """
    views = np.asarray(views, np.float64)
    logs = np.log(np.maximum(views, TINY)) - np.asarray(reference)[:, None]
    n_angles = views.shape[-1]
    t = np.arange(n_angles)
    totals = np.empty((len(views), mirrors, n_angles))
    for j in t:
        for mirror, angle in enumerate((t + j, -(t + j))[:mirrors]):
            totals[:, mirror, j] = np.einsum("qt,vqt->v", exposure, views[:, :, angle % n_angles])
    return kept_coefficients(logs, radii), totals

"""Photons weighted by their posterior, turned into tomograms of views."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def accumulate(
    terms: Iterable[tuple[int, int, int, int, float]],
    frames: NDArray,
    fluence: NDArray,
    n_views: int,
    mirrors: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tomograms [V, Q, A] and exposures [V, mirrors, A].

    From terms (frame, view, mirror, j, probability) and photons of frames [D, Q, A].
    """
    _, n_radii, n_angles = frames.shape
    tomograms = np.zeros((n_views, n_radii, n_angles))
    exposures = np.zeros((n_views, mirrors, n_angles))
    for d, v, mirror, j, p in terms:
        turned = np.roll(np.asarray(frames[d], np.float64), j, axis=1)
        if mirror:  # angle t + j becomes -(t + j)
            turned = np.roll(turned[:, ::-1], 1, axis=1)
        tomograms[v] += float(p) * turned
        exposures[v, mirror, j] += float(p) * float(fluence[d])
    return tomograms, exposures

"""Scores of polar frames in all orientations of a set of views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlate(
    frames: NDArray, logs: NDArray, totals: NDArray, fluence: NDArray, norm: NDArray | None = None
) -> NDArray[np.float64]:
    """Return scores [D, V, mirrors, A] of frames [D, Q, A] against tomograms [V, Q, A].

    ``sum_qt K[q, t] L[q, t + j] norm - fluence totals``, with ``L[q, -(t + j)]`` for the mirror
    image; `totals` and `norm` are [V, mirrors, A].
    """
    frames, logs = np.asarray(frames, np.float64), np.asarray(logs, np.float64)
    n_angles, mirrors = frames.shape[-1], totals.shape[1]
    t = np.arange(n_angles)
    x = np.empty((len(frames), len(logs), mirrors, n_angles))
    for j in t:
        for mirror, angle in enumerate((t + j, -(t + j))[:mirrors]):
            x[:, :, mirror, j] = np.einsum("dqt,vqt->dv", frames, logs[:, :, angle % n_angles])
    return x * (1.0 if norm is None else norm) - np.multiply.outer(fluence, totals)

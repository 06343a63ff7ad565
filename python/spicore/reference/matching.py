"""Scores of patterns against slices, pixel by pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def matching(
    patterns: ArrayLike, slices: ArrayLike, score: str, fluence: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scores and fluences [D, R] of patterns [D, T] in slices [R, T] (exposure included).

    `score` is "poisson": ``sum K log(s W) - s W``, with the given fluences s [D] or the best,
    ``sum K / sum W``; "correlation": Pearson's coefficient; "l2": the cosine c of the angle
    between K and W, so that ``min_s |K - s W|^2 = |K|^2 (1 - c^2)``. For the last two the fluence
    is the best scale in least squares, for "correlation" beside a free constant.
    """
    k, w = np.asarray(patterns, np.float64), np.asarray(slices, np.float64)
    if score == "poisson":
        n, total = k.sum(axis=1)[:, None], w.sum(axis=1)
        s = n / total if fluence is None else np.asarray(fluence)[:, None] * np.ones(len(w))
        return k @ np.log(w).T + n * np.log(s) - s * total, s
    if score == "correlation":
        k = k - k.mean(axis=1, keepdims=True)
        w = w - w.mean(axis=1, keepdims=True)
    size = np.linalg.norm(w, axis=1)
    return k @ w.T / np.outer(np.linalg.norm(k, axis=1), size), k @ w.T / size**2

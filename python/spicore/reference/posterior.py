"""Posterior probabilities of orientations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def posterior(
    ll: NDArray,
    beta: NDArray,
    prior_power: NDArray,
    log_prior: NDArray,
    total: NDArray,
    cut: float = 14.0,
) -> dict[str, NDArray]:
    """Return P [D, R] and best, expected_ll, information, expected_total, each [D]."""
    s = beta[:, None] * ll + prior_power[:, None] * log_prior
    s -= s.max(axis=1, keepdims=True)
    p = np.where(s >= -cut, np.exp(s), 0.0)
    p /= p.sum(axis=1, keepdims=True)
    prior = np.exp(log_prior) / np.exp(log_prior).sum()
    ratio = np.where(p > 0, p / prior, 1.0)
    return {
        "p": p,
        "best": s.argmax(axis=1),
        "expected_ll": (p * ll).sum(axis=1),
        "information": (p * np.log(ratio)).sum(axis=1),
        "expected_total": p @ total,
    }

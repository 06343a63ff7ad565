"""Random starts side by side: which one to go on with, and whether they agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from .model import Model, complete
from .polar.balance import Balance
from .schedule import Schedule
from .state import FrameState

AGREED = 0.8
"""Correlation of two aligned seeds, mean over shells, above which they found the same."""


class Trial(NamedTuple):
    """A start after the coarse stages."""

    seed: int
    model: Model
    weight: NDArray[np.float32]
    state: FrameState
    schedule: Schedule
    balance: Balance
    history: dict[str, list[float]]
    evidence: float  # nats per frame


def best_trial(
    trials: list[Trial], radius: float, threads: int
) -> tuple[int, dict[str, NDArray[np.float64]]]:
    """Return the trial of the highest evidence, and what the others say of it.

    `agreement` [n] is the mean shell correlation with the best after alignment, inside
    `radius`; NaN for the best itself. Seeds that agree found the same, right or wrong; a seed of
    its own evidence is likely a wrong optimum.
    """
    evidence = np.array([t.evidence for t in trials])
    best = int(np.argmax(evidence))
    agreement = np.full(len(trials), np.nan)
    reference = complete(trials[best].model.volumes)[0]
    outer = min(radius, (len(reference) - 1) // 2)
    for i, trial in enumerate(trials):
        if i != best:
            moving = complete(trial.model.volumes)[0]
            _, _, agreement[i] = metrics.align_volumes(
                moving, reference, radius=(min(3.0, outer / 2), outer), threads=threads
            )
    others = {"evidence": evidence, "agreement": agreement}
    return best, others

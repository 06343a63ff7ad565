"""When to raise beta, when to refine the grid, when to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import Config

SETTLED = 0.01
"""Relative change of the model, shells weighted by photons, below which beta rises. On
sim_1bxr 0.02 ended 0.3 degrees worse, and a plain L2 change of 0.02 two degrees worse."""

LONGEST_HOLD = 12
"""Iterations after which beta rises all the same; frames may keep the model moving."""


def auto_beta(photons: NDArray) -> NDArray[np.float64]:
    """Inverse temperature at the start: 0.6 exp(-6.5 (N 1e-5)^0.15) per frame.

    Dragonfly's law lies at four to six times the critical inverse temperature, below which
    only the isotropic model is stable; 0.6 of it leaves room above and below.
    """
    return 0.6 * np.exp(-6.5 * (np.maximum(photons, 1.0) * 1e-5) ** 0.15)


COARSEST = 4
"""Grid of the coarse stage: 3,240 rotations about 18 degrees apart. With n = 3, sim_1bxr
ended 2 degrees worse."""


@dataclass(frozen=True)
class Stage:
    """A grid and the radius it is used with (0: all of the detector)."""

    num_div: int
    radius: float


def stages(config: Config, coarse_radius: float) -> list[Stage]:
    """Return the stages of a run, coarse to fine."""
    last = Stage(config.num_div, config.radius)
    if not config.multiresolution or config.num_div <= COARSEST:
        return [last]
    radius = min(coarse_radius, config.radius) if config.radius else coarse_radius
    return [Stage(max(COARSEST, -(-config.num_div // 2)), radius), last]


@dataclass
class Schedule:
    """Where a run stands; all of it is written with each iteration, to resume.

    Attributes
    ----------
    stage : int       index of the stage
    level : float     factor on the starting beta of each frame
    held : int        iterations at this level and stage
    refined : int     iterations of local refinement done
    """

    config: Config
    stages: list[Stage]
    beta0: NDArray[np.float64]
    stage: int = 0
    level: float = 1.0
    held: int = 0
    refined: int = 0
    refining: bool = False
    converged: bool = False

    @property
    def beta(self) -> NDArray[np.float32]:
        """Inverse temperature of each frame, at most 1."""
        return np.minimum(self.beta0 * self.level, 1.0).astype(np.float32)

    def advance(self, change: float, information: float, n_rotations: int) -> None:
        """Decide what comes next, from the last iteration's change and information."""
        if self.refining:
            self.refined += 1
            self.converged = self.refined >= self.config.refine
            return
        self.held += 1
        last = self.stage == len(self.stages) - 1
        if not last and information > 0.5 * np.log(n_rotations):
            self._next_stage()
        elif self._rise(change):
            if float(self.beta.min()) < 1.0:
                self.level *= self.config.beta_jump
                self.held = 0
            elif not last:
                self._next_stage()
            elif change < self.config.tolerance or self.held >= LONGEST_HOLD:
                self.refining = self.config.refine > 0
                self.converged = not self.refining

    def _next_stage(self) -> None:
        self.stage += 1
        self.held = 0

    def _rise(self, change: float) -> bool:
        if self.config.beta_period:
            return self.held >= self.config.beta_period
        return change < SETTLED or self.held >= LONGEST_HOLD

"""When to raise beta, when to refine the grid, when to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..orientations import grid_spacing, n_pairs_for
from .config import Config
from .polar.layout import ANGLES

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
"""Pixel grid of the coarse stage: 3,240 rotations about 18 degrees apart. With n = 3, sim_1bxr
ended 2 degrees worse."""

COARSE_PAIRS, MIDDLE_PAIRS = 50, 250
"""Pairs of views while symmetry breaks, and after. The first are 20 degrees apart; orientations
that sharpen on so coarse a grid are pinned to it, warped by 7 degrees on sim_1bxr for good.
With 250 pairs (9 degrees) from a posterior of 4 nats on, they end where a start from the
truth does."""

FINER = 4
"""Views of a stage over those of the one before, at most: half the distance. A broad posterior
on a grid much finer than itself takes time and says nothing more."""

MIDDLE_ANGLES, MOST_ANGLES = 96, 128
MIDDLE_RADIUS = 1.8
"""Radius of the middle stage over that of the coarse one."""

BROKEN, SHARP = 0.5, 4.0
"""Information in nats that tells broken symmetry, and entropy of the posterior in nats below
which a finer grid takes over."""

CALM = 0.1
"""Change of the model above which it still forms, and stays on its grid."""

POLAR_SETTLED = 0.02
MOMENTUM = 0.9
"""Share of the last step that is added to the next below beta = 1: smooth warps of all
orientations relax ten times slower than the rest."""


@dataclass(frozen=True)
class Stage:
    """A grid, the radius it is used with (0: all of the detector) and when it ends.

    Attributes
    ----------
    num_div : int     pixel engine: refinement of the 600-cell grid
    radius : float    largest |q| in voxels
    entropy : float   the stage ends when the posterior has less, in nats; 0: at beta = 1
    n_pairs, n_angles, width : polar engine: views, in-plane angles and rings
    n_frames : int    frames used, evenly spread; 0: all
    """

    num_div: int
    radius: float
    entropy: float = 0.0
    n_pairs: int = 0
    n_angles: int = 0
    width: float = 1.0
    n_frames: int = 0

    @property
    def spacing(self) -> float:
        """Distance of neighbouring orientations in degrees."""
        if self.n_pairs:
            return float(np.degrees(np.sqrt(2.0 * np.pi / self.n_pairs)))
        return float(grid_spacing(self.num_div))


def stages(
    config: Config, coarse_radius: float, detector_radius: float, n_frames: int = 0
) -> list[Stage]:
    """Return the stages of a run, coarse to fine.

    Parameters
    ----------
    coarse_radius : float
        Radius in voxels that holds most photons.
    detector_radius : float
        Largest |q| of pixels that orient.
    n_frames : int
        Frames of the run: sets larger than those that a stage needs use a part of them.
    """
    if config.engine == "polar":
        return _polar_stages(config, coarse_radius, detector_radius, n_frames)
    last = Stage(config.grid, config.radius)
    if not config.multiresolution or config.grid <= COARSEST:
        return [last]
    radius = min(coarse_radius, config.radius) if config.radius else coarse_radius
    n = max(COARSEST, -(-config.grid // 2))
    n_rotations = 10 * (5 * n**3 + n)
    return [Stage(n, radius, 0.5 * np.log(n_rotations)), last]


def _polar_stages(
    config: Config, coarse_radius: float, detector_radius: float, n_frames: int
) -> list[Stage]:
    most = min(config.radius, detector_radius) if config.radius else detector_radius
    coarse = min(coarse_radius, most)
    width = config.ring_width or (2.0 if most >= 32 else 1.0)
    # Bins of 2.3 pixels on the outermost ring; the refinement removes what binning costs.
    n_angles = config.n_angles or next(
        (a for a in ANGLES if a >= 2.7 * most and a <= MOST_ANGLES), MOST_ANGLES
    )
    pairs = n_pairs_for(float(grid_spacing(config.grid)))
    last = Stage(0, config.radius, 0.0, pairs, n_angles, width)
    if not config.multiresolution or pairs <= COARSE_PAIRS:
        return [last]
    part = config.batch if n_frames > config.batch else 0
    n_coarse = COARSE_PAIRS * 2 * ANGLES[0]
    steps = [
        Stage(0, coarse, 0.5 * np.log(n_coarse), COARSE_PAIRS, ANGLES[0], 1.0, part),
        Stage(
            0,
            min(MIDDLE_RADIUS * coarse, most),
            SHARP,
            min(MIDDLE_PAIRS, pairs),
            min(MIDDLE_ANGLES, n_angles),
            width,
            part,
        ),
    ]
    between = steps[-1].n_pairs * FINER
    while between < pairs:
        steps.append(Stage(0, config.radius, SHARP, between, n_angles, width, part))
        between *= FINER
    if n_frames > 4 * config.batch:
        steps.append(Stage(0, config.radius, 0.0, pairs, n_angles, width, 4 * config.batch))
    return [*steps, last]


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

    @property
    def hot(self) -> bool:
        """Some frame's beta is below 1."""
        return float(self.beta.min()) < 1.0

    def advance(self, change: float, information: float, n_orientations: int) -> None:
        """Decide what comes next, from the last iteration's change and information."""
        if self.refining:
            self.refined += 1
            self.converged = self.refined >= self.config.refine
            return
        self.held += 1
        last = self.stage == len(self.stages) - 1
        if self._unbroken(information, last):
            return
        entropy = np.log(n_orientations) - information
        formed = change < CALM or self.config.engine == "pixel"
        if not last and formed and entropy < self.stages[self.stage].entropy:
            self._next_stage()
        elif self._rise(change):
            if self.hot:
                self.level *= self.config.beta_jump
                self.held = 0
            elif not last:
                self._next_stage()
            elif change < self.config.tolerance or self.held >= LONGEST_HOLD:
                self.refining = self.config.refine > 0
                self.converged = not self.refining

    def _unbroken(self, information: float, last: bool) -> bool:
        """Still isotropic: the first stage of the polar engine waits, but not for ever."""
        waits = self.config.engine == "polar" and self.stage == 0 and not last
        return waits and information < BROKEN and self.held < LONGEST_HOLD

    def _next_stage(self) -> None:
        self.stage += 1
        self.held = 0

    def _rise(self, change: float) -> bool:
        if self.config.beta_period:
            return self.held >= self.config.beta_period
        settled = POLAR_SETTLED if self.config.engine == "polar" else SETTLED
        return change < settled or self.held >= LONGEST_HOLD

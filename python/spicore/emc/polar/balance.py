"""A prior that keeps the orientations of tempered iterations uniform.

At beta < 1 posteriors are broad, and views drift to where the model is best: frames crowd about
some axes, slowly and in all random starts alike. The model follows, as if it were stretched, and
what has frozen so is a maximum of its own at beta = 1. On sim_1bxr this warp was 4 degrees, more
than all other errors; its quadrupole, held at 0, takes the rest along.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...orientations import rotate

DENSITY = 7.5
"""A density of directions ``1 + n S n``, S symmetric without trace, has ``<n n> - 1/3 = S / 7.5``.
"""


@dataclass
class Balance:
    """Weights of views that hold the quadrupole of their occupancy at 0.

    Attributes
    ----------
    elements : float64 [G, 4]   point group of the particle
    tensor : float64 [3, 3]
        S: views n have the prior weight ``exp(beta n S n)``. In units of the log-likelihood, so
        that it pulls alike at every beta.
    quadrupole : float64 [3, 3]
        Of the occupancy in the last iteration: a density ``1 + n Q n``.
    """

    elements: NDArray[np.float64]
    tensor: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))
    quadrupole: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))

    @property
    def imbalance(self) -> float:
        """Standard deviation over the sphere of the relative density ``n Q n``."""
        return float(np.sqrt(2.0 / 15.0) * np.linalg.norm(self.quadrupole))

    def weights(self, views: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
        """Return prior weights of views [V], sum 1."""
        n = directions(views)
        exponent = beta * np.einsum("vi,ij,vj->v", n, self.tensor, n)
        weights = np.exp(exponent - exponent.max())
        return weights / weights.sum()

    def measure(self, views: NDArray[np.float64], occupancy: NDArray[np.float64]) -> None:
        """Set the quadrupole from the frames per view [V], any unit."""
        n = directions(views)
        moment = np.einsum("v,vi,vj->ij", occupancy / occupancy.sum(), n, n) - np.eye(3) / 3.0
        axes = np.stack([rotate(self.elements, axis) for axis in np.eye(3)], axis=-1)
        self.quadrupole = DENSITY * np.einsum("gij,jk,glk->il", axes, moment, axes) / len(axes)

    def correct(self, beta: float, n_frames: int) -> None:
        """Move the tensor against the quadrupole, less what chance makes of `n_frames`.

        The first step of Sinkhorn's scaling where posteriors are broad; where they are sharp
        views move slowly, and so does what this adds up to.
        """
        chance = chance_imbalance(n_frames)
        if self.imbalance > chance:
            share = 1.0 - (chance / self.imbalance) ** 2
            self.tensor = self.tensor - share / beta * self.quadrupole


def chance_imbalance(n_frames: int) -> float:
    """Return the rms imbalance of frames that are uniform but few: sqrt(5 / n)."""
    return float(np.sqrt(5.0 / n_frames))


def directions(views: NDArray[np.float64]) -> NDArray[np.float64]:
    """Beam directions of views in the model [V, 3]."""
    return rotate(views, np.array([0.0, 0.0, 1.0]))

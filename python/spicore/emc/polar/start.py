"""What the polar engine learns from the detector and the frames before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..critical import AngularStatistics
from .layout import PolarLayout
from .orders import AngularOrders

if TYPE_CHECKING:
    from ...detector import Detector
    from ...frames import Frames
    from ..schedule import Stage

SAMPLE = 2000
"""Frames that tell the critical temperature: it changes by 2 % with half of them."""

FLAT = 0.25
"""Depth of the Ewald sphere in voxels below which it is flat: speckles are two voxels or more."""

MOST_ANGLES = 256
"""In-plane angles that tell the size of the particle: orders up to 128."""


def polar_layout(detector: Detector, stage: Stage) -> tuple[PolarLayout, AngularOrders]:
    """Return the bins of a stage, and the angular orders that its rings hold.

    Beyond order pi |q| the pixels, one voxel apart, say nothing; 8 is the fewest of any ring.
    Odd orders count unless all of the detector is flat, whatever the radius of the stage: they
    alone tell the hand of the particle, which stages to come could no longer turn.
    """
    layout = PolarLayout(detector, stage.radius, stage.n_angles, stage.width)
    radius = layout.radius[: layout.n_radii]
    limits = np.maximum(np.ceil(np.pi * radius), 8)
    depth = np.ptp(detector.q_voxels[detector.mask == 0, 2])
    return layout, AngularOrders.from_limits(stage.n_angles, limits, even=depth < FLAT)


def critical_beta(frames: Frames, detector: Detector, stage: Stage, threads: int) -> float:
    """Inverse temperature above which the isotropic model of a stage is unstable."""
    layout, _ = polar_layout(detector, stage)
    return _statistics(frames, layout, threads).critical_beta()


def particle_extent(frames: Frames, detector: Detector, radius: float, threads: int) -> float:
    """Radius of the particle in 1/voxels, from the angular orders that hold signal; 0: none."""
    layout = PolarLayout(detector, radius, MOST_ANGLES, 2.0)
    return _statistics(frames, layout, threads).extent()


def _statistics(frames: Frames, layout: PolarLayout, threads: int) -> AngularStatistics:
    """Read a sample of the frames twice: their mean, and what varies about it."""
    n = frames.n_frames
    if n > SAMPLE:
        frames = frames.select(np.linspace(0, n - 1, SAMPLE).astype(np.int64))
    n_bins = layout.n_radii * layout.n_angles
    powder = np.zeros(n_bins)
    for _, sparse in frames.blocks():
        photons = layout.photons(sparse, threads)
        used = photons.row < n_bins
        powder += np.bincount(photons.row[used], photons.count[used], n_bins)
    powder = powder.reshape(layout.n_radii, layout.n_angles) / frames.n_frames
    statistics = AngularStatistics(layout, powder)
    for _, sparse in frames.blocks():
        statistics.add(layout.photons(sparse, threads))
    return statistics

"""Detector pixels as the rows of tomograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .kernels import Photons, sort_photons

if TYPE_CHECKING:
    from ..detector import Detector
    from ..frames import SparseFrames

RING = 16.0
"""Width in voxels of the rings that rows are grouped by: the inner ones hold most photons
and stay in the second-level cache, and inside a ring a Morton curve keeps neighbours in q
next to each other for slicing and merging."""


def _morton(x: NDArray, y: NDArray) -> NDArray[np.int64]:
    """Interleave the bits of non-negative integer coordinates below 2^16."""
    code = np.zeros(x.shape, np.int64)
    for bit in range(16):
        code |= ((x >> bit) & 1) << (2 * bit)
        code |= ((y >> bit) & 1) << (2 * bit + 1)
    return code


class PixelLayout:
    """Order of the pixels that take part, those that orient (mask 0) before mask 1.

    Parameters
    ----------
    detector : Detector
    radius : float
        Largest |q| that takes part, in voxels; 0: no limit.

    Attributes
    ----------
    pixel : int64 [T]          detector pixel of each row
    row_of : int32 [n_pixels]  row of each detector pixel, -1 if it takes no part
    n_orient, n_rows : int     rows that orient; all rows
    q : float32 [3, T]         scattering vectors in voxels
    exposure : float32 [T]     solid angle x polarisation
    q_abs : float64 [T]        |q| in voxels
    """

    def __init__(self, detector: Detector, radius: float = 0.0) -> None:
        q_abs = np.linalg.norm(detector.q_voxels, axis=1)
        used = (detector.mask < 2) & ((q_abs <= radius) if radius else True)
        pixel = np.flatnonzero(used)
        corner = detector.q_voxels[pixel, :2].min(axis=0) if len(pixel) else 0.0
        grid = np.floor(detector.q_voxels[pixel, :2] - corner).astype(np.int64)
        order = np.lexsort((_morton(*grid.T), np.floor(q_abs[pixel] / RING), detector.mask[pixel]))
        self.pixel = pixel[order]
        self.n_rows = len(pixel)
        self.n_orient = int((detector.mask[pixel] == 0).sum())
        if self.n_orient == 0:
            raise InputError(
                "detector has no pixel that orients (mask 0)"
                + (f" within radius {radius:g} voxels" if radius else "")
            )
        self.row_of = np.full(detector.n_pixels, -1, np.int32)
        self.row_of[self.pixel] = np.arange(self.n_rows, dtype=np.int32)
        self.q = np.ascontiguousarray(detector.q_voxels[self.pixel].T, np.float32)
        self.exposure = detector.correction[self.pixel].astype(np.float32)
        self.q_abs = q_abs[self.pixel]

    def photons(self, block: SparseFrames, threads: int, row_of: Any = None) -> Photons:
        """Renumber and sort a block of sparse frames.

        `row_of` is a copy of the layout's where the arrays of the block are, unless both are in
        host memory.
        """
        row_of = self.row_of if row_of is None else row_of
        arrays = block.offset, block.pixel, block.count, row_of
        return sort_photons(*arrays, self.n_orient, threads=threads)

    def tile_size(self, budget: int = 12 << 20, most: int = 32) -> int:
        """Orientations whose tomograms fit in `budget` bytes: whole panels of 32, `most` at most.

        By default it depends on the detector alone, so that sums run in the same order everywhere.
        """
        from .kernels import LANES

        panels = budget // (4 * self.n_rows * LANES)
        return LANES * int(np.clip(panels, 1, most))

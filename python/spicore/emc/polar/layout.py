"""Detector pixels as polar bins: rings x in-plane angles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..kernels import Photons, sort_photons

if TYPE_CHECKING:
    from ...detector import Detector
    from ...frames import SparseFrames

ANGLES = (32, 48, 64, 96, 128, 144, 192, 256, 384, 512)
"""Numbers of in-plane angles that the transforms know."""


class PolarLayout:
    """Pixels binned to rings of equal width and angles about the beam, nearest bin.

    Bin ``q * A + t`` is ring q at angle ``2 pi t / A``. Rings that orient come first, from the
    largest to the smallest; rings with merge-only pixels (mask 1) alone come after them.

    Parameters
    ----------
    detector : Detector
    radius : float
        Largest |q| that takes part, in voxels; 0: no limit.
    n_angles : int
        A, one of `ANGLES`.
    width : float
        Width of a ring in voxels.

    Attributes
    ----------
    n_radii : int               Q, rings with pixels that orient
    n_rings : int               all rings
    n_bins : int                n_rings * A
    row_of : int32 [n_pixels]   bin of each pixel, + n_bins where it only merges, or -1
    radius : float64 [n_rings]  mean |q| of each ring in voxels
    q : float32 [3, n_bins]     scattering vectors of the bins
    exposure : float32 [2, n_rings, A]
        Sum of solid angle x polarisation over the pixels of a bin, those that orient and all.
    log_exposure : float64 [n_bins]
        Mean logarithm of the same over the pixels of a bin that orient.
    """

    def __init__(
        self, detector: Detector, radius: float, n_angles: int, width: float = 1.0
    ) -> None:
        vectors = detector.q_voxels
        q_abs = np.linalg.norm(vectors, axis=1)
        used = np.flatnonzero((detector.mask < 2) & ((q_abs <= radius) if radius else True))
        orients = detector.mask[used] == 0
        if not orients.any():
            raise InputError(
                "detector has no pixel that orients (mask 0)"
                + (f" within radius {radius:g} voxels" if radius else "")
            )
        self.n_angles, self.width = n_angles, width
        ring = np.floor(q_abs[used] / width + 0.5).astype(np.int64)
        orienting = np.unique(ring[orients])[::-1]
        rings = np.concatenate([orienting, np.setdiff1d(ring, orienting)[::-1]])
        self.n_radii, self.n_rings = len(orienting), len(rings)
        self.n_bins = self.n_rings * n_angles
        index = np.zeros(rings.max() + 1, np.int64)
        index[rings] = np.arange(self.n_rings)
        angle = np.arctan2(vectors[used, 1], vectors[used, 0]) * (n_angles / (2 * np.pi))
        bins = index[ring] * n_angles + np.rint(angle).astype(np.int64) % n_angles
        self.row_of = np.full(detector.n_pixels, -1, np.int32)
        self.row_of[used] = np.where(orients, bins, bins + self.n_bins)
        correction = detector.correction[used].astype(np.float64)
        self.exposure = np.empty((2, self.n_rings, n_angles), np.float32)
        for kind, chosen in enumerate((orients, np.ones_like(orients))):
            total = np.bincount(bins[chosen], correction[chosen], self.n_bins)
            self.exposure[kind] = total.reshape(self.n_rings, n_angles)
        logs = np.bincount(bins[orients], np.log(correction[orients]), self.n_bins)
        pixels = np.bincount(bins[orients], minlength=self.n_bins)
        self.log_exposure = logs / np.maximum(pixels, 1)
        self._place(vectors[used], q_abs[used], index[ring])

    def _place(self, vectors: NDArray, q_abs: NDArray, ring: NDArray[np.int64]) -> None:
        """Put each ring at the mean radius of its pixels, on the Ewald sphere."""
        pixels = np.bincount(ring, minlength=self.n_rings)
        self.radius = np.bincount(ring, q_abs) / pixels
        z = np.bincount(ring, vectors[:, 2]) / pixels
        flat = np.sqrt(np.maximum(self.radius**2 - z**2, 0.0))
        angle = 2 * np.pi * np.arange(self.n_angles) / self.n_angles
        self.q = np.empty((3, self.n_bins), np.float32)
        self.q[0] = np.outer(flat, np.cos(angle)).ravel()
        self.q[1] = np.outer(flat, np.sin(angle)).ravel()
        self.q[2] = np.repeat(z, self.n_angles)

    def photons(self, block: SparseFrames, threads: int, row_of: Any = None) -> Photons:
        """Bin a block of sparse frames; a bin may hold several entries.

        `row_of` is a copy of the layout's where the arrays of the block are, unless both are in
        host memory.
        """
        row_of = self.row_of if row_of is None else row_of
        arrays = block.offset, block.pixel, block.count, row_of
        return sort_photons(*arrays, self.n_bins, threads=threads)

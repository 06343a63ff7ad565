"""Polar bins as a Cartesian picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .layout import PolarLayout


class CartesianGrid:
    """Pixels of one voxel, origin at ``N // 2``, that polar averages are drawn on.

    The radius of a pixel is |q|, so that on a curved Ewald sphere rings stay where volumes have
    them. A pixel takes the four polar bins around it, weighted bilinearly. Bins of inner rings
    are narrower than a pixel: there each is first joined with its neighbours along the arc.

    Parameters
    ----------
    layout : PolarLayout

    Attributes
    ----------
    size : int   N, odd
    """

    def __init__(self, layout: PolarLayout) -> None:
        n_angles = layout.n_angles
        order = np.argsort(layout.radius)
        radius = layout.radius[order]
        reach = int(np.ceil(radius[-1]))
        self.size = 2 * reach + 1
        x = np.arange(self.size) - reach
        distance = np.hypot(x[:, None], x).ravel()
        self._inside = np.flatnonzero(
            (distance <= radius[-1] + layout.width) & (distance >= radius[0] - layout.width)
        )
        place = np.interp(distance[self._inside], radius, np.arange(len(radius)))
        turn = np.arctan2(x[None, :], x[:, None]).ravel()[self._inside] * (n_angles / (2 * np.pi))
        ring = np.minimum(place.astype(np.int64), max(len(radius) - 2, 0))
        angle = np.floor(turn).astype(np.int64)
        self._bins, self._weights = [], []
        for outer in (0, 1):
            across = place - ring if outer else 1.0 - (place - ring)
            rows = order[np.minimum(ring + outer, len(radius) - 1)]
            for next_ in (0, 1):
                along = turn - angle if next_ else 1.0 - (turn - angle)
                self._bins.append(rows * n_angles + (angle + next_) % n_angles)
                self._weights.append(across * along)
        arc = np.maximum(n_angles / (2 * np.pi * np.maximum(layout.radius, 0.5)), 1.0)
        self._window = _windows(arc, n_angles)

    def draw(
        self, averages: NDArray[np.float32], exposure: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Draw polar averages; pixels that nobody saw are NaN.

        Parameters
        ----------
        averages : float [K, n_rings, A]
        exposure : float [K, n_rings, A]
            Their weight; bins of weight 0 do not count.

        Returns
        -------
        float32 [K, N, N]
        """
        result = np.full((len(averages), self.size**2), np.nan, np.float32)
        for picture, average, weight in zip(result, averages, exposure, strict=True):
            value, seen = self._joined(average * weight), self._joined(weight)
            seen[seen < 1e-9 * seen.max(initial=0.0)] = 0.0
            pairs = list(zip(self._bins, self._weights, strict=True))
            total = sum(w * seen[b] for b, w in pairs)
            photons = sum(w * value[b] for b, w in pairs)
            known = total > 0
            picture[self._inside[known]] = np.maximum(photons[known] / total[known], 0.0)
        return result.reshape(-1, self.size, self.size)

    def _joined(self, values: NDArray) -> NDArray[np.float64]:
        """Sum bins [n_rings, A] along the arc of a pixel; flat."""
        spectrum = np.fft.rfft(values.astype(np.float64), axis=1)
        return np.fft.irfft(spectrum * self._window, values.shape[1], axis=1).ravel()


def _windows(arc: NDArray[np.float64], n_angles: int) -> NDArray[np.float64]:
    """Transforms [n_rings, A / 2 + 1] of windows `arc` bins wide, the outermost ones in part."""
    away = np.abs((np.arange(n_angles) + n_angles // 2) % n_angles - n_angles // 2)
    window = np.clip(0.5 * arc[:, None] + 0.5 - away, 0.0, 1.0)
    return np.fft.rfft(window, axis=1).real

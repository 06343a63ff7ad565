"""Which Fourier coefficients along the in-plane angle are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from .layout import ANGLES

GROUP = 16
"""Views that lie side by side in transformed tomograms."""


@dataclass(frozen=True)
class AngularOrders:
    """Band limits of polar rings, stored as the number of rings that keep each order.

    Rings run from the largest to the smallest radius. Coefficient (m, q) of a frame or view is
    number ``begin[m] + q``, for ``q < radii[m]``.

    Attributes
    ----------
    n_angles : int          A
    n_radii : int           Q
    radii : int32 [M]       rings that keep order m
    begin : int64 [M + 1]   first coefficient of order m
    """

    n_angles: int
    n_radii: int
    radii: NDArray[np.int32]

    @classmethod
    def from_limits(cls, n_angles: int, limits: ArrayLike, *, even: bool = False) -> AngularOrders:
        """Keep orders ``m <= limits[q]`` of ring q, raised so that no smaller ring keeps more.

        `even` drops the odd orders: they vanish where the Ewald sphere is flat, which makes
        slices of a centrosymmetric intensity so too.
        """
        if n_angles not in ANGLES:
            raise InputError(f"n_angles must be one of {ANGLES}, got {n_angles}")
        limits = np.minimum(np.asarray(limits, np.int64), n_angles // 2)
        limits = np.maximum.accumulate(limits[::-1])[::-1]
        radii = (limits[:, None] >= np.arange(limits.max() + 1)).sum(axis=0)
        if even:
            radii[1::2] = 0
        return cls(n_angles, len(limits), radii.astype(np.int32))

    @cached_property
    def begin(self) -> NDArray[np.int64]:
        """First coefficient of each order."""
        return np.concatenate([[0], np.cumsum(self.radii, dtype=np.int64)])

    @property
    def n_coefficients(self) -> int:
        """Coefficients of a frame or view."""
        return int(self.begin[-1])

    def up_to(self, n_orders: int, n_angles: int) -> AngularOrders:
        """Return the first orders alone, for transforms of fewer angles."""
        n_orders = min(n_orders, n_angles // 2 + 1, len(self.radii))
        return AngularOrders(n_angles, self.n_radii, self.radii[:n_orders].copy())

    def as_tuple(self) -> tuple[int, int, NDArray[np.int32], NDArray[np.int64]]:
        """Return what the compiled kernels take."""
        return self.n_angles, self.n_radii, self.radii, self.begin

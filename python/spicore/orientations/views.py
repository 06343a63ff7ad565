"""View directions times in-plane angles: the grid of the polar engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from . import _checks

_GOLDEN_ANGLE = np.pi * (3.0 - 5.0**0.5)


def hopf(n_views: int, n_inplane: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return quasi-uniform view directions and uniform in-plane angles.

    Parameters
    ----------
    n_views : int
        Number V of directions on the whole sphere, 1 or more.
    n_inplane : int
        Number A of in-plane angles, 1 or more.

    Returns
    -------
    views : float64 [V, 4]
        Rotations without twist that take the beam +z to each direction, from +z to -z.
    inplane : float64 [A]
        Angles 2 pi j / A in radians.

    Raises
    ------
    InputError
        A number is not whole or not positive.

    Notes
    -----
    The directions lie on a golden-angle spiral with equal steps in z, so each stands for the same
    solid angle 4 pi / V and all V A rotations have the same weight 1/(V A). Neighbours are about
    `sqrt(4 pi / V)` rad apart. Source: Gonzalez, Math. Geosci. 42, 49 (2010).

    >>> views, inplane = hopf(500, 256)
    """
    n_views = _checks.count("n_views", n_views, low=1, high=2**31)
    n_inplane = _checks.count("n_inplane", n_inplane, low=1, high=2**31)
    index = np.arange(n_views)
    polar = np.arccos(1.0 - (2.0 * index + 1.0) / n_views)
    azimuth = index * _GOLDEN_ANGLE
    # The shortest turn from +z is about the horizontal axis z x direction. It never meets its
    # one singular direction, -z, because the spiral starts and stops half a step from the poles.
    views = np.column_stack(
        [
            np.cos(polar / 2.0),
            -np.sin(polar / 2.0) * np.sin(azimuth),
            np.sin(polar / 2.0) * np.cos(azimuth),
            np.zeros(n_views),
        ]
    )
    return views, 2.0 * np.pi * np.arange(n_inplane) / n_inplane


def hopf_quaternions(views: ArrayLike, inplane: ArrayLike) -> NDArray[np.float64]:
    """Return all rotations `R_view Rz(inplane)` of a Hopf grid, one view after the other.

    Parameters
    ----------
    views : array_like [V, 4]
        Unit quaternions that take +z to the view directions.
    inplane : array_like [A]
        In-plane angles in radians.

    Returns
    -------
    float64 [V * A, 4]
        Rotation `v * A + j` is view v turned by `inplane[j]`.

    Raises
    ------
    InputError
        Wrong shapes, or views that are not unit quaternions.
    """
    w, x, y, z = _validate.quaternions("views", views).T[:, :, None]
    half = _validate.array("inplane", inplane, np.float64, (None,), finite=True) / 2.0
    c, s = np.cos(half), np.sin(half)
    # The product with (c, 0, 0, s), written out to build the V x A table without temporaries.
    return np.stack([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], -1).reshape(-1, 4)

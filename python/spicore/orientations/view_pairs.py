"""View directions in mirror pairs: the grid of the polar engine for centrosymmetric models."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from ..errors import InputError
from . import _checks
from .quaternion import from_axis_angle, multiply, rotate
from .symmetry import point_group
from .views import hopf

_BEAM = (0.0, 0.0, 1.0)
_HALF_TURN = (0.0, 0.0, 1.0, 0.0)  # Ry(pi)

# A direction on no axis and no mirror plane of any point group in the setting of `point_group`:
# ties with its images lie on the boundary of the cell alone.
_CENTRE = np.array([0.8 * math.cos(0.21), 0.8 * math.sin(0.21), 0.6])

_TIE = 1e-12  # rounding; a direction on an axis is among its own images


def view_pairs(
    n_pairs: int, symmetry: str = "C1"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return quasi-uniform view directions, one of every two that are opposite.

    View v stands for a pair: R_v, and its mirror image R_v Ry(pi), which looks from the other
    side. In a centrosymmetric intensity the slice of the mirror image is that of v at negative
    angles, `I_v(q, -angle)`, on the curved Ewald sphere too: Ry(pi) takes the sphere's point at
    `angle` to the opposite of its point at `-angle`.

    Parameters
    ----------
    n_pairs : int
        Pairs on the whole sphere, 1 or more: the number for a particle without symmetry.
    symmetry : str
        Point group G of the particle, a name for `point_group`.

    Returns
    -------
    views : float64 [V, 4]
        Rotations without twist that take the beam +z to each direction, all with z > 0.
        V = n_pairs for C1, otherwise about n_pairs / |G|: one view of each orbit of directions
        under G x {+1, -1}, at the spacing of C1.
    weights : float64 [V]
        1 / V each.

    Raises
    ------
    InputError
        `n_pairs` is not whole, not positive or so small that the group leaves no view, or the
        group is unknown.

    Notes
    -----
    The directions lie on a golden-angle spiral with equal steps in z, so each stands for the same
    solid angle; neighbours are about `sqrt(2 pi / n_pairs)` rad apart. Where copies of the views
    join, at the equator and on the boundary of the group's cell, they do not fit: the farthest
    that a direction is from a view or its copies is 0.85 of that spacing for C1, up to 1.1 for
    Cn, Dn and T, and up to 1.7 for O and I; V is off by the views along the boundary.

    Cost: n_pairs |G| rotations of vectors. Source of the spiral: see `hopf`.

    >>> views, weights = view_pairs(n_pairs_for(8.0), "D5")
    """
    n_pairs = _checks.count("n_pairs", n_pairs, low=1, high=2**30)
    group = point_group(symmetry)
    views = hopf(2 * n_pairs, 1)[0][:n_pairs]
    views = views[_in_cell(rotate(views, _BEAM), group)]
    if not len(views):
        raise InputError(f"n_pairs must be larger for {symmetry}, got {n_pairs}: no view is left")
    return views, np.full(len(views), 1.0 / len(views))


def n_pairs_for(spacing_degrees: float) -> int:
    """Return the number of pairs whose mean spacing, sqrt(2 pi / n) rad, is at most this.

    Raises
    ------
    InputError
        The spacing is not between 0.01 and 180 degrees.
    """
    spacing = _validate.number("spacing_degrees", spacing_degrees, low=0.01, high=180.0)
    return math.ceil(2.0 * math.pi / math.radians(spacing) ** 2)


def pair_quaternions(
    views: ArrayLike, n_angles: int, orientation: ArrayLike
) -> NDArray[np.float64]:
    """Return the rotations of orientation numbers `(2 view + mirror) * A + j`.

    Parameters
    ----------
    views : array_like [V, 4]
        From `view_pairs`.
    n_angles : int
        Number A of in-plane angles, 1 or more.
    orientation : int array_like [n]
        Numbers below 2 V A.

    Returns
    -------
    float64 [n, 4]
        `R_view Rz(2 pi j / A)`, with mirror 1 `R_view Ry(pi) Rz(2 pi j / A)`.

    Raises
    ------
    InputError
        Wrong shapes, views that are not unit quaternions, or a number that is not whole or out
        of range.
    """
    views = _validate.quaternions("views", views)
    n_angles = _checks.count("n_angles", n_angles, low=1, high=2**30)
    orientation = _numbers(orientation, 2 * n_angles * len(views))
    view, twist = np.divmod(orientation, 2 * n_angles)
    mirror, j = np.divmod(twist, n_angles)
    turned = from_axis_angle(_BEAM, 360.0 * j / n_angles)
    turned[mirror == 1] = multiply(_HALF_TURN, turned[mirror == 1])
    return multiply(views[view], turned)


def _in_cell(lines: NDArray[np.float64], group: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which directions, taken without sign, no rotation of the group brings nearer the centre.

    The Voronoi cell of the centre among its images: one direction of each orbit.
    """
    own = np.abs(lines @ _CENTRE)
    inside = np.ones(len(lines), bool)
    for rotation in group:
        inside &= np.abs(rotate(rotation, lines) @ _CENTRE) <= own + _TIE
    return inside


def _numbers(orientation: ArrayLike, end: int) -> NDArray[np.int64]:
    """Return whole numbers [n] below `end`, or raise `InputError`."""
    numbers = np.asarray(orientation)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise InputError(
            f"orientation must be whole numbers of shape [any], got {numbers.dtype} "
            f"{list(numbers.shape)}"
        )
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < end:
        raise InputError(
            f"orientation must be in [0, {end}), got {numbers.min()} to {numbers.max()}"
        )
    return numbers.astype(np.int64)

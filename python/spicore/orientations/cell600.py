"""The subdivided 600-cell: a uniform grid over SO(3) in Dragonfly's order."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from . import _checks

TAU = (1.0 + 5.0**0.5) / 2.0

# Volume that a point inside a vertex, edge, face, cell stands for, in units of a lattice point:
# 20/24, 5 x 7/36, 2/2, 1. With these the points of a flat cell add up to its n^3/6 exactly. As
# Dragonfly; other programs use the solid angles 20 x 0.0439 and 5 x 0.196 of a flat tetrahedron.
_SHARE = (5.0 / 6.0, 35.0 / 36.0, 1.0, 1.0)

# Mean nearest-neighbour angle times n, in degrees, measured for n = 1 to 14: it rises from 72.0
# (the edge of the 600-cell, twice 36) to 74.0.
_SPACING_DEG = 73.5

# The even permutations of (tau, 1, 1/tau, 0), in the order that fixes the index of every vertex:
# t = tau, o = one, s = 1/tau, z = zero. Read off Dragonfly's n = 1 grid.
_EVEN = "tosz tszo tzos ostz otzs ozst stoz szto sozt zots ztso zsot".split()


def grid600(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 600-cell grid of 10 (5 n^3 + n) rotations that cover SO(3) uniformly.

    Parameters
    ----------
    n : int
        Divisions of each edge of the 600-cell, 1 to 60; `grid_spacing(n)` is about 73.5/n deg.

    Returns
    -------
    quats : float64 [R, 4]
        Unit quaternions, read-only, in Dragonfly's order and with Dragonfly's signs.
    weights : float64 [R]
        Share of SO(3) that each rotation stands for, read-only, sum 1, in Dragonfly's order.

    Raises
    ------
    InputError
        `n` is not a whole number from 1 to 60.

    Notes
    -----
    The order is vertices, edges, faces, cells of the 600-cell; inside each, the corners in
    lexicographic order of their indices, then the barycentric coordinates.

    Dragonfly's rotation matrix is the transpose of `to_matrix`, so the rotations that Dragonfly
    applies with its grid are `conjugate(grid600(n)[0])`. As a set the two are the same grid.

    Cost: 0.06 s for n = 14 (137,340 rotations), 0.2 s for n = 20 (400,200). The last 8
    grids are kept. Source: Loh & Elser, PRE 80, 026705 (2009).

    >>> quats, weights = grid600(6)
    >>> quats.shape
    (10860, 4)
    """
    return _build(_checks.count("n", n, low=1, high=60))


def grid_spacing(n: int) -> float:
    """Return the typical angle between neighbours of `grid600(n)` in degrees.

    Parameters
    ----------
    n : int
        Divisions, 1 to 60.

    Returns
    -------
    float
        73.5/n: the mean nearest-neighbour angle to 2 %. Single ones are 68/n to 76/n. A random
        rotation is 31/n deg (at most 53/n) from the nearest grid point.

    Raises
    ------
    InputError
        `n` is not a whole number from 1 to 60.
    """
    return _SPACING_DEG / _checks.count("n", n, low=1, high=60)


@lru_cache(maxsize=8)
def _build(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    exact = _vertices()
    quats, weights = [], []
    for simplices, share in zip(_simplices(exact), _SHARE, strict=True):
        steps = _barycentric(n, simplices.shape[1])
        points = np.einsum("kd,sdcp->skcp", steps, exact[simplices]).reshape(-1, 4, 2)
        points = points[_half_space(points)]
        points = (points[..., 0] + TAU * points[..., 1]) / (2.0 * n)
        radius = np.linalg.norm(points, axis=1)
        quats.append(points / radius[:, None])
        # A flat piece of volume dV at q covers dV (q.c)/(|q|^4 |c|) of the sphere, c the centre
        # of its cell. (q.c)/|c| is the distance of the cell's plane: the same for all.
        weights.append(share / radius**4)
    result = np.concatenate(quats), np.concatenate(weights)
    result[1][:] /= result[1].sum()
    for array in result:
        array.flags.writeable = False
    return result


def _vertices() -> NDArray[np.int32]:
    """Return the 120 vertices [120, 4, 2] times 2, exactly: components a + b tau as (a, b)."""
    size = {"t": (0, 1), "o": (1, 0), "s": (-1, 1)}
    vertices = [[(sign, 0) for sign in signs] for signs in product((-1, 1), repeat=4)]
    for value in (-2, 2):
        vertices += [[(value * (i == axis), 0) for i in range(4)] for axis in range(4)]
    for signs in product((-1, 1), repeat=3):
        signed = {c: (s * size[c][0], s * size[c][1]) for c, s in zip("tos", signs, strict=True)}
        signed["z"] = (0, 0)
        vertices += [[signed[c] for c in letters] for letters in _EVEN]
    return np.array(vertices, dtype=np.int32)


def _simplices(exact: NDArray[np.int32]) -> list[NDArray[np.intp]]:
    """Return the 120 vertices, 720 edges, 1200 faces, 600 cells as rows of rising indices."""
    unit = (exact[..., 0] + TAU * exact[..., 1]) / 2.0
    # Neighbours are 36 degrees apart, cosine tau/2; the next distance has cosine 1/2.
    near = unit @ unit.T > 0.7
    above = near & np.triu(np.ones_like(near), 1)
    levels = [np.arange(120)[:, None]]
    for _ in range(3):
        previous = levels[-1]
        row, corner = np.nonzero(above[previous].all(axis=1))
        levels.append(np.column_stack([previous[row], corner]))
    return levels


def _barycentric(n: int, corners: int) -> NDArray[np.int32]:
    """Return positive integers [K, corners] that sum to n: all but the first in rising order."""
    if corners == 1:
        return np.array([[n]], dtype=np.int32)
    rest = np.indices((n - 1,) * (corners - 1), dtype=np.int32).reshape(corners - 1, -1).T + 1
    first = n - rest.sum(axis=1, dtype=np.int32)
    return np.column_stack([first, rest])[first > 0]


def _half_space(points: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Tell which of q and -q to keep: the first non-zero integer in [P, 4, 2] is positive.

    The rule looks at a before b, so it is not the sign of a + b tau: -0.309 = (1 - tau)/2 stays.
    """
    flat = points.reshape(-1, 8)
    first = (flat != 0).argmax(axis=1)
    return flat[np.arange(len(flat)), first] > 0

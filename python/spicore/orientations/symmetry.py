"""Rotational point groups, and the part of SO(3) that is enough for a symmetric particle."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from ..errors import InputError
from . import _checks
from .cell600 import grid600
from .quaternion import canonical, multiply

_NAMES = "C1, Cn, Dn (n = 1 to 999, as in C4 or D5), T, O, I"

# Equivalent orientations tie when their |w| agree to this: float32 input is off by 1e-7, and a
# false tie only shares the weight of a point that is this close to the boundary.
_TIE = 1e-6

_ROWS_AT_ONCE = 65536


def point_group(name: str) -> NDArray[np.float64]:
    """Return the rotations of a point group.

    Parameters
    ----------
    name : str
        C1, Cn, Dn, T, O or I.

    Returns
    -------
    float64 [G, 4]
        Canonical unit quaternions, the identity first, read-only. G = 1, n, 2n, 12, 24, 60.

    Raises
    ------
    InputError
        Any other name.

    Notes
    -----
    Setting: the n-fold axis of Cn and Dn is z and a 2-fold axis of Dn is x. The 2-fold axes of T
    and I and the 4-fold axes of O are x, y and z, the 3-fold axes include (1, 1, 1). The 5-fold
    axes of I are (1, 0, tau), (1, 0, -tau) and their cyclic permutations: those next to z are in
    the xz plane. For the other setting, in the yz plane, turn the model by 90 degrees about z.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[CD][1-9]\d{0,2}|[TOI]", name):
        raise InputError(f"group must be one of {_NAMES}, got {name!r}")
    return _group(name)


@lru_cache(maxsize=32)
def _group(name: str) -> NDArray[np.float64]:
    if name == "T":
        group = _tetrahedral()
    elif name == "O":
        quarter = np.array([0.5, 0.0, 0.0, 0.5]) * 2.0**0.5
        group = np.vstack([_tetrahedral(), multiply(_tetrahedral(), quarter)])
    elif name == "I":
        # The 120 vertices of the 600-cell are the binary icosahedral group.
        group = grid600(1)[0]
    elif name[0] == "D":
        cyclic = _cyclic(int(name[1:]))
        group = np.vstack([cyclic, multiply(cyclic, (0.0, 1.0, 0.0, 0.0))])
    else:
        group = _cyclic(int(name[1:]))
    group = canonical(np.where(np.abs(group) < 1e-15, 0.0, group))
    identity_first = np.argsort(group[:, 0] < 1.0 - 1e-12, kind="stable")
    group = group[identity_first]
    group.flags.writeable = False
    return group


def _cyclic(n: int) -> NDArray[np.float64]:
    half = np.pi * np.arange(n) / n
    return np.column_stack([np.cos(half), 0.0 * half, 0.0 * half, np.sin(half)])


def _tetrahedral() -> NDArray[np.float64]:
    thirds = np.array([(1, *signs) for signs in product((-1, 1), repeat=3)]) / 2.0
    return np.vstack([np.eye(4), thirds])


def asymmetric_unit(
    quats: ArrayLike, weights: ArrayLike, group: str | ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep the orientations that are enough for a particle with symmetry `group`.

    Parameters
    ----------
    quats : array_like [R, 4]
        Unit quaternions that cover SO(3), such as `grid600(n)[0]`.
    weights : array_like [R]
        Their weights, non-negative.
    group : str or array_like [G, 4]
        Name for `point_group`, or all rotations of a group with the identity among them.

    Returns
    -------
    index : int64 [R']
        Rising indices of the kept orientations, about R / G of them.
    weights : float64 [R']
        Weights of the kept orientations, sum 1.

    Raises
    ------
    InputError
        Wrong shapes or norms, an unknown group, unusable weights, or no orientation left because
        `quats` do not cover SO(3).

    Notes
    -----
    The group acts on the model, `R -> g R`. Kept is the Voronoi cell of the identity: rotations
    with no equivalent of smaller angle. On its boundary t equivalents tie; each is kept with 1/t
    of its weight, so the copies of the cell count every rotation once. The mean of a G-invariant
    function is then preserved exactly on a grid that the group maps onto itself (`grid600` with
    C1, C2, D2, T or I) and to the accuracy of the grid otherwise.

    Dragonfly keeps ties at full weight and loses some to rounding (A5, n = 8: 473 of 509).

    Cost: R G dot products; 0.06 s for `grid600(14)` and I.
    """
    quats = _validate.quaternions("quats", quats)
    weights = _checks.weights("weights", weights, len(quats))
    group = point_group(group) if isinstance(group, str) else _validate.quaternions("group", group)
    ties = np.concatenate(
        [
            _ties_with_identity(quats[start : start + _ROWS_AT_ONCE], group)
            for start in range(0, len(quats), _ROWS_AT_ONCE)
        ]
    )
    index = np.flatnonzero(ties)
    kept = weights[index] / ties[index]
    if not kept.sum() > 0.0:
        raise InputError(
            f"quats must cover SO(3), got {len(quats)} orientations and none that is closest to "
            f"the identity among its {len(group)} equivalents"
        )
    return index, kept / kept.sum()


def _ties_with_identity(
    quats: NDArray[np.float64], group: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return how many equivalents are as close to the identity as q is; 0 if one is closer."""
    # w of g q is the dot product of q with the conjugate of g; the angle falls with |w|.
    closeness = np.abs(quats @ (group * (1.0, -1.0, -1.0, -1.0)).T)
    own = np.abs(quats[:, 0])
    ties = (closeness >= own[:, None] - _TIE).sum(axis=1)
    return np.where(own >= closeness.max(axis=1) - _TIE, ties, 0)

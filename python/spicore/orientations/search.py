"""Find neighbours in a list of rotations, and put neighbours next to each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from ..errors import InputError
from .quaternion import first_positive, rotate

# 2^22 float64 dot products are 32 MiB.
_PRODUCTS_AT_ONCE = 2**22

# 4096 x 4096 cells on the half sphere: far finer than any grid of views.
_HILBERT_BITS = 12


def nearest(quats: ArrayLike, queries: ArrayLike) -> NDArray[np.int64]:
    """Return the index of the grid rotation that is nearest to each query, modulo sign.

    Parameters
    ----------
    quats : array_like [R, 4]
        Unit quaternions of the grid, R >= 1.
    queries : array_like [Q, 4]
        Unit quaternions to look up.

    Returns
    -------
    int64 [Q]
        Index into `quats`; the lowest of several that are equally near.

    Raises
    ------
    InputError
        Wrong shapes or norms, or an empty grid.

    Notes
    -----
    Brute force, R Q dot products (about 1e9 per second on one core), in blocks of at most 32 MiB.
    """
    quats = _validate.quaternions("quats", quats)
    queries = _validate.quaternions("queries", queries)
    if len(quats) == 0:
        raise InputError("quats must hold at least one rotation, got shape [0, 4]")
    result = np.empty(len(queries), dtype=np.int64)
    rows = max(1, _PRODUCTS_AT_ONCE // len(quats))
    for start in range(0, len(queries), rows):
        products = queries[start : start + rows] @ quats.T
        result[start : start + rows] = np.abs(products, out=products).argmax(axis=1)
    return result


def sort_by_view(quats: ArrayLike) -> NDArray[np.int64]:
    """Return the order that puts rotations with close beam directions next to each other.

    Parameters
    ----------
    quats : array_like [R, 4]
        Unit quaternions.

    Returns
    -------
    int64 [R]
        Permutation: `quats[order]` is sorted.

    Raises
    ------
    InputError
        Wrong shape or norm.

    Notes
    -----
    Consecutive slices then read nearly the same part of the volume and share cache lines. The
    key is the beam direction `R z` with antipodes folded together, as they see the same central
    plane, along a Hilbert curve on an octahedral map of the half sphere; then the in-plane angle.
    Map: Cigolle et al., J. Comput. Graph. Tech. 3(2), 1 (2014).
    """
    quats = _validate.quaternions("quats", quats)
    # Rounding makes equal directions equal although they come from different quaternions.
    x, y, z = np.round(rotate(quats, (0.0, 0.0, 1.0)), 9).T
    z, y, x = first_positive(np.column_stack([z, y, x])).T
    scale = 1.0 / (np.abs(x) + np.abs(y) + z)
    cells = 2**_HILBERT_BITS
    u = np.minimum(((x + y) * scale + 1.0) * (cells / 2), cells - 1).astype(np.int64)
    v = np.minimum(((x - y) * scale + 1.0) * (cells / 2), cells - 1).astype(np.int64)
    twist = 2.0 * np.arctan2(quats[:, 3], quats[:, 0]) % (2.0 * np.pi)
    return np.lexsort([twist, _hilbert(u, v)])


def _hilbert(u: NDArray[np.int64], v: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position along the Hilbert curve of cells (u, v), 0 to 2^_HILBERT_BITS - 1.

    Each step picks a quadrant from the top bits and turns what is left into its frame: Hilbert,
    Math. Ann. 38, 459 (1891).
    """
    position = np.zeros_like(u)
    for bit in reversed(range(_HILBERT_BITS)):
        high_u, high_v = (u >> bit) & 1, (v >> bit) & 1
        position = (position << 2) | ((3 * high_u) ^ high_v)
        mask = (1 << bit) - 1
        u, v = u & mask, v & mask
        flip = (high_v == 0) & (high_u == 1)
        u, v = np.where(flip, mask - u, u), np.where(flip, mask - v, v)
        u, v = np.where(high_v == 0, v, u), np.where(high_v == 0, u, v)
    return position

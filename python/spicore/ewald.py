"""Slices of a volume on rotated Ewald surfaces, and their merging: exact adjoints."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _validate
from ._dispatch import n_threads

MAX_SIZE = 1024
"""Largest volume edge: indices inside a kernel are 32-bit (1024^3 < 2^31)."""


def _checked_size(name: str, size: int) -> int:
    return int(_validate.number(name, size, low=2, high=MAX_SIZE))


def _check_friedel(friedel: bool, size: int) -> None:
    if friedel and size % 2 == 0:
        raise _validate.InputError(
            f"friedel needs an odd volume edge (an even grid has no centre), got {size}"
        )


def planes(q: NDArray) -> NDArray[np.float32]:
    """Return q [T, 3] as float32 [3, T], the layout of the kernels."""
    return np.ascontiguousarray(_validate.array("q", q, np.float32, (None, 3)).T)


def ewald_slice(
    volume: Any,
    quats: Any,
    q: Any,
    *,
    friedel: bool = False,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Sample a 3D intensity on rotated Ewald surfaces.

    Parameters
    ----------
    volume : float32 [N, N, N]
        Intensity, voxels (x, y, z), origin at ``N // 2``.
    quats : float64 [R, 4]
        Unit quaternions (w, x, y, z), active: ``q_model = R(quat) @ q``.
    q : float32 [T, 3]
        Scattering vectors in voxels.
    friedel : bool
        The volume is centrosymmetric, N odd: read only its half x >= 0 (faster).
    out : float32 [R, T], optional
        C-contiguous; written and returned.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    float32 [R, T]
        Units of `volume`; 0 outside it.

    Raises
    ------
    InputError
        Shapes disagree, values are not finite, or quaternions are not of unit norm.

    Notes
    -----
    Trilinear; adjoint of `ewald_merge`. About 20 flops and 8 reads per sample.
    Source: Loh & Elser, Phys. Rev. E 80, 026705 (2009).
    """
    volume = _validate.volume("volume", volume)
    _checked_size("the edge of volume", volume.shape[0])
    _check_friedel(friedel, volume.shape[0])
    quats = _validate.quaternions("quats", quats)
    q = planes(q)
    shape = (len(quats), q.shape[1])
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise _validate.InputError(
            f"out must be C-contiguous float32 {list(shape)}, got {out.dtype} {list(out.shape)}"
        )
    _core.ewald_slice(volume, quats, q, friedel, out, n_threads(threads))
    return out


def ewald_merge(
    slices: Any,
    quats: Any,
    q: Any,
    size: int,
    *,
    slice_weights: Any = None,
    pixel_weights: Any = None,
    symmetry: Any = None,
    friedel: bool = False,
    threads: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scatter slices into a volume, and their weights beside them.

    ``value = sum_rt f * slices[r, t]`` and
    ``weight = sum_rt f * slice_weights[r] * pixel_weights[t]``, with f the trilinear
    weights of `ewald_slice`; an averaged volume is ``value / weight``.

    Parameters
    ----------
    slices : float32 [R, T]
        Values, for example posterior-weighted photons.
    quats : float64 [R, 4]
        Unit quaternions (w, x, y, z), active.
    q : float32 [T, 3]
        Scattering vectors in voxels.
    size : int
        Edge N of the volume.
    slice_weights, pixel_weights : float32 [R], [T], optional
        Default 1. Slices and pixels of weight 0 are left out of both sums.
    symmetry : float64 [G, 4], optional
        Point group (`orientations.point_group`); every sample is merged at all its
        symmetry-equivalent places, without interpolating the volume again.
    friedel : bool
        Merge every sample at -q too; N odd.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    value, weight : float64 [N, N, N]
        float64, because a voxel sums up to a million terms.

    Raises
    ------
    InputError
        Shapes disagree, or quaternions are not of unit norm.
    """
    slices = _validate.array("slices", slices, np.float32, (None, None))
    n_slices, n_pixels = slices.shape
    quats = _validate.quaternions("quats", quats)
    q = planes(q)
    if len(quats) != n_slices or q.shape[1] != n_pixels:
        raise _validate.InputError(
            f"slices must have shape [{len(quats)}, {q.shape[1]}] to match quats and q, "
            f"got {list(slices.shape)}"
        )
    weights = [
        np.ones(n, np.float32) if w is None else _validate.array(name, w, np.float32, (n,))
        for name, w, n in (
            ("slice_weights", slice_weights, n_slices),
            ("pixel_weights", pixel_weights, n_pixels),
        )
    ]
    size = _checked_size("size", size)
    _check_friedel(friedel, size)
    accumulator = np.zeros((size, size, size, 2), np.float64)
    for rotated in symmetric_copies(quats, symmetry):
        _core.ewald_merge(slices, *weights, rotated, q, friedel, accumulator, n_threads(threads))
    if friedel:
        unfold_friedel(accumulator)
    return (
        np.ascontiguousarray(accumulator[..., 0]),
        np.ascontiguousarray(accumulator[..., 1]),
    )


def symmetric_copies(quats: NDArray[np.float64], symmetry: Any) -> list[NDArray[np.float64]]:
    """Return the orientations multiplied from the left by each element of a point group."""
    if symmetry is None:
        return [quats]
    from .orientations import multiply

    group = _validate.quaternions("symmetry", symmetry)
    return [np.ascontiguousarray(multiply(g, quats)) for g in group]


def unfold_friedel(volume: NDArray) -> None:
    """Complete, in place, an accumulator [N, N, N, ...] that was merged with `friedel`, N odd.

    The kernel folds points with x < 0 to their inverse: planes x > 0 are complete, the
    plane x = 0 holds half of each pair, planes x < 0 are empty.
    """
    centre = volume.shape[0] // 2
    volume[centre] += volume[centre, ::-1, ::-1].copy()
    volume[:centre] = volume[:centre:-1, ::-1, ::-1]

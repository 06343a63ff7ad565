"""Slices of a volume on rotated Ewald surfaces, and their merging: exact adjoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _validate
from ._dispatch import CPU, CpuBackend, CudaBackend, backend_of

MAX_SIZE = 1024
"""Largest volume edge: indices inside a kernel are 32-bit (1024^3 < 2^31)."""


def _checked_size(name: str, size: int) -> int:
    return int(_validate.number(name, size, low=2, high=MAX_SIZE))


def _check_friedel(friedel: bool, size: int) -> None:
    if friedel and size % 2 == 0:
        raise _validate.InputError(
            f"friedel needs an odd volume edge (an even grid has no centre), got {size}"
        )


def ewald_slice(
    volume: Any,
    quats: Any,
    q: Any,
    *,
    friedel: bool = False,
    out: Any = None,
    threads: int | None = None,
) -> Any:
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
        CPU threads, default all cores. Results do not depend on it.

    Returns
    -------
    float32 [R, T]
        Units of `volume`; 0 outside it, and where q is NaN. NumPy, or the GPU library of the
        arguments.

    Raises
    ------
    InputError
        Shapes disagree, arrays are on different devices, values of `volume` are not finite, or
        quaternions are not of unit norm.
    CudaError
        Arrays are on a GPU that cannot be used.

    Notes
    -----
    Trilinear; adjoint of `ewald_merge`. About 20 flops and 8 reads per sample.

    On a GPU all arrays are torch CUDA tensors, or all are CuPy arrays, of exactly the dtypes
    above and C-contiguous (q in any layout). The call is asynchronous, on the library's current
    stream. Values are therefore not checked: quaternions of another norm scale q, NaN spreads.

    Source: Loh & Elser, Phys. Rev. E 80, 026705 (2009).
    """
    backend = backend_of(volume=volume, quats=quats, q=q, out=out)
    with backend.device:
        volume = backend.volume("volume", volume)
        _checked_size("the edge of volume", volume.shape[0])
        _check_friedel(friedel, volume.shape[0])
        quats = backend.quaternions("quats", quats)
        q = backend.planes(q)
        target = backend.output("out", out, np.float32, (quats.shape[0], q.shape[1]))
        backend.run("ewald_slice", volume, quats, q, friedel, target, threads=threads)
    return target if out is None else out


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
) -> tuple[Any, Any]:
    """Scatter slices into a volume, and their weights beside them.

    ``value = sum_rt f * slices[r, t]`` and
    ``weight = sum_rt f * slice_weights[r] * pixel_weights[(r,) t]``, with f the trilinear
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
    slice_weights : float32 [R], optional
    pixel_weights : float32 [T] or [R, T], optional
        Default 1. Slices and pixels of weight 0 are left out of both sums.
    symmetry : float64 [G, 4], optional
        Point group (`orientations.point_group`), in host memory; every sample is merged at all
        its symmetry-equivalent places, without interpolating the volume again.
    friedel : bool
        Merge every sample at -q too; N odd.
    threads : int, optional
        CPU threads, default all cores. Results do not depend on it.

    Returns
    -------
    value, weight : float64 [N, N, N]
        float64, because a voxel sums up to a million terms. NumPy, or the GPU library of the
        arguments.

    Raises
    ------
    InputError
        Shapes disagree, arrays are on different devices, or quaternions are not of unit norm.
    CudaError
        Arrays are on a GPU that cannot be used.

    Notes
    -----
    On a GPU as `ewald_slice`; the sums are atomic, so repeated calls agree to a relative 1e-12
    of the sum of magnitudes, not to the last bit.
    """
    backend = backend_of(
        slices=slices,
        quats=quats,
        q=q,
        slice_weights=slice_weights,
        pixel_weights=pixel_weights,
    )
    with backend.device:
        slices = backend.array("slices", slices, np.float32, (None, None))
        quats = backend.quaternions("quats", quats)
        q = backend.planes(q)
        shape = (quats.shape[0], q.shape[1])
        if tuple(slices.shape) != shape:
            raise _validate.InputError(
                f"slices must have shape {list(shape)} to match quats and q, "
                f"got {list(slices.shape)}"
            )
        per_slice = getattr(pixel_weights, "ndim", 1) == 2
        weights = [
            backend.ones(s[-1], np.float32) if w is None else backend.array(name, w, np.float32, s)
            for name, w, s in (
                ("slice_weights", slice_weights, shape[:1]),
                ("pixel_weights", pixel_weights, shape if per_slice else shape[1:]),
            )
        ]
        if not per_slice:
            weights[1] = weights[1].reshape(1, shape[1])
        size = _checked_size("size", size)
        _check_friedel(friedel, size)
        sums = backend.zeros((size, size, size, 2), np.float64)
        for rotated in symmetric_copies(quats, symmetry, backend):
            backend.run("ewald_merge", slices, *weights, rotated, q, friedel, sums, threads=threads)
        if friedel:
            unfold_friedel(sums, backend.flip)
        return backend.contiguous(sums[..., 0]), backend.contiguous(sums[..., 1])


def symmetric_copies(
    quats: Any, symmetry: Any, backend: CpuBackend | CudaBackend = CPU
) -> list[Any]:
    """Return the orientations multiplied from the left by each element of a point group."""
    if symmetry is None:
        return [quats]
    from .orientations import multiply

    group = _validate.quaternions("symmetry", symmetry)
    if backend is CPU:
        return [np.ascontiguousarray(multiply(g, quats)) for g in group]
    # A multiplication from the left is linear: row i of its matrix is g times basis vector i.
    return [quats @ backend.to_device(multiply(g, np.eye(4))) for g in group]


def unfold_friedel(volume: Any, flip: Callable[..., Any] = np.flip) -> None:
    """Complete, in place, an accumulator [N, N, N, ...] that was merged with `friedel`, N odd.

    The kernel folds points with x < 0 to their inverse: planes x > 0 are complete, the
    plane x = 0 holds half of each pair, planes x < 0 are empty. `flip` is that of the library
    of `volume`.
    """
    centre = volume.shape[0] // 2
    volume[centre] = volume[centre] + flip(volume[centre], (0, 1))
    volume[:centre] = flip(volume[centre + 1 :], (0, 1, 2))

"""Fourier transforms along the in-plane angle, of frames and of tomograms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._dispatch import backend_of
from ..kernels import LANES, Photons
from .orders import GROUP, AngularOrders


def polar_frames(
    photons: Photons,
    orders: AngularOrders,
    *,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Transform sparse polar frames along the angle.

    Parameters
    ----------
    photons : Photons
        Rows are bins ``q * A + t`` of `PolarLayout`; only rows that orient count.
    orders : AngularOrders
    out : float32 [D, C, 2], optional
        Written and returned.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    float32 [D, C, 2]
        Real and imaginary part of ``sum_t K[d, q, t] exp(-2 pi i m t / A) / A``.

    Notes
    -----
    Cost: one transform of A points per frame and ring, about 60 ns at A = 144. On a GPU as
    `ewald_slice`; rows beyond the rings are left out there, not refused.
    """
    backend = backend_of(**photons._asdict(), out=out)
    with backend.device:
        shape = (len(photons.orient_end), orders.n_coefficients, 2)
        coefficients = backend.empty(shape, np.float32) if out is None else out
        arguments = tuple(photons), orders.as_tuple(), coefficients
        backend.run("polar_frames", *arguments, threads=threads)
    return coefficients


def exposure_transform(exposure: NDArray) -> NDArray[np.float32]:
    """Transform exposures [Q, A] along the angle: float32 [Q, A / 2 + 1, 2]."""
    transform = np.fft.rfft(np.asarray(exposure, np.float64), axis=-1)
    return np.stack([transform.real, transform.imag], axis=-1).astype(np.float32)


def polar_views(
    panels: Any,
    orders: AngularOrders,
    reference: Any,
    exposure: Any,
    *,
    mirrors: int = 2,
    out_logs: Any = None,
    out_totals: Any = None,
    threads: int | None = None,
) -> tuple[Any, Any]:
    """Transform the tomograms of views, and count the photons they expect.

    Parameters
    ----------
    panels : float32 [P, T, LANES]
        Intensities of `expand` with exposure 1; the first Q A rows are the bins that orient.
    orders : AngularOrders
    reference : float32 [Q]
        Subtracted from every logarithm: the log of the radial mean keeps sums small.
    exposure : float32 [Q, A / 2 + 1, 2]
        From `exposure_transform`.
    mirrors : {1, 2}
        2: expected photons of the mirror images ``I_v(q, -t)`` too.
    out_logs, out_totals : float32, optional
        Written and returned.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    logs : float32 [2 P, C, 2, 16]
        Transforms of ``log I - reference``, 16 views side by side.
    totals : float32 [2 P, mirrors, A, 16]
        Expected photons at fluence 1 of each orientation, ``sum_{q,t} e(q, t) I_v(q, t + j)``
        and ``I_v(q, -(t + j))``, from all orders.

    Notes
    -----
    Cost: two transforms of A points and A logarithms per view and ring. On a GPU as
    `ewald_slice`.
    """
    backend = backend_of(
        panels=panels, reference=reference, exposure=exposure, out_logs=out_logs,
        out_totals=out_totals,
    )  # fmt: skip
    with backend.device:
        n_groups = len(panels) * LANES // GROUP
        logs, totals = out_logs, out_totals
        if logs is None:
            logs = backend.empty((n_groups, orders.n_coefficients, 2, GROUP), np.float32)
        if totals is None:
            totals = backend.empty((n_groups, mirrors, orders.n_angles, GROUP), np.float32)
        arrays = panels, orders.as_tuple(), reference, exposure
        backend.run("polar_views", *arrays, mirrors, logs, totals, threads=threads)
    return logs, totals

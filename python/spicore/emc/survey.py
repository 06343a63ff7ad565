"""What is checked and learnt before the first iteration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..detector import Detector
from ..errors import InputError
from .layout import PixelLayout
from .model import n_radii


def used_frames(n: int, blacklist: NDArray | None, selection: str) -> NDArray[np.int64]:
    keep = np.ones(n, bool)
    if blacklist is not None:
        dropped = np.asarray(blacklist)
        if dropped.shape != (n,):
            raise InputError(f"blacklist must have shape [{n}], got {list(dropped.shape)}")
        keep = ~dropped.astype(bool)
    used = np.flatnonzero(keep)
    if selection != "all":
        used = used[0 if selection == "even" else 1 :: 2]
    if not len(used):
        raise InputError("blacklist and selection leave no frame")
    return used


def checked_background(value: NDArray | None, detector: Detector) -> NDArray[np.float64] | None:
    background = detector.background if value is None else np.asarray(value, np.float64)
    if background is None:
        return None
    if background.shape != (detector.n_pixels,):
        raise InputError(
            f"background must have shape [{detector.n_pixels}], got {list(background.shape)}"
        )
    used = background[detector.mask < 2]
    if not np.isfinite(used).all() or (used < 0).any():
        raise InputError("background must be finite and not negative on pixels of mask 0 and 1")
    return np.where(detector.mask < 2, background, 0.0)


def checked_fluence(value: NDArray | None, n: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    fluence = np.asarray(value, np.float32)
    if fluence.shape != (n,):
        raise InputError(f"start_fluence must have shape [{n}], got {list(fluence.shape)}")
    if not (np.isfinite(fluence) & (fluence > 0)).all():
        raise InputError("start_fluence must be finite and positive")
    return fluence


def radial_profile(layout: PixelLayout, powder: NDArray, size: int) -> NDArray[np.float64]:
    """Mean intensity at integer radii from the powder pattern; gaps are interpolated."""
    n = n_radii(size)
    index = np.rint(layout.q_abs).astype(np.int64)
    photons = np.bincount(index, powder, n)
    exposure = np.bincount(index, layout.exposure, n)
    known = np.flatnonzero(exposure > 0)
    return np.interp(np.arange(n), known, np.maximum(photons[known] / exposure[known], 1e-12))


def radius_holding(layout: PixelLayout, powder: NDArray, share: float) -> float:
    rows = slice(0, layout.n_orient)
    order = np.argsort(layout.q_abs[rows])
    running = np.cumsum(powder[rows][order])
    return float(layout.q_abs[rows][order][np.searchsorted(running, share * running[-1])])

"""Checks at the boundary: every message names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import InputError


def array(
    name: str,
    value: Any,
    dtype: DTypeLike,
    shape: Sequence[int | None],
    *,
    finite: bool = False,
) -> NDArray:
    """Return `value` as a C-contiguous array of `dtype`, or raise `InputError`.

    Parameters
    ----------
    name : str
        Argument name used in messages.
    value : array_like
        Converted only when it is not already of `dtype` and contiguous.
    dtype : dtype
        Wanted element type.
    shape : sequence of int or None
        Wanted shape; None accepts any length along that axis.
    finite : bool
        Also reject NaN and infinity.
    """
    try:
        result = np.asarray(value, dtype=dtype, order="C")
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of {np.dtype(dtype)}: {error}") from None
    matches = result.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, result.shape, strict=True)
    )
    if not matches:
        wanted = "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"
        raise InputError(f"{name} must have shape {wanted}, got {list(np.shape(value))}")
    if finite and not np.isfinite(result).all():
        bad = int(result.size - np.isfinite(result).sum())
        raise InputError(f"{name} must be finite, got {bad} NaN or infinite values")
    return result


def volume(name: str, value: Any) -> NDArray[np.float32]:
    """Return a cubic float32 [N, N, N] volume with finite values, or raise `InputError`."""
    result = array(name, value, np.float32, (None, None, None), finite=True)
    if len(set(result.shape)) != 1 or result.shape[0] < 2:
        raise InputError(f"{name} must be cubic with N >= 2, got shape {list(result.shape)}")
    return result


def quaternions(name: str, value: Any) -> NDArray[np.float64]:
    """Return unit quaternions [R, 4] (w, x, y, z) as float64, or raise `InputError`."""
    result = array(name, value, np.float64, (None, 4), finite=True)
    off = np.abs(np.linalg.norm(result, axis=1) - 1.0)
    if off.size and off.max() > 1e-4:
        raise InputError(
            f"{name} must have unit norm to 1e-4, got a norm that is off by {off.max():.3g} "
            f"at index {int(off.argmax())}"
        )
    return result


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`, or raise `InputError`."""
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def number(name: str, value: Any, *, low: float, high: float = np.inf) -> float:
    """Return a finite number in [low, high], or raise `InputError`."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number, got {value!r}") from None
    if not (low <= result <= high and np.isfinite(result)):
        raise InputError(f"{name} must be between {low:g} and {high:g}, got {value!r}")
    return result

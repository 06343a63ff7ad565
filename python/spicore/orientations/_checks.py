"""Argument checks that only orientations need; the rest are in `spicore._validate`."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from ..errors import InputError


def count(name: str, value: Any, *, low: int, high: int) -> int:
    """Return a whole number in [low, high], or raise `InputError`."""
    try:
        result = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, got {value!r}") from None
    return int(_validate.number(name, result, low=low, high=high))


def components(name: str, value: Any, size: int) -> NDArray[np.float64]:
    """Return finite float64 [..., size], or raise `InputError`."""
    leading = (None,) * max(np.ndim(value) - 1, 0)
    return _validate.array(name, value, np.float64, (*leading, size), finite=True)


def unit(name: str, value: Any) -> NDArray[np.float64]:
    """Return quaternions [..., 4], normalised in float64, or raise `InputError`.

    Input in float32 is off by 1e-7; normalising keeps that out of products and matrices.
    """
    quats = components(name, value, 4)
    _validate.quaternions(name, quats.reshape(-1, 4))
    return quats / np.linalg.norm(quats, axis=-1, keepdims=True)


def broadcastable(names: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    """Raise `InputError` unless two leading shapes broadcast."""
    try:
        np.broadcast_shapes(first, second)
    except ValueError:
        raise InputError(
            f"{names} must have leading shapes that broadcast, got {list(first)} and {list(second)}"
        ) from None


def weights(name: str, value: Any, length: int) -> NDArray[np.float64]:
    """Return non-negative float64 [length] with a positive sum, or raise `InputError`."""
    result = _validate.array(name, value, np.float64, (length,), finite=True)
    if result.min(initial=0.0) < 0.0 or result.sum() <= 0.0:
        raise InputError(
            f"{name} must be non-negative with a positive sum, got minimum "
            f"{result.min(initial=np.inf):g} and sum {result.sum():g}"
        )
    return result

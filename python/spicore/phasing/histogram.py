"""The histogram constraint: which values an object has is known, not where."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError


def project_histogram(
    values: NDArray, support: NDArray[np.bool_], histogram: NDArray[np.float64]
) -> NDArray:
    """Return the nearest object whose values in a support have a histogram, up to a factor.

    Parameters
    ----------
    values : float32 or float64 [*shape]
    support : bool [*shape]
    histogram : float64 [M]
        Ascending: quantiles (j + 0.5) / M of the values, in any unit.

    Returns
    -------
    [*shape]
        Of the type of `values`. Of N values in the support the one of rank k becomes the quantile
        (k + 0.5) / N, times the factor of least squares, which is at least 0; equal ones rank as in
        memory. 0 outside.

    Notes
    -----
    ResEx-phasing (K. Ayyer) and K. Y. J. Zhang & P. Main, Acta Cryst. A46, 41 (1990), there
    without the factor.
    """
    result = np.zeros_like(values)
    inside = values[support]
    n = inside.size
    order = np.argsort(inside, kind="stable")
    places = (np.arange(histogram.size) + 0.5) / histogram.size
    wanted = np.interp((np.arange(n) + 0.5) / max(n, 1), places, histogram)
    factor = max(float(wanted @ inside[order]), 0.0) / max(float(wanted @ wanted), 1e-300)
    projected = np.empty_like(inside)
    projected[order] = factor * wanted
    result[support] = projected
    return result


def checked_histogram(
    histogram: ArrayLike | None,
    algorithms: Iterable[str],
    beta: float,
    *,
    real: bool,
    positive: bool,
) -> NDArray[np.float64] | None:
    """Return a histogram in ascending order, or raise `InputError`."""
    if histogram is None:
        return None
    if not real:
        raise InputError("histogram must be None with a complex object, got values")
    if beta != 1 and "DM" in algorithms:
        raise InputError(f"histogram must be None with DM unless beta is 1, got beta {beta:g}")
    try:
        values = np.sort(np.asarray(histogram, np.float64).ravel())
    except (TypeError, ValueError) as error:
        raise InputError(f"histogram must be an array of numbers: {error}") from None
    if not values.size or not np.isfinite(values).all() or not values.any():
        raise InputError(
            f"histogram must be finite values, not all 0, got {values.size} values with "
            f"{np.count_nonzero(~np.isfinite(values))} NaN or infinite"
        )
    if positive and values[0] < 0:
        raise InputError(f"histogram must be at least 0 with positive, got {values[0]:g}")
    return values

"""Taking the blur of merging out of an intensity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from ..errors import InputError
from .smooth import checked, filled

VARIANCE = 1 / 3
"""Of the blur along each axis, in voxels^2: trilinear weights, 1/6, for which the model between
voxels is linear, 1/6 again. Photons of a model that is linear between voxels, merged with these
weights, are its values blurred by exactly (1/6, 2/3, 1/6)."""

ROUNDS = 5
"""Of the deconvolution. More take noise of few photons for signal: on sim_1bxr the correlation with
the truth at radii 10 and 22 is 0.842 and 0.788 without, 0.921 and 0.778 after 3, 0.937 and 0.742
after 10."""


def sharpen(
    intensity: NDArray[np.float32],
    weight: NDArray[np.float32],
    *,
    variance: float = VARIANCE,
    rounds: int = ROUNDS,
) -> NDArray[np.float32]:
    """Undo what merging does to speckles: the weights of interpolation spread them.

    An intensity so blurred is not the squared transform of any density of the particle's size: its
    autocorrelation falls off too early, by up to 3 for a particle as large as half of the cell.

    Parameters
    ----------
    intensity : float32 [N, N, N]
        Merged, or smoothed.
    weight : float32 [N, N, N]
        Merged exposure; 0 where nobody saw.
    variance : float
        Of the blur along each axis, in voxels^2, at most 1/2.
    rounds : int

    Returns
    -------
    float32 [N, N, N]
        Not negative; voxels that nobody saw are guessed from their neighbours and shells.

    Raises
    ------
    InputError
        Shapes differ, the cube is not odd, values are negative or not finite, or a number is
        out of range.

    Notes
    -----
    Richardson (J. Opt. Soc. Am. 62, 55 (1972)) and Lucy (Astron. J. 79, 745 (1974)), stopped early.
    It is local, so that the noise of the bright centre stays there; a division of the
    autocorrelation spreads it over the dim edge. Cost: 0.2 s a round at N = 133.
    """
    intensity, weight = checked(intensity, weight)
    variance = _validate.number("variance", variance, low=0.0, high=0.5)
    if rounds < 0:
        raise InputError(f"rounds must not be negative, got {rounds}")
    seen = (weight > 0).astype(np.float32)
    share = _blurred(seen, variance)
    result = filled(intensity, weight)  # a start of 0 would stay 0, and its neighbours lack it
    for _ in range(rounds):
        model = _blurred(result, variance)
        ratio = np.divide(
            intensity, model, out=np.zeros_like(model), where=(model > 0) & (seen > 0)
        )
        change = _blurred(ratio, variance)
        result *= np.divide(change, share, out=np.ones_like(change), where=share > 0)
    return result


def _blurred(volume: NDArray[np.float32], variance: float) -> NDArray[np.float32]:
    """Return a volume blurred by (v/2, 1 - v, v/2) along each axis; faces of the cube repeat."""
    side, middle = np.float32(variance / 2), np.float32(1 - variance)
    for axis in range(3):
        x = np.moveaxis(volume, axis, 0)
        y = middle * x
        y[1:] += side * x[:-1]
        y[:-1] += side * x[1:]
        y[0] += side * x[0]
        y[-1] += side * x[-1]
        volume = np.moveaxis(y, 0, axis)
    return volume

"""How far to trust a reconstruction: PRTF, FSC, modes, R factor, and what the data leave open.

Arrays are in FFT order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import frequencies

FREE_MODE = 0.9
"""A mode of the object with a larger share of its power where nothing was measured is called
undetermined: noise of the data grows more than threefold in it."""

OPEN_SHARE, OPEN_SPREAD = 0.1, 0.1
"""The total charge is called undetermined where more than this share of a constant lies in
undetermined modes, or seeds spread by more than this."""

MOST_CENTRE = 2500
"""Frequencies of a missing centre beyond which its modes are not computed (a dense matrix)."""

MOST_LISTED = 12


def prtf(
    objects: Sequence[NDArray], measured: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the phase retrieval transfer function, |<exp(i phi)>| over aligned objects.

    Parameters
    ----------
    objects : S arrays, float or complex [*shape]
        Aligned.
    measured : bool [*shape]

    Returns
    -------
    radius : float64 [shells]
        Steps of the longest axis.
    prtf : float64 [shells]
        Mean over measured frequencies of the modulus of the mean phase factor; NaN where
        nothing was measured. S objects that have nothing in common score about 0.89 / sqrt(S).
    """
    mean = np.zeros(measured.shape, np.complex128)
    for x in objects:
        f = np.fft.fftn(x)
        size = np.abs(f)
        mean += np.divide(f, size, out=np.zeros_like(f), where=size > 0)
    return _shell_mean(np.abs(mean) / len(objects), measured)


def _shell_mean(
    values: NDArray, where: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sums, count = frequencies.shell_sums(values, where), frequencies.shell_counts(where)
    curve = np.full(count.size, np.nan)
    np.divide(sums, count, out=curve, where=count > 0)
    return np.arange(count.size, dtype=np.float64), curve


def fsc(
    a: NDArray, b: NDArray, measured: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate two objects per shell of their transforms (Fourier ring or shell correlation).

    Parameters
    ----------
    a, b : float or complex [*shape]
        Aligned.
    measured : bool [*shape], optional
        Frequencies to use.

    Returns
    -------
    radius, fsc : float64 [shells]
        ``Re sum(A conj(B)) / sqrt(sum |A|^2 sum |B|^2)``; NaN where a sum is 0.
    """
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    products = (fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2
    cross, power_a, power_b = (frequencies.shell_sums(p, measured) for p in products)
    norm = np.sqrt(power_a * power_b)
    curve = np.full(cross.size, np.nan)
    np.divide(cross, norm, out=curve, where=norm > 0)
    return np.arange(cross.size, dtype=np.float64), curve


def decompose(objects: Sequence[NDArray], n_modes: int = 3) -> tuple[NDArray, NDArray[np.float64]]:
    """Split aligned objects into orthogonal modes by singular values.

    Parameters
    ----------
    objects : S arrays, float or complex [*shape]
    n_modes : int
        Modes returned, at most S.

    Returns
    -------
    modes : [M, *shape]
        Strongest first, scaled so that the first one is the size of an object.
    weights : float64 [S]
        Share of the total power in each; 1, 0, ... if all objects are equal.
    """
    n = len(objects)
    gram = np.empty((n, n), np.complex128)
    for i, row in enumerate(objects):
        for j in range(i + 1):
            gram[i, j] = np.vdot(objects[j], row)
            gram[j, i] = gram[i, j].conj()
    power, vectors = np.linalg.eigh(gram)
    power, vectors = np.maximum(power[::-1], 0), vectors[:, ::-1]
    modes = np.zeros((min(n_modes, n), *objects[0].shape), objects[0].dtype)
    is_real = not np.iscomplexobj(modes)
    for mode, v in zip(modes, vectors.T, strict=False):
        total = v.sum()
        v = v.conj() / np.sqrt(n) * (abs(total) / total if abs(total) > 1e-12 else 1.0).conjugate()
        for factor, x in zip(v, objects, strict=True):
            mode += x * mode.dtype.type(factor.real if is_real else factor)
    return modes, power / power.sum()


@dataclass(frozen=True)
class Undetermined:
    """What the measurement leaves open in the missing centre.

    Attributes
    ----------
    charge : complex
        Sum of the average density, mean over seeds.
    charge_spread : float
        Standard deviation over seeds divided by the mean.
    charge_measured : bool
        The intensity at the origin was measured.
    charge_free : float
        Share of a constant inside of the support that lies in modes called undetermined: 0, the
        data fix the charge; 1, they say nothing about it. NaN if modes were not computed.
    n_modes : float
        Number of undetermined modes. NaN if not computed.
    missing : float64 [k]
        Of the least determined modes, the share of power where nothing was measured.
    value : float64 [k]
        Size of the mode in the average of the seeds.
    spread : float64 [k]
        Standard deviation over seeds, in the unit of `value`.
    radius : float64 [shells inside]
        Shells that reach into the missing centre.
    radius_spread : float64 [shells inside]
        Standard deviation over seeds of missing transform values, relative to their mean size.
    """

    charge: complex
    charge_spread: float
    charge_measured: bool
    charge_free: float
    n_modes: float
    missing: NDArray[np.float64]
    value: NDArray[np.float64]
    spread: NDArray[np.float64]
    radius: NDArray[np.float64]
    radius_spread: NDArray[np.float64]

    @property
    def charge_is_open(self) -> bool:
        """The total charge is undetermined: not measured, and fixed by nothing else."""
        if self.charge_measured:
            return False
        fixed = self.charge_free <= OPEN_SHARE and self.charge_spread <= OPEN_SPREAD
        return not fixed  # also if the share is not known


def missing_centre(measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return unmeasured frequencies up to the first shell of which at least half was measured."""
    shape = measured.shape
    count = frequencies.shell_counts(np.ones(shape, bool))
    share = frequencies.shell_counts(measured) / count
    seen = np.flatnonzero(share >= 0.5)
    first = seen[0] if seen.size else 0
    return ~measured & (frequencies.radius(shape) < first + 0.5)


def undetermined(
    objects: Sequence[NDArray], support: NDArray[np.bool_], measured: NDArray[np.bool_]
) -> Undetermined:
    """Find what inside of a missing centre neither data nor support determine.

    Parameters
    ----------
    objects : S arrays, float or complex [*shape]
        Aligned.
    support : bool [*shape]
    measured : bool [*shape]

    Returns
    -------
    Undetermined

    Notes
    -----
    The modes are the eigenvectors of P_S Q P_S, with P_S the cut to the support and Q the cut to
    the missing centre: an object in the support with all of its power in the centre (eigenvalue
    1) changes no measured value (Thibault et al., Acta Cryst. A 62, 248 (2006)). They come from
    the small matrix Q P_S Q, whose entries are the support's transform at differences of
    frequencies. Positivity is not counted, nor the freedom that a background adds: these
    show in the spread. A small spread is no proof, as all seeds may have the same bias.
    """
    centre = missing_centre(measured)
    charges = np.array([x.sum(dtype=np.result_type(x, np.float64)) for x in objects])
    inside = np.array([np.fft.fftn(x)[centre] for x in objects], np.complex128)
    radius, radius_spread = _spread_by_shell(inside, centre)
    free, n_modes = 0.0, 0.0
    missing = value = spread = np.zeros(0)
    if centre.sum() > MOST_CENTRE:
        free = n_modes = float("nan")
    elif centre.any() and support.any():
        power, vectors = _centre_modes(support, centre)
        listed = slice(0, MOST_LISTED)
        missing = power[listed]
        # <mode, x> with mode = P_S F^H u / sqrt(power), F unitary
        coefficients = inside @ vectors[:, listed].conj()
        coefficients /= np.sqrt(support.size * np.maximum(missing, 1e-12))
        value, spread = np.abs(coefficients.mean(axis=0)), coefficients.std(axis=0)
        is_free = power > FREE_MODE
        n_modes = float(is_free.sum())
        free = _share_of_constant(support, centre, power[is_free], vectors[:, is_free])
    mean = complex(charges.mean())
    return Undetermined(
        mean,
        float(charges.std() / max(abs(mean), 1e-300)),
        bool(measured.flat[0]),
        free,
        n_modes,
        missing,
        value,
        spread,
        radius,
        radius_spread,
    )


def _centre_modes(
    support: NDArray[np.bool_], centre: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """Return the eigenvalues, falling, and eigenvectors [centre, modes] of Q P_S Q."""
    transform = np.fft.fftn(support.astype(np.float64)) / support.size
    at = np.argwhere(centre)
    differences = at[:, None, :] - at[None, :, :]
    matrix = transform[tuple(np.moveaxis(differences, -1, 0))]  # negative: from the end
    power, vectors = np.linalg.eigh(matrix)
    return power[::-1], vectors[:, ::-1]


def _share_of_constant(
    support: NDArray[np.bool_], centre: NDArray[np.bool_], power: NDArray, vectors: NDArray
) -> float:
    """Return the power of a constant of norm 1 inside of the support along some modes."""
    constant = np.fft.fftn(support / np.sqrt(support.sum()))[centre]
    along = vectors.conj().T @ constant / np.sqrt(support.size * np.maximum(power, 1e-12))
    return float((np.abs(along) ** 2).sum())


def _spread_by_shell(
    inside: NDArray, centre: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not centre.any():
        return np.zeros(0), np.zeros(0)
    shell = frequencies.shells(centre.shape)[centre]
    variance = np.bincount(shell, inside.var(axis=0))
    power = np.bincount(shell, np.abs(inside.mean(axis=0)) ** 2)
    seen = np.unique(shell)
    ratio = np.sqrt(variance[seen] / np.maximum(power[seen], 1e-300))
    return seen.astype(np.float64), ratio


def r_factor(model: NDArray, amplitude: NDArray, where: NDArray[np.bool_]) -> float:
    """Return sum ||F| - A| / sum A for a model intensity |F|^2 [*shape], NaN if of no voxel."""
    a = amplitude[where]
    if not a.size:
        return float("nan")
    return float(np.abs(np.sqrt(model[where]) - a).sum() / max(a.sum(), 1e-300))

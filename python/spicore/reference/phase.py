"""Iterative phase retrieval of one object: projections onto its modulus and its constraints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def phase_coefficients(algorithm: str, beta: float) -> tuple[float, float, float, float, float]:
    """Return (a, b, c, d, e) of ``x := a x + b P_M x + c P_S(d x + e P_M x)``."""
    return {
        "ER": (0, 0, 1, 0, 1),
        "SF": (0, -1, 2, 0, 1),
        "HIO": (1, -beta, beta, -1 / beta, 1 + 1 / beta),
        "HPR": (1, -beta, 1, -1, 1 + beta),
        "RAAR": (beta, 1 - 2 * beta, beta, -1, 2),
        "ASR": (1, -1, 1, -1, 2),
        "RRR": (1, -beta, beta, -1, 2),
        "DRAP": (beta, -beta, 1, -beta, 1 + beta),
    }[algorithm]


def phase_shells(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return each frequency's radius in steps of the longest axis, rounded (int [*shape])."""
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    return np.rint(max(shape) * np.sqrt(sum(f**2 for f in axes))).astype(np.int64)


def phase(
    x: NDArray,
    amplitude: NDArray,
    support: NDArray,
    algorithm: str,
    n: int,
    *,
    mask: NDArray | None = None,
    limit: NDArray | None = None,
    background: NDArray | None = None,
    beta: float = 0.9,
    positive: bool = False,
    phase_bounds: tuple[float, float] | None = None,
) -> tuple[NDArray, NDArray | None, NDArray[np.float64]]:
    """Return x, background and R factors [n] after n iterations; a real x has a half spectrum.

    The iterate is the pair (x, B), and so is what the projections act on. P_M: modulus of the
    measured frequencies, an upper limit of the others. P_S: x to its support and range, B to
    its shell average.
    """
    real = not np.iscomplexobj(x)
    half = (..., slice(x.shape[-1] // 2 + 1 if real else None))
    measured = (np.ones(x.shape, bool) if mask is None else mask)[half]
    a = amplitude.astype(np.float64)[half]
    bound = (np.full(x.shape, np.inf) if limit is None else limit.astype(np.float64))[half]
    shell = phase_shells(x.shape)[half]
    weight = np.ones(a.shape)  # frequencies that stand for their Friedel mates too
    if real:
        weight[..., 1 : (x.shape[-1] + 1) // 2] = 2
    no_background = background is None
    b = np.zeros(a.shape) if no_background else background.astype(np.float64)[half]
    x = x.astype(np.float64 if real else np.complex128)

    def transform(x):
        return np.fft.rfftn(x) if real else np.fft.fftn(x)

    def project_modulus(x, b):
        f = transform(x)
        length = np.sqrt(np.abs(f) ** 2 + b**2)
        safe = np.where(length > 0, length, 1)
        scale = np.where(measured, a / safe, np.minimum(bound / safe, 1))
        f = np.where(measured & (length == 0), a, f * scale)  # no phase: take 0
        inverse = np.fft.irfftn(f, x.shape, range(x.ndim)) if real else np.fft.ifftn(f)
        return inverse, b * np.where(measured, scale, 1)

    def project_object(x, b):
        x = np.where(support, x, 0)
        if positive:
            x = np.maximum(x.real, 0).astype(x.dtype)
        if phase_bounds is not None:
            low, high = phase_bounds
            turned = np.angle(x * np.exp(-0.5j * (low + high)))
            x = np.where(np.abs(turned) <= (high - low) / 2, x, 0)
        sums = np.bincount(shell.ravel(), (weight * b).ravel())
        mean = sums / np.maximum(np.bincount(shell.ravel(), weight.ravel()), 1)
        return x, np.maximum(mean, 0)[shell]

    def combined(*terms):
        return tuple(sum(factor * state[i] for factor, state in terms) for i in range(2))

    def r_factor(x, b):
        length = np.sqrt(np.abs(transform(x)) ** 2 + b**2)
        use = weight * measured
        return (use * np.abs(length - a)).sum() / (use * a).sum()

    errors = np.empty(n)
    for i in range(n):
        state = x, b
        errors[i] = r_factor(*state)
        modulus = project_modulus(*state)
        if algorithm == "DM":  # Elser: gamma_M = 1 / beta, gamma_S = -1 / beta
            first = project_object(*combined((1 + 1 / beta, modulus), (-1 / beta, state)))
            inside = project_object(*state)
            second = project_modulus(*combined((1 - 1 / beta, inside), (1 / beta, state)))
            x, b = combined((1, state), (beta, first), (-beta, second))
        else:
            ca, cb, cc, cd, ce = phase_coefficients(algorithm, beta)
            inner = project_object(*combined((cd, state), (ce, modulus)))
            x, b = combined((ca, state), (cb, modulus), (cc, inner))
    if no_background:
        return x, None, errors
    full = np.empty(x.shape)
    full[half] = b
    if real:  # B(-q) = B(q)
        mirrored = np.roll(np.flip(full), 1, range(x.ndim))
        full = np.where(np.arange(x.shape[-1]) <= x.shape[-1] // 2, full, mirrored)
    return x, full, errors

"""Iterative phase retrieval of one object: projections onto its modulus and its constraints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def phase_shells(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return each frequency's radius in steps of the longest axis, rounded (int [*shape])."""
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    return np.rint(max(shape) * np.sqrt(sum(f**2 for f in axes))).astype(np.int64)


def phase_blurred(power: NDArray, kernel: NDArray) -> NDArray[np.float64]:
    """Return an intensity convolved with a kernel [*box] whose origin is in its middle."""
    axes = tuple(range(power.ndim))
    total = np.zeros(power.shape)
    for at in np.ndindex(kernel.shape):
        shift = tuple(i - n // 2 for i, n in zip(at, kernel.shape, strict=True))
        total += kernel[at] * np.roll(power, shift, axes)
    return total


def phase_richardson_lucy(
    kernel: NDArray, intensity: NDArray, measured: NDArray, power: NDArray, n: int
) -> NDArray[np.float64]:
    """Return a kernel after n steps towards intensity = power conv kernel where measured."""

    def correlated(values: NDArray) -> NDArray[np.float64]:
        result = np.empty(kernel.shape)
        for at in np.ndindex(kernel.shape):
            shift = tuple(i - m // 2 for i, m in zip(at, kernel.shape, strict=True))
            result[at] = (values * np.roll(power, shift, tuple(range(power.ndim)))).sum()
        return result

    for _ in range(n):
        ratio = np.where(measured, intensity, 0) / phase_blurred(power, kernel)
        kernel = kernel * correlated(ratio) / correlated(measured.astype(float))
        kernel = kernel / kernel.sum()
    return kernel


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
    histogram: NDArray | None = None,
    coherence: NDArray | None = None,
) -> tuple[NDArray, NDArray | None, NDArray[np.float64]]:
    """Return x, background and R factors [n] after n iterations; a real x has a half spectrum.

    The iterate is the pair (x, B), and so is what the projections act on. P_M: modulus of the
    measured frequencies, sqrt(|F|^2 + B^2), and an upper limit of it at the others. P_S: x to
    its support and range, B to its shell average. With coherence, |F|^2 is blurred by this kernel;
    what other frequencies give to each is that of x for the whole iteration.
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
    centre, others = 1.0, np.zeros_like(a)  # |F|^2 is blurred to centre |F|^2 + others

    def transform(x):
        return np.fft.rfftn(x) if real else np.fft.fftn(x)

    def length_of(f, b):
        return np.sqrt(centre * np.abs(f) ** 2 + others + b**2)

    def project_modulus(x, b):
        f = transform(x)
        length = length_of(f, b)
        safe = np.where(length > 0, length, 1)
        scale = np.where(measured, a / safe, np.minimum(bound / safe, 1))
        f = np.where(measured & (length == 0), a / np.sqrt(centre), f * scale)  # no phase: take 0
        inverse = np.fft.irfftn(f, x.shape, range(x.ndim)) if real else np.fft.ifftn(f)
        return inverse, b * scale

    def project_object(x, b):
        x = np.where(support, x, 0)
        if positive and histogram is None:
            x = np.maximum(x.real, 0).astype(x.dtype)
        if phase_bounds is not None:
            low, high = phase_bounds
            turned = np.angle(x * np.exp(-0.5j * (low + high)))
            x = np.where(np.abs(turned) <= (high - low) / 2, x, 0)
        if histogram is not None:  # least squares over its order and a factor
            order = np.argsort(x[support], kind="stable")
            places = (np.arange(len(histogram)) + 0.5) / len(histogram)
            h = np.interp((np.arange(len(order)) + 0.5) / len(order), places, np.sort(histogram))
            values = np.empty(len(order))
            values[order] = h * max(h @ x[support][order], 0) / (h @ h)
            x = x.copy()
            x[support] = values
        sums = np.bincount(shell.ravel(), (weight * b).ravel())
        mean = sums / np.maximum(np.bincount(shell.ravel(), weight.ravel()), 1)
        return x, np.maximum(mean, 0)[shell]

    def combined(*terms):
        return tuple(sum(factor * state[i] for factor, state in terms) for i in range(2))

    def r_factor(x, b):
        length = length_of(transform(x), b)
        use = weight * measured
        return (use * np.abs(length - a)).sum() / (use * a).sum()

    def update(s, m):
        """Return the next state from s and m = P_M s; r is R_M s."""
        r = combined((2, m), (-1, s))
        if algorithm == "ER":
            return project_object(*m)
        if algorithm == "SF":
            return combined((2, project_object(*m)), (-1, m))
        if algorithm == "HIO":
            inner = project_object(*combined((1 + 1 / beta, m), (-1 / beta, s)))
            return combined((1, s), (beta, inner), (-beta, m))
        if algorithm == "HPR":
            t = combined((1, r), (beta - 1, m))
            return combined((1, project_object(*t)), (-0.5, t), (0.5, s), ((1 - beta) / 2, m))
        if algorithm in ("ASR", "RAAR"):  # beta/2 (R_S R_M + 1) + (1 - beta) P_M
            b = 1 if algorithm == "ASR" else beta
            return combined((b, project_object(*r)), (-b / 2, r), (b / 2, s), (1 - b, m))
        if algorithm == "RRR":
            return combined((1, s), (beta, project_object(*r)), (-beta, m))
        if algorithm == "DRAP":
            inner = project_object(*combined((1 + beta, m), (-beta, s)))
            return combined((1, inner), (-beta, m), (beta, s))
        # DM of Elser: gamma_M = 1 / beta, gamma_S = -1 / beta
        first = project_object(*combined((1 + 1 / beta, m), (-1 / beta, s)))
        second = combined((1 - 1 / beta, project_object(*s)), (1 / beta, s))
        return combined((1, s), (beta, first), (-beta, project_modulus(*second)))

    errors = np.empty(n)
    for i in range(n):
        if coherence is not None:
            centre = coherence[tuple(m // 2 for m in coherence.shape)]
            power = np.abs(np.fft.fftn(x)) ** 2
            others = (phase_blurred(power, coherence) - centre * power)[half]
        errors[i] = r_factor(x, b)
        x, b = update((x, b), project_modulus(x, b))
    if no_background:
        return x, None, errors
    full = np.empty(x.shape)
    full[half] = b
    if real:  # B(-q) = B(q)
        mirrored = np.roll(np.flip(full), 1, range(x.ndim))
        full = np.where(np.arange(x.shape[-1]) <= x.shape[-1] // 2, full, mirrored)
    return x, full, errors

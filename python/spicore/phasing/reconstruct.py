"""Phase retrieval from random phases: many seeds, their ranking, and what they agree on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _dispatch, _validate
from .._dispatch import CudaBackend, n_threads
from ..errors import InputError
from . import frequencies, trust
from .align import Alignment, align, like
from .batches import in_threads
from .blur import blurred
from .config import Config
from .histogram import checked_histogram
from .kernels import Seeds, estimate
from .pattern import NOISE, Pattern, prepare
from .run import Progress, Run, State
from .schedule import parse_schedule
from .solutions import Solutions


def reconstruct(
    intensity: ArrayLike,
    config: Config | None = None,
    *,
    weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    support: ArrayLike | None = None,
    histogram: ArrayLike | None = None,
    voxel_size: float | ArrayLike | None = None,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] | None = None,
    out: str | os.PathLike | None = None,
    resume: bool = False,
) -> Solutions:
    """Find the object whose squared Fourier transform is an intensity.

    Parameters
    ----------
    intensity : float [*shape], 2 or 3 axes
        Origin at ``n // 2``. NaN, infinite and negative values were not measured.
    config : Config, optional
    weight : float [*shape], optional
        Merged exposure (`weight` of an EMC result): times the intensity it is a number of
        photons. 0: not measured.
    mask : bool [*shape], optional
        True where measured.
    sigma : float [*shape], optional
        Standard deviation of Gaussian errors; not together with `weight`.
    support : bool [*shape], optional
        Where the object may be, about ``n // 2``: the first support, which never grows beyond.
        Of the shape of the intensity, or of the cropped one.
    histogram : float [M], optional
        Values of the real object in its support, of any number, order and unit: its own values are
        given these, in their order. The first support should then be tight, as with `support`.
        Not with DM in the schedule unless beta is 1.
    voxel_size : float or float [axes], optional
        Of the intensity, in 1/Angstrom; that of the density is 1 / (n voxel_size).
    threads : int, optional
        Default: all cores. Results do not depend on it.
    device : str
        "cuda": iterations run on the current GPU, on arrays of torch or CuPy, in float32 as on the
        CPU; supports and what follows stay on the CPU. Not with `coherence` or a histogram.
    on_progress : callable, optional
        Takes a `Progress`, after every few iterations.
    out : path, optional
        HDF5 file to write the solutions to; while at work the state is beside it, under the
        same name and ``.state``.
    resume : bool
        Go on from that state, if it is there, to the same result; a finished `out` is read.

    Returns
    -------
    Solutions

    Raises
    ------
    InputError
        The input is no use, all seeds were given up, or a state is of other input.
    CudaError
        The device is "cuda", and there is no GPU or no library for its arrays.

    Notes
    -----
    Cost: iterations x seeds pairs of Fourier transforms. Which likelihood ranks seeds follows from
    what is given: `phasing.pattern.prepare`. Shells, of background and curves, take the voxels
    of the density as cubes, so that those of an intensity of unequal axes are not.
    """
    config = config or Config()
    threads = n_threads(threads)
    backend = _device(device, config, histogram)
    pattern = prepare(
        intensity,
        weight=weight,
        mask=mask,
        sigma=sigma,
        real=config.real,
        size=config.size,
        free_fraction=config.free_fraction,
        seed=config.seed,
    )
    bound = None if support is None else _support(support, np.shape(intensity), pattern.shape)
    size = _density_voxel(voxel_size, pattern.shape)
    path = None if out is None else f"{os.fspath(out)}.state"
    algorithms = [name for name, _ in parse_schedule(config.schedule)]
    values = checked_histogram(
        histogram, algorithms, config.beta, real=config.real, positive=config.positive
    )
    key = _key(pattern, config, bound, values)
    run = Run(pattern, config, bound, threads, values, on_progress, path, key, backend)
    if resume and out is not None and os.path.isfile(out) and not os.path.isfile(path):
        return _finished(out, config)
    if resume and path is not None and os.path.isfile(path):
        state = State.load(path, key)
    else:
        state = State.start(pattern, config, run.segments)
    run.finish(state)
    solutions = _judge(run, state, size)
    if out is not None:
        solutions.save(out)
        run.discard()
    return solutions


def _device(device: str, config: Config, histogram: ArrayLike | None) -> CudaBackend | None:
    """Return the backend of iterations on a GPU, None on the CPU."""
    _validate.choice("device", device, ("cpu", "cuda"))
    if device == "cpu":
        return None
    if config.coherence or histogram is not None:
        raise InputError("device must be cpu with coherence or a histogram, got 'cuda'")
    return _dispatch.gpu()


def _finished(out: str | os.PathLike, config: Config) -> Solutions:
    """Return the solutions in a file, if they were made with the same options."""
    solutions = Solutions.load(out)
    if solutions.config != config.to_toml():
        raise InputError(f"{os.fspath(out)} must be of the same options to resume, it is of others")
    return solutions


def _support(
    support: ArrayLike, shape: tuple[int, ...], cropped: tuple[int, ...]
) -> NDArray[np.bool_]:
    values = np.asarray(support)
    if values.shape not in (shape, cropped):
        raise InputError(
            f"support must have the shape of the intensity, {list(cropped)}, "
            f"got {list(values.shape)}"
        )
    if values.shape != cropped:
        raise InputError(
            f"support must have the shape of the cropped intensity, {list(cropped)}: voxels of "
            f"the density grow when the intensity is cropped; got {list(values.shape)}"
        )
    values = values != 0
    if not values.any():
        raise InputError("support must be True somewhere, got False everywhere")
    return np.fft.ifftshift(values)


def _density_voxel(
    voxel_size: float | ArrayLike | None, shape: tuple[int, ...]
) -> NDArray[np.float64] | None:
    if voxel_size is None:
        return None
    values = np.asarray(voxel_size, np.float64)
    if values.shape not in ((), (len(shape),)) or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"voxel_size must be positive, one or {len(shape)}, got {voxel_size!r}")
    return 1.0 / (np.array(shape) * values)


def _key(pattern: Pattern, config: Config, bound: NDArray | None, histogram: NDArray | None) -> str:
    digest = hashlib.sha256()
    for part in (pattern.intensity, pattern.precision, pattern.free, bound, histogram):
        digest.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
    digest.update(f"{pattern.shape} {pattern.likelihood}\n{config.to_toml()}".encode())
    return digest.hexdigest()


# Scores


@dataclass
class _Scores:
    """Arrays over seeds; NaN for those that were given up."""

    free_llk: NDArray[np.float64]
    llk: NDArray[np.float64]
    r_factor: NDArray[np.float64]
    outside: NDArray[np.float64]


def _judge(run: Run, state: State, voxel_size: NDArray | None) -> Solutions:
    """Rank, reject, align and average."""
    config, pattern = run.config, run.pattern
    scores = _score(run, state)
    reasons = _reasons(run, state, scores)
    kept = np.array([not reason for reason in reasons])
    rank = _ranks(scores, kept)
    best = int(np.argmin(rank))
    if run.on_progress is not None:
        run.on_progress(_aligning(run, state))
    reference, alignments = _align_all(run, state, best)
    best_first = np.argsort(rank)[: int(kept.sum())]
    objects = [state.x[s] for s in best_first]  # views
    supports = sum(like(state.support[s], alignments[s]).astype(np.int32) for s in best_first)
    support = 2 * supports >= len(objects)
    average = _mean(objects)
    modes, weights = trust.decompose(objects)
    model = np.abs(np.fft.fftn(average)) ** 2
    curves = _curves(objects, pattern, model)
    if state.background is not None:
        power = (state.background[kept].astype(np.float64) ** 2).mean(axis=0)
        model = model + power
        counts = frequencies.shell_counts(np.ones(pattern.shape, bool))
        curves["background"] = frequencies.shell_sums(power) / counts
    coherence = None if state.coherence is None else state.coherence[kept].mean(axis=0)
    if coherence is not None:
        model = blurred(model, coherence, run.threads)
    amplitude = np.sqrt(pattern.intensity)
    return Solutions(
        density=np.fft.fftshift(average),
        best=np.fft.fftshift(reference),
        support=np.fft.fftshift(support),
        modes=np.fft.fftshift(modes, axes=tuple(range(1, modes.ndim))),
        mode_weights=weights,
        scores={
            "seed": np.arange(len(kept)),
            "kept": kept,
            "rank": rank,
            "reason": np.array(reasons, dtype=np.str_),
            **vars(scores),
            **_of_seeds(state, alignments),
        },
        curves=curves,
        history={
            "r_factor": state.r_factor,
            "support": state.fraction,
            "segment": np.cumsum([s.n for s in run.segments]),
        },
        likelihood=pattern.likelihood,
        r_factor=trust.r_factor(model, amplitude, pattern.used),
        free_r_factor=trust.r_factor(model, amplitude, pattern.free),
        undetermined=trust.undetermined(objects, support, pattern.measured),
        config=config.to_toml(),
        voxel_size=voxel_size,
        coherence=coherence,
    )


def _align_all(run: Run, state: State, best: int) -> tuple[NDArray, dict[int, Alignment]]:
    """Align all finished seeds in place to the best one, whose centre of mass goes to index 0."""
    centred = _centring(state.x[best])
    reference = np.roll(state.x[best], centred, tuple(range(len(centred))))

    def one(s: int) -> Alignment:
        state.x[s], alignment = align(state.x[s], reference)
        return alignment

    places = np.flatnonzero(state.segment > 0).tolist()
    return reference, dict(zip(places, in_threads(one, places, run.threads), strict=True))


def _of_seeds(state: State, alignments: dict[int, Alignment]) -> dict[str, NDArray]:
    """Return the scores that the state and the alignments hold."""
    n = len(state.segment)
    agreement, inverted = np.full(n, np.nan), np.zeros(n, bool)
    for s, alignment in alignments.items():
        agreement[s], inverted[s] = alignment.correlation, alignment.inverted
    return {
        "support": state.support.reshape(n, -1).mean(axis=1),
        "threshold": state.threshold,
        "restarts": state.restarts,
        "agreement": agreement,
        "inverted": inverted,
    }


def _score(run: Run, state: State) -> _Scores:
    pattern = run.pattern
    n = len(state.segment)
    scores = _Scores(*(np.full(n, np.nan) for _ in range(4)))
    amplitude = np.sqrt(pattern.intensity)
    everywhere = np.ones((1, *pattern.shape), bool)

    def one(s: int) -> None:
        model = np.abs(np.fft.fftn(state.x[s])) ** 2
        background = None if state.background is None else state.background[s : s + 1]
        if background is not None:
            model += background[0] ** 2
        coherence = None if state.coherence is None else state.coherence[s : s + 1]
        if coherence is not None:
            model = blurred(model, coherence[0])
        scores.llk[s] = pattern.llk(model, pattern.used)
        scores.free_llk[s] = pattern.llk(model, pattern.free)
        scores.r_factor[s] = trust.r_factor(model, amplitude, pattern.used)
        seeds = Seeds(state.x[s : s + 1], everywhere, background, coherence)
        power = np.abs(estimate(run.measured, seeds, threads=1)[0]) ** 2
        outside = power[~state.support[s]].sum(dtype=np.float64)
        scores.outside[s] = outside / max(power.sum(dtype=np.float64), 1e-300)

    in_threads(one, np.flatnonzero(state.segment > 0).tolist(), run.threads)
    return scores


def _reasons(run: Run, state: State, scores: _Scores) -> list[str]:
    """Return why each seed is rejected, empty if it is not."""
    config = run.config
    reasons = [""] * len(state.segment)
    for s in np.flatnonzero(state.segment < 0):
        reasons[s] = (
            f"support out of bounds after {int(state.restarts[s]) - 1} restarts "
            f"({state.support[s].mean():.2g} of all voxels)"
        )
    for s in np.flatnonzero(state.segment > 0):
        if not np.isfinite(scores.llk[s]):
            reasons[s] = "not finite"
        elif scores.outside[s] > config.max_outside:
            reasons[s] = (
                f"{100 * scores.outside[s]:.0f} % of the power outside of the support "
                f"(limit {100 * config.max_outside:.0f} %)"
            )
    llk = _ranking(scores)
    left = [s for s, reason in enumerate(reasons) if not reason]
    if not left:
        raise InputError(
            f"no seed of {len(reasons)} passed, the first because: {reasons[0]}; "
            f"see support_threshold, max_outside and diameter"
        )
    best = max(min(llk[s] for s in left), NOISE[run.pattern.likelihood])
    for s in left:
        if llk[s] > config.max_llk * best:
            reasons[s] = (
                f"free log-likelihood {llk[s]:.4g}, {llk[s] / best:.3g} times the best or the "
                f"noise (limit {config.max_llk:g})"
            )
    return reasons


def _ranking(scores: _Scores) -> NDArray[np.float64]:
    """Return what seeds are ranked by: the free likelihood, or all if nothing is held out."""
    free = np.isfinite(scores.free_llk).any()
    return scores.free_llk if free else scores.llk


def _ranks(scores: _Scores, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank of each seed: kept ones first, by likelihood."""
    llk = np.where(np.isfinite(_ranking(scores)), _ranking(scores), np.inf)
    order = np.lexsort((np.arange(len(llk)), llk, ~kept))
    rank = np.empty(len(llk), np.int64)
    rank[order] = np.arange(len(llk))
    return rank


def _centring(x: NDArray) -> NDArray[np.int64]:
    """Return the shift in whole voxels that brings the centre of mass to index 0."""
    weight = np.abs(x).astype(np.float64)
    shift = []
    for axis, n in enumerate(x.shape):
        along = weight.sum(axis=tuple(i for i in range(x.ndim) if i != axis))
        angle = np.angle((along * np.exp(2j * np.pi * np.arange(n) / n)).sum())
        shift.append(-round(angle * n / (2 * np.pi)))
    return np.array(shift)


def _mean(objects: list[NDArray]) -> NDArray:
    return sum(objects[1:], objects[0]) / objects[0].dtype.type(len(objects))


def _curves(objects: list[NDArray], pattern: Pattern, model: NDArray) -> dict[str, NDArray]:
    """Return the curves over shells of objects in the order of their ranks."""
    radius, prtf = trust.prtf(objects, pattern.measured)
    fsc = np.full(radius.size, np.nan)
    if len(objects) > 1:
        fsc = trust.fsc(_mean(objects[0::2]), _mean(objects[1::2]), pattern.measured)[1]
    if len(objects) == 1:
        prtf = np.full(radius.size, np.nan)  # of one object it is 1 and tells nothing
    everywhere = np.ones(pattern.shape, bool)
    power = frequencies.shell_sums(model) / frequencies.shell_counts(everywhere)
    sums = frequencies.shell_sums(pattern.intensity, pattern.measured)
    count = frequencies.shell_counts(pattern.measured)
    data = np.divide(sums, count, out=np.full(radius.size, np.nan), where=count > 0)
    return {"radius": radius, "prtf": prtf, "fsc": fsc, "power": power, "data": data}


def _aligning(run: Run, state: State) -> Progress:
    total = int(sum(s.n for s in run.segments) * (state.segment > 0).sum())
    n = len(state.segment)
    return Progress("align", total, total, int((state.segment > 0).sum()), n, 0.0, 0.0, 0.0, 0.0)

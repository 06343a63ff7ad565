"""Many seeds through a schedule, in blocks; where they stand is a set of arrays that can be saved.

Inside, objects and supports are in FFT order: the object lies about index 0 of its periodic cell.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .._dispatch import CudaBackend
from ..errors import InputError
from ..io.files import reading_hdf5, writing_hdf5
from . import frequencies, gpu
from .coherence import first_kernel, update_coherence
from .config import Config
from .kernels import Measured, Seeds, estimate, iterate
from .pattern import Pattern
from .plan import Segment, plan
from .supports import autocorrelation_support, ball, filled_intensity, half_of, shrink_wrap

STEP = 1.1
"""Factor by which a threshold changes before a seed starts again (as in PyNX)."""

MOST_RESTARTS = 10

SAVE_SECONDS, SAVE_PAUSE = 5.0, 10.0
"""State is written at most this often in seconds, and in units of the time that it takes."""

FORMAT = "spicore-phasing-state"

_START, _DETWIN = range(1, 3)  # random streams of a seed


@dataclass(frozen=True)
class Progress:
    """How far a reconstruction is.

    Attributes
    ----------
    stage : str
        Algorithm at work, or "align".
    iterations, total : int
        Iterations done and to do, summed over seeds; restarts raise `total`.
    finished, n_seeds : int
    r_factor : float
        Median over the seeds that just ran.
    support : float
        Mean share of all voxels of these.
    seconds : float
        Since the start of this call.
    rate : float
        Iterations of one seed per second, since the start of this call.
    """

    stage: str
    iterations: int
    total: int
    finished: int
    n_seeds: int
    r_factor: float
    support: float
    seconds: float
    rate: float


@dataclass
class State:
    """Where each seed stands; arrays over seeds.

    Attributes
    ----------
    x : float32 or complex64 [S, *shape]
        P_S P_M x once a seed is finished.
    support : bool [S, *shape]
    background : float32 [S, *shape] or None
    coherence : float64 [S, *box] or None
    threshold, start_threshold : float64 [S]
    restarts, segment : int64 [S]
        Segments done; -1: given up.
    r_factor : float32 [S, iterations]
    fraction : float32 [S, segments]
        Share of voxels in the support after each segment.
    """

    x: NDArray
    support: NDArray[np.bool_]
    background: NDArray[np.float32] | None
    coherence: NDArray[np.float64] | None
    threshold: NDArray[np.float64]
    start_threshold: NDArray[np.float64]
    restarts: NDArray[np.int64]
    segment: NDArray[np.int64]
    r_factor: NDArray[np.float32]
    fraction: NDArray[np.float32]

    @classmethod
    def start(cls, pattern: Pattern, config: Config, segments: list[Segment]) -> State:
        """Return the state before anything was done."""
        n, shape = config.seeds, pattern.shape
        spread = [
            1 + config.support_spread * _generator(config, s, 0).uniform(-1, 1, 2) for s in range(n)
        ]
        own, first = np.array(spread).T
        total = sum(segment.n for segment in segments)
        return cls(
            np.zeros((n, *shape), np.float32 if pattern.real else np.complex64),
            np.zeros((n, *shape), bool),
            np.zeros((n, *shape), np.float32) if config.background else None,
            np.stack([first_kernel(shape)] * n) if config.coherence else None,
            config.support_threshold * own,
            config.start_threshold * first,
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.full((n, total), np.nan, np.float32),
            np.full((n, len(segments)), np.nan, np.float32),
        )

    def save(self, path: str, key: str) -> None:
        """Write to HDF5, whole or not at all; `key` tells what it belongs to."""
        with writing_hdf5(path) as (file, _):
            for name, value in vars(self).items():
                if value is not None:
                    file[name] = value
            file.attrs.update(format=FORMAT, key=key)

    @classmethod
    def load(cls, path: str, key: str) -> State:
        """Read what `save` wrote; `InputError` if it belongs to something else."""
        with reading_hdf5(path) as file:
            if file.attrs.get("format") != FORMAT:
                raise InputError(f"{path} must be the state of a phase retrieval, it is other HDF5")
            if file.attrs["key"] != key:
                raise InputError(
                    f"{path} must be of the same intensity and options to resume, it is of others"
                )
            names = cls.__dataclass_fields__
            return cls(**{n: file[n][()] if n in file else None for n in names})


@dataclass
class Run:
    """A reconstruction at work.

    Attributes
    ----------
    pattern : Pattern
    config : Config
    bound : bool [*shape] or None
        First support, which is also its upper bound; None: from the autocorrelation.
    threads : int
    histogram : float [M] or None
        Of the object; any shape and order.
    on_progress : callable or None
    path : str or None
        Where the state is kept.
    key : str
        What the state belongs to.
    backend : CudaBackend or None
        Of the arrays of iterations on a GPU; None: on the CPU.
    """

    pattern: Pattern
    config: Config
    bound: NDArray[np.bool_] | None
    threads: int
    histogram: NDArray | None = None
    on_progress: Callable[[Progress], None] | None = None
    path: str | None = None
    key: str = ""
    backend: CudaBackend | None = None
    segments: list[Segment] = field(init=False)
    measured: Measured = field(init=False)

    def __post_init__(self) -> None:
        self.segments = plan(self.config)
        self.measured = self.pattern.to_measured()
        if self.bound is None and self.config.diameter:
            self.bound = ball(self.pattern.shape, self.config.diameter)
        self._intensity = None if self.bound is not None else filled_intensity(self.pattern)
        self._began = time.monotonic()
        self._saved = self._began
        self._save_took = 0.0
        self._iterations = 0

    def finish(self, state: State) -> None:
        """Take all seeds through the schedule."""
        block = self._block_size()
        last = len(self.segments)
        while True:
            left = np.flatnonzero((state.segment >= 0) & (state.segment < last))
            if not left.size:
                break
            at = int(state.segment[left].max())
            chosen = left[state.segment[left] == at][:block]
            self._advance(state, chosen, at)
            self._save(state)

    def _block_size(self) -> int:
        """Return how many seeds fit into the memory of a block."""
        voxels = int(np.prod(self.pattern.shape))
        per_voxel = (4 if self.pattern.real else 8) * 3 + 2 + 8 * self.config.background
        per_voxel += 16 * (self.config.coherence > 0)
        return max(1, self.config.block_memory_mb * 2**20 // (voxels * per_voxel))

    def _advance(self, state: State, chosen: NDArray[np.intp], at: int) -> None:
        """Do segment `at` with some seeds, and change their supports."""
        segment = self.segments[at]
        if at == 0:
            for s in chosen:
                self._begin(state, int(s))
        batch = self._batch(state, chosen)
        support = batch.support
        if segment.halved:
            axes = [_generator(self.config, s, _DETWIN).integers(batch.x.ndim - 1) for s in chosen]
            batch.support = half_of(support, np.array(axes))
        beta = self.config.beta
        errors = self._iterate(batch, segment.algorithm, segment.n, beta=beta)
        batch.support = support
        first = sum(s.n for s in self.segments[:at])
        state.r_factor[chosen, first : first + segment.n] = errors
        if at == len(self.segments) - 1:
            self._iterate(batch, "ER", 1)
        state.x[chosen] = batch.x
        if batch.background is not None:
            state.background[chosen] = batch.background
        if segment.coherence:
            update_coherence(self.measured, batch, threads=self.threads)
            state.coherence[chosen] = batch.coherence
        state.segment[chosen] += 1
        if segment.blur is not None:
            self._change_support(state, chosen, batch, segment.blur)
        state.fraction[chosen, at] = state.support[chosen].mean(axis=tuple(range(1, batch.x.ndim)))
        self._iterations += segment.n * len(chosen)
        self._report(state, segment, chosen, errors)

    def _batch(self, state: State, chosen: NDArray[np.intp]) -> Seeds:
        background = None if state.background is None else state.background[chosen]
        coherence = None if state.coherence is None else state.coherence[chosen]
        return Seeds(state.x[chosen], state.support[chosen], background, coherence)

    def _iterate(self, batch: Seeds, algorithm: str, n: int, **options: float) -> NDArray:
        """Iterate with the constraints on the object; return R factors."""
        there = batch if self.backend is None else gpu.copied_to(self.backend, batch)
        errors = iterate(
            self.measured,
            there,
            algorithm,
            n,
            positive=self.config.positive,
            phase_bounds=self._phase_bounds,
            histogram=self.histogram,
            threads=self.threads,
            **options,
        )
        if self.backend is None:
            return errors
        batch.x = self.backend.to_host(there.x)
        if batch.background is not None:
            batch.background = self.backend.to_host(there.background)
        return self.backend.to_host(errors)

    @property
    def _phase_bounds(self) -> tuple[float, float] | None:
        most = self.config.max_phase
        return (-most, most) if most else None

    def _begin(self, state: State, s: int) -> None:
        """Give a seed random phases and its first support."""
        config, shape = self.config, self.pattern.shape
        rng = _generator(config, s, _START)
        noise = rng.standard_normal(shape)
        if not self.pattern.real:
            noise = noise + 1j * rng.standard_normal(shape)
        phases = np.fft.fftn(noise)
        phases /= np.maximum(np.abs(phases), 1e-300)
        amplitude = np.sqrt(np.where(self.pattern.used, self.pattern.intensity, 0.0))
        x = np.fft.ifftn(amplitude * phases)
        state.x[s] = x.real if self.pattern.real else x
        if self.bound is not None:
            state.support[s] = self.bound
        else:
            threshold = state.start_threshold[s : s + 1]
            state.support[s] = autocorrelation_support(self._intensity, threshold)[0]
        if state.background is not None:
            state.background[s] = first_background(self.pattern)
        if state.coherence is not None:
            state.coherence[s] = first_kernel(shape)
        state.r_factor[s] = state.fraction[s] = np.nan

    def _change_support(
        self, state: State, chosen: NDArray[np.intp], batch: Seeds, sigma: float
    ) -> None:
        """Shrink-wrap; seeds whose support collapsed or exploded start again or give up.

        A histogram is of what is inside of a support: it does not enter here.
        """
        config = self.config
        everywhere = np.ones((1, *self.pattern.shape), bool)
        whole = replace(batch, support=everywhere)
        objects = estimate(
            self.measured, whole, positive=config.positive, phase_bounds=self._phase_bounds,
            threads=self.threads,
        )  # fmt: skip
        state.support[chosen] = shrink_wrap(
            np.abs(objects), batch.support, config.support, state.threshold[chosen],
            sigma=sigma, bound=self.bound, threads=self.threads,
        )  # fmt: skip
        for s in chosen:
            fraction = state.support[s].mean()
            if config.min_fraction <= fraction <= config.max_fraction:
                continue
            state.threshold[s] *= 1 / STEP if fraction < config.min_fraction else STEP
            state.restarts[s] += 1
            state.segment[s] = 0 if state.restarts[s] <= MOST_RESTARTS else -1

    def _save(self, state: State) -> None:
        now = time.monotonic()
        if self.path is None or now - self._saved < max(SAVE_SECONDS, SAVE_PAUSE * self._save_took):
            return
        state.save(self.path, self.key)
        self._saved = time.monotonic()
        self._save_took = self._saved - now

    def _report(
        self, state: State, segment: Segment, chosen: NDArray[np.intp], errors: NDArray
    ) -> None:
        if self.on_progress is None:
            return
        lengths = np.cumsum([0, *(s.n for s in self.segments)])
        running = state.segment[state.segment >= 0]
        total = int(lengths[-1]) * len(running)
        done = int(lengths[running].sum())
        seconds = time.monotonic() - self._began
        self.on_progress(
            Progress(
                "detwin" if segment.halved else segment.algorithm,
                done,
                total,
                int((running == len(self.segments)).sum()),
                len(state.segment),
                float(np.median(errors[:, -1])),
                float(state.support[chosen].mean()),
                seconds,
                self._iterations / max(seconds, 1e-9),
            )
        )

    def discard(self) -> None:
        """Remove the saved state."""
        if self.path is not None and os.path.isfile(self.path):
            os.unlink(self.path)


def first_background(pattern: Pattern) -> NDArray[np.float32]:
    """Return the amplitude of a background to start with, float32 [*shape].

    Its intensity is half of the lowest tenth of each shell: more than that it cannot be.
    """
    shell = frequencies.shells(pattern.shape)
    used = pattern.used
    order = np.lexsort((pattern.intensity[used], shell[used]))
    values, of = pattern.intensity[used][order], shell[used][order]
    n = int(shell.max()) + 1
    count = np.bincount(of, minlength=n)
    first = np.cumsum(count) - count
    seen = np.flatnonzero(count)
    low = values[first[seen] + (count[seen] // 10)]
    level = np.interp(np.arange(n), seen, low)
    return np.sqrt(0.5 * level)[shell].astype(np.float32)


def _generator(config: Config, s: int, stream: int) -> np.random.Generator:
    """Return the random numbers of one purpose of seed s, whatever the number of seeds."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(1, s, stream)))

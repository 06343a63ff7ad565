"""2D classification: frames that look alike but for their in-plane angle, averaged."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._dispatch import CpuBackend, CudaBackend, backend_on, n_threads
from ..detector import Detector
from ..errors import InputError
from ..frames import Frames
from .classes import Classes
from .classify_config import ClassifyConfig
from .polar.cartesian import CartesianGrid
from .polar.class_engine import Assignment, ClassEngine, ClassSettings, Survey
from .polar.layout import ANGLES, PolarLayout
from .polar.orders import AngularOrders
from .reconstruct import Iteration, OnIteration, OnProgress
from .schedule import auto_beta
from .survey import used_frames

SETTLED = 0.06
"""Relative change of the averages below which beta rises. Half of it took a third more
iterations, for more likelihood but no better purity: with few frames in a class that is noise."""

LONGEST_HOLD = 4
"""Iterations after which beta rises all the same."""

HISTORY = (
    "run",
    "iteration",
    "beta",
    "change",
    "log_likelihood",
    "mutual_information",
    "seconds",
)


def classify2d(
    frames: Frames,
    detector: Detector,
    config: ClassifyConfig | None = None,
    *,
    out: str | os.PathLike | None = None,
    blacklist: NDArray | None = None,
    threads: int | None = None,
    device: str = "cpu",
    on_iteration: OnIteration | None = None,
    on_progress: OnProgress | None = None,
) -> Classes:
    """Sort frames into classes that look alike but for an in-plane rotation, and average them.

    Parameters
    ----------
    frames : Frames
        Photon counts, streamed from disk once per iteration.
    detector : Detector
        Must have as many pixels as the frames.
    config : ClassifyConfig, optional
    out : path, optional
        HDF5 file written at the end, whole or not at all.
    blacklist : bool [D], optional
        True drops a frame. Frames without photons in the pixels that orient are dropped too.
    threads : int, optional
        Default: all cores. Results do not depend on it.
    device : {"cpu", "cuda"}
        "cuda": iterations run on the current GPU, on arrays of torch or CuPy.
    on_iteration, on_progress : callable, optional
        Called after each iteration with an `Iteration`, and during it with a stage name and
        the fraction done.

    Returns
    -------
    Classes

    Raises
    ------
    InputError
        Frames, detector or options do not fit together.
    CudaError
        The device is "cuda", and there is no GPU or no library for its arrays.

    Notes
    -----
    Expectation maximisation over class and angle, annealed; all classes have the same prior.
    Cost of an iteration: frames x classes x 4 flops per angular coefficient, and a transform
    over the angles. Memory: the averages of a run, all pictures of the result, and
    `config.block_memory_mb`, whatever the number of frames; on a GPU a quarter of its memory, up
    to 4 GiB.
    Source: the maximisation of Loh & Elser, Phys. Rev. E 80, 026705 (2009), with class averages
    instead of a volume; bootstrap runs as in Zhuang et al., IUCrJ 9, 204 (2022).
    """
    config = ClassifyConfig() if config is None else config
    job = _Job(frames, detector, config, blacklist, n_threads(threads), backend_on(device))
    runs = [job.run(r, on_iteration, on_progress) for r in range(config.n_runs)]
    result = job.collected(runs)
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        result.save(out)
    return result


def default_angles(radius: float) -> int:
    """Return half as many in-plane angles as a ring of this radius (voxels) has pixels."""
    return next((a for a in ANGLES if a >= np.pi * radius), ANGLES[-1])


@dataclass
class _Run:
    """What one run leaves behind."""

    frames: NDArray[np.int64]
    averages: NDArray[np.float32]  # [K, n_rings, A]
    exposure: NDArray[np.float64]
    occupancy: NDArray[np.float64]
    found: Assignment
    history: list[Iteration]


class _Job:
    """What all runs share."""

    def __init__(
        self,
        frames: Frames,
        detector: Detector,
        config: ClassifyConfig,
        blacklist: NDArray | None,
        threads: int,
        backend: CpuBackend | CudaBackend,
    ) -> None:
        if frames.n_pixels != detector.n_pixels:
            raise InputError(
                f"frames have {frames.n_pixels} pixels but the detector has {detector.n_pixels}"
            )
        if frames.kind == "dense":
            raise InputError("2D classification needs photon counts, the frames hold real values")
        self.frames, self.detector, self.config = frames, detector, config
        self.threads, self.backend = threads, backend
        self.layout = _layout(detector, config)
        used = used_frames(frames.n_frames, blacklist, "all")
        survey = Survey.of(self._select(used), self.layout, threads)
        lit = survey.n_photons > 0
        if not lit.any():
            raise InputError("frames hold no photons in the pixels that orient (mask 0)")
        self.used = used[lit]
        self.survey = replace(survey, n_photons=survey.n_photons[lit])

    def _select(self, chosen: NDArray[np.int64]) -> Frames:
        everything = len(chosen) == self.frames.n_frames
        return self.frames if everything else self.frames.select(chosen)

    def run(
        self, number: int, on_iteration: OnIteration | None, on_progress: OnProgress | None
    ) -> _Run:
        """Classify the frames of one run from a random start."""
        config = self.config
        rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(number,)))
        chosen = np.arange(len(self.used))
        if config.bootstrap:
            n = max(1, round(config.bootstrap_share * len(chosen)))
            chosen = np.sort(rng.choice(chosen, n, replace=False))
        engine = self._engine(chosen)
        averages = engine.start(rng)
        schedule = _Schedule(config, engine.n_photons)
        history: list[Iteration] = []
        while not schedule.converged and len(history) < config.iterations:
            began = time.perf_counter()
            engine.timer.seconds.clear()
            new, exposure, found = engine.iterate(averages, schedule.beta, on_progress)
            done = Iteration(
                iteration=len(history) + 1,
                stage=f"run {number + 1}",
                beta=float(schedule.beta.mean()),
                change=self._change(averages, new),
                log_likelihood=float(found.log_likelihood.mean()),
                mutual_information=float(found.mutual_information.mean()),
                n_orientations=engine.n_orientations,
                radius=config.radius,
                seconds=time.perf_counter() - began,
                stages=dict(engine.timer.seconds),
            )
            averages = new
            history.append(done)
            schedule.advance(done.change)
            if on_iteration:
                on_iteration(done)
        found, occupancy = engine.assign(averages, on_progress)
        return _Run(self.used[chosen], averages, exposure, occupancy, found, history)

    def _engine(self, chosen: NDArray[np.int64]) -> ClassEngine:
        config, layout = self.config, self.layout
        settings = ClassSettings(
            n_classes=config.n_classes,
            rotate=config.rotate,
            fluence=config.fluence,
            prior=config.prior,
            block_bytes=self.backend.block_bytes(config.block_memory_mb << 20),
            threads=self.threads,
            backend=self.backend,
        )
        # All orders: the logarithms of averages of few frames have no band limit, and without
        # one the likelihood rises in every iteration.
        limits = np.full(layout.n_radii, layout.n_angles // 2)
        return ClassEngine(
            self._select(self.used[chosen]),
            layout,
            AngularOrders.from_limits(layout.n_angles, limits),
            replace(self.survey, n_photons=self.survey.n_photons[chosen]),
            settings,
        )

    def _change(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> float:
        """Relative change of the averages: per ring, then averaged with the rings' photons."""
        n = self.layout.n_radii
        photons = self.survey.profile[:n] * self.layout.exposure[0, :n].sum(axis=1)
        power = np.square(old[:, :n]).sum(axis=(0, 2), dtype=np.float64)
        moved = np.square(new[:, :n] - old[:, :n]).sum(axis=(0, 2), dtype=np.float64)
        return float(np.sqrt(photons @ (moved / power) / photons.sum()))

    def collected(self, runs: list[_Run]) -> Classes:
        """Put the runs together, over all frames."""
        layout, n_frames = self.layout, self.frames.n_frames
        order = np.argsort(layout.radius)
        grid = CartesianGrid(layout)
        polar = np.stack([np.where(r.exposure > 0, r.averages, np.nan) for r in runs])
        history = {
            name: np.array([getattr(done, name) for run in runs for done in run.history])
            for name in HISTORY[1:]
        }
        lengths = [len(run.history) for run in runs]
        best = [run.found.best for run in runs]
        turned = np.float32(2 * np.pi / layout.n_angles)

        def spread(values: list[NDArray], dtype: type, fill: float) -> NDArray:
            whole = np.full((len(runs), n_frames), fill, dtype)
            for row, run, value in zip(whole, runs, values, strict=True):
                row[run.frames] = value
            return whole

        return Classes(
            averages=np.stack([grid.draw(r.averages, r.exposure) for r in runs]),
            polar=np.ascontiguousarray(polar[:, :, order]),
            radius=layout.radius[order],
            occupancy=np.stack([r.occupancy for r in runs]),
            class_of=spread([b // layout.n_angles for b in best], np.int32, -1),
            angle=spread([b % layout.n_angles * turned for b in best], np.float32, np.nan),
            fluence=spread([r.found.fluence for r in runs], np.float32, np.nan),
            log_likelihood=spread([r.found.log_likelihood for r in runs], np.float64, np.nan),
            mutual_information=spread(
                [r.found.mutual_information for r in runs], np.float64, np.nan
            ),
            history={"run": np.repeat(np.arange(len(runs)), lengths), **history},
            voxel_size=self.detector.voxel_size,
            config=self.config.to_toml(),
        )


class _Schedule:
    """Raises beta when the averages have settled; a run has converged at beta = 1."""

    def __init__(self, config: ClassifyConfig, n_photons: NDArray[np.float64]) -> None:
        self.config = config
        start = auto_beta(n_photons)
        if config.beta != "auto":
            start = np.full(len(n_photons), float(config.beta))
        self._start, self._level, self._held = start, 1.0, 0
        self.converged = False

    @property
    def beta(self) -> NDArray[np.float32]:
        """Inverse temperature of each frame, at most 1."""
        return np.minimum(self._start * self._level, 1.0).astype(np.float32)

    def advance(self, change: float) -> None:
        """Decide what comes next, from the last iteration's change."""
        self._held += 1
        if float(self.beta.min()) == 1.0:
            self.converged = change < self.config.tolerance
        elif change < SETTLED or self._held >= LONGEST_HOLD:
            self._level *= self.config.beta_jump
            self._held = 0


def _layout(detector: Detector, config: ClassifyConfig) -> PolarLayout:
    radius = config.radius
    if not radius:
        q_abs = np.linalg.norm(detector.q_voxels[detector.mask < 2], axis=1)
        radius = float(q_abs.max())
    n_angles = config.n_angles or default_angles(radius)
    return PolarLayout(detector, config.radius, n_angles, config.ring_width)

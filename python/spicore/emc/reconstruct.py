"""The EMC loop: from frames to an intensity volume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import _core, metrics, orientations
from .._dispatch import CpuBackend, CudaBackend, backends_on, n_threads
from ..detector import Detector
from ..errors import InputError
from ..frames import Frames
from .config import Config
from .engine import FrameState, Grid, PixelEngine, Settings
from .layout import PixelLayout
from .model import (
    Model,
    change_between,
    checked_start,
    complete,
    extrapolated,
    low_passed,
    random_model,
)
from .polar.balance import Balance
from .polar.engine import PolarEngine, PolarGrid
from .polar.shared import SharedPolarEngine
from .polar.start import critical_beta, particle_extent, polar_layout
from .result import PER_FRAME, Result
from .schedule import MOMENTUM, Schedule, Stage, auto_beta, stages
from .seeds import AGREED, Trial, best_trial
from .smooth import LARGEST, smooth
from .survey import checked_background, checked_fluence, radial_profile, radius_holding, used_frames

COARSE_SHARE = 0.95
"""Share of the photons inside the radius of the coarse stage; with 0.85, sim_1bxr
ended 2 degrees worse."""

START_BETA = 2.5
"""Start of the polar engine over the critical inverse temperature."""

HELD_OUT = 1000
"""Frames that rank the seeds."""

HALF_ITERATIONS = 4
"""Grid iterations of each half set from the common, low-pass filtered model."""

HISTORY = (
    "iteration",
    "beta",
    "change",
    "log_likelihood",
    "mutual_information",
    "n_orientations",
    "n_frames",
    "radius",
    "imbalance",
    "seconds",
)


@dataclass(frozen=True)
class Iteration:
    """What one finished iteration reports; times in seconds."""

    iteration: int
    stage: str  # "grid", "refine", "even" or "odd"
    beta: float
    change: float
    log_likelihood: float
    mutual_information: float
    n_orientations: int
    radius: float
    seconds: float
    stages: dict[str, float]
    n_frames: int = 0
    imbalance: float = np.nan  # of the views, see Balance; polar engine alone


OnIteration = Callable[[Iteration], None]
OnProgress = Callable[[str, float], None]


def reconstruct(
    frames: Frames,
    detector: Detector,
    config: Config | None = None,
    *,
    out: str | os.PathLike | None = None,
    resume: bool = False,
    start_model: NDArray | None = None,
    start_fluence: NDArray | None = None,
    background: NDArray | None = None,
    blacklist: NDArray | None = None,
    threads: int | None = None,
    device: str = "cpu",
    on_iteration: OnIteration | None = None,
    on_progress: OnProgress | None = None,
) -> Result:
    """Reconstruct a 3D intensity from frames of unknown orientation.

    Parameters
    ----------
    frames : Frames
        Streamed from disk once per iteration.
    detector : Detector
        Must have as many pixels as the frames.
    config : Config, optional
    out : path, optional
        HDF5 file written after every iteration, whole or not at all.
    resume : bool
        Go on from `out`; the result is the same, bit for bit, as of a run never stopped, on a GPU
        but for rounding. The config must be the same too, but for `iterations`.
    start_model : float32 [N, N, N] or [M, N, N, N], optional
        Default: the radial mean of the frames times random numbers.
    start_fluence : float [D], optional
        Fluence of every frame; kept if `config.fluence` is off, else refined.
    background : float [n_pixels], optional
        Known background in photons per pixel; its scale is fitted per frame.
    blacklist : bool [D], optional
        True drops a frame.
    threads : int, optional
        Default: all cores. Results do not depend on it.
    device : {"cpu", "cuda", "cuda:all"}
        "cuda": iterations run on the current GPU, on arrays of torch or CuPy; Dragonfly's merge is
        refused. "cuda:all": all GPUs of this machine share the frames of the polar engine; the
        pixel engine and refinements take the first.
    on_iteration, on_progress : callable, optional
        Called after each iteration with an `Iteration`, and during it with a stage name and
        the fraction done.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        Frames, detector, start values or options do not fit together.
    CudaError
        The device is not "cpu", and there is no GPU or no library for its arrays.

    Notes
    -----
    Cost of an iteration: frames x orientations x lit pixels multiply-adds, and the pixels x
    orientations of the tomograms per block of frames. Memory: a few volumes and
    `config.block_memory_mb`, whatever the number of frames; on a GPU a quarter of its memory, up
    to 4 GiB.
    Source: Loh & Elser, Phys. Rev. E 80, 026705 (2009); merged photons are divided by merged
    exposures (the Poisson maximum-likelihood estimate).
    """
    run = _Run(
        frames,
        detector,
        config or Config(),
        start_fluence=start_fluence,
        background=background,
        blacklist=blacklist,
        threads=n_threads(threads),
        backends=backends_on(device),
        on_iteration=on_iteration,
        on_progress=on_progress,
    )
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    if resume:
        if out is None:
            raise InputError("resume needs `out`, the result file to go on from")
        run.load(Result.load(out))
    else:
        run.start(start_model)
    if out is not None and run.seeds:
        run.result().save(out)
    run.loop(out)
    run.measure_extent()
    if run.config.half_sets and run.config.selection == "all":
        run.half_sets()
    return run.finish(out)


class _Run:
    """One reconstruction: what is fixed, and what changes from iteration to iteration."""

    def __init__(
        self,
        frames: Frames,
        detector: Detector,
        config: Config,
        *,
        start_fluence: NDArray | None,
        background: NDArray | None,
        blacklist: NDArray | None,
        threads: int,
        backends: list[CpuBackend] | list[CudaBackend],
        on_iteration: OnIteration | None,
        on_progress: OnProgress | None,
    ) -> None:
        if frames.n_pixels != detector.n_pixels:
            raise InputError(
                f"frames have {frames.n_pixels} pixels but the detector has {detector.n_pixels}"
            )
        self.config, self.detector, self.threads = config, detector, threads
        self.backends = backends
        self.on_iteration, self.on_progress = on_iteration, on_progress
        self.used = used_frames(frames.n_frames, blacklist, config.selection)
        self.n_frames = frames.n_frames
        everything = len(self.used) == frames.n_frames
        self.frames = frames if everything else frames.select(self.used)
        self.group = orientations.point_group(config.symmetry)
        self.background = checked_background(background, detector)
        if self.background is not None and frames.kind == "dense":
            raise InputError("background cannot be used with frames of real values (EMC type 2)")
        # The polar engine cannot treat these; see Config.engine.
        pixel = self.background is not None or frames.kind == "dense"
        if pixel or config.n_nonrotating or config.merge == "dragonfly":
            config = replace(config, engine="pixel")
        self.plan = config
        self.size = config.size or detector.size
        self.fluence = checked_fluence(start_fluence, frames.n_frames)
        self.history: dict[str, list[float]] = {name: [] for name in HISTORY}
        self.half: dict[str, NDArray] = {}
        self.extent = 0.0  # radius of the particle in 1/voxels, once it is known
        self.seeds: dict[str, NDArray] = {}
        self.previous: Model | None = None
        self.terms_per_frame = 0.0
        self._survey()

    # -- before the first iteration ------------------------------------------------------

    def _survey(self) -> None:
        """Read all frames once: powder pattern, its radial profile, photons per frame."""
        layout = PixelLayout(self.detector, self.config.radius)
        if self.frames.kind == "dense":
            step = max(1, (16 << 20) // (4 * self.frames.n_pixels))
            powder = np.zeros(self.frames.n_pixels)
            for a in range(0, self.frames.n_frames, step):
                powder += self.frames.dense(a, min(a + step, self.frames.n_frames)).sum(
                    axis=0, dtype=np.float64
                )
            powder = np.maximum(powder, 0.0)
        else:
            powder = np.zeros(self.frames.n_pixels)
            for _, block in self.frames.blocks():
                powder += np.bincount(block.pixel, block.count, self.frames.n_pixels)
        self.mean_photons = powder[layout.pixel[: layout.n_orient]].sum() / len(self.used)
        if self.mean_photons <= 0:
            raise InputError("frames hold no photons in the pixels that orient (mask 0)")
        if self.config.beta == "auto" and self.plan.engine == "pixel":
            photons = self.frames.photons_per_frame
            share = self.mean_photons / max(float(np.mean(photons)), 1e-30)
            photons = (
                photons * share
                if self.config.fluence
                else np.full(len(self.used), self.mean_photons)
            )
            self.beta0 = auto_beta(photons)
        elif self.config.beta != "auto":
            self.beta0 = np.full(len(self.used), float(self.config.beta))
        powder_rows = powder[layout.pixel] / len(self.used)
        self.profile = radial_profile(layout, powder_rows, self.size)
        self.pattern = np.maximum(powder_rows / layout.exposure, 1e-12)
        self.coarse_radius = radius_holding(layout, powder_rows, COARSE_SHARE)
        self.stages = stages(
            self.plan,
            self.coarse_radius,
            float(layout.q_abs[: layout.n_orient].max()),
            len(self.used),
        )
        if self.config.beta == "auto" and self.plan.engine == "polar":
            beta = critical_beta(self.frames, self.detector, self.stages[0], self.threads)
            self.beta0 = np.full(len(self.used), min(START_BETA * beta, 1.0))

    def start(self, start_model: NDArray | None) -> None:
        """Make the model and the state of the first iteration."""
        config = self.config
        if start_model is not None:
            volumes = checked_start(
                start_model,
                self.size,
                config.n_modes,
                symmetrize=config.merge != "dragonfly",  # it takes a start model as it is
            )
            self._begin(config.seed, self.stages[-1:], volumes)
        elif self.plan.engine == "polar" and len(self.stages) > 2 and config.seeds > 1:
            self._try_seeds()
        else:
            self._begin(config.seed, self.stages)

    def _begin(self, seed: int, steps: list[Stage], volumes: NDArray | None = None) -> None:
        """Start from a random model, or from `volumes`."""
        config = self.config
        rng = np.random.default_rng(seed)
        self.model = random_model(
            self.size, config.n_modes, self.profile, self.pattern, config.n_nonrotating, rng
        )
        if volumes is not None:
            self.model.volumes = volumes
        elif config.merge == "dragonfly":  # it reads the whole volume
            complete(self.model.volumes)
        self.weight = np.zeros(self.model.volumes.shape, np.float32)
        self.patterns = np.full((config.n_nonrotating, self.detector.n_pixels), np.nan, np.float32)
        self.patterns[:, PixelLayout(self.detector, config.radius).pixel] = self.model.patterns
        self.state = FrameState.start(len(self.used))
        if self.fluence is not None:
            self.state.fluence = self.fluence[self.used] / self.fluence[self.used].mean()
        elif self.plan.engine == "polar" and config.fluence:
            photons = np.asarray(self.frames.photons_per_frame, np.float64)
            self.state.fluence = np.maximum(photons / photons.mean(), 1e-6).astype(np.float32)
        self.schedule = Schedule(self.plan, steps, self.beta0)
        self.balance = Balance(self.group)
        self.history = {name: [] for name in HISTORY}
        self._set_stage()
        factor = self.mean_photons / self.engine.mean_total(self.model, self.grid)
        # Half of a random model, which has no other yet; a start model may lack the symmetry.
        whole = volumes is not None or config.merge == "dragonfly"
        first = 0 if whole else self.size // 2
        self.model.volumes[:, first:] *= np.float32(factor)

    def _try_seeds(self) -> None:
        """Run the coarse stages from several random starts; go on with the best.

        Where none agrees with it the worst of them are heated to the start again, up to all:
        what froze into a wrong optimum forgets it.
        """
        n, middle = self.config.seeds, self.stages[1]
        trials = [self._trial(self.config.seed + k) for k in range(n)]
        best, self.seeds = best_trial(trials, middle.radius, self.threads)
        for k in np.argsort([t.evidence for t in trials]):
            if np.nanmax(self.seeds["agreement"]) > AGREED:
                break
            trials.append(self._trial(self.config.seed + int(k), trials[k].model.volumes))
            best, self.seeds = best_trial(trials, middle.radius, self.threads)
        self.seeds["seed"] = np.array([t.seed for t in trials])
        self.seeds["reheated"] = np.arange(len(trials)) >= n
        chosen = trials[best]
        self.model, self.weight, self.state = chosen.model, chosen.weight, chosen.state
        self.schedule, self.history = chosen.schedule, chosen.history
        self.balance = chosen.balance
        self.previous = None
        self._set_stage()

    def _trial(self, seed: int, volumes: NDArray | None = None) -> Trial:
        """Run the coarse stages from a random model, or from `volumes`, heated."""
        self._begin(seed, self.stages, None if volumes is None else complete(volumes.copy()))
        while self.schedule.stage < 2 and self._goes_on():
            self._advance()
        return Trial(
            seed,
            self.model,
            self.weight,
            self.state,
            self.schedule,
            self.balance,
            self.history,
            self._evidence(self.stages[1]),
        )

    def _evidence(self, stage: Stage) -> float:
        """Mean log-evidence per frame of the model on the grid of a stage, at beta = 1.

        On frames that the stage did not use, where it left some.
        """
        used = self._frames_of(stage)
        rest = np.setdiff1d(np.arange(len(self.used)), used)
        index = _spread(len(rest), HELD_OUT)
        index = rest[index] if len(rest) >= HELD_OUT else used[_spread(len(used), HELD_OUT)]
        engine, grid = self._polar(stage, index)
        return engine.evidence(self.model, grid, self.state.part(index))

    def load(self, result: Result) -> None:
        """Take up a run where its file left off."""
        if len(result.fluence) != self.n_frames:
            raise InputError(
                f"the result to resume holds {len(result.fluence)} frames, "
                f"the input {self.n_frames}"
            )
        made_with = Config.from_toml(result.config)
        if replace(made_with, iterations=self.config.iterations) != self.config:
            raise InputError("the result to resume was made with another config; see its attrs")
        volumes = result.intensity if result.merged is None else result.merged
        volumes = volumes.reshape(-1, *volumes.shape[-3:])
        if volumes.shape[1] != self.size:
            raise InputError(
                f"the result to resume has edge {volumes.shape[1]}, the detector asks {self.size}"
            )
        self.patterns = result.patterns
        self.model = Model(volumes, result.patterns, self.config.merge != "dragonfly")
        if result.previous is not None:
            self.previous = Model(result.previous.reshape(volumes.shape), result.patterns)
        self.seeds = result.seeds
        self.weight = result.weight.reshape(volumes.shape)
        self.state = FrameState(
            **{name: getattr(result, name)[self.used] for name in FrameState.__dataclass_fields__}
        )
        saved = dict(result.schedule)
        if result.seeds and saved["stage"] < 2:  # its limit of iterations cut the trials short
            self.start(None)
            return
        steps = self.stages[-int(saved.pop("n_stages")) :]
        self.balance = Balance(self.group, np.reshape(saved.pop("balance"), (3, 3)))
        kinds = Schedule.__dataclass_fields__
        saved = {k: v.item() for k, v in saved.items() if k in kinds}
        self.schedule = Schedule(self.plan, steps, self.beta0, **saved)
        self.history = {name: list(values) for name, values in result.history.items()}
        self._set_stage()
        if isinstance(self.engine, PolarEngine):
            self.engine.terms_per_frame = float(result.schedule["terms_per_frame"])

    def _set_stage(self) -> None:
        """Make the grid and the engine of the current stage."""
        stage = self.schedule.stages[self.schedule.stage]
        self.stage = stage
        self.index = self._frames_of(stage)
        self.shell_photons = self._shell_photons()
        if stage.n_pairs and not self.schedule.refining:
            self.engine, self.grid = self._polar(stage, self.index)
        else:
            if not stage.n_pairs:
                self.grid = self._pixel_grid(stage)
            self.engine = self._pixel(stage, self.index)
            rows = self.engine.layout.pixel
            self.model.patterns = np.ascontiguousarray(self.patterns[:, rows])
        _core.trim_memory()  # of reading and of the grid; what follows comes in large pieces

    def _frames_of(self, stage: Stage) -> NDArray[np.int64]:
        """Frames that a stage uses, of those used at all."""
        return _spread(len(self.used), stage.n_frames or len(self.used))

    def _select(self, index: NDArray[np.int64]) -> Frames:
        return self.frames if len(index) == len(self.used) else self.frames.select(index)

    def _pixel_grid(self, stage: Stage) -> Grid:
        quats, weights = orientations.grid600(stage.num_div)
        if len(self.group) > 1:
            index, weights = orientations.asymmetric_unit(quats, weights, self.config.symmetry)
            quats = quats[index]
        if self.config.merge == "dragonfly":
            # its order, and its rotations: its matrix is the transpose of ours
            order, quats = np.arange(len(quats)), orientations.conjugate(quats)
        else:
            order = orientations.sort_by_view(quats)
        return Grid(np.ascontiguousarray(quats[order]), weights[order])

    def _settings(self) -> Settings:
        config = self.config
        return Settings(
            fluence=config.fluence,
            dragonfly=config.merge == "dragonfly",
            prior=config.prior,
            gaussian_sigma=config.gaussian_sigma,
            block_bytes=min(b.block_bytes(config.block_memory_mb << 20) for b in self.backends),
            threads=self.threads,
            symmetry=self.group,
            background=self.background,
            backend=self.backends[0],
        )

    def _pixel(self, stage: Stage, index: NDArray[np.int64]) -> PixelEngine:
        layout = PixelLayout(self.detector, stage.radius)
        return PixelEngine(self._select(index), layout, self._settings())

    def _polar(self, stage: Stage, index: NDArray[np.int64]) -> tuple[PolarEngine, PolarGrid]:
        layout, orders = polar_layout(self.detector, stage)
        views, weights = orientations.view_pairs(stage.n_pairs, self.config.symmetry)
        arguments = self._select(index), layout, orders, self._settings()
        several = len(self.backends) > 1
        engine = (
            SharedPolarEngine(*arguments, self.backends) if several else PolarEngine(*arguments)
        )
        return engine, PolarGrid(views, weights, stage.n_angles)

    # -- iterations ----------------------------------------------------------------------

    def loop(self, out: str | os.PathLike | None) -> None:
        """Iterate until converged, or to the limit; save after each iteration."""
        while not self.schedule.converged and self._goes_on():
            self._advance(out)

    def _goes_on(self) -> bool:
        return len(self.history["iteration"]) < self.config.iterations

    def _advance(self, out: str | os.PathLike | None = None) -> None:
        """Do one iteration and decide what comes next."""
        schedule = self.schedule
        before = schedule.stage, schedule.refining
        done = self._step()
        if isinstance(self.engine, PolarEngine):  # how it cuts blocks goes on from it
            self.terms_per_frame = self.engine.terms_per_frame
        schedule.advance(done.change, done.mutual_information, done.n_orientations)
        if (schedule.stage, schedule.refining) != before:
            self.previous = None  # its momentum belongs to another grid
            self.terms_per_frame = 0.0
        if out is not None:
            self.result().save(out)
        if self.on_iteration:
            self.on_iteration(done)
        if (schedule.stage, schedule.refining) != before:
            self._set_stage()

    def _step(self) -> Iteration:
        start = time.perf_counter()
        engine, schedule = self.engine, self.schedule
        engine.timer.seconds.clear()
        self.weight = np.empty(0, np.float32)  # its memory is needed more than its values
        everything = len(self.index) == len(self.used)
        state = self.state if everything else self.state.part(self.index)
        if schedule.refining:
            old = self.model
            local = refinement_grid(self.stage.spacing, schedule.refined)
            n_orientations = len(local)
            self.model, self.weight = engine.refine(
                old, local, state, self.profile, self.on_progress
            )
        else:
            n_orientations = self.grid.n_orientations
            old = self._iterate(state)
        if not everything:
            self.state.update(self.index, state)
        seconds = time.perf_counter() - start
        done = Iteration(
            len(self.history["iteration"]) + 1,
            "refine" if schedule.refining else "grid",
            float(schedule.beta.mean()),
            self._change(old, self.model),
            float(state.log_likelihood.mean()),
            float(state.mutual_information.mean()),
            n_orientations,
            self.stage.radius,
            seconds,
            dict(engine.timer.seconds),
            len(self.index),
            self.balance.imbalance if isinstance(engine, PolarEngine) else np.nan,
        )
        if len(self.patterns):
            self.patterns[:, engine.layout.pixel] = self.model.patterns
        for name in HISTORY:
            self.history[name].append(getattr(done, name))
        return done

    def _iterate(self, state: FrameState) -> Model:
        """One iteration over the grid; return the model it started from."""
        engine, beta = self.engine, self.schedule.beta[self.index]
        polar, old, factor = self.plan.engine == "polar", self.model, 1.0
        if polar and self.schedule.hot:
            if self.previous is not None:
                old = extrapolated(self.model, self.previous, MOMENTUM)
            self.previous = self.model
        else:
            self.previous = None
        if self.config.merge == "dragonfly":
            factor = self.mean_photons / engine.mean_total(old, self.grid)
            if not self.config.fluence:  # it matches the mean photons in every iteration
                old.volumes *= np.float32(factor)
        balanced = polar and self.config.uniform and self.schedule.hot
        grid = self.grid
        if balanced:
            weights = self.balance.weights(grid.views, float(beta.mean()))
            grid = replace(grid, weights=weights)
        self.model, self.weight = engine.iterate(
            old, grid, state, beta, self.profile, self.on_progress
        )
        if polar:
            self.balance.measure(grid.views, engine.occupancy)
        if balanced:
            self.balance.correct(float(beta.mean()), len(beta))
            # Information is counted from uniform orientations; the mean of the difference will do.
            logs = np.log(weights * len(weights))
            state.mutual_information += engine.occupancy @ logs / engine.occupancy.sum()
        if self.config.merge == "dragonfly" and self.config.fluence:
            self.model.scale(1.0 / factor)  # its fluences carry the factor instead
        return old

    def _change(self, old: Model, new: Model) -> float:
        return change_between(old, new, self.shell_photons)

    def _shell_photons(self) -> NDArray[np.float64]:
        """Share of the photons at each integer radius of the present stage."""
        layout = PixelLayout(self.detector, self.stage.radius)
        rows = slice(0, layout.n_orient)
        index = np.rint(layout.q_abs[rows]).astype(np.int64)
        photons = self.profile[index] * layout.exposure[rows]
        return np.bincount(index, photons) / photons.sum()

    def measure_extent(self) -> None:
        """Tell the size of the particle, if the result is to be smoothed."""
        if not self.config.smooth or self.frames.kind == "dense" or self.plan.merge == "dragonfly":
            return
        extent = particle_extent(self.frames, self.detector, self.config.radius, self.threads)
        self.extent = min(extent, LARGEST)

    def finish(self, out: str | os.PathLike | None) -> Result:
        """Smooth the volumes, keep what was merged, and save."""
        result = self.result()
        if self.extent > 0.0:
            result.merged = result.intensity
            result.intensity = self._smoothed(result.merged, result.weight)
        if out is not None:
            result.save(out)
        return result

    def _smoothed(self, volumes: NDArray[np.float32], weight: NDArray) -> NDArray[np.float32]:
        """Smooth a volume or modes; one without a frame stays as it is."""
        if self.extent == 0.0 or not weight.any():
            return volumes
        if volumes.ndim == 4:
            return np.stack([self._smoothed(*v) for v in zip(volumes, weight, strict=True)])
        return smooth(volumes, weight, self.extent, threads=self.threads)

    def half_sets(self) -> None:
        """Refine even and odd frames independently from the model's coarse part.

        Beyond the coarse radius each half starts from the radial mean, so what the two share
        there comes from their frames, not from the common start.
        """
        if len(self.used) < 4:
            return
        common = low_passed(self.model, self.profile, self.coarse_radius)
        volumes = {}
        for name, offset in (("even", 0), ("odd", 1)):
            index = np.arange(offset, len(self.used), 2)
            volumes[name] = self._half(name, index, common)
        radius, cc = metrics.shell_cc(volumes["even"][0], volumes["odd"][0])
        self.half = {
            "even": np.squeeze(volumes["even"], 0) if len(common.volumes) == 1 else volumes["even"],
            "odd": np.squeeze(volumes["odd"], 0) if len(common.volumes) == 1 else volumes["odd"],
            "radius": radius,
            "shell_cc": cc,
            "start_radius": np.float64(self.coarse_radius),
        }

    def _half(self, name: str, index: NDArray[np.int64], common: Model) -> NDArray[np.float32]:
        stage = self.stage
        refiner = self._pixel(stage, index)
        engine, grid = self._polar(stage, index) if stage.n_pairs else (refiner, self.grid)
        state = self.state.part(index)
        model = Model(common.volumes.copy(), common.patterns.copy())
        beta = np.ones(len(index), np.float32)
        for k in range(HALF_ITERATIONS + self.schedule.refined):
            start = time.perf_counter()
            old = model
            if k < HALF_ITERATIONS:
                n_orientations = grid.n_orientations
                model, weight = engine.iterate(
                    old, grid, state, beta, self.profile, self.on_progress
                )
            else:
                local = refinement_grid(stage.spacing, k - HALF_ITERATIONS)
                n_orientations = len(local)
                model, weight = refiner.refine(old, local, state, self.profile, self.on_progress)
            if self.on_iteration:
                seconds = time.perf_counter() - start
                self.on_iteration(
                    Iteration(
                        iteration=k + 1,
                        stage=name,
                        beta=1.0,
                        change=self._change(old, model),
                        log_likelihood=float(state.log_likelihood.mean()),
                        mutual_information=float(state.mutual_information.mean()),
                        n_orientations=n_orientations,
                        radius=self.stage.radius,
                        seconds=seconds,
                        stages={},
                        n_frames=len(index),
                    )
                )
        if model.centrosymmetric:
            complete(model.volumes)
            complete(weight)
        return self._smoothed(model.volumes, weight)

    def result(self) -> Result:
        """Return the present state as a `Result`."""
        volumes, weight = self.model.volumes, self.weight
        if self.model.centrosymmetric and self.history["iteration"]:
            complete(volumes)
            complete(weight)
        single = len(volumes) == 1
        schedule = {
            name: getattr(self.schedule, name)
            for name in ("stage", "level", "held", "refined", "refining", "converged")
        }
        return Result(
            intensity=volumes[0] if single else volumes,
            weight=weight[0] if single else weight,
            **{name: self._all_frames(name) for name in PER_FRAME},
            history={name: np.array(values) for name, values in self.history.items()},
            half_sets=self.half,
            seeds=self.seeds,
            previous=None if self.previous is None else self._whole(self.previous.volumes),
            patterns=self.patterns,
            voxel_size=self.detector.voxel_size,
            config=self.config.to_toml(),
            schedule={
                **schedule,
                "n_stages": len(self.schedule.stages),
                "engine": self.plan.engine,
                "balance": self.balance.tensor.ravel(),
                "terms_per_frame": self.terms_per_frame,
                "spacing": self.stage.spacing,
            },
        )

    @staticmethod
    def _whole(volumes: NDArray[np.float32]) -> NDArray[np.float32]:
        complete(volumes)
        return volumes[0] if len(volumes) == 1 else volumes

    def _all_frames(self, name: str) -> NDArray:
        """Spread a per-frame array over all frames; NaN or -1 for those not used."""
        values = getattr(self.state, name)
        fill = np.nan if values.dtype.kind == "f" else -1
        result = np.full((self.n_frames, *values.shape[1:]), fill, values.dtype)
        result[self.used] = values
        return result


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` numbers below n, evenly spread."""
    if most >= n:
        return np.arange(n)
    return np.linspace(0, n - 1, most).astype(np.int64)


def refinement_grid(spacing: float, done: int) -> NDArray[np.float64]:
    """Rotations of the `done`-th refinement: a ball that halves each time.

    The first reaches half the grid spacing, where the next grid point takes over.
    """
    radius = 0.5 * spacing / 2**done
    return orientations.local_grid(radius, radius / 2)

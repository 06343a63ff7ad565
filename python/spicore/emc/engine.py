"""The pixel engine: one EMC iteration over all frames, exact pixels, any rotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._dispatch import CPU
from ..errors import InputError
from ..ewald import symmetric_copies
from ..frames import Frames
from . import kernels
from .kernels import LANES, LOG_FACTORIAL, Photons, Posterior, indices
from .layout import PixelLayout
from .merge import Merger
from .model import (
    Accumulator,
    Model,
    estimate,
    estimate_as_dragonfly,
    interpolated,
    stacked,
)
from .polar.blocks import entry_bytes, read_ahead
from .refine import Refinement
from .score import Scores
from .state import Block, Buffers, FrameState, Grid, Settings, Timer

DENSE_ABOVE = 0.3
"""Fraction of lit pixels from which dense products beat sparse ones (bench_maximize)."""

CUT = 14.0
"""Posterior terms this many nats below the largest are dropped."""

DRAGONFLY_THREADS = 2
"""That program cuts below the largest term of each of its threads, which take rotations in
turn; so which rotations it merges depends on their number. The parity data used two."""

SHARING = 1024
"""Frames of a block, on the CPU, between which the making of tomograms is shared even if their
photons take more than `block_bytes`."""

TILE_ON_GPU = 1 << 30
"""Bytes of a tile's tomograms, not more than of a block of frames."""

PANELS_ON_GPU = 256
"""Of a tile: `expand` has a block of threads for each, two on a multiprocessor."""

Progress = Callable[[str, float], None]


class OnDevice(NamedTuple):
    """What never changes, where the kernels need it."""

    q: Any
    q_orient: Any
    exposure: Any
    background: Any
    log_factorial: Any


class PixelEngine:
    """One EMC iteration: expand, maximize and compress, in blocks of frames.

    Parameters
    ----------
    frames : Frames
        Streamed once per iteration.
    layout : PixelLayout
    settings : Settings

    Notes
    -----
    Memory: the model, one block of frames x orientations (`block_bytes`) and one tile of
    tomograms. Tomograms are made again for each block of frames, which costs little once a
    block holds a thousand frames.

    On a GPU (`Settings.backend`) frames are sorted, oriented and merged there, while a thread reads
    the next block and sends it there; the model is updated on the host. The timer then counts what
    the host waits for.

    Raises
    ------
    InputError
        Dragonfly's merge on a GPU.
    """

    def __init__(self, frames: Frames, layout: PixelLayout, settings: Settings) -> None:
        self.frames, self.layout, self.settings = frames, layout, settings
        self.backend = settings.backend
        if settings.dragonfly and self.backend is not CPU:
            raise InputError('merge = "dragonfly" runs on the CPU only: use device "cpu"')
        self.timer = Timer()
        self.buffers = Buffers(self.backend)
        self.gaussian = frames.kind == "dense"
        self.dense = self.gaussian or (
            settings.background is None
            and self.backend is CPU  # where it was measured
            and self._lit_fraction() > DENSE_ABOVE
        )
        if settings.background is None:
            self.background = None
        else:
            self.background = settings.background[layout.pixel].astype(np.float32)
        self.on_device = self._on_device()

    def _on_device(self) -> OnDevice:
        layout, to_device = self.layout, self.backend.to_device
        return OnDevice(
            to_device(layout.q),
            to_device(np.ascontiguousarray(layout.q[:, : layout.n_orient])),
            to_device(layout.exposure),
            None if self.background is None else to_device(self.background),
            to_device(LOG_FACTORIAL),
        )

    def _lit_fraction(self) -> float:
        sample = self.layout.photons(
            self.frames.read(0, min(64, self.frames.n_frames)), self.settings.threads
        )
        return len(sample.row) / (len(sample.orient_end) * self.layout.n_rows)

    # -- frames -----------------------------------------------------------------------

    def _frames_per_block(self, n_columns: int) -> int:
        """Frames whose scores fill `block_bytes`, and whose photons do not exceed it."""
        row = 4 * max(n_columns, self.layout.n_rows if self.dense else 0)
        n = self.settings.block_bytes // row
        if not self.gaussian:
            fitting = int(self.settings.block_bytes / max(entry_bytes(self.frames), 1.0))
            n = min(n, max(fitting, SHARING if self.backend is CPU else 0))
        return int(np.clip(n, 64, self.frames.n_frames + 63))

    def _blocks(self, n_columns: int, log_reference: NDArray[np.float64]) -> Iterator[Block]:
        if self.gaussian:
            yield from self._gaussian_blocks(n_columns)
            return
        blocks = self.frames.blocks(self._frames_per_block(n_columns))
        blocks = read_ahead(blocks, self.backend)
        reference = self.backend.to_device(_padded(log_reference, self.layout.n_rows))
        row_of = self.backend.to_device(self.layout.row_of)
        while True:
            with self.timer("read"):
                start, sparse = next(blocks, (0, None))
                if sparse is None:
                    return
                photons = self.layout.photons(sparse, self.settings.threads, row_of)
                block = self._sparse_block(start, photons, reference)
            yield block

    def _sparse_block(self, start: int, photons: Photons, log_reference: Any) -> Block:
        row, count = (indices(self.backend, x) for x in (photons.row, photons.count))
        terms = log_reference[row] * count - self.on_device.log_factorial[count]
        values = photons.to_dense(self.layout.n_rows) if self.dense else photons
        n_photons, constant = (
            self.backend.to_host(photons.per_frame(x)) for x in (photons.count, terms)
        )
        return Block(start, start + len(n_photons), values, n_photons, constant)

    def _gaussian_blocks(self, n_columns: int) -> Iterator[Block]:
        step = self._frames_per_block(n_columns)
        for start in range(0, self.frames.n_frames, step):
            stop = min(start + step, self.frames.n_frames)
            with self.timer("read"):
                values = np.ascontiguousarray(self.frames.dense(start, stop)[:, self.layout.pixel])
                oriented = values[:, : self.layout.n_orient].astype(np.float64)
                constant = -0.5 * (oriented**2).sum(axis=1) / self.settings.gaussian_sigma**2
            yield Block(start, stop, self.backend.to_device(values), oriented.sum(axis=1), constant)

    def expand(
        self,
        volume: Any,
        quats: NDArray[np.float64],
        q: Any,
        reference: Any,
        buffers: Buffers,
        threads: int,
    ) -> tuple[Any, Any]:
        """Tomograms of a tile on the first rows, as many as `q` has, in scratch memory."""
        n_rows = q.shape[1]
        return kernels.expand(
            volume,
            self.backend.to_device(quats),
            q,
            self.on_device.exposure[:n_rows],
            reference,
            friedel=not self.settings.dragonfly,
            out=buffers("panels", -(-len(quats) // LANES), n_rows, LANES),
            threads=threads,
        )

    def mean_total(self, model: Model, grid: Grid) -> float:
        """Photons on the rows that orient, averaged over the grid and the rotating modes."""
        q, threads = self.on_device.q_orient, self.settings.threads
        mean = 0.0
        for volume in self.backend.to_device(model.volumes):
            for tile in self._tiles(grid):
                _, total = self.expand(volume, grid.quats[tile], q, None, self.buffers, threads)
                mean += float(grid.weights[tile] @ self.backend.to_host(total))
        return mean / len(model.volumes)

    # -- one iteration ----------------------------------------------------------------

    def iterate(
        self,
        model: Model,
        grid: Grid,
        state: FrameState,
        beta: NDArray[np.float32],
        prior_profile: NDArray[np.float64],
        progress: Progress | None = None,
    ) -> tuple[Model, NDArray[np.float32]]:
        """Return the next model and its weights [M, N, N, N]; update `state` in place.

        Parameters
        ----------
        beta : float32 [N]
            Inverse temperature of each frame.
        prior_profile : float64
            Radial mean of the intensity at integer radii, for voxels nobody saw.
        """
        n_modes, n_patterns = len(model.volumes), len(model.patterns)
        n_rotations = len(grid.quats)
        n_columns = n_modes * n_rotations + n_patterns
        log_reference = self._log_reference(model)
        log_prior = self._log_prior(grid, n_modes, n_patterns)
        accumulators = [Accumulator(model.size, self.backend) for _ in range(n_modes)]
        pattern_sums = np.zeros((2, n_patterns, self.layout.n_rows))
        n_frames = self.frames.n_frames
        there = replace(model, volumes=self.backend.to_device(model.volumes))
        for block in self._blocks(n_columns, log_reference):
            span = slice(block.start, block.stop)
            if progress:
                progress("orient", block.start / n_frames)
            probability, total, result = self._orient(
                block, there, grid, state, beta[span], log_reference, log_prior
            )
            old_fluence = state.fluence[span].copy()
            self._update_state(block, grid, state, result, old_fluence, n_modes)
            self.buffers.release("panels")
            if progress:
                progress("merge", block.start / n_frames)
            self._merge(
                block,
                there,
                grid,
                state,
                probability,
                total,
                old_fluence,
                accumulators,
                pattern_sums,
            )
            del block, probability  # the largest arrays, before volumes are made
        self.buffers.release()
        with self.timer("update"):
            return self._new_model(accumulators, pattern_sums, prior_profile, state, model)

    def _log_reference(self, model: Model) -> NDArray[np.float64]:
        """Log of the radial mean of the model on the rows that orient."""
        rows = slice(0, self.layout.n_orient)
        radial = model.radial_mean_at(self.layout.q_abs[rows])
        return np.log(np.maximum(radial * self.layout.exposure[rows], 1e-30))

    def _log_prior(self, grid: Grid, n_modes: int, n_patterns: int) -> NDArray[np.float32]:
        """Equal weight for every mode; within a rotating mode that of the grid."""
        share = 1.0 / (n_modes + n_patterns)
        weights = np.concatenate(
            [np.tile(grid.weights * share, n_modes), np.full(n_patterns, share)]
        )
        return np.log(weights).astype(np.float32)

    def tile_size(self) -> int:
        """Orientations of a tile."""
        if self.backend is CPU:
            return self.layout.tile_size()
        return self.layout.tile_size(min(TILE_ON_GPU, self.settings.block_bytes), PANELS_ON_GPU)

    def _tiles(self, grid: Grid) -> Iterator[slice]:
        step = self.tile_size()
        for first in range(0, len(grid.quats), step):
            yield slice(first, min(first + step, len(grid.quats)))

    def _orient(
        self,
        block: Block,
        model: Model,
        grid: Grid,
        state: FrameState,
        beta: NDArray[np.float32],
        log_reference: NDArray[np.float64],
        log_prior: NDArray[np.float32],
    ) -> tuple[Any, Any, Posterior]:
        """E-step of one block: P [D, C], photons expected [C], and what P says of each frame."""
        n_frames, n_rotations = block.stop - block.start, len(grid.quats)
        ll = self.buffers("ll", n_frames, len(log_prior))
        total = self.backend.empty(len(log_prior), np.float64)
        span = slice(block.start, block.stop)
        scores = Scores(self, block, state, log_reference, self.buffers, self.settings.threads)
        for mode, volume in enumerate(model.volumes):
            for tile in self._tiles(grid):
                first = mode * n_rotations + tile.start
                n = tile.stop - tile.start
                with self.timer("expand"):
                    panels, sums = scores.expand(volume, grid.quats[tile])
                with self.timer("maximize"):
                    total[first : first + n] = scores.maximize(panels, sums, ll, first)
        if len(model.patterns):
            panels, sums = scores.pattern_panels(model.patterns)
            total[len(model.volumes) * n_rotations :] = scores.maximize(
                panels, sums, ll, len(model.volumes) * n_rotations
            )
        dragonfly = self.settings.dragonfly
        with self.timer("posterior"):
            result = kernels.posterior(
                ll,
                self.backend.to_device(beta),
                self.backend.to_device(log_prior),
                total,
                prior_power=beta if dragonfly else None,
                cut=3 * CUT if dragonfly else CUT,
                threads=self.settings.threads,
            )
            if dragonfly:
                _prune_as_dragonfly(ll)
            result = Posterior(*map(self.backend.to_host, result))
        constant = scores.constant(block, state.fluence[span])
        return ll, total, result._replace(expected_ll=result.expected_ll + constant)

    def _update_state(
        self,
        block: Block,
        grid: Grid,
        state: FrameState,
        result: Posterior,
        fluence: NDArray[np.float32],
        n_modes: int,
    ) -> None:
        span = slice(block.start, block.stop)
        n_rotations = len(grid.quats)
        rotating = result.best < n_modes * n_rotations
        best = np.where(rotating, result.best, 0)
        state.orientation[span] = np.where(
            rotating[:, None], grid.quats[best % n_rotations], np.nan
        )
        fixed = n_modes + result.best - n_modes * n_rotations
        state.mode[span] = np.where(rotating, best // n_rotations, fixed)
        self.store(block, state, result, fluence)

    def store(
        self, block: Block, state: FrameState, result: Posterior, fluence: NDArray[np.float32]
    ) -> None:
        """Keep what the posterior says of each frame, and its new fluence."""
        span = slice(block.start, block.stop)
        state.log_likelihood[span] = result.expected_ll
        state.mutual_information[span] = result.information
        if not self.settings.fluence or self.background is not None:
            return  # with a background the fluence follows from the signal's share, in _Merger
        if self.gaussian:
            # E[X.W] from E[ll] = (fluence E[X.W] - fluence^2 E[W.W] / 2) / sigma^2
            square = 2.0 * result.expected_total
            gain = (result.expected_ll - block.constant) * self.settings.gaussian_sigma**2
            product = gain / fluence + 0.5 * fluence * square
            state.fluence[span] = np.maximum(product / np.maximum(square, 1e-30), 1e-6)
        else:
            state.fluence[span] = np.maximum(block.n_photons / result.expected_total, 1e-6)

    def _merge(
        self,
        block: Block,
        model: Model,
        grid: Grid,
        state: FrameState,
        probability: Any,
        total: Any,
        old_fluence: NDArray[np.float32],
        accumulators: list[Accumulator],
        pattern_sums: NDArray[np.float64],
    ) -> None:
        """M-step of one block: add its photons and exposures to the accumulators."""
        fluence = state.fluence[block.start : block.stop]
        if self.settings.dragonfly:
            fluence = old_fluence
        merger = Merger(
            self,
            block,
            state,
            probability,
            fluence,
            old_fluence,
            total,
            self.buffers,
            self.settings.threads,
        )
        n_rotations = len(grid.quats)
        for mode, accumulator in enumerate(accumulators):
            for tile in self._tiles(grid):
                first = mode * n_rotations + tile.start
                merger.volume(model.volumes[mode], accumulator, grid.quats[tile], first)
        if len(model.patterns):
            merger.patterns(model.patterns, pattern_sums, len(accumulators) * n_rotations)
        merger.finish()

    def refine(
        self,
        model: Model,
        local: NDArray[np.float64],
        state: FrameState,
        prior_profile: NDArray[np.float64],
        progress: Progress | None = None,
    ) -> tuple[Model, NDArray[np.float32]]:
        """One iteration at beta = 1 over rotations `local` [K, 4] about each frame's best.

        The mode of each frame stays; fixed patterns and their frames stay as they are. Cost: K
        slices per frame. Returns as `iterate`.
        """
        log_reference = self._log_reference(model)
        accumulators = [Accumulator(model.size, self.backend) for _ in model.volumes]
        there = replace(model, volumes=self.backend.to_device(model.volumes))
        with ThreadPoolExecutor(self.settings.threads) as pool:
            for block in self._blocks(len(local), log_reference):
                if progress:
                    progress("refine", block.start / self.frames.n_frames)
                work = Refinement(self, there, local, state, log_reference)
                if self.backend is CPU:
                    work.one_by_one(block, pool, accumulators)
                else:
                    work.together(block, accumulators)
        with self.timer("update"):
            return self._new_model(accumulators, None, prior_profile, state, model)

    def merge(
        self,
        slices: Any,
        exposures: Any,
        pixel_weights: Any,
        quats: NDArray[np.float64],
        accumulator: Accumulator,
    ) -> None:
        """Scatter slices and exposures, at all symmetry-equivalent orientations."""
        with self.timer("merge"), self.backend.device:
            for rotated in symmetric_copies(quats, self.settings.symmetry):
                self.backend.run(
                    "ewald_merge",
                    slices,
                    exposures,
                    pixel_weights[None],
                    self.backend.to_device(rotated),
                    self.on_device.q,
                    not self.settings.dragonfly,
                    accumulator.pairs,
                    threads=self.settings.threads,
                )

    def _new_model(
        self,
        accumulators: list[Accumulator],
        pattern_sums: NDArray[np.float64] | None,
        prior_profile: NDArray[np.float64],
        state: FrameState,
        old: Model,
    ) -> tuple[Model, NDArray[np.float32]]:
        """Divide photons by exposure; patterns stay where `pattern_sums` is None."""
        dragonfly = self.settings.dragonfly
        prior = 0.0 if dragonfly else self.settings.prior
        estimates = [
            estimate_as_dragonfly(a) if dragonfly else estimate(a, prior_profile, prior)
            for a in accumulators
        ]
        patterns = old.patterns
        if pattern_sums is not None:
            photons, exposure = pattern_sums
            row_mean = interpolated(prior_profile, self.layout.q_abs)
            new = (photons + prior * row_mean) / np.maximum(exposure + prior, 1e-30)
            patterns = new.astype(np.float32)
        model = Model(stacked([e[0] for e in estimates]), patterns.copy(), not dragonfly)
        if self.settings.fluence:
            mean = state.normalise_fluence()
            if self.background is None:  # else merged with the old fluences, of mean 1
                model.scale(mean)
        return model, stacked([e[1] for e in estimates])


def _prune_as_dragonfly(probability: NDArray[np.float32]) -> None:
    for thread in range(DRAGONFLY_THREADS):
        own = probability[:, thread::DRAGONFLY_THREADS]
        if own.size:
            own[own < own.max(axis=1, keepdims=True) * np.exp(-CUT)] = 0.0


def _padded(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return np.concatenate([values, np.zeros(n - len(values))])

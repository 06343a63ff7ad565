"""The polar engine: one EMC iteration over all frames, all in-plane angles at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..._dispatch import CPU
from ...ewald import symmetric_copies
from ...frames import Frames
from ...orientations import pair_quaternions
from .. import kernels
from ..kernels import LANES, LOG_FACTORIAL, Photons, indices
from ..model import Accumulator, Model, estimate, stacked
from ..state import Block, Buffers, FrameState, Settings, Timer
from .accumulate import accumulate
from .blocks import Oriented, binned, capacity, chunk_of, in_parts, room
from .correlate import Arithmetic, FramePosterior, Views, bf16_error, correlate, screen
from .layout import PolarLayout
from .orders import GROUP, AngularOrders
from .transform import exposure_transform, polar_frames, polar_views

MIRRORS = 2

SCREEN_ORDERS = 17
MARGIN = 20.0
"""Groups of views this many nats below the best, in the first `SCREEN_ORDERS` orders alone,
are not looked at: bench_screen loses less than 1e-3 of the best orientations."""

BF16_SIGMAS = 6.0
"""Largest error of a score in bf16 over its rms, 5.8 in 800,000 scores of sim_4bed: `MARGIN`
grows by as much for the best group and for the one looked at."""

SCREEN_BELOW = 0.5
"""Share of the groups that survive above which screening costs more than it saves."""

SPREAD = 2.0
"""Room for terms over their mean number: chunks of frames differ."""

SPREAD_ON_GPU = 4.0
"""Chunks of few frames differ more: of 8 frames whose numbers of terms scatter by as much as their
mean, the largest of 512 has twice the mean; and if one does not fit all are done again."""

Progress = Callable[[str, float], None]


class Arithmetics(NamedTuple):
    """How products of frames and views are formed."""

    screen: Arithmetic
    correlate: Arithmetic


ON_MATRIX_UNITS = Arithmetics("bf16", "bf16_split")
"""Of bf16, of which a product in float32 takes six: AMX tiles and tensor cores."""


def arithmetics() -> Arithmetics:
    """Return the fastest that lose nothing of note on the instruction set in use."""
    return ON_MATRIX_UNITS if _core.simd() == "amx" else Arithmetics("float32", "float32")


@dataclass(frozen=True)
class PolarGrid:
    """View directions with their mirror images x in-plane angles.

    Attributes
    ----------
    views : float64 [V, 4]    from `view_pairs`
    weights : float64 [V]     prior weights, sum 1
    n_angles : int            A
    """

    views: NDArray[np.float64]
    weights: NDArray[np.float64]
    n_angles: int

    @property
    def n_orientations(self) -> int:
        """Orientations of one mode."""
        return len(self.views) * MIRRORS * self.n_angles


class PolarEngine:
    """One EMC iteration on polar frames, in blocks of frames.

    Parameters
    ----------
    frames : Frames
        Sparse photon counts, streamed once per iteration.
    layout : PolarLayout
    orders : AngularOrders
        Angular orders that the likelihood looks at.
    settings : Settings

    Notes
    -----
    Memory: the model, its tomograms and their transforms (views x bins) and one block of
    frames. On a GPU (`settings.backend`) the model and each run of frames are copied there and
    their sums back; the host waits twice for each run of frames: for the groups of views that
    survive, and for the terms. Source: design.md, section 1.
    """

    def __init__(
        self, frames: Frames, layout: PolarLayout, orders: AngularOrders, settings: Settings
    ) -> None:
        self.frames, self.layout, self.orders, self.settings = frames, layout, orders, settings
        self.backend = settings.backend
        self.timer = Timer()
        self.buffers = Buffers(self.backend)
        oriented = layout.exposure[0, : layout.n_radii]
        self.exposure = exposure_transform(oriented)
        self._log_factorial = self.backend.to_device(LOG_FACTORIAL)
        self.terms_per_frame = 0.0  # mean of the last iteration
        self.occupancy = np.empty(0)  # of each view in the last iteration, in frames of fluence 1
        self.screening = True
        self.kept_share = 1.0

    # -- model ------------------------------------------------------------------------

    def mean_total(self, model: Model, grid: PolarGrid) -> float:
        """Expected photons of a frame in the rings that orient, at fluence 1."""
        rings = self.layout.n_radii
        exposure = self.layout.exposure[0, :rings].sum(axis=1, dtype=np.float64)
        return float(exposure @ model.radial_mean_at(self.layout.radius[:rings]))

    def views(self, model: Model, grid: PolarGrid) -> Views:
        """Expand the model: transformed tomograms of all modes, in scratch memory."""
        layout, orders, to_device = self.layout, self.orders, self.backend.to_device
        n_modes, n_panels = len(model.volumes), -(-len(grid.views) // LANES)
        n_groups = n_modes * n_panels * LANES // GROUP
        logs = self.buffers("logs", n_groups, orders.n_coefficients, 2, GROUP)
        totals = self.buffers("totals", n_groups, MIRRORS, orders.n_angles, GROUP)
        reference = to_device(self._log_reference(model).astype(np.float32))
        exposure, all_quats = to_device(self.exposure), to_device(grid.views)
        n_rows = layout.n_radii * layout.n_angles
        q = to_device(np.ascontiguousarray(layout.q[:, :n_rows]))
        ones = self.backend.ones(n_rows, np.float32)
        per_panel = LANES // GROUP
        step = LANES * max(1, (24 << 20) // (4 * n_rows * LANES))
        for mode, volume in enumerate(map(self._half_volume, model.volumes)):
            for first in range(0, len(grid.views), step):
                quats = all_quats[first : first + step]
                panels, _ = kernels.expand(
                    volume,
                    quats,
                    q,
                    ones,
                    out=self.buffers("panels", -(-len(quats) // LANES), n_rows, LANES),
                    threads=self.settings.threads,
                )
                group = (mode * n_panels + first // LANES) * per_panel
                groups = slice(group, group + per_panel * len(panels))
                polar_views(
                    panels,
                    orders,
                    reference,
                    exposure,
                    mirrors=MIRRORS,
                    out_logs=logs[groups],
                    out_totals=totals[groups],
                    threads=self.settings.threads,
                )
        self.buffers.release("panels")
        prior = np.zeros((n_modes, n_panels * LANES))
        prior[:, : len(grid.views)] = grid.weights / (n_modes * MIRRORS * orders.n_angles)
        with np.errstate(divide="ignore"):
            log_prior = np.log(prior).astype(np.float32).ravel()
        return Views(orders, logs, totals, to_device(log_prior))

    def _half_volume(self, volume: NDArray[np.float32]) -> Any:
        """Return a volume on the device, of which only the half x >= 0 counts."""
        if self.backend is CPU:
            return volume
        half = len(volume) // 2
        copy = self.backend.empty(volume.shape, np.float32)
        copy[half:] = self.backend.to_device(volume[half:])
        return copy

    def _log_reference(self, model: Model) -> NDArray[np.float64]:
        """Log of the radial mean of the model on the rings that orient."""
        radius = self.layout.radius[: self.layout.n_radii]
        return np.log(np.maximum(model.radial_mean_at(radius), 1e-30))

    def evidence(self, model: Model, grid: PolarGrid, state: FrameState) -> float:
        """Mean over the frames of ln sum prior exp(log-likelihood), in nats."""
        constants = self._constants(model)
        beta = np.ones(len(state.fluence), np.float32)
        total = 0.0
        with self.backend.device:
            views = self.views(model, grid)
            for block, oriented in self._oriented(views, constants, state, beta):
                rest = _rest(block, state.fluence[block.start : block.stop])
                total += float((oriented.posterior.evidence + rest).sum())
        self.buffers.release()
        return total / self.frames.n_frames

    # -- one iteration ----------------------------------------------------------------

    def iterate(
        self,
        model: Model,
        grid: PolarGrid,
        state: FrameState,
        beta: NDArray[np.float32],
        prior_profile: NDArray[np.float64],
        progress: Progress | None = None,
    ) -> tuple[Model, NDArray[np.float32]]:
        """Return the next model and its weights [M, N, N, N]; update `state` in place.

        Parameters as those of `PixelEngine.iterate`.
        """
        with self.backend.device:
            tomograms, exposures = self._tomograms(model, grid, state, beta, progress)
            if progress:
                progress("merge", 1.0)
            self.buffers.release("logs", "totals", "frames")
            with self.timer("merge"):
                accumulators = self._merge(
                    tomograms, exposures, grid, model.size, len(model.volumes)
                )
        self.buffers.release()
        with self.timer("update"):
            return self._new_model(accumulators, prior_profile, state, model)

    def _tomograms(
        self,
        model: Model,
        grid: PolarGrid,
        state: FrameState,
        beta: NDArray[np.float32],
        progress: Progress | None,
    ) -> tuple[Any, Any]:
        """Photons of views [V, bins] and exposures of orientations [V, 2, A], on the device."""
        with self.timer("expand"):
            views = self.views(model, grid)
        n_views = len(views.log_prior)
        tomograms = self.buffers("tomograms", n_views, self.layout.n_bins)
        tomograms[:] = 0.0
        exposures = self.backend.zeros((n_views, MIRRORS, self.layout.n_angles), np.float64)
        constants = self._constants(model)
        for block, oriented in self._oriented(views, constants, state, beta, progress):
            self._store(block, grid, state, oriented.posterior)
            with self.timer("accumulate"):
                accumulate(
                    oriented.terms,
                    block.photons,
                    self.backend.to_device(state.fluence[block.start : block.stop]),
                    self.layout.n_angles,
                    tomograms,
                    exposures,
                    mirrors=MIRRORS,
                    threads=self.settings.threads,
                )
        return tomograms, exposures

    def _oriented(
        self,
        views: Views,
        constants: Any,
        state: FrameState,
        beta: NDArray[np.float32],
        progress: Progress | None = None,
    ) -> Iterator[tuple[Block, Oriented]]:
        """Yield runs of frames with their posteriors, in pieces whose terms fit the memory."""
        self.screening = True
        expected, self.terms_per_frame, done = self.terms_per_frame, 0.0, 0
        for start, photons in self._blocks():
            if progress:
                progress("orient", start / self.frames.n_frames)
            n_photons, constant = self._seen(photons, constants)

            def orient(part: slice, some: Photons, start: int = start) -> Oriented:
                span = slice(start + part.start, start + part.stop)
                return self._orient(some, span, views, state, beta)

            spread = SPREAD if self.backend is CPU else SPREAD_ON_GPU
            n_terms = spread * max(expected, self.terms_per_frame) * len(photons.orient_end)
            parts = 1 + int(n_terms // room(self.settings.block_bytes))
            for part, some, oriented in in_parts(photons, parts, orient):
                n = part.stop - part.start
                begin = oriented.terms.begin
                found = int((begin[:, -1] - begin[:, 0]).sum())
                self.terms_per_frame = (self.terms_per_frame * done + found) / (done + n)
                done += n
                span = start + part.start, start + part.stop
                yield Block(*span, some, n_photons[part], constant[part]), oriented

    def _blocks(self) -> Iterator[tuple[int, Photons]]:
        blocks = binned(self.frames, self.layout, self.orders, self.settings)
        while True:
            with self.timer("read"):
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def _constants(self, model: Model) -> Any:
        """What each photon of a bin adds to the log-likelihood at fluence 1, on the device."""
        reference = np.zeros(self.layout.n_rings)
        reference[: self.layout.n_radii] = self._log_reference(model)
        constants = self.layout.log_exposure + np.repeat(reference, self.layout.n_angles)
        return self.backend.to_device(constants)

    def _orient(
        self,
        photons: Photons,
        span: slice,
        views: Views,
        state: FrameState,
        beta: NDArray[np.float32],
    ) -> Oriented:
        n, threads, backend = len(photons.orient_end), self.settings.threads, self.backend
        with self.timer("transform"):
            frames = polar_frames(
                photons,
                self.orders,
                out=self.buffers("frames", n, self.orders.n_coefficients, 2),
                threads=threads,
            )
        fluence, cold = backend.to_device(state.fluence[span]), backend.to_device(beta[span])
        keep = self._survivors(frames, views, fluence, cold)
        with self.timer("correlate"):
            chunk = chunk_of(n, backend)
            terms, posterior = correlate(
                frames,
                views,
                fluence,
                cold,
                keep=keep,
                chunk=chunk,
                capacity=capacity(n, chunk, views, self.settings.block_bytes),
                arithmetic=self._arithmetics().correlate,
                threads=threads,
            )
            posterior = FramePosterior(*map(backend.to_host, posterior))
        return Oriented(terms, posterior)

    def _arithmetics(self) -> Arithmetics:
        return arithmetics() if self.backend is CPU else ON_MATRIX_UNITS

    def _survivors(
        self,
        frames: Any,
        views: Views,
        fluence: Any,
        beta: Any,
    ) -> Any:
        """Groups of views to look at, uint8 [D, G], by the low orders; None: all."""
        orders, arithmetic = self.orders, self._arithmetics().screen
        library = self.backend.library
        n_angles = next((a for a in (48, 64, 32) if orders.n_angles % a == 0), 32)
        if not self.screening or len(orders.radii) < 2 * SCREEN_ORDERS or len(views.logs) < 8:
            return None
        with self.timer("screen"):
            scores = screen(
                frames,
                views,
                fluence,
                beta,
                SCREEN_ORDERS,
                n_angles,
                arithmetic=arithmetic,
                threads=self.settings.threads,
            )
            margin = self.backend.ones(len(frames), np.float32) * MARGIN
            if arithmetic == "bf16":
                margin += 2.0 * BF16_SIGMAS * beta * bf16_error(frames, views, SCREEN_ORDERS)
            keep = scores > (library.amax(scores, 1) - margin)[:, None]
        self.kept_share = int(keep.sum()) / (len(frames) * len(views.logs))
        self.screening = self.kept_share < SCREEN_BELOW
        return keep.view(library.uint8)

    def _store(
        self, block: Block, grid: PolarGrid, state: FrameState, posterior: FramePosterior
    ) -> None:
        """Keep what the posterior says of each frame, and its new fluence."""
        span = slice(block.start, block.stop)
        per_mode = -(-len(grid.views) // LANES) * LANES * MIRRORS * grid.n_angles
        state.mode[span] = posterior.best // per_mode
        state.orientation[span] = pair_quaternions(
            grid.views, grid.n_angles, posterior.best % per_mode
        )
        state.log_likelihood[span] = posterior.expected_score + _rest(block, state.fluence[span])
        state.mutual_information[span] = posterior.information
        if self.settings.fluence:
            state.fluence[span] = np.maximum(block.n_photons / posterior.expected_total, 1e-6)

    def _seen(
        self, photons: Photons, constants: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Photons of each frame, and what they add to its log-likelihood at fluence 1."""
        backend = self.backend
        row, count = (indices(backend, x) for x in (photons.row, photons.count))
        # Photons that only merge lie beyond the table; no sum below reaches them.
        row = backend.library.clip(row, 0, self.layout.n_bins - 1)
        each = constants[row] * count - self._log_factorial[count]
        n_photons, constant = (photons.per_frame(x) for x in (photons.count, each))
        return backend.to_host(n_photons), backend.to_host(constant)

    def _merge(
        self, tomograms: Any, exposures: Any, grid: PolarGrid, size: int, n_modes: int
    ) -> list[Accumulator]:
        """M-step in the volume: scatter each view's photons and exposure."""
        backend = self.backend
        # float64, so that rounding can be told from exposure: gaps must stay at exactly 0.
        spectrum = backend.to_device(self.layout.exposure[1].astype(np.float64))
        spectrum = backend.library.fft.rfft(spectrum)
        turns = backend.library.fft.rfft(exposures)
        q, all_quats = backend.to_device(self.layout.q), backend.to_device(grid.views)
        per_mode = len(tomograms) // n_modes
        by_mode = backend.to_host(exposures).reshape(n_modes, per_mode, MIRRORS, -1)
        self.occupancy = by_mode[:, : len(grid.views)].sum(axis=(0, 2, 3))
        accumulators = []
        for mode in range(n_modes):
            accumulators.append(Accumulator(size, backend))
            for first in range(0, len(grid.views), 64):
                quats = all_quats[first : first + 64]
                used = by_mode[mode, first : first + len(quats)].any(axis=(1, 2))
                used = np.flatnonzero(used)
                if not len(used):
                    continue
                used = backend.to_device(used)
                rows = slice(mode * per_mode + first, mode * per_mode + first + len(quats))
                exposure = self._turned(spectrum, turns[rows][used])
                pairs = accumulators[-1].pairs
                self._scatter(tomograms[rows][used], exposure, quats[used], q, pairs)
        return accumulators

    def _turned(self, spectrum: Any, turns: Any) -> Any:
        """Exposures [V, bins] of tomograms whose orientations have the transforms `turns`."""
        library = self.backend.library
        both = spectrum * turns[:, :1] + (spectrum * turns[:, 1:]).conj()
        exposure = library.fft.irfft(both, self.layout.n_angles)
        rounding = 1e-13 * library.amax(exposure, (1, 2))[:, None, None]
        result = self.backend.empty(exposure.shape, np.float32)
        result[:] = library.where(exposure > rounding, exposure, 0.0)
        return result.reshape(len(result), -1)

    def _scatter(self, photons: Any, exposure: Any, quats: Any, q: Any, pairs: Any) -> None:
        ones = self.backend.ones(len(quats), np.float32)
        for rotated in symmetric_copies(quats, self.settings.symmetry, self.backend):
            self.backend.run(
                "ewald_merge",
                photons,
                ones,
                exposure,
                rotated,
                q,
                True,
                pairs,
                threads=self.settings.threads,
            )

    def _new_model(
        self,
        accumulators: list[Accumulator],
        prior_profile: NDArray[np.float64],
        state: FrameState,
        old: Model,
    ) -> tuple[Model, NDArray[np.float32]]:
        """Divide photons by exposure."""
        estimates = [estimate(a, prior_profile, self.settings.prior) for a in accumulators]
        volumes, weights = (stacked(x) for x in zip(*estimates, strict=True))
        model = Model(volumes, old.patterns.copy())
        if self.settings.fluence:
            model.scale(state.normalise_fluence())
        return model, weights


def _rest(block: Block, fluence: NDArray[np.float32]) -> NDArray[np.float64]:
    """What scores leave out of each frame's log-likelihood."""
    return block.constant + block.n_photons * np.log(fluence.astype(np.float64))

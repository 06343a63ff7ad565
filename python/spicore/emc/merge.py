"""The M-step of a block: posterior-weighted photons into the accumulators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .kernels import LANES
from .model import Accumulator
from .score import pattern_panels
from .state import Block, Buffers, FrameState

if TYPE_CHECKING:
    from .engine import PixelEngine

DRAGONFLY_FLOOR = np.float32(1e-6)
"""That program leaves smaller probabilities out of the photons, though not out of the
exposure."""


class Merger:
    """Adds the photons of one block, weighted by their posterior, to the accumulators."""

    def __init__(
        self,
        engine: PixelEngine,
        block: Block,
        state: FrameState,
        probability: NDArray[np.float32],
        fluence: NDArray[np.float32],
        old_fluence: NDArray[np.float32],
        buffers: Buffers,
        threads: int,
    ) -> None:
        self.engine, self.block, self.state = engine, block, state
        self.layout, self.buffers, self.threads = engine.layout, buffers, threads
        self.probability, self.old_fluence = probability, old_fluence
        power = fluence**2 if engine.gaussian else fluence
        self.exposures = power @ probability  # [C]: sum_d P fluence
        if engine.settings.dragonfly:
            probability[probability <= DRAGONFLY_FLOOR] = 0.0
        self.photons = block.photons
        self.pixel_weights = self.layout.exposure
        if engine.gaussian:  # least squares: photons e fluence over e^2 fluence^2
            self.photons = block.photons * fluence[:, None]
            self.pixel_weights = self.layout.exposure**2
        self.signal = np.zeros(block.stop - block.start)
        self.expected_total = np.zeros(block.stop - block.start)

    def slices(
        self, first: int, n: int, tomograms: Callable[[], tuple[NDArray, NDArray]]
    ) -> NDArray[np.float32]:
        """Posterior-weighted photons [n, T] of the columns from `first` on."""
        background = None
        if self.engine.background is not None:
            panels, total = tomograms()
            span = slice(self.block.start, self.block.stop)
            scale = self.state.background_scale[span]
            background = (panels, self.old_fluence, self.engine.background, scale)
            self.expected_total += self.probability[:, first : first + n] @ total
        with self.engine.timer("compress"):
            slices, signal = kernels.compress(
                self.probability,
                self.photons,
                n,
                self.layout.n_rows,
                first,
                background=background,
                out=self.buffers("slices", n, self.layout.n_rows),
                scratch=self.buffers("scratch", self.threads, self.layout.n_rows, LANES),
                threads=self.threads,
            )
        if signal is not None:
            self.signal += signal
        if self.engine.gaussian:
            slices *= self.layout.exposure
        return slices

    def volume(self, volume: NDArray, accumulator: Accumulator, quats: NDArray, first: int) -> None:
        """Merge one tile of orientations."""
        exposures = np.ascontiguousarray(self.exposures[first : first + len(quats)])
        if not exposures.any():
            return
        slices = self.slices(first, len(quats), lambda: self.tomograms(volume, quats))
        pixel_weights = self.pixel_weights
        if self.engine.settings.dragonfly:
            # mean photons per rotation, each rotation with weight 1
            divisor = np.where(exposures > 0, exposures, 1.0)[:, None]
            slices /= divisor * pixel_weights
            exposures = (exposures > 0).astype(np.float32)
            pixel_weights = np.ones_like(pixel_weights)
        self.engine.merge(slices, exposures, pixel_weights, quats, accumulator)

    def tomograms(self, volume: NDArray, quats: NDArray) -> tuple[NDArray, NDArray]:
        """Linear tomograms on all rows, and their sums over the rows that orient."""
        panels, _ = self.engine.expand(
            volume, quats, self.layout.q, None, self.buffers, self.threads
        )
        sums = panels[:, : self.layout.n_orient].sum(axis=1, dtype=np.float64).ravel()
        return panels, sums[: len(quats)]

    def patterns(self, patterns: NDArray, sums: NDArray[np.float64], first: int) -> None:
        """Add to the photons and exposures [2, K, T] of the fixed patterns."""
        n = len(patterns)
        slices = self.slices(first, n, lambda: self._pattern_panels(patterns))
        sums[0] += slices
        sums[1] += np.outer(self.exposures[first : first + n], self.pixel_weights)

    def _pattern_panels(self, patterns: NDArray) -> tuple[NDArray, NDArray]:
        tomograms = patterns * self.layout.exposure
        sums = tomograms[:, : self.layout.n_orient].sum(axis=1, dtype=np.float64)
        return pattern_panels(tomograms), sums

    def finish(self) -> None:
        """With a background: share each frame's photons between signal and background."""
        if self.engine.background is None:
            return
        span = slice(self.block.start, self.block.stop)
        background = self.engine.background[: self.layout.n_orient].sum(dtype=np.float64)
        rest = np.maximum(self.block.n_photons - self.signal, 0.0)
        self.state.background_scale[span] = np.maximum(rest / max(background, 1e-30), 1e-6)
        if self.engine.settings.fluence:
            total = np.maximum(self.expected_total, 1e-30)
            self.state.fluence[span] = np.maximum(self.signal / total, 1e-6)

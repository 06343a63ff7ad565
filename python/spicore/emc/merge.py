"""The M-step of a block: posterior-weighted photons into the accumulators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._dispatch import CPU
from . import kernels
from .kernels import LANES, converted
from .model import Accumulator
from .score import pattern_panels
from .state import Block, Buffers, FrameState

if TYPE_CHECKING:
    from .engine import PixelEngine

DRAGONFLY_FLOOR = np.float32(1e-6)
"""That program leaves smaller probabilities out of the photons, though not out of the
exposure."""

AT_A_TIME = 256
"""Columns of the posterior that are float64 at a time."""


class Merger:
    """Adds the photons of one block, weighted by their posterior, to the accumulators."""

    def __init__(
        self,
        engine: PixelEngine,
        block: Block,
        state: FrameState,
        probability: Any,
        fluence: NDArray[np.float32],
        old_fluence: NDArray[np.float32],
        total: Any,
        buffers: Buffers,
        threads: int,
    ) -> None:
        self.engine, self.block, self.state = engine, block, state
        self.layout, self.buffers, self.threads = engine.layout, buffers, threads
        self.probability, self.old_fluence, self.total = probability, old_fluence, total
        self.backend = backend = engine.backend
        power = fluence**2 if engine.gaussian else fluence
        self.exposures = backend.to_device(power) @ probability  # [C]: sum_d P fluence
        self.host_exposures = backend.to_host(self.exposures)
        if engine.settings.dragonfly:
            probability[probability <= DRAGONFLY_FLOOR] = 0.0
        self.photons = block.photons
        self.pixel_weights = engine.on_device.exposure
        if engine.gaussian:  # least squares: photons e fluence over e^2 fluence^2
            self.photons = block.photons * backend.to_device(fluence)[:, None]
            self.pixel_weights = engine.on_device.exposure**2
        self.signal, self.expected_total = (
            backend.zeros(block.stop - block.start, np.float64) for _ in range(2)
        )

    def slices(self, first: int, n: int, tomograms: Callable[[], Any]) -> Any:
        """Posterior-weighted photons [n, T] of the columns from `first` on."""
        background, to_device = None, self.backend.to_device
        if self.engine.background is not None:
            scale = self.state.background_scale[self.block.start : self.block.stop]
            background = (
                tomograms(),
                to_device(self.old_fluence),
                self.engine.on_device.background,
                to_device(scale),
            )
            for start in range(first, first + n, AT_A_TIME):
                columns = slice(start, min(start + AT_A_TIME, first + n))
                probability = converted(self.backend, self.probability[:, columns], np.float64)
                self.expected_total += probability @ self.total[columns]
        with self.engine.timer("compress"):
            slices, signal = kernels.compress(
                self.probability,
                self.photons,
                n,
                self.layout.n_rows,
                first,
                background=background,
                out=self.buffers("slices", n, self.layout.n_rows),
                scratch=self.scratch(),
                threads=self.threads,
            )
        if signal is not None:
            self.signal += signal
        if self.engine.gaussian:
            slices *= self.engine.on_device.exposure
        return slices

    def scratch(self) -> Any:
        """Return what `compress` works in; on a GPU nothing."""
        if self.backend is not CPU:
            return None
        return self.buffers("scratch", self.threads, self.layout.n_rows, LANES)

    def volume(self, volume: Any, accumulator: Accumulator, quats: NDArray, first: int) -> None:
        """Merge one tile of orientations."""
        columns = slice(first, first + len(quats))
        if not self.host_exposures[columns].any():
            return
        exposures = self.backend.contiguous(self.exposures[columns])
        slices = self.slices(first, len(quats), lambda: self.tomograms(volume, quats))
        pixel_weights = self.pixel_weights
        if self.engine.settings.dragonfly:
            # mean photons per rotation, each rotation with weight 1
            divisor = np.where(exposures > 0, exposures, 1.0)[:, None]
            slices /= divisor * pixel_weights
            exposures = (exposures > 0).astype(np.float32)
            pixel_weights = np.ones_like(pixel_weights)
        self.engine.merge(slices, exposures, pixel_weights, quats, accumulator)

    def tomograms(self, volume: Any, quats: NDArray) -> Any:
        """Linear tomograms on all rows."""
        q = self.engine.on_device.q
        return self.engine.expand(volume, quats, q, None, self.buffers, self.threads)[0]

    def patterns(self, patterns: NDArray, sums: NDArray[np.float64], first: int) -> None:
        """Add to the photons and exposures [2, K, T] of the fixed patterns."""
        n = len(patterns)
        slices = self.slices(first, n, lambda: self._pattern_panels(patterns))
        sums[0] += self.backend.to_host(slices)
        exposures = self.host_exposures[first : first + n]
        sums[1] += np.outer(exposures, self.backend.to_host(self.pixel_weights))

    def _pattern_panels(self, patterns: NDArray) -> Any:
        return self.backend.to_device(pattern_panels(patterns * self.layout.exposure))

    def finish(self) -> None:
        """With a background: share each frame's photons between signal and background."""
        if self.engine.background is None:
            return
        span = slice(self.block.start, self.block.stop)
        background = self.engine.background[: self.layout.n_orient].sum(dtype=np.float64)
        signal = self.backend.to_host(self.signal)
        rest = np.maximum(self.block.n_photons - signal, 0.0)
        self.state.background_scale[span] = np.maximum(rest / max(background, 1e-30), 1e-6)
        if self.engine.settings.fluence:
            total = np.maximum(self.backend.to_host(self.expected_total), 1e-30)
            self.state.fluence[span] = np.maximum(signal / total, 1e-6)

"""The E-step of a block: log-likelihoods in the form that its frames call for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .kernels import LANES, converted
from .state import Block, Buffers, FrameState

if TYPE_CHECKING:
    from .engine import PixelEngine


def pattern_panels(tomograms: NDArray) -> NDArray[np.float32]:
    """Lay tomograms [K, T] out as `expand` does: [ceil(K / LANES), T, LANES]."""
    n_patterns, n_rows = tomograms.shape
    panels = np.zeros((-(-n_patterns // LANES), n_rows, LANES), np.float32)
    for k, tomogram in enumerate(tomograms):
        panels[k // LANES, :, k % LANES] = tomogram
    return panels


class Scores:
    """Log-likelihoods of one block: which form of the kernels the frames call for."""

    def __init__(
        self,
        engine: PixelEngine,
        block: Block,
        state: FrameState,
        log_reference: NDArray[np.float64],
        buffers: Buffers,
        threads: int,
    ) -> None:
        layout, settings, backend = engine.layout, engine.settings, engine.backend
        self.engine, self.buffers, self.threads = engine, buffers, threads
        self.centre = float(np.exp(log_reference).sum())
        rows = slice(0, layout.n_orient)
        self.exposure = layout.exposure[rows]
        self.log_reference = log_reference.astype(np.float32)
        self.reference = backend.to_device(self.log_reference)
        self.linear = engine.gaussian or engine.background is not None
        fluence = state.fluence[block.start : block.stop]
        self.photons = block.photons
        self.background = None
        if engine.gaussian:
            # (x - fluence W)^2 / 2 sigma^2 without its x^2 term, in the form of `maximize`
            variance = np.float32(settings.gaussian_sigma**2)
            factor = backend.to_device(fluence / variance)
            self.photons = block.photons[:, rows] * factor[:, None]
            fluence = fluence**2 / variance
        elif engine.dense:
            self.photons = backend.contiguous(block.photons[:, rows])
        self.fluence = backend.to_device(fluence)
        if engine.background is not None:
            self.scale = state.background_scale[block.start : block.stop]
            scale = backend.to_device(self.scale)
            self.background = (engine.on_device.background[rows], scale, self.reference)

    def expand(self, volume: Any, quats: NDArray) -> tuple[Any, Any]:
        reference = None if self.linear else self.reference
        q = self.engine.on_device.q_orient
        return self.engine.expand(volume, quats, q, reference, self.buffers, self.threads)

    def pattern_panels(self, patterns: NDArray) -> tuple[Any, Any]:
        """Panels of the fixed patterns, as `expand` makes them of a volume."""
        tomograms = patterns[:, : len(self.exposure)] * self.exposure
        sums = tomograms.sum(axis=1, dtype=np.float64)
        if not self.linear:
            tomograms = np.log(np.maximum(tomograms, 1e-36)) - self.log_reference
        to_device = self.engine.backend.to_device
        return to_device(pattern_panels(tomograms)), to_device(sums)

    def maximize(self, panels: Any, sums: Any, ll: Any, first: int) -> Any:
        """Write the columns from `first` on; return the total of each orientation."""
        backend, n = self.engine.backend, len(sums)
        if self.engine.gaussian:
            squares = backend.empty((len(panels), LANES), np.float64)
            for square, panel in zip(squares, panels, strict=True):
                square[:] = (converted(backend, panel, np.float64) ** 2).sum(0)
            sums = 0.5 * squares.ravel()[:n]
        centre = 0.0 if self.engine.gaussian else self.centre
        offset = converted(backend, sums - centre, np.float32)
        kernels.maximize(
            panels,
            self.photons,
            self.fluence,
            offset,
            ll,
            first,
            background=self.background,
            threads=self.threads,
        )
        return sums

    def constant(self, block: Block, fluence: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the kernels leave out of each frame's log-likelihood."""
        if self.engine.gaussian:
            return block.constant
        phi = fluence.astype(np.float64)
        constant = block.constant - phi * self.centre
        if self.background is None:
            return constant + block.n_photons * np.log(phi)
        background = self.engine.background[: len(self.exposure)]
        return constant - self.scale * background.sum(dtype=np.float64)

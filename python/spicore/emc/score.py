"""The E-step of a block: log-likelihoods in the form that its frames call for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .kernels import LANES
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
        layout, settings = engine.layout, engine.settings
        self.engine, self.buffers, self.threads = engine, buffers, threads
        self.centre = float(np.exp(log_reference).sum())
        rows = slice(0, layout.n_orient)
        self.q = np.ascontiguousarray(layout.q[:, rows])
        self.exposure = layout.exposure[rows]
        self.reference = log_reference.astype(np.float32)
        self.linear = engine.gaussian or engine.background is not None
        self.fluence = state.fluence[block.start : block.stop]
        self.photons = block.photons
        self.background = None
        if engine.gaussian:
            # (x - fluence W)^2 / 2 sigma^2 without its x^2 term, in the form of `maximize`
            variance = np.float32(settings.gaussian_sigma**2)
            self.photons = block.photons[:, rows] * (self.fluence / variance)[:, None]
            self.fluence = self.fluence**2 / variance
        elif engine.dense:
            self.photons = np.ascontiguousarray(block.photons[:, rows])
        if engine.background is not None:
            scale = state.background_scale[block.start : block.stop]
            self.background = (engine.background[rows], scale, self.reference)

    def expand(self, volume: NDArray, quats: NDArray) -> tuple[NDArray, NDArray]:
        reference = None if self.linear else self.reference
        return self.engine.expand(volume, quats, self.q, reference, self.buffers, self.threads)

    def pattern_panels(self, patterns: NDArray) -> tuple[NDArray, NDArray]:
        """Panels of the fixed patterns, as `expand` makes them of a volume."""
        tomograms = patterns[:, : len(self.exposure)] * self.exposure
        sums = tomograms.sum(axis=1, dtype=np.float64)
        if not self.linear:
            tomograms = np.log(np.maximum(tomograms, 1e-36)) - self.reference
        return pattern_panels(tomograms), sums

    def maximize(self, panels: NDArray, sums: NDArray, ll: NDArray, first: int) -> NDArray:
        """Write the columns from `first` on; return the total of each orientation."""
        n = len(sums)
        if self.engine.gaussian:
            squares = np.einsum("ptl,ptl->pl", panels, panels, dtype=np.float64)
            sums = 0.5 * squares.ravel()[:n]
        offset = (sums - (0.0 if self.engine.gaussian else self.centre)).astype(np.float32)
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
        background, scale, _ = self.background
        return constant - scale * background.sum(dtype=np.float64)

"""Local refinement: every frame over its own rotations, about its best."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..orientations import multiply
from . import kernels
from .kernels import Photons
from .merge import Merger
from .model import Accumulator, Model
from .score import Scores
from .state import Block, Buffers, FrameState

if TYPE_CHECKING:
    from .engine import PixelEngine

KEPT = np.float32(0.05)
"""A frame is merged where its posterior is at least this share of its peak: the neighbours
below it are a fraction of a voxel away and cost as much."""


def batches(block: Block, n: int) -> Iterator[list[Block]]:
    """Split a block into single frames, n at a time."""
    frames = [_single(block, d) for d in range(block.stop - block.start)]
    for first in range(0, len(frames), n):
        yield frames[first : first + n]


def _single(block: Block, d: int) -> Block:
    photons = block.photons
    if isinstance(photons, Photons):
        one: Photons | NDArray[np.float32] = photons.part(d, d + 1)
    else:
        one = photons[d : d + 1]
    start = block.start + d
    return Block(start, start + 1, one, block.n_photons[d : d + 1], block.constant[d : d + 1])


class Refinement:
    """E-step of single frames over their own rotations; frames run side by side."""

    def __init__(
        self,
        engine: PixelEngine,
        model: Model,
        local: NDArray[np.float64],
        state: FrameState,
        log_reference: NDArray[np.float64],
    ) -> None:
        self.engine, self.model, self.local, self.state = engine, model, local, state
        self.log_reference = log_reference
        self.log_prior = np.full(len(local), -np.log(len(local)), np.float32)
        self._own = threading.local()

    def buffers(self) -> Buffers:
        """Return the scratch arrays of this thread."""
        if not hasattr(self._own, "buffers"):
            self._own.buffers = Buffers()
        return self._own.buffers

    def __call__(self, block: Block) -> tuple[int, NDArray, NDArray, NDArray] | None:
        """Orient one frame; return (mode, quats, slices, exposures) to merge."""
        d, engine, state = block.start, self.engine, self.state
        mode = int(state.mode[d])
        if mode >= len(self.model.volumes):
            return None
        best = state.orientation[d].astype(np.float64)
        quats = multiply(best / np.linalg.norm(best), self.local)
        volume = self.model.volumes[mode]
        buffers = self.buffers()
        scores = Scores(engine, block, state, self.log_reference, buffers, threads=1)
        panels, sums = scores.expand(volume, quats)
        p = np.empty((1, len(quats)), np.float32)
        total = scores.maximize(panels, sums, p, 0)
        old = state.fluence[d : d + 1].copy()
        result = kernels.posterior(p, np.ones(1, np.float32), self.log_prior, total, threads=1)
        result = result._replace(expected_ll=result.expected_ll + scores.constant(block, old))
        state.orientation[d] = quats[result.best[0]]
        engine.store(block, state, result, old)
        new = state.fluence[d : d + 1]
        p[p < KEPT * p.max()] = 0.0
        p /= p.sum()
        merger = Merger(engine, block, state, p, new, old, total, buffers, threads=1)
        slices = merger.slices(0, len(quats), lambda: merger.tomograms(volume, quats))
        merger.finish()
        kept = np.flatnonzero(p[0])
        return mode, quats[kept], slices[kept], merger.exposures[kept]

    def merge(self, merged: list, accumulators: list[Accumulator]) -> None:
        """Scatter what a batch of frames returned, in the order of the frames."""
        weights = self.engine.layout.exposure
        for mode, accumulator in enumerate(accumulators):
            parts = [m[1:] for m in merged if m[0] == mode]
            if parts:
                quats, slices, exposures = (np.concatenate(p) for p in zip(*parts, strict=True))
                self.engine.merge(
                    slices,
                    exposures,
                    weights**2 if self.engine.gaussian else weights,
                    np.ascontiguousarray(quats),
                    accumulator,
                )

"""Local refinement: every frame over its own rotations, about its best."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

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

KEPT = 0.05
"""A frame is merged where its posterior is at least this share of its peak: the neighbours
below it are a fraction of a voxel away and cost as much."""

AT_A_TIME = 16
"""Frames whose slices wait to be merged, on the CPU."""


def runs(values: NDArray[np.int32], longest: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of runs of equal values, cut where they are too long."""
    first = 0
    for last in range(1, len(values) + 1):
        if last == len(values) or last - first == longest or values[last] != values[first]:
            yield first, last
            first = last


def part(block: Block, first: int, last: int) -> Block:
    """Return frames first .. last - 1 of a block."""
    photons, frames = block.photons, slice(first, last)
    some = photons.part(first, last) if isinstance(photons, Photons) else photons[frames]
    start = block.start
    return Block(start + first, start + last, some, block.n_photons[frames], block.constant[frames])


class Oriented(NamedTuple):
    """What some frames of one mode say of their own rotations."""

    volume: Any
    quats: NDArray[np.float64]  # [D K, 4], K for each frame
    probability: Any  # [D, D K], 0 where the rotation is another frame's
    total: Any  # [D K], photons expected
    fluence: NDArray[np.float32]  # [D], before

    def kept(self) -> Oriented:
        """Leave out the rotations that no frame takes; in host memory."""
        some = np.flatnonzero(self.probability.any(axis=0))
        probability = np.ascontiguousarray(self.probability[:, some])
        return self._replace(
            quats=self.quats[some], probability=probability, total=self.total[some]
        )


class Refinement:
    """E-step of frames over their own rotations: on the CPU single frames, side by side; on a
    GPU as many as make a tile."""

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
        self._own = threading.local()

    def buffers(self) -> Buffers:
        """Return the scratch arrays of this thread."""
        if not hasattr(self._own, "buffers"):
            self._own.buffers = Buffers()
        return self._own.buffers

    def orient(self, block: Block, mode: int, buffers: Buffers, threads: int) -> Oriented:
        """Orient frames of one mode; K columns of the result are each frame's own."""
        engine, state, backend = self.engine, self.state, self.engine.backend
        span, n = slice(block.start, block.stop), block.stop - block.start
        best = state.orientation[span].astype(np.float64)
        best /= np.linalg.norm(best, axis=1, keepdims=True)
        quats = multiply(best[:, None], self.local).reshape(-1, 4)
        volume = self.model.volumes[mode]
        scores = Scores(engine, block, state, self.log_reference, buffers, threads)
        panels, sums = scores.expand(volume, quats)
        p = buffers("ll", n, len(quats))
        total = scores.maximize(panels, sums, p, 0)
        others = np.where(np.eye(n, dtype=bool), 0.0, -np.inf).astype(np.float32)
        own = p.reshape(n, n, -1)
        own += backend.to_device(others)[:, :, None]
        log_prior = np.full(len(quats), -np.log(len(self.local)), np.float32)
        result = kernels.posterior(
            p,
            backend.ones(n, np.float32),
            backend.to_device(log_prior),
            total,
            threads=threads,
        )
        result = kernels.Posterior(*map(backend.to_host, result))
        old = state.fluence[span].copy()
        result = result._replace(
            expected_ll=result.expected_ll + scores.constant(block, old),
            information=result.information - np.log(n),  # the prior is of all n K rotations
        )
        state.orientation[span] = quats[result.best]
        engine.store(block, state, result, old)
        p *= p >= KEPT * backend.library.amax(p, 1)[:, None]
        p /= p.sum(1)[:, None]
        return Oriented(volume, quats, p, total, old)

    def merger(self, block: Block, found: Oriented, buffers: Buffers, threads: int) -> Merger:
        """Return what merges the frames, weighted with their new fluences."""
        new = self.state.fluence[block.start : block.stop]
        return Merger(
            self.engine,
            block,
            self.state,
            found.probability,
            new,
            found.fluence,
            found.total,
            buffers,
            threads,
        )

    def together(self, block: Block, accumulators: list[Accumulator]) -> None:
        """Orient and merge a block in tiles: neighbours of one mode, each over its rotations.

        A tile of D frames holds the log-likelihood of each over the rotations of all: D times
        the photons of a frame are read for a slice, still fewer than its pixels as a rule.
        """
        engine = self.engine
        buffers, threads = engine.buffers, engine.settings.threads
        modes = self.state.mode[block.start : block.stop]
        for first, last in runs(modes, max(1, engine.tile_size() // len(self.local))):
            mode = int(modes[first])
            if mode >= len(accumulators):
                continue
            frames = part(block, first, last)
            found = self.orient(frames, mode, buffers, threads)
            merger = self.merger(frames, found, buffers, threads)
            merger.volume(found.volume, accumulators[mode], found.quats, 0)
            merger.finish()

    def one_by_one(
        self, block: Block, pool: ThreadPoolExecutor, accumulators: list[Accumulator]
    ) -> None:
        """Orient the frames of a block side by side, and merge them in their order."""
        frames = [part(block, d, d + 1) for d in range(block.stop - block.start)]
        for first in range(0, len(frames), AT_A_TIME):
            merged = pool.map(self.single, frames[first : first + AT_A_TIME])
            self.merge([m for m in merged if m is not None], accumulators)

    def single(self, block: Block) -> tuple[int, NDArray, NDArray, NDArray] | None:
        """Orient one frame; return (mode, quats, slices, exposures) to merge."""
        mode = int(self.state.mode[block.start])
        if mode >= len(self.model.volumes):
            return None
        buffers = self.buffers()
        found = self.orient(block, mode, buffers, threads=1).kept()
        quats = found.quats
        merger = self.merger(block, found, buffers, threads=1)
        slices = merger.slices(0, len(quats), lambda: merger.tomograms(found.volume, quats))
        merger.finish()
        return mode, quats, slices.copy(), merger.exposures

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

"""The polar engine on several GPUs of a machine, each with a share of the frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..._dispatch import CudaBackend
from ...frames import Frames
from ..model import Model
from ..state import FrameState, Settings
from .engine import PolarEngine, PolarGrid, Progress
from .layout import PolarLayout
from .orders import AngularOrders

T = TypeVar("T")


class SharedPolarEngine(PolarEngine):
    """A polar engine whose frames are shared out in runs, one for each GPU.

    Parameters
    ----------
    frames, layout, orders, settings
        As of `PolarEngine`; the GPU of the settings merges.
    backends : sequence of CudaBackend
        Each orients its share of the frames, in a thread of its own.

    Notes
    -----
    Each GPU makes all views, and its tomograms, which are summed in host memory. The timer counts
    what the first one does; threads of the CPU are shared too.
    """

    def __init__(
        self,
        frames: Frames,
        layout: PolarLayout,
        orders: AngularOrders,
        settings: Settings,
        backends: Sequence[CudaBackend],
    ) -> None:
        super().__init__(frames, layout, orders, settings)
        bounds = pairwise(np.linspace(0, frames.n_frames, len(backends) + 1).astype(int))
        threads = max(1, settings.threads // len(backends))
        self.shares = [
            (
                slice(a, b),
                PolarEngine(
                    frames[a:b], layout, orders, replace(settings, backend=backend, threads=threads)
                ),
            )
            for (a, b), backend in zip(bounds, backends, strict=True)
            if a < b
        ]
        self.timer = self.shares[0][1].timer

    def evidence(self, model: Model, grid: PolarGrid, state: FrameState) -> float:
        """As of `PolarEngine`."""

        def of_share(span: slice, engine: PolarEngine) -> float:
            mean = engine.evidence(model, grid, state.part(span))
            return mean * engine.frames.n_frames / self.frames.n_frames

        return sum(self._each(of_share))

    def _tomograms(
        self,
        model: Model,
        grid: PolarGrid,
        state: FrameState,
        beta: NDArray[np.float32],
        progress: Progress | None,
    ) -> tuple[Any, Any]:
        first = self.shares[0][1]

        def of_share(span: slice, engine: PolarEngine) -> list[NDArray]:
            part, told = state.part(span), progress if engine is first else None
            engine.terms_per_frame = self.terms_per_frame
            with engine.backend.device:
                sums = engine._tomograms(model, grid, part, beta[span], told)
                on_host = [engine.backend.to_host(x) for x in sums]
            engine.buffers.release()
            state.update(span, part)
            return on_host

        sums = self._each(of_share)
        terms = sum(e.terms_per_frame * e.frames.n_frames for _, e in self.shares)
        self.terms_per_frame = terms / self.frames.n_frames
        tomograms, exposures = (self.backend.to_device(sum(x)) for x in zip(*sums, strict=True))
        return tomograms, exposures

    def _each(self, function: Callable[[slice, PolarEngine], T]) -> list[T]:
        """Call a function for all shares at a time."""
        with ThreadPoolExecutor(len(self.shares)) as pool:
            return list(pool.map(lambda share: function(*share), self.shares))

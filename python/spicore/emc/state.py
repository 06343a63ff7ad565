"""What an iteration works with: options, grid, frames, clock and scratch memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._dispatch import CPU, CpuBackend, CudaBackend
from .kernels import Photons


@dataclass(frozen=True)
class Settings:
    """What stays the same in every iteration."""

    fluence: bool
    dragonfly: bool  # merge and temper as that program
    prior: float
    gaussian_sigma: float
    block_bytes: int
    threads: int
    symmetry: NDArray[np.float64]  # [G, 4]
    background: NDArray[np.float64] | None = None  # photons per detector pixel
    backend: CpuBackend | CudaBackend = CPU  # where iterations run


@dataclass(frozen=True)
class Grid:
    """The orientations searched: quats [R, 4] and their prior weights [R], sum 1."""

    quats: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def n_orientations(self) -> int:
        """Orientations of one mode."""
        return len(self.quats)


@dataclass
class FrameState:
    """What is known of each frame; all arrays [N]."""

    fluence: NDArray[np.float32]
    background_scale: NDArray[np.float32]
    orientation: NDArray[np.float32]  # [N, 4], the best so far
    mode: NDArray[np.int32]
    log_likelihood: NDArray[np.float64]
    mutual_information: NDArray[np.float64]

    @classmethod
    def start(cls, n: int) -> FrameState:
        """All fluences 1, nothing known of the rest."""
        nan = np.full(n, np.nan)
        return cls(
            np.ones(n, np.float32),
            np.ones(n, np.float32),
            np.full((n, 4), np.nan, np.float32),
            np.zeros(n, np.int32),
            nan.copy(),
            nan.copy(),
        )

    def normalise_fluence(self) -> float:
        """Divide the fluences by their mean, and return it."""
        mean = float(self.fluence.mean(dtype=np.float64))
        self.fluence /= np.float32(mean)
        return mean

    def part(self, index: NDArray[np.int64] | slice) -> FrameState:
        """Return copies for some frames."""
        return FrameState(**{name: getattr(self, name)[index].copy() for name in self.names()})

    def update(self, index: NDArray[np.int64] | slice, part: FrameState) -> None:
        """Take over what is known of some frames."""
        for name in self.names():
            getattr(self, name)[index] = getattr(part, name)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(cls.__dataclass_fields__)


@dataclass
class Timer:
    """Seconds spent per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed


@dataclass
class Block:
    """Frames start .. stop, ready for the kernels."""

    start: int
    stop: int
    photons: Photons | NDArray[np.float32]  # for likelihood and merging
    n_photons: NDArray[np.float64]  # in rows that orient
    constant: NDArray[np.float64]  # of the log-likelihood, per frame


class Buffers:
    """Scratch arrays that are kept from tile to tile: fresh memory costs a page fault per 4 kB."""

    def __init__(self, backend: CpuBackend | CudaBackend = CPU) -> None:
        self.backend = backend
        self._arrays: dict[str, Any] = {}

    def __call__(self, name: str, *shape: int) -> Any:
        """Return float32 of a shape, uninitialised; the same memory for the same name."""
        n = int(np.prod(shape))
        if name not in self._arrays or len(self._arrays[name]) < n:
            self._arrays.pop(name, None)  # first: the new one may need its memory
            self._arrays[name] = self.backend.empty(n, np.float32)
        return self._arrays[name][:n].reshape(shape)

    def release(self, *names: str) -> None:
        """Give the memory of some names, or all, back before something else needs as much."""
        for name in names or tuple(self._arrays):
            self._arrays.pop(name, None)

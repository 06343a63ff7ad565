"""HIO as loops of NumPy around a library's transforms: what a user writes without spicore.

Each peer holds its arrays, does n iterations on a batch of starts and has x [S, *shape]. None
computes an R factor, which spicore always does.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray


class Loop:
    """x := P_M x inside the support, x - beta P_M x outside."""

    def __init__(self, amplitude: NDArray, mask: NDArray, support: NDArray, x: NDArray) -> None:
        self.amplitude, self.measured, self.support = amplitude, mask, support
        self.axes = tuple(range(-amplitude.ndim, 0))
        self.x = x.copy()

    def forward(self, x: NDArray) -> NDArray:
        raise NotImplementedError

    def inverse(self, f: NDArray) -> NDArray:
        raise NotImplementedError

    def run(self, n: int, beta: float) -> None:
        for _ in range(n):
            f = self.forward(self.x)
            scale = np.abs(f)
            np.divide(self.amplitude, scale, out=scale, where=scale > 0)
            np.copyto(scale, 1, where=~self.measured)
            f *= scale
            p = self.inverse(f)
            self.x -= self.x.real.dtype.type(beta) * p
            np.copyto(self.x, p, where=self.support)


class ComplexLoop(Loop):
    """complex64 objects and whole spectra, whatever the object: the usual loop."""

    def __init__(self, *arrays: NDArray, threads: int) -> None:
        super().__init__(*arrays)
        self.x = self.x.astype(np.complex64)
        self.threads = threads

    def forward(self, x: NDArray) -> NDArray:
        return scipy.fft.fftn(x, axes=self.axes, workers=self.threads)

    def inverse(self, f: NDArray) -> NDArray:
        return scipy.fft.ifftn(f, axes=self.axes, workers=self.threads, overwrite_x=True)


class RealLoop(Loop):
    """float32 objects and half spectra; `library` is scipy.fft or mkl_fft's copy of it."""

    def __init__(self, *arrays: NDArray, library: ModuleType, **options: Any) -> None:
        super().__init__(*arrays)
        half = (..., slice(self.amplitude.shape[-1] // 2 + 1))
        self.amplitude = np.ascontiguousarray(self.amplitude[half])
        self.measured = np.ascontiguousarray(self.measured[half])
        self.library, self.options = library, options

    def forward(self, x: NDArray) -> NDArray:
        return self.library.rfftn(x, axes=self.axes, **self.options)

    def inverse(self, f: NDArray) -> NDArray:
        shape = self.x.shape[-len(self.axes) :]
        return self.library.irfftn(f, s=shape, axes=self.axes, **self.options)

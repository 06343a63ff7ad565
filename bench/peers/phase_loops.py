"""HIO as loops of NumPy around a library's transforms, and cohere's.

Each peer holds its arrays, does n iterations on a batch of starts and has x [S, *shape]. None
computes an R factor, which spicore always does, but cohere, whose error norm costs about the same.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray


class Loop:
    """x := P_M x inside the support, x - beta P_M x outside; what a user writes without spicore."""

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
    """Complex objects and whole spectra, whatever the object: the usual loop.

    `library` is numpy.fft, scipy.fft or mkl_fft's copy of it, with their options.
    """

    def __init__(self, *arrays: NDArray, library: ModuleType, **options: Any) -> None:
        super().__init__(*arrays)
        self.x = self.x.astype(np.result_type(self.x, np.complex64))
        self.library, self.options = library, options

    def forward(self, x: NDArray) -> NDArray:
        return self.library.fftn(x, axes=self.axes, **self.options)

    def inverse(self, f: NDArray) -> NDArray:
        in_place = {"out": f} if self.library is np.fft else {"overwrite_x": True}
        return self.library.ifftn(f, axes=self.axes, **in_place, **self.options)


class RealLoop(Loop):
    """Real objects and half spectra; libraries as above."""

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


class Cohere:
    """cohere-core's own iterations on its NumPy backend: complex objects of three axes, one start.

    Its `Rec` gets the arrays from memory instead of from files; what runs is the list of
    operations that it makes of "1*HIO", without what it does once after the last iteration. It has
    no mask: 0 where nothing was measured would be enforced. By itself it uses one thread; here its
    transforms get as many as the others. Its transform to frequencies has the sign of an inverse,
    so that it takes the modulus at -q.
    """

    def __init__(self, amplitude: NDArray, support: NDArray, x: NDArray, *, threads: int) -> None:
        from cohere_core.controller.phasing import Rec  # may not be installed

        self.rec = rec = Rec({"algorithm_sequence": "1*HIO"}, "", "np", debug=True)
        axes = tuple(range(amplitude.ndim))
        rec.data = np.roll(np.flip(amplitude), 1, axes)
        rec.dims, rec.dev = amplitude.shape, "cpu"
        rec.ds_image = x[0].astype(np.result_type(x, np.complex64))
        rec.init_iter_loop()
        rec.support = support.astype(np.uint8)
        self.threads = threads

    @property
    def x(self) -> NDArray:
        return self.rec.ds_image[None]

    def run(self, n: int, beta: float) -> None:
        self.rec.params["hio_beta"] = beta
        with scipy.fft.set_workers(self.threads):
            for _ in range(n):
                for operation in self.rec.flow:
                    operation()
            self.rec.errs.clear()

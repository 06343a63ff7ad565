"""HIO as loops of CuPy and of torch around their transforms: what a user writes on a GPU.

Each peer holds its arrays, does n iterations on a batch of starts and has x [S, *shape]. None
computes an R factor, which spicore always does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MODULUS = """
const float length = sqrt(norm(f));
if (a >= 0) f = length > 0 ? f * (a / length) : complex<float>(a, 0.0f);
"""
HIO = "x = inside ? p : x - beta * p"


class CupyLoop:
    """Transforms on plans made before, in place where they can be; two fused kernels."""

    def __init__(
        self, cupy: Any, amplitude: NDArray, mask: NDArray, support: NDArray, x: NDArray, real: bool
    ) -> None:
        import cupyx.scipy.fft as fft

        self.fft, self.real = fft, real
        self.axes, self.shape = tuple(range(1, x.ndim)), x.shape[1:]
        half = (..., slice(x.shape[-1] // 2 + 1 if real else None))
        coded = np.where(mask, amplitude, -1)[half]  # the mask costs no memory of its own
        self.amplitude = cupy.asarray(np.ascontiguousarray(coded, np.float32))
        self.support = cupy.asarray(support)
        self.x = cupy.asarray(x, np.float32 if real else np.complex64)
        kind = "float32" if real else "complex64"
        self.modulus = cupy.ElementwiseKernel("float32 a", "complex64 f", MODULUS, "modulus")
        self.hio = cupy.ElementwiseKernel(
            f"{kind} p, bool inside, float32 beta", f"{kind} x", HIO, "hio"
        )
        f = cupy.empty((len(x), *self.amplitude.shape), np.complex64)
        self.forward_plan = fft.get_fft_plan(
            self.x, axes=self.axes, value_type="R2C" if real else "C2C"
        )
        self.inverse_plan = (
            fft.get_fft_plan(f, shape=self.shape, axes=self.axes, value_type="C2R")
            if real
            else self.forward_plan
        )

    def run(self, n: int, beta: float) -> None:
        axes, beta = self.axes, np.float32(beta)
        for _ in range(n):
            if self.real:
                f = self.fft.rfftn(self.x, axes=axes, plan=self.forward_plan)
                self.modulus(self.amplitude, f)
                p = self.fft.irfftn(
                    f, s=self.shape, axes=axes, overwrite_x=True, plan=self.inverse_plan
                )
            else:
                f = self.fft.fftn(self.x, axes=axes, plan=self.forward_plan)
                self.modulus(self.amplitude, f)
                p = self.fft.ifftn(f, axes=axes, overwrite_x=True, plan=self.inverse_plan)
            self.hio(p, self.support, beta, self.x)


class TorchLoop:
    """Transforms of torch, and its operations one by one."""

    def __init__(
        self,
        torch: Any,
        amplitude: NDArray,
        mask: NDArray,
        support: NDArray,
        x: NDArray,
        real: bool,
    ) -> None:
        self.torch, self.real = torch, real
        self.axes, self.shape = tuple(range(1, x.ndim)), x.shape[1:]
        half = (..., slice(x.shape[-1] // 2 + 1 if real else None))

        def there(values: NDArray) -> Any:
            return torch.tensor(np.ascontiguousarray(values), device="cuda")

        self.amplitude, self.mask = there(amplitude[half]), there(mask[half])
        self.support = there(support)
        self.x = there(x.astype(np.float32 if real else np.complex64))

    def run(self, n: int, beta: float) -> None:
        torch, fft = self.torch, self.torch.fft
        for _ in range(n):
            transform = fft.rfftn if self.real else fft.fftn
            f = transform(self.x, dim=self.axes)
            length = f.abs()
            scale = torch.where(self.mask & (length > 0), self.amplitude / length, 1)
            f *= scale
            if self.real:
                p = fft.irfftn(f, s=self.shape, dim=self.axes)
            else:
                p = fft.ifftn(f, dim=self.axes)
            self.x = torch.where(self.support, p, self.x - beta * p)

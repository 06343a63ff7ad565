"""Iterations of phase retrieval on a GPU: starts are torch or CuPy arrays, the data NumPy's."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._dispatch import CudaBackend
from ..errors import CudaError, InputError
from .layout import SpectrumLayout

if TYPE_CHECKING:
    from .kernels import Measured, Seeds

TYPES = {
    True: {"float32": np.float32, "float64": np.float64},
    False: {"complex64": np.float32, "complex128": np.float64},
}
"""Of x, for real objects and others, with the precision of the iterations."""


def iterate(
    backend: CudaBackend,
    measured: Measured,
    seeds: Seeds,
    n: int,
    shells: Callable[[SpectrumLayout], tuple],
    **options: Any,
) -> Any:
    """Do n iterations in place on a GPU; `kernels.iterate` has the contract.

    Parameters
    ----------
    backend : CudaBackend
        Of the arrays of `seeds`.
    measured : Measured
        Laid out and copied to the GPU by the first call, which waits for that; kept there.
    seeds : Seeds
        On the GPU. Values are not checked.
    n : int
        Iterations.
    shells : function
        Returns the shell of each frequency of a layout, and 1 / frequencies of each.
    **options
        rounds, positive and phase_bounds, as the kernel takes them.

    Returns
    -------
    float64 [S, n]
        R factors, on the GPU.
    """
    with backend.device:
        dtype = _check(backend, measured, seeds)
        n_starts = seeds.x.shape[0]
        errors = backend.new("empty", (n_starts, n), dtype=np.float64)
        if n_starts:
            shared = _shared(backend, measured, dtype, shells)
            _run(backend, seeds, dtype, shared, errors, options)
    return errors


def copied_to(backend: CudaBackend, seeds: Seeds) -> Seeds:
    """Return a copy on the GPU of starts in host memory.

    Parameters
    ----------
    backend : CudaBackend
    seeds : Seeds
    """
    background = None if seeds.background is None else backend.to_device(seeds.background)
    return replace(
        seeds,
        x=backend.to_device(seeds.x),
        support=backend.to_device(seeds.support),
        background=background,
    )


def layout_of(shape: tuple[int, ...], real: bool) -> SpectrumLayout:
    """Return the layout on a GPU: planes of all columns, [n1, columns], then the edge.

    Parameters
    ----------
    shape : tuple of int
        Of an object, 1 to 3 axes.
    real : bool
        Spectra are halves along the last axis.
    """
    n1, n2 = SpectrumLayout(shape, real, 1, 0, 0).grid[1:3]
    columns = n2 if not real else n2 // 2 if n2 % 2 == 0 else (n2 + 1) // 2
    edge = -(-n1 // columns) if real and n2 % 2 == 0 else 0
    return SpectrumLayout(shape, real, columns, n1 + edge, n1)


def _check(backend: CudaBackend, measured: Measured, seeds: Seeds) -> type:
    """Return the precision of x, if what arrays say of themselves fits the measurement."""
    types = TYPES[measured.real]
    name = str(seeds.x.dtype).removeprefix("torch.")
    if name not in types:
        what = "a real" if measured.real else "a complex"
        raise InputError(f"x must be {' or '.join(types)} for {what} object, got {name}")
    backend.array("x", seeds.x, name, (None, *measured.shape))
    kind = str(seeds.support.dtype).removeprefix("torch.")
    if kind not in ("uint8", "bool"):
        raise InputError(f"support must be uint8 or bool, got {kind}")
    backend.array("support", seeds.support, kind, (None, *measured.shape))
    n_starts, n_supports = seeds.x.shape[0], seeds.support.shape[0]
    if n_supports not in (1, n_starts):
        raise InputError(f"support must have length 1 or {n_starts}, got {n_supports}")
    if seeds.background is not None:
        backend.array("background", seeds.background, types[name], tuple(seeds.x.shape))
    return types[name]


def _shared(
    backend: CudaBackend, measured: Measured, dtype: type, shells: Callable[[SpectrumLayout], tuple]
) -> tuple[SpectrumLayout, Any, float, tuple]:
    """Return layout, target, sum of the amplitude and shells of a measurement; made once."""
    key = type(backend), backend.index, dtype
    if key not in measured._spectra:
        layout = layout_of(measured.shape, measured.real)
        target, total = measured.target(layout, dtype)
        on_gpu = tuple(backend.to_device(x) for x in (target, *shells(layout)))
        measured._spectra[key] = layout, on_gpu[0], total, on_gpu[1:]
    return measured._spectra[key]


def _run(
    backend: CudaBackend, seeds: Seeds, dtype: type, shared: tuple, errors: Any, options: dict
) -> None:
    layout, target, total, shells = shared
    n_starts, grid = seeds.x.shape[0], layout.grid[:3]
    background = None
    if seeds.background is not None:
        background = _to_blocks(backend, layout, seeds.background), *shells
    n_shells = 0 if background is None else shells[1].shape[0] - 1
    n_work, n_sums = _scratch(layout.grid, dtype == np.float64, n_starts, n_shells)
    support = seeds.support
    if str(support.dtype).endswith("bool"):
        support = support.view(backend.library.uint8)
    backend.run(
        "phase",
        layout.grid,
        seeds.x.reshape(n_starts, *grid),
        support.reshape(-1, *grid),
        target,
        total,
        background,
        options["rounds"],
        options["positive"],
        options["phase_bounds"],
        backend.new("empty", (n_work,), dtype=dtype),
        backend.new("empty", (1, n_sums), dtype=np.float64),
        errors,
        threads=None,
    )
    if background is not None:
        _from_blocks(backend, layout, background[0], seeds.background)


def _scratch(grid: tuple, is_double: bool, n_starts: int, n_shells: int) -> tuple[int, int]:
    """Return the sizes of work and sums; cuFFT, where it is needed, is loaded here."""
    from .. import _cuda

    sizes = _cuda.phase_sizes
    try:
        return sizes(grid, is_double, n_starts, n_shells, 1)[3:]
    except CudaError:
        if not _load_cufft_of_pypi():
            raise
        return sizes(grid, is_double, n_starts, n_shells, 1)[3:]


def _load_cufft_of_pypi() -> bool:
    """Return whether the library of NVIDIA's packages, of CUDA 13 or 12, is there and loads."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(x) for x in (spec.submodule_search_locations or ())] if spec else []
    for name in ("libcufft.so.12", "libcufft.so.11"):
        for path in (x for folder in folders for x in folder.glob(f"*/lib/{name}")):
            try:
                ctypes.CDLL(str(path))
            except OSError:
                continue
            return True
    return False


def _to_blocks(backend: CudaBackend, layout: SpectrumLayout, x: Any) -> Any:
    """Return [S, n0, blocks, lanes] of x [S, *shape], 0 in lanes past the last."""
    (n0, n1, n2), lanes, n = layout.grid[:3], layout.lanes, x.shape[0]
    x = x.reshape(n, n0, n1, n2)
    result = backend.zeros((n, n0, layout.blocks, lanes), str(x.dtype).removeprefix("torch."))
    result[:, :, :n1] = x[..., :lanes]
    if layout.half > lanes:
        flat = result.reshape(n, n0, layout.blocks * lanes)
        flat[:, :, n1 * lanes : n1 * (lanes + 1)] = x[..., lanes]
    return result


def _from_blocks(backend: CudaBackend, layout: SpectrumLayout, blocks: Any, out: Any) -> None:
    """Fill out [S, *shape], equal at q and -q, from blocks [S, n0, blocks, lanes]."""
    (n0, n1, n2), lanes, half = layout.grid[:3], layout.lanes, layout.half
    n = out.shape[0]
    out = out.reshape(n, n0, n1, n2)
    out[..., :lanes] = blocks[:, :, :n1]
    if half > lanes:
        flat = blocks.reshape(n, n0, layout.blocks * lanes)
        out[..., lanes] = flat[:, :, n1 * lanes : n1 * (lanes + 1)]
    if half < n2:  # a real object
        mates = backend.flip(out[..., 1 : (n2 + 1) // 2], (1, 2, 3))
        out[..., half:] = backend.library.roll(mates, (1, 1), (1, 2))

"""CPU kernels. Arrays are C-contiguous and of exactly these types; the last argument of an
operation is its number of threads. Shapes and contracts: cpp/include/spicore/<operation>.hpp."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_F4: TypeAlias = NDArray[np.float32]
_F8: TypeAlias = NDArray[np.float64]
_I8: TypeAlias = NDArray[np.int64]
_Photons: TypeAlias = tuple[_I8, _I8, NDArray[np.uint32], NDArray[np.uint16]]

lanes: int
openmp: bool

def simd_levels() -> list[str]: ...
def simd() -> str: ...
def set_simd(name: str) -> None: ...
def trim_memory() -> None: ...
def sort_photons(
    offset: _I8,
    pixel: NDArray[np.uint32],
    count: NDArray[np.uint16],
    row_of: NDArray[np.int32],
    n_orient: int,
    begin: _I8,
    orient_end: _I8,
    row_out: NDArray[np.uint32],
    count_out: NDArray[np.uint16],
    threads: int,
    /,
) -> None: ...
def ewald_slice(
    volume: _F4, quats: _F8, q: _F4, friedel: bool, out: _F4, threads: int, /
) -> None: ...
def ewald_merge(
    slices: _F4,
    slice_weights: _F4,
    pixel_weights: _F4,
    quats: _F8,
    q: _F4,
    friedel: bool,
    accumulator: _F8,
    threads: int,
    /,
) -> None: ...
def expand(
    volume: _F4,
    quats: _F8,
    q: _F4,
    exposure: _F4,
    reference: _F4,
    logarithm: bool,
    friedel: bool,
    out: _F4,
    total: _F8,
    threads: int,
    /,
) -> None: ...
def maximize(
    panels: _F4,
    photons: _Photons,
    fluence: _F4,
    offset: _F4,
    ll: _F4,
    first: int,
    threads: int,
    /,
) -> None: ...
def maximize_dense(
    panels: _F4,
    values: _F4,
    fluence: _F4,
    offset: _F4,
    ll: _F4,
    first: int,
    threads: int,
    /,
) -> None: ...
def maximize_background(
    panels: _F4,
    photons: _Photons,
    fluence: _F4,
    offset: _F4,
    background: _F4,
    background_scale: _F4,
    reference: _F4,
    ll: _F4,
    first: int,
    threads: int,
    /,
) -> None: ...
def posterior(
    ll: _F4,
    beta: _F4,
    prior_power: _F4,
    log_prior: _F4,
    cut: float,
    total: _F8,
    best: _I8,
    expected_ll: _F8,
    information: _F8,
    expected_total: _F8,
    threads: int,
    /,
) -> None: ...
def compress(
    posterior: _F4,
    first: int,
    photons: _Photons,
    scratch: _F4,
    out: _F4,
    threads: int,
    /,
) -> None: ...
def compress_dense(
    posterior: _F4,
    first: int,
    values: _F4,
    scratch: _F4,
    out: _F4,
    threads: int,
    /,
) -> None: ...
def compress_background(
    posterior: _F4,
    first: int,
    photons: _Photons,
    panels: _F4,
    fluence: _F4,
    background: _F4,
    background_scale: _F4,
    scratch: _F4,
    out: _F4,
    signal: _F8,
    threads: int,
    /,
) -> None: ...

"""CPU kernels. Arrays are C-contiguous and of exactly these types; the last argument of an
operation is its number of threads. Shapes and contracts: cpp/include/spicore/<operation>.hpp."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_F4: TypeAlias = NDArray[np.float32]
_F8: TypeAlias = NDArray[np.float64]
_I8: TypeAlias = NDArray[np.int64]
_Photons: TypeAlias = tuple[_I8, _I8, NDArray[np.uint32], NDArray[np.uint16]]

_Grid: TypeAlias = tuple[int, int, int, bool]
_Round: TypeAlias = tuple[tuple[float, ...], bool, tuple[float, ...], bool]

_Orders: TypeAlias = tuple[int, int, NDArray[np.int32], _I8]
_Terms: TypeAlias = tuple[_I8, NDArray[np.uint32], NDArray[np.uint32], _F4]
_Task: TypeAlias = tuple[_F4, _F4, _F4, _F4 | None, _F4, _F4, _F4]

lanes: int
match_chunk: int
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
def photons_to_dense(photons: _Photons, out: _F4, threads: int, /) -> None: ...
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
def polar_frames(photons: _Photons, orders: _Orders, out: _F4, threads: int, /) -> None: ...
def polar_views(
    panels: _F4,
    orders: _Orders,
    reference: _F4,
    exposure: _F4,
    mirrors: int,
    logs: _F4,
    totals: _F4,
    threads: int,
    /,
) -> None: ...
def correlate_workspace(orders: _Orders, mirrors: int, arithmetic: str, chunk: int, /) -> int: ...
def screen(
    task: _Task, orders: _Orders, arithmetic: str, work: _F4, scores: _F4, threads: int, /
) -> None: ...
def correlate(
    task: _Task,
    orders: _Orders,
    arithmetic: str,
    keep: NDArray[np.uint8] | None,
    cut: float,
    work: _F4,
    chunk: int,
    lists: tuple[NDArray[np.uint32], NDArray[np.uint32], _F4, _I8],
    sums: tuple[_I8, _F8, _F8, _F8, _F8],
    threads: int,
    /,
) -> None: ...
def match(
    task: _Task,
    orders: _Orders,
    arithmetic: str,
    work: _F4,
    best: _F4,
    index: _I8,
    mean: _F4,
    threads: int,
    /,
) -> None: ...
def accumulate_workspace(
    n_angles: int,
    mirrors: int,
    n_bins: int,
    n_groups: int,
    n_photons: int,
    threads: int,
    /,
) -> int: ...
def accumulate_device_workspace(
    n_angles: int,
    n_bins: int,
    n_chunks: int,
    n_groups: int,
    n_frames: int,
    n_terms: int,
    /,
) -> int: ...
def accumulate(
    terms: _Terms,
    photons: _Photons,
    fluence: _F4,
    n_angles: int,
    mirrors: int,
    work: _F4,
    tomograms: _F4,
    exposures: _F8,
    threads: int,
    /,
) -> None: ...
def phase_sizes(
    grid: _Grid, is_double: bool, n_seeds: int, n_shells: int, threads: int, /
) -> tuple[int, int, int, int, int]: ...
def phase(
    grid: _Grid,
    x: NDArray,
    support: NDArray[np.uint8],
    target: NDArray,
    total: float,
    background: tuple[NDArray, NDArray[np.int32], _F8] | None,
    rounds: list[_Round],
    positive: bool,
    phase_bounds: tuple[float, float] | None,
    work: NDArray,
    sums: _F8,
    errors: _F8,
    threads: int,
    /,
) -> None: ...

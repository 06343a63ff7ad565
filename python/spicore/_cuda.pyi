"""CUDA kernels. Arrays export DLPack from one GPU, C-contiguous and of the types of `_core`;
the last argument of an operation is the handle of a stream of that GPU, which must be the
current one. Nothing is waited for. Angular orders alone are in host memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Orders = tuple[int, int, NDArray[np.int32], NDArray[np.int64]]
_Photons = tuple[Any, Any, Any, Any]
_Task = tuple[Any, Any, Any, Any, Any, Any, Any]

def device_count() -> int: ...
def device_status() -> tuple[int, str]: ...
def sort_photons(
    offset: Any,
    pixel: Any,
    count: Any,
    row_of: Any,
    n_orient: int,
    begin: Any,
    orient_end: Any,
    row_out: Any,
    count_out: Any,
    stream: int,
    /,
) -> None: ...
def photons_to_dense(photons: _Photons, out: Any, stream: int, /) -> None: ...
def ewald_slice(
    volume: Any, quats: Any, q: Any, friedel: bool, out: Any, stream: int, /
) -> None: ...
def ewald_merge(
    slices: Any,
    slice_weights: Any,
    pixel_weights: Any,
    quats: Any,
    q: Any,
    friedel: bool,
    accumulator: Any,
    stream: int,
    /,
) -> None: ...
def phase_sizes(
    grid: tuple[int, int, int, bool],
    is_double: bool,
    n_seeds: int,
    n_shells: int,
    threads: int,
    /,
) -> tuple[int, int, int, int, int]: ...
def phase(
    grid: tuple[int, int, int, bool],
    x: Any,
    support: Any,
    target: Any,
    total: float,
    background: tuple[Any, Any, Any] | None,
    rounds: list[Any],
    positive: bool,
    phase_bounds: tuple[float, float] | None,
    work: Any,
    sums: Any,
    errors: Any,
    stream: int,
    /,
) -> None: ...
def expand(
    volume: Any,
    quats: Any,
    q: Any,
    exposure: Any,
    reference: Any,
    logarithm: bool,
    friedel: bool,
    out: Any,
    total: Any,
    stream: int,
    /,
) -> None: ...
def maximize(
    panels: Any,
    photons: _Photons,
    fluence: Any,
    offset: Any,
    ll: Any,
    first: int,
    stream: int,
    /,
) -> None: ...
def maximize_dense(
    panels: Any,
    values: Any,
    fluence: Any,
    offset: Any,
    ll: Any,
    first: int,
    stream: int,
    /,
) -> None: ...
def maximize_background(
    panels: Any,
    photons: _Photons,
    fluence: Any,
    offset: Any,
    background: Any,
    background_scale: Any,
    reference: Any,
    ll: Any,
    first: int,
    stream: int,
    /,
) -> None: ...
def posterior(
    ll: Any,
    beta: Any,
    prior_power: Any,
    log_prior: Any,
    cut: float,
    total: Any,
    best: Any,
    expected_ll: Any,
    information: Any,
    expected_total: Any,
    stream: int,
    /,
) -> None: ...
def compress(
    posterior: Any,
    first: int,
    photons: _Photons,
    scratch: Any,
    out: Any,
    stream: int,
    /,
) -> None: ...
def compress_dense(
    posterior: Any,
    first: int,
    values: Any,
    scratch: Any,
    out: Any,
    stream: int,
    /,
) -> None: ...
def compress_background(
    posterior: Any,
    first: int,
    photons: _Photons,
    panels: Any,
    fluence: Any,
    background: Any,
    background_scale: Any,
    scratch: Any,
    out: Any,
    signal: Any,
    stream: int,
    /,
) -> None: ...
def polar_frames(photons: _Photons, orders: _Orders, out: Any, stream: int, /) -> None: ...
def polar_views(
    panels: Any,
    orders: _Orders,
    reference: Any,
    exposure: Any,
    mirrors: int,
    logs: Any,
    totals: Any,
    stream: int,
    /,
) -> None: ...
def screen(
    task: _Task, orders: _Orders, arithmetic: str, work: Any, scores: Any, stream: int, /
) -> None: ...
def correlate(
    task: _Task,
    orders: _Orders,
    arithmetic: str,
    keep: Any,
    cut: float,
    work: Any,
    chunk: int,
    lists: tuple[Any, Any, Any, Any],
    sums: tuple[Any, Any, Any, Any, Any],
    stream: int,
    /,
) -> None: ...
def match(
    task: _Task,
    orders: _Orders,
    arithmetic: str,
    work: Any,
    best: Any,
    index: Any,
    mean: Any,
    stream: int,
    /,
) -> None: ...
def accumulate(
    terms: tuple[Any, Any, Any, Any],
    photons: _Photons,
    fluence: Any,
    n_angles: int,
    mirrors: int,
    work: Any,
    tomograms: Any,
    exposures: Any,
    stream: int,
    /,
) -> None: ...

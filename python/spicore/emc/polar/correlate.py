"""Scores of frames in all orientations: circular correlation with the views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..._dispatch import CPU, CpuBackend, CudaBackend, backend_of, n_threads
from .accumulate import Terms
from .orders import GROUP, AngularOrders

CUT = 14.0
"""Posterior terms this many nats below the largest are dropped: together below 1e-5."""

Arithmetic = Literal["float32", "bf16", "bf16_split"]
"""How coefficients of frames and views are multiplied; sums and the rest are float32 in each.

========== ====================== ===================== ====================
           factors                error of a product    scores of sim_4bed
========== ====================== ===================== ====================
float32    24 bits                < 2^-24               rms 1e-4, max 1e-3
bf16       8 bits                 rms 2^-8.7, < 2^-7    rms 0.44, max 2.6
bf16_split hi + lo, without lo lo rms 2^-17.8, < 2^-15  rms 9e-4, max 5e-3
========== ====================== ===================== ====================

Order 0 is float32 in each: one of many, it would make the errors of bf16 1.5 to 2.7 times as
large. A score is the sum of 2 Re(conj(K) L) over the other coefficients, and the products err
independently: its rms error is that of a product times ``sqrt(2 sum |K|^2 |L|^2)``, as measured
within 6 % for 300 to 300,000 photons, in proportion to which it grows (`bf16_error`). It cannot
exceed ``2 sqrt(2) sum |K| |L|`` times the largest error of a product.

The last column, in nats: 48 frames of 926 photons against 64 views of the true intensity with
their mirror images and 128 angles, scores -1342 +- 499, rings of 2 voxels; rings of 1 voxel give
two thirds.

Products of bf16 run on AMX tiles where the instruction set is "amx"; elsewhere the same
arithmetic runs in software, slower than float32, for tests.
"""

BF16_ROUNDING = 2.0**-8.73
"""Relative rms error of a product of two bf16: of a factor sqrt(0.541 / 12) 2^-7, where 0.541 is
the mean of 1 / significand^2 of numbers whose logarithms are spread evenly."""


@dataclass(frozen=True)
class Views:
    """What frames are compared with, as `polar_views` makes it.

    With ``x = sum_{q,t} K[d, q, t] L_v(q, t + j)``, and ``L_v(q, -(t + j))`` for the mirror
    image, the score of orientation ``(view * mirrors + mirror) * A + j`` is
    ``x * norm - fluence * totals``.

    Attributes
    ----------
    orders : AngularOrders
    logs : float32 [G, C, 2, 16]            transformed L of groups of 16 views
    totals : float32 [G, mirrors, A, 16]    expected photons at fluence 1
    log_prior : float32 [16 G]              of each orientation of a view; -inf: no view
    norm : float32 [G, mirrors, A, 16]      optional factor
    """

    orders: AngularOrders
    logs: Any
    totals: Any
    log_prior: Any
    norm: Any = None

    @property
    def mirrors(self) -> int:
        """2 where the mirror image of each view is searched too."""
        return self.totals.shape[1]

    @cached_property
    def n_orientations(self) -> int:
        """Orientations with a finite prior."""
        views = int((self.log_prior > -np.inf).sum())
        return views * self.mirrors * self.orders.n_angles


def bf16_error(frames: Any, views: Views, n_orders: int) -> Any:
    """Return the rms error [D] of scores from orders 0 .. n_orders - 1 in bf16.

    See `Arithmetic`; the power of L is a mean over at most 64 groups of views.
    """
    backend = backend_of(frames=frames, logs=views.logs)
    einsum, wide = backend.library.einsum, {"dtype": np.float64} if backend is CPU else {}
    begin = views.orders.begin[: n_orders + 1]
    used = slice(int(begin[1]), int(begin[-1]))
    k, logs = frames[:, used], views.logs[:: -(-len(views.logs) // 64), used]
    power = einsum("gqpv,gqpv->q", logs, logs, **wide) / (GROUP * len(logs))
    # Not by einsum: on a GPU it makes a product of matrices of each of these sums of two.
    return BF16_ROUNDING * (2.0 * (k * k).sum(2) @ power) ** 0.5


class FramePosterior(NamedTuple):
    """What `correlate` says of each frame; all arrays [D].

    Attributes
    ----------
    best : int64             most probable orientation
    evidence : float64       log sum prior exp(beta score)
    expected_score : float64 sum P score
    information : float64    sum P log(P / prior), nats
    expected_total : float64 sum P totals
    """

    best: NDArray[np.int64]
    evidence: NDArray[np.float64]
    expected_score: NDArray[np.float64]
    information: NDArray[np.float64]
    expected_total: NDArray[np.float64]


class Overflow(Exception):
    """A chunk of frames had more terms than fit; do them in smaller chunks."""


def _backend(frames: Any, views: Views, fluence: Any, **others: Any) -> CpuBackend | CudaBackend:
    return backend_of(
        frames=frames, logs=views.logs, totals=views.totals, norm=views.norm,
        log_prior=views.log_prior, fluence=fluence, **others,
    )  # fmt: skip


def _task(
    backend: CpuBackend | CudaBackend, frames: Any, views: Views, fluence: Any, beta: Any
) -> tuple:
    return (
        frames,
        views.logs,
        views.totals,
        views.norm,
        backend.array("fluence", fluence, np.float32, (None,)),
        backend.array("beta", beta, np.float32, (None,)),
        views.log_prior,
    )


def _work(
    backend: CpuBackend | CudaBackend,
    orders: AngularOrders,
    mirrors: int,
    arithmetic: Arithmetic,
    chunk: int,
    threads: int | None,
) -> Any:
    """Return the scratch of the threads; on a GPU there is none."""
    if backend is not CPU:
        return backend.empty((0, 0), np.float32)
    size = _core.correlate_workspace(orders.as_tuple(), mirrors, arithmetic, chunk)
    return np.empty((n_threads(threads), size), np.float32)


def screen(
    frames: Any,
    views: Views,
    fluence: Any,
    beta: Any,
    n_orders: int,
    n_angles: int,
    *,
    arithmetic: Arithmetic = "float32",
    threads: int | None = None,
) -> Any:
    """Score groups of views from the low angular orders alone.

    Parameters
    ----------
    frames : float32 [D, C, 2]
        From `polar_frames`.
    views : Views
    fluence, beta : float32 [D]
    n_orders : int
        Orders 0 .. n_orders - 1 take part.
    n_angles : int
        In-plane angles looked at, a divisor of A.
    arithmetic : {"float32", "bf16", "bf16_split"}
        See `Arithmetic` for the errors.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    float32 [D, G]
        Largest ``beta * score + log_prior`` in each group of 16 views.
    """
    backend = _backend(frames, views, fluence, beta=beta)
    with backend.device:
        scores = backend.empty((len(frames), len(views.logs)), np.float32)
        orders = views.orders.up_to(n_orders, n_angles)
        work = _work(backend, orders, views.mirrors, arithmetic, _core.match_chunk, threads)
        task = _task(backend, frames, views, fluence, beta)
        arguments = task, orders.as_tuple(), arithmetic, work, scores
        backend.run("screen", *arguments, threads=threads)
    return scores


def correlate(
    frames: Any,
    views: Views,
    fluence: Any,
    beta: Any,
    *,
    keep: Any = None,
    cut: float = CUT,
    chunk: int = 128,
    capacity: int = 1 << 18,
    arithmetic: Arithmetic = "float32",
    threads: int | None = None,
) -> tuple[Terms, FramePosterior]:
    """Posterior of each frame over all orientations, as a list of its large terms.

    Parameters
    ----------
    frames : float32 [D, C, 2]
        From `polar_frames`.
    views : Views
    fluence, beta : float32 [D]
        ``P ~ prior * exp(beta * score)``.
    keep : uint8 [D, G], optional
        Groups of 16 views to look at; default all.
    cut : float
        Terms this many nats below the largest are dropped.
    chunk : int
        Frames that a thread takes at a time.
    capacity : int
        Terms that fit a chunk.
    arithmetic : {"float32", "bf16", "bf16_split"}
        See `Arithmetic` for the errors.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    terms : Terms
        Sorted by group of views within each chunk of frames.
    posterior : FramePosterior

    Raises
    ------
    Overflow
        A chunk had more than `capacity` terms.

    Notes
    -----
    Frames x orientations are never in memory: a tile of a few frames x 16 views is multiplied,
    transformed and reduced in the cache. The view and its mirror image share their products.
    Cost per frame and view: 4 flops per coefficient and a transform of A points. With bf16 a
    thread copies its chunk of frames and a group of views: 4 bytes per coefficient, 8 if split.

    On a GPU a block of threads takes a chunk; the call waits for the GPU, to know whether the
    terms fit.
    """
    backend = _backend(frames, views, fluence, beta=beta, keep=keep)
    with backend.device:
        n_frames, n_chunks = len(frames), -(-len(frames) // chunk)
        orientation, frame = (backend.empty((n_chunks, capacity), np.uint32) for _ in range(2))
        probability = backend.empty((n_chunks, capacity), np.float32)
        begin = backend.empty((n_chunks, len(views.logs) + 1), np.int64)
        sums = FramePosterior(
            backend.empty(n_frames, np.int64),
            *(backend.empty(n_frames, np.float64) for _ in range(4)),
        )
        work = _work(backend, views.orders, views.mirrors, arithmetic, chunk, threads)
        backend.run(
            "correlate",
            _task(backend, frames, views, fluence, beta),
            views.orders.as_tuple(),
            arithmetic,
            keep,
            cut,
            work,
            chunk,
            (orientation, frame, probability, begin),
            tuple(sums),
            threads=threads,
        )
    if (begin[:, 0] < 0).any():
        raise Overflow
    return Terms(begin, orientation.ravel(), frame.ravel(), probability.ravel()), sums


class Match(NamedTuple):
    """Best orientation of each frame; all arrays [D]."""

    best: NDArray[np.float32]
    orientation: NDArray[np.int64]
    mean: NDArray[np.float32]


def match(
    frames: Any,
    views: Views,
    fluence: Any,
    *,
    arithmetic: Arithmetic = "float32",
    threads: int | None = None,
) -> Match:
    """Largest and mean score of each frame over all orientations.

    Parameters
    ----------
    frames : float32 [D, C, 2]
        From `polar_frames`.
    views : Views
    fluence : float32 [D]
    arithmetic : {"float32", "bf16", "bf16_split"}
        See `Arithmetic` for the errors.
    threads : int, optional
        Default: all cores. Results do not depend on it.
    """
    backend = _backend(frames, views, fluence)
    with backend.device:
        n_frames = len(frames)
        result = Match(*(backend.empty(n_frames, t) for t in (np.float32, np.int64, np.float32)))
        work = _work(backend, views.orders, views.mirrors, arithmetic, _core.match_chunk, threads)
        task = _task(backend, frames, views, fluence, backend.ones(n_frames, np.float32))
        arguments = task, views.orders.as_tuple(), arithmetic, work, *result
        backend.run("match", *arguments, threads=threads)
    return result

"""Template matching: patterns against the slices of a reference volume at all orientations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validate
from ._dispatch import CPU, CpuBackend, CudaBackend, backend_on, n_threads
from .detector import Detector
from .emc import kernels
from .emc.kernels import LANES
from .emc.model import Model
from .emc.polar import correlate
from .emc.polar.correlate import Views
from .emc.polar.layout import ANGLES, PolarLayout
from .emc.polar.orders import GROUP, AngularOrders
from .emc.polar.transform import exposure_transform, polar_views
from .errors import InputError
from .frames import Frames, Progress
from .orientations import local_grid, multiply, n_pairs_for, pair_quaternions, view_pairs

Float64 = NDArray[np.float64]

SCORES = ("poisson", "correlation", "l2")
MIRRORS = 2

_BLOCK_BYTES = 64 << 20
_BLOCK_BYTES_ON_GPU = 1 << 30  # enough patterns for every multiprocessor
_ARC = 3.0  # voxels along the rim that a bin may be long
_FINEST = 0.25  # voxels that the last step of the refinement moves the rim
_TINY = 1e-30


class Matches(NamedTuple):
    """Where each pattern fits best; float64 [D, 4] and [D].

    Attributes
    ----------
    orientation
        Best rotation, ``q_model = R(quat) q_detector``.
    score
        Its score.
    mean
        Mean score over all orientations of the grid.
    gain
        How far the best stands out: score / mean for "correlation" and "l2" (NaN where the mean
        is not positive), score - mean in nats for "poisson".
    fluence
        Factor of the slice at the best orientation: the fluence for "poisson", the scale of least
        squares for "l2", and that beside a free constant for "correlation".
    """

    orientation: Float64
    score: Float64
    mean: Float64
    gain: Float64
    fluence: Float64


def match(
    patterns: Frames | ArrayLike,
    detector: Detector,
    volume: ArrayLike,
    *,
    score: str = "poisson",
    spacing: float = 5.0,
    fluence: float | ArrayLike | None = None,
    refine: bool = False,
    n_angles: int = 0,
    ring_width: float = 0.5,
    radius: float = 0.0,
    symmetry: str = "C1",
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> Matches:
    """Find the orientation in which a slice of a reference volume fits each pattern best.

    Pixels with mask 0 take part. A slice is ``W = exposure * I(R q)``, exposure the solid angle
    x polarisation of a pixel; patterns K are compared as they were measured:

    - "poisson": ``sum K log(s W) - s W``, the log-likelihood up to ``log K!``, at the given
      fluence s or at the best, ``sum K / sum W``;
    - "correlation": Pearson's coefficient of K and W;
    - "l2": ``sum K W / (|K| |W|)``. Its square is the share of ``|K|^2`` that the best scale
      explains: ``min_s |K - s W|^2 = |K|^2 (1 - score^2)``.

    Parameters
    ----------
    patterns : Frames or float [D, T]
        Photon counts, streamed in blocks, or real values such as averages. Pixels with mask 0
        must be finite; for "poisson" they must not be negative.
    detector : Detector
    volume : float32 [N, N, N]
        Intensity I, N odd, reaching beyond the largest |q| in use; for "poisson" not negative.
        It is made centrosymmetric: the mean of opposite voxels is taken.
    score : {"poisson", "correlation", "l2"}
    spacing : float
        Of the orientations in degrees, 0.5 to 90.
    fluence : float or float [D], optional
        Known fluence of the patterns, for "poisson"; fitted by default.
    refine : bool
        Search around the best orientation of the grid with every pixel at its own place, in
        steps halved until they move the rim of the detector by a quarter of a voxel. Scores of
        the result are exact; `Matches.mean` stays that of the grid.
    n_angles : int
        In-plane angles A, one of `emc.polar.layout.ANGLES`; 0: the fewest that keep `spacing` and
        bins at most 3 voxels long.
    ring_width : float
        Of polar rings in voxels, 0.1 to 100.
    radius : float
        Largest |q| that takes part, in voxels; 0: no limit.
    symmetry : str
        Point group of the volume, a name for `orientations.point_group`: only orientations that
        it does not make equal are searched.
    threads : int, optional
        Default: all cores. Results do not depend on it.
    device : {"cpu", "cuda"}
        "cuda": the grid is searched on the current GPU, on arrays of torch or CuPy; slices and
        the refinement stay on the CPU.
    on_progress : callable, optional
        Called with (patterns done, patterns in all) after each block.

    Returns
    -------
    Matches
        A pattern that is empty (for "correlation": constant) scores the same everywhere; its
        orientation means nothing.

    Raises
    ------
    InputError
        An argument has the wrong shape or values, or the volume does not reach the detector.
    CudaError
        The device is "cuda", and there is no GPU or no library for its arrays.

    Notes
    -----
    The grid is `orientations.view_pairs` x A in-plane angles, mirror images included. On it a
    pixel sees the slice at the centre of its polar bin, not at its own place; nothing else is
    approximated, so scores compare with exact ones. On sim_1bxr, at the true orientations, the
    scores lose 9 of some 1,200 nats above those of random orientations (poisson) and 0.001 (the
    others) with rings of 0.5 voxels, 53 nats and 0.013 with rings of 1. The few pixels near the
    beam rule "correlation" and "l2"; mask them to hear the others. A voxel of intensity 0
    counts as 1e-36 in "poisson".

    Cost: for each pattern and view, 2 Q A multiply-adds and two transforms of A points, Q rings;
    2e8 frame-orientations per second on one core for 2,000 frames of sim_1bxr, all included.
    With `refine` about 20 ms per pattern and core for 10,000 pixels. Memory: 4 Q A bytes for
    each of the 2 pi / spacing^2 views, and one block of patterns. Source: Zhuang et al., IUCrJ
    9, 204 (2022) for the gain; Donatelli et al., PNAS 114, 7222 (2017) for matching in M-TIP.

    >>> best = spicore.match(averages, detector, volume, score="correlation", spacing=4.0)
    """
    score = _validate.choice("score", score, SCORES)
    spacing = _validate.number("spacing", spacing, low=0.5, high=90.0)
    grid = _Grid(detector, radius, ring_width, spacing, n_angles, symmetry)
    poisson = score == "poisson"
    source = _Source(patterns, detector.n_pixels, grid.pixel, counts=poisson)
    known = _known_fluence(fluence, score, source.n_patterns)
    volume = _reference_volume(volume, grid.q, counts=poisson)
    threads, backend = n_threads(threads), backend_on(device)
    if poisson:
        scoring: _Scoring = _Poisson(grid, volume, threads, backend, fitted=known is None)
    else:
        scoring = _Linear(grid, volume, threads, backend, centred=score == "correlation")
    result = Matches(np.empty((source.n_patterns, 4)), *np.empty((4, source.n_patterns)))
    block_bytes = _BLOCK_BYTES if backend is CPU else _BLOCK_BYTES_ON_GPU
    for a, b in source.bounds(grid.block_size(block_bytes)):
        rows = scoring.rows(source.read(a, b), None if known is None else known[a:b])
        part = scoring.search(rows)
        if refine:
            part = _refined(scoring, rows, part, spacing, threads)
        for whole, values in zip(result, part, strict=True):
            whole[a:b] = values
        if on_progress is not None:
            on_progress(b, source.n_patterns)
    return result


class _Rows(NamedTuple):
    """A block of patterns on the pixels of a grid, as its score takes them."""

    values: Float64  # [B, T] multiplied with slices or their logarithms
    size: Float64  # [B] photons, or the norm that was divided out
    fluence: Float64  # [B] known, or NaN


class _Grid:
    """Orientations, and the pixels that orient, sorted by polar bin.

    Attributes
    ----------
    pixel : int64 [T]               pixels of the detector
    q : float32 [3, T]              their scattering vectors in voxels
    exposure : float64 [T]          solid angle x polarisation
    bin_q : float32 [3, Q A]        centres of the bins
    orders : AngularOrders          all: nothing is smoothed
    views : float64 [V, 4]
    """

    def __init__(
        self,
        detector: Detector,
        radius: float,
        ring_width: float,
        spacing: float,
        n_angles: int,
        symmetry: str,
    ) -> None:
        radius = _validate.number("radius", radius, low=0.0)
        ring_width = _validate.number("ring_width", ring_width, low=0.1, high=100.0)
        if n_angles not in (0, *ANGLES):
            raise InputError(f"n_angles must be 0 or one of {ANGLES}, got {n_angles!r}")
        if n_angles == 0:
            n_angles = _enough_angles(detector, radius, spacing)
        layout = PolarLayout(detector, radius, n_angles, ring_width)
        self.layout = layout
        self.orders = AngularOrders.from_limits(n_angles, [n_angles // 2] * layout.n_radii)
        oriented = np.flatnonzero((layout.row_of >= 0) & (layout.row_of < layout.n_bins))
        self.pixel = oriented[np.argsort(layout.row_of[oriented], kind="stable")]
        self.bins, self._begin = np.unique(layout.row_of[self.pixel], return_index=True)
        self.q = np.ascontiguousarray(detector.q_voxels[self.pixel].T, np.float32)
        self.exposure = detector.correction[self.pixel].astype(np.float64)
        self.bin_q = np.ascontiguousarray(layout.q[:, : layout.n_radii * n_angles])
        self.views, _ = view_pairs(n_pairs_for(spacing), symmetry)

    @property
    def shape(self) -> tuple[int, int]:
        """Rings Q and angles A."""
        return self.layout.n_radii, self.layout.n_angles

    def block_size(self, n_bytes: int) -> int:
        """Patterns of a block."""
        per_pattern = 8 * (2 * len(self.pixel) + 3 * self.bin_q.shape[1])
        return max(1, n_bytes // per_pattern)

    def binned(self, values: Float64) -> Float64:
        """Sum values [B, T] of pixels over bins: [B, Q, A]."""
        sums = np.zeros((len(values), self.bin_q.shape[1]))
        sums[:, self.bins] = np.add.reduceat(values, self._begin, axis=1)
        return sums.reshape(-1, *self.shape)

    def transformed(self, values: Float64) -> NDArray[np.float32]:
        """Bin values [B, T] and transform them as `polar_frames` does, exactly: [B, C, 2]."""
        spectrum = np.fft.rfft(self.binned(values), axis=-1) / self.layout.n_angles
        packed = spectrum.transpose(0, 2, 1).reshape(len(values), -1).astype(np.complex64)
        return packed.view(np.float32).reshape(len(values), -1, 2)


class _Scoring(ABC):
    """Slices at all orientations as `correlate.match` takes them, and exact scores.

    The score of an orientation is ``x * norm - fluence * totals`` plus a constant of the
    pattern, with x the sum over pixels of ``values * weight * L(slice)``.
    """

    weight: Float64  # [T]

    def __init__(
        self,
        grid: _Grid,
        volume: NDArray[np.float32],
        threads: int,
        backend: CpuBackend | CudaBackend,
    ) -> None:
        self.grid, self.volume, self.threads, self.backend = grid, volume, threads, backend
        n_views = len(grid.views)
        n_panels = -(-n_views // LANES)
        # The last view once more in lanes that hold none: finite, and not looked at.
        self._quats = grid.views[np.minimum(np.arange(n_panels * LANES), n_views - 1)]
        n_groups = n_panels * LANES // GROUP
        self.logs = np.empty((n_groups, grid.orders.n_coefficients, 2, GROUP), np.float32)
        self.totals = np.zeros((n_groups, MIRRORS, grid.layout.n_angles, GROUP), np.float32)
        self.norm: NDArray[np.float32] | None = None
        self._prior = np.zeros(n_panels * LANES, np.float32)
        self._prior[n_views:] = -np.inf

    def _expand(self) -> None:
        """Make the slices, a panel of views per thread at a time."""
        ones = np.ones(self.grid.bin_q.shape[1], np.float32)

        def work(p: int) -> None:
            quats = self._quats[p * LANES : (p + 1) * LANES]
            panel, _ = kernels.expand(self.volume, quats, self.grid.bin_q, ones, threads=1)
            per_panel = LANES // GROUP
            self._fill(panel, slice(p * per_panel, (p + 1) * per_panel))

        _parallel(self.threads, work, range(len(self._quats) // LANES))

    def search(self, rows: _Rows) -> Matches:
        """Best orientation of the grid for each pattern of a block."""
        grid = self.grid
        parts = np.array_split(rows.values, min(self.threads, len(rows.values)))
        transforms = _parallel(self.threads, lambda x: grid.transformed(x * self.weight), parts)
        frames = np.concatenate(transforms)
        factor, constant = self._of_patterns(rows)
        found = self._match(frames, factor.astype(np.float32))
        score, mean = found.best + constant, found.mean + constant
        quats = pair_quaternions(grid.views, grid.layout.n_angles, found.orientation)
        fluence = self._fluence(rows, score, self._place(found.orientation))
        return Matches(quats, score, mean, self.gain(score, mean), fluence)

    def _match(self, frames: NDArray[np.float32], factor: NDArray[np.float32]) -> correlate.Match:
        to_device = self.backend.to_device
        with self.backend.device:
            found = correlate.match(
                to_device(frames), self._views, to_device(factor), threads=self.threads
            )
            return correlate.Match(*map(self.backend.to_host, found))

    @cached_property
    def _views(self) -> Views:
        """What patterns are compared with, on the device."""
        arrays = self.logs, self.totals, self._prior, self.norm
        on_device: list[Any] = [None if x is None else self.backend.to_device(x) for x in arrays]
        return Views(self.grid.orders, *on_device)

    def _place(self, orientation: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Indices of orientations in `totals` and `norm`."""
        rest, j = np.divmod(orientation, self.grid.layout.n_angles)
        view, mirror = np.divmod(rest, MIRRORS)
        return view // GROUP, mirror, j, view % GROUP

    @abstractmethod
    def rows(self, values: Float64, known: Float64 | None) -> _Rows:
        """Prepare patterns [B, T]."""

    @abstractmethod
    def exact(self, rows: _Rows, d: int, quats: Float64) -> tuple[Float64, Float64]:
        """Scores and fluences [R] of pattern d, every pixel at its own place."""

    @abstractmethod
    def gain(self, score: Float64, mean: Float64) -> Float64:
        """How far the best score stands out."""

    @abstractmethod
    def _fill(self, panel: NDArray[np.float32], groups: slice) -> None:
        """Write the slices [1, Q A, LANES] of a panel into their groups of views."""

    @abstractmethod
    def _of_patterns(self, rows: _Rows) -> tuple[Float64, Float64]:
        """The factor of `totals`, and the constant, of each pattern."""

    @abstractmethod
    def _fluence(self, rows: _Rows, score: Float64, place: tuple) -> Float64:
        """Fluences at the orientations found."""


class _Poisson(_Scoring):
    """``sum K log(s W) - s U``, U = sum W; at the best s = N / U, N = sum K, this is
    ``sum K log W - N log U + N log N - N``: of the same form, with log U for the totals."""

    def __init__(
        self,
        grid: _Grid,
        volume: NDArray[np.float32],
        threads: int,
        backend: CpuBackend | CudaBackend,
        *,
        fitted: bool,
    ) -> None:
        super().__init__(grid, volume, threads, backend)
        self.fitted = fitted
        self.weight = np.ones(len(grid.pixel))
        profile = Model(volume[None], np.empty((0, 0), np.float32)).radial_mean()
        ring = np.interp(grid.layout.radius[: grid.shape[0]], np.arange(len(profile)), profile)
        self._reference = np.log(np.maximum(ring, _TINY)).astype(np.float32)
        self._exposure = exposure_transform(grid.binned(grid.exposure[None])[0])
        ring_of = grid.layout.row_of[grid.pixel] // grid.layout.n_angles
        self._constant = np.log(grid.exposure) + self._reference[ring_of]
        self._expand()
        self._centre_totals()

    def _fill(self, panel: NDArray[np.float32], groups: slice) -> None:
        polar_views(
            panel,
            self.grid.orders,
            self._reference,
            self._exposure,
            mirrors=MIRRORS,
            out_logs=self.logs[groups],
            out_totals=self.totals[groups],
            threads=1,
        )

    def _centre_totals(self) -> None:
        """Subtract the mean of the totals, so that float32 resolves what is left."""
        self._mean_total = float(self.totals.mean(dtype=np.float64))
        if self.totals.min() <= 0.0:
            raise InputError(
                "volume must be positive somewhere on the detector in every orientation, "
                "got a slice without intensity"
            )
        if self.fitted:
            self.totals /= np.float32(self._mean_total)
            np.log(self.totals, out=self.totals)
        else:
            self.totals -= np.float32(self._mean_total)

    def rows(self, values: Float64, known: Float64 | None) -> _Rows:
        fluence = np.full(len(values), np.nan) if known is None else known
        return _Rows(values, values.sum(axis=1), fluence)

    def _of_patterns(self, rows: _Rows) -> tuple[Float64, Float64]:
        n, constant = rows.size, rows.values @ self._constant
        if self.fitted:
            return n, constant + n * np.log(np.maximum(n, _TINY) / self._mean_total) - n
        s = rows.fluence
        return s, constant + n * np.log(s) - s * self._mean_total

    def _fluence(self, rows: _Rows, score: Float64, place: tuple) -> Float64:
        if not self.fitted:
            return rows.fluence
        return rows.size / (self._mean_total * np.exp(self.totals[place].astype(np.float64)))

    def exact(self, rows: _Rows, d: int, quats: Float64) -> tuple[Float64, Float64]:
        grid, n = self.grid, rows.size[d]
        exposure = grid.exposure.astype(np.float32)
        panels, total = kernels.expand(
            self.volume, quats, grid.q, exposure, np.zeros_like(exposure), threads=1
        )
        x = _products(rows.values[d], panels)[: len(quats)]
        s = n / total if self.fitted else np.full(len(quats), rows.fluence[d])
        return x + n * np.log(np.maximum(s, _TINY)) - s * total, s

    def gain(self, score: Float64, mean: Float64) -> Float64:
        return score - mean


class _Linear(_Scoring):
    """``sum K W / (|K| |W|)``; with means removed from K and W it is Pearson's coefficient.

    K less its mean, over its norm, is a matter of the pattern alone, and its sum with W needs no
    mean of W. The norm of a slice is ``|W|^2 = sum e^2 I^2``, with the mean removed less
    ``(sum e I)^2 / T``: circular correlations of I^2 and I with sums of the exposures e^2 and e
    over the pixels of each bin, which are 0 in gaps.
    """

    def __init__(
        self,
        grid: _Grid,
        volume: NDArray[np.float32],
        threads: int,
        backend: CpuBackend | CudaBackend,
        *,
        centred: bool,
    ) -> None:
        super().__init__(grid, volume, threads, backend)
        self.centred = centred
        self.weight = grid.exposure
        e = grid.binned(np.stack([grid.exposure, grid.exposure**2]))
        self._exposure, self._squared = np.fft.rfft(e, axis=-1)
        self.norm = np.empty_like(self.totals)
        self._expand()

    def _fill(self, panel: NDArray[np.float32], groups: slice) -> None:
        n_rings, n_angles = self.grid.shape
        values = panel.reshape(n_rings, n_angles, LANES).astype(np.float64)
        spectrum = np.fft.rfft(values, axis=1)
        self.logs[groups] = _packed(spectrum)
        square = self._total(self._squared, np.fft.rfft(values**2, axis=1))
        spread = square
        if self.centred:
            spread = square - self._total(self._exposure, spectrum) ** 2 / len(self.grid.pixel)
        self.norm[groups] = _inverse_norm(spread, square)

    def _total(self, exposure: NDArray, spectrum: NDArray) -> Float64:
        """Sum exposure x slice for all in-plane angles and mirror images: [groups, 2, A, 16]."""
        both = [
            np.einsum("qm,qml->ml", exposure.conj(), image) for image in (spectrum, spectrum.conj())
        ]
        totals = np.fft.irfft(np.stack(both), self.grid.shape[1], axis=1)
        return np.moveaxis(totals.reshape(MIRRORS, -1, LANES // GROUP, GROUP), 2, 0)

    def rows(self, values: Float64, known: Float64 | None) -> _Rows:
        if self.centred:
            values = values - values.mean(axis=1, keepdims=True)
        size = np.linalg.norm(values, axis=1)
        scaled = values / np.where(size > 0.0, size, 1.0)[:, None]
        return _Rows(scaled, size, np.full(len(size), np.nan))

    def _of_patterns(self, rows: _Rows) -> tuple[Float64, Float64]:
        return np.zeros(len(rows.size)), np.zeros(len(rows.size))

    def _fluence(self, rows: _Rows, score: Float64, place: tuple) -> Float64:
        return score * rows.size * self.norm[place]

    def exact(self, rows: _Rows, d: int, quats: Float64) -> tuple[Float64, Float64]:
        grid = self.grid
        exposure = grid.exposure.astype(np.float32)
        panels, total = kernels.expand(self.volume, quats, grid.q, exposure, threads=1)
        square = np.square(panels).sum(axis=1, dtype=np.float64).ravel()[: len(quats)]
        spread = square - total**2 / len(grid.pixel) if self.centred else square
        norm = _inverse_norm(spread, square)
        score = _products(rows.values[d], panels)[: len(quats)] * norm
        return score, score * rows.size[d] * norm

    def gain(self, score: Float64, mean: Float64) -> Float64:
        return np.divide(score, mean, out=np.full_like(score, np.nan), where=mean > 0.0)


def _refined(
    scoring: _Scoring, rows: _Rows, found: Matches, spacing: float, threads: int
) -> Matches:
    """Search around the orientations found, with exact scores."""
    rim = float(np.linalg.norm(scoring.grid.q, axis=0).max())
    n_steps = max(1, math.ceil(math.log2(math.radians(spacing) * rim / _FINEST)))
    steps = [local_grid(spacing / 2**k, spacing / 2 ** (k + 1)) for k in range(n_steps)]

    def work(d: int) -> tuple[Float64, float, float]:
        quat = found.orientation[d]
        for step in steps:
            trial = multiply(quat, step)
            score, fluence = scoring.exact(rows, d, trial)
            best = int(score.argmax())
            quat = trial[best]
        return quat, score[best], fluence[best]

    quats, score, fluence = map(
        np.array, zip(*_parallel(threads, work, range(len(rows.size))), strict=True)
    )
    return Matches(quats, score, found.mean, scoring.gain(score, found.mean), fluence)


def _products(values: Float64, panels: NDArray[np.float32]) -> Float64:
    """Sum values [T] x panels [P, T, LANES] over lit pixels, in float64: [P LANES]."""
    lit = np.flatnonzero(values)
    return (values[lit] @ panels[:, lit].astype(np.float64)).ravel()


def _inverse_norm(spread: Float64, square: Float64) -> Float64:
    """1 / sqrt of the spread of slices, 0 where it is rounding of their mean square."""
    real = spread > 1e-6 * square
    return np.where(real, 1.0 / np.sqrt(np.where(real, spread, 1.0)), 0.0)


def _packed(spectrum: NDArray[np.complex128]) -> NDArray[np.float32]:
    """Transforms [Q, M, LANES] as [groups, M Q, 2, 16], as `polar_views` leaves them."""
    n_rings, n_orders, _ = spectrum.shape
    grouped = spectrum.reshape(n_rings, n_orders, -1, GROUP).transpose(2, 1, 0, 3)
    parts = np.stack([grouped.real, grouped.imag], axis=-2)
    return parts.reshape(len(parts), n_rings * n_orders, 2, GROUP).astype(np.float32)


def _parallel(threads: int, work: Callable, items: Iterable) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def _enough_angles(detector: Detector, radius: float, spacing: float) -> int:
    """Fewest in-plane angles that keep the spacing, and bins short at the rim."""
    q = np.linalg.norm(detector.q_voxels[detector.mask == 0], axis=1)
    rim = q[(q <= radius) if radius else slice(None)].max(initial=0.0)
    wanted = max(360.0 / spacing, 2.0 * math.pi * rim / _ARC)
    return next((a for a in ANGLES if a >= wanted), ANGLES[-1])


class _Source:
    """Patterns of a file or an array, read in blocks on the pixels of a grid."""

    def __init__(
        self,
        patterns: Frames | ArrayLike,
        n_pixels: int,
        pixel: NDArray[np.int64],
        *,
        counts: bool,
    ) -> None:
        self.patterns = patterns if isinstance(patterns, Frames) else np.asarray(patterns)
        self.pixel, self.counts = pixel, counts
        if not isinstance(patterns, Frames):
            _check_array(self.patterns)
        self.n_patterns = len(self.patterns)
        got = self.patterns.n_pixels if isinstance(patterns, Frames) else self.patterns.shape[1]
        if got != n_pixels:
            raise InputError(f"patterns must have the {n_pixels} pixels of the detector, got {got}")

    def bounds(self, n: int) -> Iterable[tuple[int, int]]:
        """Yield the first and the end of blocks of n patterns."""
        for a in range(0, self.n_patterns, n):
            yield a, min(a + n, self.n_patterns)

    def read(self, a: int, b: int) -> Float64:
        """Return patterns a to b - 1 on the pixels, [b - a, T]."""
        if isinstance(self.patterns, Frames):
            values = self.patterns.dense(a, b)[:, self.pixel].astype(np.float64)
        else:
            values = self.patterns[a:b, self.pixel].astype(np.float64)
        self._check(values, np.isfinite(values), a, "finite")
        if self.counts:
            self._check(values, values >= 0.0, a, 'not negative for score "poisson"')
        return values

    def _check(self, values: Float64, good: NDArray[np.bool_], first: int, what: str) -> None:
        if not good.all():
            d, t = np.argwhere(~good)[0]
            raise InputError(
                f"patterns must be {what} on pixels with mask 0, got {values[d, t]:g} at "
                f"pattern {first + d}, pixel {self.pixel[t]}"
            )


def _check_array(patterns: NDArray) -> None:
    if patterns.dtype.kind not in "biuf" or patterns.ndim != 2 or len(patterns) == 0:
        raise InputError(
            "patterns must be Frames or real numbers of shape [D, n_pixels] with D >= 1, "
            f"got {patterns.dtype} {list(patterns.shape)}"
        )


def _known_fluence(
    fluence: float | ArrayLike | None, score: str, n_patterns: int
) -> Float64 | None:
    if fluence is None:
        return None
    if score != "poisson":
        raise InputError(f'fluence is for score "poisson" only, got it with {score!r}')
    shape = (n_patterns,)
    if np.ndim(fluence) == 0:
        fluence = np.full(shape, _validate.number("fluence", fluence, low=0.0))
    known = _validate.array("fluence", fluence, np.float64, shape, finite=True)
    if known.min() <= 0.0:
        raise InputError(f"fluence must be positive, got {known.min():g}")
    return known


def _reference_volume(
    volume: ArrayLike, q: NDArray[np.float32], *, counts: bool
) -> NDArray[np.float32]:
    """Check the volume, and return the mean of it and its inverse."""
    volume = _validate.volume("volume", volume)
    reach = float(np.linalg.norm(q, axis=0).max())
    if len(volume) % 2 == 0 or len(volume) // 2 < reach:
        raise InputError(
            f"volume must have an odd edge of at least {2 * math.ceil(reach) + 1} to reach the "
            f"pixels in use, got {len(volume)}"
        )
    if counts and volume.min() < 0.0:
        raise InputError(f'volume must not be negative for score "poisson", got {volume.min():g}')
    return (volume + volume[::-1, ::-1, ::-1]) * np.float32(0.5)

"""2D EMC on polar frames: class averages in the detector plane, all in-plane angles at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._dispatch import CPU, CpuBackend, CudaBackend
from ...frames import Frames
from ..kernels import LANES, LOG_FACTORIAL, Photons, indices
from ..state import Buffers, Timer
from .accumulate import Terms, accumulate
from .blocks import Oriented, binned, capacity, chunk_of, in_parts
from .correlate import FramePosterior, Views, correlate
from .layout import PolarLayout
from .orders import GROUP, AngularOrders
from .transform import exposure_transform, polar_frames, polar_views

FORBIDDEN = np.float32(1e9)
"""Nats per photon that an in-plane angle costs which a pattern fixed on the detector lacks."""

UNSEEN = 1e-9
"""Exposure, relative to the largest of a ring, below which a bin was not seen: rounding."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class ClassSettings:
    """What stays the same in every iteration."""

    n_classes: int
    rotate: bool
    fluence: bool
    prior: float
    block_bytes: int
    threads: int
    backend: CpuBackend | CudaBackend = CPU  # where iterations run


@dataclass(frozen=True)
class Survey:
    """What is known of the frames before the first iteration.

    Attributes
    ----------
    n_photons : float64 [D]      of each frame, in the pixels that orient
    profile : float64 [n_rings]  mean intensity of each ring in frames with photons, positive
    """

    n_photons: NDArray[np.float64]
    profile: NDArray[np.float64]

    @classmethod
    def of(cls, frames: Frames, layout: PolarLayout, threads: int) -> Survey:
        """Read all frames once."""
        n_photons, powder = np.zeros(frames.n_frames), np.zeros(layout.n_bins)
        for start, sparse in frames.blocks():
            photons = layout.photons(sparse, threads)
            n_photons[start : start + len(sparse)] = photons.per_frame(photons.count)
            powder += np.bincount(photons.row % layout.n_bins, photons.count, layout.n_bins)
        lit = max(int(np.count_nonzero(n_photons)), 1)
        rings = powder.reshape(layout.n_rings, -1).sum(axis=1) / lit
        return cls(n_photons, np.maximum(rings / layout.exposure[1].sum(axis=1), 1e-12))


@dataclass
class Assignment:
    """What the posterior says of each frame; all arrays [D]."""

    best: NDArray[np.int64]
    fluence: NDArray[np.float32]
    log_likelihood: NDArray[np.float64]
    mutual_information: NDArray[np.float64]

    @classmethod
    def empty(cls, n: int) -> Assignment:
        return cls(np.empty(n, np.int64), np.empty(n, np.float32), np.empty(n), np.empty(n))


class ClassEngine:
    """One EMC iteration on the averages of K classes, in blocks of frames.

    The fluence of a frame is not a variable of the iteration: it is taken at its most likely
    value for each class and angle, N / u with N photons seen and u expected, which leaves
    ``sum K log I - N log u``. So brightness never ties a frame to a class.

    Parameters
    ----------
    frames : Frames
        Sparse photon counts, streamed once per iteration.
    layout : PolarLayout
    orders : AngularOrders
        Angular orders that the likelihood looks at.
    survey : Survey
        Of these frames.
    settings : ClassSettings

    Notes
    -----
    Memory: the averages, their transforms and one block of frames. Source: design.md, section
    1; Loh & Elser, Phys. Rev. E 80, 026705 (2009), in two dimensions as in Ayyer et al., Optica
    8, 15 (2021).
    """

    def __init__(
        self,
        frames: Frames,
        layout: PolarLayout,
        orders: AngularOrders,
        survey: Survey,
        settings: ClassSettings,
    ) -> None:
        self.frames, self.layout, self.orders = frames, layout, orders
        self.settings, self.profile, self.n_photons = settings, survey.profile, survey.n_photons
        self.backend = settings.backend
        self.timer, self.buffers = Timer(), Buffers(self.backend)
        self.parts = 1
        self._whole: Photons | None = None
        profile, oriented = survey.profile, layout.exposure[0, : layout.n_radii]
        self.mean_total = float(profile[: layout.n_radii] @ oriented.sum(axis=1, dtype=np.float64))
        self._exposure = exposure_transform(oriented)
        self._log_profile = np.log(profile[: layout.n_radii])
        reference = np.zeros(layout.n_rings)
        reference[: layout.n_radii] = self._log_profile
        constants = layout.log_exposure + np.repeat(reference, layout.n_angles)
        self._constants = self.backend.to_device(constants)
        self._log_factorial = self.backend.to_device(LOG_FACTORIAL)
        self._constant = np.full(frames.n_frames, np.nan)  # of each frame, when it was seen
        self._n_lanes = -(-settings.n_classes // LANES) * LANES

    @property
    def n_orientations(self) -> int:
        """Classes x in-plane angles."""
        return self.settings.n_classes * (self.orders.n_angles if self.settings.rotate else 1)

    # -- expand -----------------------------------------------------------------------

    def views(self, averages: NDArray[np.float32]) -> tuple[Views, NDArray[np.float64]]:
        """Transform class averages [K, n_rings, A]; return also expected photons u [K, A]."""
        n_classes, layout, to_device = len(averages), self.layout, self.backend.to_device
        n_rows = layout.n_radii * layout.n_angles
        lanes = np.ones((self._n_lanes, n_rows), np.float32)
        lanes[:n_classes] = averages[:, : layout.n_radii].reshape(n_classes, -1)
        panels = lanes.reshape(-1, LANES, n_rows).transpose(0, 2, 1)
        logs, totals = polar_views(
            to_device(np.ascontiguousarray(panels)),
            self.orders,
            to_device(self._log_profile.astype(np.float32)),
            to_device(self._exposure),
            mirrors=1,
            threads=self.settings.threads,
        )
        totals = self.backend.to_host(totals)
        by_class = totals[:, 0].transpose(0, 2, 1).reshape(self._n_lanes, -1)[:n_classes]
        expected = np.maximum(by_class.astype(np.float64), 1e-30)
        if self.settings.fluence:
            totals = np.log(np.maximum(totals, 1e-30) / np.float32(self.mean_total))
        if not self.settings.rotate:
            totals[:, :, 1:] += FORBIDDEN
        prior = np.full(self._n_lanes, -np.inf, np.float32)
        prior[:n_classes] = -np.log(self.n_orientations)
        return Views(self.orders, logs, to_device(totals), to_device(prior)), expected

    # -- one iteration ----------------------------------------------------------------

    def iterate(
        self,
        averages: NDArray[np.float32],
        beta: NDArray[np.float32],
        progress: Progress | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], Assignment]:
        """Return the next averages and their exposure [K, n_rings, A], and what frames say.

        Parameters
        ----------
        averages : float32 [K, n_rings, A]
            Photons per unit exposure, positive.
        beta : float32 [D]
            Inverse temperature of each frame.
        progress : callable, optional
            Called with a stage name and the fraction done.
        """
        found = Assignment.empty(self.frames.n_frames)
        with self.backend.device:
            with self.timer("expand"):
                views, expected = self.views(averages)
            sums = self._sums()
            for span, part, oriented in self._posteriors(views, beta, progress):
                self._store(found, span, part, oriented.posterior, expected)
                with self.timer("accumulate"):
                    self._accumulate(oriented.terms, part, span, *sums)
            photons, turns = map(self.backend.to_host, sums)
        with self.timer("update"):
            turns = turns[: len(averages), 0]
            if self.settings.fluence:
                turns = turns / expected
            return (*self._update(photons, turns), found)

    def start(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Averages of frames that are put into random classes, at random angles if they turn."""
        to_device = self.backend.to_device
        n_angles = self.layout.n_angles if self.settings.rotate else 1
        labels = rng.integers(0, self.settings.n_classes, self.frames.n_frames)
        angles = rng.integers(0, n_angles, self.frames.n_frames)
        with self.backend.device:
            sums = self._sums()
            for first, block in self._blocks():
                span = slice(first, first + len(block.orient_end))
                terms = Terms(*map(to_device, self._terms_of(labels[span], angles[span])))
                self._accumulate(terms, block, span, *sums)
            photons, turns = map(self.backend.to_host, sums)
        turns = turns[: self.settings.n_classes, 0]
        if self.settings.fluence:
            turns = turns / self.mean_total
        return self._update(photons, turns)[0]

    def assign(
        self,
        averages: NDArray[np.float32],
        progress: Progress | None = None,
    ) -> tuple[Assignment, NDArray[np.float64]]:
        """Return what frames say of given averages at beta = 1, and the frames of each class."""
        found = Assignment.empty(self.frames.n_frames)
        occupancy = np.zeros(self._n_lanes)
        beta, to_host = np.ones(self.frames.n_frames, np.float32), self.backend.to_host
        with self.backend.device:
            views, expected = self.views(averages)
            for span, part, (terms, posterior) in self._posteriors(views, beta, progress):
                self._store(found, span, part, posterior, expected)
                for begin, end in to_host(terms.begin)[:, [0, -1]]:
                    orientation = to_host(terms.orientation[begin:end])
                    label = orientation // np.uint32(self.layout.n_angles)
                    probability = to_host(terms.probability[begin:end])
                    occupancy += np.bincount(label, probability, self._n_lanes)
        return found, occupancy[: len(averages)]

    def _terms_of(self, label: NDArray[np.int64], angle: NDArray[np.int64]) -> Terms:
        """Frames that belong to one class at one angle each, as `correlate` lists them."""
        order = np.argsort(label // GROUP, kind="stable")
        group = np.arange(self._n_lanes // GROUP + 1)
        return Terms(
            np.searchsorted(label[order] // GROUP, group)[None].astype(np.int64),
            (label * self.layout.n_angles + angle)[order].astype(np.uint32),
            order.astype(np.uint32),
            np.ones(len(order), np.float32),
        )

    def _sums(self) -> tuple[Any, Any]:
        """Photons [V, bins] and exposures [V, 1, A] of classes on the device, 0."""
        photons = self.buffers("photons", self._n_lanes, self.layout.n_bins)
        photons[:] = 0.0
        turns = self.backend.zeros((self._n_lanes, 1, self.layout.n_angles), np.float64)
        return photons, turns

    def _accumulate(
        self, terms: Terms, photons: Photons, span: slice, sums: Any, turns: Any
    ) -> None:
        """Add frames on the device to the sums of their classes."""
        accumulate(
            terms,
            photons,
            self.backend.to_device(self._weight(span)),
            self.layout.n_angles,
            sums,
            turns,
            mirrors=1,
            threads=self.settings.threads,
        )

    def _weight(self, span: slice) -> NDArray[np.float32]:
        """What multiplies `totals` in a frame's score, and counts as its exposure."""
        n_photons = self.n_photons[span].astype(np.float32)
        return n_photons if self.settings.fluence else np.ones_like(n_photons)

    def _blocks(self) -> Iterator[tuple[int, Photons]]:
        """Yield (first frame, binned frames); if they fit one block it stays in memory."""
        if self._whole is not None:
            yield 0, self._whole
            return
        for start, photons in binned(self.frames, self.layout, self.orders, self.settings):
            if len(photons.orient_end) == self.frames.n_frames:
                self._whole = photons
            yield start, photons

    def _posteriors(
        self, views: Views, beta: NDArray[np.float32], progress: Progress | None
    ) -> Iterator[tuple[slice, Photons, Oriented]]:
        """Yield frames and their posteriors, as many at a time as fit the memory."""
        self.parts = max(1, self.parts // 2)
        for start, block in self._blocks():
            if progress:
                progress("classify", start / self.frames.n_frames)

            def orient(part: slice, some: Photons, start: int = start) -> Oriented:
                span = slice(start + part.start, start + part.stop)
                return self._orient(some, span, views, beta[span])

            pieces = 0
            for part, some, oriented in in_parts(block, self.parts, orient):
                pieces += 1
                yield slice(start + part.start, start + part.stop), some, oriented
            self.parts = max(self.parts, pieces)

    def _orient(
        self, photons: Photons, span: slice, views: Views, beta: NDArray[np.float32]
    ) -> Oriented:
        n, to_device = len(photons.orient_end), self.backend.to_device
        with self.timer("transform"):
            frames = polar_frames(
                photons,
                self.orders,
                out=self.buffers("frames", n, self.orders.n_coefficients, 2),
                threads=self.settings.threads,
            )
        with self.timer("correlate"):
            chunk = chunk_of(n, self.backend)
            terms, posterior = correlate(
                frames,
                views,
                to_device(self._weight(span)),
                to_device(beta),
                chunk=chunk,
                capacity=capacity(n, chunk, views, self.settings.block_bytes),
                threads=self.settings.threads,
            )
            posterior = FramePosterior(*map(self.backend.to_host, posterior))
        return Oriented(terms, posterior)

    def _store(
        self,
        found: Assignment,
        span: slice,
        photons: Photons,
        posterior: FramePosterior,
        expected: NDArray[np.float64],
    ) -> None:
        """Keep what the posterior says of each frame of a block."""
        n_photons = self.n_photons[span]
        if np.isnan(self._constant[span.start]):
            row, count = (indices(self.backend, x) for x in (photons.row, photons.count))
            terms = self._constants[row % self.layout.n_bins] * count - self._log_factorial[count]
            self._constant[span] = self.backend.to_host(photons.per_frame(terms))
        found.best[span] = posterior.best
        found.mutual_information[span] = posterior.information
        found.log_likelihood[span] = posterior.expected_score + self._constant[span]
        found.fluence[span] = 1.0
        if self.settings.fluence:
            best = expected.reshape(-1)[posterior.best]
            found.fluence[span] = n_photons / best
            logs = np.log(n_photons / self.mean_total)
            found.log_likelihood[span] += n_photons * (logs - 1.0)

    def _update(
        self, photons: NDArray[np.float32], turns: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Divide photons by exposure: ``(photons + prior mean) / (exposure + prior)``."""
        layout = self.layout
        exposure = seen_exposure(turns, layout)
        weight = self.settings.prior * layout.exposure[1].mean(axis=1, dtype=np.float64)[:, None]
        averages = photons[: len(turns)].reshape(exposure.shape) + weight * self.profile[:, None]
        averages /= exposure + weight
        if self.settings.fluence:  # all classes as bright as the mean frame
            rings = averages[:, : layout.n_radii].mean(axis=2)
            total = rings @ layout.exposure[0, : layout.n_radii].sum(axis=1, dtype=np.float64)
            averages *= (self.mean_total / total)[:, None, None]
        return averages.astype(np.float32), exposure


def seen_exposure(turns: NDArray[np.float64], layout: PolarLayout) -> NDArray[np.float64]:
    """Exposure of bins [K, n_rings, A] from that of classes and angles [K, A]: a convolution."""
    spectrum = np.fft.rfft(layout.exposure[1].astype(np.float64), axis=-1)
    both = spectrum * np.fft.rfft(turns, axis=-1)[:, None]
    exposure = np.fft.irfft(both, layout.n_angles, axis=-1)
    exposure[exposure < UNSEEN * exposure.max(axis=2, keepdims=True)] = 0.0
    return np.maximum(exposure, 0.0)

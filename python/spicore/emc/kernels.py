"""The three steps of EMC on a tile of orientations: expand, maximize, compress.

A tile's tomograms lie side by side per pixel, in panels of `LANES` orientations
(``panels[p, t, lane]`` is orientation ``p * LANES + lane``), so that one photon of a frame
is one vector load. Rows t are detector pixels in the order of `PixelLayout`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .. import _core
from .._dispatch import CPU, CpuBackend, CudaBackend, backend_of, n_threads
from ..errors import InputError

LANES: int = _core.lanes

LOG_FACTORIAL = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 65536)))])
"""Of every count that a pixel can hold."""


class Photons(NamedTuple):
    """A block of sparse frames with pixels renumbered to rows and sorted within a frame.

    Frame d has rows ``row[begin[d]:orient_end[d]]`` that orient it and rows
    ``row[orient_end[d]:begin[d + 1]]`` that are only merged. Arrays of NumPy, or of torch or
    CuPy on a GPU; none of the methods waits for the GPU.

    Attributes
    ----------
    begin : int64 [D + 1]
    orient_end : int64 [D]
    row : uint32 [L]
    count : uint16 [L]
        On a GPU row and count may be longer than what `begin` covers.
    """

    begin: Any
    orient_end: Any
    row: Any
    count: Any

    def per_frame(self, values: Any) -> Any:
        """Sum values, one per entry of `row`, over the rows that orient each frame: float64."""
        # Differences of running sums: frames may be empty.
        backend = backend_of(begin=self.begin, values=values)
        with backend.device:
            running = backend.zeros(len(values) + 1, np.float64)
            running[1:] = values
            running = running.cumsum(0)
            return running[self.orient_end] - running[self.begin[:-1]]

    def part(self, first: int, last: int) -> Photons:
        """Return frames first .. last - 1; rows and counts are not copied.

        On a GPU they stay those of all frames, since where a frame begins is not known here.
        """
        if backend_of(**self._asdict()) is not CPU:
            begin, orient_end = self.begin[first : last + 1], self.orient_end[first:last]
            return Photons(begin, orient_end, self.row, self.count)
        a, b = self.begin[first], self.begin[last]
        return Photons(
            self.begin[first : last + 1] - a,
            self.orient_end[first:last] - a,
            self.row[a:b],
            self.count[a:b],
        )

    def to_dense(self, n_rows: int, *, threads: int | None = None) -> Any:
        """Return the block as float32 [D, n_rows]; rows beyond n_rows are left out."""
        backend = backend_of(**self._asdict())
        with backend.device:
            dense = backend.zeros((len(self.orient_end), n_rows), np.float32)
            backend.run("photons_to_dense", tuple(self), dense, threads=threads)
        return dense


def converted(backend: CpuBackend | CudaBackend, x: Any, dtype: DTypeLike) -> Any:
    """Return a copy of an array, of any type, as `dtype`."""
    with backend.device:
        copy = backend.empty(x.shape, dtype)
        copy[:] = x
    return copy


def indices(backend: CpuBackend | CudaBackend, x: Any) -> Any:
    """Return whole numbers of any type such that they can be indices: torch takes int64 alone."""
    return x if backend is CPU else converted(backend, x, np.int64)


def sort_photons(
    offset: Any,
    pixel: Any,
    count: Any,
    row_of: Any,
    n_orient: int,
    *,
    threads: int | None = None,
) -> Photons:
    """Renumber the pixels of sparse frames to rows and sort them within each frame.

    Parameters
    ----------
    offset, pixel, count : int64 [D + 1], uint32 [L], uint16 [L]
        Frames as in `SparseFrames`.
    row_of : int32 [T]
        Row of a detector pixel; -1 leaves it out.
    n_orient : int
        Rows below it orient, the others only merge.
    threads : int, optional
        Default: all cores.

    Notes
    -----
    Cost: about 20 ns per lit pixel and thread. On a GPU row and count keep the length L, since
    how many are kept is not known without waiting; entries from ``begin[D]`` on are 0. Pixels
    beyond the detector are left out there, not refused.
    """
    backend = backend_of(offset=offset, pixel=pixel, count=count, row_of=row_of)
    with backend.device:
        n_frames, n_lit = len(offset) - 1, len(pixel)
        photons = Photons(
            backend.empty(n_frames + 1, np.int64),
            backend.empty(n_frames, np.int64),
            backend.zeros(n_lit, np.uint32),
            backend.zeros(n_lit, np.uint16),
        )
        arguments = offset, pixel, count, row_of, n_orient, *photons
        backend.run("sort_photons", *arguments, threads=threads)
    if backend is not CPU:
        return photons
    used = photons.begin[-1]
    return photons._replace(row=photons.row[:used], count=photons.count[:used])


def expand(
    volume: Any,
    quats: Any,
    q: Any,
    exposure: Any,
    reference: Any = None,
    *,
    friedel: bool = True,
    out: Any = None,
    threads: int | None = None,
) -> tuple[Any, Any]:
    """Make the tomograms of a tile of orientations.

    Parameters
    ----------
    volume : float32 [N, N, N]
        Intensity, N odd.
    quats : float64 [R, 4]
        Unit quaternions (w, x, y, z), active.
    q : float32 [3, T]
        Scattering vectors of the rows in voxels, one plane per component.
    exposure : float32 [T]
        Solid angle x polarisation of the rows.
    reference : float32 [T], optional
        If given, log W - reference is returned instead of W. Any function of the row; the
        log of the radial mean keeps the sums of `maximize` small and exact.
    friedel : bool
        The volume is centrosymmetric: only its half x >= 0 is read (faster).
    out : float32 [ceil(R / LANES), T, LANES], optional
        Written and returned.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    panels : float32 [ceil(R / LANES), T, LANES]
        W = exposure * I(R q) or its logarithm; lanes past the last orientation are 0.
    total : float64 [R]
        Sum of W over the rows.

    Raises
    ------
    InputError
        Shapes disagree, arrays are on different devices, N is even, or quaternions are not of
        unit norm.
    CudaError
        Arrays are on a GPU that cannot be used.

    Notes
    -----
    Cost: about 30 flops and 8 reads per orientation and row. On a GPU as `ewald_slice`.
    Source: Loh & Elser, Phys. Rev. E 80, 026705 (2009), the expand step.
    """
    backend = backend_of(
        volume=volume, quats=quats, q=q, exposure=exposure, reference=reference, out=out
    )
    with backend.device:
        volume = backend.array("volume", volume, np.float32, (None, None, None))
        if len(set(volume.shape)) != 1 or volume.shape[0] % 2 == 0:
            raise InputError(f"volume must be cubic with an odd edge, got {list(volume.shape)}")
        quats = backend.quaternions("quats", quats)
        q = backend.array("q", q, np.float32, (3, None))
        n_rows = q.shape[1]
        exposure = backend.array("exposure", exposure, np.float32, (n_rows,))
        logarithm = reference is not None
        reference = backend.array(
            "reference", reference if logarithm else exposure, np.float32, (n_rows,)
        )
        shape = (-(-len(quats) // LANES), n_rows, LANES)
        panels = backend.empty(shape, np.float32) if out is None else out
        if panels.shape != shape:
            raise InputError(f"out must have shape {list(shape)}, got {list(panels.shape)}")
        total = backend.empty(len(quats), np.float64)
        arrays = (volume, quats, q, exposure, reference)
        backend.run("expand", *arrays, logarithm, friedel, panels, total, threads=threads)
    return panels, total


def maximize(
    panels: Any,
    photons: Any,
    fluence: Any,
    offset: Any,
    ll: Any,
    first: int = 0,
    *,
    background: tuple[Any, Any, Any] | None = None,
    threads: int | None = None,
) -> None:
    """Write the log-likelihoods of a block of frames in a tile of orientations.

    ``ll[d, first + r] = sum_t K[d, t] L[r, t] - fluence[d] * offset[r]``, up to a constant
    per frame, with L the (log) tomograms of `expand`.

    Parameters
    ----------
    panels : float32 [panels, T, LANES]
        From `expand`; logarithms, or linear if `background` is given.
    photons : Photons or float32 [D, T]
        Sparse frames (only rows that orient count) or dense values.
    fluence : float32 [D]
    offset : float32 [R]
        Sum of each tomogram, less any constant.
    ll : float32 [D, C]
        Columns first .. first + R are written.
    background : (background [T], scale [D], reference [T]), optional
        L becomes ``log(fluence W + scale background) - reference``.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Notes
    -----
    Cost: one 128-byte load and 32 multiply-adds per lit pixel and panel; with background
    32 logarithms more. On a GPU as `ewald_slice`; rows beyond the tomograms are left out
    there, not refused.
    """
    sparse = isinstance(photons, Photons)
    values = photons._asdict() if sparse else {"photons": photons}
    backend = backend_of(
        panels=panels, **values, fluence=fluence, offset=offset, ll=ll, **_named(background)
    )
    form = "maximize"
    if not sparse:
        form, background = "maximize_dense", None
    elif background is not None:
        form = "maximize_background"
    with backend.device:
        values = tuple(photons) if sparse else photons
        arguments = panels, values, fluence, offset, *(background or ()), ll, first
        backend.run(form, *arguments, threads=threads)


def _named(background: tuple | None) -> dict[str, Any]:
    """Return the arrays of a background by the name of the argument, for messages."""
    return {f"background[{k}]": x for k, x in enumerate(background or ())}


class Posterior(NamedTuple):
    """What `posterior` says of each frame; all arrays [D].

    Attributes
    ----------
    best : int64              column of the most probable orientation
    expected_ll : float64     sum_r P ll
    information : float64     sum_r P log(P / prior), nats
    expected_total : float64  sum_r P total
    """

    best: Any
    expected_ll: Any
    information: Any
    expected_total: Any


def posterior(
    ll: Any,
    beta: Any,
    log_prior: Any,
    total: Any,
    *,
    prior_power: Any = None,
    cut: float = 14.0,
    threads: int | None = None,
) -> Posterior:
    """Turn log-likelihoods [D, C] into posterior probabilities, in place.

    ``P ~ prior^prior_power * exp(beta ll)``, normalised per frame; terms `cut` nats below the
    largest become 0 (at 14 they hold together less than 1e-5).

    Parameters
    ----------
    ll : float32 [D, C]
        Overwritten by P.
    beta : float32 [D]
        Inverse temperature of each frame.
    log_prior : float32 [C]
        Log of the orientations' weights.
    total : float64 [C]
        Sum of each tomogram, for the fluence update.
    prior_power : float32 [D], optional
        Default 1: only the likelihood is tempered.
    cut : float
        14 / beta below the largest log-likelihood, where `prior_power` is beta.
    threads : int, optional
        Default: all cores. Results do not depend on it.
    """
    backend = backend_of(
        ll=ll, beta=beta, log_prior=log_prior, total=total, prior_power=prior_power
    )
    with backend.device:
        n_frames = len(ll)
        power = backend.ones(n_frames, np.float32) if prior_power is None else prior_power
        result = Posterior(
            backend.empty(n_frames, np.int64),
            *(backend.empty(n_frames, np.float64) for _ in range(3)),
        )
        arguments = ll, beta, power, log_prior, cut, total, *result
        backend.run("posterior", *arguments, threads=threads)
    return result


def compress(
    probability: Any,
    photons: Any,
    n_orientations: int,
    n_rows: int,
    first: int = 0,
    *,
    out: Any = None,
    scratch: Any = None,
    background: tuple[Any, Any, Any, Any] | None = None,
    threads: int | None = None,
) -> tuple[Any, Any]:
    """Sum the frames of a block, weighted by their posterior, for a tile of orientations.

    Parameters
    ----------
    probability : float32 [D, C]
        From `posterior`; columns first .. first + n_orientations are read.
    photons : Photons or float32 [D, n_rows]
    n_orientations, n_rows : int
        Shape of the result.
    out : float32 [n_orientations, n_rows], optional
        Written and returned.
    scratch : float32 [threads, n_rows, LANES], optional
        Overwritten; on a GPU there is none.
    background : (panels, fluence [D], background [T], scale [D]), optional
        Count only the expected share of signal, ``fluence W / (fluence W + scale B)``, with
        the linear tomograms `panels` of the tile.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    slices : float32 [n_orientations, n_rows]
        ``sum_d P[d, r] K[d, t]``; merge with `ewald_merge`.
    signal : float64 [D] or None
        With background: expected signal photons of each frame in the rows that orient.

    Notes
    -----
    On a GPU as `ewald_slice`; rows beyond `n_rows` are left out there, not refused.
    """
    sparse = isinstance(photons, Photons)
    values = photons._asdict() if sparse else {"photons": photons}
    backend = backend_of(
        probability=probability, **values, out=out, scratch=scratch, **_named(background)
    )
    with backend.device:
        slices = backend.empty((n_orientations, n_rows), np.float32) if out is None else out
        if scratch is None:
            shape = (n_threads(threads), n_rows, LANES) if backend is CPU else (0, 0, 0)
            scratch = backend.empty(shape, np.float32)
        if not sparse:
            arguments = probability, first, photons, scratch, slices
            backend.run("compress_dense", *arguments, threads=threads)
            return slices, None
        if background is None:
            arguments = probability, first, tuple(photons), scratch, slices
            backend.run("compress", *arguments, threads=threads)
            return slices, None
        n_panels = -(-n_orientations // LANES)
        signal = backend.empty((n_panels, len(probability)), np.float64)
        arguments = probability, first, tuple(photons), *background, scratch, slices, signal
        backend.run("compress_background", *arguments, threads=threads)
        return slices, signal.sum(axis=0)

"""The M-step of the polar engine: photons, weighted by their posterior, into tomograms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..._dispatch import CPU, backend_of, n_threads
from ..kernels import Photons
from .orders import GROUP


class Terms(NamedTuple):
    """Posterior terms of a block of frames: chunks, each sorted by group of 16 views.

    Chunk c holds the terms of group g at ``begin[c, g]:begin[c, g + 1]``.
    """

    begin: NDArray[np.int64]  # [chunks, groups + 1]
    orientation: NDArray[np.uint32]  # (view * mirrors + mirror) * A + j
    frame: NDArray[np.uint32]
    probability: NDArray[np.float32]


def accumulate(
    terms: Terms,
    photons: Photons,
    fluence: Any,
    n_angles: int,
    tomograms: Any,
    exposures: Any,
    *,
    mirrors: int = 2,
    threads: int | None = None,
) -> None:
    """Add the photons of a block of frames, weighted by their posterior, to tomograms of views.

    A term (frame d, view v, in-plane angle j) of probability P adds ``P K[d, (q, t)]`` to bin
    ``(q, (t + j) mod A)`` of tomogram v, or to bin ``(q, -(t + j) mod A)`` where the view is
    mirrored, and ``P fluence[d]`` to the exposure of its orientation.

    Parameters
    ----------
    terms : Terms
        Orientation ``(view * mirrors + mirror) * A + j``. Fast where the terms of a frame stand
        side by side.
    photons : Photons
        Rows ``q * A + t``, and ``n_bins + q * A + t`` of photons that only merge; both are added.
    fluence : float32 [D]
        Relative to the mean, without unit.
    n_angles : int
        A, one of `layout.ANGLES`.
    tomograms : float32 [16 * groups, n_bins]
        Photons, added to.
    exposures : float64 [16 * groups, mirrors, A]
        Sum of P fluence, added to.
    mirrors : int
        1, or 2 where a view stands for its mirror image too.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Raises
    ------
    ValueError
        Shapes disagree, or, on the CPU, an index lies outside its array. On a GPU, where no
        values are read, what would lie outside a tomogram is left out.
    TypeError
        An array is of another type, or not C-contiguous.

    Notes
    -----
    Cost: a group of views with few terms adds each photon once per run of neighbouring angles;
    one with many costs ``A / 2`` complex products per frame, ring and view. On a GPU photons are
    added in any order, so that results may differ by rounding, and the scratch is about as large
    as the tomograms and the bins of all frames together.
    Source: Loh & Elser, Phys. Rev. E 80, 026705 (2009), the maximisation step.
    """
    backend = backend_of(
        **terms._asdict(), **{f"photons_{k}": x for k, x in photons._asdict().items()},
        fluence=fluence, tomograms=tomograms, exposures=exposures,
    )  # fmt: skip
    n_views, n_bins = tomograms.shape
    n_groups = n_views // GROUP
    if backend is CPU:
        size = _core.accumulate_workspace(
            n_angles, mirrors, n_bins, n_groups, len(photons.row), n_threads(threads)
        )
    else:
        n_chunks, n_terms, n_frames = len(terms.begin), len(terms.frame), len(fluence)
        size = _core.accumulate_device_workspace(
            n_angles, n_bins, n_chunks, n_groups, n_frames, n_terms
        )
    with backend.device:
        backend.run(
            "accumulate",
            tuple(terms),
            tuple(photons),
            fluence,
            n_angles,
            mirrors,
            backend.empty(size, np.float32),
            tomograms,
            exposures,
            threads=threads,
        )

"""How many frames at a time: blocks that fit the memory, and halves where their terms do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..._dispatch import CPU, CpuBackend, CudaBackend
from ..kernels import Photons
from .accumulate import Terms
from .correlate import FramePosterior, Overflow, Views
from .orders import AngularOrders

if TYPE_CHECKING:
    from ...frames import Frames, SparseFrames
    from ..state import Settings
    from .class_engine import ClassSettings
    from .layout import PolarLayout

CHUNK = 128
"""Frames of a thread's work: their transforms fill a few MB of the last-level cache."""

CHUNKS_ON_GPU = 512
"""Of a block of frames: each is a block of threads, a few for every multiprocessor."""

ENTRY_BYTES = 72
"""Of an entry of a frame: as it comes, of this block and the next, and sorted, 6 each, and while
log-likelihoods are summed its row and count as indices and three numbers in float64."""

TILE_ON_GPU = 8
"""Frames that a block of threads compares with views at a time."""

T = TypeVar("T")


class Oriented(NamedTuple):
    """Posterior terms of some frames, on the device, and in host memory what those say."""

    terms: Terms
    posterior: FramePosterior


def frames_at_once(orders: AngularOrders, block_bytes: int, more: float = 0.0) -> int:
    """Frames whose transforms, and `more` bytes each, fill half the memory; whole chunks."""
    each = 8 * orders.n_coefficients + more
    return max(CHUNK, int(block_bytes // 2 // each) // CHUNK * CHUNK)


def entry_bytes(frames: Frames) -> float:
    """Memory that the entries of a frame take, by the first frames."""
    sample = frames.read(0, min(64, frames.n_frames))
    return ENTRY_BYTES * len(sample.pixel) / max(len(sample), 1)


def binned(
    frames: Frames, layout: PolarLayout, orders: AngularOrders, settings: Settings | ClassSettings
) -> Iterator[tuple[int, Photons]]:
    """Yield (first frame, binned photons) of blocks, where the backend has its arrays."""
    backend = settings.backend
    each = 0.0 if backend is CPU else entry_bytes(frames)
    blocks = frames.blocks(frames_at_once(orders, settings.block_bytes, each))
    row_of = backend.to_device(layout.row_of)
    for start, sparse in read_ahead(blocks, backend):
        yield start, layout.photons(sparse, settings.threads, row_of)


def read_ahead(
    blocks: Iterator[tuple[int, SparseFrames]], backend: CpuBackend | CudaBackend
) -> Iterator[tuple[int, SparseFrames]]:
    """Return blocks of frames, where the backend has its arrays.

    While a GPU works on one, a thread reads the next and sends it there.
    """
    return blocks if backend is CPU else _uploaded(blocks, backend)


def _uploaded(
    blocks: Iterator[tuple[int, SparseFrames]], backend: CudaBackend
) -> Iterator[tuple[int, SparseFrames]]:
    names = ("offset", "pixel", "count")

    def next_block(after: Any) -> tuple[int, SparseFrames] | None:
        for start, sparse in blocks:
            arrays = backend.upload([getattr(sparse, name) for name in names], after)
            return start, replace(sparse, **dict(zip(names, arrays, strict=True)))
        return None

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next_block, backend.mark())
        while (block := coming.result()) is not None:
            # The mark comes after all work on the blocks before, but not that on this one. It is
            # held here until the next is there: until then its memory must not be used again.
            coming = pool.submit(next_block, backend.mark())
            yield block


def room(block_bytes: int) -> int:
    """Posterior terms that fill the other half: 12 bytes each."""
    return block_bytes // 2 // 12


def chunk_of(n_frames: int, backend: CpuBackend | CudaBackend = CPU) -> int:
    """Frames of a chunk: enough chunks to share among threads, whatever their number."""
    if backend is CPU:
        return int(np.clip(n_frames // 8, 1, CHUNK))
    tiles = n_frames // (CHUNKS_ON_GPU * TILE_ON_GPU)
    return int(np.clip(tiles * TILE_ON_GPU, TILE_ON_GPU, CHUNK))


def capacity(n_frames: int, chunk: int, views: Views, block_bytes: int) -> int:
    """Terms that a chunk of `correlate` may have."""
    n_angles = views.orders.n_angles
    everything = 2 * views.n_orientations + n_angles
    terms = min(room(block_bytes) // -(-n_frames // chunk), chunk * everything)
    # One frame has room for everything: nothing is left to split.
    return everything if n_frames == 1 else max(terms, n_angles)


def split(photons: Photons, parts: int) -> Iterator[tuple[int, Photons]]:
    """Cut a block into runs of frames; yield the first frame of each, and its photons."""
    n = len(photons.orient_end)
    step = max(1, -(-n // parts))
    for first in range(0, n, step):
        yield first, photons.part(first, min(first + step, n))


def in_parts(
    photons: Photons, parts: int, orient: Callable[[slice, Photons], T]
) -> Iterator[tuple[slice, Photons, T]]:
    """Call ``orient(frames, photons)`` on parts of a block, in halves where it overflows.

    Yields the frames of each part within the block, its photons and what came of them, in the
    order of the frames.
    """
    waiting = list(split(photons, parts))[::-1]
    while waiting:
        first, part = waiting.pop()
        frames = slice(first, first + len(part.orient_end))
        try:
            result = orient(frames, part)
        except Overflow:
            waiting += [(first + k, half) for k, half in split(part, 2)][::-1]
            continue
        yield frames, part, result

"""How many frames at a time: blocks that fit the memory, and halves where their terms do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from ..kernels import Photons
from .correlate import Overflow, Views
from .orders import AngularOrders

CHUNK = 128
"""Frames of a thread's work: their transforms fill a few MB of the last-level cache."""

T = TypeVar("T")


def frames_at_once(orders: AngularOrders, block_bytes: int) -> int:
    """Frames whose transforms fill half the memory of a block, whole chunks."""
    return max(CHUNK, block_bytes // 2 // (8 * orders.n_coefficients) // CHUNK * CHUNK)


def room(block_bytes: int) -> int:
    """Posterior terms that fill the other half: 12 bytes each."""
    return block_bytes // 2 // 12


def chunk_of(n_frames: int) -> int:
    """Frames of a chunk: enough chunks to share among threads, whatever their number."""
    return int(np.clip(n_frames // 8, 1, CHUNK))


def capacity(n_frames: int, views: Views, block_bytes: int) -> int:
    """Terms that a chunk of `correlate` may have."""
    chunk, n_angles = chunk_of(n_frames), views.orders.n_angles
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

"""Dense frame stacks [N, ...]: made sparse while they are read, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .files import reading_hdf5

Csr = tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint16]]
"""Frames as (offset i8 [n + 1], pixel u4 [L], count u2 [L])."""

BLOCK_BYTES = 16 << 20
"""Raw bytes read at once: large enough to hide a seek, small beside any model."""

MAX_COUNT = 0xFFFF
"""Largest photon count of a pixel that the u2 of the memory layout can hold."""

CXI_STACKS = ("entry_1/data_1/data", "entry_1/instrument_1/detector_1/data")
"""Where CXI files keep their frames (CXI file format 1.6)."""


def check_counts(name: str, counts: NDArray, frame_of: Callable[[int], int]) -> None:
    """Raise `InputError` unless every count is 1 to 65535.

    Parameters
    ----------
    name : str
        File or array named in the message.
    counts : integer [L]
        Photon counts of lit pixels, in the type they were stored in.
    frame_of : callable
        Frame number of the element at an index of `counts`.
    """
    if counts.size and (counts.min() < 1 or counts.max() > MAX_COUNT):
        bad = int(np.argmax((counts < 1) | (counts > MAX_COUNT)))
        raise InputError(
            f"{name}: frame {frame_of(bad)}: the photon count of a lit pixel must be "
            f"1 to {MAX_COUNT}, got {counts[bad]}"
        )


@dataclass(frozen=True)
class DenseStack:
    """Frames stored as a dense array; subclasses say how to open it.

    Integers are photon counts and read as sparse frames (`kind` 'sparse'); floats are real
    values (`kind` 'dense').
    """

    name: str
    path: str | None
    n_frames: int
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, int] = (1, 1)  # frames and rows that the file stores together

    def __post_init__(self) -> None:
        if self.n_frames < 1 or self.n_pixels < 1:
            raise InputError(
                f"{self.name} must hold at least one frame and one pixel, "
                f"got shape {[self.n_frames, *self.shape]}"
            )

    @property
    def n_pixels(self) -> int:
        """Pixels of a frame."""
        return math.prod(self.shape)

    @property
    def kind(self) -> str:
        """'sparse' for photon counts, 'dense' for real values."""
        return "sparse" if self.dtype.kind in "iu" else "dense"

    @property
    def gap(self) -> int:
        """Unwanted frames between two wanted ones that cost nothing extra to read."""
        return self.chunks[0] - 1

    @property
    def block(self) -> int:
        """Frames of a block: whole chunks, within the byte budget where a chunk allows it."""
        frames = BLOCK_BYTES // (self.n_pixels * self.dtype.itemsize)
        return max(frames // self.chunks[0], 1) * self.chunks[0]

    def opened(self) -> AbstractContextManager[Any]:
        """Return a context that gives something to slice as [frames, rows]."""
        raise NotImplementedError

    def read(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Csr]:
        """Yield the frames of each range [a, b) as sparse photons."""
        with self.opened() as data:
            for a, b in ranges:
                yield self._sparse(data, a, b)

    def read_dense(self, ranges: Iterable[tuple[int, int]]) -> Iterator[NDArray[np.float64]]:
        """Yield the real values of each range [a, b) as float64 [b - a, T]."""
        with self.opened() as data:
            for a, b in ranges:
                values = np.asarray(data[a:b], dtype=np.float64).reshape(b - a, -1)
                if not np.isfinite(values).all():
                    frame, pixel = np.argwhere(~np.isfinite(values))[0]
                    raise InputError(
                        f"{self.name}: frame {a + frame}: values must be finite, "
                        f"got {values[frame, pixel]} at pixel {pixel}"
                    )
                yield values

    def _tiles(self, a: int, b: int) -> Iterator[tuple[slice, slice]]:
        """Cut [a, b) along stored chunks, so that none is unpacked twice.

        Rows are split only where one layer of chunks is larger than the budget: h5py's
        automatic chunks span thousands of frames and a few rows.
        """
        layer = self.block * self.n_pixels * self.dtype.itemsize
        height = self.shape[0]
        rows = height
        if self.chunks[0] > 1 and layer > BLOCK_BYTES:
            rows = max(BLOCK_BYTES * height // layer // self.chunks[1], 1) * self.chunks[1]
        while a < b:
            stop = min(b, (a // self.block + 1) * self.block)
            for row in range(0, height, rows):
                yield slice(a, stop), slice(row, min(row + rows, height))
            a = stop

    def _lit(self, data: Any, frames: slice, rows: slice) -> tuple[NDArray, NDArray, NDArray]:
        """Return (frame, pixel, count) of the lit pixels of one tile."""
        tile = np.asarray(data[frames, rows]).reshape(frames.stop - frames.start, -1)
        lit = np.flatnonzero(tile)
        count = tile.reshape(-1)[lit]
        frame, pixel = np.divmod(lit, tile.shape[1])
        frame += frames.start
        check_counts(self.name, count, lambda i: int(frame[i]))
        pixel += rows.start * (self.n_pixels // self.shape[0])
        return frame, pixel.astype(np.uint32), count.astype(np.uint16)

    def _sparse(self, data: Any, a: int, b: int) -> Csr:
        parts = [self._lit(data, *tile) for tile in self._tiles(a, b)]
        frame, pixel, count = (np.concatenate(column) for column in zip(*parts, strict=True))
        if (np.diff(frame) < 0).any():  # frames were cut into tiles of rows
            order = np.argsort(frame, kind="stable")
            pixel, count = pixel[order], count[order]
        lit = np.bincount(frame - a, minlength=b - a)
        return np.concatenate([[0], np.cumsum(lit)]), pixel, count


@dataclass(frozen=True)
class ArrayStack(DenseStack):
    """A stack that is already in memory; not copied."""

    data: NDArray | None = None

    def opened(self) -> AbstractContextManager[NDArray]:
        """Give the array itself."""
        return nullcontext(self.data)


def from_array(values: Any) -> ArrayStack:
    """Return a stack over `values`, integer or float [N, ...], without copying it."""
    data = np.asarray(values)
    if data.ndim < 2 or data.dtype.kind not in "iuf":
        raise InputError(
            "frames must be an integer or float array [N, ...] of at least 2 dimensions, "
            f"got {data.dtype} {list(data.shape)}"
        )
    return ArrayStack("frames", None, data.shape[0], data.shape[1:], data.dtype, data=data)


@dataclass(frozen=True)
class Hdf5Stack(DenseStack):
    """An integer dataset [N, ...] of an HDF5 or CXI file."""

    dataset: str = ""

    @contextmanager
    def opened(self) -> Iterator[h5py.Dataset]:
        """Give the dataset; errors of HDF5 while it is read become `InputError`."""
        with reading_hdf5(self.path) as file:
            yield file[self.dataset]


def open_stack(path: str, file: h5py.File, dataset: str | None) -> Hdf5Stack:
    """Find the frames of an HDF5 file that is not in the EMC layout.

    Parameters
    ----------
    path : str
        Name of the file, for messages and for opening it again.
    file : h5py.File
        The same file, open.
    dataset : str or None
        Dataset to use; None takes a CXI location or the only integer stack.
    """
    found = file.get(dataset) if dataset else _find(path, file)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: no dataset {dataset!r}; it has {_listing(file)}")
    if _rank(found) < 2 or found.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {found.name} must be an integer stack [N, ...] of photon counts, "
            f"got {_described(found)}"
        )
    chunks = found.chunks[:2] if found.chunks else (1, 1)
    name = f"{path}:{found.name}"
    return Hdf5Stack(
        name, path, found.shape[0], found.shape[1:], found.dtype, chunks, dataset=found.name
    )


def _find(path: str, file: h5py.File) -> h5py.Dataset:
    for location in CXI_STACKS:
        if isinstance(file.get(location), h5py.Dataset):
            return file[location]
    integers = [d for d in _datasets(file) if d.dtype.kind in "iu" and _rank(d) >= 2]
    stacks = [d for d in integers if _rank(d) >= 3] or integers
    if len(stacks) == 1:
        return stacks[0]
    if stacks:
        listing = ", ".join(map(_described, stacks))
        raise InputError(f"{path}: name one integer stack with dataset= (--dataset): {listing}")
    raise InputError(
        f"{path}: expected EMC frames (num_pix, place_ones, place_multi, count_multi) or an "
        f"integer stack [N, ...], got {_listing(file)}"
    )


def _datasets(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def _rank(dataset: h5py.Dataset) -> int:
    return len(dataset.shape or ())  # an empty dataset has shape None


def _described(dataset: h5py.Dataset) -> str:
    return f"{dataset.name} {dataset.dtype} {list(dataset.shape or ())}"


def _listing(file: h5py.File) -> str:
    """Describe at most eight datasets, so that the message stays one readable line."""
    names = [_described(d) for d in _datasets(file)]
    more = [f"and {len(names) - 8} more"] if len(names) > 8 else []
    return ", ".join(names[:8] + more) or "no datasets"

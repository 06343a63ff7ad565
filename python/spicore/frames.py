"""Frames of photons: one compact layout in memory, one lazy handle on files of any format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _validate
from .errors import InputError
from .io import dense_stack, emc_binary, emc_hdf5
from .io.dense_stack import Csr
from .io.files import reading_hdf5

Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all) after each block."""

MAX_PIXELS = 2**31 - 1  # EMC files store pixel indices as int32


@dataclass(frozen=True, eq=False)
class SparseFrames:
    """Lit pixels of consecutive frames, in compressed rows.

    Frame d holds the pixels `pixel[offset[d]:offset[d + 1]]` with the photon counts at the same
    places of `count`: 6 bytes per lit pixel and 8 per frame.  The order of the pixels inside a
    frame is free.  A pixel that a file lists twice in one frame stays listed twice, which is
    harmless: its photons add up in every sum.

    Parameters
    ----------
    offset : int64 [N + 1]
        Where each frame starts; the first is 0 and the last L.
    pixel : uint32 [L]
        Indices of lit pixels, 0 to `n_pixels - 1`.
    count : uint16 [L]
        Photons there, 1 to 65535.
    n_pixels : int
        Pixels of a frame, T.

    Notes
    -----
    Built by `Frames`, which checks the numbers; the constructor itself checks nothing.
    """

    offset: NDArray[np.int64]
    pixel: NDArray[np.uint32]
    count: NDArray[np.uint16]
    n_pixels: int

    def __len__(self) -> int:
        return len(self.offset) - 1

    @property
    def n_frames(self) -> int:
        """Number of frames, N."""
        return len(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.offset.nbytes + self.pixel.nbytes + self.count.nbytes

    @property
    def photons_per_frame(self) -> NDArray[np.int64]:
        """Photons of each frame, int64 [N]."""
        photons = np.zeros(len(self), np.int64)
        lit = np.diff(self.offset) > 0  # reduceat gives an empty frame the photons of the next
        if lit.any():
            photons[lit] = np.add.reduceat(self.count, self.offset[:-1][lit], dtype=np.int64)
        return photons

    def to_dense(self, dtype: DTypeLike = np.uint32) -> NDArray:
        """Return the frames as `dtype` [N, T]; for small blocks, it takes N x T elements."""
        dense = np.zeros((len(self), self.n_pixels), dtype)
        frame = np.repeat(np.arange(len(self)), np.diff(self.offset))
        np.add.at(dense, (frame, self.pixel), self.count.astype(dtype))
        return dense

    def _take(self, frames: NDArray[np.int64]) -> SparseFrames:
        """Copy the frames of the given numbers, in that order."""
        lengths = np.diff(self.offset)[frames]
        offset = np.concatenate([[0], np.cumsum(lengths)])
        place = np.repeat(self.offset[frames] - offset[:-1], lengths)
        place += np.arange(place.size)
        return SparseFrames(offset, self.pixel[place], self.count[place], self.n_pixels)


class _Source(Protocol):
    """What `Frames` needs of a format; holds no open file and no photons of a file."""

    name: str  # for messages
    path: str | None
    n_frames: int
    n_pixels: int
    shape: tuple[int, ...] | None
    kind: str
    block: int  # frames of a block that fits the byte budget
    gap: int  # unwanted frames that are cheaper to read than to skip

    def read(self, ranges: Sequence[tuple[int, int]]) -> Iterator[Csr]: ...


@dataclass(frozen=True)
class _Memory:
    """Sparse frames in memory as a source."""

    frames: SparseFrames
    shape: tuple[int, ...] | None = None
    name: str = "frames"
    path: None = None
    kind: str = "sparse"
    gap: int = MAX_PIXELS  # ranges are views: reading through costs nothing

    @property
    def n_frames(self) -> int:
        return len(self.frames)

    @property
    def n_pixels(self) -> int:
        return self.frames.n_pixels

    @property
    def block(self) -> int:
        return max(dense_stack.BLOCK_BYTES * self.n_frames // self.frames.nbytes, 1)

    def read(self, ranges: Sequence[tuple[int, int]]) -> Iterator[Csr]:
        for a, b in ranges:
            start, stop = self.frames.offset[a], self.frames.offset[b]
            yield (
                self.frames.offset[a : b + 1] - start,
                self.frames.pixel[start:stop],
                self.frames.count[start:stop],
            )


class Frames:
    """Frames of a file or of memory; photons are read only when asked for.

    Made by `Frames.open`, `Frames.from_arrays` and `Frames.from_dense`.  There is always at
    least one frame; a frame may be empty.  A selection shares the source, so it costs its index
    and composes: `frames[mask][10:].half("odd")`.  No file stays open between calls, thus
    `Frames` of files may be pickled and used after a fork.

    Attributes
    ----------
    n_frames : int
        Selected frames, N; also `len(frames)`.
    n_pixels : int
        Pixels of a frame, T.
    shape : tuple of int or None
        Shape of an image where the format has one, else None.
    kind : str
        'sparse' for photon counts, 'dense' for real values (EMC type 2, float arrays).
    """

    def __init__(self, source: _Source, index: range | NDArray[np.int64] | None = None) -> None:
        """For the class methods; users call those."""
        self._source = source
        self._index = range(source.n_frames) if index is None else index
        self._photons: NDArray | None = None

    @classmethod
    def open(cls, path: str | os.PathLike, dataset: str | None = None) -> Frames:
        """Open a file of frames; its content, never its name, tells the format.

        Parameters
        ----------
        path : path
            EMC binary (sparse, dense int32, dense float64), EMC HDF5, or an HDF5 or CXI file
            with a dense integer stack [N, ...].
        dataset : str, optional
            Dataset of a dense stack.  Otherwise `entry_1/data_1/data`,
            `entry_1/instrument_1/detector_1/data`, or the only integer dataset of 3 or more
            dimensions, or else of 2, is taken.

        Returns
        -------
        Frames
            Lazy: only headers have been read.

        Raises
        ------
        InputError
            The file is missing, unreadable, truncated, of no known format, without frames, or
            holds several stacks; the message says which and what came.

        Notes
        -----
        Photons are checked while they are read, and an error then names file and frame.
        Cost: headers, with 8 bytes per frame of an EMC binary.
        """
        path = os.fspath(path)
        try:
            with open(path, "rb"):
                is_hdf5 = h5py.is_hdf5(path)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        if not is_hdf5 and dataset is not None:
            raise InputError(f"{path}: dataset {dataset!r} needs an HDF5 file, got another format")
        return cls(_open_hdf5(path, dataset) if is_hdf5 else emc_binary.open_emc(path))

    @classmethod
    def from_arrays(
        cls, offset: ArrayLike, pixel: ArrayLike, count: ArrayLike, n_pixels: int
    ) -> Frames:
        """Return frames over sparse arrays in memory.

        Parameters
        ----------
        offset : integer [N + 1]
            Where each frame starts; from 0 to L, never falling.
        pixel : integer [L]
            Pixel indices, 0 to `n_pixels - 1`.
        count : integer [L]
            Photons, 1 to 65535.
        n_pixels : int
            Pixels of a frame.

        Raises
        ------
        InputError
            An array is not of integers, shapes disagree, or a number is out of its range.

        Notes
        -----
        Arrays that are already int64, uint32 and uint16 are not copied.
        """
        n_pixels = int(_validate.number("n_pixels", n_pixels, low=1, high=MAX_PIXELS))
        offset = _integers("offset", offset)
        pixel = _integers("pixel", pixel)
        count = _integers("count", count)
        if offset.size < 2 or offset[0] != 0 or (offset[1:] < offset[:-1]).any():
            raise InputError("offset must be [N + 1] with N >= 1, start at 0 and never fall")
        if not offset[-1] == pixel.size == count.size:
            raise InputError(
                f"pixel and count must have length offset[-1] = {offset[-1]}, "
                f"got {pixel.size} and {count.size}"
            )
        offset = _validate.array("offset", offset, np.int64, (None,))
        emc_binary.check_pixels("pixel", pixel, n_pixels, 0, offset)
        dense_stack.check_counts(
            "count", count, lambda i: int(np.searchsorted(offset, i, side="right")) - 1
        )
        pixel = _validate.array("pixel", pixel, np.uint32, (None,))
        count = _validate.array("count", count, np.uint16, (None,))
        return cls(_Memory(SparseFrames(offset, pixel, count, n_pixels)))

    @classmethod
    def from_dense(cls, frames: ArrayLike) -> Frames:
        """Return frames over an array [N, ...]: integers are photon counts, floats real values.

        The array is not copied; integers are made sparse, and checked, while they are read.
        """
        return cls(dense_stack.from_array(frames))

    @property
    def n_frames(self) -> int:
        """Selected frames, N."""
        return len(self._index)

    @property
    def n_pixels(self) -> int:
        """Pixels of a frame, T."""
        return self._source.n_pixels

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of an image, or None where the format has none."""
        return self._source.shape

    @property
    def kind(self) -> str:
        """'sparse' for photon counts, 'dense' for real values."""
        return self._source.kind

    def __len__(self) -> int:
        return self.n_frames

    def __repr__(self) -> str:
        return (
            f"Frames({self._source.name!r}, n_frames={self.n_frames}, "
            f"n_pixels={self.n_pixels}, kind={self.kind!r})"
        )

    def __getitem__(self, key: int | slice | ArrayLike) -> Frames:
        """Select frames by number, slice, array of numbers or boolean mask [N]; stays lazy."""
        if isinstance(key, slice):
            index = self._index[key]
        elif isinstance(key, int | np.integer) and not isinstance(key, bool):
            number = range(self.n_frames)[key]  # IndexError ends a for loop over frames
            index = self._index[number : number + 1]
        else:
            index = self._chosen(np.asarray(key))
        if len(index) == 0:
            raise InputError(f"the selection keeps none of {self.n_frames} frames")
        return Frames(self._source, index)

    def select(self, frames: ArrayLike) -> Frames:
        """Return the frames of an array of numbers or a boolean mask [N]; as indexing."""
        return self[np.asarray(frames)]

    def half(self, which: str) -> Frames:
        """Return the 'even' (0, 2, ...) or the 'odd' (1, 3, ...) of the selected frames."""
        start = ("even", "odd").index(_validate.choice("which", which, ("even", "odd")))
        return self[start::2]

    def _chosen(self, key: NDArray) -> NDArray[np.int64]:
        """Turn an array that selects frames into frame numbers of the source."""
        n = self.n_frames
        if key.ndim != 1 or (key.dtype.kind not in "biu" and key.size):
            raise InputError(
                f"frames are selected by integers or a mask [N], got {key.dtype} {list(key.shape)}"
            )
        if key.dtype == bool:
            if key.size != n:
                raise InputError(f"a mask of frames must have length {n}, got {key.size}")
            key = np.flatnonzero(key)
        key = key.astype(np.int64)
        outside = (key < -n) | (key >= n)
        if outside.any():
            raise InputError(f"frame numbers must be 0 to {n - 1}, got {key[outside][0]}")
        return np.asarray(self._index, dtype=np.int64)[key]

    @property
    def photons_per_frame(self) -> NDArray:
        """Photons of each frame, int64 [N]; float64 sums for real values.

        Cost: one pass in bounded memory the first time, then kept.
        """
        if self._photons is None:
            if self.kind == "sparse":
                sums = [block.photons_per_frame for _, block in self.blocks()]
            else:
                sums = [block.sum(axis=1) for block in self._dense_blocks()]
            self._photons = np.concatenate(sums)
        return self._photons

    def blocks(self, n_frames_per_block: int | None = None) -> Iterator[tuple[int, SparseFrames]]:
        """Yield (number of the first frame, frames) for consecutive blocks of photon counts.

        Parameters
        ----------
        n_frames_per_block : int, optional
            Frames of a block; the last may be smaller.  By default as many as make about
            16 MiB of input.

        Raises
        ------
        InputError
            The frames hold real values, or the input is bad: file and frame are named.

        Notes
        -----
        Memory: one block.  Cost (one core, cached file): 2 ns per lit pixel of an EMC
        binary, 6 of EMC HDF5, 3 per stored pixel of a dense stack; more for scattered frames.
        """
        for start, stop in self._bounds(n_frames_per_block):
            yield start, self.read(start, stop)

    def read(self, a: int, b: int) -> SparseFrames:
        """Return the photon counts of frames a to b - 1 of the selection; see `blocks`."""
        if self.kind == "dense":
            raise InputError(f"{self._source.name} holds real values, not photons: use dense(a, b)")
        index = self._span(a, b)
        if isinstance(index, range) and index.step == 1:
            csr = _one(self._source.read([(index.start, index.stop)]))
            return SparseFrames(*csr, self.n_pixels)
        return self._gather(np.asarray(index, dtype=np.int64))

    def dense(self, a: int, b: int) -> NDArray[np.float32]:
        """Return frames a to b - 1 of the selection as float32 [b - a, T], of either kind."""
        if self.kind == "sparse":
            return self.read(a, b).to_dense(np.float32)
        return self._values(a, b).astype(np.float32)

    def load(self) -> Frames:
        """Return the selected frames in memory.

        Takes 6 bytes per lit pixel and 8 per frame, and one block while reading; real values
        take 8 bytes per pixel.
        """
        if self.kind == "dense":
            return Frames.from_dense(np.concatenate(list(self._dense_blocks())))
        offset = np.zeros(self.n_frames + 1, np.int64)
        pixel, count = np.empty(0, np.uint32), np.empty(0, np.uint16)
        for start, block in self.blocks():
            filled = pixel.size
            offset[start : start + len(block) + 1] = block.offset + filled
            # realloc moves pages, not bytes: no second copy as when joining a list of blocks
            for whole, part in ((pixel, block.pixel), (count, block.count)):
                whole.resize(filled + part.size, refcheck=False)
                whole[filled:] = part
        frames = SparseFrames(offset, pixel, count, self.n_pixels)
        return Frames(_Memory(frames, self.shape, self._source.name))

    def save_emc(self, path: str | os.PathLike, progress: Progress | None = None) -> None:
        """Write an EMC binary file: type 0 for photon counts, type 2 for real values.

        Parameters
        ----------
        path : path
            Replaced only when the new file is complete.
        progress : callable, optional
            Called with (frames done, frames in all) after each block.

        Raises
        ------
        InputError
            The file cannot be written, is the one that is read, or the input is bad.

        Notes
        -----
        One pass in bounded memory.  Byte-identical with Dragonfly's writer.
        """
        self._keep_input(path)
        size = (self.n_frames, self.n_pixels)
        if self.kind == "dense":
            emc_binary.write_dense(path, *size, self._dense_blocks(progress))
        else:
            emc_binary.write_sparse(path, *size, self._counted(progress))

    def save_h5(self, path: str | os.PathLike, progress: Progress | None = None) -> None:
        """Write an EMC HDF5 file, as `save_emc`; for photon counts only."""
        if self.kind == "dense":
            raise InputError("EMC HDF5 holds photon counts only: write real values by save_emc")
        self._keep_input(path)
        emc_hdf5.write_emc_hdf5(path, self.n_frames, self.n_pixels, self._counted(progress))

    def _keep_input(self, path: str | os.PathLike) -> None:
        source = self._source.path
        if source is not None and os.path.exists(path) and os.path.samefile(path, source):
            raise InputError(f"cannot write {os.fspath(path)}: the frames are read from it")

    def _bounds(self, n: int | None = None) -> Iterator[tuple[int, int]]:
        n = self._source.block if n is None else n
        n = int(_validate.number("n_frames_per_block", n, low=1))
        for start in range(0, self.n_frames, n):
            yield start, min(start + n, self.n_frames)

    def _span(self, a: int, b: int) -> range | NDArray[np.int64]:
        if not 0 <= a < b <= self.n_frames:
            raise InputError(f"a and b must satisfy 0 <= a < b <= {self.n_frames}, got {a}, {b}")
        return self._index[a:b]

    def _gather(self, index: NDArray[np.int64]) -> SparseFrames:
        """Read frames in any order, with repeats: forward through the file, then reordered."""
        wanted, order = np.unique(index, return_inverse=True)
        spans = self._spans(wanted)
        ranges = [(int(wanted[i]), int(wanted[j - 1]) + 1) for i, j in spans]
        parts = [
            SparseFrames(*csr, self.n_pixels)._take(wanted[i:j] - a)
            for (i, j), (a, _), csr in zip(spans, ranges, self._source.read(ranges), strict=True)
        ]
        together = _joined(parts, self.n_pixels)
        return together if np.array_equal(wanted, index) else together._take(order)

    def _spans(self, wanted: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Cut ascending frame numbers where a gap is worth a seek or a block is full."""
        breaks = np.flatnonzero(np.diff(wanted) > self._source.gap + 1) + 1
        edges = np.concatenate([[0], breaks, [wanted.size]])
        spans = []
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            while start < stop:
                end = np.searchsorted(wanted[start:stop], wanted[start] + self._source.block)
                spans.append((start, start + int(end)))
                start += int(end)
        return spans

    def _values(self, a: int, b: int) -> NDArray[np.float64]:
        """Real values of frames a to b - 1; each frame is a read of its own when picked."""
        index = self._span(a, b)
        if isinstance(index, range) and index.step == 1:
            return _one(self._source.read_dense([(index.start, index.stop)]))
        return np.concatenate(list(self._source.read_dense((d, d + 1) for d in map(int, index))))

    def _dense_blocks(self, progress: Progress | None = None) -> Iterator[NDArray[np.float64]]:
        for start, stop in self._bounds():
            yield self._values(start, stop)
            if progress is not None:
                progress(stop, self.n_frames)

    def _counted(self, progress: Progress | None) -> Iterator[Csr]:
        """Pass over all blocks for a writer; the photons of each frame come for free."""
        photons = np.empty(self.n_frames, np.int64)
        for start, block in self.blocks():
            stop = start + len(block)
            photons[start:stop] = block.photons_per_frame
            yield block.offset, block.pixel, block.count
            if progress is not None:
                progress(stop, self.n_frames)
        self._photons = photons


def _open_hdf5(path: str, dataset: str | None) -> _Source:
    with reading_hdf5(path) as file:
        if dataset is None and emc_hdf5.is_emc(file):
            return emc_hdf5.open_emc_hdf5(path, file)
        return dense_stack.open_stack(path, file, dataset)


def _integers(name: str, values: ArrayLike) -> NDArray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InputError(
            f"{name} must be integers of one dimension, got {array.dtype} {list(array.shape)}"
        )
    return array


def _one(items: Iterator[Any]) -> Any:
    (item,) = items
    return item


def _joined(parts: list[SparseFrames], n_pixels: int) -> SparseFrames:
    if len(parts) == 1:
        return parts[0]
    lengths = [np.diff(part.offset) for part in parts]
    offset = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    pixel = np.concatenate([part.pixel for part in parts])
    return SparseFrames(offset, pixel, np.concatenate([part.count for part in parts]), n_pixels)

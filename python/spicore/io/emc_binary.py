"""EMC binary frames: a header of 256 int32 words, then photons or dense values.

Layout (little-endian, no version number): num_data, num_pix and type as int32, zeros up to
byte 1024, then for

- type 0 (sparse): `ones` [N] and `multi` [N], the number of pixels per frame with one and with
  several photons; then, frames one after the other, `place_ones`, `place_multi` and
  `count_multi`, all int32;
- type 1 (dense): int32 [N, num_pix] photon counts;
- type 2 (dense): float64 [N, num_pix] real values.

Files of type 0 that spicore writes are byte-identical with those of Dragonfly's own writer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .dense_stack import BLOCK_BYTES, Csr, DenseStack, check_counts
from .files import atomic_path

HEADER_BYTES = 1024
WORD = np.dtype("<i4")
DENSE_TYPES = {1: WORD, 2: np.dtype("<f8")}

# Measured: a separate read costs 55 us, as much as 30,000 lit pixels that are read and dropped.
LIT_PER_SEEK = 30_000


def check_pixels(name: str, pixels: NDArray, n_pixels: int, first: int, offset: NDArray) -> None:
    """Raise `InputError` unless every index is in the frame.

    Parameters
    ----------
    name : str
        File or array named in the message.
    pixels : integer [L]
        Pixel indices in the type they were stored in.
    n_pixels : int
        Pixels of a frame.
    first : int
        Number of the frame that `offset` starts with.
    offset : int64 [n + 1]
        Where each frame starts in `pixels`.
    """
    if pixels.size and (pixels.min() < 0 or pixels.max() >= n_pixels):
        bad = int(np.argmax((pixels < 0) | (pixels >= n_pixels)))
        frame = first + int(np.searchsorted(offset, bad, side="right")) - 1
        raise InputError(
            f"{name}: frame {frame}: pixel index must be 0 to {n_pixels - 1}, got {pixels[bad]}"
        )


@dataclass(frozen=True)
class Photons:
    """Photons of consecutive frames as EMC files hold them.

    ones, multi : integer [n]        pixels per frame with one, with several photons
    place_ones : integer [sum ones]
    place_multi, count_multi : integer [sum multi]
    """

    ones: NDArray
    multi: NDArray
    place_ones: NDArray
    place_multi: NDArray
    count_multi: NDArray

    @classmethod
    def split(cls, offset: NDArray, pixel: NDArray, count: NDArray) -> Photons:
        """Sort the lit pixels of sparse frames into ones and multis, in the order they have."""
        single = count == 1
        before = np.concatenate([[0], np.cumsum(single)])[offset]
        ones = np.diff(before)
        several = ~single
        return cls(ones, np.diff(offset) - ones, pixel[single], pixel[several], count[several])

    def merge(self, name: str, first: int, n_pixels: int) -> Csr:
        """Return sparse frames, each its ones and then its multis; check every number.

        `name`, `first` (number of the first frame) and `n_pixels` serve the checks.
        """
        ones_offset = _offsets(self.ones)
        multi_offset = _offsets(self.multi)
        check_pixels(name, self.place_ones, n_pixels, first, ones_offset)
        check_pixels(name, self.place_multi, n_pixels, first, multi_offset)
        check_counts(
            name,
            self.count_multi,
            lambda i: first + int(np.searchsorted(multi_offset, i, side="right")) - 1,
        )
        lengths = np.column_stack([self.ones, self.multi]).ravel()
        several = np.repeat(np.arange(lengths.size) % 2 == 1, lengths)
        pixel = np.empty(several.size, np.uint32)
        pixel[~several] = self.place_ones
        pixel[several] = self.place_multi
        count = np.ones(several.size, np.uint16)
        count[several] = self.count_multi
        return ones_offset + multi_offset, pixel, count


def _offsets(lengths: NDArray) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


@dataclass(frozen=True)
class EmcSparse:
    """Frames of a type 0 file; holds the two tables of lengths, never photons."""

    path: str
    n_pixels: int
    ones: NDArray[np.int64]  # [N + 1], pixels with one photon before each frame
    multi: NDArray[np.int64]  # [N + 1], pixels with several photons before each frame
    shape: None = None
    kind: str = "sparse"

    @property
    def name(self) -> str:
        """What messages call these frames."""
        return self.path

    @property
    def n_frames(self) -> int:
        """Frames of the file."""
        return self.ones.size - 1

    @property
    def gap(self) -> int:
        """Unwanted frames that are cheaper to read than to skip."""
        return LIT_PER_SEEK * self.n_frames // max(int(self.ones[-1] + self.multi[-1]), 1)

    @property
    def block(self) -> int:
        """Frames of a block of the byte budget, at the mean size of a frame."""
        photon_bytes = WORD.itemsize * int(self.ones[-1] + 2 * self.multi[-1])
        return max(BLOCK_BYTES * self.n_frames // max(photon_bytes, 1), 1)

    def read(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Csr]:
        """Yield the frames of each range [a, b) as sparse photons."""
        place_ones = HEADER_BYTES // WORD.itemsize + 2 * self.n_frames
        place_multi = place_ones + self.ones[-1]
        count_multi = place_multi + self.multi[-1]
        with _reading(self.path) as file:
            for a, b in ranges:
                photons = Photons(
                    np.diff(self.ones[a : b + 1]),
                    np.diff(self.multi[a : b + 1]),
                    self._words(file, place_ones, self.ones[a], self.ones[b]),
                    self._words(file, place_multi, self.multi[a], self.multi[b]),
                    self._words(file, count_multi, self.multi[a], self.multi[b]),
                )
                yield photons.merge(self.path, a, self.n_pixels)

    def _words(self, file: BinaryIO, section: int, start: int, stop: int) -> NDArray[np.int32]:
        file.seek((section + int(start)) * WORD.itemsize)
        return _take(file, self.path, WORD, int(stop - start))


@dataclass(frozen=True)
class EmcStack(DenseStack):
    """Frames of a type 1 or type 2 file."""

    @contextmanager
    def opened(self) -> Iterator[_Rows]:
        """Give the file as something to slice."""
        with _reading(self.path) as file:
            yield _Rows(file, self.path, self.dtype, self.n_pixels)


@dataclass(frozen=True)
class _Rows:
    """Frames of a raw file, read when sliced (a memory map would keep what it has shown)."""

    file: BinaryIO
    path: str
    dtype: np.dtype
    n_pixels: int

    def __getitem__(self, key: Any) -> NDArray:
        frames, pixels = key if isinstance(key, tuple) else (key, slice(None))
        self.file.seek(HEADER_BYTES + frames.start * self.n_pixels * self.dtype.itemsize)
        n = (frames.stop - frames.start) * self.n_pixels
        return _take(self.file, self.path, self.dtype, n).reshape(-1, self.n_pixels)[:, pixels]


@contextmanager
def _reading(path: str) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _take(file: BinaryIO, path: str, dtype: np.dtype, n: int) -> NDArray:
    """Read `n` elements from where `file` stands; the file may have shrunk since opening."""
    values = np.fromfile(file, dtype, n)
    if values.size != n:
        raise InputError(f"{path} is truncated: expected {n} more values, got {values.size}")
    return values


def open_emc(path: str) -> EmcSparse | EmcStack:
    """Read the header of an EMC binary file and check the size of the file against it.

    Cost: the header, and 8 bytes per frame for type 0.
    """
    with _reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = np.fromfile(file, WORD, 3)
        if header.size != 3:
            raise InputError(f"{path} is neither HDF5 nor EMC binary: it has {size} bytes")
        n_frames, n_pixels, layout = map(int, header)
        if n_frames < 0 or n_pixels < 1 or layout not in (0, *DENSE_TYPES):
            raise InputError(
                f"{path} is neither HDF5 nor EMC binary: expected num_data >= 1, num_pix >= 1 "
                f"and type 0, 1 or 2, got {n_frames}, {n_pixels} and {layout}"
            )
        if n_frames == 0:
            raise InputError(f"{path} must hold at least one frame, got 0")
        if layout == 0:
            return _open_sparse(file, path, size, n_frames, n_pixels)
    dtype = DENSE_TYPES[layout]
    _check_size(path, size, HEADER_BYTES + n_frames * n_pixels * dtype.itemsize)
    return EmcStack(path, path, n_frames, (n_pixels,), dtype)


def _open_sparse(file: BinaryIO, path: str, size: int, n_frames: int, n_pixels: int) -> EmcSparse:
    tables = HEADER_BYTES + 2 * n_frames * WORD.itemsize
    if size < tables:
        _check_size(path, size, tables)
    file.seek(HEADER_BYTES)
    lengths = _take(file, path, WORD, 2 * n_frames).reshape(2, n_frames)
    if lengths.min() < 0:
        which, frame = np.argwhere(lengths < 0)[0]
        raise InputError(
            f"{path}: frame {frame}: the number of pixels in '{('ones', 'multi')[which]}' must "
            f"not be negative, got {lengths[which, frame]}"
        )
    ones, multi = _offsets(lengths[0]), _offsets(lengths[1])
    _check_size(path, size, tables + WORD.itemsize * int(ones[-1] + 2 * multi[-1]))
    return EmcSparse(path, n_pixels, ones, multi)


def _check_size(path: str, size: int, expected: int) -> None:
    if size != expected:
        what = "is truncated" if size < expected else "has trailing bytes"
        raise InputError(f"{path} {what}: its header implies {expected} bytes, got {size}")


def _header(n_frames: int, n_pixels: int, layout: int) -> bytes:
    words = np.zeros(HEADER_BYTES // WORD.itemsize, WORD)
    words[:3] = n_frames, n_pixels, layout
    return words.tobytes()


def write_sparse(
    path: str | os.PathLike, n_frames: int, n_pixels: int, blocks: Iterable[Csr]
) -> None:
    """Write a type 0 file from consecutive blocks of sparse frames, in one pass.

    The multis wait in temporary files beside `path` because their place in the file is known
    only when all ones are written.  An interrupted or failed write leaves `path` as it was.
    """
    folder = os.path.dirname(os.fspath(path)) or "."
    lengths = np.zeros((2, n_frames), WORD)
    start = 0
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
        tempfile.SpooledTemporaryFile(BLOCK_BYTES, dir=folder) as places,
        tempfile.SpooledTemporaryFile(BLOCK_BYTES, dir=folder) as counts,
    ):
        file.write(_header(n_frames, n_pixels, 0))
        file.write(lengths.tobytes())  # known at the end
        for block in blocks:
            photons = Photons.split(*block)
            stop = start + photons.ones.size
            lengths[:, start:stop] = photons.ones, photons.multi
            start = stop
            file.write(photons.place_ones.astype(WORD).data)
            places.write(photons.place_multi.astype(WORD).data)
            counts.write(photons.count_multi.astype(WORD).data)
        for rest in (places, counts):
            rest.seek(0)
            shutil.copyfileobj(rest, file, BLOCK_BYTES)
        file.seek(HEADER_BYTES)
        file.write(lengths.tobytes())


def write_dense(
    path: str | os.PathLike, n_frames: int, n_pixels: int, blocks: Iterable[NDArray[np.float64]]
) -> None:
    """Write a type 2 file from consecutive float64 blocks [n, num_pix]."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_header(n_frames, n_pixels, 2))
        for block in blocks:
            file.write(np.ascontiguousarray(block, DENSE_TYPES[2]).data)

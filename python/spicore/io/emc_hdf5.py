"""EMC HDF5 frames: `num_pix` and three variable-length datasets [N].

`place_ones` holds the pixels with one photon, `place_multi` those with several and
`count_multi` how many, all int32; frames are always sparse.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .dense_stack import BLOCK_BYTES, Csr
from .emc_binary import Photons
from .files import reading_hdf5, writing_hdf5

TABLES = ("place_ones", "place_multi", "count_multi")


@dataclass(frozen=True)
class EmcHdf5:
    """Frames of an EMC HDF5 file; holds its header, never photons."""

    path: str
    n_frames: int
    n_pixels: int
    block: int  # frames of a block of the byte budget, at the mean size of a frame
    shape: None = None
    kind: str = "sparse"
    gap: int = 64  # measured: starting a read takes 0.4 ms, a frame in sequence 5 us

    @property
    def name(self) -> str:
        """What messages call these frames."""
        return self.path

    def read(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Csr]:
        """Yield the frames of each range [a, b) as sparse photons."""
        with reading_hdf5(self.path) as file:
            for a, b in ranges:
                ones, multi, counts = (_Ragged.of(file[table][a:b]) for table in TABLES)
                self._check_lengths(a, multi, counts)
                photons = Photons(
                    ones.lengths, multi.lengths, ones.values, multi.values, counts.values
                )
                yield photons.merge(self.path, a, self.n_pixels)

    def _check_lengths(self, first: int, multi: _Ragged, counts: _Ragged) -> None:
        differs = multi.lengths != counts.lengths
        if differs.any():
            bad = int(np.argmax(differs))
            raise InputError(
                f"{self.path}: frame {first + bad}: count_multi must be as long as place_multi "
                f"({multi.lengths[bad]}), got {counts.lengths[bad]}"
            )


@dataclass(frozen=True)
class _Ragged:
    values: NDArray
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.object_]) -> _Ragged:
        """Join the arrays that h5py gives for a variable-length dataset."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.concatenate(rows), lengths)


def is_emc(file: h5py.File) -> bool:
    """Return whether the file means to be in the EMC layout."""
    return any(table in file for table in TABLES)


def open_emc_hdf5(path: str, file: h5py.File) -> EmcHdf5:
    """Check the header of an EMC HDF5 file; no photons are read."""
    missing = [name for name in ("num_pix", *TABLES) if name not in file]
    if missing:
        raise InputError(f"{path}: EMC HDF5 frames need {', '.join(missing)}, which it lacks")
    for table in TABLES:
        _check_table(path, table, file[table])
    lengths = {table: file[table].shape[0] for table in TABLES}
    if len(set(lengths.values())) != 1:
        raise InputError(f"{path}: {', '.join(TABLES)} must be equally long, got {lengths}")
    n_frames = lengths[TABLES[0]]
    if n_frames < 1:
        raise InputError(f"{path} must hold at least one frame, got 0")
    bytes_per_frame = os.path.getsize(path) / n_frames
    return EmcHdf5(path, n_frames, _num_pix(path, file), int(BLOCK_BYTES / bytes_per_frame) or 1)


def _check_table(path: str, name: str, table: object) -> None:
    got = "a group or a type"
    if isinstance(table, h5py.Dataset):
        base = h5py.check_vlen_dtype(table.dtype)
        if base is not None and np.dtype(base).kind in "iu" and len(table.shape or ()) == 1:
            return
        got = f"{table.dtype if base is None else f'variable-length {base}'} {table.shape}"
    raise InputError(f"{path}: {name} must hold variable-length integers [N], got {got}")


def _num_pix(path: str, file: h5py.File) -> int:
    value = np.ravel(file["num_pix"][()])
    if value.size != 1 or value.dtype.kind not in "iu" or value[0] < 1:
        raise InputError(f"{path}: num_pix must be one positive integer, got {value}")
    return int(value[0])


def write_emc_hdf5(
    path: str | os.PathLike, n_frames: int, n_pixels: int, blocks: Iterable[Csr]
) -> None:
    """Write an EMC HDF5 file from consecutive blocks of sparse frames.

    An interrupted or failed write leaves `path` as it was.
    """
    with writing_hdf5(path) as (file, check):
        _fill(file, n_frames, n_pixels, blocks, check)


def _fill(
    file: h5py.File, n_frames: int, n_pixels: int, blocks: Iterable[Csr], check: Callable[[], None]
) -> None:
    start = 0
    file.create_dataset("num_pix", data=np.array([n_pixels], np.int32))
    # One contiguous run of references: the photons lie in HDF5's heap, out of reach of
    # chunks and compression, and chunks would only add an index to look up.
    integers = h5py.vlen_dtype(np.dtype("<i4"))
    tables = [file.create_dataset(name, (n_frames,), integers) for name in TABLES]
    for block in blocks:
        photons = Photons.split(*block)
        _put(tables[0], start, photons.place_ones, photons.ones)
        _put(tables[1], start, photons.place_multi, photons.multi)
        _put(tables[2], start, photons.count_multi, photons.multi)
        start += photons.ones.size
        check()


def _put(table: h5py.Dataset, start: int, values: NDArray, lengths: NDArray) -> None:
    """Write rows of variable length from `start` on.

    By the low-level call: `table[start:stop] = rows` guesses a shape from the rows, and rows
    that all have the length 1, or 0, come out wrong.
    """
    rows = np.empty(lengths.size, table.dtype)
    for i, part in enumerate(np.split(values.astype(np.int32), np.cumsum(lengths)[:-1])):
        rows[i] = part
    space = table.id.get_space()
    space.select_hyperslab((start,), rows.shape)
    table.id.write(h5py.h5s.create_simple(rows.shape), space, rows)

"""Files written whole or not at all, and HDF5 errors that can be read."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h5py

from ..errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """Give a temporary name beside `path`; it becomes `path` only if all goes well.

    On any failure, a keyboard interrupt too, the temporary file is removed and an existing
    `path` is left as it was.  An `OSError` becomes `InputError`.
    """
    path = os.path.realpath(path)  # a link stays a link
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(0, "it is not a regular file")
        yield temporary
        with open(temporary, "rb+") as file:  # a full disk may show only here
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


@contextmanager
def reading_hdf5(path: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; whatever HDF5 finds wrong inside becomes `InputError`."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # TypeError: unknown dtype
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from None


@contextmanager
def reading_result(path: str | os.PathLike, kind: str, command: str) -> Iterator[h5py.File]:
    """Open what `spicore <command>` wrote, whose attribute `format` is `kind`."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file of 'spicore {command}'")
    with reading_hdf5(path) as file:
        if file.attrs.get("format") != kind:
            raise InputError(f"{path} must be a result of 'spicore {command}', it is other HDF5")
        yield file


def arrays_of(group: h5py.Group) -> dict[str, Any]:
    """Read all that lies in a group."""
    return {name: values[()] for name, values in group.items()}


class _Sink(io.FileIO):
    """Output of HDF5, which crashes when a write fails (seen with a full disk, HDF5 2.0).

    The first error is kept for `check`; from then on writes are dropped and reads give zeros,
    so that HDF5 closes in order.
    """

    error: BaseException | None = None

    def check(self) -> None:
        """Raise the error that HDF5 was not shown."""
        if self.error is not None:
            raise self.error from None

    def write(self, data: memoryview) -> int:
        size = rest = len(data)
        try:
            while rest and self.error is None:
                rest -= super().write(data[size - rest :])
        except BaseException as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except BaseException as error:
            self.error = self.error or error
            return 0

    def readinto(self, data: memoryview) -> int:
        if self.error is None:
            return super().readinto(data)
        data[:] = bytes(len(data))
        return len(data)


@contextmanager
def writing_hdf5(path: str | os.PathLike) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Open an HDF5 file to write; it becomes `path` only if all goes well.

    Yields the file and a function that raises the first error of the disk so far: to call
    now and then in a long write.
    """
    with atomic_path(path) as temporary, _Sink(temporary, "w+") as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file, sink.check
        finally:
            sink.check()

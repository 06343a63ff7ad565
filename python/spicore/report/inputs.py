"""Files of numbers, and the note that says which files a result was made from."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w
from numpy.typing import NDArray

from ..emc.options import tomllib
from ..errors import InputError
from ..io.files import reading_hdf5

NAME = "inputs.toml"
PATHS = ("frames", "detector", "start_model", "start_fluence", "background", "blacklist")
VALUES = ("dataset", "energy_ev", "distance")


def write_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Note absolute paths of the input files, and how they were read."""
    noted = {
        name: os.path.abspath(value) if name in PATHS else value
        for name, value in inputs.items()
        if value is not None
    }
    text = "# Input of the reconstruction beside this file, for --resume and the report.\n"
    write_text(folder / NAME, text + tomli_w.dumps(noted))


def read_inputs(folder: Path) -> dict[str, Any]:
    """Return what `write_inputs` noted; empty if there is nothing."""
    path = folder / NAME
    try:
        noted = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    return {name: noted[name] for name in (*PATHS, *VALUES) if name in noted}


def write_text(path: Path, text: str) -> None:
    """Write a text file; an old one is replaced only when the new one is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def read_numbers(what: str, path: str, names: tuple[str, ...], *, text: bool = False) -> NDArray:
    """Read an array from the first dataset of `names` in HDF5, from .npy, or maybe from text.

    Parameters
    ----------
    what : str
        What messages call it.
    path : str
        The content tells the form, never the name.
    names : tuple of str
        Datasets to look for in HDF5.
    text : bool
        Whether a text of numbers will do too.
    """
    try:
        with open(path, "rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror or error}") from None
    if is_npy:
        return _real(what, path, _read_npy(what, path))
    if h5py.is_hdf5(path):
        with reading_hdf5(path) as file:
            for name in names:
                if isinstance(file.get(name), h5py.Dataset):
                    return _real(what, path, file[name][()])
            there = ", ".join(file) or "nothing"
        raise InputError(f"{path}: {what} must be in a dataset {' or '.join(names)}, has {there}")
    if text:
        return read_text_numbers(what, path)
    raise InputError(f"{path}: {what} must be HDF5 or .npy, it is neither")


def read_background(path: str) -> NDArray:
    """Read `background` from HDF5, or a .npy file; any shape becomes [T]."""
    return read_numbers("background", path, ("background",)).ravel()


def read_text_numbers(what: str, path: str) -> NDArray[np.float64]:
    """Read numbers separated by blanks or line ends; `#` begins a comment."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty file: its size tells
            return np.loadtxt(path, dtype=np.float64, ndmin=1, encoding="utf-8").ravel()
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: {what} must be one number per line: {error}") from None


def _read_npy(what: str, path: str) -> NDArray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {what} {path}: {error}") from None


def _real(what: str, path: str, values: Any) -> NDArray:
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise InputError(f"{path}: {what} must be real numbers, got {values.dtype}")
    return values

"""What `spicore emc` reads besides frames and detector, and where it writes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..report.inputs import read_numbers, read_text_numbers


def check_writable(folder: Path) -> None:
    """Make a folder and write to it, so that what forbids it shows before the work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"spicore")
    except OSError as error:
        raise InputError(f"cannot write to folder {folder}: {error.strerror or error}") from None


def read_start_model(path: str) -> NDArray:
    """Read `intensity` or Dragonfly's `intens` from HDF5, or a .npy file."""
    return read_numbers("start model", path, ("intensity", "intens"))


def read_fluence(path: str) -> NDArray:
    """Read `fluence` or Dragonfly's `scale` from HDF5, .npy, or one number per line of text."""
    return read_numbers("start fluence", path, ("fluence", "scale"), text=True).ravel()


def read_blacklist(path: str, n_frames: int) -> NDArray[np.bool_]:
    """Read one 0 or 1 per frame (1 drops it), as Dragonfly writes blacklists."""
    values = read_text_numbers("blacklist", path)
    if values.size != n_frames:
        raise InputError(
            f"{path}: a blacklist must hold one 0 or 1 for each of {n_frames} frames, "
            f"got {values.size} numbers"
        )
    other = (values != 0) & (values != 1)
    if other.any():
        raise InputError(
            f"{path}: a blacklist must hold 0 or 1 only, got {values[other][0]:g} "
            f"for frame {int(np.argmax(other))}"
        )
    return values == 1

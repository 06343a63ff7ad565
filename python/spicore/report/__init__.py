"""A report of a reconstruction: one HTML file with figures and plain words.

`write_report` is what `spicore report` calls. Matplotlib is loaded only by it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def write_report(
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    truth: Sequence[str | os.PathLike[str]] = (),
    frames: str | os.PathLike[str] | None = None,
    detector: str | os.PathLike[str] | None = None,
    truth_symmetry: str | None = None,
    threads: int | None = None,
) -> Path:
    """Write the report of a reconstruction.

    Parameters
    ----------
    folder : path
        Where `spicore emc` wrote `result.h5`.
    out : path, optional
        HTML file; default `folder/report.html`. Replaced only when complete.
    truth : sequence of path
        HDF5 files that together have some of `intensity` (or `intens`), `orientation` (or
        `quaternions_wxyz`) and `fluence` of the simulation that the frames are from.
    frames, detector : path, optional
        Default: those that `spicore emc` noted in `folder/inputs.toml`. Without them there are
        no example frames.
    truth_symmetry : str, optional
        Point group that pose errors are divided by; default: that of the reconstruction.
    threads : int, optional
        Default: all cores.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        There is no result, or a file given does not fit it.
    """
    from . import build

    return build.write(
        Path(folder),
        out=None if out is None else Path(out),
        truth=[Path(path) for path in truth],
        frames=frames,
        detector=detector,
        truth_symmetry=truth_symmetry,
        threads=threads,
    )


def write_classes_report(
    result: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the report of a 2D classification: contact sheets, counts, and how it went.

    Parameters
    ----------
    result : path
        `classes.h5` of `spicore classify2d`.
    out : path, optional
        HTML file; default `report.html` beside the result. Replaced only when complete.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        There is no result, or the file cannot be written.
    """
    from . import classes

    return classes.write(Path(result), None if out is None else Path(out))


def write_phasing_report(
    result: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the report of a phase retrieval: density, PRTF, FSC, scores of the seeds.

    Parameters
    ----------
    result : path
        `solutions.h5` of `spicore phase`.
    out : path, optional
        HTML file; default `report.html` beside the result. Replaced only when complete.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        There is no result, or the file cannot be written.
    """
    from . import phasing

    return phasing.write(Path(result), None if out is None else Path(out))


__all__ = ["write_classes_report", "write_phasing_report", "write_report"]

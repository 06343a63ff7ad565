"""`spicore info`: versions, and what of this machine spicore can use."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform

import h5py
import numpy as np

from .. import __version__, _core
from .._dispatch import cuda_status, n_threads

PACKAGES = ("rich", "matplotlib", "torch", "cupy")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `info` command to the parsers of `spicore`."""
    parser = subparsers.add_parser(
        "info",
        help="show versions and what this machine offers",
        description="Show versions, instruction sets, threads and GPUs, for bug reports.",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print; return 0."""
    rows = collect()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


def collect() -> list[tuple[str, str]]:
    """Return names and values. No GPU library is imported, only asked for its version."""
    cuda = cuda_status()
    return [
        ("spicore", f"{__version__}, {os.path.dirname(os.path.dirname(__file__))}"),
        ("python", f"{platform.python_version()}, {platform.platform()}"),
        ("SIMD", f"{_core.simd()} (this machine can run {', '.join(_core.simd_levels())})"),
        ("threads", f"{n_threads(None)} by default (the machine has {os.cpu_count()} cores)"),
        ("OpenMP", "yes" if _core.openmp else "no: kernels run on one thread"),
        ("CUDA", _in_words(cuda.built, cuda.usable, cuda.reason)),
        ("numpy", np.__version__),
        ("h5py", f"{h5py.__version__}, HDF5 {h5py.version.hdf5_version}"),
        *((name, _version(name)) for name in PACKAGES),
    ]


def _in_words(built: bool, usable: bool, reason: str) -> str:
    if not built:
        return reason
    return f"built, {'usable' if usable else 'not usable'}: {reason}"


def _version(package: str) -> str:
    """Return the installed version; CuPy's wheels are named after their CUDA version."""
    names = [package]
    if package == "cupy":
        names += ["cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x"]
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return version if name == package else f"{version} ({name})"
    return "not installed"

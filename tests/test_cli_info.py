"""`spicore info`: what it tells, without importing what it tells about."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

import spicore
from spicore import _core
from spicore._dispatch import CudaStatus
from spicore.cli import info, main


def told(capsys):
    assert main(["info"]) == 0
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_values(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    values = told(capsys)
    assert values["spicore"].startswith(spicore.__version__)
    assert values["SIMD"].startswith(f"{_core.simd()} ")
    for level in _core.simd_levels():
        assert level in values["SIMD"]
    assert values["threads"].startswith("3 by default")
    assert values["OpenMP"].startswith("yes" if _core.openmp else "no")
    assert values["numpy"] == np.__version__
    assert values["h5py"] == f"{h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
    assert {"CUDA", "rich", "matplotlib", "torch", "cupy"} <= values.keys()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (CudaStatus(False, False, "built without CUDA"), "built without CUDA"),
        (CudaStatus(True, False, "no usable GPU: none"), "built, not usable: no usable GPU: none"),
        (CudaStatus(True, True, "2 usable GPUs"), "built, usable: 2 usable GPUs"),
    ],
)
def test_cuda_and_why_not(capsys, monkeypatch, status, text):
    monkeypatch.setattr(info, "cuda_status", lambda: status)
    assert told(capsys)["CUDA"] == text


def test_packages_that_are_missing_or_renamed(monkeypatch):
    def version(name):
        if name == "cupy-cuda13x":
            return "13.4"
        raise info.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(info.importlib.metadata, "version", version)
    assert info._version("torch") == "not installed"
    assert info._version("cupy") == "13.4 (cupy-cuda13x)"


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from spicore.cli import main; main(['info'])\n"
        "assert not {'torch', 'cupy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_cupy import fake_cupy
from numpy.typing import NDArray

import spicore as sp
from spicore import _core, _dispatch
from spicore._dispatch import CudaStatus, cuda_status


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party test data, beside the repository or named by SPICORE_SHARED_DATA."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPICORE_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"third-party test data is not at {folder} (set SPICORE_SHARED_DATA)")
    return folder


class Column:
    """One way to run an operation: on the CPU with one instruction set, or on a GPU.

    Calls take and return NumPy arrays; on a GPU they travel as arrays of `library`.
    """

    def __init__(self, name: str, library: ModuleType | None = None) -> None:
        self.name = name
        self.library = library

    def to(self, x: Any) -> Any:
        """Return a NumPy array as this column's; anything else unchanged."""
        if self.library is None or not isinstance(x, np.ndarray):
            return x
        if self.library.__name__ == "torch":
            return self.library.tensor(x, device="cuda")
        return self.library.asarray(x)

    def back(self, x: Any) -> NDArray:
        """Return this column's array as NumPy."""
        if self.library is None:
            return x
        return x.cpu().numpy() if self.library.__name__ == "torch" else self.library.asnumpy(x)

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kwargs = {k: x if k == "symmetry" else self.to(x) for k, x in kwargs.items()}
        result = function(*(self.to(x) for x in args), **kwargs)
        return tuple(map(self.back, result)) if isinstance(result, tuple) else self.back(result)


def _on_cpu(level: str) -> Iterator[Column]:
    if level not in _core.simd_levels():
        pytest.skip(f"this machine cannot run {level}")
    before = _core.simd()
    _core.set_simd(level)
    yield Column(level)
    _core.set_simd(before)


def _on_cuda(name: str) -> Column:
    status = cuda_status()
    if not status.usable:
        pytest.skip(f"CUDA: {status.reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Column(name, pytest.importorskip(name))


def _emulated(monkeypatch: pytest.MonkeyPatch) -> Column:
    """CUDA's kernels on the CPU. They show that the code computes the right thing, nothing of
    speed, and few of the races that hardware would show."""
    try:
        module = importlib.import_module("spicore._emulated")
    except ModuleNotFoundError:
        pytest.skip("CUDA: built without its emulation (SPICORE_EMULATE=OFF)")
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "spicore._cuda", module)
    monkeypatch.setattr(sp, "_cuda", module, raising=False)
    monkeypatch.setattr(_dispatch, "cuda_status", lambda: CudaStatus(True, True, "emulated"))
    return Column("emulated", cupy)


COLUMNS = ["cpu-baseline", "cpu-avx2", "cpu-avx512", "cuda-emulated", "cuda-torch", "cuda-cupy"]


@pytest.fixture(params=COLUMNS)
def column(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Column]:
    """Every way to run an operation, one after the other."""
    kind, name = request.param.split("-")
    if kind == "cpu":
        yield from _on_cpu(name)
    elif name == "emulated":
        yield _emulated(monkeypatch)
    else:
        yield _on_cuda(name)

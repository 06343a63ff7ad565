"""The columns of the matrix of tests: every way to run an operation."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from fake_cupy import fake_cupy
from fake_torch import fake_torch

import spicore as sp
from spicore import _core, _dispatch
from spicore._dispatch import CudaStatus, cuda_status
from spicore.emc.polar.correlate import Views

CPU = ["cpu-baseline", "cpu-avx2", "cpu-avx512"]
COLUMNS = [*CPU, "cuda-emulated", "cuda-torch", "cuda-cupy"]

cpu_only = pytest.mark.parametrize("column", CPU, indirect=True)
"""For what is not the same on a GPU: threads, checks of values, conversions."""

gpu_only = pytest.mark.parametrize("column", COLUMNS[len(CPU) :], indirect=True)
"""For what only a GPU does: leave out what no check of values has kept away."""


class Column:
    """One way to run an operation: on the CPU with one instruction set, or on a GPU.

    Calls take and return NumPy arrays; on a GPU they travel as arrays of `library`.
    """

    current: ClassVar[Column]

    def __init__(self, name: str, library: ModuleType | None = None) -> None:
        self.name = name
        self.library = library

    def to(self, x: Any) -> Any:
        """Return NumPy arrays, alone or in a tuple or `Views`, as this column's; else `x`."""
        if self.library is None:
            return x
        if isinstance(x, tuple):
            return _like(x, map(self.to, x))
        if isinstance(x, Views):
            names = [field.name for field in dataclasses.fields(x)]
            return dataclasses.replace(x, **{k: self.to(getattr(x, k)) for k in names})
        if not isinstance(x, np.ndarray):
            return x
        if self.library.__name__ == "torch":
            return self.library.tensor(x, device="cuda")
        return self.library.asarray(x)

    def back(self, x: Any) -> Any:
        """Return this column's arrays, alone or in a tuple, as NumPy."""
        if isinstance(x, tuple):
            return _like(x, map(self.back, x))
        if self.library is None or isinstance(x, int | None):
            return x
        return x.cpu().numpy() if self.library.__name__ == "torch" else self.library.asnumpy(x)

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kwargs = {k: x if k == "symmetry" else self.to(x) for k, x in kwargs.items()}
        return self.back(function(*(self.to(x) for x in args), **kwargs))


Column.current = Column("default")


def _like(x: tuple, values: Any) -> tuple:
    return type(x)._make(values) if hasattr(x, "_make") else tuple(values)


def on_column(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs in the column of the test; arguments `out...` are written to."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        column = Column.current
        if column.library is None:
            return function(*args, **kwargs)
        outputs = {k: (x, column.to(x)) for k, x in kwargs.items() if k.startswith("out")}
        kwargs = {k: outputs[k][1] if k in outputs else column.to(x) for k, x in kwargs.items()}
        result = function(*map(column.to, args), **kwargs)

        def back(x: Any) -> Any:
            for given, used in outputs.values():
                if x is used:
                    np.copyto(given, column.back(x))
                    return given
            return column.back(x)

        return _like(result, map(back, result)) if isinstance(result, tuple) else back(result)

    return call


def _on_cpu(level: str) -> Iterator[Column]:
    if level not in _core.simd_levels():
        pytest.skip(f"this machine cannot run {level}")
    before = _core.simd()
    _core.set_simd(level)
    yield Column(level)
    _core.set_simd(before)


def _on_cuda(name: str, monkeypatch: pytest.MonkeyPatch) -> Column:
    status = cuda_status()
    if not status.usable:
        pytest.skip(f"CUDA: {status.reason}")
    if name == "cupy":  # or spicore's own arrays would be torch's
        monkeypatch.setitem(sys.modules, "torch", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Column(name, pytest.importorskip(name))


def _emulated(kind: str, monkeypatch: pytest.MonkeyPatch) -> Column:
    """CUDA's kernels on the CPU, with arrays like CuPy's ("cuda") or with torch's.

    They show that the code computes the right thing, nothing of speed, and few of the races that
    hardware would show.
    """
    try:
        module = importlib.import_module("spicore._emulated")
    except ModuleNotFoundError:
        pytest.skip("CUDA: built without its emulation (SPICORE_EMULATE=OFF)")
    if kind == "torch":
        pytest.importorskip("torch")
    library = fake_torch() if kind == "torch" else fake_cupy()
    monkeypatch.setitem(sys.modules, "torch", None)  # it would be tried first, for seconds
    monkeypatch.setitem(sys.modules, library.__name__, library)
    monkeypatch.setitem(sys.modules, "spicore._cuda", module)
    monkeypatch.setattr(sp, "_cuda", module, raising=False)
    monkeypatch.setattr(_dispatch, "cuda_status", lambda: CudaStatus(True, True, "emulated"))
    return Column("emulated", library)


def columns(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Column]:
    """Yield the column of this name, once."""
    kind, variant = name.split("-")
    if kind == "cpu":
        made = _on_cpu(variant)
    elif variant == "emulated":
        made = iter([_emulated(kind, monkeypatch)])
    else:
        made = iter([_on_cuda(variant, monkeypatch)])
    for column in made:
        monkeypatch.setattr(Column, "current", column, raising=False)
        yield column

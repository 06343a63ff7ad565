"""Where a call runs: how many threads, CPU or GPU, and whose arrays hold the result.

A backend checks, allocates and calls. `CPU` does so with NumPy; a `CudaBackend` with the
library that owns the caller's arrays, which is found through their type and never imported.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate
from .errors import CudaError, InputError

_LARGEST_BLOCK = 4 << 30
"""Bytes of a block of frames on a GPU: more would only fill the memory of the host."""

_ON_CPU = (1, 3)  # DLPack device types: CPU, pinned memory
_ON_CUDA = (2, 13)  # CUDA, CUDA managed memory


def n_threads(threads: int | None) -> int:
    """Return `threads`, or OMP_NUM_THREADS, or the cores this process may use."""
    if threads is not None:
        return int(_validate.number("threads", threads, low=1, high=4096))
    from_environment = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if from_environment.isdigit() and int(from_environment) > 0:
        return int(from_environment)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CudaStatus(NamedTuple):
    """Whether arrays on a GPU can be used."""

    built: bool  # spicore has its CUDA module
    usable: bool  # and there is a GPU that it can use
    reason: str  # why not, or how many GPUs


@functools.cache
def cuda_status() -> CudaStatus:
    """Return whether CUDA was built and is usable, with the reason in words."""
    try:
        module = importlib.import_module("._cuda", __package__)
    except ModuleNotFoundError:
        return CudaStatus(False, False, "built without CUDA (SPICORE_CUDA=OFF, or no nvcc)")
    except ImportError as error:  # for example an undefined symbol
        return CudaStatus(True, False, f"the CUDA module does not load: {error}")
    count, reason = module.device_status()
    if count == 0:
        return CudaStatus(True, False, f"no usable GPU: {reason or 'none is visible'}")
    return CudaStatus(True, True, f"{count} usable GPU{'s' if count > 1 else ''}")


def backend_of(**arrays: Any) -> CpuBackend | CudaBackend:
    """Return the backend for one call.

    Parameters
    ----------
    **arrays
        The call's arrays by argument name. None is skipped; whatever has no device is on the
        CPU.

    Raises
    ------
    InputError
        Arrays are on different devices, of different GPU libraries, or on a device or of a
        library that spicore cannot use.
    CudaError
        Arrays are on a GPU that this build or machine cannot use.
    """
    for x in arrays.values():
        if x is not None and type(x) is not np.ndarray:
            break
    else:  # the common case, kept fast
        return CPU
    given = {name: x for name, x in arrays.items() if x is not None}
    device = _agreed("on one device", {name: _device(name, x) for name, x in given.items()})
    if device == "cpu":
        return CPU
    library = _agreed("of one library", {name: _library(name, x) for name, x in given.items()})
    status = cuda_status()
    if not status.usable:
        raise CudaError(f"{next(iter(given))} is on {device}, but: {status.reason}")
    return _on_gpu(sys.modules[library], int(device.removeprefix("cuda:")))


def gpu() -> CudaBackend:
    """Return the backend for arrays that spicore itself puts on a GPU: torch's, or else CuPy's.

    Raises
    ------
    CudaError
        There is no usable GPU, or neither library to hold arrays there.
    """
    status = cuda_status()
    if not status.usable:
        raise CudaError(f"device is cuda, but: {status.reason}")
    for name, backend in _GPU_BACKENDS.items():
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        if library.cuda.is_available():
            return _on_gpu(library, backend.current_device(library))
    raise CudaError("device cuda needs torch or CuPy to hold arrays on the GPU, neither is usable")


def backends_on(device: str) -> list[CpuBackend] | list[CudaBackend]:
    """Return the backends that share a run: that of `backend_on`, on "cuda:all" all GPUs.

    Raises
    ------
    InputError, CudaError
        As `backend_on`.
    """
    if _validate.choice("device", device, ("cpu", "cuda", "cuda:all")) != "cuda:all":
        return [backend_on(device)]
    first = gpu()
    return [_on_gpu(first.library, k) for k in range(first.n_devices(first.library))]


def backend_on(device: str) -> CpuBackend | CudaBackend:
    """Return the backend of a run on "cpu", or on "cuda": the current GPU.

    Raises
    ------
    InputError
        It is neither.
    CudaError
        As `gpu`.
    """
    return CPU if _validate.choice("device", device, ("cpu", "cuda")) == "cpu" else gpu()


@functools.cache
def _on_gpu(library: ModuleType, index: int) -> CudaBackend:
    """Return the one backend of a GPU: it has a stream, and memory that only that uses again."""
    return _GPU_BACKENDS[library.__name__](library, index)


def _agreed(how: str, values: dict[str, str]) -> str:
    """Return the value that all arguments share, or name two that differ."""
    (first, value), *rest = values.items()
    for name, other in rest:
        if other != value:
            raise InputError(f"{first} and {name} must be {how}, got {value} and {other}")
    return value


def _device(name: str, x: Any) -> str:
    ask = getattr(x, "__dlpack_device__", None)
    if ask is None:
        return "cpu"
    if getattr(x, "requires_grad", False):  # no kernel records what autograd needs
        raise InputError(f"{name} must not require a gradient: pass {name}.detach()")
    kind, index = ask()
    if kind in _ON_CPU:
        return "cpu"
    if kind in _ON_CUDA:
        return f"cuda:{index}"
    raise InputError(
        f"{name} must be on the CPU or a CUDA GPU, got an array on DLPack device type {int(kind)}"
    )


def _library(name: str, x: Any) -> str:
    for base in type(x).__mro__:
        root = base.__module__.partition(".")[0]
        if root in _GPU_BACKENDS:
            return root
    raise InputError(
        f"{name} must be a torch or CuPy array when it is on a GPU, got {type(x).__module__}."
        f"{type(x).__qualname__}"
    )


class CpuBackend:
    """NumPy arrays, and whatever NumPy can read (CPU tensors of torch without a copy)."""

    library = np
    volume = staticmethod(_validate.volume)
    quaternions = staticmethod(_validate.quaternions)
    array = staticmethod(_validate.array)
    contiguous = staticmethod(np.ascontiguousarray)
    empty = staticmethod(np.empty)
    zeros = staticmethod(np.zeros)
    ones = staticmethod(np.ones)
    flip = staticmethod(np.flip)
    device: AbstractContextManager = nullcontext()

    @staticmethod
    def planes(q: Any) -> NDArray[np.float32]:
        """Return q [T, 3] as float32 [3, T], the layout of the kernels."""
        return np.ascontiguousarray(_validate.array("q", q, np.float32, (None, 3)).T)

    @staticmethod
    def output(name: str, out: Any, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray:
        """Return an array to write to: new, or the memory of `out`, checked."""
        if out is None:
            return np.empty(shape, dtype)
        if not hasattr(out, "__dlpack_device__"):  # NumPy would copy it
            raise InputError(f"{name} must be an array, got {type(out).__name__}")
        out = np.asarray(out)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            wanted = f"C-contiguous {np.dtype(dtype)} {list(shape)}"
            raise InputError(f"{name} must be {wanted}, got {_described(out)}")
        if not out.flags.writeable:
            raise InputError(f"{name} must be writeable, got a read-only array")
        return out

    @staticmethod
    def to_device(x: NDArray) -> NDArray:
        """Return `x`: it is there, and goes nowhere."""
        return x

    to_host = to_device

    @staticmethod
    def block_bytes(wanted: int) -> int:
        """Return how much memory a block of frames may take: what is wanted."""
        return wanted

    @staticmethod
    def run(operation: str, *arguments: Any, threads: int | None) -> None:
        """Call a kernel."""
        getattr(_core, operation)(*arguments, n_threads(threads))


CPU = CpuBackend()


class CudaBackend(ABC):
    """Arrays of one library on one GPU. Nothing is converted, and nothing waits for the GPU.

    So only what an array says of itself is checked (dtype, shape, layout), never its values.
    """

    device: AbstractContextManager  # makes the GPU current, for allocations and launches

    def __init__(self, library: ModuleType, index: int) -> None:
        self.library = library
        self.index = index
        self.flip = library.flip

    @staticmethod
    @abstractmethod
    def current_device(library: ModuleType) -> int:
        """Return the index of the GPU that the library now works on."""

    @staticmethod
    @abstractmethod
    def n_devices(library: ModuleType) -> int:
        """Return how many GPUs the library can work on."""

    @abstractmethod
    def new(self, function: str, *arguments: Any, dtype: DTypeLike) -> Any:
        """Call a function of the library that makes an array on this GPU."""

    @abstractmethod
    def stream(self) -> int:
        """Return the handle of the caller's current stream on this GPU."""

    @abstractmethod
    def to_device(self, x: NDArray) -> Any:
        """Return a copy on this GPU of an array in host memory."""

    @abstractmethod
    def to_host(self, x: Any) -> NDArray:
        """Return a copy of `x` in host memory; waits for the GPU."""

    @abstractmethod
    def mark(self) -> Any:
        """Return an event that passes once what is on the caller's stream so far is done."""

    @abstractmethod
    def upload(self, arrays: Sequence[NDArray], after: Any) -> list[Any]:
        """Return copies on this GPU of arrays in host memory, for a thread beside the one at work.

        They go through pinned memory, on a stream of their own and beside whatever runs, once
        `after` has passed: it must come after the last use of uploads since released, whose memory
        is used again. Returns when they are there, so that any stream can use them.
        """

    @abstractmethod
    def free_memory(self) -> int:
        """Return the bytes that arrays may still take on this GPU."""

    @abstractmethod
    def is_contiguous(self, x: Any) -> bool:
        """Return whether `x` is in C order."""

    @abstractmethod
    def contiguous(self, x: Any) -> Any:
        """Return `x` in C order, copied only if it is not."""

    def array(
        self,
        name: str,
        x: Any,
        dtype: DTypeLike,
        shape: Sequence[int | None],
        *,
        any_layout: bool = False,
    ) -> Any:
        """Return `x` unchanged if it has this dtype and shape and is C-contiguous."""
        agrees = len(x.shape) == len(shape) and all(
            want is None or want == got for want, got in zip(shape, x.shape, strict=True)
        )
        if not agrees or _dtype_name(x) != str(np.dtype(dtype)):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise InputError(
                f"{name} must be {np.dtype(dtype)} [{wanted}] (on a GPU nothing is converted), "
                f"got {_described(x)}"
            )
        if not (any_layout or self.is_contiguous(x)):
            raise InputError(f"{name} must be C-contiguous (on a GPU nothing is copied)")
        return x

    def volume(self, name: str, x: Any) -> Any:
        """Return a cubic float32 [N, N, N] volume; its values are not checked."""
        x = self.array(name, x, np.float32, (None, None, None))
        if len(set(x.shape)) != 1 or x.shape[0] < 2:
            raise InputError(f"{name} must be cubic with N >= 2, got shape {list(x.shape)}")
        return x

    def quaternions(self, name: str, x: Any) -> Any:
        """Return quaternions float64 [R, 4]; their norm is not checked."""
        return self.array(name, x, np.float64, (None, 4))

    def planes(self, q: Any) -> Any:
        """Return q [T, 3] as float32 [3, T], the layout of the kernels."""
        return self.contiguous(self.array("q", q, np.float32, (None, 3), any_layout=True).T)

    def output(self, name: str, out: Any, dtype: DTypeLike, shape: tuple[int, ...]) -> Any:
        """Return an array to write to: new, or `out`, checked."""
        if out is None:
            return self.empty(shape, dtype)
        return self.array(name, out, dtype, shape)

    def empty(self, shape: Any, dtype: DTypeLike) -> Any:
        """Return an array of whatever its memory holds."""
        return self.new("empty", shape, dtype=dtype)

    def zeros(self, shape: Any, dtype: DTypeLike) -> Any:
        """Return an array of zeros."""
        return self.new("zeros", shape, dtype=dtype)

    def ones(self, shape: Any, dtype: DTypeLike) -> Any:
        """Return an array of ones."""
        return self.new("ones", shape, dtype=dtype)

    def block_bytes(self, wanted: int) -> int:
        """Return how much memory a block of frames may take.

        A GPU needs many frames at a time: a quarter of its free memory, whatever is `wanted`;
        posterior terms of two blocks are there at a time, beside the model and its views.
        """
        return min(self.free_memory() // 4, max(wanted, _LARGEST_BLOCK))

    def run(self, operation: str, *arguments: Any, threads: int | None) -> None:
        """Put a kernel on the caller's current stream; `threads` means nothing here."""
        from . import _cuda

        getattr(_cuda, operation)(*arguments, self.stream())


class TorchBackend(CudaBackend):
    """CUDA tensors of torch."""

    @staticmethod
    def current_device(library: ModuleType) -> int:
        return library.cuda.current_device()

    @staticmethod
    def n_devices(library: ModuleType) -> int:
        return library.cuda.device_count()

    @property
    def device(self) -> AbstractContextManager:
        return self.library.cuda.device(self.index)

    def new(self, function: str, *arguments: Any, dtype: DTypeLike) -> Any:
        torch_dtype = getattr(self.library, str(np.dtype(dtype)))
        device = self.library.device("cuda", self.index)
        return getattr(self.library, function)(*arguments, dtype=torch_dtype, device=device)

    def stream(self) -> int:
        return self.library.cuda.current_stream(self.index).cuda_stream

    def to_device(self, x: NDArray) -> Any:
        device = self.library.device("cuda", self.index)
        return self.library.asarray(x).to(device, non_blocking=True)

    def to_host(self, x: Any) -> NDArray:
        return x.cpu().numpy()

    @functools.cached_property
    def _copies(self) -> Any:
        return self.library.cuda.Stream(self.index)

    def mark(self) -> Any:
        return self.library.cuda.current_stream(self.index).record_event()

    def upload(self, arrays: Sequence[NDArray], after: Any) -> list[Any]:
        with self.library.cuda.stream(self._copies):
            self._copies.wait_event(after)
            there = [self.to_device(self.library.asarray(x).pin_memory()) for x in arrays]
            self._copies.synchronize()
        return there

    def free_memory(self) -> int:
        cuda = self.library.cuda  # what it holds for arrays to come is free too
        kept = cuda.memory_reserved(self.index) - cuda.memory_allocated(self.index)
        return cuda.mem_get_info(self.index)[0] + kept

    def is_contiguous(self, x: Any) -> bool:
        return x.is_contiguous()

    def contiguous(self, x: Any) -> Any:
        return x.contiguous()


class CupyBackend(CudaBackend):
    """CuPy arrays."""

    @staticmethod
    def current_device(library: ModuleType) -> int:
        return library.cuda.get_device_id()

    @staticmethod
    def n_devices(library: ModuleType) -> int:
        return library.cuda.runtime.getDeviceCount()

    @property
    def device(self) -> AbstractContextManager:
        return self.library.cuda.Device(self.index)

    def new(self, function: str, *arguments: Any, dtype: DTypeLike) -> Any:
        with self.device:
            return getattr(self.library, function)(*arguments, dtype=dtype)

    def stream(self) -> int:
        return self.library.cuda.get_current_stream(self.index).ptr

    def to_device(self, x: NDArray) -> Any:
        with self.device:  # copies once more, into pinned memory that CuPy keeps until it is there
            return self.library.asarray(x)

    def to_host(self, x: Any) -> NDArray:
        return self.library.asnumpy(x)

    @functools.cached_property
    def _copies(self) -> Any:
        with self.device:
            return self.library.cuda.Stream(non_blocking=True)

    def mark(self) -> Any:
        with self.device:
            return self.library.cuda.get_current_stream(self.index).record()

    def upload(self, arrays: Sequence[NDArray], after: Any) -> list[Any]:
        with self.device, self._copies:
            self._copies.wait_event(after)
            pinned = [self._pinned(x) for x in arrays]
            there = [self.library.empty(x.shape, x.dtype) for x in pinned]
            for x, copy in zip(there, pinned, strict=True):
                x.set(copy, stream=self._copies)
            self._copies.synchronize()
        return there

    def _pinned(self, x: NDArray) -> NDArray:
        memory = self.library.cuda.alloc_pinned_memory(max(x.nbytes, 1))
        copy = np.frombuffer(memory, x.dtype, x.size).reshape(x.shape)
        copy[...] = x
        return copy

    def free_memory(self) -> int:
        with self.device:
            kept = self.library.get_default_memory_pool().free_bytes()
            return self.library.cuda.runtime.memGetInfo()[0] + kept

    def is_contiguous(self, x: Any) -> bool:
        return x.flags.c_contiguous

    def contiguous(self, x: Any) -> Any:
        return self.library.ascontiguousarray(x)


_GPU_BACKENDS: dict[str, type[CudaBackend]] = {"torch": TorchBackend, "cupy": CupyBackend}


def _dtype_name(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")


def _described(x: Any) -> str:
    return f"{_dtype_name(x)} {list(x.shape)}"

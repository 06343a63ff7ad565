"""NumPy dressed up as CuPy: arrays that say they are on a GPU, in the memory of the host."""

from __future__ import annotations

import ctypes
import itertools
import threading
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np

DEVICE_TYPE_OFFSET = {b"dltensor": 8, b"dltensor_versioned": 40}
"""Bytes before the device type in the structure that a DLPack capsule points to."""

STREAM = 1234
"""Handle of the current stream."""

N_DEVICES = 2
"""GPUs there seem to be; all arrays say they are on the first."""

FREE = 1 << 22
"""Bytes of the GPU, and as many again of memory that CuPy keeps."""


def relabelled(capsule, device_type):
    """Return a DLPack capsule of NumPy that says its memory is on another device."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    name = api.PyCapsule_GetName(capsule)
    address = api.PyCapsule_GetPointer(capsule, name) + DEVICE_TYPE_OFFSET[name]
    ctypes.c_int32.from_address(address).value = device_type
    return capsule


class Event(NamedTuple):
    number: int
    thread: int


class FakeStream:
    """A stream on which copies from pinned memory are made late: when somebody waits for it.

    They must wait for an event first, since memory may still be in use on another stream.
    """

    _of_threads = threading.local()
    _numbers = itertools.count()

    def __init__(self, handle):
        self.ptr = self.cuda_stream = handle
        self.copies, self.waits_for, self.newest = [], None, -1

    @classmethod
    def current(cls, index):
        return getattr(cls._of_threads, "stream", cls(STREAM))

    def __enter__(self):
        self._of_threads.stream = self

    def __exit__(self, *error):
        del self._of_threads.stream

    def record(self):
        return Event(next(self._numbers), threading.get_ident())

    record_event = record

    def wait_event(self, event):
        assert event.number > self.newest, "an event of its own for each upload"
        self.newest, self.waits_for = event.number, event

    def copy(self, there, here):
        assert self.waits_for is not None, "after an event"
        assert self.waits_for.thread != threading.get_ident(), "on a thread of its own"
        self.copies.append((there, here))

    def synchronize(self):
        for there, here in self.copies:
            there[...] = here
        self.copies.clear()
        self.waits_for = None


class FakeCupyArray(np.ndarray):
    __module__ = "cupy"

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        """As CuPy's, it takes no arrays in host memory, and returns none."""
        if any(type(x) is np.ndarray for x in inputs):
            raise TypeError(f"Unsupported type {np.ndarray}")
        if out is not None:
            options["out"] = tuple(map(in_host, out))
        result = getattr(ufunc, method)(*map(in_host, inputs), **options)
        return out[0] if out else on_gpu(result)

    def set(self, x, stream):
        assert type(x.base.base.obj) is PinnedMemory  # of the view of it that NumPy has
        assert (x.dtype, x.shape) == (self.dtype, self.shape)
        stream.copy(self.view(np.ndarray), x)

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, stream, **version):
        assert stream == -1
        return relabelled(np.asarray(self).__dlpack__(**version), 2)


class PinnedMemory(bytearray):
    pass


def on_gpu(x):
    return np.asarray(x, order="C").view(FakeCupyArray)


def in_host(x):
    return x.view(np.ndarray) if isinstance(x, FakeCupyArray) else x


def to_host(x):
    """A copy: what is written to it does not change the array on the GPU."""
    assert isinstance(x, FakeCupyArray)
    return np.array(in_host(x))


def on_gpu_only(function):
    """Return a function of NumPy that takes and returns arrays on the GPU."""

    def call(*arguments, **options):
        assert not any(type(x) is np.ndarray for x in arguments)
        return on_gpu(function(*map(in_host, arguments), **options))

    return call


def empty(shape, dtype=float):
    """What is in it is no number: whoever reads it before writing it shows that."""
    x = on_gpu(np.empty(shape, dtype))
    x.view(np.ndarray).reshape(-1).view(np.uint8)[:] = 0xFF
    return x


def fake_cupy() -> ModuleType:
    cupy = ModuleType("cupy")
    for function in ("zeros", "ones", "ascontiguousarray"):
        made = getattr(np, function)
        setattr(cupy, function, lambda *a, made=made, **k: on_gpu(made(*a, **k)))
    cupy.asarray = lambda x, **k: on_gpu(np.array(x, **k))  # a copy, as from host memory
    cupy.empty = empty
    cupy.asnumpy = to_host
    for function in ("flip", "roll", "amax", "clip", "where", "einsum"):
        setattr(cupy, function, on_gpu_only(getattr(np, function)))
    cupy.fft = SimpleNamespace(rfft=on_gpu_only(np.fft.rfft), irfft=on_gpu_only(np.fft.irfft))
    cupy.uint8 = np.uint8
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: FREE)
    cupy.cuda = SimpleNamespace(
        Device=lambda index: nullcontext(),
        get_device_id=lambda: 0,
        is_available=lambda: True,
        alloc_pinned_memory=PinnedMemory,
        Stream=lambda non_blocking: FakeStream(STREAM + 1),
        runtime=SimpleNamespace(
            memGetInfo=lambda: (FREE, 2 * FREE), getDeviceCount=lambda: N_DEVICES
        ),
        get_current_stream=FakeStream.current,
    )
    return cupy

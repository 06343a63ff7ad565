"""NumPy dressed up as CuPy: arrays that say they are on a GPU, in the memory of the host."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np

DEVICE_TYPE_OFFSET = {b"dltensor": 8, b"dltensor_versioned": 40}
"""Bytes before the device type in the structure that a DLPack capsule points to."""

STREAM = 1234
"""Handle of the current stream."""


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


class FakeCupyArray(np.ndarray):
    __module__ = "cupy"

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, stream, **version):
        assert stream == -1
        return relabelled(np.asarray(self).__dlpack__(**version), 2)


def on_gpu(x):
    return np.ascontiguousarray(x).view(FakeCupyArray)


def empty(shape, dtype=float):
    """What is in it is no number: whoever reads it before writing it shows that."""
    x = on_gpu(np.empty(shape, dtype))
    x.view(np.ndarray).reshape(-1).view(np.uint8)[:] = 0xFF
    return x


def fake_cupy() -> ModuleType:
    cupy = ModuleType("cupy")
    for function in ("zeros", "ones", "asarray", "ascontiguousarray"):
        made = getattr(np, function)
        setattr(cupy, function, lambda *a, made=made, **k: on_gpu(made(*a, **k)))
    cupy.empty = empty
    cupy.asnumpy = np.asarray
    cupy.flip = np.flip
    cupy.roll = np.roll
    cupy.uint8 = np.uint8
    cupy.cuda = SimpleNamespace(
        Device=lambda index: nullcontext(),
        get_device_id=lambda: 0,
        is_available=lambda: True,
        get_current_stream=lambda index: SimpleNamespace(ptr=STREAM),
    )
    return cupy

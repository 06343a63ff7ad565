"""Torch dressed up as torch on a GPU: tensors that say they are there, in the memory of the host.

What torch cannot do to a tensor, of uint16 say, it cannot do here.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

from fake_cupy import FREE, N_DEVICES, STREAM, FakeStream, relabelled

GPU = "the GPU"


def fake_torch() -> ModuleType:
    """Return a module that is torch, but for tensors on a GPU."""
    import torch

    class Host(torch.Tensor):
        """What can be pinned, and sent to the GPU."""

        def pin_memory(self):
            return self.as_subclass(torch.Tensor).clone().as_subclass(Pinned)

        def to(self, device, non_blocking=False):
            assert device == GPU
            return self.as_subclass(torch.Tensor).clone().as_subclass(OnGpu)

    class Pinned(Host):
        def to(self, device, non_blocking):
            assert device == GPU
            assert non_blocking
            there = empty(self.shape, dtype=self.dtype)
            FakeStream.current(0).copy(there, self.as_subclass(torch.Tensor))
            return there.as_subclass(OnGpu)

    class OnGpu(torch.Tensor):
        __module__ = "torch"

        @classmethod
        def __torch_function__(cls, function, types, arguments=(), options=None):
            if Host in types:
                raise RuntimeError("Expected all tensors to be on the same device")
            return super().__torch_function__(function, types, arguments, options or {})

        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, *, stream, **version):
            assert stream == -1
            return relabelled(self.as_subclass(torch.Tensor).__dlpack__(**version), 2)

        def __array__(self, *arguments, **options):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

        numpy = __array__

        def cpu(self):
            return self.as_subclass(torch.Tensor).clone()

    def made(function):
        def make(*arguments, device=None, **options):
            x = function(*arguments, **options)
            return x.as_subclass(Host) if device is None else x.clone().as_subclass(OnGpu)

        return make

    def empty(*arguments, **options):
        """What is in it is no number: whoever reads it before writing it shows that."""
        x = torch.empty(*arguments, **options)
        x.view(-1).view(torch.uint8).fill_(0xFF)
        return x

    module = ModuleType("torch")
    module.__getattr__ = lambda name: getattr(torch, name)
    for function in (torch.zeros, torch.ones, torch.asarray, torch.tensor, empty):
        setattr(module, function.__name__, made(function))
    module.device = lambda kind, index: GPU
    module.cuda = SimpleNamespace(
        device=lambda index: nullcontext(),
        current_device=lambda: 0,
        device_count=lambda: N_DEVICES,
        is_available=lambda: True,
        current_stream=FakeStream.current,
        stream=lambda stream: stream,
        Stream=lambda index: FakeStream(STREAM + 1),
        mem_get_info=lambda index: (FREE, 2 * FREE),
        memory_reserved=lambda index: 0,
        memory_allocated=lambda index: 0,
    )
    return module

"""How the kernel `phase` sees arrays: three axes, and spectra in blocks of vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _core

SMALL = 1 << 17
"""Pixels of an image that one thread does alone, its rows in a single plane."""


ALIGNMENT = 256
"""Bytes: vectors of aligned arrays never span two cache lines."""


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Return an uninitialised array that starts at a multiple of `ALIGNMENT`."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + n_bytes].view(dtype).reshape(shape)


@dataclass(frozen=True)
class SpectrumLayout:
    """Blocks of a spectrum as cpp/include/spicore/phase.hpp orders them.

    Attributes
    ----------
    shape : tuple of int
        Of an object, 1 to 3 axes.
    real : bool
        Spectra are halves along the last axis.
    lanes, blocks, column_blocks : int
        Frequencies side by side; blocks of a plane; those of them that are columns.
    """

    shape: tuple[int, ...]
    real: bool
    lanes: int
    blocks: int
    column_blocks: int

    @classmethod
    def of(cls, shape: tuple[int, ...], real: bool, dtype: DTypeLike) -> SpectrumLayout:
        """Return the layout for float32 or float64 on the instruction set in use."""
        is_double = np.dtype(dtype) == np.float64
        return cls(shape, real, *_core.phase_sizes((*_grid(shape), real), is_double, 1, 0, 1)[:3])

    @property
    def grid(self) -> tuple[int, int, int, bool]:
        """Axes and kind, as the kernel takes them."""
        return (*_grid(self.shape), self.real)

    @cached_property
    def half(self) -> int:
        """Frequencies of the last axis that a spectrum holds."""
        return self.shape[-1] // 2 + 1 if self.real else self.shape[-1]

    @cached_property
    def weight(self) -> NDArray[np.float64]:
        """Frequencies of the whole that each along the last axis stands for, [half]."""
        weight = np.ones(self.half)
        if self.real:
            weight[1 : (self.shape[-1] + 1) // 2] = 2
        return weight

    def _edge(self) -> int | None:
        n = self.shape[-1]
        return n // 2 if self.real and n % 2 == 0 else None

    def to_blocks(self, x: NDArray, fill: float) -> NDArray:
        """Return [..., n0, blocks, lanes] of x [..., *shape]; `fill` in lanes past the last."""
        n0, n1, n2 = _grid(self.shape)
        x = x.reshape(*x.shape[: x.ndim - len(self.shape)], n0, n1, n2)
        result = aligned((*x.shape[:-2], self.blocks, self.lanes), x.dtype)
        result[...] = fill
        edge = self._edge()
        n_columns = self.half if edge is None else edge
        for first in range(0, n_columns, self.lanes):
            n = min(self.lanes, n_columns - first)
            at = first // self.lanes * n1
            result[..., at : at + n1, :n] = x[..., first : first + n]
        if edge is not None:
            lanes = self._edge_lanes(result)  # a copy
            lanes[..., :n1] = x[..., edge]
            result[..., self.column_blocks :, :] = lanes.reshape(*x.shape[:-2], -1, self.lanes)
        return result

    def from_blocks(self, blocks: NDArray) -> NDArray:
        """Return [..., *shape], equal at q and -q, of blocks [..., n0, blocks, lanes]."""
        n0, n1, n2 = _grid(self.shape)
        result = np.empty((*blocks.shape[:-2], n1, n2), blocks.dtype)
        edge = self._edge()
        n_columns = self.half if edge is None else edge
        for first in range(0, n_columns, self.lanes):
            n = min(self.lanes, n_columns - first)
            at = first // self.lanes * n1
            result[..., first : first + n] = blocks[..., at : at + n1, :n]
        if edge is not None:
            result[..., edge] = self._edge_lanes(blocks)[..., :n1]
        if self.real:
            i0, i1, i2 = -np.arange(n0) % n0, -np.arange(n1) % n1, np.arange(self.half, n2)
            mates = result[..., n2 - i2]
            result[..., i2] = mates[..., i0, :, :][..., i1, :]
        return result.reshape(*blocks.shape[:-3], *self.shape)

    def _edge_lanes(self, blocks: NDArray) -> NDArray:
        """Return the lanes of the edge blocks, [..., n0, at least n1]."""
        edge = blocks[..., self.column_blocks :, :]
        return edge.reshape(*edge.shape[:-2], -1)


def _grid(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 3:
        return shape
    if len(shape) == 1:
        return 1, 1, *shape
    return (1, *shape) if math.prod(shape) <= SMALL else (shape[0], 1, shape[1])

"""Exceptions that a user can act on."""

from __future__ import annotations


class SpicoreError(Exception):
    """Base class of all errors that spicore raises on purpose."""


class InputError(SpicoreError, ValueError):
    """Input that cannot be used; the message names it, what was expected and what came.

    The command line prints the message in one line and exits with code 2.
    """


class CudaError(SpicoreError, RuntimeError):
    """A call on the GPU failed, or there is no GPU to call; the message says which and why."""

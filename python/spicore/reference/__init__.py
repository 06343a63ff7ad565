"""Specifications: each operation in a few lines of float64 NumPy, for tests and readers."""

from .accumulate import accumulate
from .compress import compress, compress_background
from .correlate import correlate
from .ewald_merge import ewald_merge
from .ewald_slice import ewald_slice, trilinear
from .expand import expand
from .maximize import maximize, maximize_background
from .phase import phase, phase_blurred, phase_richardson_lucy, phase_shells
from .polar_frames import polar_frames
from .polar_views import polar_views
from .posterior import posterior

__all__ = [
    "accumulate",
    "compress",
    "compress_background",
    "correlate",
    "ewald_merge",
    "ewald_slice",
    "expand",
    "maximize",
    "maximize_background",
    "phase",
    "phase_blurred",
    "phase_richardson_lucy",
    "phase_shells",
    "polar_frames",
    "polar_views",
    "posterior",
    "trilinear",
]

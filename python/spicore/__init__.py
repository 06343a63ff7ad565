"""spicore: X-ray single-particle imaging, from photons to 3D structures."""

from importlib.metadata import PackageNotFoundError, version

from . import emc, metrics, orientations, phasing, simulate
from .detector import Detector
from .errors import InputError, SpicoreError
from .ewald import ewald_merge, ewald_slice
from .frames import Frames
from .matching import Matches, match

try:
    __version__ = version("spicore")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Detector",
    "Frames",
    "InputError",
    "Matches",
    "SpicoreError",
    "__version__",
    "emc",
    "ewald_merge",
    "ewald_slice",
    "match",
    "metrics",
    "orientations",
    "phasing",
    "simulate",
]

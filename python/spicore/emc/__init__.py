"""EMC: orient frames by their likelihood and merge them, until both agree."""

from .config import Config
from .kernels import compress, expand, maximize, posterior, sort_photons
from .reconstruct import Iteration, reconstruct
from .result import Result

__all__ = [
    "Config",
    "Iteration",
    "Result",
    "compress",
    "expand",
    "maximize",
    "posterior",
    "reconstruct",
    "sort_photons",
]

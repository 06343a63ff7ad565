"""EMC: orient frames by their likelihood and merge them, until both agree."""

from .classes import Classes
from .classify2d import classify2d
from .classify_config import ClassifyConfig
from .config import Config
from .kernels import compress, expand, maximize, posterior, sort_photons
from .reconstruct import Iteration, reconstruct
from .result import Result
from .sharpen import sharpen
from .smooth import smooth

__all__ = [
    "Classes",
    "ClassifyConfig",
    "Config",
    "Iteration",
    "Result",
    "classify2d",
    "compress",
    "expand",
    "maximize",
    "posterior",
    "reconstruct",
    "sharpen",
    "smooth",
    "sort_photons",
]

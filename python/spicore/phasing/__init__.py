"""Phase retrieval: intensities to objects."""

from .kernels import Measured, Seeds, estimate, iterate
from .schedule import ALGORITHMS, parse_schedule

__all__ = ["ALGORITHMS", "Measured", "Seeds", "estimate", "iterate", "parse_schedule"]

"""Phase retrieval: intensities to objects."""

from .align import Alignment, align
from .coherence import update_coherence
from .config import Config
from .kernels import Measured, Seeds, estimate, iterate
from .reconstruct import reconstruct
from .run import Progress
from .schedule import ALGORITHMS, parse_schedule
from .solutions import Solutions
from .trust import Undetermined, undetermined

__all__ = [
    "ALGORITHMS",
    "Alignment",
    "Config",
    "Measured",
    "Progress",
    "Seeds",
    "Solutions",
    "Undetermined",
    "align",
    "estimate",
    "iterate",
    "parse_schedule",
    "reconstruct",
    "undetermined",
    "update_coherence",
]

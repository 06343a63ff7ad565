"""Options of phase retrieval: a dataclass that reads and writes TOML."""

from __future__ import annotations

import dataclasses
import math

from .. import _validate
from ..emc.options import Options
from ..errors import InputError
from .kernels import MOST_BETA
from .schedule import parse_schedule

SUPPORTS = ("max", "rms", "volume", "fixed")


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """How to find phases; every field has a default that suits densities of single particles.

    Parameters
    ----------
    schedule : str
        Iterations in order, such as "100DM 200RAAR 100ER" or "3*(20ER 180HIO) 20ER".
    beta : float
        Feedback of HIO, HPR, RAAR, DM and RRR; lambda of DRAP.
    seeds : int
        Starts from random phases. Those that pass are averaged.
    real : bool
        The object is real, so that the intensity is the same at q and -q. Off for strong phase
        objects and Bragg peaks.
    positive : bool
        The object is not negative.
    max_phase : float
        Complex objects: the largest phase, in radians, up to one that is common to all voxels; 0:
        any.
    coherence : int
        The light is partially coherent: intensities are blurred by a kernel, which is fitted anew
        after this many iterations each; 20 is good. 0: coherent. Not together with a background.
    background : bool
        Fit an incoherent background that depends on |q| only. For the rejection of seeds it is
        part of the model.
    size : int
        Crop the intensity to this many voxels along each axis, about the origin; 0: all of it.
    diameter : float
        Extent of the object in voxels of its density: a ball of it is the first support, which
        never grows beyond. 0: from the autocorrelation.
    start_threshold : float
        The first support is where the autocorrelation exceeds this share of its largest value.
        Not used with a diameter.
    support : {"max", "rms", "volume", "fixed"}
        What the support becomes now and then: where the blurred object exceeds a share of its
        largest value ("max") or of its root mean square inside of the support ("rms"), or the
        largest values that fill a share of all voxels ("volume"); "fixed": nothing changes.
    support_threshold : float
        That share.
    support_spread : float
        Thresholds differ from seed to seed by up to this, relative; also those of the start.
    support_period : int
        Iterations between changes of the support.
    support_start : int
        Iterations before the first change.
    blur_start : float
        Standard deviation of the Gaussian blur before the first change, in voxels.
    blur_end : float
        The same before the last change; it falls exponentially.
    min_fraction : float
        A support with a smaller share of all voxels has collapsed: the seed starts again with a
        threshold lower by a factor of 1.1.
    max_fraction : float
        A support with a larger share has exploded: as above, with a higher threshold.
    detwin : bool
        A quarter into the schedule, do ten iterations with one half of the support: a solution
        and its inverted twin at the same place then part.
    free_fraction : float
        Share of the measured voxels that is hidden from all seeds alike, in islands outside of
        the centre. Seeds are ranked by how well they predict them.
    max_outside : float
        Reject seeds with more than this share of their power outside of the support, after
        the modulus was put in.
    max_llk : float
        Reject seeds whose free log-likelihood is further from a perfect fit than this many
        times that of the best seed, or of what noise alone would do if that is more.
    seed : int
        Seed of the random numbers.
    block_memory_mb : int
        Memory for seeds that run side by side; more seeds run one block after the other.
    """

    schedule: str = "600RAAR 100ER"
    beta: float = 0.9
    seeds: int = 20
    real: bool = True
    positive: bool = True
    max_phase: float = 0.0
    coherence: int = 0
    background: bool = False
    size: int = 0
    diameter: float = 0.0
    start_threshold: float = 0.04
    support: str = "max"
    support_threshold: float = 0.1
    support_spread: float = 0.2
    support_period: int = 20
    support_start: int = 40
    blur_start: float = 3.0
    blur_end: float = 1.0
    min_fraction: float = 1e-4
    max_fraction: float = 0.7
    detwin: bool = False
    free_fraction: float = 0.05
    max_outside: float = 0.1
    max_llk: float = 1.2
    seed: int = 0
    block_memory_mb: int = 1024

    def __post_init__(self) -> None:
        self._check_types()
        if not sum(n for _, n in parse_schedule(self.schedule)):
            raise InputError(f"schedule must have an iteration, got {self.schedule!r}")
        _validate.choice("support", self.support, SUPPORTS)
        for name, low, high in (
            ("beta", 0.0, MOST_BETA),
            ("seeds", 1, 100_000),
            ("max_phase", 0.0, math.pi),
            ("coherence", 0, 1_000_000),
            ("size", 0, 100_000),
            ("diameter", 0.0, 1e5),
            ("start_threshold", 0.0, 1.0),
            ("support_threshold", 1e-9, 10.0),
            ("support_spread", 0.0, 0.9),
            ("support_period", 1, 1_000_000),
            ("support_start", 0, 1_000_000),
            ("blur_start", 0.0, 1000.0),
            ("blur_end", 0.0, 1000.0),
            ("min_fraction", 0.0, 1.0),
            ("max_fraction", 0.0, 1.0),
            ("free_fraction", 0.0, 0.5),
            ("max_outside", 0.0, 1.0),
            ("max_llk", 1.0, 1e12),
            ("seed", 0, 2**63 - 1),
            ("block_memory_mb", 1, 1_000_000),
        ):
            _validate.number(name, getattr(self, name), low=low, high=high)
        if self.positive and not self.real:
            raise InputError("positive must be off for an object that is not real, got both")
        if self.max_phase and self.real:
            raise InputError(f"max_phase must be 0 for a real object, got {self.max_phase:g}")
        if self.coherence and self.background:
            raise InputError("background must be off with coherence, got both")
        if self.min_fraction >= self.max_fraction:
            raise InputError(
                f"min_fraction must be below max_fraction, got {self.min_fraction:g} and "
                f"{self.max_fraction:g}"
            )
        if self.size == 1:
            raise InputError("size must be at least 2 (or 0), got 1")
        if (self.blur_start == 0) != (self.blur_end == 0):
            raise InputError(
                f"blur_start and blur_end must both be 0 or neither, got {self.blur_start:g} "
                f"and {self.blur_end:g}"
            )

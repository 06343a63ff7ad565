"""Options of a 2D classification."""

from __future__ import annotations

import dataclasses

from .. import _validate
from ..errors import InputError
from .options import Options
from .polar.layout import ANGLES


@dataclasses.dataclass(frozen=True)
class ClassifyConfig(Options):
    """How to classify; every field has a default that suits most data.

    Parameters
    ----------
    n_classes : int
        Class averages of a run. Particles in free orientations need several each.
    rotate : bool
        Search the in-plane angle of every frame; off: patterns are fixed on the detector.
    n_angles : int
        In-plane angles: 32, 48, 64, 96, 128, 144, 192, 256, 384 or 512; 0: half as many as
        the largest ring has pixels.
    radius : float
        Largest |q| used, in voxels; 0: all of the detector.
    ring_width : float
        Width of a ring of polar bins, in voxels.
    iterations : int
        Upper limit of a run; it stops before it once it has converged.
    beta : "auto" or float
        Inverse temperature at the start. "auto": 0.6 exp(-6.5 (N 1e-5)^0.15), N photons
        per frame.
    beta_jump : float
        Factor by which beta rises, up to 1, when the averages have settled.
    fluence : bool
        Fit a fluence per frame: classes then differ in shape, not in brightness.
    prior : float
        Weight of the radial mean of all frames in every class, in exposures of one frame.
    bootstrap : int
        Independent runs, each on its own random share of the frames; 0: one run on all.
    bootstrap_share : float
        Share of the frames in each of these runs.
    tolerance : float
        Relative change of the averages, at beta = 1, that counts as converged.
    seed : int
        Seed of the random starts and shares.
    block_memory_mb : int
        Memory for one block of frames; frames are streamed in such blocks. On a GPU at least
        4096, but no more than a quarter of what is free.
    """

    n_classes: int = 10
    rotate: bool = True
    n_angles: int = 0
    radius: float = 0.0
    ring_width: float = 1.0
    iterations: int = 60
    beta: float | str = "auto"
    beta_jump: float = 1.5
    fluence: bool = True
    prior: float = 1.0
    bootstrap: int = 0
    bootstrap_share: float = 0.8
    tolerance: float = 0.01
    seed: int = 0
    block_memory_mb: int = 128

    def __post_init__(self) -> None:
        self._check_types()
        if self.beta != "auto":
            _validate.number("beta", self.beta, low=1e-9, high=1.0)
        for name, low, high in (
            ("n_classes", 1, 100_000),
            ("radius", 0.0, 1e4),
            ("ring_width", 0.1, 100.0),
            ("iterations", 1, 100_000),
            ("beta_jump", 1.01, 1e3),
            ("prior", 1e-6, 1e6),
            ("bootstrap", 0, 10_000),
            ("bootstrap_share", 1e-6, 1.0),
            ("tolerance", 0.0, 1.0),
            ("seed", 0, 2**63 - 1),
            ("block_memory_mb", 1, 1_000_000),
        ):
            _validate.number(name, getattr(self, name), low=low, high=high)
        if self.n_angles and self.n_angles not in ANGLES:
            raise InputError(f"n_angles must be 0 or one of {ANGLES}, got {self.n_angles}")

    @property
    def n_runs(self) -> int:
        """Runs R: one, or those of the bootstrap."""
        return self.bootstrap or 1

"""Options of a reconstruction: a dataclass that reads and writes TOML."""

from __future__ import annotations

import dataclasses

from .. import _validate, orientations
from ..errors import InputError
from .options import Options
from .polar.layout import ANGLES


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """How to reconstruct; every field has a default that suits most data.

    Parameters
    ----------
    engine : {"polar", "pixel"}
        "polar": all in-plane angles of a view at once, on pixels binned to rings; then local
        refinement on exact pixels. "pixel": exact pixels against a list of rotations, slower by
        ten times or more. Frames of real values, a background, fixed patterns and Dragonfly's
        merge always take the pixel engine.
    iterations : int
        Upper limit; a run stops before it once it has converged.
    num_div : int
        Fineness n of the grid: rotations about 73.5/n degrees apart, with the pixel engine the
        10(5n^3 + n) of the 600-cell; 0: 11 with the polar engine, 6 with the pixel engine.
    multiresolution : bool
        Start with a coarser grid and the radius that holds 95 % of the photons, and grow both
        when the orientations have settled.
    batch : int
        Frames used while the model is coarse; four times as many on the fine grid before all.
        Polar engine only.
    seeds : int
        Random starts of the coarse stages, of which the one with the highest evidence on other
        frames goes on. Polar engine only.
    n_angles : int
        In-plane angles A of the finest polar grid: 32, 48, 64, 96, 128, 144, 192, 256, 384 or
        512; 0: from the detector, at most 128.
    ring_width : float
        Width of the polar rings in voxels; 0: 2, or 1 where the detector has fewer than 32.
    beta : "auto" or float
        Inverse temperature at the start. "auto": with the polar engine 2.5 times the critical
        one of the frames; with the pixel engine 0.6 exp(-6.5 (N 1e-5)^0.15), N photons per
        frame, which is about as much.
    beta_jump : float
        Factor by which beta rises, up to 1.
    beta_period : int
        Iterations between rises; 0: rise when the model changes by less than 1 % (polar engine:
        2 %), at the latest after 12 iterations.
    fluence : bool
        Fit a fluence per frame.
    uniform : bool
        Particles come in all orientations alike: keep views from crowding about some axes while
        beta < 1. False for aligned particles. Polar engine only.
    symmetry : str
        Point group of the particle: C1, Cn, Dn, T, O, I.
    n_modes : int
        Volumes reconstructed side by side (conformations, other particles).
    n_nonrotating : int
        Extra modes that are a fixed pattern on the detector (background, artefacts).
    merge : {"likelihood", "dragonfly"}
        "likelihood" divides merged photons by merged exposure, the Poisson maximum
        likelihood. "dragonfly" reproduces that program: rotations merge with equal weight,
        and the grid's weights are tempered by beta.
    prior : float
        Weight of the radial mean in every voxel, in exposures of one frame; keeps voxels
        that nobody saw from becoming 0.
    smooth : bool
        Estimate every voxel of the result together with its neighbours, as far as the size of the
        particle allows (`smooth`). Not with frames of real values or Dragonfly's merge.
    radius : float
        Largest |q| used, in voxels; 0: all of the detector.
    size : int
        Edge of the volume, odd; 0: from the detector.
    refine : int
        Iterations of local search around the best orientation after the grid has converged.
    selection : {"all", "even", "odd"}
        Frames used, counted from 0 after the blacklist.
    half_sets : bool
        Refine even and odd frames independently at the end and correlate the two.
    gaussian_sigma : float
        Standard deviation per pixel of dense real-valued frames (EMC type 2).
    tolerance : float
        Relative change of the model, at beta = 1, that counts as converged.
    seed : int
        Seed of the random start.
    block_memory_mb : int
        Memory for one block of frames x orientations; frames are streamed in such blocks. On a
        GPU at least 4096, but no more than a quarter of what is free.
    """

    engine: str = "polar"
    iterations: int = 100
    num_div: int = 0
    multiresolution: bool = True
    batch: int = 4000
    seeds: int = 2
    n_angles: int = 0
    ring_width: float = 0.0
    beta: float | str = "auto"
    beta_jump: float = 1.5
    beta_period: int = 0
    fluence: bool = True
    uniform: bool = True
    symmetry: str = "C1"
    n_modes: int = 1
    n_nonrotating: int = 0
    merge: str = "likelihood"
    prior: float = 0.1
    smooth: bool = True
    radius: float = 0.0
    size: int = 0
    refine: int = 3
    selection: str = "all"
    half_sets: bool = True
    gaussian_sigma: float = 1.0
    tolerance: float = 0.01
    seed: int = 0
    block_memory_mb: int = 128

    def __post_init__(self) -> None:
        self._check_types()
        _validate.choice("engine", self.engine, ("polar", "pixel"))
        _validate.choice("merge", self.merge, ("likelihood", "dragonfly"))
        _validate.choice("selection", self.selection, ("all", "even", "odd"))
        orientations.point_group(self.symmetry)
        if self.beta != "auto":
            _validate.number("beta", self.beta, low=1e-9, high=1.0)
        for name, low, high in (
            ("iterations", 1, 100_000),
            ("num_div", 0, 60),
            ("batch", 10, 2**31),
            ("seeds", 1, 100),
            ("ring_width", 0.0, 100.0),
            ("beta_jump", 1.0, 1e3),
            ("beta_period", 0, 100_000),
            ("n_modes", 1, 1000),
            ("n_nonrotating", 0, 1000),
            ("prior", 0.0, 1e6),
            ("radius", 0.0, 1e4),
            ("refine", 0, 100),
            ("gaussian_sigma", 1e-12, 1e12),
            ("tolerance", 0.0, 1.0),
            ("seed", 0, 2**63 - 1),
            ("block_memory_mb", 1, 1_000_000),
        ):
            _validate.number(name, getattr(self, name), low=low, high=high)
        if self.n_angles not in (0, *ANGLES):
            raise InputError(f"n_angles must be 0 or one of {ANGLES}, got {self.n_angles}")
        if self.size and (self.size < 3 or self.size % 2 == 0):
            raise InputError(f"size must be odd and at least 3 (or 0), got {self.size}")

    @property
    def grid(self) -> int:
        """Fineness of the grid, never 0."""
        return self.num_div or (11 if self.engine == "polar" else 6)

"""Options of a reconstruction: a dataclass that reads and writes TOML."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from .. import _validate, orientations
from ..errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclasses.dataclass(frozen=True)
class Config:
    """How to reconstruct; every field has a default that suits most data.

    Parameters
    ----------
    engine : {"pixel"}
        Exact pixels against any list of rotations.
    iterations : int
        Upper limit; a run stops before it once it has converged.
    num_div : int
        Refinement n of the 600-cell grid, 10(5n^3 + n) rotations about 73.5/n degrees apart.
    multiresolution : bool
        Start with half of `num_div` (at least 4) and the radius that holds 95 % of the photons,
        and grow both when the orientations have settled (mutual information > ln(R) / 2).
    beta : "auto" or float
        Inverse temperature at the start. "auto": 0.6 exp(-6.5 (N 1e-5)^0.15), N photons
        per frame, two to four times the critical temperature of the frames.
    beta_jump : float
        Factor by which beta rises, up to 1.
    beta_period : int
        Iterations between rises; 0: rise when the model changes by less than 1 %, at the
        latest after 12 iterations.
    fluence : bool
        Fit a fluence per frame.
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
        Memory for one block of frames x orientations; frames are streamed in such blocks.
    """

    engine: str = "pixel"
    iterations: int = 100
    num_div: int = 6
    multiresolution: bool = True
    beta: float | str = "auto"
    beta_jump: float = 1.5
    beta_period: int = 0
    fluence: bool = True
    symmetry: str = "C1"
    n_modes: int = 1
    n_nonrotating: int = 0
    merge: str = "likelihood"
    prior: float = 0.1
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
        for field in dataclasses.fields(self):
            self._check_type(field)
        _validate.choice("engine", self.engine, ("pixel",))
        _validate.choice("merge", self.merge, ("likelihood", "dragonfly"))
        _validate.choice("selection", self.selection, ("all", "even", "odd"))
        orientations.point_group(self.symmetry)
        if self.beta != "auto":
            _validate.number("beta", self.beta, low=1e-9, high=1.0)
        for name, low, high in (
            ("iterations", 1, 100_000),
            ("num_div", 1, 60),
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
        if self.size and (self.size < 3 or self.size % 2 == 0):
            raise InputError(f"size must be odd and at least 3 (or 0), got {self.size}")

    def _check_type(self, field: dataclasses.Field) -> None:
        value = getattr(self, field.name)
        kinds = {"bool": bool, "int": int, "str": str}.get(str(field.type), (int, float, str))
        is_bool = isinstance(value, bool)
        if not isinstance(value, kinds) or is_bool != (kinds is bool):
            raise InputError(f"{field.name} must be of type {field.type}, got {value!r}")

    def to_toml(self) -> str:
        """Return the options as TOML text."""
        import tomli_w  # only to write: kernels and readers do without it

        return tomli_w.dumps(dataclasses.asdict(self))

    @classmethod
    def from_toml(cls, text: str) -> Config:
        """Read options from TOML text; unknown names are an `InputError`."""
        try:
            values: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"config is not valid TOML: {error}") from None
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise InputError(
                f"config has unknown options {', '.join(unknown)}; "
                f"known are {', '.join(sorted(names))}"
            )
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read options from a TOML file."""
        try:
            return cls.from_toml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read config {path}: {error}") from None

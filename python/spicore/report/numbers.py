"""What a result says in numbers: shared by the report and the command line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import metrics, orientations
from ..emc import Config, Result
from ..emc.seeds import AGREED

Float64 = NDArray[np.float64]

THRESHOLD = 0.5
"""Shell correlation of half sets at the resolution. Each half then holds as much noise as signal;
the correlation of the full result with the truth is about sqrt(2c / (1 + c)) = 0.82."""


@dataclass(frozen=True)
class Resolution:
    """Where the half sets stop to agree.

    Attributes
    ----------
    radius : float          voxels; NaN where there are no half sets, or they never agree
    to_the_edge : bool      they agree as far as the detector reaches: it could be better
    d : float or None       full period in Angstrom, 1 / q
    """

    radius: float
    to_the_edge: bool
    d: float | None

    def __str__(self) -> str:
        if np.isnan(self.radius):
            return "half sets do not agree"
        sign = "≤ " if self.to_the_edge else ""
        if self.d is None:
            sign = "≥ " if self.to_the_edge else ""
            return f"{sign}{self.radius:.1f} voxels"
        return f"{sign}{self.d:.3g} Å"


@dataclass(frozen=True)
class Summary:
    """The main numbers of a result."""

    n_frames: int
    n_used: int
    size: int
    n_modes: int
    n_patterns: int
    n_orientations: int  # of the last search of the whole grid
    grid_degrees: float  # spacing of that grid
    n_refined: int
    iterations: int
    converged: bool
    change: float
    log_likelihood: float
    mutual_information: float
    seconds: float
    rate: float  # frames x orientations per second, all iterations
    voxel_size: float | None
    reach: int  # last shell of which half is observed, voxels
    resolution: Resolution | None  # None: no half sets
    seeds: str = ""  # random starts tried, in words

    @property
    def state(self) -> str:
        """Whether the run converged, in words."""
        if self.converged:
            return f"converged after {counted(self.iterations, 'iteration')}"
        return f"not converged: stopped after {counted(self.iterations, 'iteration')}"


def counted(n: int, what: str) -> str:
    """Return a number of things in words: 1 iteration, 2 iterations."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def summarize(result: Result) -> Summary:
    """Return the main numbers of a result."""
    config = Config.from_toml(result.config)
    history = result.history
    n_refined = int(result.schedule.get("refined", 0))
    iterations = len(history["iteration"])
    on_grid = np.asarray(history["n_orientations"][: iterations - n_refined], np.int64)
    used = int((result.mode >= 0).sum())
    seconds = float(np.sum(history["seconds"]))
    frames = history.get("n_frames", np.full(iterations, used))
    work = float(np.sum(history["n_orientations"] * frames))
    volumes = by_mode(result.intensity)
    reach = observed_radius(by_mode(result.weight)[0])
    return Summary(
        n_frames=len(result.fluence),
        n_used=used,
        size=volumes.shape[-1],
        n_modes=len(volumes),
        n_patterns=len(result.patterns),
        n_orientations=int(on_grid[-1]) if on_grid.size else 0,
        grid_degrees=float(result.schedule.get("spacing", orientations.grid_spacing(config.grid))),
        n_refined=n_refined,
        iterations=iterations,
        converged=bool(result.schedule.get("converged", False)),
        change=float(history["change"][-1]) if iterations else float("nan"),
        log_likelihood=_mean(result.log_likelihood),
        mutual_information=_mean(result.mutual_information),
        seconds=seconds,
        rate=work / seconds if seconds > 0 else 0.0,
        voxel_size=result.voxel_size,
        reach=reach,
        resolution=half_set_resolution(result, reach),
        seeds=seeds_in_words(result.seeds),
    )


def seeds_in_words(seeds: dict[str, NDArray]) -> str:
    """Return which random starts were tried and agreed; empty if there was one."""
    if not seeds:
        return ""
    evidence, agreement = seeds["evidence"], seeds["agreement"]
    best = int(np.argmax(evidence))
    others = np.delete(np.arange(len(evidence)), best)
    agree = int((agreement[others] > AGREED).sum())
    gap = float(evidence[best] - evidence[others].max())
    chosen = int(seeds["seed"][best])
    heated = int(seeds["reheated"].sum())
    count = f"{len(evidence) - heated}" + (f" and {heated} reheated" if heated else "")
    return (
        f"seed {chosen} of {count}; {agree} of {len(others)} others agree "
        f"(correlation up to {np.nanmax(agreement):.2f}, evidence {gap:.2f} nats a frame lower)"
    )


def by_mode(volume: NDArray) -> NDArray:
    """Return a volume [N, N, N] or [M, N, N, N] as [M, N, N, N]."""
    return volume.reshape(-1, *volume.shape[-3:])


def shell_of(size: int) -> NDArray[np.intp]:
    """Return the rounded distance from the origin of every voxel [N, N, N]."""
    squared = (np.arange(size, dtype=np.float32) - size // 2) ** 2
    return np.rint(np.sqrt(squared[:, None, None] + squared[:, None] + squared)).astype(np.intp)


def observed_share(weight: NDArray) -> Float64:
    """Return the share of voxels with weight of the shells 0 ... (N - 1) // 2."""
    shell = shell_of(len(weight)).ravel()
    n = np.bincount(shell)
    return (np.bincount(shell, weight.ravel() > 0) / n)[: (len(weight) - 1) // 2 + 1]


def observed_radius(weight: NDArray) -> int:
    """Return the last shell of which at least half was observed; 0 if there is none."""
    observed = np.flatnonzero(observed_share(weight) >= 0.5)
    return int(observed[-1]) if observed.size else 0


def half_set_resolution(result: Result, reach: int) -> Resolution | None:
    """Return where the shell correlation of the half sets falls below `THRESHOLD`."""
    if not result.half_sets:
        return None
    radius, curve = (np.asarray(result.half_sets[name]) for name in ("radius", "shell_cc"))
    radius, curve = radius[: reach + 1], curve[: reach + 1]
    crossing = metrics.resolution_at(radius, curve, THRESHOLD)
    if np.isnan(crossing):
        return Resolution(crossing, False, None)
    finite = np.flatnonzero(np.isfinite(curve))
    to_the_edge = bool(crossing >= radius[finite[-1]])
    d = None if result.voxel_size is None else 1.0 / (crossing * result.voxel_size)
    return Resolution(crossing, to_the_edge, d)


def featureless(volume: NDArray) -> NDArray[np.float32]:
    """Return the radial mean of a volume as a volume: it must score 0 against anything."""
    radius, mean = metrics.radial_average(volume)
    axis = np.arange(len(volume)) - len(volume) // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return np.interp(distance, radius, mean).astype(np.float32)


def _mean(values: NDArray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")

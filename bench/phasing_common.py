"""What the benchmarks of phase retrieval share."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spicore.phasing import Solutions, frequencies

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SPICORE_SHARED_DATA", ROOT.parent / "shared" / "data"))


def wilson(successes: int, n: int, z: float = 1.96) -> list[float]:
    """Return the 95 % interval of a rate (Wilson, J. Am. Stat. Assoc. 22, 209 (1927))."""
    if not n:
        return [0.0, 1.0]
    rate = successes / n
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return [max(0.0, float(middle - half)), min(1.0, float(middle + half))]


def shuffled_in_shells(intensity: NDArray, seed: int) -> NDArray:
    """Return an intensity (FFT order) with its values shuffled inside shells, q and -q alike."""
    rng = np.random.default_rng(seed)
    shells = frequencies.shells(intensity.shape)
    order = np.arange(intensity.size).reshape(intensity.shape)
    mates = frequencies.mirrored(order)
    first = (order <= mates) & (intensity > 0)
    result = intensity.copy().ravel()
    for shell in np.unique(shells[first]):
        place = order[first & (shells == shell)]
        values = rng.permutation(result[place])
        result[place] = values
        result[mates.ravel()[place]] = values
    return result.reshape(intensity.shape)


def summary(solutions: Solutions) -> dict:
    """Return the main numbers of a result."""
    s, scores = solutions, solutions.scores
    n = len(scores["kept"])
    return {
        "seeds": n,
        "passed": s.n_kept,
        "passed_wilson_95": wilson(s.n_kept, n),
        "r_factor": s.r_factor,
        "r_factor_of_best": float(scores["r_factor"][scores["rank"] == 0][0]),
        "free_r_factor": s.free_r_factor,
        "likelihood": s.likelihood,
        "best_free_llk": float(np.nanmin(scores["free_llk"])),
        "median_free_llk": float(np.nanmedian(scores["free_llk"])),
        "mode_0": float(s.mode_weights[0]),
        "median_agreement_of_passed": float(np.median(scores["agreement"][scores["kept"]])),
        "prtf_1e_voxels": number(s.crossing("prtf", np.exp(-1))),
        "prtf_05_voxels": number(s.crossing("prtf", 0.5)),
        "fsc_05_voxels": number(s.crossing("fsc", 0.5)),
        "fsc_0143_voxels": number(s.crossing("fsc", 0.143)),
        "last_shell": float(s.curves["radius"][-1]),
        "support_share": float(s.support.mean()),
        "undetermined_modes": number(s.undetermined.n_modes),
        "charge_measured": s.undetermined.charge_measured,
        "charge_free": number(s.undetermined.charge_free),
        "charge_spread": s.undetermined.charge_spread,
    }


def number(value: float) -> float | None:
    """Return a number that JSON knows; None for NaN."""
    return None if np.isnan(value) else float(value)


def result_path(name: str, machine: str | None) -> Path:
    """Return bench/results/<name>_<machine>.json."""
    return ROOT / "bench" / "results" / f"{name}_{machine or platform.node() or 'unknown'}.json"


def write(name: str, machine: str | None, table: dict) -> None:
    """Write bench/results/<name>_<machine>.json."""
    path = result_path(name, machine)
    text = json.dumps({"machine": path.stem.removeprefix(f"{name}_"), **table}, indent=2)
    # lists of numbers in one line
    text = re.sub(r"\[[-+\d.eE,\sNa]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text)
    path.write_text(text + "\n")


def read(name: str, machine: str | None) -> dict:
    """Read what `write` wrote."""
    return json.loads(result_path(name, machine).read_text())

"""Simulated volumes of a particle: hole in the centre x photons x background, known truth.

    python bench/phasing_spi.py [--size 49] [--seeds 16] [--photons 1e5 1e6] [--holes 0 0.5 1 2]

A random molecule without symmetry, oversampled three times; photons of the merged volume are
Poisson, the corners of the cube are missing, and the hole's radius is in speckles (one speckle is
size / diameter voxels). The background falls with |q| and is as strong as the signal at half of
the radius. A seed succeeds where its Fourier shell correlation with the truth stays above 0.5 to
0.9 of the last shell, the background being in the model or not. Control: intensities shuffled
inside shells. These are simulations of a volume, not of frames. Writes
bench/results/phasing_spi_<machine>.json.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from phasing_common import shuffled_in_shells, summary, wilson, write

import spicore as sp
from spicore.phasing import Config, Solutions, align, frequencies, run, trust

OVERSAMPLING = 3.0
REACH = 0.9


def data(
    size: int, photons: float, hole: float, background: float, seed: int = 1
) -> tuple[NDArray, NDArray]:
    """Return the true density and photons [N, N, N], NaN where not measured."""
    diameter = size / OVERSAMPLING
    density = sp.simulate.particle(seed, diameter=diameter, size=size)
    expected = sp.simulate.intensity(density, size).astype(np.float64)
    radius = np.fft.fftshift(frequencies.radius(expected.shape))
    seen = (radius <= size // 2) & (radius >= hole * size / diameter)
    expected *= photons / expected[seen & (radius > 0)].sum()
    half = expected[np.abs(radius - size / 4) < 1].mean()
    expected += background * half * np.exp(-((radius / (0.4 * size)) ** 2))
    counts = np.random.default_rng(seed).poisson(expected).astype(np.float64)
    return density, np.where(seen, counts, np.nan)


def reach(found: NDArray, truth: NDArray, measured: NDArray[np.bool_]) -> float:
    """Return the shell to which a density agrees with the truth, in voxels."""
    aligned, _ = align(found, truth.astype(found.dtype), scale=True)
    radius, curve = trust.fsc(aligned, truth, measured)
    seen = np.isfinite(curve)
    below = np.flatnonzero(curve[seen] < 0.5)
    return float(radius[seen][below[0]] - 1 if below.size else radius[seen][-1])


class Kept:
    """Keeps the densities of all seeds, which `Solutions` does not."""

    def __enter__(self) -> Kept:
        self._finish = run.Run.finish

        def finish(this: run.Run, state: run.State) -> None:
            self._finish(this, state)
            self.x, self.finished = state.x.copy(), state.segment > 0

        run.Run.finish = finish
        return self

    def __exit__(self, *exception: object) -> None:
        run.Run.finish = self._finish


def one(args: argparse.Namespace, photons: float, hole: float, level: float, model: bool) -> dict:
    """Return the row of one kind of data, with or without a background in the model."""
    truth, counts = data(args.size, photons, hole, level)
    config = Config(
        seeds=args.seeds,
        schedule=args.schedule,
        background=model,
        max_outside=1.0,
        max_llk=args.max_llk,
    )
    measured = np.fft.ifftshift(np.isfinite(counts))
    began = time.perf_counter()
    with Kept() as kept:
        solutions = sp.phasing.reconstruct(counts, config, threads=args.threads)
    seconds = time.perf_counter() - began
    limit = REACH * (args.size // 2)
    reaches = [reach(x, truth, measured) for x in kept.x[kept.finished]]
    good = sum(r >= limit for r in reaches)
    _, alignment = align(solutions.density, truth, scale=True)
    llk = solutions.scores["free_llk"][kept.finished]
    charge = float(abs(solutions.undetermined.charge) * alignment.scale / truth.sum())
    return {
        "photons": photons,
        "hole_speckles": hole,
        "background": level,
        "background_in_model": model,
        "succeeded": good,
        "success_wilson_95": wilson(good, args.seeds),
        "average_reach": reach(solutions.density, truth, measured),
        "correlation_with_truth": alignment.correlation,
        "charge_over_truth": charge,
        "rank_correlation_llk_reach": rank_correlation(-llk, np.array(reaches)),
        "seconds": seconds,
        **summary(solutions),
    }


def rank_correlation(a: NDArray, b: NDArray) -> float | None:
    """Return Spearman's correlation; None where one does not vary."""
    ranks = [np.unique(x, return_inverse=True)[1].astype(float) for x in (a, b)]
    if min(np.ptp(r) for r in ranks) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def control(args: argparse.Namespace) -> dict:
    """Return what comes out for intensities shuffled inside shells."""
    truth, counts = data(args.size, max(args.photons), 0.0, 0.0)
    measured = np.fft.ifftshift(np.isfinite(counts))
    filled = np.where(measured, np.nan_to_num(np.fft.ifftshift(counts)), 0)
    mixed = np.where(measured, shuffled_in_shells(filled, 1), np.nan)
    config = Config(seeds=args.seeds, schedule=args.schedule, max_outside=1.0)
    solutions: Solutions = sp.phasing.reconstruct(np.fft.fftshift(mixed), config)
    return {
        "average_reach": reach(solutions.density, truth, measured),
        "correlation_with_truth": align(solutions.density, truth, scale=True)[1].correlation,
        **summary(solutions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=49)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--schedule", default=Config().schedule)
    parser.add_argument("--photons", type=float, nargs="+", default=[1e5, 1e6])
    parser.add_argument("--holes", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--max-llk", type=float, default=Config().max_llk)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machine")
    args = parser.parse_args()
    rows: list[dict] = []
    names = ("size", "seeds", "schedule", "max_llk", "threads")
    table = {**{name: getattr(args, name) for name in names}, "rows": rows}
    for photons in args.photons:
        for hole in args.holes:
            for level, model in ((0.0, False), (0.0, True), (1.0, False), (1.0, True)):
                rows.append(one(args, photons, hole, level, model))
                print({k: rows[-1][k] for k in SHOWN}, flush=True)
                write("phasing_spi", args.machine, table)
    table["control_shuffled"] = control(args)
    print("control", table["control_shuffled"])
    write("phasing_spi", args.machine, table)


SHOWN = (
    "photons", "hole_speckles", "background", "background_in_model", "succeeded", "passed",
    "correlation_with_truth", "average_reach", "undetermined_modes", "charge_over_truth",
    "charge_spread", "rank_correlation_llk_reach", "seconds",
)  # fmt: skip


if __name__ == "__main__":
    main()

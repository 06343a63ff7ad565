"""Simulated volumes of a structure: hole in the centre x photons x background, known truth.

    python bench/phasing_spi.py [--structure 1I3Q] [--size 45] [--seeds 100] [--holes 0 0.5 1 2]

The density of a structure of ../shared/data, oversampled three times along its longest extent;
photons of the merged volume are Poisson, the corners of the cube are missing, and the hole's radius
is in speckles (one speckle is size / diameter voxels). The background falls with |q| and is as
strong as the signal at half of the radius; it is in the model where it is in the data, and with
--all-models also where it is not, and the other way round.

A seed succeeds where its Fourier shell correlation with the truth stays above 0.5 to 0.9 of the
last shell. Noise may forbid that: a seed is at the limit where it comes to 0.9 of the shell that
the same iterations reach from the truth, in its support. Its error is 1 - the correlation of the
densities, and beside it the same of what was measured alone, both after alignment; the free
likelihood, which ranks seeds, is compared with both. Control: intensities shuffled inside shells.
These are simulations of a volume, not of frames. Writes bench/results/phasing_spi_<machine>.json.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from numpy.typing import NDArray
from phasing_common import DATA, read, shuffled_in_shells, summary, wilson, write
from structures import atoms, density, extent

import spicore as sp
from spicore.phasing import (
    Config,
    Seeds,
    Solutions,
    align,
    frequencies,
    iterate,
    parse_schedule,
    run,
    trust,
)
from spicore.phasing.pattern import prepare
from spicore.phasing.run import first_background
from spicore.phasing.supports import in_threads

OVERSAMPLING = 3.0
REACH = 0.9
SIGMA = 0.65
"""Of an atom, in voxels: as the blobs of `simulate.particle`."""

SUPPORT = 0.03
"""Share of the largest density above which the true support is, for the limit of noise."""


def truth_of(structure: str, size: int) -> NDArray[np.float32]:
    """Return the density [N, N, N] of a structure that fills a third of the cube's edge."""
    positions, electrons = atoms(DATA / "structures" / f"{structure}.pdb.gz")
    voxel = extent(positions) * OVERSAMPLING / size
    return density(positions, electrons, size, voxel, SIGMA)


def counts_of(
    truth: NDArray, photons: float, hole: float, background: float, seed: int = 1
) -> NDArray[np.float64]:
    """Return photons [N, N, N], NaN where not measured."""
    size = len(truth)
    expected = sp.simulate.intensity(truth, size).astype(np.float64)
    radius = np.fft.fftshift(frequencies.radius(expected.shape))
    seen = (radius <= size // 2) & (radius >= hole * OVERSAMPLING)
    expected *= photons / expected[seen & (radius > 0)].sum()
    half = expected[np.abs(radius - size / 4) < 1].mean()
    expected += background * half * np.exp(-((radius / (0.4 * size)) ** 2))
    counts = np.random.default_rng(seed).poisson(expected).astype(np.float64)
    return np.where(seen, counts, np.nan)


class Judge:
    """Compares densities with the truth."""

    def __init__(self, truth: NDArray, counts: NDArray) -> None:
        self.truth, self.measured = truth, np.fft.ifftshift(np.isfinite(counts))

    def __call__(self, found: NDArray) -> tuple[float, float, float]:
        """Return the shell reached, in voxels, and the errors of all and of what was measured."""
        aligned, alignment = align(found, self.truth, scale=True)
        radius, curve = trust.fsc(aligned, self.truth, self.measured)
        seen = np.isfinite(curve)
        below = np.flatnonzero(curve[seen] < 0.5)
        reach = radius[seen][below[0]] - 1 if below.size else radius[seen][-1]
        a, b = (np.fft.fftn(x)[self.measured] for x in (aligned, self.truth))
        seen_alone = np.vdot(a, b).real / (np.linalg.norm(a) * np.linalg.norm(b))
        return float(reach), 1.0 - alignment.correlation, float(1.0 - seen_alone)


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


def limit(truth: NDArray, counts: NDArray, model: bool, config: Config) -> NDArray:
    """Return what noise alone leaves: the judgement of a run that starts from the truth."""
    pattern = prepare(counts)
    x = np.fft.ifftshift(truth).astype(np.float32)
    power = np.abs(np.fft.fftn(x)) ** 2
    radius = frequencies.radius(x.shape)
    used = pattern.used & (radius > 0)
    # The innermost shells that were measured, where the background is weak beside the signal.
    used &= radius < radius[used].min() + 3
    x *= np.float32(np.sqrt(pattern.intensity[used].sum() / power[used].sum()))
    background = first_background(pattern)[None] if model else None
    seeds = Seeds(x[None].copy(), (x > SUPPORT * x.max())[None], background)
    for name, n in parse_schedule(config.schedule):
        iterate(pattern.to_measured(), seeds, name, n, beta=config.beta, positive=True)
    return np.array(Judge(truth, counts)(np.fft.fftshift(seeds.x[0])))


def one(
    args: argparse.Namespace, truth: NDArray, photons: float, hole: float, level: float, model: bool
) -> dict:
    """Return the row of one kind of data, with or without a background in the model."""
    counts = counts_of(truth, photons, hole, level)
    config = Config(seeds=args.seeds, background=model)
    began = time.perf_counter()
    with Kept() as kept:
        solutions = sp.phasing.reconstruct(counts, config, threads=args.threads)
    seconds = time.perf_counter() - began
    judge = Judge(truth, counts)
    reach, error, error_measured = np.array(in_threads(judge, kept.x, args.threads)).T
    succeeded = kept.finished & (reach >= REACH * (args.size // 2))
    from_truth = limit(truth, counts, model, config)
    converged = kept.finished & (reach >= REACH * from_truth[0])
    passed, llk = solutions.scores["kept"], solutions.scores["free_llk"]
    _, alignment = align(solutions.density, truth, scale=True)
    average = judge(solutions.density)
    return {
        "photons": photons,
        "hole_speckles": hole,
        "background": level,
        "background_in_model": model,
        "succeeded": int(succeeded.sum()),
        "success_wilson_95": wilson(int(succeeded.sum()), args.seeds),
        "limit_reach": from_truth[0],
        "limit_error": from_truth[1],
        "at_limit": int(converged.sum()),
        "at_limit_wilson_95": wilson(int(converged.sum()), args.seeds),
        "passed_at_limit": int((converged & passed).sum()),
        "passed_that_succeeded": int((succeeded & passed).sum()),
        "average_reach": average[0],
        "correlation_with_truth": alignment.correlation,
        "charge_over_truth": float(
            abs(solutions.undetermined.charge) * alignment.scale / truth.sum()
        ),
        "error_of_average": average[1],
        "error_of_best_ranked": float(error[np.argmin(solutions.scores["rank"])]),
        "error_median": float(np.median(error[kept.finished])),
        "error_spread_10_90": np.quantile(error[kept.finished], (0.1, 0.9)).tolist(),
        "spearman_llk_error": spearman(llk[kept.finished], error[kept.finished]),
        "spearman_llk_error_measured": spearman(llk[kept.finished], error_measured[kept.finished]),
        "seconds": seconds,
        **summary(solutions),
        "of_seeds": {
            name: [round(float(v), 5) for v in values]
            for name, values in (
                ("free_llk", llk),
                ("llk", solutions.scores["llk"]),
                ("reach", reach),
                ("error", error),
                ("error_measured", error_measured),
                ("passed", passed),
            )
        },
    }


def spearman(a: NDArray, b: NDArray) -> float | None:
    """Return the correlation of ranks; None where one does not vary."""
    from scipy import stats

    if min(np.ptp(a), np.ptp(b)) == 0:
        return None
    return float(stats.spearmanr(a, b).statistic)


def pooled(rows: list[dict]) -> dict:
    """Return the correlation of ranks of all seeds, each over the median of its cell."""
    result = {}
    for error in ("error", "error_measured"):
        pairs = [[np.array(row["of_seeds"][n]) for n in ("free_llk", error)] for row in rows]
        scaled = [[x / np.median(x) for x in pair] for pair in pairs]
        result[error] = spearman(*(np.concatenate(x) for x in zip(*scaled, strict=True)))
    return result


def control(args: argparse.Namespace, truth: NDArray) -> dict:
    """Return what comes out for intensities shuffled inside shells."""
    counts = counts_of(truth, max(args.photons), 0.0, 0.0)
    measured = np.fft.ifftshift(np.isfinite(counts))
    filled = np.where(measured, np.nan_to_num(np.fft.ifftshift(counts)), 0)
    mixed = np.where(measured, shuffled_in_shells(filled, 1), np.nan)
    config = Config(seeds=args.seeds, max_outside=1.0)
    with Kept() as kept:
        solutions: Solutions = sp.phasing.reconstruct(np.fft.fftshift(mixed), config)
    judge = Judge(truth, counts)
    succeeded = sum(judge(x)[0] >= REACH * (args.size // 2) for x in kept.x[kept.finished])
    return {
        "succeeded": succeeded,
        "success_wilson_95": wilson(succeeded, args.seeds),
        "average_reach": judge(solutions.density)[0],
        "correlation_with_truth": align(solutions.density, truth, scale=True)[1].correlation,
        **summary(solutions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structure", default="1I3Q")
    parser.add_argument("--size", type=int, default=45)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--photons", type=float, nargs="+", default=[1e6, 1e8])
    parser.add_argument("--holes", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--all-models", action="store_true")
    parser.add_argument("--resume", action="store_true", help="keep what the file of results has")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machine")
    args = parser.parse_args()
    truth = truth_of(args.structure, args.size)
    settings = {name: getattr(args, name) for name in ("structure", "size", "seeds")}
    table = settings | {"threads": args.threads, "config": Config().to_toml(), "rows": []}
    if args.resume:
        table = read("phasing_spi", args.machine)
        if {name: table[name] for name in settings} != settings:
            parser.error(f"--resume needs results of {settings}")
    rows = table["rows"]
    done = {tuple(row[name] for name in CELL) for row in rows}
    models = (False, True) if args.all_models else (None,)
    for cell in itertools.product(args.photons, args.holes, (0.0, 1.0), models):
        photons, hole, level, model = cell
        model = level > 0 if model is None else model
        if (photons, hole, level, model) in done:
            continue
        rows.append(one(args, truth, photons, hole, level, model))
        print({k: rows[-1][k] for k in SHOWN}, flush=True)
        table["spearman_pooled"] = pooled(rows)
        write("phasing_spi", args.machine, table)
    if "control_shuffled" not in table:
        table["control_shuffled"] = control(args, truth)
        print("control", table["control_shuffled"], flush=True)
        write("phasing_spi", args.machine, table)


CELL = ("photons", "hole_speckles", "background", "background_in_model")

SHOWN = (
    *CELL, "succeeded", "at_limit", "passed", "passed_that_succeeded", "passed_at_limit",
    "limit_reach", "limit_error",
    "correlation_with_truth", "average_reach", "error_of_best_ranked", "error_median",
    "spearman_llk_error", "spearman_llk_error_measured", "undetermined_modes",
    "charge_over_truth", "charge_spread", "seconds",
)  # fmt: skip


if __name__ == "__main__":
    main()

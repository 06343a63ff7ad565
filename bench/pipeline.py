"""The pipeline on sim_1bxr: frames -> EMC -> phases -> density, beside the structure's density.

    python bench/pipeline.py [--emc result.h5] [--seeds 20] [--size 75] [--figure slices.png]

Frames that Dragonfly's intensity of 1BXR gave, reconstructed from a random start with the default
options, sharpened and phased as `spicore phase` does, cropped to --size voxels. The
density is compared with that of the structure in the protein data bank, whose atoms are turned as
the merged intensity is against the true one; inversion and shift are found with the densities. 1BXR
is nearly D2, so that the best of four turns is taken. Fourier shell correlations, in voxels of
the intensity and in Angstrom; the scale is where the structure's intensity fits that of the set
best. Beside it: the same without sharpening, phases of the merge with the true poses (what EMC
costs), of the true intensity (what phasing costs), and as control of the EMC's intensity shuffled
inside shells. Writes
bench/results/pipeline_<machine>.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import h5py
import numpy as np
from main_job import merged_with_true_poses, pseudo_d2
from numpy.typing import NDArray
from phasing_common import DATA, read, shuffled_in_shells, summary, write
from structures import atoms, density

import spicore as sp
from spicore.orientations import multiply, to_matrix
from spicore.phasing import Config, align, trust

LENGTHS = np.arange(529.0, 534.1, 1.0)
"""Angstrom, edges of the density's cube to try: 1 / voxel size of the intensity."""

SIGMA = 0.65
"""Of an atom, in half voxels."""


class Structure:
    """The density of 1BXR as intensities of an edge of `size` voxels show it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.positions, self.electrons = atoms(DATA / "structures" / "1BXR.pdb.gz")

    def density(self, turn: NDArray, length: float) -> NDArray[np.float32]:
        """Return the density [N, N, N], turned actively, without what lies beyond the cube of q."""
        turned = self.positions @ to_matrix(turn).T
        n = 2 * self.size
        fine = density(turned, self.electrons, n, length / n, SIGMA, fine=2)
        transform = central(np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(fine))), self.size)
        result = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(transform)).real)
        return result.astype(np.float32)

    def fit_length(self, truth: NDArray) -> tuple[float, float]:
        """Return the cube's edge in Angstrom and the mean shell correlation with an intensity."""
        scores = []
        for length in LENGTHS:
            model = sp.simulate.intensity(self.density(np.eye(4)[0], length), self.size)
            scores.append(np.nanmean(sp.metrics.shell_cc(model, truth)[1][3:]))
        best = int(np.argmax(scores))
        return float(LENGTHS[best]), float(scores[best])


def central(volume: NDArray, size: int) -> NDArray:
    """Return the middle of a volume; origins stay at N // 2."""
    first = len(volume) // 2 - size // 2
    cut = slice(first, first + size)
    return np.ascontiguousarray(volume[cut, cut, cut])


def emc(path: Path | None, threads: int) -> sp.emc.Result:
    """Return the result of the default options from a random start."""
    if path is not None and path.exists():
        return sp.emc.Result.load(path)
    detector = sp.Detector.load(DATA / "sim_1bxr" / "detector.h5")
    frames = sp.Frames.open(DATA / "sim_1bxr" / "photons.h5").load()
    result = sp.emc.reconstruct(frames, detector, sp.emc.Config(), threads=threads)
    if path is not None:
        result.save(path)
    return result


def compare(
    found: NDArray, references: list[NDArray], length: float
) -> tuple[dict, NDArray, NDArray]:
    """Return the row of a density, and it and its reference aligned."""
    pairs = [(align(found, reference, scale=True), reference) for reference in references]
    (aligned, alignment), reference = max(pairs, key=lambda pair: pair[0][1].correlation)
    radius, curve = trust.fsc(aligned, reference)
    row = {
        "correlation": alignment.correlation,
        "correlation_of_turns": [pair[0][1].correlation for pair in pairs],
        "inverted": alignment.inverted,
        "fsc": [round(float(v), 4) for v in curve],
    }
    for name, threshold in (("05", 0.5), ("0143", 0.143)):
        at = sp.metrics.resolution_at(radius, curve, threshold)
        row[f"fsc_{name}_truth_voxels"] = at
        row[f"fsc_{name}_truth_angstrom"] = length / at
    return row, aligned, reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emc", type=Path, help="result to read, or to write if it is not there")
    parser.add_argument("--seeds", type=int, default=Config().seeds)
    parser.add_argument("--size", type=int, default=75)
    parser.add_argument("--cases", nargs="*", help="do these alone, and keep other numbers")
    parser.add_argument("--figure", type=Path, help="picture of central slices to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machine")
    args = parser.parse_args()
    structure = Structure(args.size)
    with h5py.File(DATA / "sim_1bxr" / "true_intensity.h5") as file:
        truth = central(file["intens"][()], args.size)
    length, fit = structure.fit_length(truth)
    result = emc(args.emc, args.threads)
    merged, weight = (central(v, args.size) for v in (result.merged, result.weight))
    sharp = central(sp.emc.sharpen(result.merged, result.weight), args.size)
    turn, _, cc = sp.metrics.align_volumes(sharp, truth)
    turns = multiply(turn, pseudo_d2())
    found = [structure.density(t, length) for t in turns]
    upright = [structure.density(np.eye(4)[0], length)]
    shuffled = np.fft.fftshift(shuffled_in_shells(np.fft.ifftshift(sharp), 1))
    posed = merged_with_true_poses()
    posed = [central(v, args.size) for v in (sp.emc.sharpen(*posed), posed[1])]
    cases = {
        "emc": (sharp, weight, found),
        "true_intensity": (np.where(weight > 0, truth, np.nan), None, upright),
        "true_poses": (*posed, upright),
        "emc_not_sharpened": (merged, weight, found),
        "control_shuffled": (shuffled, weight, found),
    }
    table = {
        "size": args.size,
        "seeds": args.seeds,
        "threads": args.threads,
        "config": Config(seeds=args.seeds).to_toml(),
        "edge_angstrom": length,
        "shell_cc_structure_true_intensity": fit,
        "shell_cc_emc_true_intensity": cc,
    }
    if args.cases:
        table = read("pipeline", args.machine) | table
    slices = {}
    for name in args.cases or cases:
        intensity, exposure, references = cases[name]
        # of what was shuffled, nothing stays inside of a support
        config = Config(seeds=args.seeds, max_outside=1.0 if "control" in name else 0.1)
        began = time.perf_counter()
        solutions = sp.phasing.reconstruct(intensity, config, weight=exposure, threads=args.threads)
        row, aligned, reference = compare(solutions.density, references, length)
        table[name] = {**row, "seconds": time.perf_counter() - began, **summary(solutions)}
        print(name, {k: v for k, v in table[name].items() if k != "fsc"}, flush=True)
        slices[name] = reference, aligned
        write("pipeline", args.machine, table)
    if args.figure is not None:
        draw(args.figure, slices)


def draw(path: Path, slices: dict[str, tuple[NDArray, NDArray]]) -> None:
    """Draw the central slices of each pair, truth on top, three of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(slices), 14), layout="constrained")
    axes = figure.subplots(6, len(slices))
    for column, (name, pair) in zip(axes.T, slices.items(), strict=True):
        for row, (volume, axis) in enumerate((v, k) for k in range(3) for v in pair):
            middle = len(volume) // 2
            image = np.take(volume, middle, axis)
            keep = slice(middle - 25, middle + 26)
            column[row].imshow(image[keep, keep], vmin=0, vmax=pair[0].max())
            column[row].set_title(f"{name}: {'found' if row % 2 else 'structure'}", fontsize=8)
            column[row].set_axis_off()
    figure.savefig(path)


if __name__ == "__main__":
    main()

"""The main job on input that spicore did not make: both simulated sets, from a random start.

    python bench/main_job.py [--threads 2] [--seed 0]

Reconstructs ../shared/data/sim_1bxr and sim_4bed (simulated by Dragonfly and by another
group's slicing) with the default options, sim_1bxr also with both engines at the spacing of
num_div = 6, and as negative control with the pixels of every frame shuffled inside rings, which
keeps each frame's radial profile. Beside them the limits: the exhaustive search of exact pixels in
the true volume, and the merge with true poses. Writes bench/results/main_job_<machine>.json: pose
error, shell correlation with the truth at six radii, before smoothing too, half-set correlation,
times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import h5py
import numpy as np

import spicore as sp

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SPICORE_SHARED_DATA", ROOT.parent / "shared" / "data"))
RADII = (5, 10, 18, 26, 34, 40)

# 1BXR is D2 up to small differences: the rotations by 180 degrees under which its intensity
# correlates with itself by 0.94 to 0.97 on radii 3 to 30, about these axes of the data set.
D2_AXES = np.array([[0.995, 0.025, -0.092], [0.065, 0.525, 0.849], [0.068, -0.851, 0.520]])


def pseudo_d2() -> np.ndarray:
    axes = D2_AXES / np.linalg.norm(D2_AXES, axis=1, keepdims=True)
    return np.vstack([[1, 0, 0, 0], np.column_stack([np.zeros(3), axes])])


def centred(volume: np.ndarray, size: int) -> np.ndarray:
    """Cut or pad a cube to another odd edge about its origin."""
    result = np.zeros((size,) * 3, np.float32)
    n = min(size, len(volume)) // 2
    a = slice(size // 2 - n, size // 2 + n + 1)
    b = slice(len(volume) // 2 - n, len(volume) // 2 + n + 1)
    result[a, a, a] = volume[b, b, b]
    return result


def shuffled(frames: sp.Frames, detector: sp.Detector, seed: int) -> sp.Frames:
    """Move every photon to a random pixel of its ring, two pixels wide."""
    rng = np.random.default_rng(seed)
    ring = np.rint(np.linalg.norm(detector.q_voxels, axis=1) / 2).astype(int) * 4 + detector.mask
    order = np.argsort(ring, kind="stable")
    starts = np.searchsorted(ring[order], np.arange(ring.max() + 2))
    block = frames.read(0, frames.n_frames)
    of = ring[block.pixel]
    width = starts[of + 1] - starts[of]
    pixel = order[starts[of] + rng.integers(0, width)]
    return sp.Frames.from_arrays(block.offset, pixel, block.count, frames.n_pixels)


def at(radius: np.ndarray, curve: np.ndarray, r: float) -> float | None:
    """Value of a curve; None where it has none (too few voxels seen)."""
    value = float(np.interp(r, radius, curve))
    return round(value, 4) if np.isfinite(value) else None


def reconstruct(name: str, threads: int, control: bool, **options: object) -> dict:
    folder = DATA / name
    detector = sp.Detector.load(folder / "detector.h5")
    frames = sp.Frames.open(folder / "photons.h5").load()
    if control:
        frames = shuffled(frames, detector, int(options["seed"]))
    start = time.perf_counter()
    result = sp.emc.reconstruct(frames, detector, sp.emc.Config(**options), threads=threads)
    seconds = time.perf_counter() - start
    with h5py.File(folder / "true_intensity.h5") as file:
        truth = centred(file["intens"][()], len(result.intensity))
    turn, aligned, _ = sp.metrics.align_volumes(result.intensity, truth)
    radius, cc = sp.metrics.shell_cc(aligned, truth)
    _, rough = sp.metrics.shell_cc(sp.metrics.rotate_volume(result.merged, turn), truth)
    half = result.half_sets
    row = {
        "iterations": len(result.history["iteration"]),
        "seconds": seconds,
        "seconds_grid_and_refine": float(result.history["seconds"].sum()),
        "mutual_information": float(result.history["mutual_information"][-1]),
        "log_likelihood": float(result.history["log_likelihood"][-1]),
        "shell_cc": {r: at(radius, cc, r) for r in RADII},
        "shell_cc_before_smoothing": {r: at(radius, rough, r) for r in RADII},
        "half_set_cc": half and {r: at(half["radius"], half["shell_cc"], r) for r in RADII},
    }
    if name == "sim_1bxr":
        with h5py.File(folder / "photons_truth.h5") as file:
            poses, fluence = file["quaternions_wxyz"][()], file["fluence"][()]
        errors, _ = sp.metrics.pose_error(result.orientation, poses, group=pseudo_d2())
        row["median_pose_error_deg"] = float(np.median(errors))
        row["within_15_deg"] = float((errors < 15).mean())
        row["fluence_correlation"] = float(np.corrcoef(fluence, result.fluence)[0, 1])
    return row


def merged_with_true_poses() -> tuple[np.ndarray, np.ndarray]:
    """Merge sim_1bxr with its recorded poses and fluences; return intensity and exposure."""
    folder = DATA / "sim_1bxr"
    detector = sp.Detector.load(folder / "detector.h5")
    frames = sp.Frames.open(folder / "photons.h5")
    with h5py.File(folder / "photons_truth.h5") as file:
        poses, fluence = file["quaternions_wxyz"][()], file["fluence"][()]
    used = detector.mask < 2
    size = detector.size
    sums = np.zeros((2, size, size, size))
    for start, block in frames.blocks(250):
        span = slice(start, start + len(block))
        sums += sp.ewald_merge(
            block.to_dense(np.float32)[:, used],
            poses[span],
            detector.q_voxels[used].astype(np.float32),
            size,
            slice_weights=fluence[span],
            pixel_weights=detector.correction[used],
            friedel=True,
        )
    merged = np.divide(sums[0], sums[1], out=np.zeros_like(sums[0]), where=sums[1] > 0)
    return merged.astype(np.float32), sums[1].astype(np.float32)


def true_poses() -> dict:
    """What merging sim_1bxr with its recorded poses and fluences reaches: the limit."""
    merged, weight = merged_with_true_poses()
    with h5py.File(DATA / "sim_1bxr" / "true_intensity.h5") as file:
        truth = centred(file["intens"][()], len(merged))
    radius, cc = sp.metrics.shell_cc(merged, truth, weight=weight)
    # autocorrelation of the truth: 57 of 131
    smoothed = sp.emc.smooth(merged, weight, 57 / 2 / 131)
    _, smooth_cc = sp.metrics.shell_cc(smoothed, truth)
    return {
        "shell_cc": {r: at(radius, cc, r) for r in RADII},
        "shell_cc_smoothed": {r: at(radius, smooth_cc, r) for r in RADII},
    }


def exhaustive_search(num_div: int, threads: int) -> dict:
    """Pose error of exact pixels against all rotations of a grid in the true volume: the floor."""
    folder = DATA / "sim_1bxr"
    detector = sp.Detector.load(folder / "detector.h5")
    frames = sp.Frames.open(folder / "photons.h5").load()
    with h5py.File(folder / "true_intensity.h5") as file:
        truth = centred(file["intens"][()], detector.size)
    with h5py.File(folder / "photons_truth.h5") as file:
        poses = file["quaternions_wxyz"][()]
    config = sp.emc.Config(
        engine="pixel", num_div=num_div, multiresolution=False, beta=1.0, iterations=1, smooth=False
    )
    start_model = np.maximum(truth, truth.max() * 1e-9)
    result = sp.emc.reconstruct(
        frames,
        detector,
        dataclasses.replace(config, refine=0, half_sets=False),
        start_model=start_model,
        threads=threads,
    )
    errors, _ = sp.metrics.pose_error(result.orientation, poses, group=pseudo_d2())
    return {"num_div": num_div, "median_pose_error_deg": float(np.median(errors))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", default=platform.node() or "unknown")
    parser.add_argument("--jobs", nargs="*", help="do these alone, and keep other numbers")
    args = parser.parse_args()
    path = ROOT / "bench" / "results" / f"main_job_{args.machine}.json"
    jobs = {
        "sim_4bed": ("sim_4bed", False, {}),
        # as much as a run of Dragonfly does: one start, no half sets
        "sim_4bed_one_start": ("sim_4bed", False, {"seeds": 1, "half_sets": False}),
        "sim_1bxr": ("sim_1bxr", False, {}),
        "sim_1bxr_shuffled": ("sim_1bxr", True, {}),
        "sim_1bxr_polar_num_div_6": ("sim_1bxr", False, {"num_div": 6}),
        "sim_1bxr_pixel_num_div_6": ("sim_1bxr", False, {"num_div": 6, "engine": "pixel"}),
    }
    table: dict = {"machine": args.machine, "threads": args.threads, "seed": args.seed}
    if args.jobs:
        table |= json.loads(path.read_text())
    for label, (name, control, options) in jobs.items():
        if args.jobs and label not in args.jobs:
            continue
        table[label] = reconstruct(name, args.threads, control, seed=args.seed, **options)
        print(label, json.dumps(table[label]), flush=True)
    if not args.jobs:
        table["sim_1bxr_true_poses"] = true_poses()
        # 73.5 / 11 degrees: the spacing of the polar engine's default grid
        table["sim_1bxr_exhaustive_search"] = exhaustive_search(11, args.threads)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table, indent=2) + "\n")
    print(f"written {path}")


if __name__ == "__main__":
    main()

"""Random starts of the polar engine on both simulated sets: how many end in the good optimum.

    python bench/random_starts.py [--starts 20] [--threads 2]

One seed per run, without refinement and half sets. A run is good where its correlation with the
true intensity, shell mean and trend removed, is within 0.05 of that of a run started from the
truth, averaged over radii 10, 18, 26 and 34. As negative control the same is asked of a run
whose photons were shuffled inside rings. Writes bench/results/random_starts_<machine>.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import h5py
import numpy as np
from main_job import DATA, RADII, ROOT, at, centred, pseudo_d2, shuffled

import spicore as sp

JUDGED = RADII[1:]
MARGIN = 0.05


def run(name: str, seed: int, threads: int, *, truth: bool = False, control: bool = False) -> dict:
    """Reconstruct once; `truth` starts from the true intensity."""
    folder = DATA / name
    detector = sp.Detector.load(folder / "detector.h5")
    frames = sp.Frames.open(folder / "photons.h5").load()
    if control:
        frames = shuffled(frames, detector, seed)
    with h5py.File(folder / "true_intensity.h5") as file:
        true = centred(file["intens"][()], detector.size)
    start_model = np.maximum(true, true.max() * 1e-9) if truth else None
    # A start from the truth has one stage, at the beta where the last stage of others begins.
    config = sp.emc.Config(
        seed=seed, seeds=1, refine=0, half_sets=False, beta=0.13 if truth else "auto"
    )
    start = time.perf_counter()
    result = sp.emc.reconstruct(frames, detector, config, start_model=start_model, threads=threads)
    seconds = time.perf_counter() - start
    _, aligned, _ = sp.metrics.align_volumes(result.intensity, true)
    radius, cc = sp.metrics.shell_cc(aligned, true)
    row = {
        "seed": seed,
        "seconds": seconds,
        "iterations": len(result.history["iteration"]),
        "log_likelihood": float(result.log_likelihood.mean()),
        "shell_cc": {r: at(radius, cc, r) for r in RADII},
        "mean_cc": float(np.mean([np.interp(r, radius, cc) for r in JUDGED])),
    }
    if name == "sim_1bxr":
        with h5py.File(folder / "photons_truth.h5") as file:
            poses = file["quaternions_wxyz"][()]
        errors, _ = sp.metrics.pose_error(result.orientation, poses, group=pseudo_d2())
        row["median_pose_error_deg"] = float(np.median(errors))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machine", default=platform.node() or "unknown")
    args = parser.parse_args()
    table: dict = {"machine": args.machine, "threads": args.threads, "margin": MARGIN}
    for name in ("sim_1bxr", "sim_4bed"):
        truth = run(name, 0, args.threads, truth=True)
        control = run(name, 0, args.threads, control=True)
        rows = []
        for seed in range(args.starts):
            rows.append(run(name, seed, args.threads))
            print(name, json.dumps(rows[-1]), flush=True)
        good = [row["mean_cc"] > truth["mean_cc"] - MARGIN for row in rows]
        table[name] = {
            "good": sum(good),
            "starts": len(rows),
            "from_truth": truth,
            "control_shuffled": control,
            "control_good": control["mean_cc"] > truth["mean_cc"] - MARGIN,
            "runs": rows,
        }
        print(name, sum(good), "of", len(rows), "truth", truth, "control", control["mean_cc"])
        path = ROOT / "bench" / "results" / f"random_starts_{args.machine}.json"
        path.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Time and memory of the polar engine against frames, orientations, photons and pixels; and
200,000 frames streamed from disk, from a random start to the end.

    python bench/scaling.py [--threads 2] [--frames 200000] [--work /tmp/spicore_scaling]

Frames of a simulated particle on a square detector. Every point of a curve is a process of its
own that starts from the true intensity at beta = 1 and does three iterations; the first is left
out. The long run is `emc.reconstruct` with a grid of 2.6 degrees, half sets and refinement off;
its projection to 5 million frames multiplies what was spent per frame on all of them and adds
the coarse stages, which use a part of the frames whatever their number. Writes
bench/results/scaling_<machine>.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import spicore as sp
from spicore import orientations

ROOT = Path(__file__).resolve().parents[1]
N_PIXELS, PHOTONS = 128, 1000.0
GRID = 28  # 73.5 / 28 = 2.6 degrees
X_RAI_HOURS = 8.6  # 5 million frames of 128 x 128 on one A100: Shenoy et al. 2023, Table 1
PROJECTED = 5_000_000
BATCH = 1000  # frames while the model is coarse; 4,000 on the fine grid before all
BLOCK_MB = 1024  # the posterior of a frame on this grid is 40,000 terms at the start


def detector(n_pixels: int) -> sp.Detector:
    """Square detector; pixels grow as their number falls, so that q stays."""
    return sp.Detector.square(
        n_pixels=n_pixels, pixel_size=0.1 / n_pixels, distance=0.2, energy_ev=4600, stop_radius=4
    )


def intensity(det: sp.Detector) -> np.ndarray:
    """Particle whose speckles are seven pixels of a 128 x 128 detector wide."""
    return sp.simulate.intensity(sp.simulate.particle(0, diameter=det.size / 7), det.size)


def make(path: Path, n_pixels: int, photons: float, n_frames: int, threads: int) -> None:
    """Simulate frames into an EMC file, and their truth beside it."""
    if path.exists():
        return
    det = detector(n_pixels)
    volume = intensity(det)
    frames, truth = sp.simulate.frames(
        volume, det, n_frames, photons, fluence_spread=0.1, threads=threads
    )
    np.savez(path.with_suffix(".npz"), quats=truth["quats"], fluence=truth["fluence"])
    frames.save_emc(path)


def forget_peak_memory() -> None:
    """Let the peak begin anew; that of getrusage would be the parent's, whose memory it copies."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Return the most memory that this process held since it started or forgot."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)[1]) / 1024


def child(path: str, n_pixels: int, n_frames: int, num_div: int, threads: int) -> None:
    """Three iterations from the truth; print seconds of the later two and peak memory."""
    det = detector(n_pixels)
    frames = sp.Frames.open(path)
    if n_frames < frames.n_frames:
        frames = frames.select(np.arange(n_frames))
    config = sp.emc.Config(
        iterations=3, multiresolution=False, num_div=num_div, beta=1.0, tolerance=0.0,
        half_sets=False, refine=0,
    )  # fmt: skip
    done: list[sp.emc.Iteration] = []
    sp.emc.reconstruct(
        frames, det, config, start_model=intensity(det), threads=threads, on_iteration=done.append
    )
    row = {
        "seconds": float(np.mean([d.seconds for d in done[1:]])),
        "stages_s": done[-1].stages,
        "orientations": done[-1].n_orientations,
        "peak_memory_mb": peak_memory_mb(),
    }
    print("RESULT " + json.dumps(row))


def point(path: Path, n_pixels: int, n_frames: int, num_div: int, threads: int) -> dict:
    words = [str(path), n_pixels, n_frames, num_div, threads]
    command = [sys.executable, __file__, "--child", *map(str, words)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = json.loads(re.search(r"^RESULT (.*)$", out, re.M)[1])
    row |= {"frames": n_frames, "pixels": n_pixels**2, "num_div": num_div}
    print(json.dumps(row), flush=True)
    return row


def curves(work: Path, n_most: int, threads: int) -> dict:
    """Measure the four curves."""
    many = work / f"frames_{N_PIXELS}_{PHOTONS:g}_{n_most}.emc"
    table: dict = {"frames": [], "orientations": [], "photons": [], "pixels": []}
    for n in (1000, 10_000, 50_000, 200_000):
        if n <= n_most:
            table["frames"].append(point(many, N_PIXELS, n, 10, threads))
    for num_div in (6, 10, 14, 20, 28):
        table["orientations"].append(point(many, N_PIXELS, 4000, num_div, threads))
    for photons in (250.0, 1000.0, 4000.0):
        path = work / f"photons_{photons:g}.emc"
        make(path, N_PIXELS, photons, 4000, threads)
        row = point(path, N_PIXELS, 4000, 10, threads)
        table["photons"].append(row | {"photons": photons})
    for n_pixels in (64, 128, 256):
        path = work / f"pixels_{n_pixels}.emc"
        make(path, n_pixels, PHOTONS, 2000, threads)
        table["pixels"].append(point(path, n_pixels, 2000, 10, threads))
    return table


def long_run(path: Path, threads: int) -> dict:
    """From a random start to the end, and what 5 million frames would take."""
    det, truth = detector(N_PIXELS), np.load(path.with_suffix(".npz"))
    frames = sp.Frames.open(path)
    config = sp.emc.Config(
        num_div=GRID,
        batch=BATCH,
        half_sets=False,
        refine=0,
        tolerance=0.02,
        block_memory_mb=BLOCK_MB,
    )
    done: list[sp.emc.Iteration] = []

    def on_iteration(i: sp.emc.Iteration) -> None:
        done.append(i)
        print(f"{len(done)} beta {i.beta:.3f} change {i.change:.4f} {i.seconds:.1f} s", flush=True)

    forget_peak_memory()
    start = time.perf_counter()
    result = sp.emc.reconstruct(frames, det, config, threads=threads, on_iteration=on_iteration)
    seconds = time.perf_counter() - start
    n_all = int(result.schedule["held"]) or 1  # iterations of the last stage
    on_all = [i.seconds for i in done[-n_all:]]
    per_frame = sum(on_all) / frames.n_frames
    projected = (seconds - sum(on_all)) + per_frame * PROJECTED
    errors, _ = sp.metrics.pose_error(result.orientation, truth["quats"])
    shuffled = np.random.default_rng(0).permutation(truth["quats"])
    control, _ = sp.metrics.pose_error(result.orientation, shuffled)
    aligned = sp.metrics.align_volumes(result.intensity, intensity(det))[1]
    radius, cc = sp.metrics.shell_cc(aligned, intensity(det))
    return {
        "frames": frames.n_frames,
        "orientations": done[-1].n_orientations,
        "spacing_deg": orientations.grid_spacing(GRID),
        "file_gb": path.stat().st_size / 1e9,
        "seconds": seconds,
        "iterations": len(done),
        "iterations_on_all_frames": n_all,
        "seconds_per_iteration_on_all_frames": on_all,
        "stages_s": done[-1].stages,
        "peak_memory_mb": peak_memory_mb(),
        "projected_hours_5_million": projected / 3600,
        "x_rai_a100_hours": X_RAI_HOURS,
        "median_pose_error_deg": float(np.median(errors)),
        "median_pose_error_of_shuffled_truth_deg": float(np.median(control)),
        "shell_cc": {r: float(np.interp(r, radius, cc)) for r in (10, 20, 30, 40, 50, 60)},
        "history": {k: v.tolist() for k, v in result.history.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--work", type=Path, default=Path("/tmp/spicore_scaling"))
    parser.add_argument("--machine", default=platform.node() or "unknown")
    parser.add_argument("--only", choices=("make", "curves", "long"))
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], *map(int, args.child[1:]))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    many = args.work / f"frames_{N_PIXELS}_{PHOTONS:g}_{args.frames}.emc"
    make(many, N_PIXELS, PHOTONS, args.frames, args.threads)
    if args.only == "make":
        return
    path = ROOT / "bench" / "results" / f"scaling_{args.machine}.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    table |= {"machine": args.machine, "threads": args.threads}
    if args.only != "long":
        table["curves"] = curves(args.work, args.frames, args.threads)
    if args.only != "curves":
        table["long"] = long_run(many, args.threads)
        print(json.dumps({k: v for k, v in table["long"].items() if k != "history"}))
    path.write_text(json.dumps(table, indent=2) + "\n")
    print(f"written {path}")


if __name__ == "__main__":
    main()

"""2D classification of a mixture of three particles, and Dragonfly's 2D mode on the same frames.

    python bench/bench_classify2d.py --dragonfly /path/to/venv/bin/dragonfly.emc

2,000 frames of 64 x 64 pixels with 2,000 photons on average: 1BXR, 1I3Q and 6VYB from
../shared/data/structures in random 3D orientations, equally bright, with a random fluence.
Nothing but the photons tells them apart. The purity of a classification is the share of frames
that have the commonest particle of their class. Controls: labels permuted, and photons shuffled
inside rings, which leaves each frame its radial profile. Also fewer photons, and bootstrap runs
as in Zhuang et al., IUCrJ 9, 204 (2022). Dragonfly gets as many classes and angles, a fluence
per frame and its automatic beta, raised by sqrt(2) as in its documentation but every second
iteration, so that a run ends. Both are whole processes on the same threads; times per
iteration are medians. Writes bench/results/classify2d_<machine>.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

import spicore as sp
from spicore import emc, simulate

sys.path.insert(0, str(Path(__file__).resolve().parent))
from main_job import shuffled

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SPICORE_SHARED_DATA", ROOT.parent / "shared" / "data")) / "structures"
PARTICLES = ("1BXR", "1I3Q", "6VYB")
ELECTRONS = {"H": 1, "C": 6, "N": 7, "O": 8, "MG": 12, "P": 15, "S": 16, "K": 19, "ZN": 30}
N_FRAMES, N_CLASSES, PIXELS = 2000, 40, 64
ALLOW_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def density(name: str, voxel: float) -> np.ndarray:
    """Electrons of a PDB file on a grid of `voxel` Angstrom, water left out."""
    rows = []
    with gzip.open(DATA / f"{name}.pdb.gz", "rt") as file:
        for line in file:
            if line.startswith(("ATOM", "HETATM")) and line[17:20] != "HOH":
                place = [float(line[a : a + 8]) for a in (30, 38, 46)]
                rows.append([*place, ELECTRONS.get(line[76:78].strip(), 6)])
    atoms = np.array(rows)
    atoms[:, :3] -= np.average(atoms[:, :3], axis=0, weights=atoms[:, 3])
    half = int(np.ceil(np.linalg.norm(atoms[:, :3], axis=1).max() / voxel)) + 2
    result = np.zeros((2 * half + 1,) * 3)
    place = atoms[:, :3] / voxel + half
    first = np.floor(place).astype(int)
    for corner in np.ndindex(2, 2, 2):
        share = np.where(corner, place - first, 1 - (place - first)).prod(axis=1)
        np.add.at(result, tuple((first + corner).T), share * atoms[:, 3])
    return result.astype(np.float32)


def mixture(photons: float, seed: int) -> tuple[sp.Frames, sp.Detector, np.ndarray]:
    """Frames of the three particles in random order, and their labels."""
    detector = sp.Detector.square(
        PIXELS, pixel_size=0.1 / PIXELS, distance=0.12, energy_ev=1500, stop_radius=2
    )
    voxel = 1.0 / (detector.size * detector.voxel_size)
    labels = np.random.default_rng(seed).integers(0, len(PARTICLES), N_FRAMES)
    blocks = []
    for k, name in enumerate(PARTICLES):
        volume = simulate.intensity(density(name, voxel), detector.size)
        n = int((labels == k).sum())
        frames, _ = simulate.frames(volume, detector, n, photons, 10 * seed + k, fluence_spread=0.2)
        blocks.append(frames.read(0, n))
    lengths = np.concatenate([np.diff(b.offset) for b in blocks])
    together = sp.Frames.from_arrays(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([b.pixel for b in blocks]),
        np.concatenate([b.count for b in blocks]),
        detector.n_pixels,
    )
    place = np.empty(N_FRAMES, np.int64)
    place[np.argsort(labels, kind="stable")] = np.arange(N_FRAMES)
    return together.select(place).load(), detector, labels


def purity(class_of: np.ndarray, labels: np.ndarray) -> float:
    """Share of the frames used that have the commonest label of their class."""
    used = class_of >= 0
    counts = np.zeros((class_of.max() + 1, labels.max() + 1))
    np.add.at(counts, (class_of[used], labels[used]), 1)
    return float(counts.max(axis=1).sum() / used.sum())


def classify(
    frames: sp.Frames, detector: sp.Detector, labels: np.ndarray, threads: int, **options: object
) -> dict:
    """Classify, and say how well and how fast."""
    done: list[emc.Iteration] = []
    config = emc.ClassifyConfig(**{"n_classes": N_CLASSES, **options})
    began = time.perf_counter()
    found = emc.classify2d(frames, detector, config, threads=threads, on_iteration=done.append)
    seconds = time.perf_counter() - began
    rng = np.random.default_rng(0)
    last = found.history["change"][np.flatnonzero(np.diff(found.history["run"], append=-1))]
    return {
        "purity": [purity(c, labels) for c in found.class_of],
        "purity_of_permuted_labels": purity(found.class_of[0], rng.permutation(labels)),
        "classes_with_a_frame": (found.occupancy >= 1).sum(axis=1).tolist(),
        "angles": found.polar.shape[-1],
        "iterations": len(done),
        "converged": bool((last < config.tolerance).all()),
        "seconds": seconds,
        "iteration_s": float(np.median([d.seconds for d in done])),
        "first_iteration_s": done[0].seconds,
    }


def write_dragonfly(folder: Path, frames: sp.Frames, detector: sp.Detector, angles: int) -> None:
    """Write the same frames, geometry and options as Dragonfly reads them."""
    (folder / "data").mkdir()
    frames.save_h5(folder / "photons.h5")
    with h5py.File(folder / "detector.h5", "w") as file:
        file["qx"], file["qy"], file["qz"] = detector.q_voxels.T
        file["corr"], file["mask"] = detector.correction, detector.mask.astype("u1")
        file["detd"], file["ewald_rad"] = detector.distance_pixels, detector.ewald_radius
    (folder / "config.ini").write_text(
        "[parameters]\ndetd = 120\nlambda = 8.27\ndetsize = 64\npixsize = 1.5625\n"
        "stoprad = 2\npolarization = x\n\n[emc]\n"
        "in_photons_file = photons.h5\nin_detector_file = detector.h5\n"
        f"recon_type = 2d\nnum_rot = {angles}\nnum_modes = {N_CLASSES}\nneed_scaling = 1\n"
        "beta_schedule = 1.41421 2\noutput_folder = data/\nlog_file = EMC.log\n"
    )


def dragonfly(
    program: str,
    data: tuple[sp.Frames, sp.Detector, np.ndarray],
    threads: int,
    iterations: int,
    angles: int,
) -> dict:
    """Run Dragonfly's 2D mode, and say how well and how fast."""
    frames, detector, labels = data
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dragonfly(folder, frames, detector, angles)
        command = [program, "-c", "config.ini", "-t", str(threads), str(iterations)]
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **ALLOW_ROOT}, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            return {"failed": done.returncode, "output": (done.stdout + done.stderr)[-1500:]}
        rows = [line.split() for line in (folder / "EMC.log").read_text().splitlines()]
        rows = [row for row in rows if row and row[0].isdigit()]
        curve = []
        for row in rows:
            with h5py.File(folder / "data" / f"output_{int(row[0]):03d}.h5") as file:
                best = file["orientations"][()]
            mode = np.where(best < 0, -1, best % N_CLASSES)
            curve.append(purity(mode, labels) if (mode >= 0).any() else None)
    each = [float(row[1]) for row in rows]
    return {
        "purity": curve,
        "iterations": len(rows),
        "seconds": seconds,
        "iteration_s": float(np.median(each)),
        "iterations_s": each,
        "log": [" ".join(row) for row in (rows[0], rows[-1])],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dragonfly", help="its emc program; left out: it is not run")
    parser.add_argument("--iterations", type=int, default=30, help="of Dragonfly")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--machine", default=platform.node() or "unknown")
    args = parser.parse_args()
    table: dict = {"machine": args.machine, "threads": args.threads, "load": os.getloadavg()[0]}
    table |= {"frames": N_FRAMES, "classes": N_CLASSES, "particles": PARTICLES}
    data = mixture(2000.0, 0)
    runs = {f"seed_{s}": (data, {"seed": s}) for s in range(args.seeds)}
    hidden = (shuffled(data[0], data[1], 0), *data[1:])
    runs["shuffled_in_rings"] = (hidden, {})
    for photons in (600.0, 300.0):
        runs[f"photons_{photons:g}"] = (mixture(photons, 0), {})
    runs["bootstrap_5_x_200"] = (data, {"n_classes": 200, "bootstrap": 5})
    for name, (job, options) in runs.items():
        table[name] = classify(*job, args.threads, **options)
        print(name, json.dumps(table[name]), flush=True)
    if args.dragonfly:
        angles = table["seed_0"]["angles"]
        peer = dragonfly(args.dragonfly, data, args.threads, args.iterations, angles)
        table["dragonfly"] = peer
        print("dragonfly", json.dumps(peer), flush=True)
        if "failed" not in peer:
            ours = table["seed_0"]
            names = ("seconds", "iteration_s")
            table["ratio"] = {name: peer[name] / ours[name] for name in names}
            print("ratio", json.dumps(table["ratio"]))
    path = ROOT / "bench" / "results" / f"classify2d_{args.machine}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table, indent=2) + "\n")
    print(f"written {path}")


if __name__ == "__main__":
    main()

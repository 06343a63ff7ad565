"""EMC on the same data by Dragonfly and by spicore, in one run, on the same threads.

    python bench/peers/dragonfly.py --dragonfly /path/to/venv/bin/dragonfly.emc

needs ``pip install dragonfly-spi`` (with mpi4py, and OpenMPI, GSL and HDF5 from the system)
in an environment of its own, and ``../shared/data/sim_4bed``. Both programs start as whole
processes on 2,000 frames of 150 x 150 pixels with `num_div = 6` (10,860 rotations) and fixed
fluence, from a random model at Dragonfly's starting beta ("broad") and from the true
intensity at beta = 1 ("sharp"). spicore runs its pixel engine on the same rotations, and its
polar engine at the same spacing (12.3 degrees) and at that of `num_div = 14` (137,340
rotations, 5.3 degrees), for which Dragonfly's times are scaled by the number of rotations.
Times per iteration are the programs' own; the first iteration of each is left out, as it
reads files and touches memory for the first time. "kernel" is the E-step alone with the true
model: all views, and those that the low orders leave.
Writes bench/results/dragonfly_<machine>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SPICORE_SHARED_DATA", ROOT.parent / "shared" / "data")) / "sim_4bed"
N_FRAMES, N_ROTATIONS = 2000, 10860
CASES = {"broad": "beta_schedule = 1.0 100", "sharp": "beta = 1.0"}
ENGINES = {"pixel": ("pixel", 6), "polar": ("polar", 6), "polar_fine": ("polar", 14)}
FINE_ROTATIONS = 137340


def embedded(volume: np.ndarray, size: int) -> np.ndarray:
    """Put a cube into the middle of a larger one; nothing is exactly 0 (log 0)."""
    floor = volume.max() * 1e-9
    result = np.full((size,) * 3, floor)
    first = size // 2 - len(volume) // 2
    inner = slice(first, first + len(volume))
    result[inner, inner, inner] = np.maximum(volume, floor)
    return result


def run(command: list[str], folder: Path, env: dict[str, str]) -> tuple[str, float]:
    """Run a program; return its output and its peak memory in MB."""
    with (folder / "out.txt").open("w+") as out:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **env}, stdout=out, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        text = out.read()
    if status:
        raise SystemExit(f"{command[0]} failed:\n{text[-2000:]}")
    return text, usage.ru_maxrss / 1024


def dragonfly(program: str, case: str, threads: int, iterations: int, folder: Path) -> dict:
    """Time Dragonfly; its stages are rescale and prob (likelihood), and update."""
    (folder / "data").mkdir()
    start = ""
    if case == "sharp":
        start = "start_model_file = data/start.h5\n"
        with h5py.File(DATA / "true_intensity.h5") as file:
            truth = file["intens"][()]
        with h5py.File(DATA / "detector.h5") as file:
            q = np.sqrt(sum(file[f"q{axis}"][()] ** 2 for axis in "xyz")).max()
        size = 2 * int(np.ceil(q)) + 3  # it takes all pixels, spicore those with mask < 2
        with h5py.File(folder / "data/start.h5", "w") as file:
            file["intens"] = embedded(truth, size)[None]
    (folder / "config.ini").write_text(
        "[parameters]\ndetd = 300\nlambda = 6.2\ndetsize = 150\npixsize = 0.512\n"
        "stoprad = 10\npolarization = x\n\n[emc]\n"
        f"in_photons_file = {DATA}/photons.h5\nin_detector_file = {DATA}/detector.h5\n"
        "num_div = 6\noutput_folder = data/\nlog_file = EMC.log\nneed_scaling = 0\n"
        f"{start}{CASES[case]}\n"
    )
    allow_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [program, "-c", "config.ini", "-t", str(threads), str(iterations)]
    text, memory = run(command, folder, allow_root)
    stages = {
        name: np.array([float(x) for x in re.findall(rf"^\s*{name}\s+([\d.]+)", text, re.M)])[1:]
        for name in ("rescale", "prob", "update")
    }
    log = [line.split() for line in (folder / "EMC.log").read_text().splitlines()]
    total = [float(row[1]) for row in log if row and row[0].isdigit()][1:]
    return {
        "likelihood_s": float(np.median(stages["rescale"] + stages["prob"])),
        "update_s": float(np.median(stages["update"])),
        "iteration_s": float(np.median(total)),
        "peak_memory_mb": memory,
    }


def spicore_child(case: str, engine: str, threads: int, iterations: int) -> None:
    """Body of the child process: a reconstruction with the options of the peer."""
    import spicore as sp

    start = None
    detector = sp.Detector.load(DATA / "detector.h5")
    if case == "sharp":
        with h5py.File(DATA / "true_intensity.h5") as file:
            start = embedded(file["intens"][()].astype(np.float32), detector.size)
    name, num_div = ENGINES[engine]
    config = sp.emc.Config(
        engine=name,
        iterations=iterations,
        multiresolution=False,
        num_div=num_div,
        fluence=False,
        beta=1.0 if case == "sharp" else 0.040641,
        beta_period=1000,
        half_sets=False,
        refine=0,
        tolerance=0.0,
    )
    done: list[sp.emc.Iteration] = []
    sp.emc.reconstruct(
        sp.Frames.open(DATA / "photons.h5"),
        detector,
        config,
        start_model=start,
        threads=threads,
        on_iteration=done.append,
    )
    del start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print("RESULT " + json.dumps([{"seconds": d.seconds, **d.stages} for d in done]))
    print(f"peak {usage.ru_maxrss / 1024:.0f} MB", file=sys.stderr)


def kernel(threads: int) -> dict:
    """Frame-orientation evaluations per second of the polar E-step with the true model."""
    from spicore import Detector, Frames, orientations
    from spicore.emc.model import Model
    from spicore.emc.polar.correlate import correlate, screen
    from spicore.emc.polar.engine import MARGIN, SCREEN_ORDERS, PolarEngine, PolarGrid
    from spicore.emc.polar.start import polar_layout
    from spicore.emc.polar.transform import polar_frames
    from spicore.emc.schedule import Stage
    from spicore.emc.state import Settings

    detector, frames = Detector.load(DATA / "detector.h5"), Frames.open(DATA / "photons.h5")
    with h5py.File(DATA / "true_intensity.h5") as file:
        volume = embedded(file["intens"][()], detector.size).astype(np.float32)
    rows = {}
    for width in (1.0, 2.0):
        stage = Stage(0, 0.0, 0.0, 750, 128, width)  # spacing of num_div = 14
        layout, orders = polar_layout(detector, stage)
        settings = Settings(True, False, 0.1, 1.0, 1 << 30, threads, np.eye(4)[:1])
        engine = PolarEngine(frames, layout, orders, settings)
        views, weights = orientations.view_pairs(stage.n_pairs)
        grid = PolarGrid(views, weights, stage.n_angles)
        photons = layout.photons(frames.read(0, N_FRAMES), threads)
        model = Model(volume[None].copy(), np.zeros((0, 1), np.float32))
        model.volumes *= np.float32(len(photons.row) / N_FRAMES / engine.mean_total(model, grid))
        start = time.perf_counter()
        prepared = engine.views(model, grid)
        expand_s = time.perf_counter() - start
        transformed = polar_frames(photons, orders, threads=threads)
        one = np.ones(N_FRAMES, np.float32)
        arguments = transformed, prepared, one, one

        def every() -> None:
            correlate(*arguments, threads=threads)  # noqa: B023

        def two_level() -> None:
            scores = screen(*arguments, SCREEN_ORDERS, 32, threads=threads)  # noqa: B023
            keep = scores > scores.max(axis=1, keepdims=True) - np.float32(MARGIN)
            correlate(*arguments, keep=keep.view(np.uint8), threads=threads)  # noqa: B023

        evaluations = N_FRAMES * prepared.n_orientations
        seconds = {}
        for label, work in (("every_view", every), ("two_level", two_level)):
            times = []
            for _ in range(5):
                start = time.perf_counter()
                work()
                times.append(time.perf_counter() - start)
            seconds[label] = float(np.median(times))
        best = [
            correlate(*arguments, keep=k, threads=threads)[1].best
            for k in _keeps(arguments, threads)
        ]
        rows[f"ring_width_{width:g}"] = {
            "orientations": prepared.n_orientations,
            "coefficients": orders.n_coefficients,
            "expand_s": expand_s,
            "seconds": seconds,
            "evaluations_per_s": {k: evaluations / s for k, s in seconds.items()},
            "evaluations_per_s_with_expand": {
                k: evaluations / (s + expand_s) for k, s in seconds.items()
            },
            "gflops_of_products": evaluations
            / 128
            * orders.n_coefficients
            * 4
            / seconds["every_view"]
            / 1e9,
            "best_orientation_missed": float((best[0] != best[1]).mean()),
        }
    return rows


def _keeps(arguments: tuple, threads: int) -> list:
    from spicore.emc.polar.correlate import screen
    from spicore.emc.polar.engine import MARGIN, SCREEN_ORDERS

    scores = screen(*arguments, SCREEN_ORDERS, 32, threads=threads)
    keep = scores > scores.max(axis=1, keepdims=True) - np.float32(MARGIN)
    return [None, keep.view(np.uint8)]


def spicore(case: str, engine: str, threads: int, iterations: int, folder: Path) -> dict:
    """Time spicore in a process of its own."""
    command = [sys.executable, __file__, "--child", case, engine, str(threads), str(iterations)]
    text, memory = run(command, folder, {})
    rows = json.loads(re.search(r"^RESULT (.*)$", text, re.M)[1])[1:]

    def median(*names: str) -> float:
        return float(np.median([sum(row.get(name, 0.0) for name in names) for row in rows]))

    return {
        "likelihood_s": median(
            "expand", "maximize", "posterior", "transform", "screen", "correlate"
        ),
        "update_s": median("compress", "accumulate", "merge", "update"),
        "iteration_s": median("seconds"),
        "peak_memory_mb": memory,
        "stages_s": {k: median(k) for k in rows[0] if k != "seconds"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dragonfly", default="dragonfly.emc", help="its emc program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--machine", default=platform.node() or "unknown")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        spicore_child(*args.child[:2], int(args.child[2]), int(args.child[3]))
        return
    evaluations = N_FRAMES * N_ROTATIONS
    result: dict = {"machine": args.machine, "threads": args.threads, "cases": {}}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            peer = dragonfly(args.dragonfly, case, args.threads, args.iterations, Path(folder))
        row: dict = {"dragonfly": peer, "ratio": {}}
        for engine in ENGINES:
            with tempfile.TemporaryDirectory() as folder:
                ours = spicore(case, engine, args.threads, args.iterations + 3, Path(folder))
            scale = FINE_ROTATIONS / N_ROTATIONS if engine == "polar_fine" else 1.0
            scaled = {k: peer[k] * (scale if k.endswith("_s") else 1.0) for k in peer}
            row[engine], row["ratio"][engine] = ours, {k: scaled[k] / ours[k] for k in peer}
            print(f"{case}, {engine}")
            for name in peer:
                ratio = scaled[name] / ours[name]
                print(f"  {name:16s} {scaled[name]:9.2f} {ours[name]:9.3f}  {ratio:6.1f}x")
        result["cases"][case] = row
    rate = evaluations / result["cases"]["sharp"]["dragonfly"]["likelihood_s"]
    rows = result["kernel"] = {"dragonfly_evaluations_per_s": rate, **kernel(args.threads)}
    for name in ("ring_width_1", "ring_width_2"):
        rates = rows[name]["evaluations_per_s"]
        rows[name]["ratio"] = {k: v / rate for k, v in rates.items()}
        print(name, json.dumps(rows[name]))
    path = ROOT / "bench" / "results" / f"dragonfly_{args.machine}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written {path}")


if __name__ == "__main__":
    main()

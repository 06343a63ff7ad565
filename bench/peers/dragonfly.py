"""EMC on the same data by Dragonfly and by spicore, in one run, on the same threads.

    python bench/peers/dragonfly.py --dragonfly /path/to/venv/bin/dragonfly.emc

needs ``pip install dragonfly-spi`` (with mpi4py, and OpenMPI, GSL and HDF5 from the system)
in an environment of its own, and ``../shared/data/sim_4bed``. Both programs start as whole
processes on 2,000 frames of 150 x 150 pixels with `num_div = 6` (10,860 rotations) and fixed
fluence, from a random model at Dragonfly's starting beta ("broad") and from the true
intensity at beta = 1 ("sharp"). Times per iteration are the programs' own; the first
iteration of each is left out, as it reads files and touches memory for the first time.
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
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SPICORE_SHARED_DATA", ROOT.parent / "shared" / "data")) / "sim_4bed"
N_FRAMES, N_ROTATIONS = 2000, 10860
CASES = {"broad": "beta_schedule = 1.0 100", "sharp": "beta = 1.0"}


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


def spicore_child(case: str, threads: int, iterations: int) -> None:
    """Body of the child process: a reconstruction with the options of the peer."""
    import spicore as sp

    start = None
    detector = sp.Detector.load(DATA / "detector.h5")
    if case == "sharp":
        with h5py.File(DATA / "true_intensity.h5") as file:
            start = embedded(file["intens"][()].astype(np.float32), detector.size)
    config = sp.emc.Config(
        iterations=iterations,
        multiresolution=False,
        num_div=6,
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


def spicore(case: str, threads: int, iterations: int, folder: Path) -> dict:
    """Time spicore in a process of its own."""
    command = [sys.executable, __file__, "--child", case, str(threads), str(iterations)]
    text, memory = run(command, folder, {})
    rows = json.loads(re.search(r"^RESULT (.*)$", text, re.M)[1])[1:]

    def median(*names: str) -> float:
        return float(np.median([sum(row.get(name, 0.0) for name in names) for row in rows]))

    return {
        "likelihood_s": median("expand", "maximize", "posterior"),
        "update_s": median("compress", "merge", "update"),
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
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        spicore_child(args.child[0], int(args.child[1]), int(args.child[2]))
        return
    evaluations = N_FRAMES * N_ROTATIONS
    result: dict = {"machine": args.machine, "threads": args.threads, "cases": {}}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            peer = dragonfly(args.dragonfly, case, args.threads, args.iterations, Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            ours = spicore(case, args.threads, args.iterations + 3, Path(folder))
        ratio = {k: peer[k] / ours[k] for k in peer}
        result["cases"][case] = {"dragonfly": peer, "spicore": ours, "ratio": ratio}
        print(f"{case}: {evaluations / ours['likelihood_s']:.3g} frame-orientations/s")
        for name in ratio:
            print(f"  {name:16s} {peer[name]:9.2f} {ours[name]:9.3f}  {ratio[name]:6.1f}x")
    path = ROOT / "bench" / "results" / f"dragonfly_{args.machine}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written {path}")


if __name__ == "__main__":
    main()

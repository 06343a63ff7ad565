"""An EMC iteration of the polar engine on a GPU, beside the same code on the CPU.

    python bench/bench_emc_gpu.py [--frames 50000] [--distinct 5000] [--photons 1e4] [--grid 2.6]
        [--betas 0.3 1] [--cpu-frames 1000] [--threads 2 16] [--device cuda] [--machine NAME]

Frames of 128 x 128 pixels of a simulated particle, read from a file in every iteration; --distinct
of them are simulated and repeated, which costs what as many different ones do. Iterations start
from the true model, at beta = 1, where few orientations share a frame, and at a lower one, where
thousands do. Of three iterations the best of the later two counts; one more, whose clock waits for
the GPU, tells what the stages take. Ceilings are measured in the same run: a product of bf16
matrices and a copy by torch, and a copy from pinned memory of the host. Products of `screen` and
`correlate` are counted from the groups of views that the screen kept, one for each product of
bf16 parts. Writes bench/results/<machine>_emc.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scaling import PROJECTED, ROOT, detector, intensity, make

import spicore as sp
from spicore._dispatch import backend_on
from spicore.emc.model import Model
from spicore.emc.polar.engine import (
    MIRRORS,
    ON_MATRIX_UNITS,
    SCREEN_ORDERS,
    PolarEngine,
    PolarGrid,
)
from spicore.emc.polar.orders import GROUP
from spicore.emc.polar.start import polar_layout
from spicore.emc.schedule import stages
from spicore.emc.state import FrameState, Settings, Timer
from spicore.orientations import n_pairs_for, view_pairs

N_PIXELS = 128
BLOCK_BYTES = 1 << 30  # as an option; a GPU takes what it has
PARTS = {"bf16": 1, "bf16_split": 3, "float32": 6}
"""Products of bf16 matrices for one of each arithmetic on tensor cores."""


class Waiting(Timer):
    """A clock that waits for the GPU."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        import torch

        with super().__call__(stage):
            yield
            torch.cuda.synchronize()


class Problem:
    """The frames and the grid of the last stage of a run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.detector = detector(N_PIXELS)
        self.volume = intensity(self.detector)
        path = Path(args.work) / f"emc_gpu_{args.distinct}_{args.photons:g}.emc"
        make(path, N_PIXELS, args.photons, args.distinct, max(args.threads))
        self.frames = sp.Frames.open(path)
        config = sp.emc.Config(multiresolution=False)
        stage = stages(config, 0.0, self.detector.q_max)[-1]
        self.stage = dataclasses.replace(stage, n_pairs=n_pairs_for(args.grid))
        self.layout, self.orders = polar_layout(self.detector, self.stage)
        views, weights = view_pairs(self.stage.n_pairs, "C1")
        self.grid = PolarGrid(views, weights, self.stage.n_angles)

    def engine(self, n_frames: int, device: str, threads: int) -> PolarEngine:
        backend = backend_on(device)
        settings = Settings(
            fluence=True,
            dragonfly=False,
            prior=0.1,
            gaussian_sigma=1.0,
            block_bytes=backend.block_bytes(BLOCK_BYTES),
            threads=threads,
            symmetry=np.array([[1.0, 0.0, 0.0, 0.0]]),
            backend=backend,
        )
        frames = self.frames.select(np.arange(n_frames) % self.frames.n_frames)
        return PolarEngine(frames, self.layout, self.orders, settings)

    def model(self) -> Model:
        """The truth, as bright as the frames."""
        model = Model(self.volume[None].copy(), np.zeros((0, self.layout.n_bins), np.float32))
        engine = self.engine(1, "cpu", 1)
        model.scale(self.frames.photons_per_frame.mean() / engine.mean_total(model, self.grid))
        return model


def measure(problem: Problem, n_frames: int, beta: float, device: str, threads: int) -> dict:
    """Return what iterations on one device take."""
    engine = problem.engine(n_frames, device, threads)
    model = problem.model()
    betas = np.full(n_frames, beta, np.float32)
    profile = model.radial_mean()
    seconds = []
    for k in range(4):
        if k == 3 and device == "cuda":
            engine.timer = Waiting()
        engine.timer.seconds.clear()
        start = time.perf_counter()
        engine.iterate(model, problem.grid, FrameState.start(n_frames), betas, profile)
        seconds.append(time.perf_counter() - start)
    best = min(seconds[1:3])
    return {
        "device": device,
        "threads": threads,
        "frames": n_frames,
        "beta": beta,
        "seconds": best,
        "frames_per_s": n_frames / best,
        "stages_s": dict(engine.timer.seconds),
        "terms_per_frame": engine.terms_per_frame,
        "kept_share": engine.kept_share if engine.screening else 1.0,
    }


def products(problem: Problem, row: dict) -> dict:
    """Flops of the products on tensor cores, and their rates in the stages that hold them."""
    views = -(-len(problem.grid.views) // GROUP) * GROUP
    screened = problem.orders.up_to(SCREEN_ORDERS, problem.grid.n_angles).n_coefficients
    arithmetic = ON_MATRIX_UNITS
    each = {
        "screen": screened * PARTS[arithmetic.screen],
        "correlate": problem.orders.n_coefficients
        * PARTS[arithmetic.correlate]
        * row["kept_share"],
    }
    result = {}
    for stage, n in each.items():
        if stage in row["stages_s"]:
            flops = 8.0 * n * views * row["frames"]  # a complex product and sum
            result[stage] = {"flops": flops, "flops_per_s": flops / row["stages_s"][stage]}
    return result


def ceilings() -> dict:
    """Return what the GPU does at best: flops/s in bf16, bytes/s of copies."""
    import torch

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(6):
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    large = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(large)
    pinned = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    return {
        "bf16_flops_per_s": 2.0 * n**3 / best(lambda: a @ b),
        "copy_bytes_per_s": 2.0 * len(large) / best(lambda: other.copy_(large)),
        "pinned_bytes_per_s": len(large) / best(lambda: large.copy_(pinned, non_blocking=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--distinct", type=int, default=5000)
    parser.add_argument("--photons", type=float, default=1e4)
    parser.add_argument("--grid", type=float, default=2.6, help="spacing in degrees")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.3, 1.0])
    parser.add_argument("--cpu-frames", type=int, default=1000)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--work", default=tempfile.gettempdir())
    parser.add_argument("--machine", default=platform.node() or "unknown")
    args = parser.parse_args()
    problem = Problem(args)
    table: dict = {
        "machine": args.machine,
        "grid_deg": args.grid,
        "photons": args.photons,
        "views": len(problem.grid.views),
        "mirrors": MIRRORS,
        "angles": problem.grid.n_angles,
        "coefficients": problem.orders.n_coefficients,
        "rows": [],
    }
    if args.device == "cuda":
        table["ceilings"] = ceilings()
        print(table["ceilings"], flush=True)
    runs = [(args.cpu_frames, "cpu", n) for n in args.threads]
    if args.device == "cuda":
        runs.insert(0, (args.frames, "cuda", 1))
    path = ROOT / "bench" / "results" / f"{args.machine}_emc.json"
    for beta in args.betas:
        for n_frames, device, threads in runs:
            row = measure(problem, n_frames, beta, device, threads)
            row["products"] = products(problem, row) if device == "cuda" else {}
            row["seconds_per_iteration_5_million"] = PROJECTED / row["frames_per_s"]
            table["rows"].append(row)
            print(json.dumps(row), flush=True)
            path.write_text(json.dumps(table, indent=2) + "\n")  # now: time may be up


if __name__ == "__main__":
    main()

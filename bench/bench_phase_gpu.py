"""One iteration of HIO on a GPU, beside the same as a loop of CuPy or torch.

    python bench/bench_phase_gpu.py [--machine NAME] [--rounds 5] [CASE ...]

Every contender does the same starts, in turn, `--rounds` times; the table has the best time per
iteration of the batch. Traffic is by the least that the launches need: two transforms that read
and write once, P_M that reads and writes the spectrum and reads the modulus, an update that reads
x, P_M x and support and writes x. Of starts that stay on chip only x, modulus and support count.

Writes bench/results/<machine>_phase.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from peers.phase_gpu_loops import CupyLoop, TorchLoop

from spicore.phasing import Measured, Seeds, iterate

ROOT = Path(__file__).resolve().parents[1]
BETA = 0.9
SECONDS = 0.1  # about what one timing takes
CASES = {
    "64^2 x 1024": ((64, 64), 1024),
    "128^2 x 256": ((128, 128), 256),
    "128^2 x 1": ((128, 128), 1),
    "64^3 x 8": ((64, 64, 64), 8),
    "128^3": ((128, 128, 128), 1),
    "256^3": ((256, 256, 256), 1),
}


class Problem:
    """A random object in a third of each axis, and starts."""

    def __init__(self, shape: tuple[int, ...], n_starts: int, real: bool) -> None:
        rng = np.random.default_rng(0)
        self.real = real
        truth = np.zeros(shape, np.float32 if real else np.complex64)
        inside = tuple(slice(n // 3) for n in shape)
        truth[inside] = self.values(rng, truth[inside].shape)
        self.support = truth != 0
        self.amplitude = np.abs(scipy.fft.fftn(truth)).astype(np.float32)
        self.mask = np.ones(shape, bool)
        self.mask[(slice(1),) * len(shape)] = False
        self.x = self.values(rng, (n_starts, *shape))

    def values(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        x = rng.random(shape, np.float32)
        return x if self.real else x + 1j * rng.random(shape, np.float32)

    @property
    def arrays(self) -> tuple:
        return self.amplitude, self.mask, self.support, self.x, self.real


class Spicore:
    """The contender."""

    def __init__(self, library: Any, problem: Problem) -> None:
        self.measured = Measured(problem.amplitude, problem.mask, real=problem.real)
        on_gpu = {"device": "cuda"} if library.__name__ == "torch" else {}
        self.seeds = Seeds(
            library.asarray(problem.x.copy(), **on_gpu),
            library.asarray(problem.support[None], **on_gpu),
        )

    @property
    def x(self) -> Any:
        return self.seeds.x

    def run(self, n: int, beta: float) -> None:
        iterate(self.measured, self.seeds, "HIO", n, beta=beta)


def bytes_per_voxel(problem: Problem) -> tuple[float, bool]:
    """Return the model, and whether starts stay on chip."""
    from spicore import _cuda

    shape = problem.support.shape
    grid = (*(1,) * (3 - len(shape)), *shape, problem.real)
    on_chip = _cuda.phase_sizes(grid, False, len(problem.x), 0, 1)[3] == 0
    half = (shape[-1] // 2 + 1) / shape[-1] if problem.real else 1.0
    spectrum, x = 8 * half, 4 if problem.real else 8
    if on_chip:
        return 4 * half + 2 * x + 1, True
    transforms = 2 * (x + spectrum)
    return transforms + 2 * spectrum + 4 * half + 3 * x + 1, False


def libraries() -> tuple[dict[str, Any], Any]:
    """Return the peers that are installed, and what waits for the GPU."""
    import torch

    peers: dict[str, Any] = {"torch": (torch, TorchLoop)}
    try:
        import cupy

        cupy.zeros(1)
        peers = {"cupy": (cupy, CupyLoop), **peers}
    except Exception as error:  # not installed, or for another CUDA
        print(f"no CuPy: {error}")
    return peers, torch.cuda.synchronize


def elapsed(contender: Any, n: int, wait: Any) -> float:
    wait()
    start = time.perf_counter()
    contender.run(n, BETA)
    wait()
    return time.perf_counter() - start


def on_host(x: Any) -> np.ndarray:
    return x.get() if hasattr(x, "get") else x.cpu().numpy()  # CuPy's, torch's


def measure(problem: Problem, peers: dict, wait: Any, rounds: int) -> dict:
    first = next(iter(peers.values()))[0]
    contenders = {"spicore": Spicore(first, problem)}
    for name, (library, loop) in peers.items():
        contenders[name] = loop(library, *problem.arrays)
    results = {}
    for name, contender in contenders.items():
        contender.run(2, BETA)
        results[name] = on_host(contender.x)
        error = np.abs(results[name] - results["spicore"]).max() / np.abs(problem.x).max()
        if not error < 1e-3:
            sys.exit(f"{name} differs from spicore by {error:.2g}")
    n = {
        name: max(5, int(SECONDS / (elapsed(contender, 5, wait) / 5)))
        for name, contender in contenders.items()
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times[name].append(elapsed(contender, n[name], wait) / n[name])
    best = {name: min(values) for name, values in times.items()}
    model, on_chip = bytes_per_voxel(problem)
    return {
        "best_ms": {name: 1e3 * t for name, t in best.items()},
        "speedup": {name: t / best["spicore"] for name, t in best.items() if name != "spicore"},
        "on_chip": on_chip,
        "bytes_per_voxel": model,
        "bytes_per_s": model * problem.x.size / best["spicore"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--machine", default="gpu")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"unknown cases {sorted(unknown)}")
    peers, wait = libraries()
    table: dict = {"machine": args.machine}
    print("ms an iteration of the batch, and what spicore gains")
    for case in args.cases or CASES:
        for real in (True, False):
            name = f"{case} {'real' if real else 'complex'}"
            result = measure(Problem(*CASES[case], real), peers, wait, args.rounds)
            table[name] = result
            cells = [f"{peer} {t:8.3f}" for peer, t in result["best_ms"].items()]
            gains = [f"{peer} {gain:5.1f}x" for peer, gain in result["speedup"].items()]
            where = "on chip" if result["on_chip"] else "cuFFT"
            rate = f"{result['bytes_per_s'] / 1e9:7.0f} GB/s"
            print(f"{name:20}", *cells, *gains, where, rate, sep="  ", flush=True)
    path = ROOT / "bench" / "results" / f"{args.machine}_phase.json"
    path.write_text(json.dumps(table, indent=2) + "\n")
    print(f"written {path}")


if __name__ == "__main__":
    main()

"""One iteration of HIO, beside the same as a loop of NumPy around a library's transforms.

    python bench/bench_phase.py [--threads 2] [--machine NAME] [--rounds 15] [CASE ...]

Every contender does the same starts in the same precision, in turn, `--rounds` times; the table has
the best time per iteration of the batch and what spicore gains. mkl_fft and cohere-core (single
starts of three axes, on its NumPy backend, always complex) take part where they are installed;
NumPy's transforms use one thread. Objects are real and float32 where a case tells nothing else.

Traffic is by the byte model of two passes: an iteration reads and writes the spectrum twice and
x once, and reads support and modulus. Its rate is given beside that of a copy of large arrays
on as many threads, bytes read plus written in both. State that fits a cache may exceed it.

Writes bench/results/phase_<machine>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.fft
from peers.phase_loops import Cohere, ComplexLoop, Loop, RealLoop

from spicore import _core
from spicore.phasing import Measured, Seeds, iterate

ROOT = Path(__file__).resolve().parents[1]
BETA = 0.9
COPIED = 256 << 20  # bytes, larger than any cache
SECONDS = 0.15  # about what one timing takes: short enough to fall between other work
CASES = {
    "64^3": ((64, 64, 64), 1, np.float32),
    "128^3": ((128, 128, 128), 1, np.float32),
    "256^3": ((256, 256, 256), 1, np.float32),
    "128^2 x 256": ((128, 128), 256, np.float32),
    "1024^2": ((1024, 1024), 1, np.float32),
    "100^3": ((100, 100, 100), 1, np.float32),
    "151^3": ((151, 151, 151), 1, np.float32),
    "128^3 f64": ((128, 128, 128), 1, np.float64),
    "128^3 complex": ((128, 128, 128), 1, np.complex64),
    "128^3 complex f64": ((128, 128, 128), 1, np.complex128),
    "256^3 complex": ((256, 256, 256), 1, np.complex64),
}
COLUMNS = {
    "numpy": ("numpy complex",),
    "scipy complex": ("scipy complex",),
    "scipy real": ("scipy real",),
    "mkl": ("mkl real", "mkl complex"),
    "cohere": ("cohere",),
}
"""Of the table, and whose times they have; of real objects MKL's loop is real."""


class Problem:
    """A random object in a third of each axis, and starts; all is measured but the zero frequency,
    or with `whole` that too."""

    def __init__(
        self, shape: tuple[int, ...], n_starts: int, dtype: type, *, whole: bool = False
    ) -> None:
        rng = np.random.default_rng(0)
        self.real = not np.issubdtype(dtype, np.complexfloating)
        inside = tuple(slice(n // 3) for n in shape)
        truth = np.zeros(shape, dtype)
        truth[inside] = self.values(rng, truth[inside].shape)
        self.support = truth != 0
        self.amplitude = np.abs(scipy.fft.fftn(truth))
        self.mask = np.ones(shape, bool)
        self.mask[(slice(1),) * len(shape)] = whole
        self.x = self.values(rng, (n_starts, *shape)).astype(dtype)

    def values(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.random(shape, np.float32)
        return values if self.real else values + 1j * rng.random(shape, np.float32)

    def peers(self, threads: int) -> dict[str, Loop | Cohere]:
        arrays = self.amplitude, self.mask, self.support, self.x
        peers: dict[str, Loop | Cohere] = {
            "numpy complex": ComplexLoop(*arrays, library=np.fft),
            "scipy complex": ComplexLoop(*arrays, library=scipy.fft, workers=threads),
        }
        if self.real:
            peers["scipy real"] = RealLoop(*arrays, library=scipy.fft, workers=threads)
        with contextlib.suppress(ImportError):
            from mkl_fft.interfaces import scipy_fft as mkl

            loop, name = (RealLoop, "mkl real") if self.real else (ComplexLoop, "mkl complex")
            peers[name] = loop(*arrays, library=mkl, workers=threads)
        if self.support.ndim == 3 and len(self.x) == 1:
            with contextlib.suppress(ImportError):
                peers["cohere"] = Cohere(self.amplitude, self.support, self.x, threads=threads)
        return peers


class Spicore:
    """The contender."""

    def __init__(self, problem: Problem, threads: int) -> None:
        self.measured = Measured(problem.amplitude, problem.mask, real=problem.real)
        self.seeds = Seeds(problem.x.copy(), problem.support[None])
        self.threads = threads

    @property
    def x(self) -> np.ndarray:
        return self.seeds.x

    def run(self, n: int, beta: float) -> None:
        iterate(self.measured, self.seeds, "HIO", n, beta=beta, threads=self.threads)

    def bytes_per_voxel(self) -> float:
        layout, target, _ = self.measured.spectrum(self.x.real.dtype)
        spectrum = 2 * target.nbytes  # complex
        voxels = np.prod(layout.shape)
        return (4 * spectrum + target.nbytes) / voxels + 2 * self.x.itemsize + 1


def copy_bandwidth(threads: int) -> float:
    """Bytes read plus written per second by a copy."""
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return 2 * COPIED / min(
            elapsed(lambda: list(pool.map(lambda pair: np.copyto(*pair), parts)))
            for _ in range(5)
        )  # fmt: skip


def elapsed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def check(contenders: dict, problem: Problem, like_cohere: Spicore) -> None:
    """All must have done the same work; cohere, which has no mask, that of `like_cohere`."""
    like_cohere.run(2, BETA)
    for name, contender in contenders.items():
        contender.run(2, BETA)
        wanted = like_cohere if name == "cohere" else contenders["spicore"]
        error = np.abs(contender.x - wanted.x).max() / np.abs(problem.x).max()
        if not error < 1e-3:
            sys.exit(f"{name} differs from spicore by {error:.2g}")


def measure(case: tuple[tuple[int, ...], int, type], threads: int, rounds: int) -> dict:
    problem = Problem(*case)
    contenders = {"spicore": Spicore(problem, threads), **problem.peers(threads)}
    check(contenders, problem, Spicore(Problem(*case, whole=True), threads))
    n = {
        name: max(2, int(SECONDS / elapsed(lambda c=contender: c.run(1, BETA))))
        for name, contender in contenders.items()
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    bandwidth = 0.0
    for _ in range(rounds):
        bandwidth = max(bandwidth, copy_bandwidth(threads))
        for name, contender in contenders.items():
            times[name].append(elapsed(lambda c=contender, k=n[name]: c.run(k, BETA)) / n[name])
    best = {name: min(values) for name, values in times.items()}
    model = contenders["spicore"].bytes_per_voxel()
    rate = model * problem.x.size / best["spicore"]
    return {
        "best_ms": {name: 1e3 * t for name, t in best.items()},
        "median_ms": {name: 1e3 * float(np.median(t)) for name, t in times.items()},
        "speedup": {name: t / best["spicore"] for name, t in best.items() if name != "spicore"},
        "bytes_per_voxel": model,
        "bytes_per_s": rate,
        "copy_bytes_per_s": bandwidth,
        "of_copy": rate / bandwidth,
        "ns_per_voxel": 1e9 * best["spicore"] / problem.x.size,
    }


def row(case: str, result: dict) -> str:
    best = result["best_ms"]
    cells = [f"{case:17}", f"{best['spicore']:9.2f}"]
    for names in COLUMNS.values():
        known = [name for name in names if name in best]
        cells += [f"{best[name]:9.1f} {result['speedup'][name]:5.1f}x" for name in known]
        cells += [" " * 16] * (not known)
    cells.append(f"{result['bytes_per_voxel']:5.1f} {result['bytes_per_s'] / 1e9:6.1f}")
    cells.append(f"{100 * result['of_copy']:4.0f} %")
    return "  ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--machine", default=platform.node() or "unknown")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"unknown cases {sorted(unknown)}")
    os.environ["MKL_NUM_THREADS"] = str(args.threads)  # read when mkl_fft is first imported
    table: dict = {"machine": args.machine, "threads": args.threads, "simd": _core.simd()}
    print(f"ms an iteration, {args.threads} threads, {_core.simd()}; B/voxel, GB/s, of a copy")
    print(f"{'spicore':>28}" + "".join(f"{name:>18}" for name in COLUMNS))
    for case in args.cases or CASES:
        table[case] = measure(CASES[case], args.threads, args.rounds)
        print(row(case, table[case]), flush=True)
    path = ROOT / "bench" / "results" / f"phase_{args.machine}.json"
    path.write_text(json.dumps(table, indent=2) + "\n")
    print(f"written {path}")


if __name__ == "__main__":
    main()

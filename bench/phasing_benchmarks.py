"""The benchmark set of Elser, Lan and Bendory by RRR: success rates and iterations.

    python bench/phasing_benchmarks.py [--names 100E 140E] [--seeds 20] [--limit 20000]

Instances are 128 x 128 integer intensities of N atoms, without the origin; E, M and H are easy,
medium and hard. The rules are those of the set: the object is real, not negative and has 8 N
pixels; a start has succeeded once 95 % of the power of P_M y lies in them. RRR with beta = 0.5 is
x + beta [P_M(2 P_S x - x) - P_S x], where P_S keeps the 8 N largest positive pixels of now: P_M
runs in the compiled kernel, P_S here. Control: the same with intensities shuffled inside shells,
which have no such object. Writes bench/results/phasing_benchmarks_<machine>.json.

Source: V. Elser, T.-Y. Lan, T. Bendory, SIAM J. Imaging Sci. 11, 2429 (2018).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from phasing_common import DATA, shuffled_in_shells, wilson, write

from spicore.phasing import Measured, Seeds, estimate

BETA, GOAL = 0.5, 0.95


def load(name: str) -> NDArray[np.float64]:
    """Return an instance, [128, 128] in FFT order; the Nyquist frequencies of an axis are 0."""
    half = np.loadtxt(DATA / "phase_benchmarks" / f"data{name}")
    n = len(half)
    full = np.zeros((n, n))
    full[:, : n // 2] = half
    rows = -np.arange(n) % n
    full[:, n // 2 + 1 :] = half[rows][:, :0:-1]
    return full


def largest(x: NDArray, n: int) -> NDArray:
    """Return P_S x of each start: its n largest pixels, those that are positive."""
    flat = x.reshape(len(x), -1)
    level = -np.partition(-flat, n, axis=1)[:, n, None]
    return np.where(flat > np.maximum(level, 0), flat, 0).reshape(x.shape)


def rrr(
    intensity: NDArray, n_pixels: int, seeds: int, limit: int, threads: int
) -> tuple[NDArray[np.int64], float]:
    """Return the iterations of each start to success, -1 for none, and seconds per iteration."""
    shape = intensity.shape
    mask = np.ones(shape, bool)
    mask[0, 0] = False
    measured = Measured(np.sqrt(intensity).astype(np.float32), mask)
    everywhere = np.ones((1, *shape), bool)
    rng = np.random.default_rng(0)
    total = intensity.sum()

    def to_modulus(y: NDArray) -> NDArray:
        result = estimate(measured, Seeds(y, everywhere), threads=threads)
        mean = result.mean(axis=(1, 2), keepdims=True)
        return result - np.minimum(mean, 0)  # the origin is not measured, but not negative

    x = to_modulus(rng.random((seeds, *shape)).astype(np.float32))
    running = np.arange(seeds)
    needed = np.full(seeds, -1)
    done = 0
    began = time.perf_counter()
    for k in range(limit):
        inside = largest(x, n_pixels)
        y = to_modulus(2 * inside - x)
        x += np.float32(BETA) * (y - inside)
        found = np.where(inside > 0, y, 0)
        power = (found.astype(np.float64) ** 2).sum(axis=(1, 2)) * inside[0].size
        power /= found.sum(axis=(1, 2), dtype=np.float64) ** 2 + total
        done += len(running)
        good = power > GOAL
        if good.any():
            needed[running[good]] = k + 1
            running, x = running[~good], np.ascontiguousarray(x[~good])
            if not running.size:
                break
    return needed, (time.perf_counter() - began) / done


def one(name: str, args: argparse.Namespace, *, control: bool = False) -> dict:
    """Return the row of an instance."""
    intensity = load(name)
    if control:
        intensity = shuffled_in_shells(intensity, seed=1)
    needed, seconds = rrr(intensity, 8 * int(name[:-1]), args.seeds, args.limit, args.threads)
    good = needed[needed > 0]
    n = len(needed)
    tried = int(good.sum() + args.limit * (n - len(good)))
    return {
        "name": name,
        "seeds": n,
        "limit": args.limit,
        "succeeded": len(good),
        "success": len(good) / n,
        "wilson_95": wilson(len(good), n),
        "median_iterations": float(np.median(good)) if good.size else None,
        "iterations_per_success": tried / len(good) if good.size else None,
        "seconds_per_iteration": seconds,
        "iterations": needed.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", default=["100E", "140E", "175E", "100M", "140M"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machine")
    args = parser.parse_args()
    rows = []
    table = {"threads": args.threads, "beta": BETA, "goal": GOAL, "instances": rows}
    for name in args.names:
        rows.append(one(name, args))
        print({k: v for k, v in rows[-1].items() if k != "iterations"}, flush=True)
        write("phasing_benchmarks", args.machine, table)
    table["control_shuffled"] = one(args.names[0], args, control=True)
    print("control", table["control_shuffled"]["succeeded"])
    write("phasing_benchmarks", args.machine, table)


if __name__ == "__main__":
    main()

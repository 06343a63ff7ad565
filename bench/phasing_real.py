"""Measured patterns: the optical ring, a Bragg peak in 3D, and a virus at an XFEL.

    python bench/phasing_real.py [--only ring pr772 bcdi] [--seeds 20] [--bcdi-size 96]

There is no truth: what counts is the free likelihood, how far seeds agree (PRTF, mode 0), and the R
factor. Each set has a control, the same data with values shuffled inside shells. The Bragg peak
needs tifffile. Writes bench/results/phasing_real_<machine>.json.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from collections.abc import Callable

import h5py
import numpy as np
from numpy.typing import NDArray
from phasing_common import DATA, ROOT, shuffled_in_shells, summary, write

import spicore as sp
from spicore.phasing import Config
from spicore.report import write_phasing_report


def ring(args: argparse.Namespace) -> tuple[NDArray, Config, dict]:
    """Optical CDI of a ring, 98 x 98 amplitudes, 463 masked pixels in the centre."""
    with h5py.File(DATA / "cdi_2d" / "hawk_ring_98.h5") as file:
        amplitude = file["real"][..., 0].astype(np.float64)
        measured = file["mask"][..., 0] != 0
    # The file has the origin at index 0 (`shifted` is 1).
    intensity = np.fft.fftshift(np.where(measured, amplitude**2, np.nan))
    # Real and positive: complex objects agree less and fit no better.
    config = Config(
        seeds=args.seeds,
        schedule="600RAAR 200ER",
        support="volume",
        support_threshold=0.035,
        start_threshold=0.1,
        blur_end=0.7,
        max_outside=0.3,
    )
    return intensity, config, {}


def pr772(args: argparse.Namespace) -> tuple[NDArray, Config, dict]:
    """Strong averaged pattern of a virus, 123 x 123, with a stripe and a hole masked."""
    folder = DATA / "pr772"
    values = np.fromfile(folder / "pr772_pattern_123x123_f64.bin").reshape(123, 123)
    bad = np.load(folder / "pr772_pattern_mask_123x123.npy")
    intensity = np.where(bad, np.nan, values)
    config = Config(seeds=args.seeds, background=True, max_outside=0.3)
    return intensity, config, {}


def bcdi(args: argparse.Namespace) -> tuple[NDArray, Config, dict]:
    """Rocking curve of a Bragg peak, cropped about its maximum."""
    import tifffile

    frames, dark = {}, None
    with tarfile.open(DATA / "bcdi_34idc" / "aps34idc_S0054.tar.xz") as archive:
        for member in archive:
            if not member.name.endswith(".tif"):
                continue
            image = tifffile.imread(io.BytesIO(archive.extractfile(member).read()))
            if "S0054_" in member.name:
                frames[member.name] = image
            elif "dark" in member.name:
                dark = image
    volume = np.stack([frames[name] for name in sorted(frames)]).astype(np.float64)
    table = {"shape": list(volume.shape), "counts": float(volume.sum())}
    hot = None if dark is None or dark.shape != volume.shape[1:] else dark > 2
    volume[volume < 2] = 0  # the threshold of the data's own recipe
    peak = np.unravel_index(int(volume.argmax()), volume.shape)
    half = args.bcdi_size // 2
    parts = []
    for at, n in zip(peak, volume.shape, strict=True):
        reach = min(half, at, n - at)
        parts.append(slice(at - reach, at + reach))
    cropped = volume[tuple(parts)]
    if hot is not None:
        cropped[:, hot[parts[1], parts[2]]] = np.nan
    table["cropped"] = list(cropped.shape)
    config = Config(
        real=False, positive=False, seeds=args.seeds, schedule="3*(20ER 180HIO) 20ER",
        support="max", support_threshold=0.1, blur_start=2.0, blur_end=1.0, support_start=20,
        detwin=True, max_outside=0.5,
        max_llk=1.5,  # not photons but errors of the data decide: the best is at 6 times the noise
    )  # fmt: skip
    return cropped, config, table


SETS: dict[str, Callable[[argparse.Namespace], tuple[NDArray, Config, dict]]] = {
    "ring": ring,
    "pr772": pr772,
    "bcdi": bcdi,
}


def control(intensity: NDArray) -> NDArray:
    """Return the intensity with values shuffled inside shells."""
    values = np.fft.ifftshift(intensity)
    measured = np.isfinite(values)
    mixed = shuffled_in_shells(np.where(measured, values, 0), 1)
    return np.fft.fftshift(np.where(measured, mixed, np.nan))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--bcdi-size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reports", help="folder for solutions and reports")
    parser.add_argument("--machine")
    args = parser.parse_args()
    table: dict = {"threads": args.threads}
    for name in args.only:
        intensity, config, row = SETS[name](args)
        table[name] = row
        for kind, values in (("data", intensity), ("control_shuffled", control(intensity))):
            began = time.perf_counter()
            try:
                solutions = sp.phasing.reconstruct(values, config, threads=args.threads)
            except sp.InputError as error:  # of a control: nothing passed
                row[kind] = {"passed": 0, "reason": str(error)}
            else:
                row[kind] = {"seconds": time.perf_counter() - began, **summary(solutions)}
                if args.reports and kind == "data":
                    report(solutions, args.reports, name)
            print(name, kind, row[kind], flush=True)
        write("phasing_real", args.machine, table)


def report(solutions: sp.phasing.Solutions, folder: str, name: str) -> None:
    """Write solutions and report of a set."""
    path = (ROOT / folder / name).resolve()
    path.mkdir(parents=True, exist_ok=True)
    solutions.save(path / "solutions.h5")
    write_phasing_report(path / "solutions.h5")


if __name__ == "__main__":
    main()

"""Measured patterns: the optical ring, a Bragg peak in 3D, and a virus at an XFEL.

    python bench/phasing_real.py [--only ring pr772 slice bcdi] [--seeds 20] [--bcdi-size 64]

There is no truth: what counts is the free likelihood, how far seeds agree (PRTF, mode 0), and the R
factor. Each set has a control, the same data with values shuffled inside shells. The Bragg peak
needs tifffile. Writes bench/results/phasing_real_<machine>.json; sets that were not run stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import h5py
import numpy as np
import scipy.io
import scipy.ndimage
from numpy.typing import NDArray
from phasing_common import DATA, ROOT, result_path, shuffled_in_shells, summary, write

import spicore as sp
from spicore.phasing import Config, trust
from spicore.phasing.blur import blurred
from spicore.report import write_phasing_report

THRESHOLD = 2  # counts: of the recipe that came with the Bragg peak
BINNED = (3, 2, 2)  # frames and pixels: the object takes up 23, 46 and 60 of 201, 256 and 256
BAD_WHITE = 100  # counts of the white field below which a pixel is dead


@dataclass
class Set:
    """What to phase and how; `more` adds to the numbers of a result."""

    intensity: NDArray
    config: Config
    row: dict = field(default_factory=dict)
    more: Callable[[sp.phasing.Solutions, NDArray], dict] | None = None


def ring(args: argparse.Namespace) -> Set:
    """Optical CDI of a ring, 98 x 98 amplitudes, 463 masked pixels in the centre."""
    with h5py.File(DATA / "cdi_2d" / "hawk_ring_98.h5") as file:
        amplitude = file["real"][..., 0].astype(np.float64)
        measured = file["mask"][..., 0] != 0
    # Off the chip, not dark: seven rows are 0 throughout.
    measured &= amplitude.any(axis=1, keepdims=True)
    # The file has the origin at index 0 (`shifted` is 1).
    amplitude, row = centred(np.fft.fftshift(np.where(measured, amplitude, np.nan)))
    row["blur"] = 0.7
    # Real and positive: complex objects agree less and fit no better.
    config = Config(
        seeds=args.seeds, schedule="600RAAR 200ER", support="volume", support_threshold=0.045,
        support_spread=0.1, start_threshold=0.1, blur_end=0.7, max_outside=0.3,
    )  # fmt: skip
    return Set(amplitude**2 * taper(amplitude.shape, row["blur"]), config, row)


def centred(amplitude: NDArray) -> tuple[NDArray, dict]:
    """Move a pattern by parts of a pixel to where q and -q are most alike."""

    def moved(shift: NDArray) -> NDArray:
        seen = np.isfinite(amplitude)
        near = scipy.ndimage.distance_transform_edt(~seen, return_distances=False,
                                                    return_indices=True)  # fmt: skip
        values = scipy.ndimage.shift(amplitude[tuple(near)], shift, mode="nearest")
        share = scipy.ndimage.shift(seen.astype(float), shift, order=1)
        return np.where(share > 0.99, np.maximum(values, 0), np.nan)

    def likeness(x: NDArray) -> float:
        inner = x[1:, 1:]  # of an even edge: the origin is in its middle
        both = np.isfinite(inner) & np.isfinite(inner[::-1, ::-1])
        return float(np.corrcoef(inner[both], inner[::-1, ::-1][both])[0, 1])

    steps = np.arange(-10, 11) * 0.05
    shifts = [np.array([a, b]) for a in steps for b in steps]
    scores = [likeness(moved(shift)) for shift in shifts]
    best = int(np.argmax(scores))
    return moved(shifts[best]), {
        "centre_moved_pixels": shifts[best].tolist(),
        "friedel_correlation": [likeness(amplitude), scores[best]],
    }


def taper(shape: tuple[int, ...], blur: float) -> NDArray[np.float64]:
    """Return the factor of an intensity that blurs the density by a Gaussian, in its voxels.

    A pattern that is bright where the detector ends is one of a density with ripples all over:
    neither in a support nor positive.
    """
    axes = [np.fft.fftshift(np.fft.fftfreq(n)) for n in shape]
    squares = np.meshgrid(*(q**2 for q in axes), indexing="ij", sparse=True)
    return np.exp(-((2 * np.pi * blur) ** 2) * sum(squares))


def pr772(args: argparse.Namespace) -> Set:
    """Strong averaged pattern of a virus, 123 x 123, with a stripe and a hole masked."""
    folder = DATA / "pr772"
    values = np.fromfile(folder / "pr772_pattern_123x123_f64.bin").reshape(123, 123)
    bad = np.load(folder / "pr772_pattern_mask_123x123.npy")
    config = Config(seeds=args.seeds, background=True, max_outside=0.3)
    return Set(np.where(bad, np.nan, values), config)


def central_slice(args: argparse.Namespace) -> Set:
    """Symmetrised central slice of the virus, 353 x 353, measured from radius 6 to 174."""
    file = scipy.io.loadmat(DATA / "pr772" / "pr772_emc_central_slice_353x353.mat")
    radius = np.hypot(*(np.indices((353, 353)) - 176))
    intensity = np.where((file["mask"] != 0) & (radius < 174), file["pat"], np.nan)
    # 353 is prime: 350 transforms faster.
    return Set(intensity, Config(seeds=args.seeds, background=True, max_outside=0.3, size=350))


def bcdi(args: argparse.Namespace) -> Set:
    """Rocking curve of a Bragg peak, corrected, binned, cropped about its maximum."""
    frames, dark, white = scan54()
    bad = (dark > 1) | (white < BAD_WHITE)
    level = np.median(white[~bad])
    volume = frames * np.where(bad, np.nan, level / np.maximum(white, BAD_WHITE))
    volume = binned(volume)
    peak = np.unravel_index(int(np.nanargmax(volume)), volume.shape)
    reach = [min(args.bcdi_size // 2, at, n - at) for at, n in zip(peak, volume.shape, strict=True)]
    cut = tuple(slice(at - r, at + r) for at, r in zip(peak, reach, strict=True))
    counts = volume[cut]
    blur = 0.5
    row = {
        "scan": list(frames.shape),
        "counts": float(frames.sum()),
        "binned": list(BINNED),
        "shape": list(counts.shape),
        "share_of_counts": float(np.nansum(counts) / np.nansum(volume)),
        "blur": blur,
        "threshold": THRESHOLD,
    }
    weight = taper(counts.shape, blur)
    config = Config(
        real=False, positive=False, seeds=args.seeds, schedule="600RAAR 100ER",
        support="max", support_threshold=0.15, support_spread=0.0, blur_start=1.0, blur_end=1.0,
        support_start=20, start_threshold=0.1, detwin=True, max_outside=0.3, max_llk=1.5,
        coherence=20,
    )  # fmt: skip
    return Set(counts * weight, config, row, lambda s, data: r_factors(s, data, weight))


def binned(volume: NDArray) -> NDArray:
    """Add up neighbours; a sum without one of its values is not measured."""
    counts = [n // b for n, b in zip(volume.shape, BINNED, strict=True)]
    part = volume[tuple(slice(n * b) for n, b in zip(counts, BINNED, strict=True))]
    pairs = itertools.chain.from_iterable(zip(counts, BINNED, strict=True))
    return part.reshape(*pairs).sum(axis=(1, 3, 5))


def scan54() -> tuple[NDArray, NDArray, NDArray]:
    """Return the frames of a scan at 34-ID-C, its dark and its white field."""
    import tifffile

    images = {}
    with tarfile.open(DATA / "bcdi_34idc" / "aps34idc_S0054.tar.xz") as archive:
        for member in archive:
            if member.name.endswith(".tif"):
                content = io.BytesIO(archive.extractfile(member).read())
                images[member.name.rpartition("/")[2]] = tifffile.imread(content)
    frames = np.stack([images[name] for name in sorted(images) if "S0054_" in name])
    part = tuple(slice(n) for n in frames.shape[1:])  # read from the corner of the chip
    return frames.astype(np.float64), images["dark.tif"][part], images["whitefield.tif"][part]


def r_factors(solutions: sp.phasing.Solutions, data: NDArray, weight: NDArray) -> dict:
    """Return R over all voxels and over those with counts, and what counting alone would do.

    R = sum ||F| - sqrt(I)| / sum sqrt(I). Most voxels have no count or one; a true model, of a
    tenth of a count, differs from both.
    """
    rng = np.random.default_rng(0)
    result = {}
    for name, x in (("best", solutions.best), ("average", solutions.density)):
        model = np.abs(np.fft.fftn(np.fft.ifftshift(x))) ** 2
        if solutions.coherence is not None:
            model = blurred(model, solutions.coherence)
        model = np.fft.fftshift(model)
        drawn = rng.poisson(model / weight) * weight
        for kind, values in (("data", data), ("counting_alone", drawn)):
            measured = np.isfinite(data)
            counted = measured & (values >= THRESHOLD * weight)
            for what, where in (("all", measured), ("counted", counted)):
                root = np.sqrt(np.where(measured, values, 0))
                result[f"r_{name}_{what}_{kind}"] = trust.r_factor(model, root, where)
    return result


SETS: dict[str, Callable[[argparse.Namespace], Set]] = {
    "ring": ring,
    "pr772": pr772,
    "slice": central_slice,
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
    parser.add_argument("--control-seeds", type=int, default=20)
    parser.add_argument("--bcdi-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reports", help="folder for solutions and reports")
    parser.add_argument("--machine")
    args = parser.parse_args()
    table = before(args.machine)
    for name in args.only:
        chosen = SETS[name](args)
        row = table[name] = {"threads": args.threads, **chosen.row}
        few = dataclasses.replace(chosen.config, seeds=args.control_seeds)
        for kind, values, config in (
            ("data", chosen.intensity, chosen.config),
            ("control_shuffled", control(chosen.intensity), few),
        ):
            began = time.perf_counter()
            try:
                solutions = sp.phasing.reconstruct(values, config, threads=args.threads)
            except sp.InputError as error:  # of a control: nothing passed
                row[kind] = {"passed": 0, "reason": str(error)}
            else:
                row[kind] = {"seconds": time.perf_counter() - began, **summary(solutions)}
                if chosen.more is not None:
                    row[kind] |= chosen.more(solutions, values)
                if args.reports:
                    report(solutions, args.reports, f"{name}_{kind}")
            print(name, kind, row[kind], flush=True)
            write("phasing_real", args.machine, table)


def before(machine: str | None) -> dict:
    """Return the sets of an earlier run that are still there, of the same machine."""
    path = result_path("phasing_real", machine)
    old = json.loads(path.read_text()) if path.is_file() else {}
    return {name: old[name] for name in SETS if name in old}


def report(solutions: sp.phasing.Solutions, folder: str, name: str) -> None:
    """Write solutions and report of a set."""
    path = (ROOT / folder / name).resolve()
    path.mkdir(parents=True, exist_ok=True)
    solutions.save(path / "solutions.h5")
    write_phasing_report(path / "solutions.h5")


if __name__ == "__main__":
    main()

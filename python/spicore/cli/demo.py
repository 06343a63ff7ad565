"""`spicore demo`: simulate, reconstruct, compare with the truth, report."""

from __future__ import annotations

import argparse
import textwrap
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import emc, metrics, simulate
from .._dispatch import n_threads
from ..detector import Detector
from ..errors import InputError
from ..frames import Frames
from ..report import inputs, write_report
from ..report.numbers import Summary, featureless, summarize
from ._progress import Reporter, duration, in_units
from .emc import CONFIG, RESULT

FRAMES, DETECTOR, TRUTH = "frames.emc", "detector.h5", "truth.h5"

_ENERGY_EV = 1500.0
_OPENING = 0.1  # metres: width of the detector, and its distance
_STOP = 2.0  # pixels

SHARES = (0.15, 0.35, 0.6, 0.85, 1.15)
"""Radii of the table, as shares of the detector's half width; the last lies in its corners."""


@dataclass(frozen=True)
class Experiment:
    """What is simulated; the defaults take about a minute on two cores.

    Attributes
    ----------
    n_frames, n_pixels : int   frames, and pixels per edge
    photons : float            mean per frame
    diameter : float           of the particle in voxels of its density
    fluence_spread : float     variance of the fluence, whose mean is 1
    config : emc.Config
    """

    n_frames: int = 2000
    n_pixels: int = 64
    photons: float = 600.0
    diameter: float = 14.0
    fluence_spread: float = 0.1
    config: emc.Config = field(default_factory=emc.Config)


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `demo` command to the parsers of `spicore`."""
    parser = subparsers.add_parser(
        "demo",
        help="simulate, reconstruct and compare with the truth, in about a minute",
        description="Simulate 2,000 photon frames of a small particle in random orientations, "
        "reconstruct it without knowing them, compare with the truth, and write a report.",
    )
    parser.add_argument("--out", metavar="DIR", default="spicore-demo", help="[spicore-demo]")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, another particle [0]"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demonstration as asked for on the command line."""
    return demo(Path(args.out), seed=args.seed, threads=args.threads)


def demo(
    folder: Path,
    *,
    seed: int = 0,
    threads: int | None = None,
    experiment: Experiment | None = None,
) -> int:
    """Simulate, reconstruct, compare and report; everything stays in a folder.

    Parameters
    ----------
    folder : Path
        A new one, or that of an earlier demo, which is replaced.
    seed : int
        Of the particle, the frames and the start of the reconstruction.
    threads : int, optional
        Default: all cores.
    experiment : Experiment, optional
        What to simulate.

    Returns
    -------
    int
        0; 1 if the particle was not found.
    """
    what = Experiment() if experiment is None else experiment
    config = replace(what.config, seed=seed)
    threads = n_threads(threads)
    began = time.monotonic()
    _prepare(folder)
    _head(1, "A particle that we know")
    detector = Detector.square(
        what.n_pixels,
        pixel_size=_OPENING / what.n_pixels,
        distance=_OPENING,
        energy_ev=_ENERGY_EV,
        stop_radius=_STOP,
    )
    true = simulate.intensity(simulate.particle(seed, diameter=what.diameter), detector.size)
    angstrom = 1.0 / (detector.size * detector.voxel_size)  # a voxel of the density
    _say(
        f"A random molecule without symmetry, {what.diameter * angstrom:.0f} A across, and how it "
        f"scatters X-rays of {detector.wavelength:.1f} A: a volume of {detector.size}^3 voxels."
    )
    _head(2, "An experiment")
    frames, truth = simulate.frames(
        true,
        detector,
        what.n_frames,
        what.photons,
        seed,
        fluence_spread=what.fluence_spread,
        threads=threads,
    )
    _save(folder, frames, detector, truth, true)
    lit = len(frames.read(0, 1).pixel)
    _say(
        f"{what.n_frames:,} copies of it fly through the beam, each in an orientation of its own "
        f"that nobody records. Each leaves one frame of {what.n_pixels} x {what.n_pixels} pixels "
        f"with some {frames.photons_per_frame.mean():.0f} photons: the first has light in {lit} "
        f"pixels of {detector.n_pixels:,}."
    )
    _head(3, "The reconstruction")
    _say(
        "From here on only the photons and the detector are used. The start is random numbers. "
        "Then, again and again: ask each frame where the model would predict it best, and put all "
        "frames together accordingly."
    )
    result = _reconstruct(frames, detector, config, folder, threads)
    summary = summarize(result)
    _say(
        f"{summary.state.capitalize()}, in {duration(summary.seconds)}: "
        f"{in_units(summary.rate)} comparisons of a frame with an orientation per second."
    )
    _head(4, "Was it right?")
    other = simulate.intensity(simulate.particle(seed + 1, diameter=what.diameter), detector.size)
    mean_photons = float(frames.photons_per_frame.mean())
    good = _compare(result, summary, true, other, truth, mean_photons, detector, threads)
    _head(5, "The report")
    report = write_report(folder, truth=[folder / TRUTH], threads=threads)
    _say(f"{report.resolve()}  (open it in a browser)")
    _say(f"Everything took {duration(time.monotonic() - began)}. To run its middle part by hand:")
    print(
        f"    spicore emc --frames {folder / FRAMES} --detector {folder / DETECTOR} "
        f"--out {folder / 'again'}\n"
        f"    spicore report {folder / 'again'} --truth {folder / TRUTH}",
        flush=True,
    )
    return 0 if good else 1


def _prepare(folder: Path) -> None:
    if (folder / RESULT).exists() and not (folder / TRUTH).exists():
        raise InputError(f"{folder / RESULT} is there, and not of a demo: choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to folder {folder}: {error.strerror or error}") from None


def _save(
    folder: Path,
    frames: Frames,
    detector: Detector,
    truth: simulate.Truth,
    true: NDArray[np.float32],
) -> None:
    frames.save_emc(folder / FRAMES)
    detector.save(folder / DETECTOR)
    simulate.save_truth(folder / TRUTH, truth, intensity=true)
    inputs.write_inputs(folder, {"frames": folder / FRAMES, "detector": folder / DETECTOR})


class _Narrator(Reporter):
    """Says in words what each stage is for, once, before its first line."""

    _told = ""

    def on_iteration(self, done: emc.Iteration) -> None:
        kind = f"{done.stage} {done.n_orientations}" if done.stage == "grid" else done.stage
        if kind != self._told:
            words = self._words(done)
            if words:
                self._print(textwrap.indent(textwrap.fill(words, 76), "   "))
            self._told = kind
        super().on_iteration(done)

    def _words(self, done: emc.Iteration) -> str:
        if done.stage == "grid" and not self._told:
            return (
                f"Annealing: {done.n_orientations:,} orientations. At low beta a frame counts for "
                f"many of them; beta rises as the model settles. Faster would freeze it into a "
                f"wrong shape. Watch 'info' leave 0: the model takes shape."
            )
        return {
            "grid": f"Orientations are settling: now {done.n_orientations:,} of them, all pixels.",
            "refine": "Each frame searches finely around its best orientation.",
            "even": "A check that needs no truth: even and odd frames, each on their own.",
        }.get(done.stage, "")


def _reconstruct(
    frames: Frames, detector: Detector, config: emc.Config, folder: Path, threads: int
) -> emc.Result:
    inputs.write_text(folder / CONFIG, config.to_toml())
    with _Narrator(frames.n_frames) as reporter:
        return emc.reconstruct(
            frames,
            detector,
            config,
            out=folder / RESULT,
            threads=threads,
            on_iteration=reporter.on_iteration,
            on_progress=reporter.on_progress,
        )


def _compare(
    result: emc.Result,
    summary: Summary,
    true: NDArray[np.float32],
    other: NDArray[np.float32],
    truth: simulate.Truth,
    mean_photons: float,
    detector: Detector,
    threads: int,
) -> bool:
    """Print how near the result is to the truth; return whether it found the particle."""
    quats = result.orientation.astype(np.float64)  # stored in float32
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    errors, _ = metrics.pose_error(quats, truth["quats"])
    shuffled = np.random.default_rng(0).permutation(truth["quats"])
    chance, _ = metrics.pose_error(quats, shuffled)
    median = float(np.median(errors))
    near = summary.grid_degrees / 2
    _say(
        f"Orientations: off by {median:.1f} degrees in the median. Below {near:.0f} is good (half "
        f"the spacing of the grid); guessing gives {np.median(chance):.0f}."
    )
    fluence = truth["fluence"] / truth["fluence"].mean()
    error = float(np.std(result.fluence / fluence - 1.0))
    counting = float(np.sqrt(np.mean(1.0 / (fluence * mean_photons))))
    _say(
        f"Fluences: off by {100 * error:.1f} %. Counting so few photons alone costs "
        f"{100 * counting:.1f} %; near that is good."
    )
    _say(
        "Intensity: correlation with the truth on shells, after turning one onto the other. "
        "1 is perfect and 0 is nothing; above 0.9 is good, below 0.5 is mostly noise."
    )
    curves = _curves(result, true, other, detector, threads)
    _print_table(curves, detector)
    _say(
        "'half sets' is what can be known without the truth: even against odd frames. It lies "
        "below 'truth', as each half has half the photons. Two controls: a featureless ball that "
        "has the right mean on every shell must score about 0. Another molecule, turned until it "
        "fits as well as it can, shows what luck and the likeness of small molecules give; "
        "'truth' must lie well above it."
    )
    good = median < 2 * near and curves["truth"][_radii(detector)[2]] > 0.5
    if good:
        _say("So the particle was found.")
    else:
        _say(
            "So this run did NOT find the particle. That can happen from a random start: try "
            "another --seed, and tell us if it happens often."
        )
    return bool(good)


def _curves(
    result: emc.Result,
    true: NDArray[np.float32],
    other: NDArray[np.float32],
    detector: Detector,
    threads: int,
) -> dict[str, NDArray[np.float64]]:
    """Return shell correlations: with the truth, of the half sets, and of two controls."""
    span = (3, int(_edge(detector)))
    _, aligned, _ = metrics.align_volumes(result.intensity, true, radius=span, threads=threads)
    _, turned, _ = metrics.align_volumes(other, true, radius=span, threads=threads)
    return {
        "truth": metrics.shell_cc(aligned, true)[1],
        "half sets": np.asarray(result.half_sets["shell_cc"]),
        "ball": metrics.shell_cc(featureless(true), true)[1],
        "other": metrics.shell_cc(turned, true)[1],
    }


def _print_table(curves: dict[str, NDArray[np.float64]], detector: Detector) -> None:
    head = "".join(f"{name:>11}" for name in curves)
    print(f"\n   {'':47}{'controls':>11}\n   {'radius':<11}{'resolution':<12}{head}")
    for radius in _radii(detector):
        d = 1.0 / (radius * detector.voxel_size)
        row = f"   {f'{radius} voxels':<11}{f'{d:.0f} A':<12}"
        print(row + "".join(f"{curve[radius]:>11.2f}" for curve in curves.values()))
    print(flush=True)


def _edge(detector: Detector) -> float:
    """Largest radius of the pixels that orient, in voxels."""
    return float(np.linalg.norm(detector.q_voxels[detector.mask == 0], axis=1).max())


def _radii(detector: Detector) -> list[int]:
    return [max(3, round(share * _edge(detector))) for share in SHARES]


def _head(number: int, text: str) -> None:
    print(f"\n{number}/5  {text}", flush=True)


def _say(text: str) -> None:
    print(textwrap.indent(textwrap.fill(text, 76), "   "), flush=True)

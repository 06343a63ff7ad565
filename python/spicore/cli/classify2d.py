"""`spicore classify2d`: sort frames into classes and average them, in the detector plane."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from .. import __version__, _core, emc
from .._dispatch import backends_on, n_threads
from ..detector import Detector
from ..errors import InputError
from ..frames import Frames
from ..report import inputs as noted_inputs
from ..report import write_classes_report
from . import _inputs, _options
from ._progress import Reporter, duration

RESULT, REPORT, CONFIG = "classes.h5", "report.html", "config.toml"

DESCRIPTION = """\
Sort frames into classes that look alike but for an in-plane rotation, and average each class:
to see what a data set holds before 3D, and to drop what does not belong.
"""

EPILOG = """\
DIR gets classes.h5 (written whole, at the end), report.html, config.toml and inputs.toml.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `classify2d` command to the parsers of `spicore`."""
    parser = subparsers.add_parser(
        "classify2d",
        help="sort frames into 2D classes and average them",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--frames",
        metavar="F",
        required=True,
        help="photons: EMC binary or HDF5, or a dense HDF5/CXI stack",
    )
    files.add_argument(
        "--detector",
        metavar="D",
        required=True,
        help="Dragonfly .h5 or .dat, CrystFEL .geom, or spicore .h5",
    )
    files.add_argument("--out", metavar="DIR", required=True, help="folder of the result")
    files.add_argument("--config", metavar="C.toml", help="options, see below")
    files.add_argument(
        "--blacklist", metavar="B.txt", help="one 0 or 1 per frame and line; 1 drops the frame"
    )
    files.add_argument("--dataset", help="dataset of a dense stack, if the file has several")
    files.add_argument(
        "--energy-ev", type=float, metavar="E", help="photon energy, for the detector file"
    )
    files.add_argument(
        "--distance", type=float, metavar="M", help="metres, replaces clen of a .geom file"
    )
    _options.add_run_options(parser, resume=False)
    _options.add_device_option(parser)
    _options.add_config_options(parser, emc.ClassifyConfig, "options of the classification")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Classify; return the exit code, or raise `InputError`."""
    folder = Path(args.out)
    out = folder / RESULT
    if out.exists() and not args.overwrite:
        raise InputError(
            f"{out} is there already: replace it with --overwrite, or choose another --out"
        )
    config = emc.ClassifyConfig(**_options.config_values(args, emc.ClassifyConfig))
    threads = n_threads(args.threads)
    backends_on(args.device)  # refused before anything is printed or written
    frames = Frames.open(args.frames, args.dataset)
    detector = Detector.load(args.detector, energy_ev=args.energy_ev, distance=args.distance)
    dropped = None
    if args.blacklist is not None:
        dropped = _inputs.read_blacklist(args.blacklist, frames.n_frames)
    _inputs.check_writable(folder)
    _introduce(frames, config, threads)
    began = time.monotonic()
    n_used = frames.n_frames if dropped is None else int((~dropped).sum())
    share = config.bootstrap_share if config.bootstrap else 1.0
    try:
        with Reporter(max(1, round(share * n_used))) as reporter:
            result = emc.classify2d(
                frames,
                detector,
                config,
                out=out,
                blacklist=dropped,
                threads=threads,
                device=args.device,
                on_iteration=reporter.on_iteration,
                on_progress=reporter.on_progress,
            )
    except KeyboardInterrupt:
        print(f"\nspicore: interrupted, {out} was not written", file=sys.stderr)
        return 130
    noted_inputs.write_text(folder / CONFIG, config.to_toml())
    noted_inputs.write_inputs(folder, {k: getattr(args, k, None) for k in _NOTED})
    report = write_classes_report(out, folder / REPORT)
    _summarize(result, out, report, time.monotonic() - began)
    return 0


_NOTED = ("frames", "detector", "blacklist", "dataset", "energy_ev", "distance")


def _introduce(frames: Frames, config: emc.ClassifyConfig, threads: int) -> None:
    runs = f", {config.n_runs} runs" if config.bootstrap else ""
    print(
        f"spicore {__version__}: {frames.n_frames:,} frames of {frames.n_pixels:,} pixels, "
        f"{config.n_classes} classes{runs}\n{_core.simd()}, "
        f"{threads} thread{'s' if threads > 1 else ''}",
        file=sys.stderr,
    )


def _summarize(result: emc.Classes, out: Path, report: Path, seconds: float) -> None:
    n_runs, n_classes = result.occupancy.shape
    used = int((result.class_of >= 0).any(axis=0).sum())
    filled = np.sort((result.occupancy >= 1).sum(axis=1))
    several = f" in each of {n_runs} runs" if n_runs > 1 else ""
    print(f"\nframes   {used:,} of {result.class_of.shape[1]:,} used")
    print(f"classes  {filled[0]} to {filled[-1]} of {n_classes} hold a frame{several}")
    print(f"time     {duration(seconds)}")
    print(f"\n{out}\na report with figures: {report}", flush=True)

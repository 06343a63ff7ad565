"""`spicore emc`: reconstruct a 3D intensity from frames of unknown orientation."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__, _core, emc
from .._dispatch import backends_on, n_threads
from ..detector import Detector
from ..errors import InputError
from ..frames import Frames
from ..report import inputs as noted_inputs
from ..report.numbers import Summary, counted, summarize
from . import _inputs, _options
from ._progress import Reporter, duration, in_units

RESULT = "result.h5"
CONFIG = "config.toml"

EPILOG = """\
DIR gets result.h5 (written whole after every iteration), config.toml and inputs.toml.
A run that was stopped, by Ctrl-C, a crash or its time limit, goes on with

    spicore emc --out DIR --resume

as if it had never stopped. The options come from DIR/result.h5; only --iterations may be raised.
Where DIR has no result yet, --resume starts one: a batch job can always be given it.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `emc` command to the parsers of `spicore`."""
    parser = subparsers.add_parser(
        "emc",
        help="reconstruct a 3D intensity from frames",
        description="Reconstruct a 3D intensity from frames of unknown orientation, by EMC.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--frames", metavar="F", help="photons: EMC binary or HDF5, or a dense HDF5/CXI stack"
    )
    files.add_argument(
        "--detector", metavar="D", help="Dragonfly .h5 or .dat, CrystFEL .geom, or spicore .h5"
    )
    files.add_argument("--out", metavar="DIR", required=True, help="folder of the result")
    files.add_argument("--config", metavar="C.toml", help="options, see below")
    files.add_argument(
        "--start-model",
        metavar="M",
        help="HDF5 with 'intensity' or 'intens' ([modes,] N, N, N), or .npy [a random one]",
    )
    files.add_argument(
        "--start-fluence",
        metavar="F",
        help="per frame: HDF5 with 'fluence' or 'scale', .npy or text [1]; fitted further "
        "unless --no-fluence",
    )
    files.add_argument(
        "--background",
        metavar="B",
        help="expected photons per pixel: HDF5 with 'background', or .npy [of the detector file]",
    )
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
    _options.add_run_options(parser, resume=True)
    _options.add_device_option(parser, several=True)
    _options.add_config_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Reconstruct; return the exit code, or raise `InputError`."""
    folder = Path(args.out)
    saved = _saved(folder, args)
    inputs = _named_inputs(args, folder if args.resume else None)
    values = _options.config_values(args)
    config = emc.Config(**values) if saved is None else _resumed_config(saved, values, folder)
    threads = n_threads(args.threads)
    backends_on(args.device)  # refused before anything is printed or written
    frames = Frames.open(inputs["frames"], inputs["dataset"])
    detector = Detector.load(
        inputs["detector"], energy_ev=inputs["energy_ev"], distance=inputs["distance"]
    )
    start = _start_values(inputs, frames.n_frames, resumes=saved is not None)
    _inputs.check_writable(folder)

    def begin() -> None:
        """All input is good and the first iteration begins: from here on DIR changes."""
        noted_inputs.write_text(folder / CONFIG, config.to_toml())
        noted_inputs.write_inputs(folder, inputs)
        if saved is None:
            (folder / RESULT).unlink(missing_ok=True)
        for rest in folder.glob(f"{RESULT}.*.tmp"):  # of a run that was killed while writing
            rest.unlink(missing_ok=True)

    _introduce(frames, detector, config, threads, args.device, saved)
    return reconstruct(
        frames,
        detector,
        config,
        folder,
        threads=threads,
        device=args.device,
        resumes=saved,
        begin=begin,
        **start,
    )


def reconstruct(
    frames: Frames,
    detector: Detector,
    config: emc.Config,
    folder: Path,
    *,
    threads: int,
    device: str = "cpu",
    resumes: emc.Result | None = None,
    begin: Callable[[], None] | None = None,
    **start: Any,
) -> int:
    """Reconstruct into a folder and show it; return the exit code.

    Parameters
    ----------
    resumes : Result, optional
        What is in the folder, to go on with.
    begin : callable, optional
        Called once all input was found good.
    **start
        As of `emc.reconstruct`.
    """
    out = folder / RESULT
    reporter = Reporter(_n_used(frames.n_frames, config, start.get("blacklist")))
    reporter.finished = 0 if resumes is None else len(resumes.history["iteration"])
    once = _Once(begin)

    def on_progress(stage: str, fraction: float) -> None:
        once()
        reporter.on_progress(stage, fraction)

    began = time.monotonic()
    try:
        with reporter:
            result = emc.reconstruct(
                frames,
                detector,
                config,
                out=out,
                resume=resumes is not None,
                threads=threads,
                device=device,
                on_iteration=reporter.on_iteration,
                on_progress=on_progress,
                **start,
            )
    except KeyboardInterrupt:
        print(_interrupted(reporter.finished, folder), file=sys.stderr)
        return 130
    print_summary(summarize(result), out, time.monotonic() - began)
    return 0


class _Once:
    """Calls a function the first time only."""

    def __init__(self, function: Callable[[], None] | None) -> None:
        self.function = function

    def __call__(self) -> None:
        function, self.function = self.function, None
        if function is not None:
            function()


def _saved(folder: Path, args: argparse.Namespace) -> emc.Result | None:
    """Return the result to go on with, if any."""
    path = folder / RESULT
    if not path.exists():
        return None
    if args.resume:
        return emc.Result.load(path)
    if not args.overwrite:
        raise InputError(
            f"{path} is there already: go on with --resume, replace it with --overwrite, "
            f"or choose another --out"
        )
    return None


def _named_inputs(args: argparse.Namespace, noted_in: Path | None) -> dict[str, Any]:
    """Return the input files: of the command line, else those noted by the run to resume."""
    noted = {} if noted_in is None else noted_inputs.read_inputs(noted_in)
    inputs = {}
    for name in (*noted_inputs.PATHS, *noted_inputs.VALUES):
        given = getattr(args, name)
        inputs[name] = noted.get(name) if given is None else given
    missing = [f"--{name}" for name in ("frames", "detector") if inputs[name] is None]
    if missing:
        where = "" if noted_in is None else f" ({noted_in} does not tell)"
        raise InputError(f"{' and '.join(missing)} must be given{where}")
    return inputs


def _resumed_config(saved: emc.Result, values: dict[str, Any], folder: Path) -> emc.Config:
    """Return the config of a run with --iterations raised; nothing else may change."""
    config = emc.Config.from_toml(saved.config)
    wanted = dataclasses.replace(config, **values)
    for field in dataclasses.fields(config):
        there, here = getattr(config, field.name), getattr(wanted, field.name)
        if field.name != "iterations" and there != here:
            raise InputError(
                f"--resume keeps the options of {folder / RESULT}, but {field.name} is "
                f"{there!r} there and {here!r} now; only --iterations may change"
            )
    if wanted.iterations < config.iterations:
        raise InputError(
            f"--iterations can only be raised by --resume, from {config.iterations}, "
            f"got {wanted.iterations}"
        )
    return wanted


def _start_values(inputs: dict[str, Any], n_frames: int, *, resumes: bool) -> dict[str, Any]:
    """Read what `emc.reconstruct` takes besides frames and detector."""
    values: dict[str, Any] = {}
    if inputs["start_model"] is not None and not resumes:
        values["start_model"] = _inputs.read_start_model(inputs["start_model"])
    if inputs["start_fluence"] is not None and not resumes:
        values["start_fluence"] = _inputs.read_fluence(inputs["start_fluence"])
    if inputs["background"] is not None:
        values["background"] = noted_inputs.read_background(inputs["background"])
    if inputs["blacklist"] is not None:
        values["blacklist"] = _inputs.read_blacklist(inputs["blacklist"], n_frames)
    return values


def _n_used(n_frames: int, config: emc.Config, blacklist: Any) -> int:
    """Frames that take part, to give a rate; `emc.reconstruct` does the choosing."""
    kept = n_frames if blacklist is None else int(n_frames - blacklist.sum())
    return kept if config.selection == "all" else max(kept // 2, 1)


_GPUS = {"cpu": "", "cuda": ", one GPU", "cuda:all": ", all GPUs"}


def _introduce(
    frames: Frames,
    detector: Detector,
    config: emc.Config,
    threads: int,
    device: str,
    saved: emc.Result | None,
) -> None:
    size = config.size or detector.size
    print(
        f"spicore {__version__}: {frames.n_frames:,} frames of {frames.n_pixels:,} pixels, "
        f"volume {size}^3\n{config.engine} engine, {_core.simd()}, "
        f"{threads} thread{'s' if threads > 1 else ''}{_GPUS[device]}",
        file=sys.stderr,
    )
    if saved is not None:
        done = len(saved.history["iteration"])
        state = " (converged)" if bool(saved.schedule.get("converged")) else ""
        print(f"going on after iteration {done}{state}", file=sys.stderr)


def _interrupted(finished: int, folder: Path) -> str:
    if not finished:
        return "\nspicore: interrupted before the end of the first iteration, nothing is lost"
    return (
        f"\nspicore: interrupted; iteration {finished} is safe in {folder / RESULT}, go on with\n"
        f"    spicore emc --out {folder} --resume"
    )


def print_summary(summary: Summary, out: Path, seconds: float) -> None:
    """Print the main numbers of a result."""
    s = summary
    modes = f", {s.n_modes} modes" if s.n_modes > 1 else ""
    patterns = f", {counted(s.n_patterns, 'fixed pattern')}" if s.n_patterns else ""
    refined = f", then {counted(s.n_refined, 'local refinement')}" if s.n_refined else ""
    rows = [
        ("state", f"{s.state} (last change {s.change:.2g})"),
        ("frames", f"{s.n_used:,} of {s.n_frames:,} used"),
        ("orientations", f"{s.n_orientations:,}, {s.grid_degrees:.1f} deg apart{refined}"),
        ("volume", f"{s.size}^3{modes}{patterns}, half observed to {s.reach} voxels"),
        ("log-likelihood", f"{s.log_likelihood:.2f} per frame"),
        ("resolution", resolution_line(s)),
        *([("random starts", s.seeds)] if s.seeds else []),
        ("speed", f"{in_units(s.rate)} frame-orientations/s"),
        ("time", duration(seconds)),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(textwrap.fill(f"{name:<{width}}  {value}", 100, subsequent_indent=" " * (width + 2)))
    print(f"\n{out}")
    print(f"a report with figures: spicore report {out.parent}")
    sys.stdout.flush()


def resolution_line(summary: Summary) -> str:
    """Return the resolution by half sets, in words that say how far to trust it."""
    resolution = summary.resolution
    if resolution is None:
        return "not estimated (no half sets)"
    if resolution.radius != resolution.radius:
        return "none: even and odd frames give volumes that do not agree"
    place = f"{resolution.radius:.1f} voxels"
    if resolution.d is not None:
        place += f", {resolution.d:.3g} A"
    if resolution.to_the_edge:
        return f"at least {place}: even and odd frames agree to the edge of the detector"
    return f"{place}, where the shell correlation of even and odd frames falls below 0.5"

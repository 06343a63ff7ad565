"""`spicore phase`: find the density whose squared Fourier transform is an intensity."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

from .. import __version__, _core, phasing
from .._dispatch import backends_on, n_threads
from ..errors import InputError
from ..report import inputs as noted_inputs
from ..report import write_phasing_report
from . import _inputs, _options
from ._phase_inputs import Intensity, read_array, read_intensity
from ._phase_progress import PhaseReporter
from ._progress import duration

RESULT, DENSITY, REPORT, CONFIG = "solutions.h5", "density.mrc", "report.html", "config.toml"

DESCRIPTION = """\
Find the density whose squared Fourier transform is an intensity: many starts from random phases,
ranked by how well they predict voxels that were held out; what the good ones agree on is averaged.

INPUT is result.h5 of 'spicore emc', any HDF5 dataset (--dataset), an MRC map or a .npy file, of 2
or 3 axes with the origin at n // 2. NaN and negative values were not measured.
"""

EPILOG = """\
DIR gets solutions.h5, density.mrc (3D), report.html and config.toml. While at work the state is in
solutions.h5.state; a run that was stopped goes on with the same command and --resume, to the same
result.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `phase` command to the parsers of `spicore`."""
    parser = subparsers.add_parser(
        "phase",
        help="find the density of an intensity (phase retrieval)",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="INPUT", help="intensity, see above")
    files = parser.add_argument_group("files")
    files.add_argument("--out", metavar="DIR", required=True, help="folder of the result")
    files.add_argument("--config", metavar="C.toml", help="options, see below")
    files.add_argument("--dataset", help="dataset of an HDF5 file that is no result of spicore")
    files.add_argument(
        "--mode", type=int, metavar="K", default=1, help="mode of an EMC result, from 1 [1]"
    )
    files.add_argument(
        "--mask", metavar="M", help="true where measured: .npy, MRC, or HDF5 with 'mask'"
    )
    files.add_argument(
        "--start-support",
        metavar="S",
        help="where the density may be: .npy, MRC, or HDF5 with 'support'; origin at n // 2",
    )
    files.add_argument(
        "--histogram",
        metavar="H",
        help="values of the density in its support, in any order and unit: .npy, MRC, or HDF5 with "
        "'histogram'",
    )
    files.add_argument(
        "--amplitude", action="store_true", help="INPUT holds square roots of the intensity"
    )
    files.add_argument(
        "--voxel-size", type=float, metavar="Q", help="of INPUT, in 1/A [as the file tells]"
    )
    _options.add_run_options(parser, resume=True)
    _options.add_device_option(parser)
    _options.add_config_options(parser, phasing.Config, "options of the phase retrieval")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Find phases; return the exit code, or raise `InputError`."""
    folder = Path(args.out)
    out = folder / RESULT
    state = folder / f"{RESULT}.state"
    if out.exists() and not (args.overwrite or args.resume):
        raise InputError(
            f"{out} is there already: go on with --resume, replace it with --overwrite, "
            f"or choose another --out"
        )
    config = _config(args, folder, resumes=args.resume and (state.exists() or out.exists()))
    threads = n_threads(args.threads)
    backends_on(args.device)  # refused before anything is printed or written
    data = read_intensity(args.input, args.dataset, mode=args.mode, amplitude=args.amplitude)
    voxel_size = data.voxel_size if args.voxel_size is None else args.voxel_size
    mask = None if args.mask is None else read_array("mask", args.mask, "mask")
    support = args.start_support
    support = None if support is None else read_array("support", support, "support") != 0
    values = args.histogram
    values = None if values is None else read_array("histogram", values, "histogram")
    _inputs.check_writable(folder)
    noted_inputs.write_text(folder / CONFIG, config.to_toml())
    if not args.resume:
        state.unlink(missing_ok=True)
    _introduce(data, config, threads)
    began = time.monotonic()
    try:
        with PhaseReporter() as reporter:
            solutions = phasing.reconstruct(
                data.intensity,
                config,
                weight=data.weight,
                mask=None if mask is None else mask != 0,
                support=support,
                histogram=values,
                voxel_size=voxel_size,
                threads=threads,
                device=args.device,
                on_progress=reporter.on_progress,
                out=out,
                resume=args.resume,
            )
    except KeyboardInterrupt:
        kept = f"; go on with --resume from {state}" if state.exists() else ", nothing was kept"
        print(f"\nspicore: interrupted{kept}", file=sys.stderr)
        return 130
    files = [out]
    if solutions.density.ndim == 3 and _is_cubic(solutions):
        solutions.export_mrc(folder / DENSITY)
        files.append(folder / DENSITY)
    report = write_phasing_report(out, folder / REPORT)
    _summarize(solutions, time.monotonic() - began)
    print("\n" + "\n".join(map(str, files)))
    print(f"a report with figures: {report}", flush=True)
    return 0


def _config(args: argparse.Namespace, folder: Path, *, resumes: bool) -> phasing.Config:
    """Return the options; those of a run to go on with may not change."""
    values = _options.config_values(args, phasing.Config)
    path = folder / CONFIG
    if not resumes or not path.exists():
        return phasing.Config(**values)
    there = phasing.Config.load(path)
    wanted = dataclasses.replace(there, **values)
    for field in dataclasses.fields(there):
        old, new = getattr(there, field.name), getattr(wanted, field.name)
        if old != new:
            raise InputError(
                f"--resume keeps the options of {path}, but {field.name} is {old!r} there and "
                f"{new!r} now"
            )
    return there


def _is_cubic(solutions: phasing.Solutions) -> bool:
    size = solutions.voxel_size
    return size is None or float(size.max() - size.min()) <= 1e-6 * float(size.max())


def _introduce(data: Intensity, config: phasing.Config, threads: int) -> None:
    shape = " x ".join(map(str, data.intensity.shape))
    exposure = ", with exposure" if data.weight is not None else ""
    print(
        f"spicore {__version__}: intensity of {shape} voxels{exposure}, {config.seeds} seeds\n"
        f"{config.schedule}, {_core.simd()}, {threads} thread{'s' if threads > 1 else ''}",
        file=sys.stderr,
    )


def _summarize(solutions: phasing.Solutions, seconds: float) -> None:
    s = solutions
    rows = [
        ("seeds", f"{s.n_kept} of {len(s.scores['kept'])} passed"),
        ("R factor", f"{s.r_factor:.4f} of the average, {_free_r_factor(s)}"),
        ("mode 0", f"{100 * s.mode_weights[0]:.1f} % of the power"),
        ("PRTF", f"1/e {_where(s, 'prtf', math.exp(-1))}; 0.5 {_where(s, 'prtf', 0.5)}"),
        ("FSC", f"0.5 {_where(s, 'fsc', 0.5)}; 0.143 {_where(s, 'fsc', 0.143)}"),
        ("undetermined", undetermined_line(s)),
        ("time", duration(seconds)),
    ]
    if s.in_place is not None:
        rows.insert(-1, ("coherence", f"{100 * s.in_place:.0f} % of each intensity in place"))
    print()
    for name, value in rows:
        print(f"{name:<12}  {value}")


def _free_r_factor(solutions: phasing.Solutions) -> str:
    if math.isnan(solutions.free_r_factor):
        return "no voxel was held out"
    return f"{solutions.free_r_factor:.4f} on held-out voxels"


def _where(solutions: phasing.Solutions, curve: str, threshold: float) -> str:
    if solutions.n_kept < 2:
        return "unknown (one seed)"
    radius = solutions.crossing(curve, threshold)
    if radius != radius:
        return "never reached"
    d = solutions.in_angstrom(radius)
    at_edge = radius >= solutions.curves["radius"][-1]
    return f"{'beyond' if at_edge else 'at'} {radius:.1f} voxels{f' ({d:.3g} A)' if d else ''}"


def undetermined_line(solutions: Any) -> str:
    """Return in words what the measurement leaves open in its missing centre."""
    opened = solutions.undetermined
    if opened.charge_measured:
        return "nothing in the centre: the intensity at the origin was measured"
    charge = f"total charge (spread over seeds {100 * opened.charge_spread:.2g} %)"
    if opened.n_modes != opened.n_modes:
        return f"{charge}; the missing centre is too large to count its modes"
    n = int(opened.n_modes)
    modes = f"{n or 'no'} mode{'s' if n != 1 else ''} inside of the missing centre"
    return f"{modes}; {charge}{'' if opened.charge_is_open else ' follows from the support'}"

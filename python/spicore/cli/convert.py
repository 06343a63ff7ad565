"""`spicore convert`: frames of any format to EMC binary or EMC HDF5."""

from __future__ import annotations

import argparse
import os

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..errors import InputError
from ..frames import Frames

FORMATS = {".emc": "emc", ".h5": "h5", ".hdf5": "h5", ".cxi": "h5"}


class _RateColumn(ProgressColumn):
    """Frames per second since the start; short conversions have a single step."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time or task.elapsed
        return Text(f"{task.completed / elapsed:,.0f} frames/s" if elapsed else "")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `convert` command to the parsers of `spicore`."""
    parser = subparsers.add_parser(
        "convert",
        help="convert frames between formats",
        description="Convert frames (EMC binary, EMC HDF5, dense HDF5 or CXI stack; found out "
        "by content) to EMC binary or EMC HDF5, both as Dragonfly reads them.",
    )
    parser.add_argument("input", metavar="IN", help="file of frames")
    parser.add_argument("output", metavar="OUT", help="file to write; replaced only when complete")
    parser.add_argument(
        "--format", choices=("emc", "h5"), help="default: h5 for .h5 .hdf5 .cxi, emc for .emc"
    )
    parser.add_argument("--dataset", help="dataset of a dense stack, if the file has several")
    parser.add_argument(
        "--frames", metavar="A:B:STEP", help="frames to keep, as a Python slice (default: all)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Convert; return the exit code 0, or raise `InputError`."""
    layout = args.format or _format_of(args.output)
    frames = Frames.open(args.input, args.dataset)
    if args.frames is not None:
        frames = frames[_slice(args.frames)]
    save = frames.save_emc if layout == "emc" else frames.save_h5
    columns = (
        TextColumn("convert"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("convert", total=len(frames))
        save(args.output, progress=lambda done, _: progress.update(task, completed=done))
    print(
        f"{args.output}: {len(frames)} frames, {frames.photons_per_frame.mean():.1f} mean photons, "
        f"{os.path.getsize(args.output) / 1e6:.2f} MB"
    )
    return 0


def _format_of(path: str) -> str:
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS:
        raise InputError(f"OUT must end in {', '.join(FORMATS)}, or name a --format, got {path!r}")
    return FORMATS[extension]


def _slice(text: str) -> slice:
    try:
        parts = [int(part) if part else None for part in text.split(":")]
        if len(parts) not in (2, 3) or 0 in parts[2:]:
            raise ValueError
    except ValueError:
        raise InputError(f"--frames must be A:B or A:B:STEP, STEP not 0, got {text!r}") from None
    return slice(*parts)

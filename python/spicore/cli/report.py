"""`spicore report`: one HTML file about a reconstruction."""

from __future__ import annotations

import argparse

from ..report import write_report


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `report` command to the parsers of `spicore`."""
    parser = subparsers.add_parser(
        "report",
        help="write an HTML report of a reconstruction",
        description="Write one HTML file with figures and numbers of a reconstruction. It needs "
        "no network and no other file.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of 'spicore emc'")
    parser.add_argument("--out", metavar="FILE", help="default: DIR/report.html")
    parser.add_argument(
        "--truth",
        metavar="T.h5",
        nargs="+",
        default=(),
        help="of a simulation: HDF5 with some of 'intensity' (or 'intens'), 'orientation' (or "
        "'quaternions_wxyz') and 'fluence'",
    )
    parser.add_argument(
        "--truth-symmetry",
        metavar="GROUP",
        help="point group that pose errors are divided by [that of the reconstruction]",
    )
    parser.add_argument("--frames", metavar="F", help="default: as noted in DIR/inputs.toml")
    parser.add_argument("--detector", metavar="D", help="default: as noted in DIR/inputs.toml")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the report; return 0, or raise `InputError`."""
    path = write_report(
        args.folder,
        out=args.out,
        truth=args.truth,
        frames=args.frames,
        detector=args.detector,
        truth_symmetry=args.truth_symmetry,
        threads=args.threads,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0

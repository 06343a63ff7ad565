"""The command line: one module per command, each with `add_parser` and `run`.

A command returns its exit code. Whatever the user can mend ends as one line on stderr, without a
traceback, and exit code 2; a traceback is a bug of spicore.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import SpicoreError
from . import classify2d, convert, demo, emc, info, phase, report

COMMANDS = (demo, emc, phase, classify2d, convert, report, info)

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE

_ON_GPU = (
    "end what else runs there, use fewer modes or classes, a coarser grid or smaller volumes, or "
    "--device cpu; blocks of frames take a quarter of what is free"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of `spicore` and return the exit code: 0, or 2 for input that is no use.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()  # a closed pipe shows here, where it can still be caught
        return code
    except SystemExit as stop:  # argparse: --help, --version or bad usage
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:
        # The reader has gone (`spicore ... | head`). Without this Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("\nspicore: interrupted", file=sys.stderr)
        return INTERRUPTED
    except SpicoreError as error:
        return _fail(str(error))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # of torch, or of CuPy
            what = ". ".join(str(error).split(". ")[:2]).rstrip(".")
            return _fail(f"out of memory on the GPU ({what or 'no details'}): {_ON_GPU}")
        if isinstance(error, RuntimeError):
            raise
        return _fail(f"out of memory ({error or 'no details'}): use a smaller --block-memory-mb")


def _run(argv: Sequence[str] | None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.run is None:
        parser.print_help(sys.stderr)
        return 2
    return args.run(args)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="spicore",
        description="X-ray single-particle imaging: from photons of single particles to 3D "
        "structures. 'spicore demo' shows all of it in about a minute.",
    )
    parser.add_argument("--version", action="version", version=f"spicore {__version__}")
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _fail(message: str) -> int:
    print(f"spicore: error: {' '.join(message.split())}", file=sys.stderr)
    return 2

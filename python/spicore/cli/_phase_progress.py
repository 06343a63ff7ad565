"""Progress of a phase retrieval: a line now and then, and below it a live line on a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from ..phasing import Progress
from ._progress import duration, in_units

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LEGEND = (
    "R: sum ||F|-A| / sum A; support: share of all voxels; of the seeds at work\n"
    "rate: iterations of one seed per second"
)
HEADER = (
    f"{'iterations':>17} {'seeds done':>11} {'step':<6} {'R':>7} {'support':>8} {'rate/s':>7} "
    f"{'left':>13}"
)

EVERY = 5.0
"""Seconds between lines."""


def line(progress: Progress) -> str:
    """Return the line of a progress, under `HEADER`."""
    p = progress
    done = f"{p.iterations:,}/{p.total:,}"
    seeds = f"{p.finished}/{p.n_seeds}"
    return (
        f"{done:>17} {seeds:>11} {p.stage:<6} {p.r_factor:>7.4f} {p.support:>8.4f} "
        f"{in_units(p.rate):>7} {duration(seconds_left(p)):>13}"
    )


def seconds_left(progress: Progress) -> float:
    """Return the expected time to the end of the iterations."""
    return (progress.total - progress.iterations) / max(progress.rate, 1e-9)


class PhaseReporter:
    """Shows a phase retrieval; `on_progress` is the callback of `phasing.reconstruct`.

    Parameters
    ----------
    stream : file, optional
        Default: stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.last: Progress | None = None
        self._printed = -float("inf")
        self._console: Console | None = None
        self._stack = ExitStack()

    def __enter__(self) -> PhaseReporter:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self.stream)
            live = Live(
                console=self._console,
                get_renderable=self._live_line,
                refresh_per_second=5,
                transient=True,
            )
            self._stack.enter_context(live)
        self._print(LEGEND)
        self._print(HEADER)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def on_progress(self, progress: Progress) -> None:
        """Take in how far it is."""
        if progress.stage == "align":
            self._print("aligning and averaging")
            return
        self.last = progress
        now = time.monotonic()
        if now - self._printed >= EVERY or progress.finished == progress.n_seeds:
            self._print(line(progress))
            self._printed = now

    def _print(self, text: str) -> None:
        if self._console is None:
            print(text, file=self.stream, flush=True)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _live_line(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = Table.grid(padding=(0, 1))
        for _ in range(4):
            row.add_column(no_wrap=True)
        p = self.last
        if p is None:
            row.add_row("starting", ProgressBar(total=1.0, width=24, pulse=True), "", "")
            return row
        share = p.iterations / max(p.total, 1)
        bar = ProgressBar(total=1.0, completed=share, width=24)
        row.add_row(p.stage, bar, f"{100 * share:.0f} %", f"about {duration(seconds_left(p))} left")
        return row

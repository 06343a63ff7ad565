"""Progress of a phase retrieval: a line now and then, and below it a live line on a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from ..phasing import Progress
from ._live import LiveLines, row
from ._progress import duration, in_units

if TYPE_CHECKING:
    from rich.console import RenderableType

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


class PhaseReporter(LiveLines):
    """Shows a phase retrieval; `on_progress` is the callback of `phasing.reconstruct`.

    Parameters
    ----------
    stream : file, optional
        Default: stderr.
    """

    HEAD = (LEGEND, HEADER)

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self.last: Progress | None = None
        self._printed = -float("inf")

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

    def _live_line(self) -> RenderableType:
        p = self.last
        if p is None:
            return row("starting", 0.0, "", "")
        share = p.iterations / max(p.total, 1)
        left = f"about {duration(seconds_left(p))} left"
        return row(p.stage, share, f"{100 * share:.0f} %", left)

"""Progress of a reconstruction: one line per iteration, and below it a live line on a terminal.

The lines are the same in a terminal and in a log; only the live line needs a terminal.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from ..emc import Iteration
from ._live import LiveLines, row

if TYPE_CHECKING:
    from rich.console import RenderableType

STAGES = {"grid": "grid", "refine": "refine", "even": "half 1", "odd": "half 2"}

LEGEND = (
    "log-lik. (log-likelihood) and info (on the orientation): nats, means over frames\n"
    "change: of the model, relative; rate: frames x orientations per second"
)
HEADER = (
    f"{'iter':>4} {'stage':<6} {'beta':>6} {'change':>8} {'log-lik.':>11} {'info':>6} "
    f"{'orient.':>9} {'time':>8} {'rate/s':>7}"
)


def duration(seconds: float) -> str:
    """Write a duration in words that suit its length: 0.21 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def in_units(value: float) -> str:
    """Write a large number with three digits and k, M, G or T."""
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000.0
    return f"{value:.3g} T"


def line(done: Iteration, n_frames: int) -> str:
    """Return the line of an iteration, under `HEADER`."""
    if done.stage in ("even", "odd"):
        n_frames //= 2
    rate = (done.n_frames or n_frames) * done.n_orientations / max(done.seconds, 1e-9)
    return (
        f"{done.iteration:>4} {STAGES.get(done.stage, done.stage):<6} {done.beta:>6.3f} "
        f"{done.change:>8.4f} {done.log_likelihood:>11.2f} {done.mutual_information:>6.2f} "
        f"{done.n_orientations:>9,} {_seconds(done.seconds):>8} {in_units(rate):>7}"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 99.5 else duration(seconds).replace(" min ", "m")


class Reporter(LiveLines):
    """Shows a reconstruction; its methods are the callbacks of `emc.reconstruct`.

    Parameters
    ----------
    n_frames : int
        Frames that take part, for the rate.
    stream : file, optional
        Default: stderr.
    """

    HEAD = (LEGEND, HEADER)

    def __init__(self, n_frames: int, stream: TextIO | None = None) -> None:
        self.n_frames = n_frames
        super().__init__(stream)
        self.finished = 0
        """Number of the last finished iteration, half sets aside."""
        self._stage = ""
        self._fraction = 0.0
        self._began = time.monotonic()
        self._expected: dict[bool, float] = {}  # seconds of the last iteration; key: refinement

    def __enter__(self) -> Reporter:
        self._began = time.monotonic()
        return super().__enter__()

    def on_progress(self, stage: str, fraction: float) -> None:
        """Take in what an iteration is at."""
        self._stage, self._fraction = stage, fraction

    def on_iteration(self, done: Iteration) -> None:
        """Print a finished iteration."""
        if done.stage in ("grid", "refine"):
            self.finished = done.iteration
        self._print(line(done, self.n_frames))
        self._expected[self._stage == "refine"] = done.seconds
        self._fraction = 0.0
        self._began = time.monotonic()

    def _live_line(self) -> RenderableType:
        elapsed = time.monotonic() - self._began
        fraction, left = self._estimate(elapsed)
        share = f"{100 * fraction:.0f} %" if fraction else duration(elapsed)
        rest = "" if left is None else f"about {duration(left)} left"
        return row(self._stage or "reading frames", fraction, share, rest)

    def _estimate(self, elapsed: float) -> tuple[float, float | None]:
        """Fraction done and seconds left, from the frames done or the last iteration's time."""
        if self._fraction > 0.0:
            return self._fraction, elapsed * (1.0 / self._fraction - 1.0)
        expected = self._expected.get(self._stage == "refine", 0.0)
        if elapsed < expected:
            return elapsed / expected, expected - elapsed
        return 0.0, None

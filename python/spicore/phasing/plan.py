"""A schedule cut where something happens: a change of support or coherence, the twin put out."""

from __future__ import annotations

from dataclasses import dataclass

from .config import Config
from .schedule import parse_schedule

DETWIN_AT = 0.25
"""Share of the schedule after which the support is halved (as in PyNX)."""

DETWIN_ITERATIONS = 10


@dataclass(frozen=True)
class Segment:
    """Iterations without interruption.

    Attributes
    ----------
    algorithm : str
    n : int
        Iterations.
    blur : float or None
        Change the support afterwards, with a blur of this standard deviation in voxels.
    halved : bool
        Use one half of the support.
    coherence : bool
        Fit the kernel of coherence afterwards, before the support changes.
    """

    algorithm: str
    n: int
    blur: float | None = None
    halved: bool = False
    coherence: bool = False


def plan(config: Config) -> list[Segment]:
    """Return the segments of a run in order; the last one changes nothing afterwards."""
    steps = [(name, n) for name, n in parse_schedule(config.schedule) if n]
    total = sum(n for _, n in steps)
    changes = set()
    if config.support != "fixed":
        first = max(config.support_start, 1)
        changes = set(range(first, total, config.support_period))
    period = config.coherence
    fits = set(range(period, total, period)) if period else set()
    detwin = max(1, int(DETWIN_AT * total)) if config.detwin and total > 1 else None
    cuts = sorted({*changes, *fits, *(() if detwin is None else (detwin,))})
    result, done = [], 0
    n_changes = 0
    for name, n in steps:
        end = done + n
        for stop in [*(c for c in cuts if done < c < end), end]:
            sigma = None
            if stop in changes:
                sigma = _blur(config, n_changes, len(changes))
                n_changes += 1
            result.append(Segment(name, stop - done, sigma, coherence=stop in fits))
            done = stop
            if stop == detwin:
                result.append(Segment("ER", DETWIN_ITERATIONS, halved=True))
    return result


def _blur(config: Config, change: int, n_changes: int) -> float:
    if not config.blur_start:
        return 0.0
    share = change / max(n_changes - 1, 1)
    return config.blur_start * (config.blur_end / config.blur_start) ** share

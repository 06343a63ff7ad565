"""The report of a 2D classification: contact sheets, occupancies, and the course of the runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import __version__
from ..emc.classes import Classes
from ..emc.classify_config import ClassifyConfig
from . import style
from .figures import _colour_map
from .inputs import write_text
from .numbers import counted
from .page import Card, Picture, Section, page
from .style import BLUE, COLOURS, FAINT

RUNS_SHOWN = 5
COLUMNS, ROWS = 5, 4  # of a sheet: classes are about 100 pixels wide, on a phone 70
MOST_SHOWN = 100
"""Classes of a run that are shown, the fullest ones."""

_FAINTEST = 1e-5
"""Of the brightest: the lower end of the colour scale at most."""


def write(result: Path, out: Path | None) -> Path:
    """Write the report; see `spicore.report.write_classes_report`."""
    classes = Classes.load(result)
    out = result.parent / "report.html" if out is None else out
    config = ClassifyConfig.from_toml(classes.config)
    with style.drawing():
        sections = [_sheets(classes), _course(classes)]
    text = page(
        title=f"2D classes {os.path.basename(os.path.abspath(result.parent))}",
        subtitle=f"{result.resolve()}, spicore {__version__}",
        cards=_cards(classes, config),
        notes=_notes(classes, config),
        sections=sections,
        options=[(name, str(value)) for name, value in vars(config).items()],
    )
    write_text(out, text)
    return out


def _cards(classes: Classes, config: ClassifyConfig) -> list[Card]:
    n_runs, n_frames = classes.class_of.shape
    used = (classes.class_of >= 0).sum(axis=1)
    filled = (classes.occupancy >= 1).sum(axis=1)
    history = classes.history
    runs = f"in each of {n_runs} runs" if n_runs > 1 else "in one run"
    angles = f"{classes.polar.shape[-1]} in-plane angles" if config.rotate else "not turned"
    return [
        Card("Frames", f"{n_frames:,}", f"{_range(used)} used {runs}"),
        Card("Classes", _range(filled), f"with a frame or more, of {config.n_classes}; {angles}"),
        Card(
            "Information",
            f"{np.nanmean(classes.mutual_information):.1f} nats",
            "of a frame on its class and angle",
        ),
        Card(
            "State",
            "converged" if _converged(classes, config).all() else "not converged",
            f"{counted(len(history['iteration']), 'iteration')}, {history['seconds'].sum():.0f} s",
        ),
    ]


def _range(values: NDArray) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _last(classes: Classes) -> NDArray[np.int64]:
    """Return the place of the last iteration of each run in the history."""
    run = classes.history["run"]
    return np.flatnonzero(np.diff(run, append=run[-1] + 1))


def _converged(classes: Classes, config: ClassifyConfig) -> NDArray[np.bool_]:
    return classes.history["change"][_last(classes)] < config.tolerance


def _notes(classes: Classes, config: ClassifyConfig) -> list[str]:
    result = []
    late = ~_converged(classes, config)
    if late.any():
        change = classes.history["change"][_last(classes)][late].max()
        result.append(
            f"{int(late.sum())} of {counted(len(late), 'run')} had not converged after "
            f"{counted(config.iterations, 'iteration')}: the averages still changed by "
            f"{change:.2g} (limit {config.tolerance:g}). Raise --iterations."
        )
    biggest = classes.occupancy.max(axis=1) / classes.occupancy.sum(axis=1)
    if config.n_classes > 1 and biggest.max() > 0.9:
        result.append(
            f"One class holds {100 * biggest.max():.0f} % of the frames: they tell little apart. "
            f"Frames with too few photons, or a background that hides them, look like that."
        )
    return result


# Figures


def _sheets(classes: Classes) -> Section:
    n_runs, n_classes = classes.occupancy.shape
    shown = min(n_classes, MOST_SHOWN)
    pictures = []
    for run in range(min(n_runs, RUNS_SHOWN)):
        which = f"Run {run + 1}, classes" if n_runs > 1 else "Classes"
        for first in range(0, shown, COLUMNS * ROWS):
            last = min(first + COLUMNS * ROWS, shown)
            pictures.append(
                Picture(
                    f"sheet-{run}-{first}",
                    style.data_uri(contact_sheet(classes, run, first, last), pixels=True),
                    f"Contact sheet of the classes of run {run + 1}",
                    f"{which} {first + 1} to {last} by number of frames.",
                )
            )
    which = f"The {shown} fullest of {n_classes} classes" if shown < n_classes else "All classes"
    more = f" Of {n_runs} runs the first {RUNS_SHOWN} are shown." if n_runs > RUNS_SHOWN else ""
    return Section(
        "Class averages",
        f"{which}, fullest first, on one logarithmic scale; above each its number and how many "
        f"frames it holds. Grey was not seen.{more}",
        pictures,
    )


def contact_sheet(classes: Classes, run: int, first: int, last: int) -> Figure:
    """Class averages of one run, fullest first, on one logarithmic scale of colours.

    Parameters
    ----------
    classes : Classes
    run : int
        From 0.
    first, last : int
        Classes from rank `first` to before `last`, by occupancy; from 0.
    """
    occupancy = classes.occupancy[run]
    order = np.argsort(-occupancy, kind="stable")
    norm = _norm(classes.averages[run, order[occupancy[order] >= 1]])
    rows = -(-(last - first) // COLUMNS)
    fig = style.figure(rows * (style.WIDTH / COLUMNS + 0.15) + 0.6)
    axes = fig.subplots(rows, COLUMNS, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for ax, k in zip(axes.ravel(), order[first:last], strict=False):
        average = np.maximum(classes.averages[run, k], norm.vmin)  # gaps stay NaN
        ax.imshow(average.T, norm=norm, cmap=_colour_map(), origin="lower", interpolation="nearest")
        ax.set_title(f"{k}:  {occupancy[k]:,.0f}", fontsize=8, pad=2)
    scale = ScalarMappable(norm, _colour_map())
    bar = fig.colorbar(scale, ax=axes, location="bottom", aspect=50, pad=0.01, shrink=0.7)
    bar.set_label("intensity (photons per pixel)")
    bar.outline.set_visible(False)
    return fig


def _norm(averages: NDArray[np.float32]) -> LogNorm:
    """Return a scale from what the faint pixels hold to what the bright ones do."""
    positive = averages[np.isfinite(averages) & (averages > 0)]
    if not positive.size:
        return LogNorm(1e-3, 1.0)
    high = float(np.percentile(positive, 99.8))
    low = float(np.percentile(positive[positive > _FAINTEST * high], 5.0))
    return LogNorm(low, max(high, 10.0 * low))


def _course(classes: Classes) -> Section:
    return Section(
        "The runs",
        "",
        [
            Picture(
                "occupancy",
                style.data_uri(occupancy(classes)),
                "Frames in each class, sorted",
                "Expected number of frames in each class, fullest first; one line per run. Classes "
                "with hardly a frame say that fewer would do.",
            ),
            Picture(
                "convergence",
                style.data_uri(convergence(classes)),
                "Change and log-likelihood over the iterations",
                "Top: relative change of the averages, which rises whenever beta does. Below: "
                "mean log-likelihood of a frame, from the first iteration on.",
            ),
        ],
    )


def occupancy(classes: Classes) -> Figure:
    """Frames in each class, fullest first, of all runs."""
    fig, ax = style.panel(3.6)
    for run, values in enumerate(classes.occupancy):
        rank = np.arange(1, len(values) + 1)
        ax.plot(
            rank,
            np.sort(values)[::-1],
            color=COLOURS[run % len(COLOURS)],
            marker="o" if len(values) <= 60 else "",
            ms=3,
        )
    ax.set_xlabel("rank of the class")
    ax.set_ylabel("frames")
    ax.set_ylim(bottom=0)
    style.whole_numbers(ax)
    return fig


def convergence(classes: Classes) -> Figure:
    """Change of the averages, beta and log-likelihood of each iteration, of all runs."""
    history = classes.history
    fig = style.figure(3.6)
    upper, lower = fig.subplots(2, 1, sharex=True)
    for ax in (upper, lower):
        style.light_grid(ax)
    for run in range(len(classes.occupancy)):
        part = history["run"] == run
        x, colour = history["iteration"][part], COLOURS[run % len(COLOURS)]
        upper.plot(x, history["change"][part], color=colour, marker="o", ms=2)
        upper.plot(x, history["beta"][part], color=FAINT, drawstyle="steps-mid", lw=1.0)
        gain = history["log_likelihood"][part]
        lower.plot(x, gain - gain[0], color=colour, marker="o", ms=2)
    upper.set_yscale("log")
    upper.set_ylabel("change (grey: beta)", color=BLUE)
    lower.set_ylabel("log-likelihood\ngain (nats)")
    lower.set_xlabel("iteration")
    style.whole_numbers(lower)
    fig.align_ylabels([upper, lower])
    return fig

"""One look for all figures: sizes, colours, axes; and figures as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito, "Color universal design" (2008): told apart with any colour vision.
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, "#e69f00", "#56b4e9")
INK, FAINT, GAP = "#1f2933", "#8895a3", "#c9cfd6"  # text, helper lines, not observed

MAP = "magma"
"""Colour map of intensities: even in lightness, so it prints in grey; it holds no grey itself."""

WIDTH = 4.8
"""Inches. A column of the page, or a phone: text of 10 points then is about 10 pixels."""

_PNG_DPI = 200

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "spicore",  # the same result makes the same file
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in this style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, sizes in inches."""
    return Figure(figsize=(width, height))


def panel(height: float, width: float = WIDTH, **options: Any) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes and a light grid."""
    fig = figure(height, width)
    ax = fig.add_subplot(**options)
    light_grid(ax)
    return fig, ax


def light_grid(ax: Axes) -> None:
    """Add a grid that stays behind the data."""
    ax.grid(True, color="#e6eaee", linewidth=0.7)


def data_uri(fig: Figure, *, pixels: bool = False) -> str:
    """Return a figure as a data URI: SVG, or PNG where it is made of pixels."""
    buffer = io.BytesIO()
    if pixels:
        fig.savefig(buffer, format="png", dpi=_PNG_DPI)
        kind = "png"
    else:
        fig.savefig(buffer, format="svg", metadata={"Date": None})
        kind = "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def q_unit(voxel_size: float | None) -> tuple[float, str]:
    """Return what a voxel is on the axes, and the unit's name."""
    return (1.0, "voxels") if voxel_size is None else (voxel_size, "1/Å")


def resolution_axis(ax: Axes, voxel_size: float | None) -> None:
    """Mark the full period d = 1/q along the top of axes in 1/Å; nothing if q is in voxels."""
    if voxel_size is None:
        return
    q_max = ax.get_xlim()[1]
    top = ax.twiny()
    top.spines["top"].set_visible(True)
    top.set_xlim(ax.get_xlim())
    ticks = nice_periods(q_max)
    top.set_xticks([1.0 / d for d in ticks], [f"{d:g}" for d in ticks])
    top.set_xlabel("resolution d = 1/q (Å)")
    top.tick_params(length=3)


def nice_periods(q_max: float, n: int = 5) -> list[float]:
    """Return up to n round values of d whose q = 1/d spread evenly up to `q_max`."""
    chosen: list[float] = []
    for q in q_max * np.arange(1, n + 1) / n:
        d = round_nicely(1.0 / q)
        if 1.0 / d <= q_max * 1.0001 and d not in chosen:
            chosen.append(d)
    return chosen


def round_nicely(value: float) -> float:
    """Round to a number that is easy to read: 1.7, 2, 2.5, 3.5 ... times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    steps = np.array([1, 1.2, 1.4, 1.7, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10])
    return float(f"{steps[np.argmin(np.abs(np.log(steps * power / value)))] * power:.6g}")


def whole_numbers(ax: Axes) -> None:
    """Put ticks of x at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


Draw = Callable[..., Figure]

"""The figures of a report on phase retrieval, one function each."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..phasing import Solutions
from . import style
from .style import BLUE, FAINT, GREEN, INK, VERMILION

AXES = "xyz"
DENSITY_MAP = "cividis"
PHASE_MAP = "twilight"

_MARGIN = 3  # voxels around the support
_SURFACE_PIXELS = 240
_LEVEL = 0.25
"""Of the 99.5th percentile of the density inside of the support: where the surface is drawn."""

_LIGHT = np.array([-0.4, 0.5, 0.77])  # across, up, towards the reader


def window(solutions: Solutions) -> tuple[slice, ...]:
    """Return the part of the density that holds the support and a margin."""
    parts = []
    for axis, n in enumerate(solutions.support.shape):
        others = tuple(i for i in range(solutions.support.ndim) if i != axis)
        inside = np.flatnonzero(solutions.support.any(axis=others))
        first, last = (0, n - 1) if not inside.size else (inside[0], inside[-1])
        parts.append(slice(max(0, first - _MARGIN), min(n, last + _MARGIN + 1)))
    return tuple(parts)


def _extent(solutions: Solutions, axes: tuple[int, int]) -> tuple[list[float], str]:
    """Return the edges of the picture of two axes, and their unit (of the density)."""
    parts = window(solutions)
    unit, edges = "voxels", []
    for axis in axes:
        n, size = solutions.density.shape[axis], 1.0
        if solutions.voxel_size is not None:
            unit, size = "Å", float(solutions.voxel_size[axis])
        edges += [
            (parts[axis].start - n // 2 - 0.5) * size,
            (parts[axis].stop - n // 2 - 0.5) * size,
        ]
    return edges, unit


def _picture(
    solutions: Solutions, values: NDArray, axes: tuple[int, int], norm: Normalize, label: str,
    title: str = "", colours: str = DENSITY_MAP,
) -> Figure:  # fmt: skip
    fig = style.figure(3.1, 3.7)
    ax = fig.add_subplot()
    extent, unit = _extent(solutions, axes)
    picture = ax.imshow(
        values.T, norm=norm, cmap=colours, origin="lower", extent=extent, interpolation="nearest"
    )
    ax.set_xlabel(f"{AXES[axes[0]]} ({unit})")
    ax.set_ylabel(f"{AXES[axes[1]]} ({unit})")
    ax.set_title(title)
    ax.locator_params(nbins=5)
    bar = fig.colorbar(picture, ax=ax, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return fig


def _norm(values: NDArray) -> Normalize:
    low, high = float(values.min()), float(np.percentile(values, 99.9))
    return Normalize(min(low, 0.0), high if high > low else low + 1.0)


def _size(solutions: Solutions) -> NDArray:
    """Return what is shown of the density: of a complex one its absolute value."""
    density = solutions.density[window(solutions)]
    return np.abs(density) if np.iscomplexobj(density) else density


def _named(solutions: Solutions) -> str:
    return "|density|" if np.iscomplexobj(solutions.density) else "density"


def density_slice(solutions: Solutions, axis: int) -> Figure:
    """Slice through the density across an axis, at its middle of the whole grid."""
    density = _size(solutions)
    place = solutions.density.shape[axis] // 2 - window(solutions)[axis].start
    place = int(np.clip(place, 0, density.shape[axis] - 1))
    axes = tuple(i for i in range(3) if i != axis)
    return _picture(
        solutions,
        density.take(place, axis),
        axes,
        _norm(density),
        _named(solutions),
        f"{AXES[axis]} = 0",
    )


def projection(solutions: Solutions, axis: int) -> Figure:
    """Sum of the density along an axis."""
    total = _size(solutions).sum(axis=axis)
    axes = tuple(i for i in range(3) if i != axis)
    return _picture(solutions, total, axes, _norm(total), "sum", f"along {AXES[axis]}")


def image(solutions: Solutions) -> Figure:
    """The density of a 2D reconstruction, of a complex one its absolute value."""
    values = _size(solutions)
    return _picture(solutions, values, (0, 1), _norm(values), _named(solutions))


def phases(solutions: Solutions) -> Figure:
    """Phase of a complex density where the support is, in the middle slice of a volume."""
    part = window(solutions)
    density, support = solutions.density[part], solutions.support[part]
    if density.ndim == 3:
        place = solutions.density.shape[2] // 2 - part[2].start
        density, support = density[:, :, place], support[:, :, place]
    values = np.where(support, np.angle(density), np.nan)
    return _picture(
        solutions, values, (0, 1), Normalize(-np.pi, np.pi), "phase (radians)", colours=PHASE_MAP
    )


def surface(solutions: Solutions, axis: int) -> Figure:
    """Surface of equal density seen along an axis, shaded: a picture, not a measurement."""
    density = np.moveaxis(_size(solutions), axis, 2).astype(np.float64)
    inside = np.moveaxis(solutions.support[window(solutions)], axis, 2)
    level = _LEVEL * float(np.percentile(density[inside], 99.5)) if inside.any() else 0.0
    factor = max(1, round(_SURFACE_PIXELS / max(density.shape)))
    shade = _shaded(_finer(density, min(factor, 4)), level)
    axes = tuple(i for i in range(3) if i != axis)
    fig = style.figure(3.1, 3.1)
    ax = fig.add_subplot()
    extent, unit = _extent(solutions, axes)
    ax.imshow(
        shade.T,
        cmap="gray",
        vmin=0,
        vmax=1,
        origin="lower",
        extent=extent,
        interpolation="bilinear",
    )
    ax.set_xlabel(f"{AXES[axes[0]]} ({unit})")
    ax.set_ylabel(f"{AXES[axes[1]]} ({unit})")
    ax.set_title(f"seen along {AXES[axis]}")
    ax.locator_params(nbins=5)
    return fig


def _finer(density: NDArray, factor: int) -> NDArray:
    """Return the density on a grid finer by a whole factor, linear between voxel centres."""
    for axis in range(density.ndim):
        n = density.shape[axis]
        at = (np.arange(n * factor) + 0.5) / factor - 0.5
        low = np.clip(np.floor(at).astype(int), 0, n - 1)
        high = np.minimum(low + 1, n - 1)
        share = np.clip(at - low, 0, 1).reshape([-1 if i == axis else 1 for i in range(3)])
        density = density.take(low, axis) * (1 - share) + density.take(high, axis) * share
    return density


def _shaded(density: NDArray, level: float) -> NDArray:
    """Return the brightness [across, up] of the first surface seen from large z; 1: nothing."""
    above = density > level
    hit = above.any(axis=2)
    depth = density.shape[2] - 1 - above[:, :, ::-1].argmax(axis=2)
    result = np.ones(hit.shape)
    i, j = np.nonzero(hit)
    slopes = [g[i, j, depth[i, j]] for g in np.gradient(_smooth(density))]
    normal = -np.stack(slopes, axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    light = np.clip(normal @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    near = (depth[i, j] - depth[i, j].min()) / max(np.ptp(depth[i, j]), 1)
    result[i, j] = 0.1 + 0.6 * light + 0.2 * near
    return result


def _smooth(density: NDArray) -> NDArray:
    """Return means over 5 voxels along each axis: normals of single voxels are rough."""
    for axis in range(3):
        padded = np.pad(density, [(2, 2) if i == axis else (0, 0) for i in range(3)], mode="edge")
        n = density.shape[axis]
        density = sum(padded.take(range(k, k + n), axis) for k in range(5)) / 5
    return density


def agreement(solutions: Solutions) -> Figure:
    """PRTF and FSC over radius, with the usual thresholds."""
    fig, ax = style.panel(3.6)
    curves, scale, unit, q_voxel = _scale(solutions)
    for y, text in ((0.5, "0.5"), (np.exp(-1), "1/e"), (0.143, "0.143")):
        ax.axhline(y, color=FAINT, lw=0.8, ls=":")
        ax.annotate(text, (1.0, y), (-3, 2), xycoords=("axes fraction", "data"), fontsize=8,
                    textcoords="offset points", ha="right", color=FAINT)  # fmt: skip
    x = curves["radius"] * scale
    ax.plot(x, curves["prtf"], color=BLUE, label="PRTF")
    ax.plot(x, curves["fsc"], color=VERMILION, label="FSC of two halves of the seeds")
    if solutions.n_kept > 1:
        chance = 0.886 / np.sqrt(solutions.n_kept)  # mean length of a random walk
        ax.axhline(chance, color=BLUE, lw=0.8, ls="--", label="PRTF of unrelated phases")
    _shade_centre(ax, curves, scale)
    ax.set_xlim(0, x[-1])
    ax.set_ylim(min(0.0, np.nanmin(np.append(curves["fsc"], 0.0))) - 0.02, 1.02)
    ax.set_xlabel(f"q ({unit})")
    ax.legend(loc="lower left")
    style.resolution_axis(ax, q_voxel)
    return fig


def power(solutions: Solutions) -> Figure:
    """Shell means of the measured intensity, of the average's, and of the background."""
    fig, ax = style.panel(3.6)
    curves, scale, unit, q_voxel = _scale(solutions)
    x = curves["radius"] * scale
    ax.plot(x, curves["data"], color=INK, lw=2.4, alpha=0.5, label="measured")
    ax.plot(x, curves["power"], color=BLUE, label="average of the seeds")
    if "background" in curves:
        ax.plot(x, curves["background"], color=GREEN, label="background")
    _shade_centre(ax, curves, scale)
    ax.set_yscale("log")
    positive = curves["data"][np.nan_to_num(curves["data"]) > 0]
    if positive.size:
        ax.set_ylim(positive.min() / 5, np.nanmax(np.append(curves["power"], positive)) * 3)
    ax.set_xlim(0, x[-1])
    ax.set_xlabel(f"q ({unit})")
    ax.set_ylabel("mean intensity")
    ax.legend()
    style.resolution_axis(ax, q_voxel)
    return fig


def _scale(solutions: Solutions) -> tuple[dict[str, NDArray], float, str, float | None]:
    """Return curves, what a voxel of q is on the axis, its unit, and its size in 1/A."""
    longest = solutions.in_angstrom(1.0)
    q_voxel = None if longest is None else 1.0 / longest
    scale, unit = style.q_unit(q_voxel)
    return solutions.curves, scale, unit, q_voxel


def _shade_centre(ax: Axes, curves: dict[str, NDArray], scale: float) -> None:
    """Shade the shells of the centre in which nothing was measured."""
    seen = np.flatnonzero(np.isfinite(curves["data"]))
    if seen.size and seen[0] > 0:
        ax.axvspan(0, (seen[0] - 0.5) * scale, color="#f1f4f7", lw=0, zorder=0)


def seed_scores(solutions: Solutions) -> Figure:
    """Histogram of what seeds are ranked by: those that passed and the others."""
    scores = solutions.scores
    free = np.isfinite(scores["free_llk"]).any()
    values = scores["free_llk"] if free else scores["llk"]
    fig, ax = style.panel(3.2)
    finite = np.isfinite(values)
    low, high = values[finite].min(), values[finite].max()
    if high / max(low, 1e-300) > 20:
        edges = np.geomspace(low, high * 1.0001, 24)
        ax.set_xscale("log")
    else:
        edges = np.linspace(low, high if high > low else low + 1.0, 24)
    kept = scores["kept"]
    ax.hist([values[kept & finite], values[~kept & finite]], edges, stacked=True,
            color=[BLUE, VERMILION], label=["passed", "rejected"])  # fmt: skip
    ax.set_xlabel(f"{'free ' if free else ''}log-likelihood per voxel (0: a perfect fit)")
    ax.set_ylabel("seeds")
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return fig


def course(solutions: Solutions) -> Figure:
    """R factor and size of the support of each seed over the iterations."""
    fig = style.figure(4.4)
    upper, lower = fig.subplots(2, 1, sharex=True)
    history, kept = solutions.history, solutions.scores["kept"]
    for ax in (upper, lower):
        style.light_grid(ax)
    x = np.arange(1, history["r_factor"].shape[1] + 1)
    for s in np.argsort(kept, kind="stable"):
        colour = BLUE if kept[s] else VERMILION
        upper.plot(x, history["r_factor"][s], color=colour, lw=0.7, alpha=0.6)
        lower.plot(history["segment"], 100 * history["support"][s], color=colour, lw=0.7, alpha=0.6,
                   drawstyle="steps-pre")  # fmt: skip
    upper.set_yscale("log")
    upper.set_ylim(0.8 * np.nanmin(history["r_factor"][:, 1:], initial=1.0), None)  # 0 at first
    upper.set_ylabel("R factor")
    lower.set_ylabel("support (% of voxels)")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("iteration")
    lower.set_xlim(0, x[-1])
    fig.align_ylabels([upper, lower])
    return fig


def mode_weights(solutions: Solutions) -> Figure:
    """Share of the power in the orthogonal modes of the aligned seeds."""
    fig, ax = style.panel(3.2)
    weights = 100 * solutions.mode_weights[:20]
    ax.bar(np.arange(len(weights)), weights, color=BLUE)
    for k in np.flatnonzero(weights[:3] >= 1):  # labels of lower bars would overlap
        text, place = f"{weights[k]:.3g} %", (k, weights[k])
        ax.annotate(text, place, (0, 2), textcoords="offset points", ha="center", fontsize=8)
    ax.set_xlabel("mode")
    ax.set_ylabel("share of the power (%)")
    ax.set_ylim(0, 108)
    style.whole_numbers(ax)
    return fig


def centre_modes(solutions: Solutions) -> Figure:
    """Least determined modes of a missing centre: how much is missing, and spread over seeds."""
    opened = solutions.undetermined
    fig, ax = style.panel(3.2)
    x = np.arange(1, len(opened.missing) + 1)
    ax.bar(x - 0.2, 100 * opened.missing, 0.4, color=VERMILION, label="power not measured")
    relative = 100 * opened.spread / np.maximum(np.max(opened.value, initial=1e-300), 1e-300)
    ax.bar(x + 0.2, relative, 0.4, color=BLUE, label="spread over seeds, of the largest mode")
    ax.axhline(90, color=FAINT, lw=0.8, ls=":")
    ax.set_xlabel("mode of the missing centre")
    ax.set_ylabel("%")
    ax.set_ylim(0, 119)
    ax.legend(loc="upper right")
    style.whole_numbers(ax)
    return fig

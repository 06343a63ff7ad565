"""The figures of a report, one function each: from `Data` to a Matplotlib figure."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from .. import metrics, orientations
from . import style
from .data import Data, Example, directions
from .numbers import THRESHOLD, by_mode, featureless, observed_radius, shell_of
from .style import BLUE, COLOURS, FAINT, GAP, GREEN, INK, VERMILION

Float64 = NDArray[np.float64]

AXES = "xyz"

_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 300, 1000, 3000, 10_000, 30_000)

COVERAGE_NOISE = 0.14
"""Relative spread that the density of evenly spread directions would show."""

_FAINTEST = 1e-8
"""Of the brightest: below that there were no photons, and a scale would show only that."""

_DIRECTIONS = 10_000  # that many resolve 8 degrees at this noise


def _colour_map(name: str = style.MAP) -> Colormap:
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=GAP)


# Volume


def slice_norm(data: Data) -> LogNorm:
    """Return the colour scale that all slices of a result share."""
    volumes, weights = by_mode(data.result.intensity), by_mode(data.result.weight)
    centre = volumes.shape[-1] // 2
    across = np.arange(volumes.shape[-1]) - centre
    inside = np.hypot(across[:, None], across) <= _scale_radius(data)
    values = []
    for volume, weight in zip(volumes, weights, strict=True):
        for axis in range(3):
            plane, seen = volume.take(centre, axis), weight.take(centre, axis) > 0
            values.append(plane[inside & seen & (plane > 0)])
    together = np.concatenate(values)
    if not together.size:
        return LogNorm(1e-3, 1.0)
    high = float(np.percentile(together, 99.8))
    low = float(np.percentile(together[together > _FAINTEST * high], 4.0))
    return LogNorm(low, max(high, 10.0 * low))


def _round_numbers(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two numbers."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [m * 10.0**k for k in powers for m in (1, 2, 5) if low <= m * 10.0**k <= high]


def _scale_radius(data: Data) -> float:
    """Return the radius inside which the colours should tell things apart: beyond is noise."""
    resolution = data.summary.resolution
    if resolution is None or np.isnan(resolution.radius):
        return float(data.summary.reach)
    return 1.3 * resolution.radius


def volume_slice(data: Data, mode: int, axis: int, norm: LogNorm) -> Figure:
    """Slice through the centre of a volume, across `axis`; grey where nothing was observed."""
    volume = by_mode(data.result.intensity)[mode]
    weight = by_mode(data.result.weight)[mode]
    size = len(volume)
    scale, unit = style.q_unit(data.summary.voxel_size)
    plane = np.where(weight.take(size // 2, axis) > 0, volume.take(size // 2, axis), np.nan)
    plane = np.maximum(plane, norm.vmin)  # merged, but without photons; gaps stay NaN
    fig = style.figure(3.1, 3.7)
    ax = fig.add_subplot()
    first, last = -(size // 2) - 0.5, size - size // 2 - 0.5
    picture = ax.imshow(
        plane.T,
        norm=norm,
        cmap=_colour_map(),
        origin="lower",
        extent=np.array([first, last, first, last]) * scale,
        interpolation="nearest",
    )
    across, up = (name for i, name in enumerate(AXES) if i != axis)
    ax.set_xlabel(f"$q_{across}$ ({unit})")
    ax.set_ylabel(f"$q_{up}$ ({unit})")
    ax.set_title(f"$q_{AXES[axis]}$ = 0")
    ax.locator_params(nbins=5)
    _resolution_circle(ax, data, scale)
    bar = fig.colorbar(picture, ax=ax, pad=0.02)
    bar.set_label("intensity (photons per pixel)")
    if norm.vmax < 300 * norm.vmin:  # powers of ten alone would be too few
        bar.set_ticks(_round_numbers(norm.vmin, norm.vmax), minor=False)
        bar.ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.outline.set_visible(False)
    return fig


def _resolution_circle(ax: Axes, data: Data, scale: float) -> None:
    from matplotlib.patches import Circle

    resolution = data.summary.resolution
    if resolution is None or np.isnan(resolution.radius) or resolution.to_the_edge:
        return
    radius = resolution.radius * scale
    ax.add_patch(Circle((0, 0), radius, fill=False, color="white", lw=1.0, ls=(0, (4, 3))))


def radial_average(data: Data) -> Figure:
    """Mean intensity over radius, and the spread of the shell of the main mode."""
    scale, unit = style.q_unit(data.summary.voxel_size)
    fig, ax = style.panel(3.5)
    volumes, weights = by_mode(data.result.intensity), by_mode(data.result.weight)
    lowest = np.inf
    for mode, (volume, weight) in enumerate(zip(volumes, weights, strict=True)):
        radius, mean, low, high = _radial(volume, weight)
        if not radius.size:
            continue
        colour = COLOURS[mode % len(COLOURS)]
        label = "mean" if len(volumes) == 1 else f"mode {mode + 1}"
        ax.plot(radius * scale, mean, color=colour, label=label)
        if mode == data.main_mode:
            ax.fill_between(
                radius * scale,
                np.maximum(low, 1e-30),
                high,
                color=colour,
                alpha=0.18,
                lw=0,
                label="10 to 90 % of the voxels",
            )
        positive = mean[mean > _FAINTEST * mean.max()]
        lowest = min(lowest, positive.min()) if positive.size else lowest
    _true_radial(ax, data, scale)
    ax.set_yscale("log")
    if np.isfinite(lowest):
        ax.set_ylim(bottom=lowest / 5)
    ax.set_xlim(0, None)
    ax.set_xlabel(f"q ({unit})")
    ax.set_ylabel("intensity (photons per pixel)")
    style.resolution_axis(ax, data.summary.voxel_size)
    if len(ax.get_legend_handles_labels()[0]) <= 8:
        ax.legend()
    return fig


def _true_radial(ax: Axes, data: Data, scale: float) -> None:
    if data.comparison is None or data.comparison.true_volume is None:
        return
    mode = data.main_mode
    weight = by_mode(data.result.weight)[mode]
    radius, mean, *_ = _radial(by_mode(data.result.intensity)[mode], weight)
    _, true, *_ = _radial(data.comparison.true_volume, weight)
    if radius.size and true.sum() > 0:
        # one factor for all shells, fitted to the logarithm, so that no shell rules it
        positive = (true > 0) & (mean > 0)
        factor = np.exp(np.mean(np.log(mean[positive] / true[positive])))
        ax.plot(radius * scale, true * factor, color=INK, lw=1.0, ls="--", label="truth, scaled")


def _radial(volume: NDArray, weight: NDArray) -> tuple[Float64, Float64, Float64, Float64]:
    """Return radius, mean and the 10th and 90th percentile of the observed voxels of shells."""
    half = slice(len(volume) // 2, None)  # the other half is its mirror image
    reach = observed_radius(weight)
    shell = shell_of(len(volume))[half]
    used = (weight[half] > 0) & (shell <= reach)
    shell, values = shell[used], volume[half][used].astype(np.float64)
    order = np.lexsort((values, shell))
    shell, values = shell[order], values[order]
    radius, start, n = np.unique(shell, return_index=True, return_counts=True)
    mean = np.add.reduceat(values, start) / n if n.size else values
    low = values[start + (0.1 * (n - 1)).astype(int)]
    high = values[start + (0.9 * (n - 1)).astype(int)]
    return radius.astype(np.float64), mean, low, high


# The run


def convergence(data: Data) -> Figure:
    """Change, log-likelihood and mutual information of each iteration, and beta."""
    history = data.result.history
    x = np.asarray(history["iteration"])
    spans = _stages(history)
    fig = style.figure(5.6)
    upper, middle, lower = fig.subplots(3, 1, sharex=True)
    for ax in (upper, middle, lower):
        style.light_grid(ax)
        for k, (a, b) in enumerate(spans):
            if k % 2:
                ax.axvspan(x[a] - 0.5, x[b - 1] + 0.5, color="#f1f4f7", zorder=0, lw=0)
    upper.plot(x, history["change"], color=BLUE, marker="o", ms=2.5)
    upper.set_yscale("log")
    upper.set_ylabel("change of\nthe model", color=BLUE)
    upper.axhline(data.config.tolerance, color=BLUE, lw=0.8, ls=":")
    _beta(upper, x, history["beta"])
    _stage_names(upper, data, x, spans)
    for a, b in spans:
        gain = history["log_likelihood"][a:b] - history["log_likelihood"][a]
        middle.plot(x[a:b], gain, color=BLUE, marker="o", ms=2.5)
        ceiling = np.log(np.maximum(history["n_orientations"][a:b], 1))
        lower.plot(x[a:b], history["mutual_information"][a:b], color=BLUE, marker="o", ms=2.5)
        lower.plot(x[a:b], ceiling, color=FAINT, lw=1.0, ls="--")
    middle.set_ylabel("log-likelihood gain\n(nats per frame)")
    lower.set_ylabel("information\n(nats per frame)")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("iteration")
    lower.set_xlim(x[0] - 0.5, x[-1] + 0.5)
    style.whole_numbers(lower)
    fig.align_ylabels([upper, middle, lower])
    return fig


def _beta(ax: Axes, x: NDArray, beta: NDArray) -> None:
    right = ax.twinx()
    right.plot(x, beta, color=VERMILION, drawstyle="steps-mid", lw=1.4)
    right.set_yscale("log")
    right.set_ylim(min(float(np.min(beta)) / 1.5, 0.5), 1.6)
    right.set_ylabel("beta", color=VERMILION)
    right.spines["right"].set_visible(True)
    right.yaxis.set_major_locator(LogLocator(numticks=4))
    right.yaxis.set_minor_formatter(NullFormatter())


def _stages(history: dict[str, NDArray]) -> list[tuple[int, int]]:
    """Return [first, last + 1) of iterations with the same orientations and radius."""
    n, radius = np.asarray(history["n_orientations"]), np.asarray(history["radius"])
    breaks = np.flatnonzero((np.diff(n) != 0) | (np.diff(radius) != 0)) + 1
    edges = [0, *breaks.tolist(), len(n)]
    return list(itertools.pairwise(edges))


def _stage_names(ax: Axes, data: Data, x: NDArray, spans: list[tuple[int, int]]) -> None:
    n = data.result.history["n_orientations"]
    first_refined = len(x) - data.summary.n_refined
    for a, b in spans:
        name = "local" if a >= first_refined else f"{int(n[a]):,} orient."
        room = (b - a) / len(x) * 46  # characters that fit above the stage
        if room >= len(name):
            place = (x[a] + x[b - 1]) / 2
            ax.annotate(
                name,
                (place, 1.0),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
            )


def coverage(data: Data) -> Figure:
    """Density of the beam directions on the sphere, in the frame of the model."""
    longitude, latitude, density = _direction_density(directions(data))
    fig = style.figure(2.9)
    ax = fig.add_subplot(projection="mollweide")
    high = max(2.0, float(np.percentile(density, 99.5)))
    picture = ax.pcolormesh(
        longitude,
        latitude,
        density,
        cmap="viridis",
        norm=Normalize(0.0, high),
        shading="gouraud",
        rasterized=True,
    )
    ax.grid(True, color="white", alpha=0.35, lw=0.6)
    ax.set_xticks(np.radians([-120, -60, 0, 60, 120]), [])
    ax.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["-60°", "-30°", "0°", "30°", "60°"])
    bar = fig.colorbar(picture, ax=ax, shrink=0.8, pad=0.03, extend="max")
    bar.set_label("frames, relative to\neven coverage")
    bar.outline.set_visible(False)
    return fig


def empty_directions(data: Data) -> float:
    """Return the share of the sphere where the density of beam directions is below 0.2."""
    _, latitude, density = _direction_density(directions(data))
    area = np.cos(latitude)[:, None] * np.ones_like(density)
    return float(area[density < 0.2].sum() / area.sum())


def _direction_density(vectors: Float64) -> tuple[Float64, Float64, Float64]:
    """Return longitude [L], latitude [B] and the density [B, L] smoothed on the sphere.

    A von Mises-Fisher kernel of concentration k leaves a relative noise of sqrt(k / F) for F
    directions; k is chosen to make that `COVERAGE_NOISE`. Cost: 0.5 s at most.
    """
    vectors = vectors[:: -(-len(vectors) // _DIRECTIONS)]
    kappa = float(np.clip(COVERAGE_NOISE**2 * len(vectors), 8.0, 300.0))
    longitude = np.linspace(-np.pi, np.pi, 121)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 61)
    across = np.stack([np.cos(longitude), np.sin(longitude)], axis=1)
    density = np.empty((latitude.size, longitude.size))
    for row, angle in zip(density, latitude, strict=True):
        points = np.column_stack([np.cos(angle) * across, np.full(len(across), np.sin(angle))])
        cosine = points.astype(np.float32) @ vectors.T.astype(np.float32)
        row[:] = np.exp(np.float32(kappa) * (cosine - 1)).sum(axis=1)
    whole = len(vectors) * (1.0 - np.exp(-2.0 * kappa)) / (2.0 * kappa)
    return longitude, latitude, density / whole


def fluence_histogram(data: Data) -> Figure:
    """How the fitted fluences are spread."""
    fluence = data.result.fluence[data.used].astype(np.float64)
    fig, ax = style.panel(3.1)
    bins = int(np.clip(np.sqrt(fluence.size), 10, 60))
    high = np.percentile(fluence, 99.9) * 1.05
    ax.hist(fluence, bins=bins, range=(0.0, high), color=BLUE, alpha=0.85)
    ax.axvline(1.0, color=INK, lw=0.8, ls=":")
    ax.set_xlabel("fluence (relative to the mean)")
    ax.set_ylabel("frames")
    ax.set_title(f"mean {fluence.mean():.2f}, standard deviation {fluence.std():.2f}")
    ax.set_xlim(0.0, high)
    return fig


def example(one: Example) -> Figure:
    """A frame and the tomogram that fits it best, on the same colour scale."""
    fig = style.figure(2.75)
    left, right = fig.subplots(1, 2)
    bright = one.frame[np.isfinite(one.frame)]
    high = max(float(np.percentile(bright, 99.9)), 1.0) if bright.size else 1.0
    norm = PowerNorm(0.45, 0.0, high, clip=False)
    for ax, picture, name in ((left, one.frame, "frame"), (right, one.tomogram, "model")):
        ax.imshow(picture.T, norm=norm, cmap=_colour_map(), origin="lower", interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(name, pad=3)
    bar = fig.colorbar(
        ScalarMappable(norm, _colour_map()), ax=(left, right), shrink=0.8, pad=0.02, extend="max"
    )
    bar.set_ticks(_count_ticks(norm))
    each = "pixel" if one.binning == 1 else f"{one.binning}x{one.binning} pixels"
    bar.set_label(f"photons per {each}")
    bar.outline.set_visible(False)
    return fig


def _count_ticks(norm: PowerNorm) -> list[float]:
    """Return round counts that are not too close to be read, the largest first."""
    kept: list[float] = []
    for tick in reversed([t for t in _TICKS if t <= norm.vmax]):
        if all(abs(norm(tick) - norm(other)) > 0.08 for other in kept):
            kept.append(tick)
    return kept if len(kept) > 1 else [0.0, round(float(norm.vmax), 1)]


# Quality


def half_sets(data: Data) -> Figure:
    """Shell correlation of the volumes from even and from odd frames."""
    half = data.result.half_sets
    scale, unit = style.q_unit(data.summary.voxel_size)
    kept = slice(0, data.summary.reach + 1)
    fig, ax = style.panel(3.5)
    start = float(half.get("start_radius", 0.0)) * scale
    ax.axvspan(0, start, color="#f1f4f7", lw=0, zorder=0)
    if start > 0:
        narrow = start < 0.25 * data.summary.reach * scale
        place, side = (0.0, "left") if narrow else (start, "right")
        ax.text(place, -0.07, " common start ", ha=side, fontsize=8, color="#5b6875")
    ax.plot(half["radius"][kept] * scale, half["shell_cc"][kept], color=BLUE)
    _threshold(ax, data, scale)
    _correlation_axes(ax, data, unit)
    return fig


def _threshold(ax: Axes, data: Data, scale: float) -> None:
    ax.axhline(THRESHOLD, color=FAINT, lw=1.0, ls="--")
    resolution = data.summary.resolution
    if resolution is None or np.isnan(resolution.radius) or resolution.to_the_edge:
        return
    ax.plot(resolution.radius * scale, THRESHOLD, "o", color=VERMILION, zorder=5)
    ax.annotate(
        str(resolution),
        (resolution.radius * scale, THRESHOLD),
        (6, 6),
        textcoords="offset points",
        color=VERMILION,
    )


def _correlation_axes(ax: Axes, data: Data, unit: str) -> None:
    scale = style.q_unit(data.summary.voxel_size)[0]
    ax.set_ylim(min(-0.1, ax.get_ylim()[0]), 1.05)
    ax.set_xlim(0, data.summary.reach * scale)
    ax.set_xlabel(f"q ({unit})")
    ax.set_ylabel("shell correlation")
    style.resolution_axis(ax, data.summary.voxel_size)


def truth_correlation(data: Data) -> Figure:
    """Shell correlation with the truth, and what the half sets let expect."""
    comparison = data.comparison
    scale, unit = style.q_unit(data.summary.voxel_size)
    fig, ax = style.panel(3.5)
    ax.plot(comparison.radius * scale, comparison.cc, color=GREEN, label="with the truth")
    half = data.result.half_sets
    if half:
        kept = slice(0, data.summary.reach + 1)
        c = np.clip(half["shell_cc"][kept], 0.0, 1.0)
        ax.plot(
            half["radius"][kept] * scale,
            np.sqrt(2.0 * c / (1.0 + c)),
            color=BLUE,
            lw=1.2,
            ls="--",
            label="expected from half sets",
        )
    radius, flat = metrics.shell_cc(featureless(comparison.true_volume), comparison.true_volume)
    kept = slice(0, data.summary.reach + 1)
    ax.plot(radius[kept] * scale, flat[kept], color=FAINT, lw=1.2, label="featureless model")
    _correlation_axes(ax, data, unit)
    ax.legend(loc="best")
    return fig


def pose_errors(data: Data) -> Figure:
    """Histogram of pose errors, with the median and what chance would give."""
    comparison = data.comparison
    errors, random = comparison.pose_errors, comparison.random_error
    fig, ax = style.panel(3.2)
    high = max(float(np.percentile(errors, 98)) * 1.3, 1.0)
    ax.hist(np.minimum(errors, high), bins=40, range=(0, high), color=GREEN, alpha=0.85)
    median = float(np.median(errors))
    ax.axvline(median, color=VERMILION, lw=1.4)
    ax.annotate(
        f"median {median:.1f}°",
        (median, 1.0),
        (5, -10),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=VERMILION,
    )
    if random < high:
        ax.axvline(random, color=FAINT, lw=1.2, ls="--")
    ax.set_xlim(0, high)
    ax.set_xlabel("pose error (degrees; the last bin holds all beyond)")
    ax.set_ylabel("frames")
    return fig


def fluence_scatter(data: Data) -> Figure:
    """Fitted against true fluence, frame by frame."""
    found, true = data.comparison.fluence
    fig, ax = style.panel(3.6)
    high = float(np.percentile(np.concatenate([found, true]), 99.9)) * 1.05
    ax.plot([0, high], [0, high], color=INK, lw=0.8, ls=":")
    keep = slice(None, None, max(1, found.size // 5000))  # more dots only hide each other
    ax.plot(true[keep], found[keep], ".", ms=3, alpha=0.35, color=GREEN, mew=0, rasterized=True)
    ax.set_xlim(0, high)
    ax.set_ylim(0, high)
    ax.set_aspect("equal")
    ax.set_xlabel("true fluence (relative to the mean)")
    ax.set_ylabel("fitted fluence (relative)")
    ax.set_title(fluence_agreement(found, true))
    return fig


def fluence_agreement(found: Float64, true: Float64) -> str:
    """Return how well fluences agree, in words."""
    spread = float(np.std(found / true - 1.0)) if (true > 0).all() else float("nan")
    if np.std(true) < 1e-6 or np.std(found) < 1e-6:
        return f"relative error {100 * spread:.1f} %"
    r = float(np.corrcoef(found, true)[0, 1])
    return f"correlation {r:.3f}, relative error {100 * spread:.1f} %"


def grid_words(data: Data) -> str:
    """Return the orientation grid in words."""
    s = data.summary
    copies = len(orientations.point_group(data.config.symmetry))
    symmetry = f" in 1/{copies} of all rotations ({data.config.symmetry})" if copies > 1 else ""
    return f"{s.n_orientations:,} orientations{symmetry}, {s.grid_degrees:.1f}° apart"

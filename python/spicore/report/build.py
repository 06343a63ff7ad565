"""Put a report together: collect, draw, describe, write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..emc.polar.balance import chance_imbalance
from . import figures, style
from .data import Comparison, Data, collect
from .inputs import write_text
from .numbers import Summary, by_mode, counted, observed_share
from .page import Card, Picture, Section, page

MODES_SHOWN = 4

CROWDED = 0.2
"""Imbalance of the views that a careful reader should hear of, if it is no chance."""

CORRELATION = (
    "The mean of the shell is removed, so a featureless model scores 0 and a perfect one 1."
)


def write(
    folder: Path,
    *,
    out: Path | None,
    truth: Sequence[Path],
    frames: str | os.PathLike[str] | None,
    detector: str | os.PathLike[str] | None,
    truth_symmetry: str | None,
    threads: int | None,
) -> Path:
    """Write the report; see `spicore.report.write_report`."""
    data = collect(folder, truth, frames, detector, truth_symmetry, threads)
    with style.drawing():
        sections = [
            _volume(data),
            _run(data),
            _examples(data),
            *([] if data.comparison is None else [_truth(data, data.comparison)]),
        ]
    out = folder / "report.html" if out is None else out
    text = page(
        title=f"Reconstruction {os.path.basename(os.path.abspath(folder))}",
        subtitle=f"{folder.resolve() / 'result.h5'}, spicore {data.version}",
        cards=cards(data),
        notes=notes(data),
        sections=sections,
        options=[(name, str(value)) for name, value in vars(data.config).items()],
    )
    write_text(out, text)
    return out


# Summary


def cards(data: Data) -> list[Card]:
    """Return the main numbers."""
    s = data.summary
    photons = "" if data.mean_photons is None else f"{data.mean_photons:,.0f} photons per frame"
    used = "all used" if s.n_used == s.n_frames else f"{s.n_used:,} used"
    refined = f"then {counted(s.n_refined, 'local refinement')}" if s.n_refined else ""
    result = [
        Card("Frames", f"{s.n_frames:,}", ", ".join(filter(None, (used, photons)))),
        Card("Orientations", f"{s.n_orientations:,}", _sentence(_spacing(s), refined)),
        Card("Resolution", *_resolution(s)),
        Card(
            "State",
            "converged" if s.converged else "not converged",
            f"{counted(s.iterations, 'iteration')}, last change {s.change:.2g}",
        ),
    ]
    if s.seeds:
        chosen, _, rest = s.seeds.partition("; ")
        result.append(Card("Random starts", chosen, rest))
    if s.n_modes > 1 or s.n_patterns:
        n = data.frames_per_mode
        rotating = ", ".join(f"{int(k):,}" for k in n[: s.n_modes])
        fixed = f"; {int(n[s.n_modes :].sum()):,} in fixed patterns" if s.n_patterns else ""
        result.append(Card("Modes", str(s.n_modes), f"frames: {rotating}{fixed}"))
    comparison = data.comparison
    if comparison is not None and comparison.pose_errors is not None:
        result.append(
            Card(
                "Pose error",
                f"{np.median(comparison.pose_errors):.1f}°",
                f"median; chance gives {comparison.random_error:.0f}°",
            )
        )
    return result


def _spacing(s: Summary) -> str:
    return f"{s.grid_degrees:.1f}° apart"


def _sentence(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _resolution(s: Summary) -> tuple[str, str]:
    resolution = s.resolution
    if resolution is None:
        return "unknown", "no half sets were made"
    if np.isnan(resolution.radius):
        return "none", "even and odd frames disagree"
    where = "" if resolution.d is None else f"q = {1.0 / resolution.d:.3g} 1/Å, "
    if resolution.to_the_edge:
        return str(resolution), f"{where}half sets agree to the edge"
    return str(resolution), f"{where}half-set correlation 0.5"


def notes(data: Data) -> list[str]:
    """Return what a careful reader should know before trusting the result."""
    s, history = data.summary, data.result.history
    result = []
    if not s.converged:
        result.append(
            f"The run had not converged after {counted(s.iterations, 'iteration')}: the model "
            f"still changed by {s.change:.2g} (limit {data.config.tolerance:g}). Go on with "
            f"--resume and a higher limit of iterations."
        )
    if s.resolution is not None and np.isnan(s.resolution.radius):
        result.append(
            "The volumes from even and from odd frames do not agree anywhere: this result is not "
            "a structure. More photons, another seed or slower annealing may help."
        )
    start = float(data.result.half_sets.get("start_radius", 0.0)) if s.resolution else 0.0
    if s.resolution is not None and s.resolution.radius <= start:
        result.append(
            f"The half sets agree only within {start:.1f} voxels, where both began from the same "
            f"model: there the agreement proves little."
        )
    on_grid = len(history["iteration"]) - s.n_refined
    if on_grid:
        n = float(history["n_orientations"][on_grid - 1])
        information = float(history["mutual_information"][on_grid - 1])
        if n > 1 and information < 0.5 * np.log(n):
            result.append(
                f"Frames tell little about their orientation: {information:.1f} of "
                f"{np.log(n):.1f} nats. The volume is an average over wrong orientations."
            )
    result += _gaps(data)
    empty = figures.empty_directions(data) if data.oriented.any() else 0.0
    if empty > 0.1:
        result.append(
            f"For {100 * empty:.0f} % of all beam directions there is hardly any frame. Particles "
            f"that are free to turn fill the sphere: suspect a wrong solution (try another seed or "
            f"slower annealing), a near symmetry, or a preferred orientation."
        )
    imbalance = float(history["imbalance"][on_grid - 1]) if on_grid else np.nan
    if data.config.uniform and imbalance > max(CROWDED, 3 * chance_imbalance(s.n_used)):
        result.append(
            f"Orientations crowd about an axis: their density varies by {100 * imbalance:.0f} % "
            f"over the sphere. Aligned particles (then set uniform = false), or a distorted model."
        )
    fluence = data.result.fluence[data.used]
    wild = float(np.mean((fluence > 5) | (fluence < 0.2)))
    if wild > 0.01:
        result.append(
            f"{100 * wild:.0f} % of the frames have a fluence below 0.2 or above 5 times the mean: "
            f"look for blanks, clusters or background among them."
        )
    return result


def _gaps(data: Data) -> list[str]:
    """Return a note where directions are missing; the centre behind a beam stop always is."""
    share = observed_share(by_mode(data.result.weight)[data.main_mode])
    seen = np.flatnonzero(share >= 0.5)
    if not seen.size:
        return ["No shell of the volume was observed by half: there are too few frames."]
    inside = share[seen[0] + 1 : data.summary.reach]  # the detector's edges cut through a shell
    worst = float(inside.min(initial=1.0))
    if worst > 0.9:
        return []
    return [
        f"Parts of the volume were never observed: in the worst shell only {100 * worst:.0f} % of "
        f"the voxels were. The others hold the radial mean and are grey in the slices."
    ]


# Sections


def _volume(data: Data) -> Section:
    s = data.summary
    norm = figures.slice_norm(data)
    pictures = []
    modes = [data.main_mode] if s.n_modes > MODES_SHOWN else range(s.n_modes)
    for mode in modes:
        which = "" if s.n_modes == 1 else f"Mode {mode + 1}, {data.frames_per_mode[mode]:,} frames."
        for axis in range(3):
            pictures.append(
                Picture(
                    f"slice-{mode}-{'xyz'[axis]}",
                    style.data_uri(figures.volume_slice(data, mode, axis, norm), pixels=True),
                    f"Slice through the intensity across {'xyz'[axis]}",
                    which,
                    third=True,
                )
            )
    pictures.append(
        Picture(
            "radial",
            style.data_uri(figures.radial_average(data)),
            "Radial average of the intensity",
            "Mean intensity of shells. The wider the band, the more there is besides the mean: "
            "that contrast is what orients frames.",
        )
    )
    if data.result.half_sets:
        pictures.append(
            Picture(
                "half-sets",
                style.data_uri(figures.half_sets(data)),
                "Shell correlation of half sets",
                f"Correlation of the volumes that even and odd frames give. {CORRELATION} Within "
                "the shaded radius both began from one model; beyond it each from the radial mean. "
                "It shows noise, not a wrong model that both may have inherited.",
            )
        )
    circle = ""
    if s.resolution is not None and not s.resolution.to_the_edge:
        circle = " Dashed: the radius where half sets correlate by 0.5."
    return Section(
        "Intensity",
        "Slices through the centre, on one logarithmic scale. Grey was not observed." + circle,
        pictures,
    )


def _run(data: Data) -> Section:
    coverage_noise = 100 * figures.COVERAGE_NOISE
    pictures = [
        Picture(
            "convergence",
            style.data_uri(figures.convergence(data)),
            "Change, log-likelihood and information over the iterations",
            "Top: relative change of the model (dotted: where the run counts as converged) and "
            "the inverse temperature beta. Middle: mean log-likelihood, from the start of each "
            "stage, as stages differ in pixels. Bottom: what a frame tells about its orientation, "
            "and the most it can tell (dashed).",
            tall=True,
        )
    ]
    if data.oriented.any():
        pictures.append(
            Picture(
                "coverage",
                style.data_uri(figures.coverage(data), pixels=True),
                "Beam directions on the sphere",
                f"Directions of the beam in the frame of the particle, smoothed. Even coverage "
                f"would be 1 everywhere, give or take {coverage_noise:.0f} %.",
            )
        )
    if data.config.fluence and data.used.any():
        pictures.append(
            Picture(
                "fluence",
                style.data_uri(figures.fluence_histogram(data)),
                "Histogram of the fluence",
                "Photons that hit each particle, as fitted. An extra peak or a long tail means "
                "other things than single particles.",
            )
        )
        intro = ""
    else:
        intro = "Fluences were not fitted."
    return Section("Course of the reconstruction", intro, pictures)


def _examples(data: Data) -> Section:
    if not data.examples:
        return Section("Frames beside the model", f"Not shown: {data.no_examples}.", [])
    cropped = ", cropped to where the photons are" if data.examples[0].cropped else ""
    pictures = [
        Picture(
            f"frame-{one.number}",
            style.data_uri(figures.example(one), pixels=True),
            f"Frame {one.number} and its tomogram",
            f"Frame {one.number}: {one.photons:,.0f} photons, fluence {one.fluence:.2f}.",
            third=True,
        )
        for one in data.examples
    ]
    return Section(
        "Frames beside the model",
        "Measured frames from weak to strong, beside what the volume predicts at the orientation "
        f"that fits best{cropped}. Grey pixels are not used.",
        pictures,
    )


def _truth(data: Data, comparison: Comparison) -> Section:
    pictures = []
    if comparison.cc is not None:
        pictures.append(
            Picture(
                "truth-correlation",
                style.data_uri(figures.truth_correlation(data)),
                "Shell correlation with the truth",
                f"After turning the result onto the truth. {CORRELATION} The grey line is that "
                "check, made with the radial mean of the truth.",
            )
        )
    if comparison.pose_errors is not None:
        group = "" if comparison.group == "C1" else f", up to the symmetry {comparison.group}"
        if np.isfinite(comparison.group_score):
            group += f" (its axes found in the truth, which has it to {comparison.group_score:.2f})"
        flat = " and half turns about the beam (flat Ewald sphere)" if comparison.flat else ""
        pictures.append(
            Picture(
                "pose-errors",
                style.data_uri(figures.pose_errors(data)),
                "Histogram of pose errors",
                f"Angle between found and true orientation after one common rotation{group}{flat}. "
                f"Shuffled orientations would give a median of {comparison.random_error:.0f}°.",
            )
        )
    if comparison.fluence is not None:
        pictures.append(
            Picture(
                "fluence-scatter",
                style.data_uri(figures.fluence_scatter(data)),
                "Fitted against true fluence",
                "Each dot is a frame; both have mean 1.",
            )
        )
    return Section(
        "Comparison with the truth",
        "The frames are simulated: what they were made from is known.",
        pictures,
    )

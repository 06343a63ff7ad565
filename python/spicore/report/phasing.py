"""The report of a phase retrieval: the density, and how far to trust it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .. import __version__
from ..phasing import Config, Solutions
from ..phasing.pattern import NOISE
from . import phasing_figures as figures
from . import style
from .inputs import write_text
from .numbers import counted
from .page import Card, Picture, Section, page

NOTHING = "nothing"

MISFIT = 1.3
"""Times the noise: beyond it the reader is told that the best seed does not explain the data."""


def write(result: Path, out: Path | None) -> Path:
    """Write the report; see `spicore.report.write_phasing_report`."""
    solutions = Solutions.load(result)
    out = result.parent / "report.html" if out is None else out
    config = Config.from_toml(solutions.config)
    with style.drawing():
        sections = [_density(solutions), _trust(solutions), _seeds(solutions)]
    text = page(
        title=f"Phase retrieval {os.path.basename(os.path.abspath(result.parent))}",
        subtitle=f"{result.resolve()}, spicore {__version__}",
        cards=_cards(solutions),
        notes=notes(solutions, config),
        sections=sections,
        options=[(name, str(value)) for name, value in vars(config).items()],
    )
    write_text(out, text)
    return out


def _cards(s: Solutions) -> list[Card]:
    shape = " x ".join(map(str, s.density.shape))
    size = "" if s.voxel_size is None else f"voxel {s.voxel_size.max():.3g} Å"
    cards = [
        Card("Grid", shape, size),
        Card("Seeds", f"{s.n_kept} of {len(s.scores['kept'])}", "passed and were averaged"),
        Card("PRTF 0.5", *_crossing(s, "prtf", 0.5, f"1/e: {_radius(s, 'prtf', np.exp(-1))}")),
        Card("FSC 0.5", *_crossing(s, "fsc", 0.5, f"0.143: {_radius(s, 'fsc', 0.143)}")),
        Card("Mode 0", f"{100 * s.mode_weights[0]:.1f} %", "of the power of the aligned seeds"),
        Card("R factor", f"{s.r_factor:.3f}", _free_r_factor(s)),
        Card("Undetermined", *_open(s)),
    ]
    if s.in_place is not None:
        cards.append(Card("Coherence", f"{100 * s.in_place:.0f} %", "of each intensity in place"))
    return cards


def _free_r_factor(s: Solutions) -> str:
    if np.isnan(s.free_r_factor):
        return "no voxel was held out"
    return f"{s.free_r_factor:.3f} on held-out voxels"


def _radius(s: Solutions, curve: str, threshold: float) -> str:
    if s.n_kept < 2:
        return "one seed"
    radius = s.crossing(curve, threshold)
    if np.isnan(radius):
        return "never"
    beyond = "> " if radius >= s.curves["radius"][-1] else ""
    d = s.in_angstrom(radius)
    return f"{beyond}{radius:.1f} voxels" if d is None else f"{'< ' if beyond else ''}{d:.3g} Å"


def _crossing(s: Solutions, curve: str, threshold: float, words: str) -> tuple[str, str]:
    return _radius(s, curve, threshold), words


def _open(s: Solutions) -> tuple[str, str]:
    opened = s.undetermined
    if opened.charge_measured:
        return NOTHING, "the origin was measured"
    spread = f"total charge {100 * opened.charge_spread:.2g} % apart over seeds"
    spread += ", undetermined" if opened.charge_is_open else ", held by the support"
    if np.isnan(opened.n_modes):
        return "unknown", f"a very large missing centre; {spread}"
    return counted(int(opened.n_modes), "mode"), f"of the missing centre; {spread}"


def notes(s: Solutions, config: Config) -> list[str]:
    """Return what a careful reader should know before trusting the result."""
    result = []
    n, kept = len(s.scores["kept"]), s.n_kept
    if kept < 2:
        result.append("Only one seed passed: there is nothing to tell how reproducible it is.")
    elif kept < 0.3 * n:
        result.append(
            f"Only {kept} of {n} seeds passed. Where few starts agree, the constraints are weak: "
            f"more iterations, another support or a background may help."
        )
    if kept > 1 and s.mode_weights[0] < 0.8:
        result.append(
            f"The seeds that passed have only {100 * s.mode_weights[0]:.0f} % of their power in "
            f"common: they are different solutions, and their average is none."
        )
    best = float(np.nanmin(s.scores["free_llk"])) if config.free_fraction else np.nan
    if s.likelihood != "amplitude" and best > MISFIT * NOISE[s.likelihood]:
        result.append(
            f"Even the best seed predicts held-out voxels worse than noise would explain "
            f"(log-likelihood {best:.3g}; noise alone {NOISE[s.likelihood]:g}). No seed may have "
            f"reached the solution, or the data hold a background or other errors."
        )
    opened = s.undetermined
    if opened.charge_is_open and opened.n_modes == 0:
        result.append(
            f"The total charge was not measured, and seeds differ in it by "
            f"{100 * opened.charge_spread:.2g} %: take it as undetermined."
        )
    if not opened.charge_measured and opened.n_modes > 0:
        result.append(
            f"{counted(int(opened.n_modes), 'mode')} of the density with more than 90 % of the "
            f"power inside of the missing centre, and with them "
            f"{100 * opened.charge_free:.0f} % of a constant in the support: the data do not fix "
            f"these numbers. What the density shows of them comes from the support and positivity."
        )
    return result


def _shown(name: str, fig: Figure, alt: str, caption: str = "", **options: bool) -> Picture:
    pixels = options.pop("pixels", False)
    return Picture(name, style.data_uri(fig, pixels=pixels), alt, caption, **options)


def _density(s: Solutions) -> Section:
    pictures: list[Picture] = []
    if s.density.ndim == 2:
        pictures.append(_shown("image", figures.image(s), "The density", pixels=True))
    else:
        kinds: tuple[tuple[str, Callable[[Solutions, int], Figure], str], ...] = (
            ("slice", figures.density_slice, "Slice through the density across"),
            ("projection", figures.projection, "Sum of the density along"),
            ("surface", figures.surface, "Surface of the density seen along"),
        )
        for name, draw, alt in kinds:
            for axis in range(3):
                letter = "xyz"[axis]
                pictures.append(
                    _shown(
                        f"{name}-{letter}",
                        draw(s, axis),
                        f"{alt} {letter}",
                        third=True,
                        pixels=True,
                    )
                )
    if np.iscomplexobj(s.density):
        pictures.append(
            _shown(
                "phase",
                figures.phases(s),
                "Phase of the density inside of the support",
                pixels=True,
            )
        )
    intro = "Average of the seeds that passed, where their support is."
    if s.density.ndim == 3:
        intro += " Slices through the middle, sums, and a surface of equal density."
    return Section("Density", f"{intro} The mirror image through a point fits as well.", pictures)


def _trust(s: Solutions) -> Section:
    pictures = [
        _shown(
            "agreement",
            figures.agreement(s),
            "PRTF and FSC over radius",
            "PRTF: length of the mean of exp(i phase) over seeds, mean of a shell's measured "
            "voxels. FSC: of two averages of half of the seeds each. Both tell how reproducible "
            "phases are for this one intensity, not how good the intensity is.",
        ),
        _shown(
            "power",
            figures.power(s),
            "Measured intensity and that of the density over radius",
            "Where seeds disagree their average loses power. Shaded: nothing was measured.",
        ),
        _shown(
            "modes",
            figures.mode_weights(s),
            "Share of the power in orthogonal modes",
            "If all seeds were equal, mode 0 had everything.",
        ),
    ]
    intro, missing = "", 100 * s.undetermined.missing
    if len(missing) and missing.max() < 1:
        intro = (
            "Of the modes that the missing centre could hide none misses more than "
            f"{missing.max():.2g} % of its power: the data determine them all."
        )
    elif len(missing):
        pictures.append(
            _shown(
                "centre",
                figures.centre_modes(s),
                "Modes of the missing centre",
                "Red: share of a mode's power where nothing was measured; above 90 % the data do "
                "not determine it. Blue: how far seeds differ in it, which is small where "
                "positivity or a common bias holds it.",
            )
        )
    return Section("How far to trust it", intro, pictures)


def _seeds(s: Solutions) -> Section:
    reasons = [f"seed {k}: {r}" for k, r in enumerate(s.scores["reason"]) if r]
    shown = "; ".join(reasons[:5])
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    intro = f"Rejected: {shown}{more}." if reasons else "No seed was rejected."
    kind = {
        "poisson": "Poisson likelihood of the photons",
        "gauss": "Gaussian likelihood with the given errors",
        "amplitude": "squared error of the modulus: the unit of the intensity is not known",
    }[s.likelihood]
    return Section(
        "Seeds",
        intro,
        [
            _shown(
                "scores",
                figures.seed_scores(s),
                "Histogram of the scores of the seeds",
                f"How badly each seed predicts voxels that were held out ({kind}).",
            ),
            _shown(
                "course",
                figures.course(s),
                "R factor and support over the iterations",
                "Blue: seeds that passed. Red: rejected.",
            ),
        ],
    )

"""CrystFEL geometry files (.geom): where every element of the raw data array lies.

Written from the manual page crystfel_geometry(5). Lab frame: beam along +z, y up, right-handed.
Panel groups and everything about detector response or masks in data files are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

HC_EV_ANGSTROM = 12398.41984  # Planck constant times speed of light (CODATA 2018)

_ENERGY_UNITS = {"": 1.0, "eV": 1.0, "keV": 1e3}  # to eV
_WAVELENGTH_UNITS = {"": 1e10, "m": 1e10, "A": 1.0}  # to Angstrom
_NO_UNIT = {"": 1.0}
_LENGTH_UNITS = {"": 1.0, "m": 1.0, "mm": 1e-3}  # to metres

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"([+-]?{_NUMBER})\s*([A-Za-z]*)")
_COMPONENT = re.compile(rf"([+-]?)({_NUMBER})?([xyz])")

# Twice the largest detectors (16 million pixels): a larger index is a mistake, and memory would
# go before it is noticed.
_MAX_ELEMENTS = 1 << 25


class Geometry(NamedTuple):
    """Positions of all elements of a raw data array, in the array's order.

    Attributes
    ----------
    positions : float64 [T, 3]
        Pixel centres in metres; NaN for elements that no panel covers.
    normals : float64 [T, 3]
        Cross product of the fast and slow axis: direction a pixel faces, times its area in
        units of `pixel_size` squared.
    pixel_size : float64 [T]
        Metres.
    mask : uint8 [T]
        0 good, 2 in a bad region or not covered.
    shape : tuple of int
        Shape of one frame in the data file, without the event axis.
    wavelength : float
        Angstrom.
    """

    positions: NDArray[np.float64]
    normals: NDArray[np.float64]
    pixel_size: NDArray[np.float64]
    mask: NDArray[np.uint8]
    shape: tuple[int, ...]
    wavelength: float


def parse(text: str, *, wavelength: float | None = None, distance: float | None = None) -> Geometry:
    """Return the geometry that the text of a .geom file describes.

    Parameters
    ----------
    text : str
        Lines `key = value` or `panel/key = value`, comments after `;`. A value without panel
        name applies to the panels first mentioned below it.
    wavelength : float, optional
        Angstrom; replaces `photon_energy` or `wavelength` of the file.
    distance : float, optional
        Metres; replaces `clen` of the file. `coffset` of each panel is still added.

    Raises
    ------
    InputError
        A value is missing, malformed or a location in data files, or panels overlap.
    """
    top, raw_panels, bad = _group(_entries(text))
    if not raw_panels:
        raise InputError("the geometry has no panel ('name/min_fs = ...')")
    _require_beam_and_distance(top, raw_panels, wavelength, distance)
    panels = [
        _panel(_Values(name, raw), _camera_length(raw, top) if distance is None else distance)
        for name, raw in raw_panels.items()
    ]
    regions = [_bad_region(_Values(name, raw), raw_panels) for name, raw in bad.items()]
    geometry = _assemble(panels, regions, wavelength or _wavelength(top))
    geometry.positions[:, :2] += [_shift(top, axis) for axis in "xy"]
    return geometry


@dataclass(frozen=True)
class _Panel:
    """One rectangle of the data array; lengths in pixels, limits inclusive."""

    name: str
    limits: dict[str, tuple[int, int]]  # axis 'fs' or 'ss' -> first, last index
    axes: dict[str, NDArray[np.float64]]  # axis -> [3] lab vector of one step
    corner: NDArray[np.float64]  # [3]
    pixel_size: float  # metres
    dims: tuple[str | int, ...]  # 'ss', 'fs' or a fixed index, one per array axis
    data: str
    ignored: bool
    masked_edge: int

    def indices(self, axis: str) -> NDArray[np.int64]:
        first, last = self.limits[axis]
        return np.arange(first, last + 1)

    def pixels(self) -> NDArray[np.float64]:
        """Return pixel centres [n_ss, n_fs, 3]; the corner is that of the first pixel."""
        fs, ss = (
            (self.indices(axis) - self.limits[axis][0] + 0.5)[:, None] * self.axes[axis]
            for axis in ("fs", "ss")
        )
        return self.corner + ss[:, None] + fs[None, :]

    def elements(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Return flat indices [n_ss, n_fs] into a data array of `shape`."""
        open_mesh = {"ss": self.indices("ss")[:, None], "fs": self.indices("fs")[None, :]}
        index = np.broadcast_arrays(*(open_mesh.get(dim, dim) for dim in self.dims))
        return np.ravel_multi_index(tuple(index), shape)


@dataclass(frozen=True)
class _BadRegion:
    """Rectangle of pixels to ignore, in array indices (fs, ss) or lab pixels (x, y)."""

    panel: str | None
    limits: dict[str, tuple[float, float]]

    def covers(self, panel: _Panel, pixels: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which pixels [n_ss, n_fs] of `panel` lie inside, limits included."""
        if self.panel not in (None, panel.name):
            return np.zeros(pixels.shape[:2], dtype=bool)
        coordinates = {
            "fs": panel.indices("fs")[None, :],
            "ss": panel.indices("ss")[:, None],
            "x": pixels[..., 0],
            "y": pixels[..., 1],
        }
        inside = np.ones(pixels.shape[:2], dtype=bool)
        for axis, (low, high) in self.limits.items():
            inside &= (coordinates[axis] >= low) & (coordinates[axis] <= high)
        return inside


def _entries(text: str) -> list[tuple[str, str]]:
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        body = line.partition(";")[0].strip()
        key, equals, value = body.partition("=")
        if equals:
            entries.append((key.strip(), value.strip()))
        elif body:
            raise InputError(f"line {number} must be 'key = value', got {body[:60]!r}")
    return entries


def _group(
    entries: list[tuple[str, str]],
) -> tuple[dict[str, str], dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Split entries into global values, panels (with the defaults in force) and bad regions."""
    top: dict[str, str] = {}
    panels: dict[str, dict[str, str]] = {}
    bad: dict[str, dict[str, str]] = {}
    for key, value in entries:
        name, slash, item = key.partition("/")
        if not slash:
            top[key] = value
        elif name.startswith("bad"):
            bad.setdefault(name, {})[item] = value
        else:
            panels.setdefault(name, dict(top))[item] = value
    return top, panels, bad


def _require_beam_and_distance(
    top: Mapping[str, str],
    panels: Mapping[str, Mapping[str, str]],
    wavelength: float | None,
    distance: float | None,
) -> None:
    """Name everything that the caller has to add in one message."""
    problems = []
    if wavelength is None:
        key = "wavelength" if "wavelength" in top else "photon_energy"
        problems += _not_a_number(key, top.get(key), "energy_ev= in eV")
    if distance is None:
        for panel in panels.values():
            found = panel.get("clen", top.get("clen"))
            problem = _not_a_number("clen", found, "distance= in metres")
            problems += [text for text in problem if text not in problems]
    if problems:
        raise InputError("; ".join(problems))


def _not_a_number(key: str, found: str | None, remedy: str) -> list[str]:
    if found is None:
        return [f"{key} is missing (give {remedy})"]
    if _QUANTITY.fullmatch(found) is None:
        return [f"{key} is {found!r}, a location in data files (give {remedy})"]
    return []


def _quantity(key: str, text: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units or not math.isfinite(float(match[1])):
        known = ", ".join(unit for unit in units if unit) or "none"
        raise InputError(f"{key} must be a number (units: {known}), got {text!r}")
    return float(match[1]) * units[match[2]]


def _wavelength(top: Mapping[str, str]) -> float:
    if "wavelength" in top:
        value = _quantity("wavelength", top["wavelength"], _WAVELENGTH_UNITS)
        energy = HC_EV_ANGSTROM / value if value > 0 else 0.0
    else:
        energy = _quantity("photon_energy", top["photon_energy"], _ENERGY_UNITS)
    # Outside this range the unit is wrong, or it is not a diffraction experiment.
    if not 10.0 <= energy <= 1e7:
        raise InputError(f"the photon energy must be between 10 and 1e7 eV, got {energy:g}")
    return HC_EV_ANGSTROM / energy


def _camera_length(panel: Mapping[str, str], top: Mapping[str, str]) -> float:
    """Return `clen` in metres; it belongs to the whole file, but old files give it per panel."""
    return _quantity("clen", panel.get("clen") or top["clen"], _LENGTH_UNITS)


def _shift(top: Mapping[str, str], axis: str) -> float:
    key = f"detector_shift_{axis}"
    return _quantity(key, top.get(key, "0"), _LENGTH_UNITS)


class _Values:
    """Typed access to the values of one panel or bad region, with messages that name it."""

    def __init__(self, name: str, raw: Mapping[str, str]) -> None:
        self.name = name
        self.raw = raw

    def text(self, key: str, default: str | None = None) -> str:
        found = self.raw.get(key, default)
        if found is None:
            raise InputError(f"{self.name}/{key} is missing")
        return found

    def number(
        self, key: str, default: str | None = None, units: Mapping[str, float] = _NO_UNIT
    ) -> float:
        return _quantity(f"{self.name}/{key}", self.text(key, default), units)

    def index(self, key: str, default: str | None = None) -> int:
        value = self.number(key, default)
        if not (value.is_integer() and 0 <= value < _MAX_ELEMENTS):
            raise InputError(f"{self.name}/{key} must be an array index, got {value:g}")
        return int(value)

    def limits(self, axis: str) -> tuple[float, float]:
        low, high = self.number(f"min_{axis}"), self.number(f"max_{axis}")
        if low > high:
            raise InputError(f"{self.name}: min_{axis} = {low:g} exceeds max_{axis} = {high:g}")
        return low, high

    def index_limits(self, axis: str) -> tuple[int, int]:
        self.limits(axis)
        return self.index(f"min_{axis}"), self.index(f"max_{axis}")

    def vector(self, key: str, default: str) -> NDArray[np.float64]:
        """Return the lab vector [3] written as, for instance, `+0.99x -0.01y`."""
        text = self.text(key, default).replace(" ", "")
        terms = _COMPONENT.findall(text)
        if not terms or "".join(sum(terms, ())) != text:
            raise InputError(f"{self.name}/{key} must be like '+1.0x -0.1y', got {text!r}")
        vector = np.zeros(3)
        for sign, size, axis in terms:
            vector["xyz".index(axis)] += float(sign + (size or "1"))
        return vector


def _panel(values: _Values, distance: float) -> _Panel:
    """Return one panel whose `clen` is `distance` (metres)."""
    resolution = values.number("res")
    if resolution <= 0:
        raise InputError(f"{values.name}/res must be positive, got {resolution:g}")
    offset = values.number("coffset", "0", _LENGTH_UNITS)
    corner = [
        values.number("corner_x"),
        values.number("corner_y"),
        (distance + offset) * resolution,
    ]
    return _Panel(
        name=values.name,
        limits={axis: values.index_limits(axis) for axis in ("fs", "ss")},
        axes={"fs": values.vector("fs", "x"), "ss": values.vector("ss", "y")},
        corner=np.array(corner),
        pixel_size=1.0 / resolution,
        dims=_dims(values),
        data=values.text("data", "/data/data"),
        ignored=values.text("no_index", "0").lower() not in ("0", "false"),
        masked_edge=values.index("mask_edge_pixels", "0"),
    )


def _dims(values: _Values) -> tuple[str | int, ...]:
    """Return what each array axis holds, slowest first, the event axis left out."""
    numbers = sorted(int(key[3:]) for key in values.raw if re.fullmatch(r"dim\d+", key))
    entries = [values.text(f"dim{n}") for n in numbers] or ["ss", "fs"]
    dims = [
        entry if entry in ("ss", "fs") else values.index(f"dim{n}")
        for n, entry in zip(numbers or (0, 1), entries, strict=True)
        if entry != "%"
    ]
    if dims.count("ss") != 1 or dims.count("fs") != 1:
        raise InputError(
            f"{values.name}: the dim keys must name ss and fs once each, got {', '.join(entries)}"
        )
    return tuple(dims)


def _bad_region(values: _Values, panels: Collection[str]) -> _BadRegion:
    axes = ("fs", "ss") if any(key.endswith(("_fs", "_ss")) for key in values.raw) else ("x", "y")
    panel = values.raw.get("panel")
    if panel is not None and panel not in panels:
        raise InputError(f"{values.name}/panel names no panel of the file, got {panel!r}")
    return _BadRegion(panel=panel, limits={axis: values.limits(axis) for axis in axes})


def _array_shape(panels: list[_Panel]) -> tuple[int, ...]:
    """Return the smallest array that holds all panels; they must agree on its axes."""
    first = panels[0]
    kinds = [dim if isinstance(dim, str) else "number" for dim in first.dims]
    sizes = [1] * len(kinds)
    for panel in panels:
        if [dim if isinstance(dim, str) else "number" for dim in panel.dims] != kinds:
            raise InputError(f"panels {first.name} and {panel.name} have different array axes")
        if panel.data != first.data:
            raise InputError(
                f"all panels must lie in one dataset, got {first.data!r} and {panel.data!r}"
            )
        ends = [panel.limits[dim][1] if isinstance(dim, str) else dim for dim in panel.dims]
        sizes = [max(size, end + 1) for size, end in zip(sizes, ends, strict=True)]
    if math.prod(sizes) > _MAX_ELEMENTS:
        raise InputError(f"the panels span an array of {sizes}, more than {_MAX_ELEMENTS} elements")
    return tuple(sizes)


def _assemble(panels: list[_Panel], regions: list[_BadRegion], wavelength: float) -> Geometry:
    shape = _array_shape(panels)
    n_elements = math.prod(shape)
    geometry = Geometry(
        positions=np.full((n_elements, 3), np.nan),
        normals=np.zeros((n_elements, 3)),
        pixel_size=np.full(n_elements, panels[0].pixel_size),
        mask=np.full(n_elements, 2, dtype=np.uint8),
        shape=shape,
        wavelength=wavelength,
    )
    for panel in panels:
        elements, pixels = panel.elements(shape), panel.pixels()
        if not np.isnan(geometry.positions[elements]).all():
            raise InputError(f"panel {panel.name} overlaps another panel in the data array")
        geometry.positions[elements] = pixels * panel.pixel_size
        geometry.normals[elements] = np.cross(panel.axes["fs"], panel.axes["ss"])
        geometry.pixel_size[elements] = panel.pixel_size
        geometry.mask[elements] = np.where(_bad_pixels(panel, pixels, regions), 2, 0)
    return geometry


def _bad_pixels(
    panel: _Panel, pixels: NDArray[np.float64], regions: list[_BadRegion]
) -> NDArray[np.bool_]:
    """Return which pixels [n_ss, n_fs] the file marks as bad."""
    bad = np.full(pixels.shape[:2], panel.ignored)
    for region in regions:
        bad |= region.covers(panel, pixels)
    edge = panel.masked_edge
    inner = np.zeros_like(bad)
    inner[edge : bad.shape[0] - edge, edge : bad.shape[1] - edge] = True
    return bad | ~inner

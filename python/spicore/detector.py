"""Detector geometry: where each pixel samples reciprocal space, and how strongly.

Lab frame: sample at the origin, beam along +z. A pixel at p = (x, y, z) samples
q = E (p / |p| - z_hat) on the Ewald sphere of radius E = 1 / (wavelength * voxel_size) voxels.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validate
from .errors import InputError
from .io import crystfel, dragonfly_detector
from .io.crystfel import HC_EV_ANGSTROM
from .io.files import atomic_path, writing_hdf5

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FORMAT = "spicore-detector"
_FORMAT_VERSION = 1
_FORMS = (
    "spicore or Dragonfly HDF5, Dragonfly text ('num_pix detd ewald_rad' first) "
    "or CrystFEL geometry ('key = value')"
)
_BEAM = np.array([0.0, 0.0, 1.0])

# Breaks ties upwards when positions are rounded to a picture, so that a panel half a pixel off
# keeps its columns; far above the rounding noise of positions derived from q (1e-10).
_TIE = 1e-4
_MAX_IMAGE_ELEMENTS = 1 << 26


@dataclass(frozen=True, eq=False, repr=False)
class Detector:
    """Pixels of a detector: scattering vectors, corrections and mask.

    Parameters
    ----------
    q_voxels : float64 [T, 3]
        Scattering vectors (x, y, z) on the curved Ewald sphere, in voxels.
    correction : float64 [T]
        Solid angle times polarisation. Divided by its mean over all T pixels here.
    mask : uint8 [T]
        0 orient and merge, 1 merge only, 2 ignore.
    ewald_radius : float
        Radius of the Ewald sphere in voxels, 1 / (wavelength * voxel_size).
    distance_pixels : float
        Distance from sample to detector in pixels.
    voxel_size : float, optional
        1/Angstrom per voxel; None where it is unknown, as in Dragonfly's files.
    shape : tuple of int, optional
        Shape of one raw frame, whose element t in C order is pixel t; None where it is unknown.
    background : float64 [T], optional
        Expected background in photons per pixel.

    Raises
    ------
    InputError
        Lengths disagree; mask has values other than 0, 1, 2 or no 0; a pixel with mask < 2 has
        a q that is not finite or longer than 2 ewald_radius, or a correction that is not
        finite and positive; a length is not positive.

    Notes
    -----
    Elements of the raw array without any pixel have mask 2, q = 0 and correction 0. Pixels with
    mask 2 whose q or correction is not usable are made such elements.
    """

    q_voxels: NDArray[np.float64]
    correction: NDArray[np.float64]
    mask: NDArray[np.uint8]
    ewald_radius: float
    distance_pixels: float
    voxel_size: float | None = None
    shape: tuple[int, ...] | None = None
    background: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for name, value in _checked_fields(self).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"Detector(n_pixels={self.n_pixels}, shape={self.shape}, q_max={self.q_max:.4g}, "
            f"ewald_radius={self.ewald_radius:.6g}, voxel_size={self.voxel_size})"
        )

    @property
    def n_pixels(self) -> int:
        """Number of pixels T, ignored ones included."""
        return len(self.q_voxels)

    @property
    def q(self) -> NDArray[np.float64]:
        """Scattering vectors [T, 3] in 1/Angstrom, |q| = 1/d; `InputError` if unscaled."""
        if self.voxel_size is None:
            raise InputError(
                "voxel_size of the detector is unknown: load it with energy_ev= to have q in 1/A"
            )
        return self.q_voxels * self.voxel_size

    @property
    def q_max(self) -> float:
        """Largest |q| in voxels of the pixels that are merged (mask < 2)."""
        return float(np.linalg.norm(self.q_voxels[self.mask < 2], axis=1).max())

    @property
    def size(self) -> int:
        """Edge of the intensity volume in voxels, 2 ceil(q_max) + 3: Dragonfly's rule (in C)."""
        return 2 * math.ceil(self.q_max) + 3

    @property
    def wavelength(self) -> float | None:
        """Wavelength in Angstrom; None where `voxel_size` is unknown."""
        return None if self.voxel_size is None else 1.0 / (self.ewald_radius * self.voxel_size)

    @property
    def pixel_xy(self) -> NDArray[np.float64]:
        """Lab positions [T, 2] (x, y) in pixels, projected from the sample to the detector plane.

        NaN where an element of the raw array has no pixel, or lies upstream of the sample.
        """
        forward = self.ewald_radius + self.q_voxels[:, 2]
        forward[(forward <= 0) | ~self._has_pixel()] = np.nan
        return self.q_voxels[:, :2] * (self.distance_pixels / forward)[:, None]

    def to_image(self, values: ArrayLike, fill: float = np.nan) -> NDArray[np.float64]:
        """Place values at the rounded lab positions of their pixels, for pictures.

        Parameters
        ----------
        values : float [T]
            One value per pixel.
        fill : float
            Value of gaps between panels.

        Returns
        -------
        image : float64 [X, Y]
            First axis x, second y, as volumes are. Where rotated or more distant panels put two
            pixels on one element the later one stays.

        Raises
        ------
        InputError
            `values` has another length, or the pixels are spread over too large a picture.

        Examples
        --------
        >>> plt.imshow(detector.to_image(frame).T, origin="lower")  # x to the right, y up
        """
        values = _validate.array("values", values, np.float64, (self.n_pixels,))
        xy = self.pixel_xy
        placed = np.isfinite(xy).all(axis=1)
        cells = np.floor(xy[placed] - xy[placed].min(axis=0) + (0.5 + _TIE))
        extent = cells.max(axis=0) + 1
        if extent.prod() > _MAX_IMAGE_ELEMENTS:
            raise InputError(
                f"the pixels must fit a picture of {_MAX_IMAGE_ELEMENTS} elements, "
                f"got {extent[0]:g} x {extent[1]:g}"
            )
        image = np.full(extent.astype(int), fill, dtype=np.float64)
        image[tuple(cells.astype(int).T)] = values[placed]
        return image

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        mask: ArrayLike | None = None,
        *,
        energy_ev: float | None = None,
        distance: float | None = None,
        polarization: str = "x",
    ) -> Detector:
        """Read a detector file; its content tells the form, never its name.

        Parameters
        ----------
        path : path
            spicore HDF5, Dragonfly HDF5 or ASCII (.dat), or CrystFEL geometry (.geom).
        mask : int [T], optional
            Replaces the mask of the file; any shape with T elements.
        energy_ev : float, optional
            Photon energy in eV. Needed where a CrystFEL file gives no number, replaces the
            number it gives, and sets `voxel_size` of forms that are in voxels.
        distance : float, optional
            Metres, replaces `clen` of a CrystFEL file; other forms do not take it.
        polarization : {'x', 'y', 'none'}
            Of the beam, for a CrystFEL file; other forms hold the finished correction.

        Returns
        -------
        detector : Detector

        Raises
        ------
        InputError
            One line with the file, what was expected and what came.

        Notes
        -----
        Voxels of a CrystFEL geometry are one pixel wide at small angles, at the median distance
        of its pixels; pixel t is element t of the raw array in C order.
        """
        path = Path(path)
        try:
            wavelength = None if energy_ev is None else _wavelength(energy_ev)
            text = None if _is_hdf5(path) else _read_text(path)
            if text is not None and _is_crystfel(text):
                return cls._from_crystfel(text, mask, wavelength, distance, polarization)
            if distance is not None:
                raise InputError("distance is for CrystFEL geometry, the file has its own")
            loaded = _read_hdf5(path) if text is None else dragonfly_detector.read_text(text)
            return cls._from_voxels(loaded, mask, wavelength)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def _from_crystfel(
        cls,
        text: str,
        mask: ArrayLike | None,
        wavelength: float | None,
        distance: float | None,
        polarization: str,
    ) -> Detector:
        if distance is not None:
            distance = _positive("distance", distance)
        geometry = crystfel.parse(text, wavelength=wavelength, distance=distance)
        return cls.from_geometry(
            geometry.positions,
            pixel_size=geometry.pixel_size,
            wavelength=geometry.wavelength,
            mask=geometry.mask if mask is None else mask,
            polarization=polarization,
            normals=geometry.normals,
            shape=geometry.shape,
        )

    @classmethod
    def _from_voxels(
        cls, loaded: dict[str, Any], mask: ArrayLike | None, wavelength: float | None
    ) -> Detector:
        if mask is not None:
            loaded["mask"] = mask
        if wavelength is not None:
            radius = _positive("ewald_radius", loaded["ewald_radius"])
            loaded["voxel_size"] = 1.0 / (wavelength * radius)
        return cls(**loaded)

    @classmethod
    def square(
        cls,
        n_pixels: int = 128,
        pixel_size: float = 0.1 / 128,
        distance: float = 0.2,
        energy_ev: float = 4600.0,
        stop_radius: float = 0.0,
        polarization: str = "x",
    ) -> Detector:
        """Return a centred square detector, as Dragonfly's `make_detector` lays it out.

        Parameters
        ----------
        n_pixels : int
            Pixels per edge, at least 3. Pixel t is (x, y) = divmod(t, n_pixels).
        pixel_size, distance : float
            Metres. One voxel is one pixel at small angles: ewald_radius = distance / pixel_size.
        energy_ev : float
            Photon energy in eV.
        stop_radius : float
            Pixels closer than this to the centre (in pixels) get mask 2.
        polarization : {'x', 'y', 'none'}
            Of the beam.

        Returns
        -------
        detector : Detector
            Corners beyond the largest inscribed circle have mask 1.

        Raises
        ------
        InputError
            A parameter is out of range, or the beam stop leaves no pixel to orient with.
        """
        if not _validate.number("n_pixels", n_pixels, low=3, high=1 << 14).is_integer():
            raise InputError(f"n_pixels must be an integer, got {n_pixels!r}")
        n_pixels = int(n_pixels)
        pixel_size = _positive("pixel_size", pixel_size)
        distance = _positive("distance", distance)
        stop_radius = _validate.number("stop_radius", stop_radius, low=0)
        centre = (n_pixels - 1) / 2
        x, y = (np.indices((n_pixels, n_pixels)) - centre).reshape(2, -1)
        radius = np.hypot(x, y)
        mask = np.where(radius > centre, 1, 0).astype(np.uint8)
        mask[radius < stop_radius] = 2
        return cls.from_geometry(
            np.stack([x * pixel_size, y * pixel_size, np.full_like(x, distance)], axis=1),
            pixel_size=pixel_size,
            wavelength=_wavelength(energy_ev),
            mask=mask,
            polarization=polarization,
            shape=(n_pixels, n_pixels),
        )

    @classmethod
    def from_geometry(
        cls,
        positions: ArrayLike,
        *,
        pixel_size: float | ArrayLike,
        wavelength: float,
        mask: ArrayLike | None = None,
        polarization: str = "x",
        normals: ArrayLike | None = None,
        shape: tuple[int, ...] | None = None,
        background: ArrayLike | None = None,
    ) -> Detector:
        """Return a detector from pixel positions.

        Parameters
        ----------
        positions : float [T, 3]
            Pixel centres (x, y, z) in metres, sample at the origin, beam along +z. Elements of
            the raw array without a pixel: NaN, with mask 2.
        pixel_size : float or float [T]
            Edge of a pixel in metres.
        wavelength : float
            Angstrom.
        mask : int [T], optional
            0 orient and merge (default), 1 merge only, 2 ignore.
        polarization : {'x', 'y', 'none'}
            Of the beam: correction 1 - x^2/|p|^2, 1 - y^2/|p|^2, or their mean.
        normals : float [T, 3], optional
            Direction a pixel faces, its length scaling the pixel's area; default along z.
        shape, background : optional
            As in `Detector`.

        Returns
        -------
        detector : Detector
            One voxel is one pixel at small angles: ewald_radius = distance / pixel_size, with
            the medians over pixels that are not ignored.

        Raises
        ------
        InputError
            As in `Detector`, or a pixel in use is not downstream of the sample (z > 0).
        """
        positions = _validate.array("positions", positions, np.float64, (None, 3))
        n_pixels = len(positions)
        mask = np.zeros(n_pixels, np.uint8) if mask is None else _checked_mask(mask, n_pixels)
        positions, used = _downstream(positions, mask), mask < 2
        sizes = np.full(n_pixels, pixel_size) if np.ndim(pixel_size) == 0 else pixel_size
        sizes = _validate.array("pixel_size", sizes, np.float64, (n_pixels,))
        wavelength = _positive("wavelength", wavelength)
        if normals is None:
            normals = np.broadcast_to(_BEAM, positions.shape)
        normals = _validate.array("normals", normals, np.float64, (n_pixels, 3))
        _positive("pixel_size", sizes[used].min())
        pixel = float(np.median(sizes[used]))
        distance_pixels = float(np.median(positions[used, 2])) / pixel
        range_ = np.linalg.norm(positions, axis=1)
        directions = positions / range_[:, None]
        solid_angle = (sizes / range_) ** 2 * np.abs((directions * normals).sum(axis=1))
        return cls(
            q_voxels=distance_pixels * (directions - _BEAM),
            correction=solid_angle * _polarization_factor(directions, polarization),
            mask=mask,
            ewald_radius=distance_pixels,
            distance_pixels=distance_pixels,
            voxel_size=1.0 / (wavelength * distance_pixels),
            shape=shape,
            background=background,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write spicore's own HDF5 form, which keeps every field; an old file stays if it fails.

        Raises
        ------
        InputError
            The file cannot be written.
        """
        with writing_hdf5(path) as (file, _):
            file.attrs["format"] = _FORMAT
            file.attrs["format_version"] = _FORMAT_VERSION
            for name, value in self._fields().items():
                if isinstance(value, np.ndarray):
                    file[name] = value
                elif value is not None:
                    file.attrs[name] = value

    def save_dragonfly(self, path: str | os.PathLike[str]) -> None:
        """Write Dragonfly's form: ASCII for the suffix `.dat`, HDF5 for `.h5`.

        Neither form keeps `voxel_size` or `shape`; the ASCII form has no background.

        Raises
        ------
        InputError
            Another suffix, a background for `.dat`, or the file cannot be written.
        """
        path = Path(path)
        writers = {".dat": dragonfly_detector.write_text, ".h5": dragonfly_detector.write_hdf5}
        suffix = _validate.choice(f"{path}: the suffix", path.suffix, tuple(writers))
        with atomic_path(path) as temporary:
            writers[suffix](temporary, self._fields())

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _has_pixel(self) -> NDArray[np.bool_]:
        """Return [T] which elements of the raw array have a pixel (see Notes of the class)."""
        return (self.mask < 2) | (self.correction != 0) | (self.q_voxels != 0).any(axis=1)


def _checked_fields(detector: Detector) -> dict[str, Any]:
    """Return all fields of a detector in their final types, or raise `InputError`."""
    q = _validate.array("q_voxels", detector.q_voxels, np.float64, (None, 3))
    n_pixels = len(q)
    correction = _validate.array("correction", detector.correction, np.float64, (n_pixels,))
    mask = _checked_mask(detector.mask, n_pixels)
    ewald_radius = _positive("ewald_radius", detector.ewald_radius)
    usable_q = (np.abs(q) <= 2.000001 * ewald_radius).all(axis=1)  # false for NaN; room to round
    _require(
        usable_q | (mask == 2),
        f"q_voxels must be finite and no longer than 2 ewald_radius = {2 * ewald_radius:g}",
        q,
    )
    usable = np.isfinite(correction) & (correction > 0)
    _require(usable | (mask == 2), "correction must be finite and positive", correction)
    usable &= usable_q
    return {
        "q_voxels": np.where(usable[:, None], q, 0.0),
        "correction": _unit_mean(np.where(usable, correction, 0.0)),
        "mask": mask,
        "ewald_radius": ewald_radius,
        "distance_pixels": _positive("distance_pixels", detector.distance_pixels),
        "voxel_size": (
            None if detector.voxel_size is None else _positive("voxel_size", detector.voxel_size)
        ),
        "shape": None if detector.shape is None else _checked_shape(detector.shape, n_pixels),
        "background": (
            None if detector.background is None else _checked_background(detector.background, mask)
        ),
    }


def _checked_mask(mask: ArrayLike, n_pixels: int) -> NDArray[np.uint8]:
    """Return a mask of any shape as uint8 [T], or raise `InputError`."""
    try:
        values = np.ravel(mask)
    except ValueError as error:
        raise InputError(f"mask must be an array: {error}") from None
    if values.dtype.kind not in "iu":
        raise InputError(f"mask must hold integers 0, 1 or 2, got {values.dtype}")
    if values.size != n_pixels:
        raise InputError(f"mask must have {n_pixels} values, one per pixel, got {values.size}")
    wrong = values[(values < 0) | (values > 2)]
    if wrong.size:
        raise InputError(f"mask must be 0, 1 or 2, got {wrong.size} other values, first {wrong[0]}")
    if not (values == 0).any():
        raise InputError(f"mask must leave a pixel to orient with (0), got none of {n_pixels}")
    return values.astype(np.uint8)


def _checked_shape(shape: Any, n_pixels: int) -> tuple[int, ...]:
    try:
        result = tuple(int(n) for n in shape)
    except (TypeError, ValueError):
        raise InputError(f"shape must be a tuple of integers, got {shape!r}") from None
    if math.prod(result) != n_pixels or min(result, default=0) < 1:
        raise InputError(f"shape must hold {n_pixels} pixels, got {list(result)}")
    return result


def _checked_background(background: ArrayLike, mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    result = _validate.array("background", background, np.float64, mask.shape)
    usable = np.isfinite(result) & (result >= 0)
    _require(usable | (mask == 2), "background must be finite and not negative", result)
    return np.where(usable, result, 0.0)


def _require(ok: NDArray[np.bool_], message: str, values: NDArray[np.float64]) -> None:
    """Raise `InputError` that names the first pixel in use that is not ok."""
    if not ok.all():
        t = int(ok.argmin())
        raise InputError(f"{message} where mask < 2, got {values[t].tolist()} at pixel {t}")


def _unit_mean(correction: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = correction.mean()
    # Already divided, up to the rounding of the sum: keep every bit, so that files round-trip.
    return correction if abs(mean - 1.0) < 1e-12 else correction / mean


def _positive(name: str, value: Any) -> float:
    result = _validate.number(name, value, low=0.0)
    if result == 0.0:
        raise InputError(f"{name} must be positive, got {value!r}")
    return result


def _wavelength(energy_ev: float) -> float:
    # The bounds catch keV or joule given for eV in most cases.
    return HC_EV_ANGSTROM / _validate.number("energy_ev", energy_ev, low=10.0, high=1e7)


def _downstream(positions: NDArray[np.float64], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return positions with NaN rows where there is no pixel downstream of the sample."""
    downstream = np.isfinite(positions).all(axis=1) & (positions[:, 2] > 0)
    _require(
        downstream | (mask == 2),
        "positions must be finite and downstream of the sample (z > 0)",
        positions,
    )
    return np.where(downstream[:, None], positions, np.nan)


def _polarization_factor(directions: NDArray[np.float64], polarization: str) -> NDArray[np.float64]:
    """Return the fraction of scattered light [T] in unit directions [T, 3]."""
    along_x, along_y = directions[:, 0] ** 2, directions[:, 1] ** 2
    lost = {"x": along_x, "y": along_y, "none": (along_x + along_y) / 2}
    return 1.0 - lost[_validate.choice("polarization", polarization, tuple(lost))]


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    if not content.strip():
        raise InputError(f"expected {_FORMS}, got an empty file")
    if b"\0" in content:
        raise InputError(f"expected {_FORMS}, got other binary data")
    return content.decode("utf-8-sig", errors="replace")  # comments may have any encoding


def _is_crystfel(text: str) -> bool:
    """Return whether text is CrystFEL geometry rather than Dragonfly's ASCII form."""
    bodies = (line.partition(";")[0].strip() for line in StringIO(text))
    first = next(filter(None, bodies), "")
    if "=" not in first and not first[:1].isdigit():
        raise InputError(f"expected {_FORMS}, got text that begins {first[:40]!r}")
    return "=" in first


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        with h5py.File(path, "r") as file:
            own = str(file.attrs.get("format")) == _FORMAT
            return _read_own(file) if own else dragonfly_detector.read_hdf5(file)
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # h5py, for damaged files
        raise InputError(f"cannot be read as HDF5: {error}") from None


def _read_own(file: h5py.File) -> dict[str, Any]:
    version = file.attrs.get("format_version")
    if version != _FORMAT_VERSION:
        raise InputError(f"format_version must be {_FORMAT_VERSION}, got {version}")
    arrays = ["q_voxels", "correction", "mask"] + ["background"] * ("background" in file)
    scalars = ("ewald_radius", "distance_pixels", "voxel_size", "shape")
    return {name: dragonfly_detector.read_dataset(file, name) for name in arrays} | {
        name: file.attrs.get(name) for name in scalars
    }

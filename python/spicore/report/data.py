"""All that a report shows, read from disk before anything is drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import metrics, orientations
from ..detector import Detector
from ..emc import Config, Result
from ..errors import InputError
from ..ewald import ewald_slice
from ..frames import Frames
from ..io.files import reading_hdf5
from . import inputs
from .axes import find_group
from .numbers import Summary, by_mode, observed_share, summarize

Float64 = NDArray[np.float64]

FLUENCE_QUANTILES = (0.02, 0.2, 0.4, 0.6, 0.8, 0.98)
"""Frames shown as examples: from weak to strong."""

_PHOTON_SAMPLE = 2000  # frames to average: 1 % for fluences that vary by 40 %, in one short read
_SHARE_SHOWN = 0.98  # of the photons, in pictures of frames
_LARGEST_PICTURE = 128  # elements per edge; larger detectors are binned to be readable
_FLAT = 0.5  # voxels that the Ewald sphere may leave its tangent plane and count as flat


@dataclass(frozen=True)
class Example:
    """One frame beside the tomogram that fits it best; pictures [X, Y], NaN where no pixel is."""

    number: int
    photons: float
    fluence: float
    frame: Float64
    tomogram: Float64
    binning: int
    cropped: bool


@dataclass(frozen=True)
class Comparison:
    """A result against the truth; what the truth file lacks is None.

    Attributes
    ----------
    radius, cc : float64 [S]      shell correlation after alignment, shells of `radius`
    alignment : float64 [4]       rotation of the result onto the truth
    true_volume : float32 [N]^3   the truth, cut to the size of the result
    pose_errors : float64 [F]     degrees, of frames in use
    random_error : float          median for shuffled poses
    group : str                   point group divided by
    group_score : float           self-correlation of the truth under it; NaN if not known
    flat : bool                   half turns about the beam divided out too
    fluence : (found, true) [F]   both with mean 1
    """

    radius: Float64 | None = None
    cc: Float64 | None = None
    alignment: Float64 | None = None
    true_volume: NDArray[np.float32] | None = None
    pose_errors: Float64 | None = None
    random_error: float = float("nan")
    group: str = "C1"
    group_score: float = float("nan")
    flat: bool = False
    fluence: tuple[Float64, Float64] | None = None


@dataclass(frozen=True)
class Data:
    """All that a report shows."""

    folder: Path
    result: Result
    config: Config
    summary: Summary
    main_mode: int  # the mode of most frames
    frames_per_mode: NDArray[np.int64]
    examples: tuple[Example, ...]
    no_examples: str  # why, if so
    mean_photons: float | None
    comparison: Comparison | None
    version: str

    @property
    def used(self) -> NDArray[np.bool_]:
        """Frames that took part [D]."""
        return self.result.mode >= 0

    @property
    def oriented(self) -> NDArray[np.bool_]:
        """Frames with an orientation: those in use that are not of a fixed pattern."""
        return self.used & np.isfinite(self.result.orientation).all(axis=1)


def collect(
    folder: Path,
    truth: Sequence[Path],
    frames: str | os.PathLike[str] | None,
    detector: str | os.PathLike[str] | None,
    truth_symmetry: str | None,
    threads: int | None,
) -> Data:
    """Read and compute all that a report shows."""
    path = folder / "result.h5"
    result = Result.load(path)
    with reading_hdf5(os.fspath(path)) as file:
        version = str(file.attrs.get("spicore_version", "unknown"))
    config = Config.from_toml(result.config)
    summary = summarize(result)
    n_modes = summary.n_modes
    frames_per_mode = np.bincount(result.mode[result.mode >= 0], minlength=n_modes)
    main_mode = int(frames_per_mode[:n_modes].argmax())
    noted = _noted_inputs(folder, frames, detector)
    opened, geometry, missing = _open_inputs(noted, result, given=bool(frames or detector))
    examples: tuple[Example, ...] = ()
    mean_photons = None
    if opened is not None and geometry is not None:
        examples = _examples(result, config, opened, geometry, noted.get("background"), threads)
        step = max(1, opened.n_frames // _PHOTON_SAMPLE)
        mean_photons = float(np.mean(opened[::step].photons_per_frame))
    comparison = None
    if truth:
        group = config.symmetry if truth_symmetry is None else truth_symmetry
        flat = geometry is not None and _is_flat(geometry)
        comparison = _compare(truth, result, summary, main_mode, group, flat, threads)
    return Data(
        folder,
        result,
        config,
        summary,
        main_mode,
        frames_per_mode,
        examples,
        missing,
        mean_photons,
        comparison,
        version,
    )


# Example frames


def _noted_inputs(
    folder: Path,
    frames: str | os.PathLike[str] | None,
    detector: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    noted = inputs.read_inputs(folder)
    if frames is not None:
        noted["frames"] = os.fspath(frames)
    if detector is not None:
        noted["detector"] = os.fspath(detector)
    return noted


def _open_inputs(
    noted: dict[str, Any], result: Result, *, given: bool
) -> tuple[Frames | None, Detector | None, str]:
    """Open frames and detector; if they were only noted and are gone, say so instead."""
    if "frames" not in noted or "detector" not in noted:
        return None, None, "frames and detector are not known: give --frames and --detector"
    try:
        frames = Frames.open(noted["frames"], noted.get("dataset"))
        detector = Detector.load(
            noted["detector"], energy_ev=noted.get("energy_ev"), distance=noted.get("distance")
        )
        if frames.n_pixels != detector.n_pixels:
            raise InputError(
                f"frames have {frames.n_pixels} pixels but the detector has {detector.n_pixels}"
            )
        if frames.n_frames != len(result.fluence):
            raise InputError(
                f"the result is of {len(result.fluence)} frames, "
                f"{noted['frames']} has {frames.n_frames}"
            )
    except InputError as error:
        if given:
            raise
        return None, None, str(error)
    return frames, detector, ""


def _examples(
    result: Result,
    config: Config,
    frames: Frames,
    detector: Detector,
    background_path: str | None,
    threads: int | None,
) -> tuple[Example, ...]:
    """Pick frames from weak to strong and slice the volume as they see it."""
    used = np.flatnonzero(result.mode >= 0)
    by_fluence = used[np.argsort(result.fluence[used], kind="stable")]
    places = np.rint(np.array(FLUENCE_QUANTILES) * (len(used) - 1)).astype(int)
    chosen = np.unique(places)
    background = detector.background
    if background_path is not None and os.path.exists(background_path):
        background = inputs.read_background(background_path)
    q_abs = np.linalg.norm(detector.q_voxels, axis=1)
    shown = (detector.mask < 2) & ((q_abs <= config.radius) if config.radius else True)
    window, cropped = _window(frames[by_fluence[chosen]], detector)
    examples = []
    for d in by_fluence[chosen]:
        values = frames.dense(int(d), int(d) + 1)[0].astype(np.float64)
        expected = _tomogram(result, detector, int(d), threads)
        if background is not None:
            expected = expected + result.background_scale[d] * background
        values[~shown] = expected[~shown] = np.nan
        frame, binning = _binned(detector.to_image(values)[window])
        tomogram, _ = _binned(detector.to_image(expected)[window])
        examples.append(
            Example(
                int(d),
                float(np.nansum(values)),
                float(result.fluence[d]),
                frame,
                tomogram,
                binning,
                cropped,
            )
        )
    return tuple(examples)


def _tomogram(result: Result, detector: Detector, d: int, threads: int | None) -> Float64:
    """Expected photons of frame d on all pixels, without background."""
    volumes = by_mode(result.intensity)
    mode, fluence = int(result.mode[d]), float(result.fluence[d])
    if mode >= len(volumes):
        pattern = result.patterns[mode - len(volumes)].astype(np.float64)
        return pattern * detector.correction * fluence
    quat = _unit(result.orientation[d : d + 1])
    slices = ewald_slice(volumes[mode], quat, detector.q_voxels, threads=threads)
    return slices[0] * detector.correction * fluence


def _window(frames: Frames, detector: Detector) -> tuple[tuple[slice, slice], bool]:
    """Return the part of a picture that holds most photons, and whether it is not all of it."""
    xy = detector.pixel_xy
    placed = np.isfinite(xy).all(axis=1)
    used = placed & (detector.mask < 2)
    photons = np.abs(frames.dense(0, len(frames)).sum(axis=0, dtype=np.float64))[used]
    radius = np.linalg.norm(xy[used], axis=1)
    order = np.argsort(radius)
    running = np.cumsum(photons[order])
    place = np.searchsorted(running, _SHARE_SHOWN * running[-1])
    reach = 1.15 * radius[order][min(place, len(radius) - 1)] + 3.0
    corner = xy[placed].min(axis=0)
    extent = np.ceil(xy[placed].max(axis=0) - corner).astype(int) + 1
    low = np.clip(np.floor(-reach - corner).astype(int), 0, extent - 1)
    high = np.clip(np.ceil(reach - corner).astype(int) + 1, low + 1, extent)
    if (high - low).prod() > 0.7 * extent.prod():
        return (slice(None), slice(None)), False
    return (slice(low[0], high[0]), slice(low[1], high[1])), True


def _binned(image: Float64) -> tuple[Float64, int]:
    """Sum k x k elements, k the smallest that gives a readable picture; gaps stay gaps."""
    k = -(-max(image.shape) // _LARGEST_PICTURE)
    if k == 1:
        return image, 1
    padded = np.pad(
        image, [(0, -n % k) for n in image.shape], mode="constant", constant_values=np.nan
    )
    blocks = padded.reshape(padded.shape[0] // k, k, padded.shape[1] // k, k)
    seen = np.isfinite(blocks).any(axis=(1, 3))
    return np.where(seen, np.nansum(blocks, axis=(1, 3)), np.nan), k


def _is_flat(detector: Detector) -> bool:
    return detector.q_max**2 / (2.0 * detector.ewald_radius) < _FLAT


def _unit(quats: NDArray) -> Float64:
    quats = quats.astype(np.float64)  # stored in float32
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


# Truth


def _compare(
    paths: Sequence[Path],
    result: Result,
    summary: Summary,
    mode: int,
    group: str,
    flat: bool,
    threads: int | None,
) -> Comparison:
    truth = _read_truth(paths)
    values: dict[str, Any] = {"group": group, "flat": flat}
    if "intensity" in truth:
        values |= _compare_volumes(truth["intensity"], result, summary, mode, threads)
    n = len(result.fluence)
    used = (result.mode >= 0) & np.isfinite(result.orientation).all(axis=1)
    if "orientation" in truth and used.any():
        true = _per_frame(truth["orientation"], (n, 4), "orientation")[used]
        found, true = _unit(result.orientation[used]), _unit(true)
        elements: Float64 | str = group
        if "true_volume" in values and group != "C1":
            elements, values["group_score"] = find_group(values["true_volume"], group, threads)
        errors, _ = metrics.pose_error(found, true, group=elements, friedel_flat=flat)
        shuffled = np.random.default_rng(0).permutation(true)
        at_random, _ = metrics.pose_error(found, shuffled, group=elements, friedel_flat=flat)
        values |= {"pose_errors": errors, "random_error": float(np.median(at_random))}
    if "fluence" in truth and used.any():
        true = _per_frame(truth["fluence"], (n,), "fluence")[used].astype(np.float64)
        found = result.fluence[used].astype(np.float64)
        values["fluence"] = (found / found.mean(), true / true.mean())
    return Comparison(**values)


def _read_truth(paths: Sequence[Path]) -> dict[str, NDArray]:
    """Return intensity, orientation and fluence, as far as the files have them."""
    names = {
        "intensity": ("intensity", "intens"),
        "orientation": ("orientation", "quaternions_wxyz"),
        "fluence": ("fluence",),
    }
    truth = {}
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if not h5py.is_hdf5(path):
            raise InputError(f"{path} must be HDF5 with intensity, orientation or fluence")
        with reading_hdf5(os.fspath(path)) as file:
            for name, options in names.items():
                for option in options:
                    if isinstance(file.get(option), h5py.Dataset):
                        truth[name] = file[option][()]
    if not truth:
        wanted = ", ".join(option for options in names.values() for option in options)
        raise InputError(f"{', '.join(map(str, paths))}: a truth file must have one of {wanted}")
    return truth


def _per_frame(values: NDArray, shape: tuple[int, ...], name: str) -> NDArray:
    if values.shape != shape:
        raise InputError(
            f"{name} of the truth must have shape {list(shape)}, got {list(values.shape)}"
        )
    return values


def _compare_volumes(
    intensity: NDArray, result: Result, summary: Summary, mode: int, threads: int | None
) -> dict[str, Any]:
    volume = by_mode(result.intensity)[mode]
    true = resized(by_mode(intensity)[0].astype(np.float32), len(volume))
    low, high = _measured_shells(by_mode(result.weight)[mode])
    quat, aligned, _ = metrics.align_volumes(volume, true, radius=(low, high), threads=threads)
    radius, cc = metrics.shell_cc(aligned, true)
    kept = slice(0, summary.reach + 1)
    return {"radius": radius[kept], "cc": cc[kept], "alignment": quat, "true_volume": true}


def _measured_shells(weight: NDArray) -> tuple[int, int]:
    """Return the first and the last shell of which most was observed, at least two apart."""
    observed = np.flatnonzero(observed_share(weight) >= 0.5)
    observed = observed[observed >= 3]
    if observed.size < 3:
        return 3, (len(weight) - 1) // 2
    return int(observed[0]), int(observed[-1])


def resized(volume: NDArray, size: int) -> NDArray:
    """Cut or pad a volume to another edge; the origin stays at ``N // 2``."""
    have = len(volume)
    if have > size:
        start = have // 2 - size // 2
        volume = volume[(slice(start, start + size),) * 3]
    elif have < size:
        before = size // 2 - have // 2
        volume = np.pad(volume, (before, size - have - before))
    return volume


def directions(data: Data) -> Float64:
    """Return the beam directions [F, 3] in the frame of the model, with symmetry's copies."""
    quats = _unit(data.result.orientation[data.oriented])
    group = orientations.point_group(data.config.symmetry)
    copies = orientations.multiply(group[:, None], quats[None]).reshape(-1, 4)
    return orientations.rotate(copies, np.array([0.0, 0.0, 1.0]))

"""Small simulated experiments: a particle, its intensity, and photon frames with known truth.

Made for demonstrations and tests, where the answer must be known: one kind of particle, one
particle per frame, no parasitic scattering but a constant background.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypedDict

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validate, orientations
from .detector import Detector
from .errors import InputError
from .ewald import MAX_SIZE, ewald_slice
from .frames import Frames, Progress
from .io.dense_stack import MAX_COUNT
from .io.emc_binary import atomic_path
from .orientations._checks import count as whole_number

_BLOB_SIGMA = 1.0 / 25.0  # of the diameter: 0.8 voxels at 20, fine enough for signal at the edge
_BLOB_MARGIN = 2.0  # sigmas between a blob's centre and the surface
_SAMPLES_AT_ONCE = 1 << 22  # expected photons of a block: 16 MiB of float32

_MEAN_GRID = 3  # 1,380 rotations: the mean photons of 1BXR are good to 0.1 %; 2 leaves 0.5 %

# Independent random streams of one seed.
_ORIENTATION, _FLUENCE, _PHOTONS = range(3)


class Truth(TypedDict):
    """What the frames were made from.

    Attributes
    ----------
    quats : float64 [N, 4]
        ``q_model = R(quat) q_detector``.
    fluence : float64 [N]
        Relative to the mean, 1.
    scale : float
        Photons per unit of intensity and correction at fluence 1.
    """

    quats: NDArray[np.float64]
    fluence: NDArray[np.float64]
    scale: float


def particle(
    seed: int = 0, *, diameter: float = 20.0, size: int | None = None, blobs: int = 40
) -> NDArray[np.float32]:
    """Return the density of a small random molecule without any symmetry.

    Parameters
    ----------
    seed : int
        Another seed is another molecule.
    diameter : float
        Of the sphere that holds it, in voxels, at least 4. Density is exactly 0 outside.
    size : int, optional
        Edge N of the cube; by default the smallest odd one that leaves a voxel around.
    blobs : int
        Gaussians, at random places, with weights from 0.5 to 1.5 and a sigma of diameter / 25.

    Returns
    -------
    float32 [N, N, N]
        Not negative, origin at ``N // 2``.

    Raises
    ------
    InputError
        A number is out of range, or the sphere does not fit into the cube.
    """
    diameter = _validate.number("diameter", diameter, low=4.0, high=MAX_SIZE - 3)
    smallest = 2 * int(np.ceil(diameter / 2.0)) + 3
    size = smallest if size is None else whole_number("size", size, low=2, high=MAX_SIZE)
    if (size - 1) // 2 < diameter / 2.0:
        raise InputError(f"size must be at least {smallest - 2} for this diameter, got {size}")
    rng = _generator(seed)
    sigma = diameter * _BLOB_SIGMA
    centres = _in_ball(rng, whole_number("blobs", blobs, low=1, high=100_000))
    centres *= diameter / 2.0 - _BLOB_MARGIN * sigma
    x = np.arange(size) - size // 2
    # [3, blobs, N]: a Gaussian is a product over the axes.
    along = np.exp(-0.5 * ((x - centres.T[..., None]) / sigma) ** 2)
    weights = rng.uniform(0.5, 1.5, len(centres))
    density = np.einsum("b,bx,by,bz->xyz", weights, *along, optimize=True)
    squared = x**2
    outside = squared[:, None, None] + squared[:, None] + squared > (diameter / 2.0) ** 2
    density[outside] = 0.0
    return density.astype(np.float32)


def intensity(density: ArrayLike, size: int) -> NDArray[np.float32]:
    """Return the diffraction intensity of a density, its squared Fourier transform.

    Parameters
    ----------
    density : float32 [n, n, n]
        Any origin: a shift changes phases only.
    size : int
        Edge N of the result, odd, at least n. `Detector.size` is the edge that a detector needs.

    Returns
    -------
    float32 [N, N, N]
        Origin at ``N // 2``, exactly centrosymmetric, ``(sum density)^2`` at the origin.

    Raises
    ------
    InputError
        The density is not cubic or not finite, or `size` is even or smaller than n.

    Notes
    -----
    The density is padded with zeros to N: one voxel of q is 1 / (N a) for density voxels of edge
    a, the face of the cube lies at 1 / (2 a), and a particle D voxels wide has speckles N / D
    voxels wide. Phasing needs N / D >= 2. Cost: 0.1 s for 151^3.
    """
    density = _validate.volume("density", density)
    size = whole_number("size", size, low=len(density), high=MAX_SIZE)
    if size % 2 == 0:
        raise InputError(f"size must be odd (an even grid has no centre), got {size}")
    # float64: in float32 the rounding of the bright centre would drown the edge.
    amplitude = np.fft.rfftn(density.astype(np.float64), s=(size,) * 3, axes=(0, 1, 2))
    half = np.fft.fftshift(np.abs(amplitude) ** 2, axes=(0, 1)).astype(np.float32)
    centre = size // 2
    plane = half[:, :, 0].copy()
    half[:, :, 0] = 0.5 * (plane + plane[::-1, ::-1])
    result = np.empty((size,) * 3, np.float32)
    result[:, :, centre:] = half
    result[:, :, :centre] = half[::-1, ::-1, :0:-1]
    return result


def frames(
    intensity: ArrayLike,
    detector: Detector,
    n_frames: int,
    mean_photons: float,
    seed: int = 0,
    *,
    fluence_spread: float = 0.0,
    quats: ArrayLike | None = None,
    background: ArrayLike | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Frames, Truth]:
    """Simulate photon frames of one particle in random orientations.

    Parameters
    ----------
    intensity : float32 [N, N, N]
        Not negative, in any unit; N of `Detector.size` holds all pixels in use.
    detector : Detector
        Pixels with mask 2 stay empty.
    n_frames : int
        Number of frames.
    mean_photons : float
        Photons per frame in pixels with mask 0, without background: mean over all rotations and
        fluences, so that `quats` do not change it.
    seed : int
        The first frames of a seed are the same however many follow, in blocks of any size.
    fluence_spread : float
        Variance of the fluence, whose mean is 1: gamma distribution of shape 1 / spread.
        0 keeps it constant.
    quats : float64 [n_frames, 4], optional
        Orientations; uniformly random by default.
    background : float [T], optional
        Expected background photons per pixel, the same at any fluence; by default that of the
        detector, if it has one.
    threads : int, optional
        Default: all cores. Results do not depend on it.
    progress : callable, optional
        Called with (frames done, frames in all) after each block.

    Returns
    -------
    frames : Frames
        In memory.
    truth : dict
        See `Truth`.

    Raises
    ------
    InputError
        Shapes disagree, the intensity is negative, too small for the detector or 0 on it, a
        number is out of range, or a pixel gets more than 65,535 photons.

    Notes
    -----
    Photons are Poisson with mean ``scale * fluence * correction * I(R q) + background``.
    Cost: 1.2 s for 2,000 frames of 150 x 150 pixels on 2 cores.
    """
    intensity = _checked_intensity(intensity, detector)
    n_frames = whole_number("n_frames", n_frames, low=1, high=1 << 31)
    mean_photons = _validate.number("mean_photons", mean_photons, low=0.0, high=1e9)
    quats = _orientations(quats, n_frames, seed)
    fluence = _fluences(fluence_spread, n_frames, seed)
    background = _background(background, detector)
    scale = mean_photons / _mean_total(intensity, detector, threads)
    pixel, count, lengths = [], [], []
    for start, expected in _expected(intensity, detector, quats, scale * fluence, threads):
        for d, mean in enumerate(expected, start):
            photons = _generator(seed, _PHOTONS, d).poisson(mean + background)
            pixel.append(np.flatnonzero(photons))
            count.append(photons[pixel[-1]])
            lengths.append(pixel[-1].size)
        if progress is not None:
            progress(start + len(expected), n_frames)
    offset = np.concatenate([[0], np.cumsum(lengths)])
    used = np.flatnonzero(detector.mask < 2)
    sparse = Frames.from_arrays(
        offset, used[np.concatenate(pixel)], np.concatenate(count), detector.n_pixels
    )
    return sparse, {"quats": quats, "fluence": fluence, "scale": scale}


def save_truth(
    path: str | os.PathLike[str], truth: Truth, *, intensity: ArrayLike | None = None
) -> None:
    """Write what frames were made from, under the names that results of a reconstruction have.

    Parameters
    ----------
    path : path
        HDF5 file with `orientation` float64 [N, 4], `fluence` float64 [N], attribute `scale` and,
        if given, `intensity`. Replaced only when the new file is complete.
    truth : dict
        From `frames`.
    intensity : float32 [N, N, N], optional
        The true intensity.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["orientation"] = truth["quats"]
        file["fluence"] = truth["fluence"]
        file.attrs["scale"] = truth["scale"]
        if intensity is not None:
            file["intensity"] = _validate.volume("intensity", intensity)


def _generator(seed: Any, *key: int) -> np.random.Generator:
    seed = whole_number("seed", seed, low=0, high=(1 << 63) - 1)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _in_ball(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Return n points [n, 3] uniform in the unit ball."""
    directions = rng.standard_normal((n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.cbrt(rng.random((n, 1)))


def _checked_intensity(intensity: ArrayLike, detector: Detector) -> NDArray[np.float32]:
    intensity = _validate.volume("intensity", intensity)
    if intensity.min() < 0.0:
        raise InputError(f"intensity must not be negative, got {intensity.min():g}")
    if len(intensity) // 2 <= detector.q_max:
        raise InputError(
            f"intensity must reach beyond q_max = {detector.q_max:.4g} voxels of the detector "
            f"(Detector.size is {detector.size}), got an edge of {len(intensity)}"
        )
    return intensity


def _orientations(quats: ArrayLike | None, n_frames: int, seed: int) -> NDArray[np.float64]:
    if quats is None:
        return orientations.random(n_frames, _generator(seed, _ORIENTATION))
    quats = _validate.quaternions("quats", quats)
    if len(quats) != n_frames:
        raise InputError(f"quats must have shape [{n_frames}, 4], got {list(quats.shape)}")
    return quats


def _fluences(spread: float, n_frames: int, seed: int) -> NDArray[np.float64]:
    spread = _validate.number("fluence_spread", spread, low=0.0, high=100.0)
    if spread == 0.0:
        return np.ones(n_frames)
    return _generator(seed, _FLUENCE).gamma(1.0 / spread, spread, n_frames)


def _background(background: ArrayLike | None, detector: Detector) -> NDArray[np.float64]:
    """Return the background of the pixels in use."""
    if background is None:
        background = detector.background
    if background is None:
        background = np.zeros(detector.n_pixels)
    values = _validate.array("background", background, np.float64, (detector.n_pixels,))
    values = values[detector.mask < 2]
    usable = (values >= 0.0) & (values <= MAX_COUNT)
    if not usable.all():
        raise InputError(
            f"background must be 0 to {MAX_COUNT} where mask < 2, got {values[~usable][0]:g}"
        )
    return values


def _mean_total(intensity: NDArray, detector: Detector, threads: int | None) -> float:
    """Return the mean over rotations of intensity times correction, summed over mask 0."""
    quats, weights = orientations.grid600(_MEAN_GRID)
    oriented = (detector.mask == 0)[detector.mask < 2]
    total = 0.0
    for _, expected in _expected(intensity, detector, quats, weights, threads):
        total += float(expected[:, oriented].sum())
    if not total > 0.0:
        raise InputError("intensity must be positive somewhere on pixels with mask 0")
    return total


def _expected(
    intensity: NDArray,
    detector: Detector,
    quats: NDArray[np.float64],
    factors: NDArray[np.float64],
    threads: int | None,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield (first frame, factor * correction * I(R q) of pixels in use) block by block."""
    used = detector.mask < 2
    q, correction = detector.q_voxels[used], detector.correction[used]
    rows = max(1, _SAMPLES_AT_ONCE // len(q))
    for start in range(0, len(quats), rows):
        slices = ewald_slice(intensity, quats[start : start + rows], q, threads=threads)
        yield start, slices * correction * factors[start : start + rows, None]

"""Quality of results: correlation of volumes per shell, alignment, pose errors.

Two volumes of the same particle differ by one unknown rotation A, and so do the orientations
found with them. `align_volumes` and `pose_error` return the same A:
`moving(R(A) q) = reference(q)` for volumes, `quats = A truth` for poses found with `moving`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _validate
from .errors import InputError
from .ewald import ewald_slice
from .orientations import (
    angle,
    asymmetric_unit,
    canonical,
    conjugate,
    grid600,
    grid_spacing,
    local_grid,
    mean,
    multiply,
    point_group,
)

Float64 = NDArray[np.float64]

_MIN_VOXELS = 10  # of a shell: a correlation of fewer samples says nothing
_ROUNDING = 1e-6  # relative spread of a constant after float32 arithmetic, with room
_POINTS_AT_ONCE = 1 << 22  # samples of a block: 16 MiB of float32

# Alignment by frequency marching. A rotation that is off by `t` radians moves a sample at radius
# r by r t. Up to this many voxels it stays inside a speckle, which an intensity that can be
# phased samples with at least 2 voxels.
_CAPTURE = 1.5
_TYPICAL_MISS = 0.42  # mean angle to the nearest point of `grid600`, in units of its spacing
_COARSE_RADIUS = 20  # inner shells alone leave false maxima, more of them a finer grid
_CANDIDATES = 60
# Samples of one level, over all its rotations (0.5 s on one core): as rotations get fewer, each
# sees more of the volume, and noise averages out. Below 100 samples a shell's own noise shows.
_LEVEL_SAMPLES, _SHELL_SAMPLES = 40_000_000, 100
_SAMPLES = (1_500, 300_000)  # bounds for one rotation
_FINAL_SPACING = 0.2  # degrees; rotations are at most 0.65 spacings from a local grid

# Beyond about 2000 frames and 200 candidates the best candidate hardly improves; the refinement
# that follows uses all frames.
_POSE_CANDIDATES, _POSE_SAMPLE = 200, 2000


def radial_average(volume: ArrayLike) -> tuple[Float64, Float64]:
    """Average a volume over spherical shells one voxel wide.

    Parameters
    ----------
    volume : float [N, N, N]
        Origin at ``N // 2``.

    Returns
    -------
    radius : float64 [S]
        0, 1, ... (N - 1) // 2 voxels.
    mean : float64 [S]
        Mean over the voxels whose rounded distance from the origin is `radius`.

    Raises
    ------
    InputError
        The volume is not cubic or not finite.
    """
    volume = _cubic("volume", volume, np.float64)
    inside, shell, _ = _shells(len(volume))
    total, count = _sums(shell, volume[inside]), np.bincount(shell)
    return np.arange(count.size, dtype=np.float64), total / count


def shell_cc(
    a: ArrayLike, b: ArrayLike, *, mask: ArrayLike | None = None, weight: ArrayLike | None = None
) -> tuple[Float64, Float64]:
    """Correlate two intensities per shell, after removing all that depends on radius only.

    Parameters
    ----------
    a, b : float [N, N, N]
        Volumes in the same orientation, origin at ``N // 2``; any scale, even one per shell.
    mask : bool [N, N, N], optional
        Voxels to use.
    weight : float [N, N, N], optional
        Merge weight; voxels where it is 0 (never observed) are left out.

    Returns
    -------
    radius : float64 [S]
        0, 1, ... (N - 1) // 2 voxels.
    cc : float64 [S]
        Pearson correlation, -1 to 1. NaN where a shell has fewer than 10 voxels, or where `a`
        or `b` has no spread.

    Raises
    ------
    InputError
        Shapes differ, a volume is not cubic or a voxel in use is not finite.

    Notes
    -----
    What is removed is the shell's mean as a linear function of radius. The mean alone is not
    enough: intensities fall so steeply that the slope across one voxel lets a featureless model
    reach 0.92 at radius 1 and 0.55 at radius 7 (4BED, mean over shells 0.12). Without the line
    it averages 0.00 and no shell exceeds 0.06.

    Cost: 0.1 s for 151^3 on one core.
    """
    a, b = _pair(a, b, np.float64)
    keep, shell, offset = _shells(len(a))
    used = _selected(a.shape, mask, weight)[keep]
    keep[keep] = used
    n_shells, shell, offset = shell.max() + 1, shell[used], offset[used]
    a, b = _finite("a", a[keep]), _finite("b", b[keep])
    rest_a, rest_b = (_without_trend(v, shell, offset, n_shells) for v in (a, b))
    power_a, power_b = (_sums(shell, rest**2, n_shells) for rest in (rest_a, rest_b))
    usable = np.bincount(shell, minlength=n_shells) >= _MIN_VOXELS
    for power, values in ((power_a, a), (power_b, b)):
        usable &= power > _ROUNDING**2 * _sums(shell, values**2, n_shells)
    cc = np.full(n_shells, np.nan)
    cross = _sums(shell, rest_a * rest_b, n_shells)
    np.divide(cross, np.sqrt(power_a * power_b), out=cc, where=usable)
    return np.arange(n_shells, dtype=np.float64), cc


def fsc(a: ArrayLike, b: ArrayLike) -> tuple[Float64, Float64]:
    """Correlate two Fourier volumes per shell without removing the mean.

    Parameters
    ----------
    a, b : complex or float [N, N, N]
        Fourier transforms (or intensities) in the same orientation, origin at ``N // 2``.

    Returns
    -------
    radius : float64 [S]
        0, 1, ... (N - 1) // 2 voxels.
    fsc : float64 [S]
        ``Re sum(a conj(b)) / sqrt(sum |a|^2 sum |b|^2)`` of each shell; NaN where a sum is 0.

    Raises
    ------
    InputError
        Shapes differ, or a volume is not cubic or not finite.

    Notes
    -----
    Made for complex transforms, whose phases average to 0. Intensities are positive, so their
    mean alone correlates: a model that depends on radius only scores 0.7 against the truth, and
    0.85 to 0.89 if square roots of both are taken. Use `shell_cc` for intensities, and give this
    only beside it. Source: Harauz & van Heel, Optik 73, 146 (1986).
    """
    complex_input = np.iscomplexobj(a) or np.iscomplexobj(b)
    a, b = _pair(a, b, np.complex128 if complex_input else np.float64)
    inside, shell, _ = _shells(len(a))
    a, b = _finite("a", a[inside]), _finite("b", b[inside])
    cross = _sums(shell, (a * b.conj()).real)
    power = np.sqrt(_sums(shell, np.abs(a) ** 2) * _sums(shell, np.abs(b) ** 2))
    curve = np.full(cross.size, np.nan)
    np.divide(cross, power, out=curve, where=power > 0)
    return np.arange(cross.size, dtype=np.float64), curve


def resolution_at(radius: ArrayLike, curve: ArrayLike, threshold: float) -> float:
    """Return the radius where a correlation curve first falls below a threshold.

    Parameters
    ----------
    radius : float [S]
        Rising, in any unit.
    curve : float [S]
        Correlation; NaN is skipped.
    threshold : float
        For example 0.5, or 1/7 for two half sets.

    Returns
    -------
    float
        Interpolated linearly, in the unit of `radius`. What lies below the threshold before the
        curve reaches it (shells behind a beam stop) does not count. The last finite radius if
        the curve never falls; NaN if it never reaches the threshold.

    Raises
    ------
    InputError
        Lengths differ, or `radius` does not rise.
    """
    radius = _validate.array("radius", radius, np.float64, (None,), finite=True)
    curve = _validate.array("curve", curve, np.float64, radius.shape)
    threshold = _validate.number("threshold", threshold, low=-1.0, high=1.0)
    if (np.diff(radius) <= 0).any():
        raise InputError("radius must rise from one value to the next")
    finite = np.isfinite(curve)
    radius, above = radius[finite], curve[finite] - threshold
    if not (above >= 0).any():
        return float("nan")
    falls = np.flatnonzero((above[:-1] >= 0) & (above[1:] < 0))
    if falls.size == 0:
        return float(radius[-1])
    i = falls[0]
    return float(radius[i] + (radius[i + 1] - radius[i]) * above[i] / (above[i] - above[i + 1]))


def rotate_volume(
    volume: ArrayLike, quat: ArrayLike, *, threads: int | None = None
) -> NDArray[np.float32]:
    """Resample a volume so that ``rotated(q) = volume(R(quat) q)``.

    Parameters
    ----------
    volume : float32 [N, N, N]
        Origin at ``N // 2``.
    quat : float64 [4]
        Unit quaternion (w, x, y, z). The content turns by the inverse of `quat`, and poses
        that were found with `volume` become ``conjugate(quat) * pose``.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    float32 [N, N, N]
        Trilinear. 0 beyond the shell of radius (N - 1) // 2, the last one that fits the cube.

    Raises
    ------
    InputError
        The volume is not cubic or not finite, or `quat` is not of unit norm.

    Notes
    -----
    Cost: 0.1 s for 151^3 on one core.
    """
    volume = _validate.volume("volume", volume)
    quat = _validate.array("quat", quat, np.float64, (4,), finite=True)
    size = len(volume)
    # The last shell reaches half a voxel beyond the cube, and `ewald_slice` is 0 there.
    padded = np.pad(volume, 1, mode="edge")
    place = np.flatnonzero(_shells(size)[0])
    rotated = np.zeros(size**3, np.float32)
    for start in range(0, place.size, _POINTS_AT_ONCE):
        block = place[start : start + _POINTS_AT_ONCE]
        q = np.stack(np.unravel_index(block, volume.shape), axis=1) - size // 2
        rotated[block] = ewald_slice(padded, quat[None], q, threads=threads)[0]
    return rotated.reshape(volume.shape)


def align_volumes(
    moving: ArrayLike,
    reference: ArrayLike,
    *,
    group: str | ArrayLike = "C1",
    radius: tuple[float, float] | None = None,
    threads: int | None = None,
) -> tuple[Float64, NDArray[np.float32], float]:
    """Find the rotation that puts one intensity onto another.

    Parameters
    ----------
    moving, reference : float32 [N, N, N]
        Volumes of the same size, origin at ``N // 2``; any scale, even one per shell.
    group : str or float64 [G, 4]
        Point group of `reference` in its own frame. It only shortens the search and picks,
        among equivalent answers, the smallest rotation.
    radius : (float, float), optional
        Shells to use, in voxels; default 3 to (N - 1) // 2. Leave out what was not measured.
    threads : int, optional
        Default: all cores. Results do not depend on it.

    Returns
    -------
    quat : float64 [4]
        ``moving(R(quat) q) = reference(q)``, to 0.1 degrees for clean volumes of 131^3 and
        151^3, and to 0.6 where noise has twice the spread of the signal in every voxel.
    aligned : float32 [N, N, N]
        ``rotate_volume(moving, quat)``.
    cc : float
        Mean of ``shell_cc(aligned, reference)`` over the shells of `radius`. Resampling averages
        part of the noise of `moving` away: white noise as strong as the signal gives 0.84, not
        0.71.

    Raises
    ------
    InputError
        Shapes differ, a volume is not cubic, not finite or constant on all shells, the group is
        unknown, or `radius` holds fewer than 2 shells or leaves the volume.

    Notes
    -----
    Rotations only: inversion leaves an intensity as it is, so hands are not told apart. Maximises
    the mean over shells of the correlation of samples on spheres (at most 300,000): all rotations
    on inner shells first, then local grids three times finer around the best ones, with shells
    as far out as that spacing resolves. Deterministic. Cost: 1.7 s for 151^3 on 2 cores; it
    grows as the cube of `radius[0]` beyond 20 voxels.
    """
    moving, reference = _validate.volume("moving", moving), _validate.volume("reference", reference)
    _same_shape("moving", moving, "reference", reference)
    elements = _group_elements(group)
    low, high = _radius_range(radius, (len(moving) - 1) // 2)
    inner = min(max(_COARSE_RADIUS, low + 8), high)
    n = max(4, int(np.ceil(grid_spacing(1) / _spacing_for(inner))))
    quats, spacing = _distinct_rotations(n, elements), grid_spacing(n)
    kept = _CANDIDATES
    while True:
        outer = int(np.clip(_radius_for(spacing), inner, high))
        n_samples = int(np.clip(_LEVEL_SAMPLES // len(quats), *_SAMPLES))
        samples = _ShellSamples(reference, low, outer, n_samples, threads)
        best = _best_apart(quats, samples.score(moving, quats), kept, spacing)
        if spacing <= _FINAL_SPACING:
            break
        spacing, kept = spacing / 3.0, max(1, kept // 4)
        # Further than the 0.72 spacings to which the last grid covers rotations (2.2 of the new).
        quats = multiply(best[:, None], local_grid(2.5 * spacing, spacing)).reshape(-1, 4)
    quat = _smallest_equivalent(best[0], elements)
    aligned = rotate_volume(moving, quat, threads=threads)
    cc = shell_cc(aligned, reference)[1][low : high + 1]
    if np.isnan(cc).all():
        raise InputError(f"moving and reference must vary on shells {low} to {high}, one does not")
    return quat, aligned, float(np.nanmean(cc))


def pose_error(
    quats: ArrayLike,
    truth: ArrayLike,
    *,
    group: str | ArrayLike = "C1",
    friedel_flat: bool = False,
) -> tuple[Float64, Float64]:
    """Compare orientations with the truth, up to what no data can tell.

    Parameters
    ----------
    quats, truth : float64 [N, 4]
        Orientations found and true, ``q_model = R(quat) q_detector``.
    group : str or float64 [G, 4]
        Point group of the particle in the frame of `truth`. A name means the setting of
        `orientations.point_group`; give the turned elements where the axes differ.
    friedel_flat : bool
        Also divide by a half turn about the beam. A flat Ewald sphere cannot tell it (there it
        equals inversion, which leaves intensities as they are); a curved one can.

    Returns
    -------
    errors : float64 [N]
        Angle in degrees between ``quats[d]`` and ``A g truth[d]``, smallest over the group.
    A : float64 [4]
        The rotation from the true model to the found one; the smallest of ``A g``.

    Raises
    ------
    InputError
        Shapes differ, no frames, quaternions are not of unit norm, or the group is unknown.

    Notes
    -----
    Every frame votes for one A; the vote with the smallest median error wins and is refined by
    the mean over frames within three medians. So up to about 40 % wild poses do no harm, but A
    is fitted: a handful of frames always looks good. The random level of a group is the median
    for shuffled `truth` (130 degrees for C1).

    Cost: up to 200 x N x G dot products (N at most 2,000 there); 0.05 s for 2,000 frames and I,
    0.8 s for 200,000.
    """
    quats, truth = _validate.quaternions("quats", quats), _validate.quaternions("truth", truth)
    if quats.shape != truth.shape or len(quats) == 0:
        raise InputError(
            f"quats and truth must have the same shape [N, 4] with N >= 1, "
            f"got {list(quats.shape)} and {list(truth.shape)}"
        )
    elements = _group_elements(group)
    # |<A g truth, quats>| = |<A g, quats truth^-1>|: one frame is one relative rotation.
    in_plane = np.eye(4)[[0, 3]] if friedel_flat else np.eye(4)[:1]
    relative = multiply(multiply(quats, in_plane[:, None]), conjugate(truth))
    rotation = _refined(_vote(relative, elements), relative, elements)
    _, errors = _fold(rotation, relative, elements)
    return errors, _smallest_equivalent(rotation, elements)


# Shells


def _shells(size: int) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.float32]]:
    """Return the voxels of shells that fit a cube [N, N, N], and their shell and offset from it."""
    squared = (np.arange(size, dtype=np.float32) - size // 2) ** 2
    radius = np.sqrt(squared[:, None, None] + squared[:, None] + squared)
    inside = radius < (size - 1) // 2 + 0.5
    radius = radius[inside]
    shell = np.rint(radius)
    return inside, shell.astype(np.intp), radius - shell


def _sums(shell: NDArray[np.intp], values: NDArray, n_shells: int = 0) -> Float64:
    return np.bincount(shell, values, minlength=n_shells)


def _without_trend(
    values: Float64, shell: NDArray[np.intp], offset: NDArray, n_shells: int
) -> Float64:
    """Subtract, in each shell, the straight line in radius that fits best."""
    count = np.maximum(np.bincount(shell, minlength=n_shells), 1)
    x = offset - (_sums(shell, offset, n_shells) / count)[shell]
    rest = values - (_sums(shell, values, n_shells) / count)[shell]
    spread = _sums(shell, x * x, n_shells)
    slope = np.zeros(n_shells)
    np.divide(_sums(shell, x * rest, n_shells), spread, out=slope, where=spread > 1e-9)
    return rest - slope[shell] * x


def _selected(
    shape: tuple[int, ...], mask: ArrayLike | None, weight: ArrayLike | None
) -> NDArray[np.bool_]:
    selected = np.ones(shape, bool)
    if mask is not None:
        selected &= _validate.array("mask", mask, np.bool_, shape)
    if weight is not None:
        selected &= _validate.array("weight", weight, np.float64, shape) > 0
    return selected


def _pair(a: ArrayLike, b: ArrayLike, dtype: DTypeLike) -> tuple[NDArray, NDArray]:
    a, b = _cubic("a", a, dtype, finite=False), _cubic("b", b, dtype, finite=False)
    _same_shape("a", a, "b", b)
    return a, b


def _cubic(name: str, value: ArrayLike, dtype: DTypeLike, *, finite: bool = True) -> NDArray:
    result = _validate.array(name, value, dtype, (None, None, None), finite=finite)
    if len(set(result.shape)) != 1 or len(result) < 2:
        raise InputError(f"{name} must be cubic with N >= 2, got shape {list(result.shape)}")
    return result


def _same_shape(name_a: str, a: NDArray, name_b: str, b: NDArray) -> None:
    if a.shape != b.shape:
        raise InputError(
            f"{name_a} and {name_b} must have the same shape, "
            f"got {list(a.shape)} and {list(b.shape)}"
        )


def _finite(name: str, values: NDArray) -> NDArray:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise InputError(f"{name} must be finite in the voxels in use, got {bad} that are not")
    return values


# Alignment


class _ShellSamples:
    """Samples of a reference on spheres, shell mean removed and shell power 1."""

    def __init__(
        self, reference: NDArray, low: int, high: int, n_samples: int, threads: int | None
    ) -> None:
        radii = np.unique(np.rint(np.linspace(low, high, n_samples // _SHELL_SAMPLES)))
        directions = _spiral(n_samples // radii.size, radii.size)
        self.shape = directions.shape[:2]
        self.threads = threads
        self.q = (directions * radii[:, None, None]).reshape(-1, 3).astype(np.float32)
        values = self._sample(reference, np.eye(4)[:1])[0]
        power = np.linalg.norm(values, axis=1, keepdims=True)
        self.values = np.divide(values, power, out=np.zeros_like(values), where=power > 0)

    def _sample(self, volume: NDArray, quats: Float64) -> NDArray[np.float32]:
        """Return [R, shells, points] with the mean of every shell removed."""
        flat = ewald_slice(volume, quats, self.q, threads=self.threads)
        values = flat.reshape(len(quats), *self.shape)
        values -= values.mean(axis=2, keepdims=True)
        return values

    def score(self, moving: NDArray, quats: Float64) -> Float64:
        """Return the mean correlation over shells for each rotation [R] of `moving`."""
        rows = max(1, _POINTS_AT_ONCE // len(self.q))
        scores = np.empty(len(quats))
        for start in range(0, len(quats), rows):
            values = self._sample(moving, quats[start : start + rows])
            cross = np.einsum("rsp,sp->rs", values, self.values)
            power = np.sqrt(np.einsum("rsp,rsp->rs", values, values))
            cc = np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)
            scores[start : start + rows] = cc.mean(axis=1)
        return scores


def _spiral(n_points: int, n_shells: int) -> Float64:
    """Return unit vectors [n_shells, n_points, 3], each shell's spiral turned from the next."""
    index = np.arange(n_points)
    z = 1.0 - (2.0 * index + 1.0) / n_points
    golden = np.pi * (3.0 - 5.0**0.5)
    azimuth = golden * (index + 0.5 * np.arange(n_shells)[:, None])
    flat = np.sqrt(1.0 - z * z)
    z = np.broadcast_to(z, azimuth.shape)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), z], axis=-1)


def _spacing_for(radius: float) -> float:
    """Return the grid spacing in degrees whose typical miss a shell still tolerates."""
    return float(np.degrees(_CAPTURE / (_TYPICAL_MISS * radius)))


def _radius_for(spacing: float) -> float:
    return float(_CAPTURE / (_TYPICAL_MISS * np.radians(spacing)))


def _radius_range(radius: tuple[float, float] | None, edge: int) -> tuple[int, int]:
    """Return the first and the last whole shell to use."""
    if edge < 2:
        raise InputError(f"moving must have N >= 5 to be aligned, got shells up to {edge}")
    low, high = (min(3, edge - 1), edge) if radius is None else radius
    low = int(np.ceil(_validate.number("radius[0]", low, low=1.0, high=edge)))
    high = int(_validate.number("radius[1]", high, low=1.0, high=edge))
    if high <= low:
        raise InputError(f"radius must hold at least 2 shells of 1 to {edge}, got {low} to {high}")
    return low, high


def _distinct_rotations(n: int, elements: Float64) -> Float64:
    """Return the part of a uniform grid that is enough when R and R g are the same."""
    quats, weights = grid600(n)
    index, _ = asymmetric_unit(quats, weights, elements)
    # The asymmetric unit is for g R; the inverse of that is R^-1 g^-1.
    return conjugate(quats[index])


def _best_apart(quats: Float64, scores: Float64, kept: int, spacing: float) -> Float64:
    """Return up to `kept` rotations with the highest scores, none next to a better one."""
    best: list[Float64] = []
    limit = np.cos(np.radians(spacing) / 2.0)
    for quat in quats[np.argsort(-scores, kind="stable")]:
        if not best or np.abs(np.array(best) @ quat).max() < limit:
            best.append(quat)
        if len(best) == kept:
            break
    return np.array(best)


def _smallest_equivalent(quat: Float64, elements: Float64) -> Float64:
    """Return the `quat g` with the smallest angle, canonical."""
    equivalent = multiply(quat, elements)
    return canonical(equivalent[np.abs(equivalent[:, 0]).argmax()])


def _group_elements(group: Any) -> Float64:
    if isinstance(group, str):
        return point_group(group)
    elements = _validate.quaternions("group", group)
    if len(elements) == 0:
        raise InputError("group must hold at least the identity, got shape [0, 4]")
    return elements


# Poses


def _vote(relative: Float64, elements: Float64) -> Float64:
    """Return the relative rotation of a frame that explains the other frames best."""
    n_frames = relative.shape[1]
    sample = relative[:, _spread(n_frames, _POSE_SAMPLE)]
    candidates = relative[0, _spread(n_frames, _POSE_CANDIDATES)]
    closeness = [np.median(_closeness(c, sample, elements)) for c in candidates]
    return candidates[int(np.argmax(closeness))]


def _spread(n: int, most: int) -> NDArray[np.intp]:
    """Return at most `most` evenly spaced numbers below n."""
    return np.arange(min(n, most)) * n // min(n, most)


def _closeness(rotation: Float64, relative: Float64, elements: Float64) -> Float64:
    """Return [N] the cosine of half the angle to the nearest `rotation g`."""
    return np.abs(relative @ multiply(rotation, elements).T).max(axis=(0, 2))


def _fold(rotation: Float64, relative: Float64, elements: Float64) -> tuple[Float64, Float64]:
    """Return the estimates of `rotation` [N, 4] nearest to it, and their distance in degrees."""
    orbit = multiply(rotation, elements)
    n_frames = relative.shape[1]
    folded = np.empty((n_frames, 4))
    rows = max(1, _POINTS_AT_ONCE // (len(relative) * len(elements)))
    for start in range(0, n_frames, rows):
        block = relative[:, start : start + rows]
        cosine = np.abs(block @ orbit.T).transpose(1, 0, 2).reshape(block.shape[1], -1)
        side, element = np.divmod(cosine.argmax(axis=1), len(elements))
        nearest = block[side, np.arange(block.shape[1])]
        folded[start : start + rows] = multiply(nearest, conjugate(elements[element]))
    return folded, angle(folded, rotation)


def _refined(rotation: Float64, relative: Float64, elements: Float64) -> Float64:
    """Return the mean over frames that are not outliers, iterated until it stands still."""
    for _ in range(30):
        folded, errors = _fold(rotation, relative, elements)
        # The floor keeps exact poses, whose errors are rounding noise of 1e-6 degrees.
        usual = errors <= max(3.0 * np.median(errors), 1e-3)
        previous, rotation = rotation, mean(folded[usual])
        if angle(previous, rotation) < 1e-6:
            break
    return rotation

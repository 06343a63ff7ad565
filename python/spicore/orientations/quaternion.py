"""Quaternion algebra, vectorised: leading axes broadcast, all results are float64.

All functions accept any array-like of unit quaternions (norm 1 to 1e-4, normalised on entry) and
raise `InputError` for a wrong shape, a wrong norm or values that are not finite. Cost is linear
in the number of elements. Formulas: Kuipers, Quaternions and Rotation Sequences (1999), ch. 5-7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from ..errors import InputError
from . import _checks

Array = NDArray[np.float64]


def multiply(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the product `a b`: first rotate by `b`, then by `a`.

    Parameters
    ----------
    a, b : array_like [..., 4]
        Unit quaternions; leading axes broadcast.

    Returns
    -------
    float64 [..., 4]
        `to_matrix(multiply(a, b)) == to_matrix(a) @ to_matrix(b)`.

    Raises
    ------
    InputError
        Wrong shape or norm, or leading axes that do not broadcast.
    """
    a, b = _checks.unit("a", a), _checks.unit("b", b)
    _checks.broadcastable("a and b", a.shape[:-1], b.shape[:-1])
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def conjugate(q: ArrayLike) -> Array:
    """Return the inverse rotations, float64 [..., 4], of unit quaternions `q` [..., 4].

    Raises
    ------
    InputError
        Wrong shape or norm.
    """
    return _checks.unit("q", q) * (1.0, -1.0, -1.0, -1.0)


def rotate(q: ArrayLike, v: ArrayLike) -> Array:
    """Rotate vectors actively.

    Parameters
    ----------
    q : array_like [..., 4]
        Unit quaternions.
    v : array_like [..., 3]
        Vectors in any unit; leading axes broadcast against those of `q`.

    Returns
    -------
    float64 [..., 3]
        `to_matrix(q) @ v`, in the unit of `v`.

    Raises
    ------
    InputError
        Wrong shape or norm, or leading axes that do not broadcast.
    """
    q, v = _checks.unit("q", q), _checks.components("v", v, 3)
    _checks.broadcastable("q and v", q.shape[:-1], v.shape[:-1])
    axis = q[..., 1:]
    twice = 2.0 * np.cross(axis, v)
    return v + q[..., :1] * twice + np.cross(axis, twice)


def to_matrix(q: ArrayLike) -> Array:
    """Return active rotation matrices: `q_model = to_matrix(q) @ q_detector`.

    Parameters
    ----------
    q : array_like [..., 4]
        Unit quaternions.

    Returns
    -------
    float64 [..., 3, 3]

    Raises
    ------
    InputError
        Wrong shape or norm.

    Notes
    -----
    Dragonfly's matrix of the same quaternion is the transpose: `to_matrix(conjugate(q))`.
    """
    w, x, y, z = np.moveaxis(_checks.unit("q", q), -1, 0)
    rows = [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
        [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
        [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def from_matrix(matrix: ArrayLike) -> Array:
    """Return the canonical unit quaternions of active rotation matrices.

    Parameters
    ----------
    matrix : array_like [..., 3, 3]
        Orthogonal to 1e-4 with determinant +1.

    Returns
    -------
    float64 [..., 4]

    Raises
    ------
    InputError
        Wrong shape, or not a rotation (scaled, sheared, or a reflection).

    Notes
    -----
    The entries of the matrix give all products `4 q_i q_j`; the row of the largest component is
    the quaternion without cancellation. Shepperd, J. Guid. Control 1, 223 (1978).
    """
    m = _rotation_matrices(matrix)
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = np.moveaxis(m, (-2, -1), (0, 1))
    wx, wy, wz = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m01 + m10, m02 + m20, m12 + m21
    rows = [
        [1.0 + m00 + m11 + m22, wx, wy, wz],
        [wx, 1.0 + m00 - m11 - m22, xy, xz],
        [wy, xy, 1.0 - m00 + m11 - m22, yz],
        [wz, xz, yz, 1.0 - m00 - m11 + m22],
    ]
    products = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    largest = np.diagonal(products, axis1=-2, axis2=-1).argmax(axis=-1)
    quats = np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    return canonical(quats / np.linalg.norm(quats, axis=-1, keepdims=True))


def _rotation_matrices(matrix: ArrayLike) -> Array:
    leading = (None,) * max(np.ndim(matrix) - 2, 0)
    m = _validate.array("matrix", matrix, np.float64, (*leading, 3, 3), finite=True)
    off = np.abs(m @ np.swapaxes(m, -1, -2) - np.eye(3)).max(initial=0.0)
    lowest = np.linalg.det(m).min(initial=1.0)
    if off > 1e-4 or lowest < 0.0:
        raise InputError(
            f"matrix must be a rotation to 1e-4, got |M M^T - 1| up to {off:.3g} "
            f"and determinant down to {lowest:.3g}"
        )
    return m


def from_axis_angle(axis: ArrayLike, angle_deg: ArrayLike) -> Array:
    """Return quaternions that turn by an angle about an axis, right-handed.

    Parameters
    ----------
    axis : array_like [..., 3]
        Any length but zero.
    angle_deg : array_like [...]
        Angles in degrees; broadcast against the leading axes of `axis`.

    Returns
    -------
    float64 [..., 4]

    Raises
    ------
    InputError
        Wrong shape, an axis of zero length, or axes that do not broadcast.
    """
    axis = _checks.components("axis", axis, 3)
    flat = _validate.array("angle_deg", np.reshape(angle_deg, -1), np.float64, (None,), finite=True)
    half = np.radians(0.5) * flat.reshape(np.shape(angle_deg))
    _checks.broadcastable("axis and angle_deg", axis.shape[:-1], half.shape)
    length = np.linalg.norm(axis, axis=-1, keepdims=True)
    if not length.all():
        raise InputError("axis must have a length above zero, got the zero vector")
    vector = axis / length * np.sin(half)[..., None]
    scalar = np.broadcast_to(np.cos(half)[..., None], (*vector.shape[:-1], 1))
    return np.concatenate([scalar, vector], axis=-1)


def angle(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the angle of the rotation that takes `a` to `b`, modulo sign.

    Parameters
    ----------
    a, b : array_like [..., 4]
        Unit quaternions; leading axes broadcast.

    Returns
    -------
    float64 [...]
        Geodesic angle in degrees, 0 to 180; exact to about 1e-14 near 0 as well.

    Raises
    ------
    InputError
        Wrong shape or norm, or leading axes that do not broadcast.
    """
    a, b = _checks.unit("a", a), _checks.unit("b", b)
    _checks.broadcastable("a and b", a.shape[:-1], b.shape[:-1])
    # The chord keeps its digits where the arc cosine of a dot product near 1 loses half of them.
    chord = np.minimum(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    return np.degrees(4.0 * np.arcsin(0.5 * chord))


def random(n: int, rng: np.random.Generator) -> Array:
    """Draw `n` rotations uniformly from SO(3).

    Parameters
    ----------
    n : int
        How many; 0 is allowed.
    rng : numpy.random.Generator
        Source of randomness, as from `numpy.random.default_rng(seed)`.

    Returns
    -------
    float64 [n, 4]
        Uniform on the 3-sphere: normalised Gaussians.

    Raises
    ------
    InputError
        `n` is not a whole number or `rng` is not a Generator.
    """
    n = _checks.count("n", n, low=0, high=2**31)
    if not isinstance(rng, np.random.Generator):
        raise InputError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
    quats = rng.standard_normal((n, 4))
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def mean(quats: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Return the mean rotation: the one with the largest weighted sum of squared dot products.

    Parameters
    ----------
    quats : array_like [R, 4]
        Unit quaternions; their signs do not matter.
    weights : array_like [R], optional
        Non-negative weights; equal by default.

    Returns
    -------
    float64 [4]
        Canonical unit quaternion.

    Raises
    ------
    InputError
        Wrong shape or norm, negative weights, or weights that sum to 0 (so also R = 0).

    Notes
    -----
    Principal eigenvector of the 4 x 4 moment matrix. Markley et al., J. Guid. Control Dyn. 30,
    1193 (2007).
    """
    quats = _validate.quaternions("quats", quats)
    weights = np.ones(len(quats)) if weights is None else weights
    weights = _checks.weights("weights", weights, len(quats))
    moments = (quats * weights[:, None]).T @ quats
    return canonical(np.linalg.eigh(moments)[1][:, -1])


def canonical(q: ArrayLike) -> Array:
    """Choose between `q` and `-q`: the first component that is not zero becomes positive.

    Parameters
    ----------
    q : array_like [..., 4]
        Unit quaternions.

    Returns
    -------
    float64 [..., 4]

    Raises
    ------
    InputError
        Wrong shape or norm.

    Notes
    -----
    `grid600` keeps Dragonfly's signs, which follow another rule and are not canonical.
    """
    return first_positive(_checks.unit("q", q))


def first_positive(values: Array) -> Array:
    """Flip each row of [..., n] so that its first non-zero entry is positive."""
    first = np.take_along_axis(values, (values != 0.0).argmax(axis=-1)[..., None], axis=-1)
    # Adding 0.0 turns -0.0 into 0.0, so that equal rotations print and hash alike.
    return np.where(first < 0.0, -values, values) + 0.0

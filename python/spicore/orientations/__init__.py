"""Orientations: quaternion algebra, grids over SO(3), point groups, and searches in grids.

Quaternions are (w, x, y, z), unit and active: `q_model = to_matrix(quat) @ q_detector`, beam
along +z. `q` and `-q` are the same rotation, so every comparison here is modulo sign.

Two families of grids sample all rotations. `grid600` is uniform in SO(3) and has Dragonfly's
order and weights. `hopf` is view directions times in-plane angles, which the polar engine turns
into circular shifts; `view_pairs` are the directions of half the sphere, each with its mirror
image. `local_grid` samples a small ball of rotations for refinement.
"""

from .cell600 import grid600, grid_spacing
from .lattice import local_grid
from .quaternion import (
    angle,
    canonical,
    conjugate,
    from_axis_angle,
    from_matrix,
    mean,
    multiply,
    random,
    rotate,
    to_matrix,
)
from .search import nearest, sort_by_view
from .symmetry import asymmetric_unit, point_group
from .view_pairs import n_pairs_for, pair_quaternions, view_pairs
from .views import hopf, hopf_quaternions

__all__ = [
    "angle",
    "asymmetric_unit",
    "canonical",
    "conjugate",
    "from_axis_angle",
    "from_matrix",
    "grid600",
    "grid_spacing",
    "hopf",
    "hopf_quaternions",
    "local_grid",
    "mean",
    "multiply",
    "n_pairs_for",
    "nearest",
    "pair_quaternions",
    "point_group",
    "random",
    "rotate",
    "sort_by_view",
    "to_matrix",
    "view_pairs",
]

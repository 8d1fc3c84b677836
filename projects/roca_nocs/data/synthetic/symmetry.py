"""Rotational symmetry about the up axis, measured on the geometry."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

SYMMETRY_NONE = "__SYM_NONE"
SYMMETRY_2 = "__SYM_ROTATE_UP_2"
SYMMETRY_4 = "__SYM_ROTATE_UP_4"
SYMMETRY_INFINITE = "__SYM_ROTATE_UP_INF"

# Half turns, quarter turns, and angles that no regular polygon with few corners shares.
_TEST_ANGLES = {
    SYMMETRY_2: (180.0,),
    SYMMETRY_4: (90.0,),
    SYMMETRY_INFINITE: (37.0, 49.7, 111.3),
}


def rotational_symmetry(vertices: np.ndarray, faces: np.ndarray, tolerance: float = 0.012) -> str:
    """The richest symmetry tag that holds for a mesh.

    Args:
        vertices: (V, 3) in the model frame, y up, bounding box centred, diagonal 1.
        faces: (F, 3).
        tolerance: largest distance, in model units, of a rotated vertex from the surface. The
            default passes lathes of 24 and more segments, whose chords lie 0.9 % of the radius
            inside the circle.
    """
    tag = SYMMETRY_NONE
    for candidate, angles in _TEST_ANGLES.items():
        if any(rotation_residual(vertices, faces, angle) > tolerance for angle in angles):
            break
        tag = candidate
    return tag


def rotation_residual(vertices: np.ndarray, faces: np.ndarray, degrees: float) -> float:
    """How far the mesh turned about +y by ``degrees`` sticks out of itself.

    Returns:
        The largest distance of a rotated vertex from the surface of the unrotated mesh, in units
        of ``vertices``. One side suffices for an angle that divides the full turn: repeating the
        rotation leads back to the start, so the surface cannot stick out on the other side alone.
    """
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    points = np.asarray(vertices, dtype=np.float64)
    rotation = np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    rotated = points @ rotation.T
    # Where a vertex lands on a vertex there is nothing to measure.
    gap, _ = cKDTree(points).query(rotated, distance_upper_bound=1e-4)
    rotated = np.unique(np.round(rotated[np.isinf(gap)], 6), axis=0)
    # The outermost corners are the likeliest to fail: they decide most cases at once.
    rotated = rotated[np.argsort(-np.hypot(rotated[:, 0], rotated[:, 2]), kind="stable")]
    residual = 0.0
    for start in range(0, len(rotated), 64):
        chunk = rotated[start : start + 64]
        residual = max(residual, float(distance_to_surface(chunk, points, faces).max()))
        if residual > 0.1:
            break
    return residual


def distance_to_surface(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest triangle.

    Args:
        points: (P, 3).
        vertices: (V, 3).
        faces: (F, 3).

    Returns:
        (P,) float64; memory grows with P * F.
    """
    points = np.asarray(points, dtype=np.float64)
    a, b, c = (np.asarray(vertices, dtype=np.float64)[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 1e-14)
    height = points @ normal.T - np.einsum("fi,fi->f", a, normal)
    inside = np.broadcast_to(length[:, 0] > 1e-14, height.shape)
    own_square = np.einsum("pi,pi->p", points, points)[:, None]
    squared = np.full(height.shape, np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        outward = np.cross(edge, normal)
        inside = inside & (points @ outward.T <= np.einsum("fi,fi->f", start, outward) + 1e-12)
        # |p - start - share * edge|^2, expanded so that only (P, F) arrays occur.
        edge_square = np.maximum(np.einsum("fi,fi->f", edge, edge), 1e-30)
        along = points @ edge.T - np.einsum("fi,fi->f", start, edge)
        share = np.clip(along / edge_square, 0.0, 1.0)
        to_start = own_square - 2.0 * (points @ start.T) + np.einsum("fi,fi->f", start, start)
        np.minimum(squared, to_start + share * (share * edge_square - 2.0 * along), out=squared)
    squared = np.where(inside, np.minimum(squared, height * height), squared)
    return np.sqrt(np.maximum(squared.min(axis=1), 0.0))

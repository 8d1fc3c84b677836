"""Colour of surface points: textures, lamps, shadows. P is the number of shading points."""

from __future__ import annotations

import numpy as np

from .assembly import SceneGeometry
from .textures import TEXTURES
from .types import Lighting

_SHADOWED = np.float32(0.3)
_SHADOW_BIAS = 1e-3


def albedo(geometry: SceneGeometry, materials: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Surface colour, texture included.

    Args:
        geometry: of the scene.
        materials: (P,) palette index of each point.
        points: (P, 3) float32, world frame, metres.

    Returns:
        (P, 3) float32.
    """
    colors = geometry.colors[materials]
    textured = np.flatnonzero(geometry.textured[materials])
    # Numbers below 2**16 sort in linear time.
    order = textured[np.argsort(materials[textured].astype(np.uint16), kind="stable")]
    ends = np.cumsum(np.bincount(materials[textured], minlength=len(geometry.palette)))
    for index in np.flatnonzero(np.diff(ends, prepend=0)):
        chosen = order[ends[index - 1] if index else 0 : ends[index]]
        x, y, z = points[chosen].T
        mapped = [a * x + b * y + c * z + d for a, b, c, d in geometry.world_to_texture[index]]
        colors[chosen] *= TEXTURES[geometry.palette[index].texture](*mapped)[:, None]
    return colors


def irradiance(
    geometry: SceneGeometry, lighting: Lighting, points: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Light that arrives at surface points.

    Args:
        geometry: of the scene, for shadow rays.
        lighting: of the scene.
        points: (P, 3) float32, world.
        normals: (P, 3) float32, world, unit, on the side that is seen.

    Returns:
        The light (P,) float32 and whether the point light is hidden (P,) bool. Points that face
        away from it count as not hidden.
    """
    to_light = lighting.point_position.astype(np.float32) - points
    squared = dot(to_light, to_light)
    facing = dot(to_light, normals)
    lit = np.flatnonzero(facing > 0.0)
    start = points[lit] + normals[lit] * np.float32(_SHADOW_BIAS)
    hidden = np.zeros(len(points), dtype=bool)
    hidden[lit] = geometry.caster.occluded(start, to_light[lit], limit=0.999)
    point = np.maximum(facing, 0.0) / (squared * np.sqrt(squared))
    point *= np.float32(lighting.point_power)
    point[hidden] *= _SHADOWED
    distant = np.maximum(dot(normals, lighting.direction.astype(np.float32)), 0.0)
    ambient = lighting.ambient * (0.88 + 0.12 * normals[:, 2])
    total = ambient + np.float32(lighting.directional_power) * distant + point
    return (total * lighting.exposure).astype(np.float32), hidden


def shade(
    geometry: SceneGeometry,
    lighting: Lighting,
    faces: np.ndarray,
    points: np.ndarray,
    directions: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour of ray hits.

    Args:
        geometry: of the scene.
        lighting: of the scene.
        faces: (P,) that were hit, -1 for none (black).
        points: (P, 3) float32 world positions of the hits.
        directions: (P, 3) float32 world directions of the rays.

    Returns:
        Colours (P, 3) float32 in [0, 1] and whether the point light is hidden (P,) bool.
    """
    normals = facing_normals(geometry, faces, directions)
    light, hidden = irradiance(geometry, lighting, points, normals)
    colors = albedo(geometry, geometry.materials[faces], points) * light[:, None]
    return np.clip(colors, 0.0, 1.0, out=colors), hidden


def facing_normals(
    geometry: SceneGeometry, faces: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """World normals (P, 3) of the hit faces, turned against the rays."""
    normals = geometry.normals[faces]
    normals *= np.where(dot(normals, directions) > 0.0, np.float32(-1.0), np.float32(1.0))[:, None]
    return normals


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products (P,) of vectors (P, 3) with vectors (P, 3) or with one vector (3,).

    Written out: faster than a reduction over three elements, and unlike a matrix product its
    rounding does not depend on the number of threads.
    """
    return a[:, 0] * b[..., 0] + a[:, 1] * b[..., 1] + a[:, 2] * b[..., 2]

"""Colour image with 2x2 samples a pixel, tracing only where a pixel needs it.

A pixel whose 3x3 neighbourhood lies in one plane of one material is *plain*: where its four rays
meet that plane follows without tracing, one lighting sample serves all four, and only the texture
is evaluated four times. All other pixels are *detailed*: four traced, separately shaded rays. Plain
pixels at the edge of a shadow get four lighting samples, still without tracing.

N = H * W pixels in row-major order.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .assembly import SceneGeometry
from .shading import albedo, dot, facing_normals, irradiance, shade
from .types import Lighting

SAMPLE_OFFSETS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
"""Positions (x, y) of the samples relative to the pixel centre, in pixels."""


@dataclass(frozen=True, eq=False)
class PixelHits:
    """What the rays through the pixel centres hit.

    Attributes:
        size: (height, width) of the image.
        eye: (3,) float32, world.
        directions: (N, 3) float32, world, one unit of depth long.
        steps: (4, 3) float32, what to add to a direction for each of ``SAMPLE_OFFSETS``.
        faces: (N,) int32, -1 for none.
        depth: (N,) float32, metres.
    """

    size: tuple[int, int]
    eye: np.ndarray
    directions: np.ndarray
    steps: np.ndarray
    faces: np.ndarray
    depth: np.ndarray


def supersample(geometry: SceneGeometry, lighting: Lighting, hits: PixelHits) -> np.ndarray:
    """The mean colour of four samples of each pixel.

    Returns:
        (N, 3) float32 in [0, 1], without noise.
    """
    patches = geometry.patches[hits.faces].astype(np.float32).reshape(hits.size)
    plain = ~_varies(patches).reshape(-1) & (hits.faces >= 0)
    colors = np.zeros((len(plain), 3), dtype=np.float32)
    shadow = np.zeros(len(plain), dtype=np.float32)

    chosen = np.flatnonzero(plain)
    colors[chosen], shadow[chosen] = _shade_plain(geometry, lighting, hits, chosen)
    detailed = np.flatnonzero(~plain)
    directions = _sample_directions(hits, detailed)
    faces, depth = geometry.caster.first_hit(hits.eye, directions)
    points = hits.eye + depth[:, None] * directions
    colors[detailed], shadow[detailed] = _shade_samples(
        geometry, lighting, faces, points, directions
    )

    edge = _varies(shadow.reshape(hits.size)).reshape(-1)
    penumbra = np.flatnonzero(plain & edge)
    points, directions = _plane_points(geometry, hits, penumbra)
    faces = np.tile(hits.faces[penumbra], len(SAMPLE_OFFSETS))
    colors[penumbra], _ = _shade_samples(geometry, lighting, faces, points, directions)
    return colors


def _varies(image: np.ndarray) -> np.ndarray:
    """Whether a pixel's 3x3 neighbourhood (within the image) holds different values."""
    window = np.ones((3, 3), dtype=np.uint8)
    return cv2.dilate(image, window) != cv2.erode(image, window)


def _shade_samples(
    geometry: SceneGeometry,
    lighting: Lighting,
    faces: np.ndarray,
    points: np.ndarray,
    directions: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour (K, 3) and mean shadow (K,) of the samples (4K, ...) of K pixels."""
    colors, hidden = shade(geometry, lighting, faces, points, directions)
    samples = len(SAMPLE_OFFSETS)
    colors = colors.reshape(samples, -1, 3).sum(axis=0) * np.float32(1.0 / samples)
    return colors, hidden.reshape(samples, -1).mean(axis=0, dtype=np.float32)


def _shade_plain(
    geometry: SceneGeometry, lighting: Lighting, hits: PixelHits, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (K, 3) and shadow (K,) of plain pixels, lit at their centres."""
    faces, directions = hits.faces[chosen], hits.directions[chosen]
    points = hits.eye + hits.depth[chosen, None] * directions
    normals = facing_normals(geometry, faces, directions)
    light, hidden = irradiance(geometry, lighting, points, normals)
    materials = geometry.materials[faces]
    colors = np.minimum(geometry.colors[materials] * light[:, None], 1.0)
    textured = np.flatnonzero(geometry.textured[materials])
    points, _ = _plane_points(geometry, hits, chosen[textured])
    samples = len(SAMPLE_OFFSETS)
    mapped = albedo(geometry, np.tile(materials[textured], samples), points)
    mapped = mapped.reshape(samples, -1, 3) * light[textured, None]
    # Samples saturate one by one, as traced ones do.
    mapped = np.minimum(mapped, 1.0, out=mapped).sum(axis=0)
    colors[textured] = mapped * np.float32(1.0 / samples)
    return colors, hidden.astype(np.float32)


def _sample_directions(hits: PixelHits, chosen: np.ndarray) -> np.ndarray:
    """(4K, 3) rays through the samples of K pixels."""
    directions = hits.directions[chosen][None] + hits.steps[:, None]
    return directions.reshape(-1, 3)


def _plane_points(
    geometry: SceneGeometry, hits: PixelHits, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the sample rays of K pixels meet the planes hit at their centres.

    Returns:
        World points and directions, (4K, 3) float32 each.
    """
    normals = geometry.normals[hits.faces[chosen]]
    along = dot(normals, hits.directions[chosen])
    sample_along = np.stack([along + dot(normals, step) for step in hits.steps])
    # At grazing angles a sample may look past the horizon of the plane: keep it near the pixel.
    ratio = np.divide(along, sample_along, out=np.ones_like(sample_along), where=sample_along != 0)
    depth = hits.depth[chosen] * np.clip(ratio, 0.5, 2.0)
    directions = _sample_directions(hits, chosen)
    return hits.eye + depth.reshape(-1, 1) * directions, directions

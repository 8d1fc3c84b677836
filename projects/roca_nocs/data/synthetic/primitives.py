"""Closed triangle meshes from which the parametric CAD models are put together.

All meshes live in a right-handed frame with y up, in metres, and are wound counter-clockwise seen
from outside, so that each has a positive signed volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Three coordinates in metres.
Point = Sequence[float] | np.ndarray


class Mesh(NamedTuple):
    """A triangle mesh: vertices (V, 3) float64 and faces (F, 3) int32."""

    vertices: np.ndarray
    faces: np.ndarray


def loft(rings: Sequence[np.ndarray], *, loop: bool = False) -> Mesh:
    """Skin over a sequence of closed outlines.

    Args:
        rings: K outlines (N, 3) with the same number of points. Seen from the far end of the
            sequence, looking back at its start, each outline runs counter-clockwise.
        loop: True joins the last outline to the first (a torus); False closes both ends with a
            fan around the centroid of the end outline.

    Returns:
        A closed mesh.
    """
    stack = np.asarray(rings, dtype=np.float64)
    count, segments = stack.shape[:2]
    point = np.arange(segments)
    following = (point + 1) % segments
    lower = np.arange(count if loop else count - 1)[:, None] * segments
    upper = (lower + segments) % (count * segments)
    first = np.stack(np.broadcast_arrays(lower + point, lower + following, upper + following), -1)
    second = np.stack(np.broadcast_arrays(lower + point, upper + following, upper + point), -1)
    faces = [first.reshape(-1, 3), second.reshape(-1, 3)]
    vertices = [stack.reshape(-1, 3)]
    if not loop:
        vertices.append(stack[[0, -1]].mean(axis=1))
        bottom, last = count * segments, (count - 1) * segments
        faces.append(np.stack([np.full(segments, bottom), following, point], -1))
        faces.append(np.stack([np.full(segments, bottom + 1), last + point, last + following], -1))
    return Mesh(np.concatenate(vertices), np.concatenate(faces).astype(np.int32))


def outline(
    radius_x: float, radius_z: float, height: float, segments: int, exponent: float = 2.0
) -> np.ndarray:
    """A superellipse in the plane y = height: exponent 2 is an ellipse, 5 a rounded rectangle.

    Returns:
        (segments, 3) points, counter-clockwise seen from above (+y).
    """
    angle = 2.0 * np.pi * np.arange(segments) / segments
    # Rounding makes the four quadrants exact mirror images of each other.
    cosine, sine = np.round(np.cos(angle), 12), np.round(np.sin(angle), 12)
    reach = (np.abs(cosine) ** exponent + np.abs(sine) ** exponent) ** (-1.0 / exponent)
    x, z = radius_x * reach * cosine, -radius_z * reach * sine
    return np.stack([x, np.full(segments, float(height)), z], axis=-1)


def lathe(
    profile: Sequence[tuple[float, float]],
    *,
    segments: int = 24,
    depth_ratio: float = 1.0,
    exponent: float = 2.0,
    loop: bool = False,
) -> Mesh:
    """Turn a profile around the y axis.

    Args:
        profile: (radius, height) pairs with positive radii. Walk up the outer side; for a hollow
            body come back down the inner side.
        segments: points per outline; a multiple of four keeps quarter turns exact.
        depth_ratio: radius along z over radius along x.
        exponent: of the superellipse of the cross-section.
        loop: the profile is a closed curve off the axis (a ring).
    """
    rings = [outline(r, r * depth_ratio, y, segments, exponent) for r, y in profile]
    return loft(rings, loop=loop)


def band(inner: float, outer: float, bottom: float, top: float, *, segments: int = 28) -> Mesh:
    """An upright ring with a rectangular cross-section around the y axis."""
    profile = [(outer, bottom), (outer, top), (inner, top), (inner, bottom)]
    return lathe(profile, segments=segments, loop=True)


def cylinder(radius: float, bottom: float, top: float, *, segments: int = 16) -> Mesh:
    """An upright cylinder around the y axis."""
    return lathe([(radius, bottom), (radius, top)], segments=segments)


def box(lower: Point, upper: Point) -> Mesh:
    """An axis-aligned box between two corners."""
    return tapered_box(lower, upper, 1.0, 1.0)


def tapered_box(lower: Point, upper: Point, top_x: float, top_z: float) -> Mesh:
    """A box whose top face is scaled about its centre by ``top_x`` and ``top_z``."""
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    centre, half = (low + high) / 2.0, (high - low) / 2.0
    signs = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]], dtype=np.float64)
    corners = np.empty((8, 3))
    corners[:4, [0, 2]] = centre[[0, 2]] + signs * half[[0, 2]]
    corners[4:, [0, 2]] = centre[[0, 2]] + signs * half[[0, 2]] * (top_x, top_z)
    corners[:4, 1], corners[4:, 1] = low[1], high[1]
    sides = [[i, (i + 1) % 4, 4 + (i + 1) % 4, i, 4 + (i + 1) % 4, 4 + i] for i in range(4)]
    caps = [[0, 3, 2, 0, 2, 1], [4, 5, 6, 4, 6, 7]]
    return Mesh(corners, np.array(sides + caps, dtype=np.int32).reshape(-1, 3))


def cushion(
    lower: Point,
    upper: Point,
    *,
    segments: int = 12,
    rounding: float = 0.35,
    exponent: float = 5.0,
) -> Mesh:
    """A soft box: rounded-rectangle outlines that draw in towards the top and bottom.

    Args:
        lower, upper: opposite corners.
        segments: points per outline.
        rounding: share of the height that is rounded off at each end, in (0, 0.5].
        exponent: of the superellipse of the outline.
    """
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    centre, half = (low + high) / 2.0, (high - low) / 2.0
    radius = rounding * 2.0 * half[1]
    inset = min(radius, 0.4 * half[0], 0.4 * half[2])
    steps = [(1.0, 0.0), (0.3, 0.3), (0.0, 1.0)]
    levels = [(step[0], low[1] + step[1] * radius) for step in steps]
    levels += [(step[0], high[1] - step[1] * radius) for step in reversed(steps)]
    rings = [
        outline(half[0] - draw * inset, half[2] - draw * inset, y, segments, exponent)
        for draw, y in levels
    ]
    mesh = loft(rings)
    return translate(mesh, (centre[0], 0.0, centre[2]))


def ball(radius: float, centre: Point, *, segments: int = 12) -> Mesh:
    """A sphere, flat at the very poles."""
    polar = np.linspace(-0.46, 0.46, segments // 2 + 1) * np.pi
    profile = [(radius * np.cos(a), radius * np.sin(a)) for a in polar]
    return translate(lathe(profile, segments=segments), centre)


def tube(path: Sequence[Point] | np.ndarray, radius: float, *, segments: int = 8) -> Mesh:
    """A round bar along a polyline, which must not turn back on itself.

    Args:
        path: K >= 2 points (x, y, z).
        radius: of the bar.
        segments: points per cross-section.
    """
    points = np.asarray(path, dtype=np.float64)
    tangents = np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    # Any fixed direction that is not along the path serves as the seed of the frames.
    spread = np.abs(tangents).max(axis=0)
    side = np.cross(tangents[0], np.eye(3)[int(np.argmin(spread))])
    angle = 2.0 * np.pi * np.arange(segments) / segments
    rings = []
    for point, tangent in zip(points, tangents, strict=True):
        side = side - tangent * (side @ tangent)
        side /= np.linalg.norm(side)
        other = np.cross(tangent, side)
        circle = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
        rings.append(point + radius * circle)
    return loft(rings)


def translate(mesh: Mesh, offset: Point) -> Mesh:
    """Shift a mesh."""
    return Mesh(mesh.vertices + np.asarray(offset, dtype=np.float64), mesh.faces)


def rotate(mesh: Mesh, axis: int, degrees: float, pivot: Point = (0.0, 0.0, 0.0)) -> Mesh:
    """Turn a mesh right-handedly about a coordinate axis (0, 1, 2) through ``pivot``."""
    centre = np.asarray(pivot, dtype=np.float64)
    angle = np.deg2rad(degrees)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[first, first] = rotation[second, second] = np.cos(angle)
    rotation[second, first], rotation[first, second] = np.sin(angle), -np.sin(angle)
    return Mesh((mesh.vertices - centre) @ rotation.T + centre, mesh.faces)


def signed_volume(mesh: Mesh) -> float:
    """Volume enclosed by a closed mesh, negative if it is wound inside out."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)

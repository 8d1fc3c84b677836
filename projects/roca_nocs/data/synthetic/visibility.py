"""Amodal masks and boxes: each object as if it stood alone before the camera."""

from __future__ import annotations

import numpy as np

from .raycast import NEAR, RayCaster


def clipped_box(
    camera_vertices: np.ndarray, faces: np.ndarray, intrinsics: np.ndarray
) -> np.ndarray:
    """Image box of the part of a mesh in front of the near plane.

    Args:
        camera_vertices: (V, 3), camera frame, metres.
        faces: (F, 3).
        intrinsics: (3, 3).

    Returns:
        (4,) float64 XYXY, not clipped by the image border; pixel i spans [i, i + 1]. Zeros if
        nothing lies in front of the near plane.
    """
    depth = camera_vertices[:, 2]
    front = depth >= NEAR
    points = camera_vertices[front]
    if not front.all() and front.any():
        edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        a, b = edges[front[edges[:, 0]] & ~front[edges[:, 1]]].T
        share = (depth[a] - NEAR) / (depth[a] - depth[b])
        crossing = camera_vertices[a] + share[:, None] * (camera_vertices[b] - camera_vertices[a])
        points = np.concatenate([points, crossing])
    if len(points) == 0:
        return np.zeros(4)
    image = points @ intrinsics.T
    image = image[:, :2] / image[:, 2:] + 0.5
    return np.concatenate([image.min(axis=0), image.max(axis=0)])


def pixel_window(box: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns whose pixel centres may lie in a box, within the image."""
    height, width = size
    x0, y0 = np.floor(box[:2]).astype(np.int64)
    x1, y1 = np.ceil(box[2:]).astype(np.int64)
    columns = slice(min(max(x0, 0), width), min(max(x1, 0), width))
    rows = slice(min(max(y0, 0), height), min(max(y1, 0), height))
    return rows, columns


def truncation(box: np.ndarray, size: tuple[int, int]) -> float:
    """Share of the area of an XYXY box outside an image (height, width); 1 for an empty box."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    if area <= 0.0:
        return 1.0
    inside = np.clip(box, 0.0, [size[1], size[0], size[1], size[0]])
    return float(1.0 - (inside[2] - inside[0]) * (inside[3] - inside[1]) / area)


def mask_box(mask: np.ndarray) -> np.ndarray:
    """(4,) XYXY box around the true pixels (H, W), right and bottom exclusive; zeros if none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def amodal_mask(
    caster: RayCaster,
    farthest: float,
    visible: np.ndarray,
    depth: np.ndarray,
    eye: np.ndarray,
    directions: np.ndarray,
) -> np.ndarray:
    """Complete the visible mask of an object with what is hidden behind others.

    Only rays that are stopped by something else before the far end of the object are traced again:
    wherever the first hit lies beyond it, or nothing was hit, the object is not.

    Args:
        caster: of the object alone.
        farthest: largest depth of its vertices, metres.
        visible: (H, W) bool.
        depth: (H, W) of the first hits, 0 where nothing was hit.
        eye: (3,) in the frame of the caster.
        directions: (H, W, 3) float32, one unit of depth long.

    Returns:
        (H, W) bool.
    """
    mask = visible.copy()
    open_question = ~visible & (depth > 0.0) & (depth < farthest)
    faces, _ = caster.first_hit(eye, directions[open_question])
    mask[open_question] = faces >= 0
    return mask

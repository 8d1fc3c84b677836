"""Drawing of boxes, masks, depth, NOCS maps and posed CAD models with OpenCV.

All pictures are (H, W, 3) uint8 RGB arrays; functions return a new one.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import trimesh

from roca_nocs.geometry.camera import project

FONT = cv2.FONT_HERSHEY_SIMPLEX
# Lines of a wireframe are cut at this depth, metres: nothing in front of it can be projected.
NEAR = 0.05


def instance_colors(count: int) -> np.ndarray:
    """``count`` colours that differ from their neighbours in the list, (count, 3) uint8."""
    golden = 0.61803398875
    hues = (0.1 + golden * np.arange(count)) % 1
    colors = [colorsys.hsv_to_rgb(hue, 0.75, 1.0) for hue in hues]
    return (np.array(colors).reshape(-1, 3) * 255).astype(np.uint8)


def magnification(image: np.ndarray, width: int = 320) -> int:
    """Whole factor that makes a small picture (H, W, 3) about this wide, so that labels fit."""
    return max(1, width // image.shape[1])


def magnify(array: np.ndarray, factor: int, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Repeat every pixel ``factor`` times along the two image axes."""
    return array.repeat(factor, axes[0]).repeat(factor, axes[1])


def draw_masks(image: np.ndarray, masks: np.ndarray, alpha: float = 0.45) -> np.ndarray:
    """Tint the pixels of each mask.

    Args:
        image: (H, W, 3) uint8.
        masks: (N, H, W) bool.
        alpha: opacity of the tint.
    """
    drawn = image.astype(np.float32)
    for mask, color in zip(masks, instance_colors(len(masks)), strict=True):
        drawn[mask] = (1 - alpha) * drawn[mask] + alpha * color
    return drawn.astype(np.uint8)


def draw_boxes(image: np.ndarray, boxes: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """Outline boxes and write their labels.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) XYXY pixels, right and bottom edges exclusive.
        labels: N texts, or none.
    """
    drawn = np.ascontiguousarray(image).copy()
    size = max(0.3, image.shape[1] / 900)
    texts = list(labels) or [""] * len(boxes)
    for box, text, color in zip(boxes, texts, instance_colors(len(boxes)), strict=True):
        x0, y0, x1, y1 = (round(float(edge)) for edge in box)
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), color.tolist(), 1)
        (_, height), _ = cv2.getTextSize(text, FONT, size, 1)
        corner = (x0 + 2, max(y0, 0) + height + 2)
        cv2.putText(drawn, text, corner, FONT, size, (0, 0, 0), 2, cv2.LINE_AA)
        cv2.putText(drawn, text, corner, FONT, size, color.tolist(), 1, cv2.LINE_AA)
    return drawn


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Colours of a depth map (H, W) in metres: near is warm, far is cold, none is black."""
    valid = depth > 0
    picture = np.zeros((*depth.shape, 3), np.uint8)
    if valid.any():
        low, high = np.percentile(depth[valid], (1, 99))
        near = 1 - np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
        colored = cv2.applyColorMap((near * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
        picture[valid] = colored[..., ::-1][valid]
    return picture


def nocs_picture(nocs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Model coordinates (H, W, 3) in [-0.5, 0.5] as colours; black outside ``mask`` (H, W) bool."""
    picture = np.clip((nocs + 0.5) * 255, 0, 255).astype(np.uint8)
    picture[~mask] = 0
    return picture


def feature_edges(vertices: np.ndarray, faces: np.ndarray, degrees: float = 20.0) -> np.ndarray:
    """Edges where a surface ends or bends by more than ``degrees``.

    Args:
        vertices: (V, 3).
        faces: (F, 3) vertex indices.
        degrees: smallest angle between the normals of the two faces.

    Returns:
        (E, 2, 3) end points.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=True)
    sharp = mesh.face_adjacency_edges[mesh.face_adjacency_angles > np.radians(degrees)]
    unique, counts = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    edges = np.concatenate([sharp, unique[counts == 1]])
    return mesh.vertices[edges]


def draw_wireframe(
    image: np.ndarray,
    edges: np.ndarray,
    intrinsics: torch.Tensor,
    color: Sequence[int],
    thickness: int = 1,
) -> np.ndarray:
    """Draw line segments of the camera frame.

    Args:
        image: (H, W, 3) uint8.
        edges: (E, 2, 3) end points, metres; parts behind the camera are cut off.
        intrinsics: (3, 3), pixels.
        color: RGB.
        thickness: pixels.
    """
    drawn = np.ascontiguousarray(image).copy()
    start, end = edges[:, 0], edges[:, 1]
    ahead = np.maximum(start[:, 2], end[:, 2]) > NEAR
    start, end = start[ahead], end[ahead]
    if len(start) == 0:
        return drawn
    step = np.where(start[:, 2] == end[:, 2], 1.0, end[:, 2] - start[:, 2])
    cut = ((NEAR - start[:, 2]) / step)[:, None]
    crossing = start + cut * (end - start)
    start = np.where(start[:, 2:] < NEAR, crossing, start)
    end = np.where(end[:, 2:] < NEAR, crossing, end)
    pixels = project(torch.from_numpy(np.stack([start, end], axis=1)), intrinsics.double()).numpy()
    # Sixteenths of a pixel; far outside coordinates would overflow OpenCV's integers.
    fixed = np.clip(pixels * 16, -(2**24), 2**24).round().astype(np.int32)
    ink = tuple(map(int, color))
    cv2.polylines(drawn, list(fixed), False, ink, thickness, cv2.LINE_AA, shift=4)
    return drawn


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> np.ndarray:
    """Pictures side by side, one row per sample, with a title above each column.

    Args:
        rows: pictures of any size; each is fitted into the largest size among all.
        titles: one per column.
    """
    height = max(picture.shape[0] for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    gap, head = 4, 22
    columns = max(len(row) for row in rows)
    shape = (head + len(rows) * (height + gap), columns * (width + gap), 3)
    sheet = np.full(shape, 255, np.uint8)
    for column, title in enumerate(titles):
        corner = (column * (width + gap) + 4, head - 7)
        cv2.putText(sheet, title, corner, FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = head + row * (height + gap), column * (width + gap)
            h, w = picture.shape[:2]
            sheet[top : top + h, left : left + w] = picture
    return sheet

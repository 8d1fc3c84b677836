"""Boxes in space over the photo and from above."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from roca_nocs.utils.visualize import FONT, draw_wireframe
from roca_nocs.visualization.posed_boxes import PosedBox

AXIS_COLORS = ((255, 60, 60), (60, 220, 60), (80, 120, 255))
"""Of the x, y and z axes, RGB."""

MAX_REACH = 100.0
"""Metres ahead that a view from above shows at most: nothing sensible is predicted beyond."""

_OUTLINE = (0, 0, 0)
_PAPER, _GRID, _VIEW, _INK = (250,) * 3, (225,) * 3, (170,) * 3, (90,) * 3
_MARGIN = 12  # pixels behind the camera and beyond the farthest line
_FRACTION_BITS = 4


def draw_boxes3d(
    photo: np.ndarray, intrinsics: np.ndarray, boxes: Sequence[PosedBox]
) -> np.ndarray:
    """Wireframes over the photo, the front marked by a cross, or else the axes of the model.

    Args:
        photo: (H, W, 3) uint8 RGB.
        intrinsics: (3, 3), pixels of the photo.
        boxes: in its camera frame; the nearest one lies on top.
    """
    matrix, drawn = torch.from_numpy(intrinsics), photo.copy()
    for box in sorted(boxes, key=lambda box: -box.pose[2, 3]):
        edges = box.edges()
        drawn = draw_wireframe(drawn, edges, matrix, _OUTLINE, thickness=3)
        drawn = draw_wireframe(drawn, edges, matrix, box.color.tolist())
        if not box.has_front:
            for axis, color in zip(box.axes(), AXIS_COLORS, strict=True):
                drawn = draw_wireframe(drawn, axis[None], matrix, color, thickness=2)
    return drawn


def find_reach(boxes: Sequence[PosedBox]) -> float:
    """How far ahead a view from above has to show, a round number of metres."""
    farthest = max((box.corners()[:, 2].max() for box in boxes), default=0.0)
    step = 10 if farthest > 10 else 5
    return float(min(max(step * np.ceil(farthest / step), 5), MAX_REACH))


def draw_from_above(
    size: tuple[int, int],
    intrinsics: np.ndarray,
    image_width: int,
    boxes: Sequence[PosedBox],
    reach: float,
) -> np.ndarray:
    """The bird's-eye view: the camera below the middle, what lies ahead is up.

    Args:
        size: (height, width) of the picture.
        intrinsics: (3, 3), of the photo, whose borders are drawn as lines.
        image_width: of the photo, pixels.
        boxes: in the camera frame; a line leads from the centre to the front of those that have
            one.
        reach: metres ahead, see ``find_reach``.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    height, width = size
    scale = (height - 2 * _MARGIN) / reach

    def pixels(points: np.ndarray) -> np.ndarray:
        """Points (..., 2), x and z, in fractions of a pixel as OpenCV takes them."""
        places = np.stack(
            [width / 2 + scale * points[..., 0], height - _MARGIN - scale * points[..., 1]], axis=-1
        )
        limit = 2.0**24
        return np.clip(places * 2**_FRACTION_BITS, -limit, limit).round().astype(np.int32)

    picture = np.full((height, width, 3), _PAPER, np.uint8)
    step = 1 if reach <= 5 else 2 if reach <= 10 else 10
    half = width / 2 / scale
    rows = np.arange(0, reach + step / 2, step)
    columns = step * np.arange(-np.floor(half / step), np.floor(half / step) + 1)
    across = [np.array([[-half, z], [half, z]]) for z in rows]
    ahead = [np.array([[x, 0], [x, reach]]) for x in columns]
    _lines(picture, pixels(np.array([*across, *ahead])), _GRID)
    left, right = (
        (column - intrinsics[0, 2]) / intrinsics[0, 0] for column in (-0.5, image_width - 0.5)
    )
    borders = [[[0, 0], [reach * slope, reach]] for slope in (left, right)]
    _lines(picture, pixels(np.array(borders)), _VIEW)
    for z in rows[1:]:
        x, y = pixels(np.array([-half, z])) >> _FRACTION_BITS
        place = int(x) + 3, int(y) - 2
        cv2.putText(picture, f"{z:g} m", place, FONT, 0.35, _INK, 1, cv2.LINE_AA)
    for box in sorted(boxes, key=lambda box: -box.pose[2, 3]):
        outline = pixels(_outline(box))
        filled = picture.copy()
        cv2.fillPoly(filled, [outline], box.color.tolist(), cv2.LINE_AA, _FRACTION_BITS)
        picture = cv2.addWeighted(filled, 0.45, picture, 0.55, 0)
        dark = (0.55 * box.color).astype(int).tolist()
        _lines(picture, outline[None], dark, closed=True)
        if box.has_front:
            _lines(picture, pixels(box.axes()[:1][..., [0, 2]]), dark, thickness=2)
    return picture


def _outline(box: PosedBox) -> np.ndarray:
    """(K, 2) x and z of the box seen from above, turned in any way."""
    return cv2.convexHull(box.corners()[:, [0, 2]].astype(np.float32))[:, 0].astype(np.float64)


def _lines(
    picture: np.ndarray,
    points: np.ndarray,
    color: Sequence[int],
    *,
    closed: bool = False,
    thickness: int = 1,
) -> None:
    cv2.polylines(
        picture, list(points), closed, color, thickness, cv2.LINE_AA, shift=_FRACTION_BITS
    )

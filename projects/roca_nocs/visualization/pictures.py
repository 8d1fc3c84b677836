"""One picture of everything known of an image: objects, 3D boxes, CAD models, depth, model
coordinates.

Small images are enlarged before anything is drawn, and CAD models are rendered at that size, so
that lines and labels stay sharp at 160x120.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from roca_nocs.data.transforms import LUMA
from roca_nocs.geometry.camera import resize_intrinsics
from roca_nocs.utils.visualize import (
    FONT,
    contact_sheet,
    depth_picture,
    draw_masks,
    instance_colors,
    nocs_picture,
)
from roca_nocs.visualization.box_pictures import draw_boxes3d, draw_from_above, find_reach
from roca_nocs.visualization.image_result import ImageResult
from roca_nocs.visualization.posed_boxes import PosedBox, pose_boxes
from roca_nocs.visualization.posed_cads import (
    CadView,
    PosedCad,
    model_coordinates,
    view_cads,
)

TILE = 400
"""Longer side of each picture of a panel, pixels; twice that of a panorama's."""
PANORAMA = 2.0
"""Width over height of an image beyond which it is one."""
OVERSAMPLING = 2
TEXT_SIZE = 0.42
# From a surface to the light, camera frame: above the camera, a little to its left.
LIGHT = np.array([-0.35, -0.65, -0.8])


class Canvas:
    """An image at the size at which it is drawn.

    Args:
        image: (H, W, 3) uint8 RGB.
        intrinsics: (3, 3), pixels of the image, or ``None``.
        longer_side: of the drawn image, pixels; default: see ``TILE``.

    Attributes:
        photo: (h, w, 3) uint8, the image at that size.
        size: (h, w).
        factors: (w / W, h / H).
        intrinsics: of the photo.
    """

    def __init__(
        self,
        image: np.ndarray,
        intrinsics: np.ndarray | None = None,
        longer_side: int | None = None,
    ) -> None:
        height, width = image.shape[:2]
        if longer_side is None:
            longer_side = TILE if width <= PANORAMA * height else 2 * TILE
        factor = longer_side / max(height, width)
        self.size = max(1, round(height * factor)), max(1, round(width * factor))
        interpolation = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        self.photo = cv2.resize(image, self.size[::-1], interpolation=interpolation)
        self.factors = self.size[1] / width, self.size[0] / height
        self.intrinsics = intrinsics
        if intrinsics is not None:
            matrix = torch.as_tensor(np.asarray(intrinsics, np.float64))
            self.intrinsics = resize_intrinsics(matrix, *self.factors).numpy()

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the image in pixels of the photo."""
        return boxes * np.array([*self.factors, *self.factors])

    def masks(self, masks: np.ndarray) -> np.ndarray:
        """Masks (N, H, W) bool of the image with smooth edges at the size of the photo."""
        resized = [cv2.resize(mask.astype(np.float32), self.size[::-1]) > 0.5 for mask in masks]
        return np.array(resized, dtype=bool).reshape(-1, *self.size)


def draw_contours(image: np.ndarray, masks: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Outline each mask (N, H, W) bool in its colour (N, 3)."""
    drawn = np.ascontiguousarray(image).copy()
    for mask, color in zip(masks.astype(np.uint8), colors, strict=True):
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, color.tolist(), 1, cv2.LINE_AA)
    return drawn


def draw_objects(canvas: Canvas, result: ImageResult, names: Sequence[str]) -> np.ndarray:
    """Masks, boxes and labels over the photo."""
    drawn, colors = canvas.photo, instance_colors(len(result))
    if result.masks is not None:
        masks = canvas.masks(result.masks)
        drawn = draw_contours(draw_masks(drawn, masks), masks, colors)
    drawn = np.ascontiguousarray(drawn).copy()
    corners = np.round(canvas.boxes(result.boxes)).astype(int)
    for (x0, y0, x1, y1), color in zip(corners.tolist(), colors.tolist(), strict=True):
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), color, 1)
    _write_labels(drawn, corners[:, :2], result.labels(names), colors)
    return drawn


def _write_labels(
    drawn: np.ndarray, corners: np.ndarray, labels: Sequence[str], colors: np.ndarray
) -> None:
    """Labels above the corners (N, 2), moved down to where none of them covers another."""
    taken: list[tuple[int, int, int, int]] = []
    for (x, y), text, color in zip(corners.tolist(), labels, colors.tolist(), strict=True):
        (width, height), _ = cv2.getTextSize(text, FONT, TEXT_SIZE, 1)
        width, height = width + 4, height + 6
        left = min(max(x, 0), max(drawn.shape[1] - width, 0))
        top = max(y - height, 0)
        while any(
            left < right and first < left + width and top < bottom and above < top + height
            for first, above, right, bottom in taken
        ):
            top += 1
        taken.append((left, top, left + width, top + height))
        cv2.rectangle(drawn, (left, top), (left + width - 1, top + height - 1), color, cv2.FILLED)
        corner = (left + 2, top + height - 4)
        dark = np.dot(color, LUMA) < 110
        ink = (255, 255, 255) if dark else (0, 0, 0)
        cv2.putText(drawn, text, corner, FONT, TEXT_SIZE, ink, 1, cv2.LINE_AA)


def draw_cads(canvas: Canvas, cads: Sequence[PosedCad], opacity: float = 0.85) -> np.ndarray:
    """Shaded CAD models over the photo, each with the outline of its visible part.

    Args:
        canvas: the photo, with intrinsics.
        cads: the models.
        opacity: of their surfaces.
    """
    height, width = canvas.size
    fine = OVERSAMPLING * height, OVERSAMPLING * width
    factors = float(OVERSAMPLING), float(OVERSAMPLING)
    intrinsics = resize_intrinsics(torch.from_numpy(canvas.intrinsics), *factors).numpy()
    view = view_cads(cads, intrinsics, fine)
    drawn = cv2.resize(canvas.photo, fine[::-1], interpolation=cv2.INTER_LINEAR)
    seen = view.index >= 0
    if not cads or not seen.any():
        return canvas.photo.copy()
    colors = np.stack([cad.color for cad in cads])
    shaded = colors[view.index[seen]] * _brightness(view)[seen][:, None]
    drawn[seen] = ((1 - opacity) * drawn[seen] + opacity * shaded).astype(np.uint8)
    for number in np.unique(view.index[seen]):
        color, mask = colors[number], (view.index == number).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, (color * 0.35).tolist(), OVERSAMPLING)
    return cv2.resize(drawn, canvas.size[::-1], interpolation=cv2.INTER_AREA)


def _brightness(view: CadView) -> np.ndarray:
    """(H, W) in [0, 1]: diffuse light plus some from everywhere."""
    light = LIGHT / np.linalg.norm(LIGHT)
    return 0.4 + 0.6 * np.clip(view.normals @ light, 0, 1)


def draw_nocs(canvas: Canvas, result: ImageResult, cads: Sequence[PosedCad]) -> np.ndarray:
    """Model coordinates as colours over the darkened photo.

    They are the predicted ones inside boxes and masks where the result has them, else those of the
    posed CAD models.
    """
    grey = cv2.cvtColor(canvas.photo, cv2.COLOR_RGB2GRAY)[..., None]
    drawn = np.repeat(grey // 4, 3, axis=2)
    if result.nocs is None:
        view = view_cads(cads, canvas.intrinsics, canvas.size)
        nocs, seen = model_coordinates(view, cads, canvas.intrinsics), view.index >= 0
        drawn[seen] = nocs_picture(nocs, seen)[seen]
        return drawn
    masks = None if result.masks is None else canvas.masks(result.masks)
    # From the lowest score up, so that the surest object lies on top.
    for row in reversed(range(len(result))):
        x0, y0, x1, y1 = np.round(canvas.boxes(result.boxes[row])).astype(int).tolist()
        if x1 <= x0 or y1 <= y0:
            continue
        grid = np.nan_to_num(result.nocs[row])
        pasted = cv2.resize(grid, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        top, left = max(y0, 0), max(x0, 0)
        region = drawn[top : max(y1, 0), left : max(x1, 0)]
        height, width = region.shape[:2]
        pasted = pasted[top - y0 :, left - x0 :][:height, :width]
        inside = np.ones((height, width), dtype=bool)
        if masks is not None:
            inside = masks[row, top : top + height, left : left + width]
        region[inside] = nocs_picture(pasted, inside)[inside]
    return drawn


def draw_depth(canvas: Canvas, depth: np.ndarray) -> tuple[np.ndarray, str]:
    """A depth map in colours at the size of the photo, and its range as text."""
    # Pixels without a measurement must not be mixed with their neighbours.
    complete = (depth > 0).all()
    interpolation = cv2.INTER_LINEAR if complete else cv2.INTER_NEAREST
    resized = cv2.resize(depth, canvas.size[::-1], interpolation=interpolation)
    values = depth[depth > 0]
    text = f" {values.min():.1f}-{values.max():.1f} m" if len(values) else ""
    return depth_picture(resized), text


def draw_panel(
    canvas: Canvas,
    result: ImageResult,
    cads: Sequence[PosedCad],
    names: Sequence[str],
    truth: ImageResult | None = None,
    truth_cads: Sequence[PosedCad] = (),
    least_reach: float = 0.0,
) -> np.ndarray:
    """All pictures of an image side by side, with titles.

    Args:
        canvas: the photo, with intrinsics if anything is 3D.
        result: the detections.
        cads: their posed CAD models.
        names: of the classes.
        truth: the annotations, drawn beside or below the detections.
        truth_cads: their posed CAD models.
        least_reach: metres ahead that the view from above shows at least.

    Returns:
        (h, w, 3) uint8 RGB; its size depends on that of the canvas and on what the result has, not
        on the number of objects.
    """
    boxes = pose_boxes(result, names)
    truth_boxes = [] if truth is None else pose_boxes(truth, names)
    reach = max(least_reach, find_reach([*boxes, *truth_boxes]))
    found = _tiles(canvas, result, cads, boxes, names, reach)
    rows = [[("input", canvas.photo), ("found", found.pop("objects")[1]), *found.values()]]
    if truth is not None:
        tiles = _tiles(canvas, truth, truth_cads, truth_boxes, names, reach)
        objects = ("ground truth", tiles.pop("objects")[1])
        if found:
            # Each kind below that of the detections, white where the annotations lack it.
            below = [
                tiles.get(kind, (" ", np.full_like(tile, 255))) for kind, (_, tile) in found.items()
            ]
            rows.append([(" ", np.full_like(canvas.photo, 255)), objects, *below])
        else:
            rows[0].append(objects)
    sheets = []
    for row in rows:
        titles, pictures = zip(*row, strict=True)
        sheets.append(contact_sheet([pictures], titles))
    return np.concatenate(sheets)


def _tiles(
    canvas: Canvas,
    result: ImageResult,
    cads: Sequence[PosedCad],
    boxes: Sequence[PosedBox],
    names: Sequence[str],
    reach: float,
) -> dict[str, tuple[str, np.ndarray]]:
    """Title and picture by kind; which kinds there are does not depend on what was found."""
    tiles = {"objects": ("", draw_objects(canvas, result, names))}
    if canvas.intrinsics is None:
        return tiles
    if result.boxes3d is not None:
        over_photo = draw_boxes3d(canvas.photo, canvas.intrinsics, boxes)
        tiles["boxes"] = ("3D boxes", over_photo)
        if result.boxes3d.has_front:
            height, width = canvas.size
            size = max(height, width // 2), width
            above = draw_from_above(size, canvas.intrinsics, width, boxes, reach)
            tiles["above"] = ("from above", above)
    if result.alignments is not None:
        tiles["CAD models"] = ("CAD models", draw_cads(canvas, cads))
    if result.alignments is not None or result.nocs is not None:
        tiles["nocs"] = ("model coordinates", draw_nocs(canvas, result, cads))
    if result.depth is not None:
        picture, text = draw_depth(canvas, result.depth)
        tiles["depth"] = ("depth" + text, picture)
    return tiles

"""Inputs of the visualizer in the forms it draws them in."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pycocotools.mask

__all__ = ["by_decreasing_area", "import_matplotlib", "to_array", "to_bitmaps"]


def import_matplotlib() -> ModuleType:
    """The package with the submodules used for drawing, imported only when something is drawn."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.lines
        import matplotlib.patches
    except ImportError as error:
        raise ImportError("Drawing needs matplotlib: pip install matplotlib") from error
    return matplotlib


def to_array(value: Any) -> np.ndarray:
    """Boxes, BitMasks, tensor, array or list as an array on the CPU."""
    value = getattr(value, "tensor", value)
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def to_bitmaps(masks: Any, height: int, width: int) -> list[np.ndarray]:
    """N bool bitmaps ``(height, width)``.

    Args:
        masks: ``BitMasks``, ``PolygonMasks``, an array or tensor ``(N, height, width)``, or a list
            of bitmaps, RLE dicts and lists of polygons.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: a bitmap of another size.
    """
    if hasattr(masks, "polygons"):
        masks = masks.polygons
    elif not isinstance(masks, list | tuple):
        masks = to_array(masks)
    return [_to_bitmap(mask, height, width) for mask in masks]


def _to_bitmap(mask: Any, height: int, width: int) -> np.ndarray:
    if isinstance(mask, list | tuple):
        return _polygons_to_bitmap(mask, height, width)
    if isinstance(mask, Mapping):
        if isinstance(mask["counts"], list):
            mask = pycocotools.mask.frPyObjects(mask, height, width)
        mask = pycocotools.mask.decode(mask)
    mask = to_array(mask)
    if mask.shape != (height, width):
        raise ValueError(
            f"A mask has shape {mask.shape}, but the image is {height} x {width} (H x W)."
        )
    return mask.astype(bool)


def _polygons_to_bitmap(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Union of polygons of x, y, x, y, ... in pixels."""
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    flat = [to_array(polygon).astype(np.float64).ravel().tolist() for polygon in polygons]
    rles = pycocotools.mask.frPyObjects(flat, height, width)
    return pycocotools.mask.decode(pycocotools.mask.merge(rles)).astype(bool)


def by_decreasing_area(
    boxes: np.ndarray | None, bitmaps: Sequence[np.ndarray] | None, count: int
) -> np.ndarray:
    """Indices of ``count`` instances by box area, or by mask area where there are no boxes."""
    if boxes is not None:
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    elif bitmaps is not None:
        areas = np.array([bitmap.sum() for bitmap in bitmaps])
    else:
        areas = np.zeros(count)
    return np.argsort(-areas, kind="stable")

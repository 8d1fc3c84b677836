"""Instance masks: as bitmaps of the image, as polygons, or relative to boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign

from .boxes import Boxes

Polygons = list[np.ndarray]
"""The parts of one object, each ``(2k,)`` as x0, y0, x1, y1, ... in pixels."""


def polygons_to_bitmask(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterise the union of the parts of one object with pycocotools.

    Args:
        polygons: the parts, see :data:`Polygons`; none give an empty mask.
        height: rows of the image.
        width: columns of the image.

    Returns:
        Boolean array ``(height, width)``.
    """
    if len(polygons) == 0:  # pycocotools takes at least one
        return np.zeros((height, width), dtype=bool)
    parts = mask_util.frPyObjects([np.asarray(part) for part in polygons], height, width)
    return mask_util.decode(mask_util.merge(parts)).astype(bool)


class BitMasks:
    """``N`` masks of one image as boolean maps.

    Attributes:
        tensor: bool ``(N, H, W)``.
        image_size: ``(H, W)``.
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray) -> None:
        """Wrap ``(N, H, W)`` values; an array is placed on the CPU."""
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(tensor, device="cpu")
        tensor = tensor.to(torch.bool)
        assert tensor.dim() == 3, f"BitMasks need shape (N, H, W), got {tuple(tensor.shape)}."
        self.tensor = tensor
        self.image_size = tuple(tensor.shape[1:])

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """Move like ``Tensor.to``; the values stay boolean."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | list | torch.Tensor) -> BitMasks:
        """Select masks; a Python integer gives one mask. May share storage."""
        if isinstance(item, int):
            return BitMasks(self.tensor[item][None])
        selected = self.tensor[item]
        assert selected.dim() == 3, (
            f"Indexing BitMasks with {item!r} gives shape {tuple(selected.shape)} instead of a "
            "list of masks."
        )
        return BitMasks(selected)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield each mask as a tensor ``(H, W)``."""
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)}, image_size={self.image_size})"

    def nonempty(self) -> torch.Tensor:
        """Boolean ``(N,)``: at least one pixel is set."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """The tightest box around each mask, on the device of the masks.

        The right and bottom sides lie behind the last pixel; an empty mask gives zeros.
        """
        filled_columns, filled_rows = self.tensor.any(dim=1), self.tensor.any(dim=2)
        (x0, x1), (y0, y1) = _first_and_end(filled_columns), _first_and_end(filled_rows)
        return Boxes(torch.stack([x0, y0, x1, y1], dim=1))

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Resample each mask inside its box.

        Args:
            boxes: ``(N, 4)`` in pixels.
            mask_size: side of the result.

        Returns:
            bool ``(N, mask_size, mask_size)``: half of the cell or more is covered.
        """
        assert len(boxes) == len(self), f"Got {len(boxes)} boxes for {len(self)} masks."
        index = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
        rois = torch.cat([index[:, None], boxes], dim=1).to(self.device)
        align = ROIAlign((mask_size, mask_size), 1.0, sampling_ratio=0, aligned=True)
        return align(self.tensor[:, None].float(), rois)[:, 0] >= 0.5

    @staticmethod
    def from_polygon_masks(
        polygon_masks: PolygonMasks | Sequence[Polygons], height: int, width: int
    ) -> BitMasks:
        """Rasterise polygons for an image of the given size."""
        if isinstance(polygon_masks, PolygonMasks):
            polygon_masks = polygon_masks.polygons
        masks = np.zeros((len(polygon_masks), height, width), dtype=bool)
        for mask, polygons in zip(masks, polygon_masks, strict=True):
            mask[:] = polygons_to_bitmask(polygons, height, width)
        return BitMasks(torch.from_numpy(masks))

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        """Concatenate masks of the same image size; at least one element."""
        assert len(bitmasks_list) > 0, "BitMasks.cat needs at least one element."
        assert all(isinstance(bitmasks, BitMasks) for bitmasks in bitmasks_list), (
            f"Only BitMasks can be concatenated, got {[type(m).__name__ for m in bitmasks_list]}."
        )
        return BitMasks(torch.cat([bitmasks.tensor for bitmasks in bitmasks_list], dim=0))


def _first_and_end(filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index of the first ``True`` and one behind the last, per row of ``(N, L)``; 0, 0 if none."""
    length = filled.shape[1]
    position = torch.arange(length, device=filled.device)
    end = torch.where(filled, position + 1, 0).amax(dim=1)
    first = torch.where(filled, position, length).amin(dim=1)
    return torch.where(end > 0, first, 0), end


class PolygonMasks:
    """``N`` masks of one image, each a union of polygons.

    Attributes:
        polygons: per object the list of its parts, float64 arrays, see :data:`Polygons`.
    """

    def __init__(self, polygons: list[list[torch.Tensor | np.ndarray | Sequence[float]]]) -> None:
        """Convert and check the polygons.

        Raises:
            ValueError: not a list of lists, or a part without at least three whole points.
        """
        if not isinstance(polygons, list):
            raise ValueError(
                "Cannot create PolygonMasks: expected a list with one list of polygons per "
                f"object, got {type(polygons).__name__}."
            )
        self.polygons: list[Polygons] = [_checked_parts(parts) for parts in polygons]

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:
        """Do nothing: polygons live on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def nonempty(self) -> torch.Tensor:
        """Boolean ``(N,)``: the object has at least one polygon."""
        return torch.tensor([len(parts) > 0 for parts in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """The tightest box around all parts of each object; zeros without any polygon."""
        boxes = torch.zeros(len(self), 4)
        for box, parts in zip(boxes, self.polygons, strict=True):
            if parts:
                points = np.concatenate(parts).reshape(-1, 2)
                corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
                box.copy_(torch.from_numpy(corners))
        return Boxes(boxes)

    def area(self) -> torch.Tensor:
        """Sum of the areas of the parts ``(N,)``, float64 square pixels; overlaps count twice."""
        areas = [sum(_polygon_area(part) for part in parts) for parts in self.polygons]
        return torch.tensor(areas, dtype=torch.float64)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Rasterise each object on a grid over its box.

        Args:
            boxes: ``(N, 4)`` in pixels, on any device.
            mask_size: side of the grid.

        Returns:
            bool ``(N, mask_size, mask_size)`` on the device of the boxes.
        """
        assert len(boxes) == len(self), f"Got {len(boxes)} boxes for {len(self)} masks."
        masks = np.zeros((len(self), mask_size, mask_size), dtype=bool)
        # A pair of columns (x, y) of corners and scales matches the interleaved coordinates.
        corners = boxes.detach().cpu().double().numpy().reshape(-1, 2, 2)
        # Very thin boxes are widened: their scale would be unbounded.
        scales = mask_size / np.maximum(corners[:, 1] - corners[:, 0], 0.1)
        for mask, parts, origin, scale in zip(
            masks, self.polygons, corners[:, 0], scales, strict=True
        ):
            inside = [((part.reshape(-1, 2) - origin) * scale).reshape(-1) for part in parts]
            mask[:] = polygons_to_bitmask(inside, mask_size, mask_size)
        return torch.from_numpy(masks).to(boxes.device)

    def __getitem__(
        self, item: int | slice | list[int] | torch.Tensor | np.ndarray
    ) -> PolygonMasks:
        """Select objects by integer, slice, list of integers, bool or integer tensor or array."""
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        return PolygonMasks([self.polygons[index] for index in self._positions(item)])

    def _positions(self, item: int | list[int] | torch.Tensor | np.ndarray) -> list[int]:
        if isinstance(item, int):
            return [item]
        if isinstance(item, list):
            return item
        item = torch.as_tensor(item)
        if item.dtype == torch.bool:
            if item.shape != (len(self),):
                raise IndexError(
                    f"A mask of shape {tuple(item.shape)} cannot select from {len(self)} objects."
                )
            return item.nonzero()[:, 0].tolist()
        if item.dtype in (torch.int32, torch.int64):
            assert item.dim() == 1, f"An index needs one dimension, got {tuple(item.shape)}."
            return item.tolist()
        raise ValueError(f"Unsupported tensor dtype={item.dtype} for indexing!")

    def __iter__(self) -> Iterator[Polygons]:
        """Yield the parts of each object."""
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    @staticmethod
    def cat(polymasks_list: Sequence[PolygonMasks]) -> PolygonMasks:
        """Concatenate; at least one element."""
        assert len(polymasks_list) > 0, "PolygonMasks.cat needs at least one element."
        assert all(isinstance(polymasks, PolygonMasks) for polymasks in polymasks_list), (
            "Only PolygonMasks can be concatenated, got "
            f"{[type(polymasks).__name__ for polymasks in polymasks_list]}."
        )
        return PolygonMasks([parts for polymasks in polymasks_list for parts in polymasks])


def _checked_parts(parts: list[torch.Tensor | np.ndarray | Sequence[float]]) -> Polygons:
    if not isinstance(parts, list):
        raise ValueError(
            "Cannot create polygons: expected a list of polygons per object, got "
            f"{type(parts).__name__}."
        )
    checked = []
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.cpu().numpy()
        coordinates = np.array(part, dtype=np.float64).reshape(-1)
        if coordinates.size % 2 != 0 or coordinates.size < 6:
            raise ValueError(f"Cannot create a polygon from {coordinates.size} coordinates.")
        checked.append(coordinates)
    return checked


def _polygon_area(part: np.ndarray) -> float:
    """Area by the shoelace formula, whatever the orientation."""
    x, y = part[0::2], part[1::2]
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


class ROIMasks:
    """``N`` soft masks, each relative to a box that is kept elsewhere.

    Attributes:
        tensor: ``(N, M, M)`` probabilities.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks need shape (N, M, M), got {tuple(tensor.shape)}.")
        self.tensor = tensor

    def to(self, device: torch.device | str) -> ROIMasks:
        """The same masks on ``device``."""
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: slice | list | torch.Tensor) -> ROIMasks:
        """Select masks; anything that does not give a list of masks raises ``ValueError``."""
        return ROIMasks(self.tensor[item])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def to_bitmasks(
        self, boxes: Boxes | torch.Tensor, height: int, width: int, threshold: float = 0.5
    ) -> BitMasks:
        """Paste the masks into an image of ``(height, width)``; boxes in its pixels."""
        return BitMasks(paste_masks_in_image(self.tensor, boxes, (height, width), threshold))

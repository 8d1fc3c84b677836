"""Axis-aligned boxes in absolute pixel coordinates, and the box formats found in data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, unique

import numpy as np
import torch

RawBox = list | tuple | np.ndarray | torch.Tensor


@unique
class BoxMode(IntEnum):
    """The meaning of the numbers of a box. Members serialise to JSON as plain integers."""

    XYXY_ABS = 0
    """(x0, y0, x1, y1) in pixels."""
    XYWH_ABS = 1
    """(x0, y0, width, height) in pixels."""
    XYXY_REL = 2
    """(x0, y0, x1, y1) as fractions of the image size. Only a label: not convertible."""
    XYWH_REL = 3
    """(x0, y0, width, height) as fractions of the image size. Only a label: not convertible."""
    XYWHA_ABS = 4
    """(centre x, centre y, width, height, counter-clockwise angle in degrees), pixels."""

    @staticmethod
    def convert(box: RawBox, from_mode: BoxMode | int, to_mode: BoxMode | int) -> RawBox:
        """Convert boxes between two absolute formats.

        Args:
            box: a list or tuple of 4 (5 for ``XYWHA_ABS``) numbers, or an ``(N, 4)`` / ``(N, 5)``
                array or tensor. Never modified.
            from_mode: format of ``box``.
            to_mode: wanted format.

        Returns:
            The same container type (and dtype) as ``box``; ``box`` itself if the modes are equal.

        Raises:
            AssertionError: a relative mode, or a wrong number of coordinates.
            IndexError: an array or tensor that is not two-dimensional.
            NotImplementedError: a pair of modes without a conversion.
        """
        source, target = BoxMode(from_mode), BoxMode(to_mode)
        if source == target:
            return box
        relative = {BoxMode.XYXY_REL, BoxMode.XYWH_REL}
        assert not relative & {source, target}, (
            f"Relative box modes cannot be converted (from {source.name} to {target.name}): "
            "multiply by the image size first."
        )
        rows = _as_rows(box)
        width = 5 if source == BoxMode.XYWHA_ABS else 4
        assert rows.shape[-1] == width, (
            f"A {source.name} box has {width} numbers, got {rows.shape[-1]}."
        )
        conversion = _CONVERSIONS.get((source, target))
        if conversion is None:
            raise NotImplementedError(
                f"Conversion from BoxMode {source.name} to {target.name} is not supported."
            )
        converted = conversion(rows)
        if isinstance(box, torch.Tensor):
            return converted
        if isinstance(box, np.ndarray):
            return converted.numpy()
        return type(box)(converted[0].tolist())


def _as_rows(box: RawBox) -> torch.Tensor:
    """View ``box`` as an ``(N, k)`` tensor; a list or tuple becomes one row."""
    if isinstance(box, list | tuple):
        assert len(box) in (4, 5), f"A box must have 4 or 5 numbers, got {len(box)}: {box}"
        return torch.from_numpy(np.asarray(box))[None]
    if box.ndim != 2:
        raise IndexError(
            f"Boxes must be a list, a tuple or an (N, 4) or (N, 5) array, got shape "
            f"{tuple(box.shape)}; add a leading dimension to convert a single box."
        )
    return torch.from_numpy(box) if isinstance(box, np.ndarray) else box


def _xywh_to_xyxy(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:]], dim=1)


def _xyxy_to_xywh(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows[:, :2], rows[:, 2:] - rows[:, :2]], dim=1)


def _xywh_to_xywha(rows: torch.Tensor) -> torch.Tensor:
    exact = rows.double()
    corner, size = exact[:, :2], exact[:, 2:]
    return torch.cat([corner + size / 2, size, torch.zeros_like(exact[:, :1])], dim=1).to(
        rows.dtype
    )


def _xywha_to_xyxy(rows: torch.Tensor) -> torch.Tensor:
    """The smallest axis-aligned box around each rotated box; double precision inside."""
    exact = rows.double()
    centre, (width, height) = exact[:, :2], (exact[:, 2], exact[:, 3])
    angle = torch.deg2rad(exact[:, 4])
    cos, sin = angle.cos().abs(), angle.sin().abs()
    half = torch.stack([cos * width + sin * height, sin * width + cos * height], dim=1) / 2
    return torch.cat([centre - half, centre + half], dim=1).to(rows.dtype)


_CONVERSIONS: dict[tuple[BoxMode, BoxMode], Callable[[torch.Tensor], torch.Tensor]] = {
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): _xywh_to_xyxy,
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): _xyxy_to_xywh,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _xywh_to_xywha,
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _xywha_to_xyxy,
}


class Boxes:
    """A list of ``N`` boxes ``(x0, y0, x1, y1)`` in pixels.

    Attributes:
        tensor: float32 tensor of shape ``(N, 4)``.
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray | Sequence[Sequence[float]]) -> None:
        """Wrap ``(N, 4)`` numbers; anything that is not a tensor is placed on the CPU.

        An input without elements, of whatever shape, makes zero boxes.
        """
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)  # reshaping keeps the autograd graph
        assert tensor.dim() == 2 and tensor.size(-1) == 4, (
            f"Boxes need shape (N, 4), got {tuple(tensor.shape)}."
        )
        self.tensor = tensor

    def clone(self) -> Boxes:
        """Copy, with storage of its own."""
        return type(self)(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes:
        """The same boxes on ``device``."""
        return type(self)(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """Areas in square pixels, shape ``(N,)``."""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return size[:, 0] * size[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limit the coordinates to an image of ``(height, width)``.

        ``self.tensor`` is bound to a new tensor; the old one keeps its values.
        """
        assert torch.isfinite(self.tensor).all(), "Box tensor contains infinite or NaN!"
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack([x, y], dim=2).flatten(1)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Boolean ``(N,)``: both sides are strictly longer than ``threshold`` pixels."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Boolean ``(N,)``: inside an image of ``(height, width)``, give or take the threshold.

        The lower borders belong to the image, the upper ones do not.
        """
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        return (
            (x0 >= -boundary_threshold)
            & (y0 >= -boundary_threshold)
            & (x1 < width + boundary_threshold)
            & (y1 < height + boundary_threshold)
        )

    def get_centers(self) -> torch.Tensor:
        """Centres ``(N, 2)`` as (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x and y coordinates, in place on the tensor."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> Boxes:
        """Concatenate into new storage; an empty list makes zero boxes on the CPU."""
        assert isinstance(boxes_list, list | tuple), f"Expected a list, got {type(boxes_list)}."
        if len(boxes_list) == 0:
            return cls(torch.empty(0))
        assert all(isinstance(boxes, Boxes) for boxes in boxes_list), (
            f"Only Boxes can be concatenated, got {[type(boxes).__name__ for boxes in boxes_list]}."
        )
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | list | torch.Tensor) -> Boxes:
        """Select boxes. A Python integer gives one box of shape ``(1, 4)``.

        Results may share storage with this object, as tensor indexing does.
        """
        if isinstance(item, int):
            return type(self)(self.tensor[item].reshape(1, -1))
        selected = self.tensor[item]
        assert selected.dim() == 2, (
            f"Indexing Boxes with {item!r} gives shape {tuple(selected.shape)} instead of a list "
            "of boxes."
        )
        return type(self)(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield each box as a tensor of shape ``(4,)``."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tensor})"


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection areas ``(N, M)`` between all pairs."""
    return _intersection_area(boxes1.tensor[:, None], boxes2.tensor[None])


def _intersection_area(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection areas of boxes ``(..., 4)`` with broadcastable leading dimensions."""
    # Side by side on whole planes: a (..., 2) intermediate would cost twice the memory at once.
    width = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(
        first[..., 0], second[..., 0]
    )
    height = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(
        first[..., 1], second[..., 1]
    )
    return width.clamp(min=0) * height.clamp(min=0)


def _ratio_or_zero(intersection: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """``intersection / denominator``, and 0 wherever nothing intersects (also for 0 / 0)."""
    return torch.where(intersection > 0, intersection / denominator, intersection.new_zeros(()))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union ``(N, M)``; 0 for pairs without intersection."""
    intersection = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area()[None] - intersection
    return _ratio_or_zero(intersection, union)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over the area of the second box ``(N, M)``; 0 without intersection."""
    intersection = pairwise_intersection(boxes1, boxes2)
    return _ratio_or_zero(intersection, boxes2.area()[None])


def pairwise_point_box_distance(points: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """Signed distances from points to box sides.

    Args:
        points: ``(N, 2)``, pixels (x, y).
        boxes: M boxes.

    Returns:
        ``(N, M, 4)``: distance to the left, top, right and bottom side, all positive when the
        point is inside the box.
    """
    centre = points[:, None]
    corners = boxes.tensor[None]
    return torch.cat([centre - corners[..., :2], corners[..., 2:] - centre], dim=2)


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union ``(N,)`` of boxes in matching positions.

    Two boxes without area give NaN: there is no sensible overlap to report.
    """
    assert len(boxes1) == len(boxes2), (
        f"Both box lists must have the same length, got {len(boxes1)} and {len(boxes2)}."
    )
    intersection = _intersection_area(boxes1.tensor, boxes2.tensor)
    return intersection / (boxes1.area() + boxes2.area() - intersection)
